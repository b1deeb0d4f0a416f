"""Data types and PyTorch's promotion rules.

A `DType` is a name, a kind, a size and the NumPy dtype that holds it on the host. bfloat16 and float8 live in
NumPy through `ml_dtypes`, whose rule for what is too large is ours: infinity for float8_e5m2, NaN for
float8_e4m3 (e4m3fn), which has no infinity. (PyTorch saturates the latter to 448: clamp first for that.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from petaflop.errors import DTypeError

__all__ = [
    "DTYPES",
    "DType",
    "bfloat16",
    "bool_",
    "default_float",
    "default_int",
    "float8_e4m3",
    "float8_e5m2",
    "float16",
    "float32",
    "float64",
    "from_numpy_dtype",
    "index",
    "int8",
    "int16",
    "int32",
    "int64",
    "promote",
    "to_dtype",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """One element type. `kind` is `b` (bool), `u`, `i` or `f`; compared by identity, since each exists
    once."""

    name: str
    kind: str
    itemsize: int
    numpy: np.dtype[Any]
    mantissa: int = 0  # stored bits of the significand; 0 for what is not a float

    def __repr__(self) -> str:
        return f"petaflop.{self.name}"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> str | tuple[Any, ...]:
        return (to_dtype, (self.name,))

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_signed(self) -> bool:
        return self.kind in "if"

    @property
    def bits(self) -> int:
        return self.itemsize * 8

    @property
    def min(self) -> Any:
        """The least value: -inf for floats that have infinities, as the identity of a maximum."""
        if self.kind == "f":
            return float(ml_dtypes.finfo(self.numpy).min) if self is float8_e4m3 else float("-inf")
        return 0 if self.kind in "bu" else -(1 << (self.bits - 1))

    @property
    def max(self) -> Any:
        """The greatest value: inf for floats that have infinities."""
        if self.kind == "f":
            return float(ml_dtypes.finfo(self.numpy).max) if self is float8_e4m3 else float("inf")
        return 1 if self.kind == "b" else (1 << (self.bits - (self.kind == "i"))) - 1


bool_ = DType("bool", "b", 1, np.dtype(np.bool_))
int8 = DType("int8", "i", 1, np.dtype(np.int8))
int16 = DType("int16", "i", 2, np.dtype(np.int16))
int32 = DType("int32", "i", 4, np.dtype(np.int32))
int64 = DType("int64", "i", 8, np.dtype(np.int64))
uint8 = DType("uint8", "u", 1, np.dtype(np.uint8))
uint16 = DType("uint16", "u", 2, np.dtype(np.uint16))
uint32 = DType("uint32", "u", 4, np.dtype(np.uint32))
uint64 = DType("uint64", "u", 8, np.dtype(np.uint64))
float16 = DType("float16", "f", 2, np.dtype(np.float16), 10)
bfloat16 = DType("bfloat16", "f", 2, np.dtype(ml_dtypes.bfloat16), 7)
float32 = DType("float32", "f", 4, np.dtype(np.float32), 23)
float64 = DType("float64", "f", 8, np.dtype(np.float64), 52)
float8_e4m3 = DType("float8_e4m3", "f", 1, np.dtype(ml_dtypes.float8_e4m3fn), 3)
float8_e5m2 = DType("float8_e5m2", "f", 1, np.dtype(ml_dtypes.float8_e5m2), 2)

DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        bool_,
        uint8,
        int8,
        uint16,
        int16,
        uint32,
        int32,
        uint64,
        int64,
        float8_e4m3,
        float8_e5m2,
        float16,
        bfloat16,
        float32,
        float64,
    )
}
_ALIASES = {"half": float16, "float": float32, "double": float64, "int": int32, "long": int64, "short": int16}
_ALIASES |= {"char": int8, "byte": uint8, "float8_e4m3fn": float8_e4m3, "bool_": bool_}
_BY_NUMPY = {dtype.numpy: dtype for dtype in DTYPES.values()}
_BY_PYTHON: dict[type, DType] = {bool: bool_, int: int32, float: float32}

default_int = int32
default_float = float32


def from_numpy_dtype(numpy_dtype: np.dtype[Any]) -> DType:
    """The DType that a NumPy dtype maps to; byte order is ignored."""
    try:
        return _BY_NUMPY[numpy_dtype.newbyteorder("=")]
    except KeyError:
        raise DTypeError(f"dtype: expected one of {', '.join(DTYPES)}, got NumPy's {numpy_dtype}") from None


def to_dtype(value: DType | str | type | np.dtype[Any]) -> DType:
    """A DType from a DType, a name such as `"float16"`, a Python type or anything NumPy takes for a dtype."""
    if isinstance(value, DType):
        return value
    if isinstance(value, str):
        name = value.removeprefix("petaflop.").removeprefix("torch.")
        if (found := DTYPES.get(name) or _ALIASES.get(name)) is not None:
            return found
        raise DTypeError(f"dtype: expected one of {', '.join(DTYPES)}, got {value!r}")
    if isinstance(value, type) and value in _BY_PYTHON:
        return _BY_PYTHON[value]
    try:
        if value is None:  # to NumPy that is float64
            raise TypeError
        return from_numpy_dtype(np.dtype(value))
    except TypeError:
        raise DTypeError(f"dtype: expected a dtype or its name, got {value!r}") from None


def _float_rank(dtype: DType) -> tuple[int, int]:
    return (dtype.itemsize, dtype.mantissa)


def promote(a: DType, b: DType) -> DType:
    """The dtype of an operation on two tensors, by PyTorch's rules.

    bool < unsigned < signed < float by kind; float16 with bfloat16 gives float32. An unsigned with a signed
    integer gives the least signed type that holds both (PyTorch leaves uint16–uint64 undefined there), int64
    at most.

    >>> promote(uint8, int8), promote(int64, float16)
    (petaflop.int16, petaflop.float16)
    """
    if a is b:
        return a
    if a.kind == "f" and b.kind == "f":
        if a.itemsize == b.itemsize:
            return float32 if a.itemsize == 2 else float16
        return max(a, b, key=_float_rank)
    if a.kind == "f" or b.kind == "b":
        return a
    if b.kind == "f" or a.kind == "b":
        return b
    if a.kind == b.kind:
        return a if a.itemsize > b.itemsize else b
    signed, unsigned = (a, b) if a.kind == "i" else (b, a)
    bits = min(64, max(signed.bits, unsigned.bits * 2))
    return DTYPES[f"int{bits}"]


# The type of loop indices and sizes inside kernels; never the type of a tensor. Lowering picks its width.
index = DType("index", "i", 8, np.dtype(np.int64))
