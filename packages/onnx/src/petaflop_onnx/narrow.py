"""Element types that no kernel has: integers below 8 bits, and floats of 4 and 8 bits that core lacks.

A Narrow keeps each element in a byte: the value itself for integers, the bit pattern for floats. Kernels
decode it, by a table, and encode float32, by the arithmetic of rounding to nearest even.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from petaflop import Tensor
from petaflop.dtype import DType, float32, int8, int32, uint8
from petaflop_onnx.tensors import NARROW

__all__ = ["FORMATS", "Format", "Narrow", "decoded", "encoded", "is_narrow", "storage"]


@dataclass(frozen=True, slots=True)
class Format:
    """One type. Floats: `exponent` and `mantissa` bits, `bias`; `nan` is its code, -1 where there is
    none, and `greatest` is the code of the largest number."""

    dtype: np.dtype[Any]
    bits: int
    signed: bool = True
    mantissa: int = -1
    bias: int = 0
    nan: int = -1
    greatest: int = 0
    negative_zero: bool = True

    @property
    def is_float(self) -> bool:
        return self.mantissa >= 0

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        return (1 << (self.bits - self.signed)) - 1

    @property
    def storage(self) -> DType:
        """The type of the bytes."""
        return int8 if self.signed and not self.is_float else uint8

    @property
    def largest(self) -> float:
        """The largest number of a float type."""
        return float(np.asarray([self.greatest], np.uint8).view(self.dtype).astype(np.float32)[0])


FORMATS: Mapping[str, Format] = {
    each.dtype.name: each
    for each in (
        Format(np.dtype(ml_dtypes.int4), 4),
        Format(np.dtype(ml_dtypes.uint4), 4, signed=False),
        Format(np.dtype(ml_dtypes.int2), 2),
        Format(np.dtype(ml_dtypes.uint2), 2, signed=False),
        Format(np.dtype(ml_dtypes.float4_e2m1fn), 4, mantissa=1, bias=1, greatest=0x7),
        Format(
            np.dtype(ml_dtypes.float8_e4m3fnuz),
            8,
            mantissa=3,
            bias=8,
            nan=0x80,
            greatest=0x7F,
            negative_zero=False,
        ),
        Format(
            np.dtype(ml_dtypes.float8_e5m2fnuz),
            8,
            mantissa=2,
            bias=16,
            nan=0x80,
            greatest=0x7F,
            negative_zero=False,
        ),
        Format(
            np.dtype(ml_dtypes.float8_e8m0fnu), 8, signed=False, mantissa=0, bias=127, nan=0xFF, greatest=0xFE
        ),
    )
}
assert {dtype.name for dtype in NARROW.values()} <= set(FORMATS)


class Narrow:
    """A tensor of a narrow type: one byte an element, in `tensor`."""

    __slots__ = ("format", "tensor")

    def __init__(self, tensor: Tensor, format_: Format) -> None:
        self.tensor, self.format = tensor, format_

    @property
    def shape(self) -> tuple[Any, ...]:
        return tuple(self.tensor.shape)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The elements, as ml_dtypes has them."""
        return from_bytes(self.tensor.numpy(), self.format)


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Whether a NumPy dtype is one of these."""
    return dtype.name in FORMATS


def storage(array: np.ndarray[Any, Any], device: str | None) -> Narrow:
    """An array of a narrow type, as a Narrow on a device."""
    form = FORMATS[array.dtype.name]
    raw = array.view(np.uint8) if form.is_float else array.astype(form.storage.numpy)
    return Narrow(Tensor(raw, device=device), form)


def from_bytes(raw: np.ndarray[Any, Any], form: Format) -> np.ndarray[Any, Any]:
    """The other way round."""
    return raw.view(form.dtype) if form.is_float else raw.astype(form.dtype)


def decoded(value: Narrow) -> Tensor:
    """Integers as int8 or uint8, floats as float32."""
    if not value.format.is_float:
        return value.tensor
    codes = np.arange(1 << value.format.bits, dtype=np.uint8)
    table = codes.view(value.format.dtype).astype(np.float32)
    return Tensor(table, device=value.tensor.device)[value.tensor.cast(int32)]


def encoded(x: Tensor, form: Format, saturate: bool = True, rounding: str = "nearest") -> Narrow:
    """Numbers as a narrow type: integers wrap as ONNX's Cast does; floats round to nearest even, and what is
    too large becomes the largest number, or NaN without `saturate`."""
    if not form.is_float:
        size = 1 << form.bits
        wrapped = (x.cast(int32) - form.low).bitwise_and(size - 1) + form.low
        return Narrow(wrapped.cast(form.storage), form)
    wide = x.cast(float32)
    code = _powers(wide, form, rounding) if form.mantissa == 0 else _codes(wide, form, saturate)
    return Narrow(code.cast(uint8), form)


def _exponent(x: Tensor) -> Tensor:
    """floor(log2 |x|) of normal numbers, from the bits."""
    return x.abs().bitcast(int32).rshift(23) - 127


def _two_to(exponent: Tensor) -> Tensor:
    return (exponent + 127).lshift(23).bitcast(float32)


def _codes(x: Tensor, form: Format, saturate: bool) -> Tensor:
    """The exponent's and the mantissa's bits are one number: rounding up may carry from one to the other."""
    size = x.abs().minimum(form.largest * 4)  # far beyond, and finite
    exponent = _exponent(size).maximum(1 - form.bias)
    steps = (size / _two_to(exponent - form.mantissa)).round().cast(int32)
    code = (exponent + form.bias).lshift(form.mantissa) + steps - (1 << form.mantissa)
    code = code.maximum(0)
    too_large = (code > form.greatest) | (x.abs() == float("inf"))
    beyond = form.greatest if saturate or form.nan < 0 else form.nan
    code = too_large.where(beyond, code)
    signed = (x < 0) | ((x == 0) & (x.reciprocal() < 0))
    if not form.negative_zero:
        signed = signed & (code != 0)
    code = (signed & (code != form.nan)).where(code + (1 << (form.bits - 1)), code)
    none = form.nan if form.nan >= 0 else 1 << (form.bits - 1)  # without a NaN: −0, as ml_dtypes does
    return (x != x).where(none, code)


def _powers(x: Tensor, form: Format, rounding: str) -> Tensor:
    """float8e8m0: the nearest power of two, its exponent is the code."""
    size = x.abs()
    exponent = _exponent(size)
    rest = size / _two_to(exponent.maximum(-126).minimum(127))
    up = {"up": rest > 1, "down": rest > 2, "nearest": rest >= 1.5}
    if rounding not in up:
        raise ValueError(f"round_mode: expected up, down or nearest, got {rounding!r}")
    code = (exponent + form.bias + up[rounding].cast(int32)).maximum(0).minimum(form.greatest)
    return ((x != x) | (x.abs() == float("inf"))).where(form.nan, code)
