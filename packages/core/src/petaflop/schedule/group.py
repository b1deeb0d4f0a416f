"""Which stages share a nest, and which nests share a launch.

A consumer joins its producer's nest when every element that it reads there was stored at the same point of
their common axes. Unrelated small nests of one depth are then put side by side in one kernel.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, Leaf, linear_terms, product, topological
from petaflop.ir.kernel import Block, axes_of, axis_size, loads_of
from petaflop.schedule.alike import split_blocks, split_common, unlike
from petaflop.schedule.forward import is_ordered
from petaflop.schedule.materialize import size_hint

__all__ = [
    "Group",
    "Stage",
    "group_stages",
    "in_order",
    "is_contraction",
    "leading",
    "merge_groups",
    "place_side_by_side",
]

_SMALL_POINTS = 1 << 14
_TINY_POINTS = 1 << 11
_MIN_PARALLEL = 16
_MAX_ARGUMENTS = 96
_MAX_OPERATIONS = 1024  # distinct expressions in one kernel, index arithmetic included


@dataclass(slots=True)
class Stage:
    """A node that gets memory: its blocks, the stages it reads, and those that it must not share a nest
    with."""

    number: int
    name: str
    blocks: tuple[Block, ...]
    reason: str
    reads: set[int] = field(default_factory=set)
    apart: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Group:
    """A nest in the making: its stages in order, their blocks, and the axes that all of the blocks share.

    `operations` and `arguments`, what its kernel would hold, are kept because every possible partner asks. A
    result that is larger than `private` bytes at a point of those axes gets memory of its own.
    """

    stages: list[int]
    blocks: dict[int, tuple[Block, ...]]
    common: tuple[Expr, ...]
    why: str = ""
    operations: int = 0
    arguments: frozenset[str] = frozenset()
    private: int = 64 << 10

    @property
    def all_blocks(self) -> list[Block]:
        return [block for number in sorted(self.stages) for block in self.blocks[number]]


def is_contraction(block: Block) -> bool:
    """A sum of products in which two operands each lack a parallel axis that the other has: data is used
    again."""
    for r in block.reductions:
        if r.op is not Op.ADD or r.scan:
            continue
        parallel = {a for a in block.axes if axis_size(a) != 1}
        lacking = [parallel - axes_of(load.args) for load in loads_of((r.term,))]
        if any(a - b and b - a for a in lacking for b in lacking):
            return True
    return False


def block_points(block: Block) -> int:
    """Points that a block visits, its reductions included."""
    every = (*block.axes, *block.reduce_axes)
    return size_hint(product(axis_size(a) for a in every))


# ---- joining a producer's nest ----


def group_stages(stages: Sequence[Stage]) -> list[Group]:
    """Nests of stages, in an order in which they can run. `stages` are sorted: producers before consumers."""
    group_of: dict[int, Group] = {}
    by_name = {stage.name: stage.number for stage in stages}
    for stage in stages:
        shared = _shared_axes(stage.blocks)
        blocks = tuple(leading(block, shared) for block in stage.blocks)
        mine = Group(
            [stage.number], {stage.number: blocks}, shared, "", _expressions(blocks), _arguments(blocks)
        )
        group_of[stage.number] = mine
        producers = {id(group_of[n]): group_of[n] for n in stage.reads if n not in stage.apart}
        for producer in sorted(producers.values(), key=lambda g: -max(g.stages)):
            joined = merge_groups(producer, mine, stages, group_of, by_name, _obstacle)
            if isinstance(joined, str):
                mine.why = mine.why or joined
            else:
                mine = joined
                group_of.update(dict.fromkeys(joined.stages, joined))
    return in_order(list({id(g): g for g in group_of.values()}.values()), stages, group_of)


def _shared_axes(blocks: Sequence[Block]) -> tuple[Expr, ...]:
    """The axes that every block has, without those that must run in order."""
    barred = {a for block in blocks for a in block.ordered}
    return tuple(
        a for a in blocks[0].axes if a not in barred and all(a in block.axes for block in blocks[1:])
    )


def leading(block: Block, shared: tuple[Expr, ...]) -> Block:
    """The block with its axes `shared` before the others, in that order."""
    if block.axes[: len(shared)] == shared:
        return block
    return replace(block, axes=(*shared, *(a for a in block.axes if a not in shared)))


Position = tuple[Expr, ...]
Obstacle = Callable[[Group, Group, Mapping[Expr, Expr], tuple[Expr, ...]], str]


def merge_groups(
    producer: Group,
    consumer: Group,
    stages: Sequence[Stage],
    group_of: Mapping[int, Group],
    by_name: Mapping[str, int],
    obstacle: Obstacle,
) -> Group | str:
    """The two as one nest, or why not: `obstacle` judges by the axes that they share and what those are
    called."""
    members = set(producer.stages)
    if any(stages[n].apart & members for n in consumer.stages):
        return "it needs all of an earlier result"
    if (
        producer.operations + consumer.operations > _MAX_OPERATIONS
        or len(producer.arguments | consumer.arguments) > _MAX_ARGUMENTS
    ):
        return "the kernel is full"
    if _would_cycle(producer, consumer, stages, group_of):
        return "another kernel must run between"
    producer, consumer = _alike(producer, consumer, by_name)
    mapping = _align(producer, consumer, by_name)
    common = tuple(c for c in consumer.common if c in mapping.values())
    reason = obstacle(producer, consumer, mapping, common)
    if reason:
        return reason
    renamed = {p: c for p, c in mapping.items() if c in common and p is not c}
    if len(producer.stages) > len(consumer.stages):  # the smaller one takes over the axes of the larger
        backward = {c: p for p, c in renamed.items()}
        common = tuple(backward.get(c, c) for c in common)
        blocks = _renamed(consumer, backward, common) | _renamed(producer, {}, common)
    else:
        blocks = _renamed(producer, renamed, common) | _renamed(consumer, {}, common)
    return Group(
        sorted((*producer.stages, *consumer.stages)),
        blocks,
        common,
        producer.why,
        producer.operations + consumer.operations,
        producer.arguments | consumer.arguments,
    )


def _renamed(
    group: Group, mapping: dict[Expr, Expr], common: tuple[Expr, ...]
) -> dict[int, tuple[Block, ...]]:
    return {n: tuple(leading(b.map(mapping), common) for b in group.blocks[n]) for n in group.stages}


def _expressions(blocks: Iterable[Block]) -> int:
    return len(topological(expr for block in blocks for expr in block.exprs))


def _arguments(blocks: Sequence[Block]) -> frozenset[str]:
    """The buffers that blocks read or write."""
    read = {load.arg[0] for block in blocks for load in loads_of(block.exprs)}
    return frozenset(read | {store.buffer for block in blocks for store in block.stores})


def _would_cycle(
    producer: Group, consumer: Group, stages: Sequence[Stage], group_of: Mapping[int, Group]
) -> bool:
    """Whether something outside that the consumer needs itself needs the producer."""
    first = min(producer.stages)
    seen = {id(producer), id(consumer)}
    stack = [group_of[n] for m in consumer.stages for n in stages[m].reads if id(group_of[n]) not in seen]
    while stack:
        group = stack.pop()
        if id(group) in seen:
            continue
        seen.add(id(group))
        for member in group.stages:
            for n in stages[member].reads:
                if group_of[n] is producer:
                    return True
                if max(group_of[n].stages) > first:
                    stack.append(group_of[n])
    return False


def _reads(
    producer: Group, consumer: Group, by_name: Mapping[str, int]
) -> Iterator[tuple[Position, Position]]:
    """Where the producer stored a result, and where the consumer reads it."""
    for block in consumer.all_blocks:
        for load in loads_of(block.exprs):
            number = by_name.get(load.arg[0])
            if number is not None and number in producer.blocks:
                yield producer.blocks[number][0].stores[0].index, load.args[1:]


def _alike(producer: Group, consumer: Group, by_name: Mapping[str, int]) -> tuple[Group, Group]:
    """The two with axes cut that one has whole and the other in parts."""
    found = unlike(_reads(producer, consumer, by_name))
    first, second = (
        replace(g, blocks=split_blocks(g.blocks, parts), common=split_common(g.common, parts)) if parts else g
        for g, parts in zip((producer, consumer), found, strict=True)
    )
    return first, second


def _align(producer: Group, consumer: Group, by_name: Mapping[str, int]) -> dict[Expr, Expr]:
    """Common axes of the producer → axes of the consumer that equal them wherever the consumer reads a
    result."""
    mapping: dict[Expr, Expr] = {}
    barred: set[Expr] = set()
    for stored, read in _reads(producer, consumer, by_name):
        pairs = _matches(stored, read)
        for shared in producer.common:
            found = pairs.get(shared)
            if found is None or found not in consumer.common or mapping.get(shared, found) is not found:
                barred.add(shared)
            else:
                mapping[shared] = found
    taken: set[Expr] = set()
    for shared in producer.common:
        target = mapping.get(shared)
        if target is not None and (shared in barred or target in taken):
            del mapping[shared]
        elif target is not None:
            taken.add(target)
    return mapping


def _matches(stored: Sequence[Expr], read: Sequence[Expr]) -> dict[Expr, Expr]:
    """Axes of `stored` → axes of `read`, for the dimensions in which the two are the same sum of axes."""
    pairs: dict[Expr, Expr] = {}
    for ours, theirs in zip(stored, read, strict=True):
        (left, left_offset), (right, right_offset) = linear_terms(ours), linear_terms(theirs)
        if left_offset != right_offset or len(left) != len(right):
            continue
        by_factor = {factor: term for term, factor in right.items()}
        candidate = {term: by_factor.get(factor) for term, factor in left.items()}
        if all(
            term.op is Leaf.AXIS and other is not None and other.op is Leaf.AXIS and term.args == other.args
            for term, other in candidate.items()
        ):
            pairs.update({term: other for term, other in candidate.items() if other is not None})
    return pairs


def _obstacle(
    producer: Group, consumer: Group, mapping: Mapping[Expr, Expr], common: tuple[Expr, ...]
) -> str:
    points = sum(block_points(b) for g in (producer, consumer) for b in g.all_blocks)
    contracting = [any(map(is_contraction, g.all_blocks)) for g in (producer, consumer)]
    whole = len(mapping) == len(producer.common)
    if contracting[1] and points > _TINY_POINTS:
        return "a contraction reads it more than once"
    if contracting[0] and points > _TINY_POINTS:
        aligned = all(set(b.axes) == set(common) and not b.reductions for b in consumer.all_blocks)
        if not (whole and aligned):
            return "the tiles of a contraction are not its rows"
    if any(is_ordered(b) for b in producer.all_blocks) and not whole:
        return "it needs all of an earlier result"
    if whole and len(common) == len(consumer.common):
        return ""
    parallel = size_hint(product(axis_size(a) for a in common))
    if points > _SMALL_POINTS and parallel < _MIN_PARALLEL:
        return "too few rows in common to share between cores"
    return ""


def in_order(groups: list[Group], stages: Sequence[Stage], group_of: Mapping[int, Group]) -> list[Group]:
    """Producers first; among those that are ready, the one whose stages were asked for first."""
    needs = {
        id(g): {id(group_of[n]) for m in g.stages for n in stages[m].reads | stages[m].apart} - {id(g)}
        for g in groups
    }
    users: dict[int, list[Group]] = {id(g): [] for g in groups}
    for g in groups:
        for need in needs[id(g)]:
            users[need].append(g)
    waiting = {key: len(value) for key, value in needs.items()}
    ready = [(min(g.stages), id(g), g) for g in groups if not waiting[id(g)]]
    heapq.heapify(ready)
    result = []
    while ready:
        _, _, g = heapq.heappop(ready)
        result.append(g)
        for user in users[id(g)]:
            waiting[id(user)] -= 1
            if not waiting[id(user)]:
                heapq.heappush(ready, (min(user.stages), id(user), user))
    assert len(result) == len(groups), "groups depend on each other in a circle"
    return result


# ---- unrelated nests in one launch ----


def place_side_by_side(groups: Sequence[Group], stages: Sequence[Stage]) -> list[list[Group]]:
    """Launches: nests of equal depth that do not depend on each other share one, up to the caps."""
    owner = {n: position for position, g in enumerate(groups) for n in g.stages}
    depth: list[int] = []
    for g in groups:
        needs = {owner[n] for m in g.stages for n in stages[m].reads | stages[m].apart} - {len(depth)}
        depth.append(1 + max((depth[n] for n in needs), default=-1))
    launches: list[list[Group]] = []
    open_at: dict[int, list[Group]] = {}
    for g, level in zip(groups, depth, strict=True):
        current = open_at.get(level)
        if current is not None and _fits(current, g):
            current.append(g)
            continue
        launches.append([g])
        if not any(map(is_contraction, g.all_blocks)):
            open_at[level] = launches[-1]
    return (
        launches
        if all(len(launch) == 1 for launch in launches)
        else _order_launches(launches, groups, stages, owner)
    )


def _fits(current: Sequence[Group], g: Group) -> bool:
    if any(map(is_contraction, g.all_blocks)):
        return False
    return (
        sum(c.operations for c in current) + g.operations <= _MAX_OPERATIONS
        and len(g.arguments.union(*(c.arguments for c in current))) <= _MAX_ARGUMENTS
    )


def _order_launches(
    launches: list[list[Group]], groups: Sequence[Group], stages: Sequence[Stage], owner: Mapping[int, int]
) -> list[list[Group]]:
    place = {id(g): number for number, launch in enumerate(launches) for g in launch}
    needs: list[set[int]] = []
    for number, launch in enumerate(launches):
        read = {n for g in launch for m in g.stages for n in stages[m].reads | stages[m].apart}
        needs.append({place[id(groups[owner[n]])] for n in read} - {number})
    users: list[list[int]] = [[] for _ in launches]
    for number, need in enumerate(needs):
        for other in need:
            users[other].append(number)
    waiting = [len(need) for need in needs]
    ready = [number for number, count in enumerate(waiting) if count == 0]
    result: list[list[Group]] = []
    while ready:
        number = heapq.heappop(ready)
        result.append(launches[number])
        for user in users[number]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    assert len(result) == len(launches), "launches depend on each other in a circle"
    return result
