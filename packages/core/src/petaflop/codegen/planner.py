"""Which plan a kernel gets: rules over the Kernel and the Target, never over the name of a device or a model.

What decides about the order of a sum (`SplitReduce`, "block" levels) depends on shapes, dtypes and the vector
size, not on the number of threads, so that results have the same bits for every number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

from petaflop.codegen.axes import edge_of, fusable_groups, reduce_levels, vector_choice
from petaflop.codegen.chained import plan_chain
from petaflop.codegen.contraction import plan_contraction
from petaflop.codegen.cost import Summary, block_points, nanoseconds, points, size_of, summarize
from petaflop.codegen.nest import fuse_axes
from petaflop.codegen.product import Contraction, Pack
from petaflop.codegen.rewrite import rewrite
from petaflop.codegen.split_reduce import Limit, can_split
from petaflop.graph.symbolic import Expr
from petaflop.ir.kernel import Block, Kernel, axis_size, common_axes
from petaflop.ir.plan import Nest, Plan, Rewrite, Split, SplitReduce
from petaflop.ir.target import Target

__all__ = ["default_plan", "naive_plan"]

TASK_NANOSECONDS = 20_000.0  # a task is worth handing out from here on
MOST_TASKS = 64
FEW = 16  # fewer independent points than this leave threads idle
LONG = 1 << 18  # points from which on idle threads matter
PART = 1 << 16  # least points of a partial reduction
ALIGNED = (256, 32)  # whole register tiles of most dtypes: a run that is no multiple ends in a ragged step
ROWS = 4  # of a matrix that meets a vector, at a time


def naive_plan(kernel: Kernel) -> Plan:
    """The kernel as it is written, one task, one element at a time: always right, and the check of every
    other plan."""
    return Plan("naive", tuple(Nest(numbers) for numbers, _ in _numbered(kernel)))


def default_plan(kernel: Kernel, target: Target) -> Plan:
    """The plan that the cost model chooses for `target`."""
    rewrites: list[Rewrite] = []
    special: dict[int, Contraction] = {}  # by the number of a nest after the rewrites
    packs: dict[int, Pack] = {}
    added = 0
    found = []
    for position, (numbers, blocks) in enumerate(_numbered(kernel)):
        contraction = plan_contraction(kernel, numbers[0], blocks, target)
        contraction = contraction or plan_chain(kernel, numbers[0], blocks, target)
        if contraction is not None:
            added += contraction.added
            special[position + added] = contraction
            start = position + added - len(contraction.packs)
            packs |= {start + number: pack for number, pack in enumerate(contraction.packs)}
        found.append((numbers, blocks, contraction))
    for numbers, blocks, contraction in reversed(
        found
    ):  # from the end, so that numbers before stay as they are
        if contraction is not None:
            rewrites += contraction.rewrites
        else:
            rewrites += reversed(_splits(kernel, numbers, blocks))
    rewritten = rewrite(kernel, rewrites)
    kernel, limits = rewritten.kernel, rewritten.limits
    nests: list[Nest] = []
    for position, (numbers, blocks) in enumerate(_numbered(kernel)):
        if position in special:
            chosen = special[position]
            nests.append(Nest(numbers, chosen.fuse, chosen.split, chosen.order, chosen.matrix))
            continue
        if position in packs:
            nests.append(Nest(numbers, *packs[position]))
            continue
        apart = any(number in limits for number in numbers) or _too_few(blocks)
        groups = (
            [((n,), (b,)) for n, b in zip(numbers, blocks, strict=True)] if apart else [(numbers, blocks)]
        )
        for group, members in groups:
            inside = [limits[number] for number in group if number in limits]
            nests.append(_plan_nest(kernel, group, members, target, inside))
    return Plan("default", tuple(nests), tuple(rewrites))


def _numbered(kernel: Kernel) -> list[tuple[tuple[int, ...], tuple[Block, ...]]]:
    """Each nest with the numbers of its blocks."""
    result = []
    first = 0
    for nest in kernel.nests:
        result.append((tuple(range(first, first + len(nest))), nest))
        first += len(nest)
    return result


# ---- what can run at the same time ----


def _too_few(blocks: Sequence[Block]) -> bool:
    """Whether the blocks of a nest had better each use all threads, one after another."""
    if len(blocks) == 1:
        return False
    outer = points(a for a in common_axes(tuple(blocks)) if not _is_ordered(a, blocks))
    return outer < FEW and sum(block_points(block) for block in blocks) >= LONG


def _is_ordered(a: Expr, blocks: Sequence[Block]) -> bool:
    return any(a in block.ordered for block in blocks)


def _splits(kernel: Kernel, numbers: Sequence[int], blocks: Sequence[Block]) -> list[SplitReduce]:
    """Long reductions with few results, where the nest has too few points to keep threads busy."""
    if len(blocks) > 1 and not _too_few(blocks):
        return []
    result = []
    for number, block in zip(numbers, blocks, strict=True):
        total = block_points(block)
        if total < LONG or not can_split(block):
            continue
        summary = summarize(kernel, block)
        longest = max(block.reductions[0].axes, key=lambda a: size_of(axis_size(a)))
        along_rows = all(access.strides.get(longest, 0) <= 1 for access in summary.accesses)
        free = points(block.axes) // (1 if along_rows else 32)
        length = size_of(axis_size(longest))
        if free < FEW and length >= 64:
            parts = max(2, min(MOST_TASKS, total // PART, length // 32))
            size = -(-length // parts)
            whole = next(step for step in ALIGNED if size >= 8 * step or step == ALIGNED[-1])
            result.append(SplitReduce(number, longest.arg, -(-size // whole) * whole))
    return result


# ---- one nest ----


def _plan_nest(
    kernel: Kernel,
    numbers: tuple[int, ...],
    blocks: tuple[Block, ...],
    target: Target,
    limits: Sequence[Limit],
) -> Nest:
    summaries = [summarize(kernel, block) for block in blocks]
    fuse = fusable_groups(blocks, summaries, limits)
    fused = fuse_axes(blocks, Nest(numbers, fuse)) if fuse else blocks
    common = common_axes(fused) if len(fused) > 1 else fused[0].axes
    summaries = [summarize(kernel, block) for block in fused] if fuse else summaries
    width = max(1, target.vector_bytes // max(summary.itemsize for summary in summaries))
    tiles = vector_choice(fused, summaries, common, width, limits, target.has_masked_access)
    tiles |= _side_by_side(fused, summaries, tiles, target)
    reduce_lanes = {a: reduce_levels(a, tiles.get(a), fused) for block in fused for a in block.reduce_axes}
    splits = {a.arg: Split(a.arg, levels) for a, levels in reduce_lanes.items() if levels}
    own = {a for block in fused for a in block.axes if a not in common}
    masks = target.has_masked_access
    edges = {a: edge_of(a, levels, fused, summaries) if masks else "peel" for a, levels in tiles.items()}
    splits |= {a.arg: Split(a.arg, tiles[a], edges[a]) for a in own if a in tiles}
    time = nanoseconds(fused, summaries, width if tiles else 1)
    threads = _threads(common, fused, tiles, time)
    for a in common:
        levels = (*threads.get(a, ()), *tiles.get(a, ()))
        if levels:
            splits[a.arg] = Split(a.arg, levels, edges.get(a, "peel"))
    return Nest(numbers, fuse, tuple(splits.values()))


Levels = tuple[tuple[str, int], ...]


def _side_by_side(
    blocks: Sequence[Block], summaries: Sequence[Summary], tiles: dict[Expr, Levels], target: Target
) -> dict[Expr, Levels]:
    """A matrix times a vector, with lanes along both: some rows at a time, which are as many streams from
    memory and share what is read of the vector."""
    (block, summary) = (blocks[0], summaries[0])
    if len(blocks) > 1 or len(block.reductions) != 1 or not block.axes or block.ordered:
        return {}
    lanes, rows = block.reductions[0].axes[-1], block.axes[-1]
    reads = [access for access in summary.accesses if not access.is_store and lanes in access.strides]
    fixed = not any({lanes, rows} & (access.irregular | access.guarded) for access in summary.accesses)
    moved = [rows in access.strides for access in reads]
    few = size_of(axis_size(rows)) < ROWS * 2 or size_of(axis_size(lanes)) < ROWS * 64
    if lanes not in tiles or block.reductions[0].scan or few or not fixed or all(moved) or not any(moved):
        return {}
    width = tiles[lanes][-1][1]
    vectors = 2 if target.vector_registers >= ROWS * 6 else 1
    wide: Levels = (("unroll", vectors * width), ("vector", width)) if vectors > 1 else (("vector", width),)
    return {rows: (("unroll", ROWS),), lanes: wide}


def _threads(
    common: Sequence[Expr], blocks: Sequence[Block], tiles: dict[Expr, Levels], time: float
) -> dict[Expr, Levels]:
    """How the common axes are cut into tasks: the outermost axes first, as many tasks as the work is
    worth."""
    wanted = int(min(MOST_TASKS, time / TASK_NANOSECONDS))
    result: dict[Expr, Levels] = {}
    for a in common:
        if wanted < 2:
            break
        if _is_ordered(a, blocks):
            continue
        size = size_of(axis_size(a))
        step = tiles[a][0][1] if a in tiles else 1
        steps = -(-size // step)
        if steps < 2:
            continue
        chunk = -(-steps // wanted) * step
        result[a] = (("thread", chunk),)
        wanted //= -(-size // chunk)
    return result
