"""The disk cache of compiled kernels: a key gives a binary and the JSON of its signature, or nothing.

Any number of processes may share a folder: entries appear whole, by renaming, and carry a checksum over
key and contents, so that a truncated, damaged or foreign file is a miss and is written again. A folder that
cannot be written costs one warning. No pickle; nothing is trusted before its checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from petaflop.config import config

__all__ = ["DiskCache"]

_MAGIC = b"pfkernel"
_HEADER = struct.Struct("<8sQQ32s")  # magic, length of the signature, length of the binary, checksum
_SUFFIX = ".kernel"
_TEMPORARY = ".part"
_PUTS_PER_CHECK = 64  # how often a process looks at the size of the folder
_STALE_SECONDS = 3600  # a temporary file this old was left by a process that died
_TOUCH_SECONDS = 600  # accesses closer together than this are one

_warned: set[str] = set()
_puts: dict[str, int] = {}


class DiskCache:
    """`get(key)` and `put(key, binary, signature)` on a folder of files.

    Entries go, least recently used first, when the folder holds more than `limit` bytes (PETAFLOP_CACHE_MB).

    >>> import tempfile
    >>> cache = DiskCache(tempfile.mkdtemp())
    >>> cache.put("key", b"binary", "{}")
    >>> cache.get("key"), cache.get("other")
    ((b'binary', '{}'), None)
    """

    def __init__(self, root: str | Path, limit: int | None = None) -> None:
        self.root = Path(root)
        self.limit = config.cache_mb << 20 if limit is None else limit

    def get(self, key: str) -> tuple[bytes, str] | None:
        """The binary and the signature, or None where there is no whole entry."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                data = file.read()
                status = os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("read", error)
            return None
        if not _is_ours(status):
            self._warn("trust", PermissionError(f"{path} belongs to somebody else"))
            return None
        if time.time() - status.st_mtime > _TOUCH_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(path)
        return _decode(key, data)

    def put(self, key: str, binary: bytes, signature: str) -> None:
        """Keep an entry; one warning a process, and no failure, where that is impossible."""
        path = self._path(key)
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(suffix=_TEMPORARY, dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(_encode(key, binary, signature))
            os.replace(temporary, path)
            self._check_size()
        except OSError as error:
            self._warn("write", error)
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.root / name[:2] / f"{name[2:]}{_SUFFIX}"

    def _warn(self, verb: str, error: OSError) -> None:
        if str(self.root) not in _warned:
            _warned.add(str(self.root))
            warnings.warn(
                f"cache: expected to {verb} {self.root}, got {error}; kernels are compiled anew. Set "
                "PETAFLOP_CACHE_DIR to another folder, or PETAFLOP_CACHE=0",
                RuntimeWarning,
                stacklevel=4,
            )

    # ---- size ----

    def _check_size(self) -> None:
        count = _puts[str(self.root)] = _puts.get(str(self.root), -1) + 1
        if count % _PUTS_PER_CHECK == 0:
            self.evict()

    def evict(self) -> None:
        """Drop the least recently used entries until nine tenths of the limit hold the rest."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        if total <= self.limit:
            return
        for _, size, path in entries:
            if total <= self.limit * 0.9:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size

    def _entries(self) -> Iterator[tuple[float, int, str]]:
        """(last access, size, path) of each entry; clears away what dead processes left."""
        with contextlib.suppress(OSError):
            for folder in os.scandir(self.root):
                if folder.is_dir(follow_symlinks=False):
                    yield from _files(folder.path)


def _files(folder: str) -> Iterator[tuple[float, int, str]]:
    with contextlib.suppress(OSError):
        for file in os.scandir(folder):
            with contextlib.suppress(OSError):
                status = file.stat(follow_symlinks=False)
                if file.name.endswith(_SUFFIX):
                    yield status.st_mtime, status.st_size, file.path
                elif file.name.endswith(_TEMPORARY) and time.time() - status.st_mtime > _STALE_SECONDS:
                    os.unlink(file.path)


def _is_ours(status: os.stat_result) -> bool:
    """Whether only this user (or root) can have written the file: what it holds will be run."""
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid in (os.getuid(), 0) and not status.st_mode & 0o002


# ---- format ----


def _checksum(key: str, signature: bytes, binary: bytes) -> bytes:
    digest = hashlib.sha256(struct.pack("<QQ", len(key.encode()), len(signature)))
    for part in (key.encode(), signature, binary):
        digest.update(part)
    return digest.digest()


def _encode(key: str, binary: bytes, signature: str) -> bytes:
    text = signature.encode()
    return _HEADER.pack(_MAGIC, len(text), len(binary), _checksum(key, text, binary)) + text + binary


def _decode(key: str, data: bytes) -> tuple[bytes, str] | None:
    if len(data) < _HEADER.size:
        return None
    magic, text_size, binary_size, checksum = _HEADER.unpack_from(data)
    if magic != _MAGIC or len(data) != _HEADER.size + text_size + binary_size:
        return None
    text, binary = data[_HEADER.size : _HEADER.size + text_size], data[_HEADER.size + text_size :]
    return (binary, text.decode()) if _checksum(key, text, binary) == checksum else None
