"""A TensorProto in, a NumPy array out. Every size is checked against the bytes that are really there before
anything is allocated; external data is read only from regular files inside the model's own folder.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from petaflop_onnx.reading import fault, printable

__all__ = ["DTYPES", "NARROW", "decode", "dtype_name", "numpy_dtype"]

DTYPES: Mapping[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT16: np.dtype(np.uint16),
    TensorProto.INT16: np.dtype(np.int16),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.BOOL: np.dtype(np.bool_),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.UINT32: np.dtype(np.uint32),
    TensorProto.UINT64: np.dtype(np.uint64),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    TensorProto.FLOAT8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    TensorProto.FLOAT8E5M2: np.dtype(ml_dtypes.float8_e5m2),
}
# types that no kernel has; see narrow.py
NARROW: Mapping[int, np.dtype[Any]] = {
    TensorProto.FLOAT8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    TensorProto.FLOAT8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    TensorProto.UINT4: np.dtype(ml_dtypes.uint4),
    TensorProto.INT4: np.dtype(ml_dtypes.int4),
    TensorProto.FLOAT4E2M1: np.dtype(ml_dtypes.float4_e2m1fn),
    TensorProto.FLOAT8E8M0: np.dtype(ml_dtypes.float8_e8m0fnu),
    TensorProto.UINT2: np.dtype(ml_dtypes.uint2),
    TensorProto.INT2: np.dtype(ml_dtypes.int2),
}
_NARROW_BITS: Mapping[str, int] = {"uint4": 4, "int4": 4, "float4_e2m1fn": 4, "uint2": 2, "int2": 2}
_LIST_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_LIST_OF: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.INT64: "int64_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
_BITS: Mapping[int, np.dtype[Any]] = {  # types whose int32_data holds bit patterns
    TensorProto.FLOAT16: np.dtype(np.uint16),
    TensorProto.BFLOAT16: np.dtype(np.uint16),
    TensorProto.FLOAT8E4M3FN: np.dtype(np.uint8),
    TensorProto.FLOAT8E5M2: np.dtype(np.uint8),
}
_MOST_DIMS = 32
_MOST_ELEMENTS = 1 << 48


def dtype_name(data_type: int) -> str:
    """ONNX's name of an element type: 1 is FLOAT."""
    names: Mapping[int, str] = {number: name for name, number in TensorProto.DataType.items()}
    return names.get(data_type, f"type {data_type}")


def numpy_dtype(path: Path, field: str, data_type: int) -> np.dtype[Any]:
    """The NumPy dtype of an ONNX element type that we support."""
    dtype = DTYPES.get(data_type) or NARROW.get(data_type)
    if dtype is None:
        supported = ", ".join(dtype_name(number) for number in (*DTYPES, *NARROW))
        raise fault(path, field, f"expected an element type among {supported}, got {dtype_name(data_type)}")
    return dtype


def decode(tensor: TensorProto, path: Path, field: str) -> np.ndarray[Any, Any]:
    """The values of a tensor; a read-only view of the file's bytes where they are raw."""
    if tensor.data_type == TensorProto.STRING:
        return _texts(tensor, path, field)
    dtype = numpy_dtype(path, f"{field}.data_type", tensor.data_type)
    dims = tuple(tensor.dims)
    if any(size < 0 for size in dims) or len(dims) > _MOST_DIMS:
        raise fault(
            path, f"{field}.dims", f"expected at most {_MOST_DIMS} sizes of 0 or more, got {list(dims)}"
        )
    if math.prod(max(size, 1) for size in dims) >= _MOST_ELEMENTS:
        raise fault(path, f"{field}.dims", f"expected fewer than 2^48 elements, got {list(dims)}")
    if tensor.HasField("segment"):
        raise fault(path, f"{field}.segment", "expected a whole tensor, got a segment (not supported)")
    count = math.prod(dims)
    filled = [name for name in _LIST_FIELDS if len(getattr(tensor, name))]
    external = tensor.data_location == TensorProto.EXTERNAL
    if len(filled) + tensor.HasField("raw_data") + external > 1:
        kinds = filled + ["raw_data"] * tensor.HasField("raw_data") + ["external_data"] * external
        raise fault(path, field, f"expected one kind of data, got {' and '.join(kinds)}")
    if tensor.data_type in NARROW:
        flat = _packed(tensor, path, field, dtype, count, external, filled)
    elif external:
        flat = _external(tensor, path, field, dtype, count)
    elif filled:
        flat = _from_list(tensor, path, field, dtype, filled[0], count)
    else:
        flat = _from_raw(tensor.raw_data, path, f"{field}.raw_data", dtype, dims)
    return flat.reshape(dims)


