"""Between Python and NumPy values and host arrays of a dtype that petaflop has."""

from __future__ import annotations

from typing import Any

import numpy as np

from petaflop.dtype import DType, bool_, default_float, default_int, from_numpy_dtype, int32
from petaflop.errors import ArgumentError, ArgumentTypeError, DTypeError
from petaflop.tensor.fault import fault

__all__ = ["SharedMemory", "host_array", "python_dtype"]


def python_dtype(value: bool | float) -> DType:
    """The default dtype of a Python number: bool, int32 or float32."""
    if isinstance(value, bool):
        return bool_
    return default_int if isinstance(value, int) else default_float


def _from_python(data: Any) -> np.ndarray[Any, Any]:
    """An array of nested lists: Python floats become float32, ints int32 (int64 where they need it)."""
    try:
        array = np.array(data)
    except ValueError:
        raise fault(ArgumentError, f"Tensor: expected rows of one length, got {_short(data)}") from None
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


def host_array(data: Any, dtype: DType | None) -> np.ndarray[Any, Any]:
    """`data` as an array of native byte order whose dtype petaflop has; cast to `dtype` if one is given."""
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data)
    elif isinstance(data, (bytes, bytearray, memoryview)) or hasattr(data, "__array__"):
        array = np.asarray(memoryview(data) if isinstance(data, (bytes, bytearray)) else data)
    elif isinstance(data, range):
        array = _from_python(list(data))
    elif isinstance(data, (list, tuple, bool, int, float)):
        array = _from_python(data)
    else:
        raise fault(
            ArgumentTypeError, f"Tensor: expected numbers, lists or an array, got {type(data).__name__}"
        )
    if array.size == 0 and isinstance(data, (list, tuple)):
        array = array.astype(np.float32)
    if array.dtype.kind in "OSUcmM":
        raise fault(DTypeError, f"Tensor: expected numbers, got {array.dtype.name} in {_short(data)}")
    if dtype is None:
        dtype = from_numpy_dtype(array.dtype)
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(array, dtype.numpy).reshape(array.shape)


class SharedMemory:
    """What keeps a device buffer alive below a NumPy array that looks into it."""

    def __init__(self, buffer: Any, view: memoryview, writable: bool) -> None:
        self._buffer = buffer
        bytes_ = np.frombuffer(view, np.uint8)
        interface = dict(bytes_.__array_interface__)
        interface["data"] = (interface["data"][0], not writable)
        self.__array_interface__ = interface

    def array(self, dtype: DType, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.asarray(self).view(dtype.numpy).reshape(shape)
