"""Files of the command line: checked before anything is allocated, replaced whole or not at all."""

from __future__ import annotations

import math
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.lib import format as npy

from petaflop.dtype import DType, to_dtype
from petaflop.errors import ArgumentError, DTypeError, FileFormatError
from petaflop.replacing import replaceable, replacing

__all__ = ["NpyFile", "check_names", "check_writable", "existing_file", "write_atomically", "write_npz"]

Array = np.ndarray[Any, Any]
_MOST_AXES = 32  # as many as any NumPy takes
_MOST_BYTES = (1 << 63) - 1
_MOST_NAME = 1 << 15


def existing_file(path: Path) -> Path:
    """The path, if it names a regular file that can be read; FileFormatError otherwise."""
    try:
        mode = os.stat(path).st_mode  # before it is opened: opening a pipe would wait for its writer
        if stat.S_ISREG(mode):
            path.open("rb").close()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise FileFormatError(f"{path}: expected a file to read, got: {reason}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise FileFormatError(f"{path}: expected a regular file, got {kind}")
    return path


def check_writable(path: Path, option: str) -> None:
    """ArgumentError unless `option`'s file can be made, or replaced; leaves nothing behind."""
    try:
        target = replaceable(path, option)
        if not target.parent.is_dir():
            raise ArgumentError(f"{option}: expected a file in a folder that exists, got {str(path)!r}")
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArgumentError(
            f"{option}: expected a folder to write in, got {str(path)!r}: {reason}"
        ) from error


@dataclass(frozen=True, slots=True)
class NpyFile:
    """The header of a .npy file, checked against the file's size; `read` then gets the array."""

    path: Path
    dtype: DType
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    fortran: bool
    offset: int

    @staticmethod
    def open(path: Path, expected: DType | None = None) -> NpyFile:
        """Read the header; NumPy stores bfloat16 and float8 as voids, which are then what `expected` says."""
        with existing_file(path).open("rb") as file:
            shape, fortran, stored = _header(path, file)
            offset = file.tell()
            size = os.fstat(file.fileno()).st_size
        dtype = _dtype(path, stored, expected)
        needed = offset + stored.itemsize * _count(path, shape, stored.itemsize)
        if size != needed:
            wanted = f"{needed} bytes for {dtype}{list(shape)}"
            raise FileFormatError(f"{path}: size: expected {wanted}, got {size}")
        return NpyFile(path, dtype, shape, stored, fortran, offset)

    def read(self) -> Array:
        """The array, in this machine's byte order."""
        values: Array = np.fromfile(self.path, self.stored, offset=self.offset)
        if values.size != math.prod(self.shape):
            raise FileFormatError(f"{self.path}: size: the file changed while it was read")
        if self.stored.kind == "V":
            values = values.view(self.dtype.numpy)
        else:
            values = values.astype(self.dtype.numpy, copy=False)  # the byte order may be foreign
        return values.reshape(self.shape[::-1]).T if self.fortran else values.reshape(self.shape)


_READERS: dict[tuple[int, int], Callable[[BinaryIO], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def _header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(file)
        if version not in _READERS:
            raise FileFormatError(f"{path}: version: expected 1.0 or 2.0, got {version[0]}.{version[1]}")
        shape, fortran, dtype = _READERS[version](file)
    except FileFormatError:
        raise
    except Exception as error:  # NumPy's parser raises many types on a hostile header
        reason = str(error).partition("\n")[0]
        raise FileFormatError(f"{path}: header: expected a NumPy .npy file, got: {reason}") from error
    if dtype.hasobject:
        raise FileFormatError(f"{path}: dtype: expected numbers, got pickled objects, which are never loaded")
    if len(shape) > _MOST_AXES or any(
        type(size) is not int or not 0 <= size <= _MOST_BYTES for size in shape
    ):
        raise FileFormatError(
            f"{path}: shape: expected at most {_MOST_AXES} sizes of 0 or more that can exist"
        )
    return shape, fortran, dtype


def _dtype(path: Path, stored: np.dtype[Any], expected: DType | None) -> DType:
    is_plain_void = stored.kind == "V" and stored.names is None and stored.subdtype is None
    if is_plain_void and expected is not None and expected.numpy.kind == "V":
        return expected if expected.itemsize == stored.itemsize else _reject(path, stored)
    try:
        return to_dtype(stored)
    except DTypeError:
        return _reject(path, stored)


def _reject(path: Path, stored: np.dtype[Any]) -> NoReturn:
    raise FileFormatError(f"{path}: dtype: expected numbers, got NumPy's {stored}")


def _count(path: Path, shape: tuple[int, ...], itemsize: int) -> int:
    """The elements; NumPy cannot address more than 2^63 bytes, nor so many beside a size of 0."""
    if math.prod(max(size, 1) for size in shape) * itemsize > _MOST_BYTES:
        raise FileFormatError(f"{path}: shape: expected fewer elements, got {list(shape)}")
    return math.prod(shape)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, or leave `path` as it is."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def check_names(path: Path, names: Iterable[str]) -> None:
    """ArgumentError unless the names can be those of files in an archive."""
    for name in names:
        outside = name.startswith(("/", "\\")) or ".." in Path(name).parts
        if outside or not 0 < len(name.encode()) <= _MOST_NAME or not name.isprintable():
            shown = repr(name if len(name) <= 80 else f"{name[:80]}…")
            raise ArgumentError(f"{path}: expected output names that a zip file can hold, got {shown}")


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Arrays by name, as `numpy.load` reads them; bfloat16 and float8 come back as voids of their size."""
    check_names(path, arrays)

    with (
        replacing(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                npy.write_array(entry, np.asanyarray(array), allow_pickle=False)
