"""Values that were cast from a narrower dtype, as they were before: what a matrix instruction multiplies."""

from __future__ import annotations

from petaflop.dtype import DType, bfloat16, bool_, float8_e4m3, float8_e5m2, float16, float32
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import TRUE, Expr, Leaf, both, constant, make, select, substitute, topological
from petaflop.ir.kernel import axes_of, value

__all__ = ["narrowed", "zero_outside"]

_LEAST_EXPONENT = {float16: -24, bfloat16: -133, float32: -149, float8_e4m3: -9, float8_e5m2: -16}


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is one of `wide`."""
    if narrow is wide or narrow is bool_:
        return True
    if wide.is_float and narrow.is_float:
        if wide not in _LEAST_EXPONENT or narrow not in _LEAST_EXPONENT:
            return wide.itemsize > narrow.itemsize
        fits = wide.max >= narrow.max and _LEAST_EXPONENT[wide] <= _LEAST_EXPONENT[narrow]
        return fits and wide.mantissa >= narrow.mantissa
    if wide.is_float:
        bits = narrow.bits - (narrow.kind == "i")
        return bits <= wide.mantissa + 1 and wide.max >= 2.0**bits
    return narrow.is_integer and wide.is_integer and wide.min <= narrow.min and narrow.max <= wide.max


def narrowed(expr: Expr, dtype: DType) -> Expr | None:
    """`expr` as a value of `dtype`, where every value that it may have is one of that dtype's and casting it
    back gives the same; None where that is not known.

    >>> from petaflop.dtype import int8, int32
    >>> from petaflop.ir.kernel import load
    >>> print(narrowed(value(Op.CAST, load("x", (), int8), dtype=int32), int8))
    x[]
    """
    if expr.dtype is dtype:
        return expr
    if expr.op is Op.CAST and holds(expr.dtype, expr.args[0].dtype):
        inner = narrowed(expr.args[0], dtype)
        if inner is None and holds(dtype, expr.args[0].dtype):
            return value(Op.CAST, expr.args[0], dtype=dtype)
        return inner
    if expr.op is Op.WHERE:
        branches = [narrowed(branch, dtype) for branch in expr.args[1:]]
        if branches[0] is not None and branches[1] is not None:
            return select(expr.args[0], branches[0], branches[1])
    if expr.op is Op.CONST and expr.arg == 0:
        return constant(0, dtype)
    return None


def zero_outside(expr: Expr, axis: Expr, position: Expr, inside: Expr) -> Expr:
    """`expr`, whose `axis` is going to be `position`: 0 where `inside` does not hold, and nothing is read
    there."""
    if expr.op is Op.CAST:
        inner = zero_outside(expr.args[0], axis, position, inside)
        return value(Op.CAST, inner, dtype=expr.dtype)
    mapping: dict[Expr, Expr] = {}
    for part in topological((expr,)):
        if part.op is Leaf.LOAD and axis in axes_of(part.args):
            valid, *index = substitute(part.args, mapping)
            mapping[part] = make(Leaf.LOAD, (both(valid, inside), *index), part.dtype, part.arg)
    (guarded,) = substitute([expr], mapping)
    if guarded.op is Leaf.LOAD and guarded.arg[1] == 0 and guarded.args[0] is not TRUE and expr in mapping:
        return guarded
    return select(inside, guarded, constant(0, expr.dtype))
