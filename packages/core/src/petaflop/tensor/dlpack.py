"""DLPack for host arrays, with bfloat16 and float8, which NumPy's own does not know.

NumPy makes and takes the capsules, of integers of the same size; here only the dtype in them is rewritten, in
place. So lifetimes, versions, strides and read-only memory are NumPy's business, and nothing is copied.
"""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np

from petaflop.errors import ArgumentError, DTypeError

__all__ = ["from_capsule", "to_capsule"]

_HOST = (1, 3, 11)  # host memory, also such as CUDA or ROCm have pinned
_UNSIGNED = 1
# what NumPy has no DLPack code for: (code, bits) as the header of DLPack 1.1 numbers them
_NARROW: dict[tuple[int, int], np.dtype[Any]] = {
    (4, 16): np.dtype(ml_dtypes.bfloat16),
    (10, 8): np.dtype(ml_dtypes.float8_e4m3fn),
    (12, 8): np.dtype(ml_dtypes.float8_e5m2),
}
_CODES = {dtype: code for (code, _), dtype in _NARROW.items()}
_KNOWN = 6  # the codes up to this one are NumPy's

_check, _pointer = ctypes.pythonapi.PyCapsule_IsValid, ctypes.pythonapi.PyCapsule_GetPointer
_check.argtypes, _check.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_int
_pointer.argtypes, _pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p


class _DLTensor(ctypes.Structure):
    """Its beginning: the dtype is all that is asked."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("axes", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


class _Versioned(ctypes.Structure):
    """What a capsule of version 1 points to."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    )


def _tensor_in(capsule: Any) -> _DLTensor:
    if _check(capsule, b"dltensor_versioned"):
        versioned: _DLTensor = _Versioned.from_address(_pointer(capsule, b"dltensor_versioned")).tensor
        return versioned
    return _DLTensor.from_address(_pointer(capsule, b"dltensor"))


def to_capsule(array: np.ndarray[Any, Any], options: dict[str, Any]) -> Any:
    """The memory of an array as a capsule; `options` are the arguments of `__dlpack__`."""
    code = _CODES.get(array.dtype)
    if code is None:
        return array.__dlpack__(**options)
    capsule = array.view(f"u{array.itemsize}").__dlpack__(**options)
    _tensor_in(capsule).code = code
    return capsule


class _Producer:
    """Hands on one capsule, as NumPy's from_dlpack wants it."""

    def __init__(self, capsule: Any, device: tuple[int, int]) -> None:
        self.capsule, self.device = capsule, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def from_capsule(name: str, source: Any) -> np.ndarray[Any, Any]:
    """An array over the memory of anything with `__dlpack__`, which it keeps alive.

    ArgumentError for memory that the host cannot read or that the source does not share (torch: of a tensor
    that requires grad), DTypeError for a dtype that petaflop has not.
    """
    device = source.__dlpack_device__()
    if device[0] not in _HOST:
        raise ArgumentError(
            f"{name}: expected host memory, got device {tuple(map(int, device))}; copy it first"
        )
    try:
        try:
            capsule = source.__dlpack__(max_version=(1, 0))
        except TypeError:  # from before versions
            capsule = source.__dlpack__()
    except BufferError as error:  # torch, of a tensor that requires grad: its message says what to do
        raise ArgumentError(f"{name}: expected memory to share, got: {error}") from error
    tensor = _tensor_in(capsule)
    kind = (tensor.code, tensor.bits)
    narrow = _NARROW.get(kind) if tensor.lanes == 1 else None
    if narrow is not None:
        tensor.code = _UNSIGNED
    elif tensor.code > _KNOWN or tensor.code in (3, 4) or tensor.lanes != 1:
        raise DTypeError(
            f"{name}: expected a dtype that petaflop has, got {getattr(source, 'dtype', kind)}; cast it first"
        )
    array = np.from_dlpack(_Producer(capsule, (1, 0)))
    return array if narrow is None else array.view(narrow)
