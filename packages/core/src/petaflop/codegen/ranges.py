"""Loops over axes that a plan has cut into levels: ranges, full and ragged steps, and register tiles.

`Cursor` says how far the loops around the current place have narrowed each axis down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from petaflop.dtype import index
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import (
    TRUE,
    Dim,
    Expr,
    Leaf,
    add,
    as_expr,
    constant,
    divide,
    is_constant,
    less,
    linear_terms,
    make,
    multiply,
    select,
)
from petaflop.ir.kernel import axis_size
from petaflop.ir.loops import For, Statement
from petaflop.ir.plan import Split

__all__ = [
    "TILED",
    "Cursor",
    "Level",
    "Range",
    "Tile",
    "between",
    "levels_of",
    "loop_variable",
    "loops",
    "minimum",
    "tile_loops",
    "tile_position",
    "whole",
]

Body = tuple[Statement, ...]
TILED = ("loop", "unroll", "vector")


@dataclass(frozen=True, slots=True)
class Tile:
    """The part of an axis that stands innermost: `axis` of `count` steps of `step`, as a loop, unrolled or in
    vector lanes."""

    axis: Expr
    bind: str
    count: int
    step: int


@dataclass(frozen=True, slots=True)
class Range:
    """low <= axis < high, where low is a multiple of `aligned` and high − low one of `multiple` (0: of
    anything)."""

    low: Expr
    high: Expr
    aligned: int
    multiple: int

    def part(self, low: Expr, size: int) -> Range:
        """The run of `size` from `low`, or up to the end; `low` is some runs of that size from the start."""
        high = minimum(low + size, self.high)
        return Range(low, high, math.gcd(size, self.aligned), math.gcd(size, self.multiple))

    def after(self, low: Expr, step: int) -> Range:
        """What is left from `low` on, some steps of `step` from the start."""
        return Range(low, self.high, math.gcd(step, self.aligned), math.gcd(step, self.multiple))


@dataclass(frozen=True, slots=True)
class Level:
    """One loop of an axis: steps of `size`; the last level of an axis carries the tile."""

    axis: Expr
    number: int
    bind: str
    size: int
    last: bool
    tile: tuple[tuple[str, int], ...]
    edge: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """Ranges still to be covered, positions that are fixed, tiles at those positions, and conditions of
    masked edges."""

    ranges: dict[Expr, Range] = field(default_factory=dict)
    positions: dict[Expr, Expr] = field(default_factory=dict)
    tiles: dict[Expr, tuple[Tile, ...]] = field(default_factory=dict)
    masks: dict[Expr, Expr] = field(default_factory=dict)

    def narrow(self, axis: Expr, new: Range) -> Cursor:
        return replace(self, ranges={**self.ranges, axis: new})

    def fix(self, axis: Expr, position: Expr, tiles: tuple[Tile, ...], mask: Expr = TRUE) -> Cursor:
        masks = self.masks if mask is TRUE else {**self.masks, axis: mask}
        return Cursor(self.ranges, {**self.positions, axis: position}, {**self.tiles, axis: tiles}, masks)


def whole(axis: Expr) -> Range:
    """All of an axis."""
    size = axis_size(axis)
    return Range(constant(0), as_expr(size), 0, size if isinstance(size, int) else 1)


def between(low: Expr, high: Expr) -> Range:
    """From `low` up to `high`, with what their forms say about divisors."""
    return Range(low, high, _divisor(low), _divisor(high - low))


def _divisor(expr: Expr) -> int:
    """A number that divides every value of an index expression; 0 where that is 0."""
    if expr.op is Op.WHERE:
        return math.gcd(_divisor(expr.args[1]), _divisor(expr.args[2]))
    terms, offset = linear_terms(expr)
    parts = [factor if term is expr else factor * _divisor(term) for term, factor in terms.items()]
    return math.gcd(offset, *parts)


def levels_of(axis: Expr, split: Split | None) -> list[Level]:
    """The loops of an axis, outermost first; "thread" levels included."""
    given = split.levels if split else ()
    tile = tuple(level for level in given if level[0] in TILED)
    outer = [level for level in given if level[0] not in TILED]
    step = tile[0][1] if tile else 1
    levels = [Level(axis, number, bind, size, False, (), "peel") for number, (bind, size) in enumerate(outer)]
    levels.append(Level(axis, len(outer), "serial", step, True, tile, split.edge if split else "peel"))
    return levels


def minimum(a: Expr, b: Expr) -> Expr:
    """min(a, b) of dtype index."""
    if a.hi <= b.lo:
        return a
    if b.hi <= a.lo:
        return b
    return select(less(a, b), a, b)


def loop_variable(name: str, low: int, high: int, size: Dim) -> Expr:
    """A loop variable with known bounds."""
    return make(Leaf.AXIS, (as_expr(size),), index, name, low, max(low, high))


def loops(levels: Sequence[Level], cursor: Cursor, body: Callable[[Cursor], Body]) -> Body:
    """The loops of `levels`, with `body` for each point (or tile) where they end."""
    if not levels:
        return body(cursor)
    level, rest = levels[0], levels[1:]
    if level.axis in cursor.positions:
        return loops(rest, cursor, body)
    bounds = cursor.ranges.get(level.axis) or whole(level.axis)

    def inside(new: Cursor) -> Body:
        return loops(rest, new, body)

    return (_last if level.last else _outer)(level, bounds, cursor, inside)


def _counted(name: str, bounds: Range, step: int, level: Level, body: Callable[[Expr], Body]) -> Body:
    """for x in bounds by step; no loop where there is at most one step."""
    extent = bounds.high - bounds.low
    if is_constant(extent):
        if extent.arg <= 0:
            return ()
        if extent.arg <= step:
            return body(bounds.low)
    high = bounds.high.hi - (step if bounds.multiple and bounds.multiple % step == 0 else 1)
    variable = loop_variable(name, bounds.low.lo, high, axis_size(level.axis))
    return (For(variable, bounds.low, bounds.high, step, "serial", body(variable)),)


def _outer(level: Level, bounds: Range, cursor: Cursor, inside: Callable[[Cursor], Body]) -> Body:
    def body(position: Expr) -> Body:
        return inside(cursor.narrow(level.axis, bounds.part(position, level.size)))

    return _counted(f"{level.axis.arg}{level.number}", bounds, level.size, level, body)


def _last(level: Level, bounds: Range, cursor: Cursor, inside: Callable[[Cursor], Body]) -> Body:
    axis, name = level.axis, f"{level.axis.arg}{level.number}"
    if level.edge == "mask" and level.tile:

        def masked(position: Expr) -> Body:
            tiles = _tiles(level, level.tile)
            within = less(tile_position(position, tiles), bounds.high)
            return inside(cursor.fix(axis, position, tiles, within))

        return _counted(name, bounds, level.tile[0][1], level, masked)
    body: Body = ()
    steps = [level.tile[skip:] for skip in range(len(level.tile))] + [()]
    for number, tile in enumerate(steps):
        step = tile[0][1] if tile else 1
        exact = step == 1 or bounds.multiple % step == 0
        stop = bounds.high if exact else _full_steps(bounds, step)
        here = replace(bounds, high=stop, multiple=bounds.multiple if exact else step)
        tiles = _tiles(level, tile)
        suffix = name if not number else f"{name}r{number}"
        body += _counted(suffix, here, step, level, lambda x, t=tiles: inside(cursor.fix(axis, x, t)))  # type: ignore[misc]
        if exact:
            break
        bounds = bounds.after(stop, step)
    return body


def _full_steps(bounds: Range, step: int) -> Expr:
    """Where the last full step from `low` ends."""
    if bounds.aligned % step == 0:
        return multiply(divide(bounds.high, constant(step)), constant(step))
    whole_steps = divide(bounds.high - bounds.low, constant(step))
    return bounds.low + multiply(whole_steps, constant(step))


def _tiles(level: Level, tile: tuple[tuple[str, int], ...]) -> tuple[Tile, ...]:
    """("unroll", 32), ("vector", 8) are 4 steps of 8 and 8 lanes; the last size is what it covers in steps of
    1."""
    result = []
    for number, (bind, size) in enumerate(tile):
        step = tile[number + 1][1] if number + 1 < len(tile) else 1
        count = size // step
        variable = loop_variable(f"{level.axis.arg}{bind[0]}", 0, count - 1, count)
        result.append(Tile(variable, bind, count, step))
    return tuple(result)


def tile_position(position: Expr, tiles: Sequence[Tile]) -> Expr:
    """The value of an axis at a step of its tiles."""
    for tile in tiles:
        position = add(position, multiply(tile.axis, constant(tile.step)))
    return position


def tile_loops(tiles: Sequence[Tile], body: Body) -> Body:
    """`body` for every step of the tiles: unrolled ones outside, the vector lanes innermost."""
    inside_out = tiles[::-1]
    for tile in sorted(inside_out, key=lambda tile: tile.bind != "vector"):
        bind = "serial" if tile.bind == "loop" else tile.bind
        body = (For(tile.axis, constant(0), constant(tile.count), 1, bind, body),)
    return body
