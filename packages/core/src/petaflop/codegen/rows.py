"""The rewrites of a nest over rows: by tiles of rows, and with long sums in the order of their panels.

A tile of rows is a point of the nest: every block runs for all of its rows before the next one begins, and
what the nest keeps for a row it keeps for each row of the tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from petaflop.codegen.ranges import minimum
from petaflop.graph.symbolic import (
    TRUE,
    Dim,
    Expr,
    add,
    as_expr,
    constant,
    divide,
    less,
    multiply,
    select,
    substitute,
)
from petaflop.ir.kernel import Block, Store, Temporary, axes_of, axis, axis_size, common_axes, load, loads_of
from petaflop.ir.plan import Chunk, Rows

__all__ = ["Bound", "chunked", "count_of", "rest_of", "rows_staged", "rows_tiled", "share_rooms"]


@dataclass(frozen=True, slots=True)
class Bound:
    """low <= axis < high, in terms of axes further out: the part of an axis that a point of those covers."""

    low: Expr
    high: Expr

    def parts(self, size: int) -> Bound:
        """The bound of the number of a part, of parts of that size."""
        return Bound(divide(self.low, constant(size)), divide(self.high + (size - 1), constant(size)))

    def within(self, size: int, number: Expr) -> Bound:
        """The bound of the place in part `number`."""
        first = multiply(number, constant(-size))
        low, high = add(self.low, first), minimum(constant(size), add(self.high, first))
        return Bound(
            constant(0) if self.low.hi <= 0 else select(less(low, constant(0)), constant(0), low), high
        )


def count_of(extent: Dim, size: int) -> Dim:
    """How many parts of `size` cover the extent."""
    count = divide(as_expr(extent) + (size - 1), constant(size))
    return int(count.arg) if isinstance(extent, int) else count


def rest_of(extent: Dim, size: int, outer: Expr) -> Bound | None:
    """The bound of a place in part number `outer`, where the last part is not whole."""
    if isinstance(extent, int) and extent % size == 0:
        return None
    left = add(as_expr(extent), multiply(outer, constant(-size)))
    return Bound(constant(0), minimum(constant(size), left))


# ---- tiles of rows ----


def rows_tiled(
    directive: Rows, blocks: list[Block], temporaries: list[Temporary], bounds: dict[str, Bound]
) -> None:
    """The innermost common axis in tiles: `axis_t` stays common, and block number n has an `axis_rn` of its
    own."""
    numbers, size = directive.blocks, directive.size
    old = next(a for a in blocks[numbers[0]].axes if a.arg == directive.axis)
    extent = axis_size(old)
    outer = axis(f"{old.arg}_t", count_of(extent, size))
    stored = {s.buffer: s.index for n in numbers for s in blocks[n].stores}
    rooms = {
        t.name: t
        for t in temporaries
        if t.shared and t.name in stored and stored[t.name][t.shared - 1] is old
    }
    rest = rest_of(extent, size, outer)
    common = set(common_axes(tuple(blocks[n] for n in numbers)))
    taken: set[Expr] = set()
    for n in numbers:
        inner = axis(f"{old.arg}_r{n - numbers[0]}", size)
        own = {a for a in (*blocks[n].axes, *blocks[n].reduce_axes) if a not in common}
        # what is decided for an axis of a block, its lanes or its bounds, is not for another block
        apart = {a: axis(f"{a.arg}_{n - numbers[0]}", axis_size(a)) for a in own & taken}
        taken |= own
        blocks[n] = _row_tiled(blocks[n].map(apart), old, outer, inner, rooms)
        if rest is not None:
            bounds[inner.arg] = rest
    for position, t in enumerate(temporaries):
        if t.name in rooms:
            shape = (*t.shape[: t.shared - 1], axis_size(outer), size, *t.shape[t.shared :])
            temporaries[position] = replace(t, shape=shape)
    share_rooms(numbers, blocks, temporaries)


def _row_tiled(block: Block, old: Expr, outer: Expr, inner: Expr, rooms: Mapping[str, Temporary]) -> Block:
    mapping = {old: add(multiply(outer, constant(axis_size(inner))), inner)}

    def place(name: str, position: Sequence[Expr]) -> tuple[Expr, ...]:
        before = rooms[name].shared - 1
        return (*position[:before], outer, inner, *position[before + 1 :])

    for read in loads_of(block.exprs):  # inner loads come first
        if (name := read.arg[0]) in rooms:
            valid, *position = substitute(read.args, mapping)
            mapping[read] = load(name, place(name, position), read.dtype, valid, read.arg[1])
    new = block.map(mapping)
    stores = tuple(replace(s, index=place(s.buffer, s.index)) if s.buffer in rooms else s for s in new.stores)
    axes = tuple(each for a in block.axes for each in ((outer, inner) if a is old else (a,)))
    return replace(new, axes=axes, stores=stores)


def share_rooms(numbers: Sequence[int], blocks: list[Block], temporaries: list[Temporary]) -> None:
    """A block that maps a temporary that is read no more to another of its kind writes over it."""
    by_name = {t.name: t for t in temporaries}
    for n in numbers:
        block = blocks[n]
        if len(block.stores) != 1 or block.reductions or block.ordered:
            continue
        (store,) = block.stores
        new = by_name.get(store.buffer)
        for name in dict.fromkeys(read.arg[0] for read in loads_of(block.exprs)):
            old = by_name.get(name)
            if new is None or old is None or old is new or replace(old, name=new.name) != new:
                continue
            reads = [read for read in loads_of(block.exprs) if read.arg[0] == name]
            inside = all(read.args[0] is TRUE and read.args[1:] == store.index for read in reads)
            later = any(_touches(b, name) for k, b in enumerate(blocks) if k > n)
            earlier = any(_touches(b, new.name) for b in blocks[:n])
            if inside and store.valid is TRUE and not store.accumulate and not later and not earlier:
                _rename(new.name, name, blocks)
                temporaries.remove(new)
                break


def _touches(block: Block, name: str) -> bool:
    return any(s.buffer == name for s in block.stores) or any(r.arg[0] == name for r in loads_of(block.exprs))


def _rename(old: str, new: str, blocks: list[Block]) -> None:
    for position, block in enumerate(blocks):
        if _touches(block, old):
            names = {read.arg[0]: read.arg[0] for read in loads_of(block.exprs)} | {old: new}
            block = block.map({}, names)
            stores = tuple(replace(s, buffer=new) if s.buffer == old else s for s in block.stores)
            blocks[position] = replace(block, stores=stores)


def rows_staged(
    block: Block, operand: int, common: Sequence[Expr], name: str, bounds: dict[str, Bound]
) -> tuple[Block, Temporary, Expr]:
    """A block that computes a factor for the rows of a tile, the room for it, and what to read instead."""
    (r,) = block.reductions
    factor = r.term.args[operand]
    used = axes_of((factor,))
    own = tuple(a for a in block.axes if a not in common and a in used)
    inner = {a: axis(f"{a.arg}_m", axis_size(a)) for a in r.axes}
    bounds.update({new.arg: bounds[a.arg] for a, new in inner.items() if a.arg in bounds})
    axes = (*common, *own, *inner.values())
    room = Temporary(name, factor.dtype, tuple(axis_size(a) for a in axes), len(common))
    (value,) = substitute((factor,), inner)
    read = load(name, (*common, *own, *r.axes), factor.dtype)
    return Block(axes, (Store(name, axes, value),)), room, read


# ---- a long sum by chunks ----


def chunked(
    directive: Chunk, block: Block, common: Sequence[Expr], name: str, bounds: dict[str, Bound]
) -> tuple[tuple[Block, Block, Block], Temporary]:
    """Blocks that clear totals, add up each chunk of the axis for all points of the block's own axes, and
    finish; and the room for the totals."""
    (r,) = block.reductions
    (s,) = r.states
    old = next(a for a in r.axes if a.arg == directive.axis)
    size = directive.size
    number = axis(f"{old.arg}_b", count_of(axis_size(old), size))
    place = axis(f"{old.arg}_i", size)
    whole = bounds.pop(old.arg, None)
    if whole is not None:
        bounds[number.arg], bounds[place.arg] = whole.parts(size), whole.within(size, number)
    elif (rest := rest_of(axis_size(old), size, number)) is not None:
        bounds[place.arg] = rest
    total = Temporary(name, s.dtype, tuple(axis_size(a) for a in block.axes), len(common))
    position = add(multiply(number, constant(size)), place)
    step = tuple(substitute(r.step, {old: position}))
    part = replace(r, axes=tuple(place if a is old else a for a in r.axes), step=step)
    own = tuple(a for a in block.axes if a not in common)
    clear = Block(block.axes, (Store(name, block.axes, s.initial),))
    store = Store(name, block.axes, s.expr, accumulate=r.op)
    fold = Block((*common, number, *own), (store,), (part,), (number,))
    finish = replace(block, reductions=()).map({s.expr: load(name, block.axes, s.dtype)})
    return (clear, fold, finish), total
