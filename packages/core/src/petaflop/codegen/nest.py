"""One nest of a plan as loops: common axes outside, then each block's own axes, its reductions and its
stores.

Reductions keep their states in small arrays, one element per step of the register tile and per lane of a
vectorised reduce axis; LLVM turns those into registers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from petaflop.codegen.flatten import TILE, Flattener, within
from petaflop.codegen.matrix_loops import Multiplication
from petaflop.codegen.ranges import (
    TILED,
    Cursor,
    Level,
    Tile,
    between,
    levels_of,
    loop_variable,
    loops,
    tile_loops,
    tile_position,
    whole,
)
from petaflop.codegen.rewrite import Rewritten, join_axes
from petaflop.codegen.split_reduce import Limit
from petaflop.dtype import float32, float64
from petaflop.errors import CompileError
from petaflop.graph.ops import Native, Op
from petaflop.graph.symbolic import (
    TRUE,
    Dim,
    Expr,
    Leaf,
    add,
    as_expr,
    constant,
    divide,
    make,
    modulo,
    multiply,
    product,
    substitute,
)
from petaflop.ir.kernel import (
    Block,
    Reduction,
    Temporary,
    axis,
    axis_size,
    common_axes,
    loads_of,
    reduction,
    state,
    value,
)
from petaflop.ir.loops import Alloc, Let, Memory, Segment, Statement, Store
from petaflop.ir.plan import Nest
from petaflop.ir.target import Target

__all__ = ["NestLowering", "elements", "fuse_axes"]

Body = tuple[Statement, ...]
STACK_BYTES = 16 << 10  # larger temporaries of a task stand in the thread's scratch memory
ALIGNMENT = 64


def fuse_axes(blocks: Sequence[Block], nest: Nest) -> tuple[Block, ...]:
    """The blocks with the nest's Fuse directives carried out."""
    result = tuple(blocks)
    for directive in nest.fuse:
        result = tuple(join_axes(block, directive.axes, directive.into) for block in result)
    return result


def _fused_limit(block: Block, limit: Limit, nest: Nest) -> Limit:
    """The limit of a joined axis, where the limited axis is the outermost part of one."""
    for directive in nest.fuse:
        if limit.axis.arg == directive.axes[0] and limit.axis in block.reduce_axes:
            joined = [a for a in block.reduce_axes if a.arg in directive.axes]
            inner = product(axis_size(a) for a in joined[1:])
            assert isinstance(inner, int)
            size = product(axis_size(a) for a in joined)
            return Limit(axis(directive.into, size), limit.part, limit.size * inner)
    return limit


