"""A long reduction with few results becomes two blocks: partial results of runs of the axis, then their merge.

The runs depend on shape and dtype only, so the result has the same bits for every number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from petaflop.graph.symbolic import Dim, Expr, Leaf, as_expr, constant, divide, substitute, topological
from petaflop.ir.kernel import Block, Kernel, Reduction, Store, Temporary, axis, axis_size, load
from petaflop.ir.plan import SplitReduce

__all__ = ["Limit", "can_split", "split_reductions"]


@dataclass(frozen=True, slots=True)
class Limit:
    """In a block of partial results, `axis` runs over `part * size` to `part * size + size`, cut at its end."""

    axis: Expr
    part: Expr
    size: int


Limits = Mapping[int, Limit]


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


def split_reductions(kernel: Kernel, directives: Iterable[SplitReduce]) -> tuple[Kernel, dict[int, Limit]]:
    """`kernel` with the blocks that directives name cut in two, and the limits of the blocks of partial results."""
    splits = {directive.block: directive for directive in directives}
    if not splits:
        return kernel, {}
    nests: list[tuple[Block, ...]] = []
    temporaries = list(kernel.temporaries)
    limits: dict[int, Limit] = {}
    number = made = 0
    for nest in kernel.nests:
        blocks: list[Block] = []
        for block in nest:
            if number in splits:
                pair, limit, rooms = _halves(block, splits[number])
                limits[made + len(blocks)] = limit
                temporaries += rooms
                blocks += pair
            else:
                blocks.append(block)
            number += 1
        made += len(blocks)
        nests.append(tuple(blocks))
    return replace(kernel, nests=tuple(nests), temporaries=tuple(temporaries)), limits


def _halves(block: Block, split: SplitReduce) -> tuple[tuple[Block, Block], Limit, list[Temporary]]:
    """The block of partial results, the block that merges them, and the room for them."""
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

