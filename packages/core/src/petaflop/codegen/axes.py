"""Choices about axes: which may be joined into one, and which goes into vector lanes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from petaflop.codegen.cost import Access, Summary, size_of
from petaflop.codegen.split_reduce import Limit
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr
from petaflop.ir.kernel import Block, axis_size, common_axes
from petaflop.ir.plan import Fuse

__all__ = ["edge_of", "fusable_groups", "reduce_levels", "vector_choice"]

CHAIN = 16  # additions in a row in one lane before a partial sum is put aside
MASKED = 1.5  # time of a step under a mask, where 1 is one without

Levels = tuple[tuple[str, int], ...]


def fusable_groups(
    blocks: Sequence[Block], summaries: Sequence[Summary], limits: Sequence[Limit]
) -> tuple[Fuse, ...]:
    """Neighbouring axes that every access of every block walks through as if they were one.

    The number of a partial reduction stays alone, and the axis that it limits may only be the outermost of a
    group.
    """
    alone = {limit.part for limit in limits}
    limited = {limit.axis for limit in limits}
    common = common_axes(tuple(blocks)) if len(blocks) > 1 else blocks[0].axes
    shared = set(common)
    groups: dict[tuple[str, ...], Fuse] = {}
    lists = [(common, range(len(blocks)))]
    for number, block in enumerate(blocks):
        lists.append((tuple(a for a in block.axes if a not in shared), range(number, number + 1)))
        lists += [(r.axes, range(number, number + 1)) for r in block.reductions if not r.scan]
    for axes, where in lists:
        run: list[Expr] = []
        for a in axes:
            usable = a not in alone and not any(a in block.ordered for block in blocks)
            if run and usable and a not in limited and all(_jointly(summaries[n], run[-1], a) for n in where):
                run.append(a)
                continue
            _add(groups, run)
            run = [a] if usable else []
        _add(groups, run)
    return tuple(groups.values())


def _add(groups: dict[tuple[str, ...], Fuse], run: list[Expr]) -> None:
    if len(run) > 1:
        names = tuple(a.arg for a in run)
        groups[names] = Fuse(names, "_".join(names))


def _jointly(summary: Summary, outer: Expr, inner: Expr) -> bool:
    size = axis_size(inner)
    if not isinstance(size, int) or outer in summary.numbers or inner in summary.numbers:
        return False
    for access in summary.accesses:
        if {outer, inner} & (access.irregular | access.guarded):
            return False
        if access.strides.get(outer, 0) != access.strides.get(inner, 0) * size:
            return False
    return True


# ---- vector lanes ----


def vector_choice(
    blocks: Sequence[Block],
    summaries: Sequence[Summary],
    common: Sequence[Expr],
    width: int,
    limits: Sequence[Limit],
    masks: bool,
) -> dict[Expr, Levels]:
    """The register tile of each chosen axis: a common axis for all blocks, or one of each block's own axes;
    with `masks`, a ragged last step may run in full under a mask."""
    if width < 2:
        return {}
    alone = {limit.part for limit in limits}
    shared = [a for a in common if a not in alone and not any(a in block.ordered for block in blocks)]
    best: dict[Expr, Levels] = {}
    least = float(len(blocks))
    for a in shared:
        costs = [_cost(summary, a, width, masked=masks and not _folded(a, blocks)) for summary in summaries]
        if sum(costs) < least * 0.95:
            least = sum(costs)
            best = {a: _tile(a, width, 4 if _has_reduction(blocks) else 1)}
    total = 0.0
    chosen: dict[Expr, Levels] = {}
    for block, summary in zip(blocks, summaries, strict=True):
        own = [a for a in block.axes if a not in common and a not in block.ordered]
        inner = list(_last_reduce_axes(block))
        options = [(_cost(summary, a, width, masked=masks and not _folded(a, blocks)), a) for a in own] + [
            (_cost(summary, a, width) * 1.02, a) for a in inner
        ]
        cost, a = min(options, key=lambda option: option[0], default=(1.0, None))  # type: ignore[assignment]
        if a is not None and cost < 0.95 and not _conflict(chosen, blocks, a):
            reducing = a in block.reduce_axes or bool(block.reductions)
            chosen[a] = _tile(a, width, 4 if reducing else 1)
            total += cost
        else:
            total += 1.0
    return chosen if total < least else best


def _conflict(chosen: dict[Expr, Levels], blocks: Sequence[Block], a: Expr) -> bool:
    """A block has one vector axis: `a` must not join another that was chosen for an earlier block."""
    for block in blocks:
        axes = {*block.axes, *block.reduce_axes}
        if a in axes and any(other in axes and other is not a for other in chosen):
            return True
    return False


def _has_reduction(blocks: Sequence[Block]) -> bool:
    return any(block.reductions for block in blocks)


def _last_reduce_axes(block: Block) -> list[Expr]:
    """The innermost reduce axis, where every reduction of the block ends with it and none is a scan."""
    last = {r.axes[-1] for r in block.reductions}
    if len(last) != 1 or any(r.scan for r in block.reductions):
        return []
    return list(last)


def edge_of(a: Expr, levels: Levels, blocks: Sequence[Block], summaries: Sequence[Summary]) -> str:
    """How the last, ragged step of an axis in lanes runs: one by one, or in full under a mask."""
    if levels[-1][0] != "vector" or _folded(a, blocks):
        return "peel"
    lanes = levels[-1][1]
    rest = size_of(axis_size(a)) % lanes
    cheaper = all(_rest(summary, a, lanes, rest, masked=True) < rest * _one(summary) for summary in summaries)
    return "mask" if cheaper else "peel"


def _folded(a: Expr, blocks: Sequence[Block]) -> bool:
    return any(a in block.reduce_axes for block in blocks)


def _cost(summary: Summary, a: Expr, width: int, masked: bool = False) -> float:
    """Time of a block with `a` in lanes, where 1 is its time without lanes."""
    size = size_of(axis_size(a))
    if not size:
        return 1.0
    steps = size // width * _wide(summary, a, width) + _rest(summary, a, width, size % width, masked)
    return steps / (size * _one(summary))


def _one(summary: Summary) -> float:
    return len(summary.accesses) + summary.operations


def _wide(summary: Summary, a: Expr, width: int) -> float:
    return summary.operations + sum(_access_cost(access, a, width) for access in summary.accesses)


def _rest(summary: Summary, a: Expr, width: int, rest: int, masked: bool) -> float:
    """The time of the elements that are left over from whole steps: a mask needs wide enough elements."""
    narrow = any(access.itemsize < 4 and access.strides.get(a, 0) for access in summary.accesses)
    alone = rest * _one(summary)
    return min(alone, MASKED * _wide(summary, a, width)) if masked and rest and not narrow else alone


def _access_cost(access: Access, a: Expr, width: int) -> float:
    if a in access.irregular:
        return 2.0 * width
    stride = access.strides.get(a, 0)
    if a in access.guarded and access.itemsize < 4:
        return 2.0 * width
    if stride == 0:
        return float(width) if access.is_store else 0.5
    return 1.0 if stride == 1 else 1.2 * width


def _tile(a: Expr, width: int, unroll: int) -> Levels:
    size = size_of(axis_size(a))
    while unroll > 1 and size < width * unroll:
        unroll //= 2
    return (("unroll", width * unroll), ("vector", width)) if unroll > 1 else (("vector", width),)


def reduce_levels(a: Expr, tile: Levels | None, blocks: Sequence[Block]) -> Levels:
    """The lanes of a reduce axis, and partial sums that keep the rounding error small."""
    sums = [r for block in blocks for r in block.reductions if a in r.axes and r.op is Op.ADD and not r.scan]
    lanes = tile[0][1] if tile else 1
    length = size_of(axis_size(a))
    chain = -(-length // lanes)
    levels = tile or ()
    if any(r.states[0].dtype.is_float for r in sums) and chain > CHAIN:
        run = max(CHAIN, 1 << math.isqrt(chain).bit_length() - 1)
        levels = (("block", run * lanes), *levels)
    return levels
