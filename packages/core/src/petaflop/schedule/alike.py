"""Axes that one nest has whole and another in two parts, cut to be alike.

Heads in groups are such: the product that reads a key for each group counts h as 4 * group + place, and what
reads its result counts h.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from petaflop.graph.symbolic import Expr, Leaf, constant, linear_terms, multiply
from petaflop.ir.kernel import Block, axis, axis_size
from petaflop.schedule.build import replace_axis

__all__ = ["Parts", "split_blocks", "split_common", "unlike"]

Parts = dict[Expr, tuple[Expr, Expr]]


def unlike(pairs: Iterable[tuple[Sequence[Expr], Sequence[Expr]]]) -> tuple[Parts, Parts]:
    """For pairs of what is stored and what is read: axes of the first and of the second that the other has in
    two parts, and such parts."""
    stored: Parts = {}
    read: Parts = {}
    for left, right in pairs:
        for ours, theirs in zip(left, right, strict=True):
            for whole, parted, found in ((ours, theirs, stored), (theirs, ours, read)):
                sizes = _part_sizes(parted)
                if whole.op is Leaf.AXIS and sizes and axis_size(whole) == sizes[0] * sizes[1]:
                    outer, inner = (
                        axis(f"{whole.arg}{letter}", size) for letter, size in zip("on", sizes, strict=True)
                    )
                    found[whole] = outer, inner
    return stored, read


def _part_sizes(expr: Expr) -> tuple[int, int] | None:
    """The sizes of a and b where the expression is a * (size of b) + b, both of known size."""
    terms, offset = linear_terms(expr)
    by_factor = sorted(((factor, term) for term, factor in terms.items()), key=lambda item: -item[0])
    if offset or len(by_factor) != 2 or any(term.op is not Leaf.AXIS for _, term in by_factor):
        return None
    (step, outer), (one, inner) = by_factor
    sizes = axis_size(outer), axis_size(inner)
    if one != 1 or step != sizes[1] or not isinstance(sizes[0], int) or not isinstance(sizes[1], int):
        return None
    return sizes[0], sizes[1]


def split_blocks(blocks: Mapping[int, tuple[Block, ...]], parts: Parts) -> dict[int, tuple[Block, ...]]:
    """The blocks with axes in parts."""
    result = dict(blocks)
    for whole, (outer, inner) in parts.items():
        size = axis_size(inner)
        assert isinstance(size, int)
        joined = multiply(outer, constant(size)) + inner
        for number, members in result.items():
            result[number] = tuple([replace_axis(b, whole, (outer, inner), joined) for b in members])
    return result


def split_common(axes: tuple[Expr, ...], parts: Parts) -> tuple[Expr, ...]:
    """Axes with those that have parts replaced by them."""
    return tuple(part for a in axes for part in parts.get(a, (a,)))
