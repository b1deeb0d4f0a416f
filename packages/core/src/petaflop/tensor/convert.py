"""Between Python and NumPy values and host arrays of a dtype that petaflop has."""

from __future__ import annotations

from typing import Any

import numpy as np

from petaflop.dtype import DType, bool_, default_float, default_int, from_numpy_dtype, int32, int64, uint64
from petaflop.errors import ArgumentError, ArgumentTypeError, DTypeError
from petaflop.tensor.dlpack import from_capsule

__all__ = ["buffer_of", "check_fits", "host_array", "python_dtype"]


def python_dtype(value: bool | float) -> DType:
    """The default dtype of a Python number: bool, int32 (a wider one where it needs that) or float32."""
    if isinstance(value, bool):
        return bool_
    if not isinstance(value, int):
        return default_float
    for dtype in (default_int, int64, uint64):
        if dtype.min <= value <= dtype.max:
            return dtype
    raise DTypeError(f"Tensor: expected an integer of at most 64 bits, got {_short(value)}")


def check_fits(name: str, value: bool | float, dtype: DType) -> None:
    """RuntimeError for an integer that `dtype` cannot hold; as in PyTorch, -1 fits unsigned ones."""
    least = -dtype.max if dtype.kind == "u" else dtype.min
    if (
        isinstance(value, int)
        and not dtype.is_float
        and dtype is not bool_
        and not least <= value <= dtype.max
    ):
        raise DTypeError(f"{name}: expected a value that fits {dtype}, got {_short(value)}")


def _from_python(data: Any) -> np.ndarray[Any, Any]:
    """An array of nested lists: Python floats become float32, ints int32 (int64 where they need it)."""
    try:
        array = np.array(data)
    except ValueError:
        raise ArgumentError(f"Tensor: expected rows of one length, got {_short(data)}") from None
    if array.dtype == np.float64 and not _holds_numpy(data):
        return array.astype(np.float32)
    if array.dtype == np.int64 and not _holds_numpy(data):
        fits = array.size == 0 or (int32.min <= array.min() and array.max() <= int32.max)
        return array.astype(np.int32) if fits else array
    return array


def _holds_numpy(data: Any) -> bool:
    """Whether the first element of nested lists is a NumPy value, whose dtype then counts."""
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return isinstance(data, (np.ndarray, np.generic))


def _short(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."


def buffer_of(name: str, data: Any) -> memoryview:
    """The memory of bytes, bytearray, array.array and whatever else has a buffer."""
    try:
        return memoryview(data)
    except TypeError:
        wanted = "numbers, lists, arrays or a buffer"
        raise ArgumentTypeError(f"{name}: expected {wanted}, got {type(data).__name__}") from None


def host_array(data: Any, dtype: DType | None) -> np.ndarray[Any, Any]:
    """`data` as an array of native byte order whose dtype petaflop has; cast to `dtype` if one is given."""
    if hasattr(data, "__array__"):
        try:
            array = np.asarray(data)
        except TypeError:  # torch: NumPy has no dtype for it
            if not hasattr(data, "__dlpack__"):
                raise
            array = from_capsule("Tensor", data)
    elif isinstance(data, range):
        array = _from_python(list(data))
    elif isinstance(data, (list, tuple, bool, int, float)):
        array = _from_python(data)
    else:
        array = np.asarray(buffer_of("Tensor", data))
    if array.size == 0 and isinstance(data, (list, tuple)):
        array = array.astype(np.float32)
    if array.dtype.kind in "OSUcmM" or array.dtype.fields:
        raise DTypeError(f"Tensor: expected numbers, got {array.dtype.name} in {_short(data)}")
    own = from_numpy_dtype(array.dtype)
    if dtype is not None and dtype is not own:
        if isinstance(data, (list, tuple, range)) and array.size and array.dtype.kind in "iu":
            check_fits("Tensor", int(array.min()), dtype)
            check_fits("Tensor", int(array.max()), dtype)
        from petaflop.device.reference import cast_array  # here, so that importing petaflop stays quick

        with np.errstate(all="ignore"):
            array = cast_array(array.astype(own.numpy), dtype)
    return np.ascontiguousarray(array, (dtype or own).numpy).reshape(array.shape)
