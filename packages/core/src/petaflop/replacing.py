"""Writing a file whole or not at all: a temporary beside it takes its place once it is complete.

Only a regular file is ever replaced: through links the file that they name, never a device, pipe or socket.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from petaflop.errors import ArgumentError

__all__ = ["replaceable", "replacing"]


def replaceable(path: str | os.PathLike[str], subject: str = "") -> Path:
    """The file that a path means, links resolved; ArgumentError, which begins with `subject`, if something
    stands there that is no regular file."""
    try:
        target = Path(os.path.realpath(path))
        mode = os.stat(target).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return target
    except ValueError as error:  # a NUL in the name
        raise ArgumentError(f"{subject or 'path'}: expected a file to write, got {str(path)!r}") from error
    if stat.S_ISREG(mode):
        return target
    kind = "the folder" if stat.S_ISDIR(mode) else "the device, pipe or socket"
    raise ArgumentError(f"{subject or target}: expected a regular file to write, got {kind} {str(path)!r}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file to fill in the block, which then replaces `path`; on any error `path` is as before.

    The permissions are those of the file that is replaced, else those of a new file. OSError names `path`.
    """
    target = replaceable(path)
    partial = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        os.close(handle)
        partial = Path(name)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(partial, _mode(target))
        os.replace(partial, target)
    except BaseException as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # it names the temporary file, which means nothing to the user
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _mode(target: Path) -> int:
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
