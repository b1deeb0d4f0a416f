"""Windows: an operand whose indices are sums of axes, such as `h*2 + kh - 1`, made to read a copy of its
input.

The copy is padded, so that no read needs a guard, and laid out in phases where lanes would step over
elements: what is left for the inner loops are plain strides, with lanes side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from petaflop.dtype import index
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import (
    TRUE,
    Expr,
    Leaf,
    add,
    both,
    constant,
    divide,
    less,
    linear_terms,
    make,
    modulo,
    multiply,
    rebuild,
    substitute,
    topological,
)
from petaflop.ir.kernel import Block, Store, Temporary, axes_of, axis, axis_size, load

__all__ = ["copied", "windows_of"]

Terms = tuple[tuple[Expr, int], ...]
_COMPARISONS = (Op.LT, Op.NE)


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum of axes times factors that an operand's indices are made of; `step` divides every factor."""

    terms: Terms
    step: int
    low: int
    count: int

    @property
    def plain(self) -> bool:
        """Whether it is just an axis."""
        return len(self.terms) == 1 and self.terms[0][1] == 1

    @property
    def place(self) -> Expr:
        """Which of its values it has, counted from 0."""
        total = constant(-self.low // self.step)
        for a, factor in self.terms:
            total = add(total, multiply(a, constant(factor // self.step)))
        return total

    def factor(self, a: Expr) -> int:
        """How far a step of an axis moves `place`."""
        return next((factor // self.step for term, factor in self.terms if term is a), 0)


def windows_of(operand: Expr) -> list[Sum] | None:
    """The sums that the operand depends on its axes through, in the order of its indices; None where it
    depends on an axis in any other way."""
    found: dict[Terms, None] = {}
    for expr in _places(operand):
        terms, _ = _terms(expr)
        if any(term.op is not Leaf.AXIS or not isinstance(axis_size(term), int) for term, _ in terms):
            return None
        if terms and _negated(terms) not in found:
            found[terms] = None
    axes = [a for terms in found for a, _ in terms]
    if len(set(axes)) != len(axes) or set(axes) != axes_of((operand,)):
        return None
    return [_sum(terms) for terms in found]


def _places(operand: Expr) -> list[Expr]:
    """What loads are indexed by, in the order of their dimensions; then what becomes a value, and
    comparisons."""
    exprs = topological((operand,))
    loads = [arg for expr in exprs if expr.op is Leaf.LOAD for arg in expr.args if arg.dtype is index]
    compared = [expr for expr in exprs if expr.op in _COMPARISONS and expr.args[0].dtype is index]
    values = [
        arg
        for expr in exprs
        if expr.dtype is not index and expr.op is not Leaf.LOAD and expr not in compared
        for arg in expr.args
        if arg.dtype is index
    ]
    return [*loads, *values, *compared]


def _terms(place: Expr) -> tuple[Terms, int]:
    """(terms, constant) of an index; of a comparison, those of the difference of its sides."""
    if place.op in _COMPARISONS:
        place = add(place.args[0], multiply(place.args[1], constant(-1)))
    terms, offset = linear_terms(place)
    return tuple(sorted(terms.items(), key=lambda term: str(term[0].arg))), offset


def _negated(terms: Terms) -> Terms:
    return tuple((a, -factor) for a, factor in terms)


def _sum(terms: Terms) -> Sum:
    reach = [(factor, int(axis_size(a)) - 1) for a, factor in terms]
    low = sum(min(0, factor * last) for factor, last in reach)
    high = sum(max(0, factor * last) for factor, last in reach)
    step = math.gcd(*(factor for factor, _ in reach))
    return Sum(terms, step, low, (high - low) // step + 1)


def copied(operand: Expr, lanes: str, multiple: int, name: str) -> tuple[Block, Temporary, Expr]:
    """(block that fills the copy, the copy, the operand read from it); `lanes` names the axis that runs over
    neighbours, with room for its size rounded up to `multiple`."""
    sums = windows_of(operand)
    assert sums is not None
    axes: list[Expr] = []
    place: list[Expr] = []
    values: dict[Sum, Expr] = {}
    inside = TRUE
    for number, each in enumerate(sums):
        along = next((a for a, _ in each.terms if a.arg == lanes), None)
        if along is None and each.plain:
            values[each] = each.terms[0][0]
            axes.append(values[each])
            place.append(values[each])
            continue
        count, stride = each.count, 1
        if along is not None:
            stride = abs(each.factor(along))
            spare = -int(axis_size(along)) % multiple
            count = -(-(each.count + spare * stride) // stride) * stride
        outer = axis(f"w{number}", count // stride)
        phase = axis(f"w{number}p", stride)
        values[each] = add(multiply(outer, constant(stride)), phase) if stride > 1 else outer
        axes += [phase, outer] if stride > 1 else [outer]
        place += (
            [modulo(each.place, constant(stride)), divide(each.place, constant(stride))]
            if stride > 1
            else [each.place]
        )
        if count > each.count:
            inside = both(inside, less(values[each], constant(each.count)))
    by_terms = {each.terms: each for each in sums}
    mapping: dict[Expr, Expr] = {}
    for expr in _places(operand):
        terms, offset = _terms(expr)
        known = by_terms.get(terms) or by_terms.get(_negated(terms))
        if known is not None:
            sign = 1 if terms in by_terms else -1
            total = multiply(values[known], constant(sign * known.step))
            total = add(total, constant(sign * known.low + offset))
            mapping[expr] = rebuild(expr, (total, constant(0))) if expr.op in _COMPARISONS else total
    (value,) = substitute([operand], mapping)
    copy = Temporary(name, operand.dtype, tuple(axis_size(a) for a in axes))
    block = Block(tuple(axes), (Store(name, tuple(axes), _within(value, inside)),))
    return block, copy, load(name, tuple(place), operand.dtype)


def _within(value: Expr, inside: Expr) -> Expr:
    """`value` without a load where `inside` does not hold."""
    if inside is TRUE:
        return value
    mapping: dict[Expr, Expr] = {}
    for expr in topological((value,)):
        if expr.op is Leaf.LOAD:
            valid, *position = substitute(expr.args, mapping)
            mapping[expr] = make(Leaf.LOAD, (both(valid, inside), *position), expr.dtype, expr.arg)
    return substitute([value], mapping)[0]