def _packed(
    tensor: TensorProto,
    path: Path,
    field: str,
    dtype: np.dtype[Any],
    count: int,
    external: bool,
    filled: list[str],
) -> np.ndarray[Any, Any]:
    """Elements of 2, 4 or 8 bits, the first in the lowest bits of a byte."""
    bits = _NARROW_BITS.get(dtype.name, 8)
    size = -(-count * bits // 8)
    whole = np.dtype(np.uint8)
    if external:
        raw = _external(tensor, path, field, whole, size)
    elif filled:
        raw = _from_list(tensor, path, field, whole, filled[0], size)
    else:
        raw = _from_raw(tensor.raw_data, path, f"{field}.raw_data", whole, (size,))
    if bits == 8:
        return raw.view(dtype)
    parts = raw[:, None] >> np.arange(0, 8, bits, dtype=np.uint8) & ((1 << bits) - 1)
    flat = parts.reshape(-1)[:count]
    if dtype.name.startswith("int"):
        half = 1 << (bits - 1)
        return ((flat.astype(np.int8) ^ half) - half).astype(dtype)
    return flat.view(dtype) if dtype.name.startswith("float") else flat.astype(dtype)


def _texts(tensor: TensorProto, path: Path, field: str) -> np.ndarray[Any, Any]:
    """Text as an array of Python's strings."""
    dims, count = tuple(tensor.dims), len(tensor.string_data)
    if tensor.data_location == TensorProto.EXTERNAL or tensor.HasField("raw_data"):
        raise fault(path, field, "expected text in string_data, got other data")
    if any(size < 0 for size in dims) or len(dims) > _MOST_DIMS or math.prod(dims) != count:
        raise fault(path, f"{field}.string_data", f"expected texts for dims {list(dims)}, got {count}")
    array = np.empty(count, object)
    array[:] = [value.decode("utf-8", "replace") for value in tensor.string_data]
    return array.reshape(dims)


def _from_raw(
    raw: bytes, path: Path, field: str, dtype: np.dtype[Any], dims: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    expected = math.prod(dims) * dtype.itemsize
    if len(raw) != expected:
        raise fault(path, field, f"expected {expected} bytes for {dtype}{list(dims)}, got {len(raw)}")
    if dtype == np.bool_:
        return np.frombuffer(raw, np.uint8) != 0
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False)


def _from_list(
    tensor: TensorProto, path: Path, field: str, dtype: np.dtype[Any], name: str, count: int
) -> np.ndarray[Any, Any]:
    expected = _LIST_OF.get(tensor.data_type, "int32_data")
    values = getattr(tensor, name)
    if name != expected:
        raise fault(path, field, f"expected {dtype_name(tensor.data_type)} in {expected}, got {name}")
    if len(values) != count:
        raise fault(
            path,
            f"{field}.{name}",
            f"expected {count} values for dims {list(tensor.dims)}, got {len(values)}",
        )
    wide = np.asarray(values)
    narrow = wide.astype(_BITS.get(tensor.data_type, dtype))
    if wide.dtype.kind in "iu" and not np.array_equal(narrow, wide):
        raise fault(path, f"{field}.{name}", f"expected values that fit {dtype}, got some that do not")
    return narrow.view(dtype)


# ---- external data ----

_KEYS = frozenset(("location", "offset", "length", "checksum"))


def _external(
    tensor: TensorProto, path: Path, field: str, dtype: np.dtype[Any], count: int
) -> np.ndarray[Any, Any]:
    field = f"{field}.external_data"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if "location" not in entries or not set(entries) <= _KEYS:
        raise fault(
            path, field, f"expected location, offset and length, got {sorted(map(printable, entries))}"
        )
    expected = count * dtype.itemsize
    offset = _number(entries.get("offset", "0"), path, f"{field}.offset")
    length = _number(entries.get("length", str(expected)), path, f"{field}.length")
    if length != expected:
        raise fault(
            path, f"{field}.length", f"expected {expected} for dims {list(tensor.dims)}, got {length}"
        )
    handle = _open_beside(path, entries["location"], f"{field}.location")
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise fault(path, f"{field}.location", "expected a regular file, got something else")
        if offset + length > status.st_size:
            raise fault(path, field, f"expected {offset + length} bytes, got a file of {status.st_size}")
        if count == 0:
            return np.empty(0, dtype)
        if dtype == np.bool_:
            return np.memmap(file, np.uint8, "r", offset, (count,)) != 0
        return np.memmap(file, dtype.newbyteorder("<"), "r", offset, (count,)).astype(dtype, copy=False)


def _number(text: str, path: Path, field: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise fault(path, field, f"expected a number of bytes, got {text!r}")
    return int(text)


def _open_beside(path: Path, location: str, field: str) -> int:
    """Open a file inside the model's folder; no part of the path may leave it or be a link."""
    parts = location.split("/")
    if not location or "\0" in location or "\\" in location or os.path.isabs(location):
        raise fault(path, field, f"expected a path inside the model's folder, got {location!r}")
    if any(part in ("", ".", "..") for part in parts):
        raise fault(path, field, f"expected a plain relative path, got {location!r}")
    target = path.parent
    for part in parts:
        target = target / part
        if target.is_symlink():
            raise fault(path, field, f"expected no symbolic link, got {location!r}")
    try:
        return os.open(target, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise fault(path, field, f"expected a readable file, got {error.strerror} for {location!r}") from None
