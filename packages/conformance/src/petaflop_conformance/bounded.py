"""What the oracle knows of a value: the number in float64, how far a correct device may be off, and what is
free.

Integers and bools are held exactly, in their own dtype, with an error of 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from petaflop.dtype import DType, float64
from petaflop_conformance.rounding import format_of, representable, ulp

__all__ = ["SIGN_FREE", "Bounded", "Policy", "exact", "rounded"]

Array = np.ndarray[Any, Any]

# An error this small admits only the very value, but either sign of zero.
SIGN_FREE = 5e-324


@dataclass(frozen=True, slots=True)
class Policy:
    """What a backend declared, and how strictly sums are judged ("core": any order; "full": blocked)."""

    level: str = "core"
    correctly_rounded_division: bool = True
    denormals: bool = True
    denormal_products: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Bounded:
    """Arrays of one shape: `value`, the allowed absolute `error`, and `free`, where any result will do."""

    value: Array
    error: Array
    free: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def uncertain(self) -> Array:
        """Where a device may hold another number than `value`."""
        return self.error > 0

    @property
    def touches_zero(self) -> Array:
        """Where a device may hold zero, or the other sign, instead of `value`."""
        return (self.error > 0) & (np.abs(self.value) <= self.error)


def exact(value: Array, free: Array | bool = False) -> Bounded:
    """A value that every correct device holds exactly."""
    value = np.asarray(value)
    return Bounded(value, np.broadcast_to(0.0, value.shape), np.broadcast_to(free, value.shape))


def rounded(
    value: Array, error: Array, free: Array, dtype: DType, k: float, policy: Policy, contracted: bool = False
) -> Bounded:
    """The result of an operation whose inputs allow `error`, rounded once with an error of `k` ulp.

    `contracted` says that a fused multiply-add may keep the unrounded value, so that an overflow must be far
    beyond the limit to be certain. A result that is exact in `dtype` is required exactly where the inputs are
    exact.
    """
    form, wide = format_of(dtype), dtype is float64
    limit = form.largest if wide else form.largest + float(ulp(np.float64(form.largest), dtype)) / 2  # type: ignore[arg-type]
    magnitude = np.abs(value)
    if wide:  # the oracle computes in this very dtype: it knows overflow only from exact inputs
        overflows, reaches = np.isinf(value) & (error == 0), magnitude + error > limit
    else:
        overflows, reaches = magnitude - error >= limit * (4 if contracted else 1), magnitude + error >= limit
    unclear = np.isnan(error) | (reaches & ~overflows)
    noise = ulp(value, dtype) if wide else magnitude * 2.0**-50  # the oracle's own error
    known = (error == 0) & representable(value, dtype) & (k <= 0.5)
    bound = np.where(known, 0.0, error + k * ulp(magnitude + error, dtype) + noise)
    if not policy.denormals:
        small = magnitude - bound < form.smallest_normal
        bound = np.where(small, magnitude + bound, bound)
    value = np.where(overflows, np.copysign(form.overflow, value), value)
    return Bounded(value, np.where(np.isfinite(value), bound, 0.0), free | unclear)
