"""Where an element of a buffer stands in memory: a Layout maps a logical index to a flat offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from petaflop.graph.symbolic import Dim, Expr, add, as_expr, constant, multiply

__all__ = ["Layout", "row_major"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Strided: the offset is the sum of index times stride, in elements."""

    strides: tuple[Dim, ...]

    def offset(self, index: Sequence[Expr]) -> Expr:
        """The flat offset of a logical index."""
        total = constant(0)
        for position, stride in zip(index, self.strides, strict=True):
            total = add(total, multiply(position, as_expr(stride)))
        return total


def row_major(shape: Sequence[Dim]) -> Layout:
    """The last axis is contiguous, and no element is left out.

    >>> row_major((2, 3, 4)).strides
    (12, 4, 1)
    """
    strides: list[Dim] = []
    step: Dim = 1
    for size in reversed(shape):
        strides.append(step)
        step = step * size
    return Layout(tuple(reversed(strides)))
