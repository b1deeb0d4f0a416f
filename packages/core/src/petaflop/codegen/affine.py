"""Conditions that compare sums of axes: from where on along one axis they no longer change, and what is left
then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from petaflop.dtype import bool_, index
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import (
    FALSE,
    TRUE,
    Expr,
    add,
    constant,
    divide,
    is_constant,
    less,
    linear_terms,
    multiply,
    rebuild,
    select,
    substitute,
    topological,
)
from petaflop.ir.kernel import axis_size

__all__ = ["settled", "settling_edges"]


def settling_edges(
    roots: Iterable[Expr], along: Expr, within: Expr, outer: Sequence[Expr], upwards: bool
) -> dict[Expr, tuple[Expr, Expr]]:
    """Comparison → (edge, what it is beyond): the same from `edge` on along an axis (before `edge`, unless
    `upwards`), wherever the place on the axis `within` is. An edge depends on the axes `outer` alone."""
    found: dict[Expr, tuple[Expr, Expr]] = {}
    for expr in topological(roots):
        if expr.op is Op.LT and expr.dtype is bool_:
            left, right = (_affine(arg) for arg in expr.args)
            if left is not None and right is not None:
                settled = _edge(left - right, along, within, outer, upwards)
                if settled is not None:
                    found[expr] = settled
    return found


def _edge(
    difference: Expr, along: Expr, within: Expr, outer: Sequence[Expr], upwards: bool
) -> tuple[Expr, Expr] | None:
    """For difference < 0."""
    terms, offset = linear_terms(difference)
    factor = terms.get(along, 0)
    if not factor or any(term not in (along, within, *outer) for term in terms):
        return None
    beyond = FALSE if (factor > 0) is upwards else TRUE
    # the place in the tile that the comparison holds on to longest
    slope = terms.get(within, 0)
    last = axis_size(within)
    assert isinstance(last, int)
    place = last - 1 if (slope > 0) is (beyond is TRUE) else 0
    rest = constant(offset + slope * place)
    for term, by in terms.items():
        if term not in (along, within):
            rest = add(rest, multiply(term, constant(by)))
    size = abs(factor)
    if factor > 0:  # it holds before ceil(-rest / size)
        edge = divide(_positive((size - 1) - rest), constant(size))
    else:  # it holds after floor(rest / size)
        edge = divide(_positive(rest + size), constant(size))
    return edge, beyond


def _positive(expr: Expr) -> Expr:
    """max(expr, 0)."""
    return expr if expr.lo >= 0 else select(less(expr, constant(0)), constant(0), expr)


def _affine(expr: Expr) -> Expr | None:
    """The value of an integer expression as an index, where it is a sum of axes that its dtype can hold."""
    if expr.dtype is index:
        return expr
    if not expr.dtype.is_integer:
        return None
    found: Expr | None = None
    if expr.op is Op.CONST:
        found = constant(expr.arg)
    elif expr.op is Op.CAST:
        found = _affine(expr.args[0])
    elif expr.op in _SUMS:
        left, right = (_affine(arg) for arg in expr.args)
        if left is not None and right is not None and (expr.op is Op.ADD or Op.CONST in (left.op, right.op)):
            found = _SUMS[expr.op](left, right)
    fits = found is not None and expr.dtype.min <= found.lo and found.hi <= expr.dtype.max
    return found if fits else None


_SUMS: dict[object, Callable[[Expr, Expr], Expr]] = {Op.ADD: add, Op.MUL: multiply}


def settled(root: Expr, known: Mapping[Expr, Expr]) -> Expr:
    """`root` with expressions replaced, and the conditions that follow from them decided."""
    mapping = dict(known)
    for expr in topological((root,)):
        if expr not in mapping and expr.args:
            args = tuple(substitute(expr.args, mapping))
            if args != expr.args:
                mapping[expr] = _decided(expr, args)
    return substitute((root,), mapping)[0]


def _decided(expr: Expr, args: tuple[Expr, ...]) -> Expr:
    if expr.dtype is bool_ and expr.op in _ABSORBING:
        absorbing, neutral = _ABSORBING[expr.op]
        if absorbing in args:
            return absorbing
        kept = [arg for arg in args if arg is not neutral]
        if len(kept) < 2:
            return kept[0] if kept else neutral
    if expr.op is Op.NE and args[0].dtype is bool_:
        if all(map(is_constant, args)):
            return TRUE if args[0] is not args[1] else FALSE
        if FALSE in args:
            return args[0] if args[1] is FALSE else args[1]
    return rebuild(expr, args)


_ABSORBING = {
    Op.AND: (FALSE, TRUE),
    Op.MUL: (FALSE, TRUE),
    Op.ADD: (TRUE, FALSE),
    Op.MAX: (TRUE, FALSE),
}
