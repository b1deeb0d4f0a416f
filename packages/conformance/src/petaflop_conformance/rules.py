"""One oracle rule per elementwise operation and type change: value, error carried on, error of its own
rounding.

A rule is a function (node, policy, *sources) -> Bounded. Errors of inputs are carried on by bounds that hold
for any two numbers within them, so rules compose through any graph, fused or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce  # NumPy's own would stack the arrays, and 32 axes are all that NumPy 1 has
from typing import Any

import numpy as np

from petaflop.dtype import DType
from petaflop.graph.node import Node
from petaflop.graph.ops import SPEC, Op
from petaflop_conformance.bounded import SIGN_FREE, Bounded, Policy, exact, rounded
from petaflop_conformance.rounding import (
    format_of,
    integer_to_float,
    representable,
    round_to,
    to_integer,
)

__all__ = ["ELEMENTWISE", "Rule", "add", "bitcast", "cast", "maximum", "multiply", "ulps_of"]

Array = np.ndarray[Any, Any]
Rule = Callable[..., Bounded]

_LN2 = float(np.log(2.0))
_RELAXED = {Op.DIV: 2.5, Op.SQRT: 3.0}
_NARROW = 2.0  # the most that narrow floats are allowed: they are computed in float32 and rounded once


def ulps_of(op: Op, dtype: DType, policy: Policy) -> float:
    """k(op, dtype): how many ulp one operation may be off by."""
    ulps = SPEC[op].ulp or 0.0
    if not policy.correctly_rounded_division:
        ulps = _RELAXED.get(op, ulps)
    return min(ulps, _NARROW) if dtype.itemsize < 4 else ulps


def _finish(
    op: Op, dtype: DType, policy: Policy, value: Array, error: Array, unclear: Array | bool, *sources: Bounded
) -> Bounded:
    """Round once; an error is carried on only where every input is finite."""
    special = ~reduce(np.logical_and, [np.isfinite(source.value) for source in sources])
    free = reduce(np.logical_or, [source.free for source in sources]) | unclear
    error = np.where(special, 0.0, error)
    unsure = reduce(np.logical_or, [source.uncertain for source in sources]) & ~special
    # the sign of a zero stays open where that of an input was, though so small an error may have underflowed
    error = np.where(unsure & (value == 0), np.maximum(error, SIGN_FREE), error)
    return rounded(value, error, free, dtype, ulps_of(op, dtype, policy), policy, contracted=op is Op.MUL)


def _flushed(source: Bounded, dtype: DType, policy: Policy) -> Bounded:
    """Inputs as a device sees them that takes denormals for zero."""
    if policy.denormals:
        return source
    magnitude = np.abs(source.value)
    small = magnitude - source.error < format_of(dtype).smallest_normal
    return Bounded(source.value, np.where(small, magnitude + source.error, source.error), source.free)


# ---- arithmetic ----


def add(dtype: DType, policy: Policy, a: Bounded, b: Bounded) -> Bounded:
    """a + b; `or` on bool."""
    if not dtype.is_float:
        operator = np.logical_or if dtype.kind == "b" else np.add
        return exact(operator(a.value, b.value), a.free | b.free)
    a, b = _flushed(a, dtype, policy), _flushed(b, dtype, policy)
    return _finish(Op.ADD, dtype, policy, a.value + b.value, a.error + b.error, False, a, b)


def multiply(dtype: DType, policy: Policy, a: Bounded, b: Bounded) -> Bounded:
    """a · b; `and` on bool."""
    if not dtype.is_float:
        operator = np.logical_and if dtype.kind == "b" else np.multiply
        return exact(operator(a.value, b.value), a.free | b.free)
    a, b = _flushed(a, dtype, policy), _flushed(b, dtype, policy)
    error = np.abs(a.value) * b.error + np.abs(b.value) * a.error + a.error * b.error
    unclear = (np.isinf(a.value) & b.touches_zero) | (np.isinf(b.value) & a.touches_zero)
    return _finish(Op.MUL, dtype, policy, a.value * b.value, error, unclear, a, b)


def maximum(dtype: DType, a: Bounded, b: Bounded) -> Bounded:
    """The larger, NaN if either is; exact, but which of two close values it is may be unclear."""
    if not dtype.is_float:
        return exact(np.maximum(a.value, b.value), a.free | b.free)
    value = np.maximum(a.value, b.value)
    close = np.abs(a.value - b.value) <= a.error + b.error
    error = np.where(close, np.maximum(a.error, b.error), np.where(a.value > b.value, a.error, b.error))
    zeros = (a.value == 0) & (b.value == 0) & (np.signbit(a.value) != np.signbit(b.value))
    error = np.where(zeros, np.maximum(error, SIGN_FREE), error)
    return Bounded(value, np.where(np.isfinite(value), error, 0.0), a.free | b.free)


def _divide(node: Node, policy: Policy, a: Bounded, b: Bounded) -> Bounded:
    dtype = node.dtype
    if not dtype.is_float:
        zero = b.value == 0
        quotient = np.floor_divide(a.value, np.where(zero, np.ones_like(b.value), b.value))
        return exact(quotient, a.free | b.free | zero)
    a, b = _flushed(a, dtype, policy), _flushed(b, dtype, policy)
    value = a.value / b.value
    error = (a.error + np.abs(value) * b.error) / (np.abs(b.value) - b.error)
    error = np.where((a.error == 0) & (b.error == 0), 0.0, error)
    unclear = b.touches_zero | (np.isinf(a.value) & b.touches_zero)
    result = _finish(Op.DIV, dtype, policy, value, error, unclear, a, b)
    either_zero = (
        np.isinf(b.value) & a.touches_zero
    )  # a quotient of 0 with the sign of what a device has for a
    return replace(result, error=np.where(either_zero, np.maximum(result.error, SIGN_FREE), result.error))


def _and(node: Node, policy: Policy, a: Bounded, b: Bounded) -> Bounded:
    return exact(np.bitwise_and(a.value, b.value), a.free | b.free)


# ---- comparisons ----


def _near(a: Bounded, b: Bounded) -> Array:
    """Where the errors of the two could turn the comparison round."""
    if a.value.dtype.kind != "f":
        return np.zeros(a.shape, bool)
    total = a.error + b.error
    return (total > 0) & (np.abs(a.value - b.value) <= total)


def _less(node: Node, policy: Policy, a: Bounded, b: Bounded) -> Bounded:
    a, b = _compared(node, policy, a, b)
    return exact(np.less(a.value, b.value), a.free | b.free | _near(a, b))


def _not_equal(node: Node, policy: Policy, a: Bounded, b: Bounded) -> Bounded:
    a, b = _compared(node, policy, a, b)
    return exact(np.not_equal(a.value, b.value), a.free | b.free | _near(a, b))


def _compared(node: Node, policy: Policy, a: Bounded, b: Bounded) -> tuple[Bounded, Bounded]:
    dtype = node.sources[0].dtype
    return (_flushed(a, dtype, policy), _flushed(b, dtype, policy)) if dtype.is_float else (a, b)


def _where(node: Node, policy: Policy, condition: Bounded, a: Bounded, b: Bounded) -> Bounded:
    chosen = condition.value
    return Bounded(
        np.where(chosen, a.value, b.value),
        np.where(chosen, a.error, b.error),
        condition.free | np.where(chosen, a.free, b.free),
    )


# ---- functions of one float ----


def _sqrt(node: Node, policy: Policy, a: Bounded) -> Bounded:
    a = _flushed(a, node.dtype, policy)
    value = np.sqrt(a.value)
    spread = value + np.sqrt(np.maximum(a.value - a.error, 0.0))
    error = np.where(a.error == 0, 0.0, a.error / np.where(spread > 0, spread, 1.0))
    return _finish(Op.SQRT, node.dtype, policy, value, error, a.touches_zero & (a.error > SIGN_FREE), a)


def _exp2(node: Node, policy: Policy, a: Bounded) -> Bounded:
    a = _flushed(a, node.dtype, policy)
    value = np.exp2(a.value)
    return _finish(Op.EXP2, node.dtype, policy, value, value * np.expm1(a.error * _LN2), False, a)


def _log2(node: Node, policy: Policy, a: Bounded) -> Bounded:
    a = _flushed(a, node.dtype, policy)
    value = np.log2(a.value)
    ratio = np.where(a.error == 0, 0.0, np.clip(a.error / np.abs(a.value), 0.0, 0.999999))
    return _finish(Op.LOG2, node.dtype, policy, value, -np.log1p(-ratio) / _LN2, a.touches_zero, a)


def _sin(node: Node, policy: Policy, a: Bounded) -> Bounded:
    a = _flushed(a, node.dtype, policy)
    value = np.sin(a.value)
    error = np.minimum(2.0, np.abs(np.cos(a.value)) * a.error + a.error**2 / 2)
    return _finish(Op.SIN, node.dtype, policy, value, error, False, a)


# ---- types ----


def cast(source: Bounded, old: DType, new: DType, policy: Policy) -> Bounded:
    """Value conversion; exact inputs convert exactly, since a CAST rounds correctly."""
    if old is new:
        return source
    if new.kind == "b":
        return exact(source.value != 0, source.free | (source.touches_zero & (source.error > SIGN_FREE)))
    if not old.is_float:
        value = integer_to_float(source.value, new) if new.is_float else source.value.astype(new.numpy)
        return exact(value, source.free)
    if new.is_integer:
        value = to_integer(source.value, new)
        edge = to_integer(source.value - source.error, new) != to_integer(source.value + source.error, new)
        return exact(value, source.free | edge)
    return _cast_float(source, new, policy)


def _cast_float(source: Bounded, new: DType, policy: Policy) -> Bounded:
    certain = exact(round_to(source.value, new), source.free)
    if not policy.denormals:
        certain = _flushed(certain, new, policy)
    loose = rounded(source.value, source.error, source.free, new, 0.5, policy)
    exactly = source.error <= SIGN_FREE
    sign_free = np.where(certain.value == 0, np.maximum(certain.error, source.error), certain.error)
    return Bounded(
        np.where(exactly, certain.value, loose.value),
        np.where(exactly, sign_free, loose.error),
        np.where(exactly, certain.free, loose.free),
    )


def _cast(node: Node, policy: Policy, source: Bounded) -> Bounded:
    return cast(source, node.sources[0].dtype, node.dtype, policy)


def bitcast(node: Node, policy: Policy, source: Bounded) -> Bounded:
    """The same bits: known only where the value is exact and its bits are not those of some NaN."""
    old, new = node.sources[0].dtype, node.dtype
    free = source.free
    if old.is_float:
        free = free | (source.error > 0) | ~(representable(source.value, old) | np.isinf(source.value))
    bits = np.ascontiguousarray(source.value.astype(old.numpy))
    shape = (*bits.shape[:-1], bits.shape[-1] * old.itemsize // new.itemsize) if bits.ndim else ()
    value = bits.view(new.numpy) if bits.size else bits.astype(new.numpy).reshape(shape)
    value = value.astype(np.float64) if new.is_float else value
    if new.itemsize > old.itemsize:
        free = (
            free.reshape(*free.shape[:-1], -1, new.itemsize // old.itemsize).any(-1)  # type: ignore[assignment]
            if free.size
            else free.reshape(shape)
        )
    elif new.itemsize < old.itemsize:
        free = np.repeat(free, old.itemsize // new.itemsize, axis=-1)
    return exact(value, free)


ELEMENTWISE: dict[Op, Rule] = {
    Op.ADD: lambda node, policy, a, b: add(node.dtype, policy, a, b),
    Op.MUL: lambda node, policy, a, b: multiply(node.dtype, policy, a, b),
    Op.MAX: lambda node, policy, a, b: maximum(node.dtype, a, b),
    Op.DIV: _divide,
    Op.AND: _and,
    Op.LT: _less,
    Op.NE: _not_equal,
    Op.WHERE: _where,
    Op.SQRT: _sqrt,
    Op.EXP2: _exp2,
    Op.LOG2: _log2,
    Op.SIN: _sin,
    Op.CAST: _cast,
    Op.BITCAST: bitcast,
}