class NestLowering:
    """Lowers one nest; `memory` is what its tasks need of the thread's scratch."""

    def __init__(
        self,
        rewritten: Rewritten,
        nest: Nest,
        target: Target,
        number: int,
        local: set[str],
    ) -> None:
        kernel, limits = rewritten.kernel, rewritten.limits
        self.nest, self.target, self.number, self.bounds = nest, target, number, rewritten.bounds
        self.blocks = fuse_axes([kernel.blocks[index] for index in nest.blocks], nest)
        found = zip(self.blocks, nest.blocks, strict=True)
        self.limits = {
            block: _fused_limit(kernel.blocks[i], limits[i], nest) for block, i in found if i in limits
        }
        self.common = common_axes(self.blocks) if len(self.blocks) > 1 else self.blocks[0].axes
        self.splits = {split.axis: split for split in nest.split}
        self.local = local
        self.memory: list[Memory] = []
        self.scratch = 0
        self.names = 0
        self.lanes = math.prod(self._tile_size(a) for a in self.common)
        self.masked = [a for block in self.blocks for a in block.axes if self._is_masked(a)]
        temporaries = [t for t in kernel.temporaries if t.name in local]
        self.allocations = [alloc for t in temporaries for alloc in self._room(t)]
        shared = {t.name: t.shared for t in temporaries}
        flattener = Flattener(kernel, shared, self.lanes, self.masked, contract=target.has_fma)
        self.flat = {block: flattener.block(block) for block in self.blocks}

    # ---- the common loops ----

    def segment(self) -> Segment:
        """The tasks of the nest."""
        threads = [level for a in self.common for level in self._levels(a) if level.bind == "thread"]
        threads = self._ordered(threads)
        counts = [divide(as_expr(axis_size(t.axis)) + (t.size - 1), constant(t.size)) for t in threads]
        total = product(counts)
        task = loop_variable(f"task{self.number}", 0, as_expr(total).hi - 1, total)
        cursor = Cursor()
        rest: Expr = task
        for position, (level, count) in reversed(list(enumerate(zip(threads, counts, strict=True)))):
            number = modulo(rest, count) if position else rest
            rest = divide(rest, count)
            cursor = self._enter_thread(cursor, level, number)
        inner = [level for a in self.common for level in self._levels(a) if level.bind != "thread"]
        body = loops(self._ordered(inner), cursor, self._blocks)
        return Segment(task, total, (*self.allocations, *body))

    def _enter_thread(self, cursor: Cursor, level: Level, number: Expr) -> Cursor:
        low = multiply(number, constant(level.size))
        return cursor.narrow(level.axis, whole(level.axis).part(low, level.size))

    def _levels(self, a: Expr) -> list[Level]:
        return levels_of(a, self.splits.get(a.arg))

    def _tile_size(self, a: Expr) -> int:
        split = self.splits.get(a.arg)
        sizes = [size for bind, size in split.levels if bind in TILED] if split else []
        return sizes[0] if sizes else 1

    def _is_masked(self, a: Expr) -> bool:
        split = self.splits.get(a.arg)
        return split is not None and split.edge == "mask"

    def _ordered(self, levels: list[Level]) -> list[Level]:
        place = {name: position for position, name in enumerate(self.nest.order)}
        given = list(enumerate(levels))
        given.sort(key=lambda item: (place.get(f"{item[1].axis.arg}.{item[1].number}", len(place)), item[0]))
        return [level for _, level in given]

    def _blocks(self, cursor: Cursor) -> Body:
        body: Body = ()
        for block in self.blocks:
            axes = [a for a in block.axes if a not in cursor.positions]
            own = self._ordered([level for a in axes for level in self._levels(a)])
            start = self._bounded(axes, cursor)
            body += loops(own, start, lambda inner, b=block: self._point(b, inner))  # type: ignore[misc]
        return body

    def _bounded(self, axes: Iterable[Expr], cursor: Cursor) -> Cursor:
        """The cursor with the bounds of axes that depend on where it is."""
        for a in axes:
            if (bound := self.bounds.get(a.arg)) is not None:
                cursor = cursor.narrow(a, between(*self._place((bound.low, bound.high), cursor, {})))
        return cursor

    # ---- one block at one point, or at one register tile ----

    def _point(self, block: Block, cursor: Cursor) -> Body:
        tiles = [tile for a in block.axes for tile in cursor.tiles[a]]
        start = self._bounded(block.reduce_axes, self._limited(block, cursor))
        block = self.flat[block]
        body: Body = ()
        known: dict[Expr, Expr] = {}
        for position, r in enumerate(block.reductions):
            if r.scan:
                assert position == len(block.reductions) - 1, (
                    "expected a scan to be the block's last reduction"
                )
                return body + self._scan(block, r, cursor, tiles, known)
            if self.nest.matrix is not None:
                statements, results = Multiplication(self, self.nest.matrix, r, start).loops()
            else:
                statements, results = self._reduce(r, start, tiles, known)
            body += statements
            known.update(results)
        stores = self._stores(block, cursor, known)
        return body + tile_loops(tiles, stores)

    def _stores(self, block: Block, cursor: Cursor, known: Mapping[Expr, Expr]) -> Body:
        exprs = [expr for s in block.stores for expr in (*s.index, s.value, s.valid)]
        placed = iter(self._place(exprs, cursor, known))
        stores = [Store(s.buffer, *(next(placed) for _ in range(3))) for s in block.stores]
        written = {s.buffer for s in stores[:-1]}
        if not any(load.arg[0] in written for s in stores[1:] for load in loads_of((s.value,))):
            return tuple(stores)
        # all loads of a block come before its stores: name the values first
        lets = [Let(state(f"stored{k}", s.value.dtype), s.value) for k, s in enumerate(stores)]
        return (*lets, *(replace(s, value=let.name) for s, let in zip(stores, lets, strict=True)))

    # ---- reductions ----

    def _reduce(
        self, r: Reduction, cursor: Cursor, tiles: list[Tile], known: Mapping[Expr, Expr]
    ) -> tuple[Body, dict[Expr, Expr]]:
        """The loops of a reduction, and where each state's result is found."""
        lanes = math.prod(self._tile_size(a) for a in r.axes)
        if lanes & (lanes - 1):  # the tree that merges them halves their number
            raise CompileError(f"plan: expected a power of two of lanes of {r.axes[-1].arg}, got {lanes}")
        count = math.prod(tile.count for tile in tiles) * lanes
        allocations, arrays = self._arrays(r, count)
        levels = self.levels(r.axes)
        body = self._initial(r, arrays, tiles, lanes, cursor, known)
        body += self._folding(r, levels, cursor, arrays, tiles, lanes, known)
        body += self._merge_lanes(r, arrays, tiles, lanes)
        place = multiply(_number(tiles), constant(lanes))
        results = {
            s.expr: make(Leaf.LOAD, (TRUE, place), s.dtype, (a, 0))
            for s, a in zip(r.states, arrays, strict=True)
        }
        return allocations + body, results

    def levels(self, axes: Sequence[Expr]) -> list[Level]:
        """The loops of some axes, in the order of the plan."""
        return self._ordered([level for a in axes for level in self._levels(a)])

    def _arrays(self, r: Reduction, count: int) -> tuple[Body, list[str]]:
        self.names += 1
        names = [self.name(s.name) for s in r.states]
        return tuple(Alloc(name, s.dtype, count) for name, s in zip(names, r.states, strict=True)), names

    def name(self, text: str) -> str:
        """A name that nothing else has."""
        return f"{text}_{self.number}_{self.names}"

    def _limited(self, block: Block, cursor: Cursor) -> Cursor:
        limit = self.limits.get(block)
        if limit is None:
            return cursor
        low = multiply(cursor.positions[limit.part], constant(limit.size))
        return cursor.narrow(limit.axis, whole(limit.axis).part(low, limit.size))

    def _initial(
        self,
        r: Reduction,
        arrays: list[str],
        tiles: list[Tile],
        lanes: int,
        cursor: Cursor,
        known: Mapping[Expr, Expr],
    ) -> Body:
        lane_tiles = self._lane_tiles(lanes, tiles)
        place = add(multiply(_number(tiles), constant(lanes)), _number(lane_tiles))
        values = self._place([s.initial for s in r.states], cursor, known)
        stores = tuple(Store(array, place, value) for array, value in zip(arrays, values, strict=True))
        return tile_loops([*tiles, *lane_tiles], stores)

    def _lane_tiles(self, lanes: int, tiles: list[Tile]) -> list[Tile]:
        """Loops over all lanes of a state; vectors only where the tile has none."""
        if lanes == 1:
            return []
        width = (
            1 if any(tile.bind == "vector" for tile in tiles) else min(lanes, self.target.vector_bytes // 4)
        )
        result = []
        if lanes > width:
            result.append(
                Tile(
                    loop_variable("lane_u", 0, lanes // width - 1, lanes // width),
                    "unroll",
                    lanes // width,
                    width,
                )
            )
        if width > 1:
            result.append(Tile(loop_variable("lane_v", 0, width - 1, width), "vector", width, 1))
        return result

    def _folding(
        self,
        r: Reduction,
        levels: list[Level],
        cursor: Cursor,
        arrays: list[str],
        tiles: list[Tile],
        lanes: int,
        known: Mapping[Expr, Expr],
    ) -> Body:
        """Reduce loops; each "block" level folds into states of its own, merged at its end."""
        cut = next((n for n, level in enumerate(levels) if level.bind == "block"), None)
        if cut is None:
            return loops(levels, cursor, lambda inner: self._step(r, inner, arrays, tiles, lanes, known))

        def partial(inner: Cursor) -> Body:
            allocations, parts = self._arrays(r, math.prod(tile.count for tile in tiles) * lanes)
            body = self._initial(r, parts, tiles, lanes, inner, known)
            body += self._folding(r, levels[cut + 1 :], inner, parts, tiles, lanes, known)
            lane_tiles = self._lane_tiles(lanes, tiles)
            place = add(multiply(_number(tiles), constant(lanes)), _number(lane_tiles))
            merged = _merge(r, arrays, place, parts, place)
            return allocations + body + tile_loops([*tiles, *lane_tiles], merged)

        return loops(levels[: cut + 1], cursor, partial)

    def _step(
        self,
        r: Reduction,
        cursor: Cursor,
        arrays: list[str],
        tiles: list[Tile],
        lanes: int,
        known: Mapping[Expr, Expr],
    ) -> Body:
        own = [tile for a in r.axes for tile in cursor.tiles[a]]
        place = add(multiply(_number(tiles), constant(lanes)), _number(own, steps=True))
        states = {
            s.expr: make(Leaf.LOAD, (TRUE, place), s.dtype, (a, 0))
            for s, a in zip(r.states, arrays, strict=True)
        }
        steps = [self._contract(step, r) for step in r.step]
        values = self._place(steps, cursor, {**known, **states})
        return tile_loops([*tiles, *own], _assign(r, arrays, place, values))

    def _contract(self, step: Expr, r: Reduction) -> Expr:
        """state + a * b with one rounding, where the target has the instruction."""
        if r.op is Op.ADD and self.target.has_fma and step.dtype in (float32, float64):
            before, term = step.args
            if term.op is Op.MUL:
                return make(Native.FMA, (*term.args, before), step.dtype)
        return step

    def _merge_lanes(self, r: Reduction, arrays: list[str], tiles: list[Tile], lanes: int) -> Body:
        """A fixed tree over the lanes: the upper half is merged into the lower half."""
        body: Body = ()
        half = lanes // 2
        while half:
            lane_tiles = self._lane_tiles(half, tiles)
            place = add(multiply(_number(tiles), constant(lanes)), _number(lane_tiles))
            merged = _merge(r, arrays, place, arrays, place + half)
            body += tile_loops([*tiles, *lane_tiles], merged)
            half //= 2
        return body

    def _scan(
        self, block: Block, r: Reduction, cursor: Cursor, tiles: list[Tile], known: Mapping[Expr, Expr]
    ) -> Body:
        run = self._wider(r)
        allocations, arrays = self._arrays(run, math.prod(tile.count for tile in tiles))
        place = _number(tiles)
        states = {
            s.expr: make(Leaf.LOAD, (TRUE, place), s.dtype, (a, 0))
            for s, a in zip(run.states, arrays, strict=True)
        }
        results = {
            s.expr: total if run is r else value(Op.CAST, total, dtype=s.dtype)
            for s, total in zip(r.states, states.values(), strict=True)
        }

        def step(inner: Cursor) -> Body:
            values = self._place(run.step, inner, {**known, **states})
            update = _assign(run, arrays, place, values)
            return tile_loops(tiles, update + self._stores(block, inner, {**known, **results}))

        levels = [level for a in r.axes for level in levels_of(a, None)]
        return allocations + self._initial(run, arrays, tiles, 1, cursor, known) + loops(levels, cursor, step)

    def _wider(self, r: Reduction) -> Reduction:
        """A running sum of float32 in float64, where the target has it: no tree keeps its error small."""
        has_double = "float64" in self.target.native_dtypes
        if r.op is not Op.ADD or r.states[0].dtype is not float32 or not has_double:
            return r
        return reduction(r.states[0].name, r.op, value(Op.CAST, r.term, dtype=float64), r.axes, scan=True)

    # ---- expressions at a place ----

    def _place(self, exprs: Sequence[Expr], cursor: Cursor, known: Mapping[Expr, Expr]) -> list[Expr]:
        """Expressions with positions for axes and results for states."""
        mapping: dict[Expr, Expr] = dict(known)
        for a, position in cursor.positions.items():
            mapping[a] = tile_position(position, cursor.tiles[a])
        mapping[TILE] = _number([tile for a in self.common for tile in cursor.tiles.get(a, ())])
        for a in self.masked:
            mapping[within(a)] = cursor.masks.get(a, TRUE)
        return substitute(exprs, mapping)

    def _room(self, temporary: Temporary) -> list[Alloc]:
        """Memory for a temporary of a task: on the stack, or in the thread's scratch where it is large."""
        size = elements(temporary.shape[temporary.shared :]) * self.lanes
        if size * temporary.dtype.itemsize <= STACK_BYTES:
            return [Alloc(temporary.name, temporary.dtype, size)]
        self.memory.append(Memory(temporary.name, temporary.dtype, size, "scratch", self.scratch))
        self.scratch += -(-size * temporary.dtype.itemsize // ALIGNMENT) * ALIGNMENT
        return []


def elements(shape: Sequence[Dim]) -> int:
    """The number of elements, at most: symbolic sizes count with their greatest value."""
    return math.prod(size if isinstance(size, int) else size.hi for size in shape)


def _number(tiles: Sequence[Tile], steps: bool = False) -> Expr:
    """The row-major number of a step of the tiles; with `steps`, as the distance from the first element."""
    total = constant(0)
    for tile in tiles:
        if steps:
            total = add(total, multiply(tile.axis, constant(tile.step)))
        else:
            total = add(multiply(total, constant(tile.count)), tile.axis)
    return total


def _assign(r: Reduction, arrays: list[str], place: Expr, values: Sequence[Expr]) -> Body:
    """All states at once: each new value is computed from the old ones."""
    if len(values) == 1:
        return (Store(arrays[0], place, values[0]),)
    names = [state(f"next_{s.name}", s.dtype) for s in r.states]
    lets = tuple(Let(name, value) for name, value in zip(names, values, strict=True))
    return lets + tuple(Store(array, place, name) for array, name in zip(arrays, names, strict=True))


def _merge(r: Reduction, arrays: list[str], place: Expr, others: list[str], other_place: Expr) -> Body:
    """arrays[place] = merge(arrays[place], others[other_place])."""
    mapping: dict[Expr, Expr] = {}
    for s, mine, theirs in zip(r.states, arrays, others, strict=True):
        mapping[s.expr] = make(Leaf.LOAD, (TRUE, place), s.dtype, (mine, 0))
        mapping[s.other] = make(Leaf.LOAD, (TRUE, other_place), s.dtype, (theirs, 0))
    return _assign(r, arrays, place, substitute(r.merge, mapping))
