"""The oracle's rules for REDUCE and SCAN: sums bounded in units of u·Σ|x|, products relatively, maxima
exactly.

A device may fold in any order: at level "core" a sum of n terms may be off by (n − 1)·u·Σ|x|, at "full" by √n
of it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from petaflop.dtype import DType, float64
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop_conformance.bounded import SIGN_FREE, Bounded, Policy, exact
from petaflop_conformance.rounding import format_of, unit
from petaflop_conformance.rules import Rule, cast

__all__ = ["FOLDS", "reduce_axes", "sum_steps"]

Array = np.ndarray[Any, Any]


def sum_steps(count: Any, policy: Policy) -> Any:
    """How many roundings, in units of u·Σ|x|, a sum of `count` terms may show."""
    steps = np.maximum(count - 1, 0)
    return steps if policy.level == "core" else np.minimum(steps, np.maximum(8, np.sqrt(count)))


def _fold_integers(op: Op, dtype: DType, source: Bounded, axes: tuple[int, ...]) -> Bounded:
    logical = dtype.kind == "b"
    table = {
        Op.ADD: np.logical_or if logical else np.add,
        Op.MUL: np.logical_and if logical else np.multiply,
        Op.MAX: np.logical_or if logical else np.maximum,
    }
    initial = {Op.ADD: 0, Op.MUL: 1, Op.MAX: dtype.min}[op]
    options = {} if logical else {"dtype": dtype.numpy}
    value = table[op].reduce(  # type: ignore[call-overload]
        source.value, axis=axes, keepdims=True, initial=dtype.numpy.type(initial), **options
    )
    return exact(value, source.free.any(axis=axes, keepdims=True))  # type: ignore[arg-type]


def _sum(dtype: DType, policy: Policy, source: Bounded, axes: tuple[int, ...]) -> Bounded:
    value = source.value.sum(axis=axes, keepdims=True)
    count = math.prod(source.shape[axis] for axis in axes)
    magnitude = (np.abs(source.value) + source.error).sum(axis=axes, keepdims=True)
    carried = source.error.sum(axis=axes, keepdims=True)
    whole = (source.value == np.rint(source.value)).all(axis=axes, keepdims=True)
    free = source.free.any(axis=axes, keepdims=True)
    return _sum_bound(dtype, policy, value, magnitude, carried, count, whole, free)  # type: ignore[arg-type]


def _sum_bound(
    dtype: DType,
    policy: Policy,
    value: Array,
    magnitude: Array,
    carried: Array,
    count: Any,
    whole: Array,
    free: Array,
) -> Bounded:
    steps = sum_steps(count, policy)
    error = carried + steps * unit(dtype) * magnitude * (1 + 2.0**-20) + magnitude * 2.0**-50
    if dtype is float64:
        error = error + magnitude * 2.0**-48  # the oracle's own blocked sum
    if not policy.denormals:
        error = error + (count + 1) * format_of(dtype).smallest_normal
    # small whole numbers add up exactly in every order; a sum that is zero may have either sign
    error = np.where((carried == 0) & whole & (magnitude <= 1 / unit(dtype)), 0.0, error)
    error = np.where(np.asarray(count) <= 1, carried, error)
    error = np.where(value == 0, np.maximum(error, SIGN_FREE), error)
    certain = (
        np.isfinite(value)
        & (np.abs(value) - error > format_of(dtype).largest * 1.01)
        & (np.abs(value) == magnitude)
    )
    value = np.where(certain, np.copysign(np.inf, value), value)
    unclear = np.isfinite(value) & (magnitude + error >= format_of(dtype).largest)
    return Bounded(value, np.where(np.isfinite(value), error, 0.0), free | unclear)


def _product(dtype: DType, policy: Policy, source: Bounded, axes: tuple[int, ...]) -> Bounded:
    size = np.abs(source.value)
    value = np.multiply.reduce(source.value, axis=axes, keepdims=True)
    count = math.prod(source.shape[axis] for axis in axes)
    upper = np.multiply.reduce(size + source.error, axis=axes, keepdims=True)
    most = np.multiply.reduce(np.maximum(size + source.error, 1.0), axis=axes, keepdims=True)
    least = np.multiply.reduce(np.where(size == 0, 1.0, np.minimum(size, 1.0)), axis=axes, keepdims=True)
    free = source.free.any(axis=axes, keepdims=True)
    return _product_bound(dtype, policy, value, upper, most, least, count, free)  # type: ignore[arg-type]


def _product_bound(
    dtype: DType,
    policy: Policy,
    value: Array,
    upper: Array,
    most: Array,
    least: Array,
    count: Any,
    free: Array,
) -> Bounded:
    form = format_of(dtype)
    steps = np.maximum(count - 1, 0) + (np.asarray(count) if dtype is float64 else 0)
    error = upper - np.abs(value) + upper * (np.expm1(steps * unit(dtype) * 1.01) + 2.0**-49)
    grain = form.smallest if policy.denormals else form.smallest_normal
    underflows = least < form.smallest_normal * 4  # a partial product may be rounded as a denormal
    error = np.where(underflows & (value != 0), error + steps * grain * most, error)
    error = np.where(value == 0, np.where(np.asarray(underflows), steps * grain, SIGN_FREE), error)
    error = np.where(np.asarray(count) <= 1, upper - np.abs(value), error)
    overflow = most >= form.largest * 0.99
    unclear = np.isfinite(value) & overflow | (np.isinf(value) & underflows)
    return Bounded(value, np.where(np.isfinite(value), error, 0.0), free | unclear)


def _maximum(dtype: DType, policy: Policy, source: Bounded, axes: tuple[int, ...]) -> Bounded:
    value = np.maximum.reduce(source.value, axis=axes, keepdims=True, initial=dtype.min)
    candidate = source.value + source.error >= np.fmax.reduce(
        source.value - source.error, axis=axes, keepdims=True, initial=dtype.min
    )
    error = np.where(candidate, source.error, 0.0).max(axis=axes, keepdims=True, initial=0.0)
    error = np.where(value == 0, np.maximum(error, SIGN_FREE), error)
    return Bounded(value, np.where(np.isfinite(value), error, 0.0), source.free.any(axis=axes, keepdims=True))  # type: ignore[arg-type]


_FLOATS = {Op.ADD: _sum, Op.MUL: _product, Op.MAX: _maximum}


def reduce_axes(op: Op, dtype: DType, policy: Policy, source: Bounded, axes: tuple[int, ...]) -> Bounded:
    """`source` (already of `dtype`) folded along `axes`, which keep size 1."""
    if not dtype.is_float:
        return _fold_integers(op, dtype, source, axes)
    return _FLOATS[op](dtype, policy, source, axes)


def _reduce(node: Node, policy: Policy, source: Bounded) -> Bounded:
    source = cast(source, node.sources[0].dtype, node.dtype, policy)
    return reduce_axes(node.arg.op, node.dtype, policy, source, node.arg.axes)


# ---- scan: the same bounds, with as many terms as have been folded so far ----


def _scan(node: Node, policy: Policy, source: Bounded) -> Bounded:
    source = cast(source, node.sources[0].dtype, node.dtype, policy)
    axis, dtype = node.arg.axis, node.dtype
    free = np.logical_or.accumulate(source.free, axis=axis)
    if not dtype.is_float:
        return exact(_INTEGER_SCANS[node.arg.op, dtype.kind == "b"](source.value, axis, dtype), free)
    return _FLOAT_SCANS[node.arg.op](dtype, policy, source, axis, free)


_INTEGER_SCANS: dict[tuple[Op, bool], Any] = {
    (Op.ADD, False): lambda x, axis, dtype: np.add.accumulate(x, axis=axis, dtype=dtype.numpy),
    (Op.MUL, False): lambda x, axis, dtype: np.multiply.accumulate(x, axis=axis, dtype=dtype.numpy),
    (Op.MAX, False): lambda x, axis, dtype: np.maximum.accumulate(x, axis=axis),
    (Op.ADD, True): lambda x, axis, dtype: np.logical_or.accumulate(x, axis=axis),
    (Op.MUL, True): lambda x, axis, dtype: np.logical_and.accumulate(x, axis=axis),
    (Op.MAX, True): lambda x, axis, dtype: np.logical_or.accumulate(x, axis=axis),
}


def _counts(source: Bounded, axis: int) -> Array:
    shape = [1] * source.value.ndim
    shape[axis] = -1
    return np.broadcast_to(np.arange(1, source.shape[axis] + 1).reshape(shape), source.shape)


def _scan_sum(dtype: DType, policy: Policy, source: Bounded, axis: int, free: Array) -> Bounded:
    value = np.add.accumulate(source.value, axis=axis)
    magnitude = np.add.accumulate(np.abs(source.value) + source.error, axis=axis)
    carried = np.add.accumulate(source.error, axis=axis)
    whole = np.logical_and.accumulate(source.value == np.rint(source.value), axis=axis)
    return _sum_bound(dtype, policy, value, magnitude, carried, _counts(source, axis), whole, free)


def _scan_product(dtype: DType, policy: Policy, source: Bounded, axis: int, free: Array) -> Bounded:
    size = np.abs(source.value)
    value = np.multiply.accumulate(source.value, axis=axis)
    upper = np.multiply.accumulate(size + source.error, axis=axis)
    most = np.multiply.accumulate(np.maximum(size + source.error, 1.0), axis=axis)
    least = np.multiply.accumulate(np.where(size == 0, 1.0, np.minimum(size, 1.0)), axis=axis)
    return _product_bound(dtype, policy, value, upper, most, least, _counts(source, axis), free)


def _scan_maximum(dtype: DType, policy: Policy, source: Bounded, axis: int, free: Array) -> Bounded:
    value = np.maximum.accumulate(source.value, axis=axis)
    error = np.maximum.accumulate(source.error, axis=axis)
    error = np.where(value == 0, np.maximum(error, SIGN_FREE), error)
    return Bounded(value, np.where(np.isfinite(value), error, 0.0), free)


_FLOAT_SCANS = {Op.ADD: _scan_sum, Op.MUL: _scan_product, Op.MAX: _scan_maximum}

FOLDS: dict[Op, Rule] = {Op.REDUCE: _reduce, Op.SCAN: _scan}
