"""A long reduction with few results becomes two blocks: partial results of runs of the axis, then their
merge.

The runs depend on shape and dtype only, so the result has the same bits for every number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from petaflop.graph.symbolic import Dim, Expr, Leaf, as_expr, constant, divide, substitute, topological
from petaflop.ir.kernel import Block, Reduction, Store, Temporary, axis, axis_size, load
from petaflop.ir.plan import SplitReduce

__all__ = ["Limit", "can_split", "halves"]


@dataclass(frozen=True, slots=True)
class Limit:
    """In a block of partial results, `axis` runs over `part * size` to `part * size + size`, cut at its
    end."""

    axis: Expr
    part: Expr
    size: int


def can_split(block: Block) -> bool:
    """Whether the block's reductions run over the same axes, apart from one another and not as a scan."""
    if not block.reductions or block.ordered:
        return False
    axes = block.reductions[0].axes
    names = {state.name for r in block.reductions for state in r.states}
    for r in block.reductions:
        own = {state.name for state in r.states}
        if r.scan or r.axes != axes or _states(r.step) & (names - own):
            return False
        if _states(state.initial for state in r.states):
            return False
    return True


def halves(block: Block, split: SplitReduce) -> tuple[tuple[Block, Block], Limit, list[Temporary]]:
    """The block of partial results, the block that merges them, the limit of the first, and the room between
    them."""
    number, size = split.block, split.size
    first = next(a for a in block.reductions[0].axes if a.arg == split.axis)
    count = _count(axis_size(first), size)
    part = axis(f"{first.arg}_part", count)
    states = [state for r in block.reductions for state in r.states]
    names = {state.name: f"part{number}_{state.name}" for state in states}
    shape = (count, *(axis_size(a) for a in block.axes))
    rooms = [Temporary(names[state.name], state.dtype, shape) for state in states]
    partial = tuple(Store(names[state.name], (part, *block.axes), state.expr) for state in states)
    merged = tuple(_merge(r, part, names, block.axes) for r in block.reductions)
    pair = (Block((part, *block.axes), partial, block.reductions), replace(block, reductions=merged))
    return pair, Limit(first, part, size), rooms


def _count(extent: Dim, size: int) -> Dim:
    count = divide(as_expr(extent) + (size - 1), constant(size))
    return int(count.arg) if isinstance(extent, int) else count


def _merge(r: Reduction, part: Expr, names: Mapping[str, str], axes: tuple[Expr, ...]) -> Reduction:
    """The reduction that folds the partial results."""
    others = {s.other: load(names[s.name], (part, *axes), s.dtype) for s in r.states}
    return replace(r, axes=(part,), step=tuple(substitute(r.merge, others)))


def _states(exprs: Iterable[Expr]) -> set[str]:
    return {expr.arg for expr in topological(exprs) if expr.op is Leaf.STATE}
