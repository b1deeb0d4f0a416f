"""The exception tree. Every error that petaflop raises on purpose is a PetaflopError and also the type that
PyTorch or Python raises for the same mistake, so both `except` styles work. A note names the user's own line.

PetaflopError
├── ShapeError (RuntimeError)        shapes, axes or sizes that do not fit
├── DTypeError (RuntimeError, TypeError)       a dtype an operation cannot take: PyTorch raises either
├── ArgumentError (ValueError, RuntimeError)   any other argument out of range: PyTorch raises either
├── ArgumentTypeError (TypeError)    an argument of the wrong type
├── IndexRangeError (IndexError)     an index or axis out of range
├── GradientError (RuntimeError)     no gradient, or a value that backward needs is gone
├── JitError (RuntimeError)          something a capture cannot hold
├── DeviceError (RuntimeError)       a device that is absent, failed or ran out of memory
│   ├── DeviceMemoryError (MemoryError)
│   └── CompileError                 a kernel that the backend's compiler refused
├── PluginError (RuntimeError)       a plugin that is missing, broken, incompatible or ambiguous
├── NumericsError (ArithmeticError)  PETAFLOP_CHECK found a NaN
└── FileFormatError (ValueError)     a file that is not what it claims to be
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import threading
from collections.abc import Iterator

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CompileError",
    "DTypeError",
    "DeviceError",
    "DeviceMemoryError",
    "FileFormatError",
    "GradientError",
    "IndexRangeError",
    "JitError",
    "NumericsError",
    "PetaflopError",
    "PluginError",
    "ShapeError",
    "building",
    "origin",
    "user_line",
]


class _Building(threading.local):
    what = ""


_building = _Building()


@contextlib.contextmanager
def building(what: str) -> Iterator[None]:
    """A block that builds what a file asks for, such as a node of a model: `origin()` is then `what`.

    >>> with building("node 'conv1' (Conv-11)"):
    ...     origin()
    "node 'conv1' (Conv-11)"
    """
    before, _building.what = _building.what, what
    try:
        yield
    finally:
        _building.what = before


def origin() -> str:
    """What is being built, or else the user's line."""
    return _building.what or user_line()


def user_line() -> str:
    """`file:line: source` of the innermost frame outside petaflop, its plugins and Python's own library; ""
    where there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package.partition("_")[0] != "petaflop" and package not in sys.stdlib_module_names:
            path, line = frame.f_code.co_filename, frame.f_lineno
            return f"{path}:{line}: {linecache.getline(path, line).strip()}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


class PetaflopError(Exception):
    """The root of all errors that petaflop raises on purpose; made with a note of the user's line."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if line := user_line():
            self.add_note(f"at {line}")


class ShapeError(PetaflopError, RuntimeError):
    """Shapes, axes or sizes that do not fit together."""


class DTypeError(PetaflopError, RuntimeError, TypeError):
    """A dtype that an operation cannot take, or that does not exist."""


class ArgumentError(PetaflopError, ValueError, RuntimeError):
    """An argument whose value an operation cannot take."""


class ArgumentTypeError(PetaflopError, TypeError):
    """An argument of a type that an operation cannot take."""


class IndexRangeError(PetaflopError, IndexError):
    """An index or an axis that is out of range."""


class GradientError(PetaflopError, RuntimeError):
    """A gradient that does not exist, or whose inputs were overwritten."""


class JitError(PetaflopError, RuntimeError):
    """Something that a captured function cannot hold."""


class DeviceError(PetaflopError, RuntimeError):
    """A device that is absent, that failed, or that was asked for what it cannot do."""


class DeviceMemoryError(DeviceError, MemoryError):
    """A device that ran out of memory."""


class CompileError(DeviceError):
    """A kernel that a backend's compiler refused; the source is in the message."""


class PluginError(PetaflopError, RuntimeError):
    """A plugin that is missing, broken, incompatible, disabled or offered twice."""


class NumericsError(PetaflopError, ArithmeticError):
    """A kernel made a NaN while PETAFLOP_CHECK=nan was set."""


class FileFormatError(PetaflopError, ValueError):
    """A file that is empty, truncated, hostile or not of the format that it claims."""
