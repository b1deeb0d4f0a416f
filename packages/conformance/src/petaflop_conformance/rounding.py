"""Rounding as numbers: the spacing of floats of any format, correct rounding to one, and conversions, in
float64.

Nothing here trusts the arithmetic of a narrow NumPy or ml_dtypes type; only exact steps in float64 are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from petaflop.dtype import DType, float8_e4m3, float64

__all__ = [
    "Format",
    "format_of",
    "integer_to_float",
    "representable",
    "round_to",
    "to_integer",
    "ulp",
    "unit",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """A float format: stored mantissa bits, exponent of the least normal, largest finite value, what overflow
    gives."""

    mantissa: int
    min_exponent: int
    largest: float
    overflow: float

    @property
    def smallest_normal(self) -> float:
        return 2.0**self.min_exponent

    @property
    def smallest(self) -> float:
        return max(2.0 ** (self.min_exponent - self.mantissa), 5e-324)


@cache
def format_of(dtype: DType) -> Format:
    """The format of a float dtype."""
    info = ml_dtypes.finfo(dtype.numpy)
    overflow = np.nan if dtype is float8_e4m3 else np.inf
    return Format(dtype.mantissa, int(info.minexp), float(info.max), overflow)


def unit(dtype: DType) -> float:
    """u, half the spacing at 1: what one correctly rounded operation may be off by, relatively."""
    return float(2.0 ** -(dtype.mantissa + 1))


def ulp(value: Array, dtype: DType) -> Array:
    """The spacing of `dtype` at |value|; that of the largest binade for what is not finite."""
    form = format_of(dtype)
    finite = np.minimum(
        np.abs(np.nan_to_num(value, nan=0.0, posinf=form.largest, neginf=form.largest)), form.largest
    )
    exponent = np.where(finite == 0, form.min_exponent, np.frexp(finite)[1] - 1)
    spacing: Array = np.ldexp(1.0, np.maximum(exponent, form.min_exponent) - form.mantissa)
    return spacing


def round_to(value: Array, dtype: DType) -> Array:
    """`value` (float64) rounded to nearest even in `dtype`, as float64."""
    if dtype is float64:
        return value
    form = format_of(dtype)
    spacing = ulp(value, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.copysign(np.rint(value / spacing) * spacing, value)
        too_large = np.abs(rounded) > form.largest
    result: Array = np.where(too_large, np.copysign(form.overflow, value), rounded)
    return np.where(
        np.isfinite(value), result, np.where(np.isnan(value), np.nan, np.copysign(form.overflow, value))
    )


def representable(value: Array, dtype: DType) -> Array:
    """Where `value` is a finite number of `dtype`, so that every correct operation gives exactly it."""
    return np.isfinite(value) & (round_to(value, dtype) == value)


def integer_to_float(value: Array, dtype: DType) -> Array:
    """Integers correctly rounded to `dtype`, as float64; wide ones go through rounding to odd, so nothing
    rounds twice."""
    if dtype is float64 or value.dtype.itemsize < 8:
        return round_to(value.astype(np.float64), dtype)
    negative = value < 0
    magnitude = np.where(negative, ~value.astype(np.int64) if value.dtype.kind == "i" else 0, value).astype(
        np.uint64
    )
    magnitude = magnitude + negative.astype(np.uint64)
    odd = ((magnitude >> np.uint64(11)) | ((magnitude & np.uint64(0x7FF)) != 0)) << np.uint64(11)
    sticky = np.where(magnitude >= np.uint64(1 << 53), odd, magnitude).astype(np.float64)
    return round_to(np.where(negative, -sticky, sticky), dtype)


def to_integer(value: Array, dtype: DType) -> Array:
    """Float64 truncated to an integer dtype: saturating, and 0 for NaN."""
    low, high = int(dtype.min), int(dtype.max)
    inside = (value > float(low)) & (value < float(high))
    result = np.trunc(np.where(inside, value, 0.0)).astype(dtype.numpy)
    result = np.where(value >= float(high), np.array(high, dtype.numpy), result)
    return np.where(value <= float(low), np.array(low, dtype.numpy), result).astype(dtype.numpy)
