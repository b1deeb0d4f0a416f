"""The scheduler: a walk of the graph in, kernels on memory slots out.

materialize.py chooses the nodes that get memory, build.py turns each into blocks, group.py puts blocks that
belong together into nests and launches; here they become kernels with canonical names, so that equal
structures are equal.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from petaflop.graph.node import Node
from petaflop.graph.symbolic import Dim, Expr, product, substitute, variables_of
from petaflop.graph.view import is_alias
from petaflop.ir.kernel import (
    Argument,
    Block,
    Kernel,
    Temporary,
    axis,
    axis_size,
    load,
    loads_of,
    state,
)
from petaflop.ir.schedule import Schedule, Slot, Step
from petaflop.schedule.build import build_block, runs_over_nothing
from petaflop.schedule.chain import join_chains
from petaflop.schedule.forward import forward_values
from petaflop.schedule.group import Group, Stage, group_stages, place_side_by_side
from petaflop.schedule.materialize import choose_stages, is_kernel

__all__ = ["schedule"]


@dataclass(slots=True)
class _Memory:
    """Names of buffers while kernels are built: by node, and what each name stands for."""

    slots: list[Slot] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)
    stage_of: dict[str, int] = field(default_factory=dict)

    def add(self, node: Node, name: str, slot: Slot) -> None:
        self.names[node] = name
        self.number[name] = len(self.slots)
        self.slots.append(slot)

    def base(self, name: str) -> int:
        """The slot whose memory a name ends up in."""
        number = self.number[name]
        while (below := self.slots[number].base) is not None:
            number = below
        return number

    def seen(self) -> set[str]:
        """What may be read from elsewhere: it is kept, or its memory has another name as well."""
        bases = {slot.base for slot in self.slots}
        slots = ((name, number, self.slots[number]) for name, number in self.number.items())
        return {name for name, k, slot in slots if slot.kept or slot.base is not None or k in bases}


def schedule(
    order: Sequence[Node], roots: Set[Node], in_place: Set[Node] = frozenset(), fuse: bool = True
) -> Schedule:
    """Kernels that compute `roots`. `order` is their toposort; `in_place` are ASSIGNs that may overwrite
    their target."""
    chosen = choose_stages(order, roots, in_place, fuse)
    stages, memory = _stages(order, chosen, roots, in_place)
    seen = memory.seen()
    if fuse:
        groups = join_chains(group_stages(stages), stages, seen)
        launches = place_side_by_side(groups, stages)
    else:
        launches = [[Group([s.number], {s.number: s.blocks}, (), "fusion is off")] for s in stages]
    used_by: dict[str, set[int]] = {}
    for number, launch in enumerate(launches):
        for group in launch:
            for block in group.all_blocks:
                for read in loads_of(block.exprs):
                    used_by.setdefault(read.arg[0], set()).add(number)
    steps = [_step(number, launch, stages, memory, used_by, seen) for number, launch in enumerate(launches)]
    steps = [step for step in steps if step.kernel.blocks]
    variables = variables_of(v for step in steps for v in step.kernel.variables)
    return Schedule(tuple(memory.slots), tuple(steps), tuple(variables))


# ---- stages ----


def _stages(
    order: Sequence[Node], chosen: Mapping[Node, str], roots: Set[Node], in_place: Set[Node]
) -> tuple[list[Stage], _Memory]:
    """The stages, producers first, with every read of old contents before the write that replaces them."""
    allowed = set(in_place)
    while True:
        memory = _name_memory(order, chosen, roots, allowed)
        nodes = [node for node in order if node in chosen]
        stages = []
        for number, node in enumerate(nodes):
            name = memory.names[node]
            written = node in allowed
            blocks = build_block(node, name, memory.names, written)
            if written:
                blocks = tuple(_read_where_written(b, memory, name) for b in blocks)
                if any(_overlaps(b, memory, name) for b in blocks):
                    allowed.discard(node)
                    break
            stages.append(Stage(number, name, blocks, chosen[node]))
            if is_kernel(node):  # the user's blocks read whole buffers: nothing joins them
                stages[-1].apart.update(memory.stage_of.values())
        else:
            blocked = _connect(stages, nodes, memory, allowed)
            if blocked is None:
                return _renumber(_without_dead(stages, memory)), memory
            allowed.discard(blocked)


def _name_memory(
    order: Sequence[Node], chosen: Mapping[Node, str], roots: Set[Node], allowed: Set[Node]
) -> _Memory:
    memory = _Memory()
    given: dict[int, int] = {}
    for position, node in enumerate(order):
        if node.buffer is not None:  # two leaves may be the same memory: a parameter and its gradient target
            base = given.setdefault(id(node.buffer), len(memory.slots))
            same = None if base == len(memory.slots) else base
            memory.add(node, f"m{position}", Slot(node.dtype, node.shape, position, given=True, base=same))
        elif is_alias(node) and node not in chosen:
            base = memory.number[memory.names[node.sources[0]]]
            memory.add(node, f"v{position}", Slot(node.dtype, node.shape, position, base=base))
        elif node in chosen:
            over = memory.number[memory.names[node.sources[0]]] if node in allowed else None
            slot = Slot(node.dtype, node.shape, position, kept=node in roots, base=over)
            memory.add(node, f"s{position}", slot)
            memory.stage_of[f"s{position}"] = len(memory.stage_of)
    return memory


def _read_where_written(block: Block, memory: _Memory, name: str) -> Block:
    """Reads of the old contents at the very element that is stored become reads of the argument that is
    written."""
    target = memory.number[name]
    mapping = {}
    for read in loads_of(block.exprs):
        slot = memory.slots[memory.number[read.arg[0]]]
        same = memory.base(read.arg[0]) == memory.base(name) and slot.shape == memory.slots[target].shape
        if same and read.dtype is memory.slots[target].dtype and read.args[1:] == block.stores[0].index:
            mapping[read] = load(name, read.args[1:], read.dtype, read.args[0], read.arg[1])
    return block.map(mapping) if mapping else block


def _overlaps(block: Block, memory: _Memory, name: str) -> bool:
    """Whether the block reads, at another element, the memory that it writes."""
    return any(
        read.arg[0] != name and memory.base(read.arg[0]) == memory.base(name)
        for read in loads_of(block.exprs)
    )


def _connect(stages: list[Stage], nodes: Sequence[Node], memory: _Memory, allowed: Set[Node]) -> Node | None:
    """Fill in who reads whom and sort; returns an in-place write that cannot be ordered, if there is one."""
    versions = _versions(nodes, memory, allowed)
    stage_at = {memory.number[name]: number for name, number in memory.stage_of.items()}
    for stage in stages:
        before = memory.slots[memory.number[stage.name]].base
        if (
            before is not None and before in stage_at
        ):  # it writes over what another stage wrote, even where it reads nothing of it
            stage.reads.add(stage_at[before])
            stage.apart.add(stage_at[before])
        for block in stage.blocks:
            for read in loads_of(block.exprs):
                name = read.arg[0]
                producer = memory.stage_of.get(name)
                alias = memory.slots[memory.number[name]].base
                if producer is None and alias is not None and not memory.slots[memory.number[name]].given:
                    producer = stage_at.get(alias)
                    if producer is not None:
                        stage.apart.add(producer)  # under another shape: all of it must be there
                if producer is not None and producer != stage.number:
                    stage.reads.add(producer)
                for writer in versions.get(memory.base(name), ()):  # who replaces what this reads
                    if writer != stage.number and (producer is None or writer > producer):
                        stages[writer].apart.add(stage.number)
                        stages[writer].reads.add(stage.number)
                        break
    order = _sorted(stages)
    if len(order) == len(stages):
        stages[:] = [stages[k] for k in order]
        return None
    stuck = [nodes[k] for k in range(len(nodes)) if k not in set(order) and nodes[k] in allowed]
    assert stuck, "stages depend on each other in a circle"
    return stuck[0]


def _versions(nodes: Sequence[Node], memory: _Memory, allowed: Set[Node]) -> dict[int, list[int]]:
    """Memory → the stages that overwrite it in place, in order."""
    versions: dict[int, list[int]] = {}
    for k, node in enumerate(nodes):
        if node in allowed:
            versions.setdefault(memory.base(memory.names[node]), []).append(k)
    return versions


def _sorted(stages: Sequence[Stage]) -> list[int]:
    users: dict[int, list[int]] = {s.number: [] for s in stages}
    waiting = {s.number: len(s.reads) for s in stages}
    for s in stages:
        for need in s.reads:
            users[need].append(s.number)
    ready = [number for number, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for user in users[number]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    return order


def _without_dead(stages: Sequence[Stage], memory: _Memory) -> list[Stage]:
    """The stages whose results are kept or read: an assignment may have replaced all of a value."""
    live: list[Stage] = []
    needed: set[int] = set()
    for stage in reversed(stages):
        slot = memory.slots[memory.number[stage.name]]
        if slot.kept or slot.base is not None or memory.number[stage.name] in needed:
            live.append(stage)
            names = {read.arg[0] for block in stage.blocks for read in loads_of(block.exprs)}
            needed.update(number for name in names for number in (memory.number[name], memory.base(name)))
    return live[::-1]


def _renumber(stages: Sequence[Stage]) -> list[Stage]:
    new = {stage.number: position for position, stage in enumerate(stages)}
    for stage in stages:
        stage.number = new[stage.number]
        stage.reads = {new[n] for n in stage.reads if n in new}
        stage.apart = {new[n] for n in stage.apart if n in new}
    return list(stages)


# ---- kernels ----


def _step(
    number: int,
    launch: Sequence[Group],
    stages: Sequence[Stage],
    memory: _Memory,
    used_by: Mapping[str, set[int]],
    seen: Set[str],
) -> Step:
    """One launch as a kernel: temporaries split off, names made canonical."""
    nests = []
    temporaries: list[Temporary] = []
    for group in launch:
        names = [stages[n].name for n in group.stages]
        outside = {name for name in names if name in seen or used_by.get(name, set()) - {number}}
        blocks = tuple(b for b in forward_values(group.all_blocks, outside) if not runs_over_nothing(b))
        private, blocks = _make_private(blocks, group, outside, memory)
        inside = {temporary.name for temporary in private}
        # else nobody reads what the group computes: an assignment replaced it, or its readers are empty
        if any(store.buffer not in inside for block in blocks for store in block.stores):
            nests.append(blocks)
            temporaries += private
    reasons = [stages[max(group.stages)].reason for group in launch]
    why = [group.why for group in launch if group.why]
    reason = reasons[0] if len(launch) == 1 else f"{len(launch)} unrelated results side by side"
    return _canonical(nests, temporaries, memory, reason + (f"; starts here because {why[0]}" if why else ""))


def _make_private(
    blocks: tuple[Block, ...], group: Group, outside: Set[str], memory: _Memory
) -> tuple[list[Temporary], tuple[Block, ...]]:
    """Results that only this nest reads become temporaries whose leading dimensions are the common axes."""
    temporaries: list[Temporary] = []
    kept: dict[str, tuple[int, ...]] = {}  # the dimensions that each keeps
    for store in [s for b in blocks for s in b.stores]:
        slot = memory.slots[memory.number[store.buffer]]
        if store.buffer in outside or store.buffer in kept:
            continue
        leading = [store.index.index(a) for a in group.common if a in store.index]
        rest = [k for k, size in enumerate(slot.shape) if k not in leading and size != 1]
        size = product((*(slot.shape[k] for k in rest), slot.dtype.itemsize))
        if len(leading) < len(group.common) or not isinstance(size, int) or size > group.private:
            continue
        kept[store.buffer] = (*leading, *rest)
        shape = tuple(slot.shape[k] for k in kept[store.buffer])
        temporaries.append(Temporary(store.buffer, slot.dtype, shape, len(leading)))
    return temporaries, tuple(_reindex(b, kept) for b in blocks)


def _reindex(block: Block, kept: Mapping[str, Sequence[int]]) -> Block:
    """Loads and stores of the buffers in `kept` with those dimensions, in that order."""
    mapping: dict[Expr, Expr] = {}
    for read in loads_of(block.exprs):  # inner loads come first
        if (name := read.arg[0]) in kept:
            valid, *place = substitute(read.args, mapping)
            mapping[read] = load(name, [place[k] for k in kept[name]], read.dtype, valid, read.arg[1])
    block = block.map(mapping)
    if all(s.buffer not in kept for s in block.stores):
        return block
    stores = tuple(
        replace(s, index=tuple(s.index[k] for k in kept[s.buffer])) if s.buffer in kept else s
        for s in block.stores
    )
    return replace(block, stores=stores)


def _canonical(
    nests: Sequence[tuple[Block, ...]], temporaries: Sequence[Temporary], memory: _Memory, reason: str
) -> Step:
    """Arguments, axes and states named by position, so that equal kernels have equal texts."""
    written = [s.buffer for nest in nests for b in nest for s in b.stores]
    read = [r.arg[0] for nest in nests for b in nest for r in loads_of(b.exprs)]
    private = {t.name: f"tmp{k}" for k, t in enumerate(temporaries)}
    outputs = [n for n in dict.fromkeys(written) if n not in private]
    inputs = [n for n in dict.fromkeys(read) if n not in private and n not in outputs]
    names = (
        private | {n: f"out{k}" for k, n in enumerate(outputs)} | {n: f"in{k}" for k, n in enumerate(inputs)}
    )
    arguments = []
    for name in (*outputs, *inputs):
        slot = memory.slots[memory.number[name]]
        is_output = name in outputs
        arguments.append(Argument(names[name], slot.dtype, slot.shape, is_output, name in read))
    renamed = tuple(
        tuple(_rename_all(nest, names, f"{k}" if len(nests) > 1 else "")) for k, nest in enumerate(nests)
    )
    sizes: list[Dim] = [size for a in arguments for size in a.shape]
    exprs = [e for nest in renamed for b in nest for e in b.exprs]
    extents = [axis_size(a) for nest in renamed for b in nest for a in (*b.axes, *b.reduce_axes)]
    variables = tuple(variables_of((*sizes, *exprs, *extents)))
    kept = tuple(replace(t, name=names[t.name]) for t in temporaries)
    kernel = Kernel(tuple(arguments), renamed, kept, variables)
    return Step(kernel, tuple(memory.number[name] for name in (*outputs, *inputs)), reason)


def _rename_all(nest: tuple[Block, ...], names: Mapping[str, str], suffix: str) -> list[Block]:
    """A nest with canonical names: i0, i1, … for parallel axes, r0, … for reduced ones, acc0, … for
    states."""
    axes: dict[Expr, Expr] = {}
    states: dict[Expr, str] = {}
    letters = {"i": 0, "r": 0}
    for block in nest:
        for letter, group in (("i", block.axes), ("r", block.reduce_axes)):
            for a in group:
                if a not in axes:
                    axes[a] = axis(f"{letter}{letters[letter]}{'_' + suffix if suffix else ''}", axis_size(a))
                    letters[letter] += 1
        for r in block.reductions:
            for s in r.states:
                states.setdefault(s.expr, f"acc{len(states)}{'_' + suffix if suffix else ''}")
    return [_rename(block, names, axes, states) for block in nest]


def _rename(
    block: Block, names: Mapping[str, str], axes: Mapping[Expr, Expr], states: Mapping[Expr, str]
) -> Block:
    mapping: dict[Expr, Expr] = dict(axes)
    mapping |= {old: state(new, old.dtype) for old, new in states.items()}
    mapping |= {
        state(str(old.arg) + "'", old.dtype): state(new + "'", old.dtype) for old, new in states.items()
    }
    block = block.map(mapping, names)
    reductions = tuple(
        replace(r, states=tuple(replace(s, name=states.get(s.expr, s.name)) for s in r.states))
        for r in block.reductions
    )
    stores = tuple(replace(s, buffer=names[s.buffer]) for s in block.stores)
    return replace(block, reductions=reductions, stores=stores)
