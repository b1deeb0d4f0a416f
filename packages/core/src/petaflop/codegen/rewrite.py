"""The rewrites of a plan: Kernel to Kernel, with the same results.

Blocks are joined, tiled, given staged operands or cut into partial results; afterwards the nests of the plan
say how the loops run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from petaflop.codegen.narrow import zero_outside
from petaflop.codegen.panels import panelled, staged, with_factor
from petaflop.codegen.restrict import restrict_columns
from petaflop.codegen.rows import Bound, chunked, rows_staged, rows_tiled, share_rooms
from petaflop.codegen.shift import shifted
from petaflop.codegen.split_reduce import Limit, halves
from petaflop.codegen.windows import copied
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import (
    TRUE,
    Dim,
    Expr,
    Leaf,
    add,
    as_expr,
    both,
    constant,
    divide,
    less,
    make,
    modulo,
    multiply,
    product,
    substitute,
    topological,
)
from petaflop.ir.kernel import (
    Block,
    Kernel,
    Temporary,
    axes_of,
    axis,
    axis_size,
    common_axes,
)
from petaflop.ir.plan import (
    Chunk,
    Join,
    Panel,
    Restrict,
    Rewrite,
    Rows,
    Shift,
    SplitReduce,
    Stage,
    StageRows,
    Tile,
    Window,
)

__all__ = ["Rewritten", "join_axes", "rewrite"]

Blocks = list[Block]
Rooms = list[Temporary]
Sizes = list[int]  # of the nests, in blocks
Limits = dict[Block, Limit]
Bounds = dict[str, Bound]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A kernel after rewrites: its blocks by number, temporaries that were added, limits of partial
    reductions, and bounds of axes by name."""

    kernel: Kernel
    limits: Mapping[int, Limit]
    bounds: Mapping[str, Bound]


def rewrite(kernel: Kernel, directives: Iterable[Rewrite]) -> Rewritten:
    """`kernel` with the directives carried out in order."""
    directives = tuple(directives)
    if not directives:
        return Rewritten(kernel, {}, {})
    blocks = list(kernel.blocks)
    temporaries = list(kernel.temporaries)
    sizes = [len(nest) for nest in kernel.nests]
    limits: dict[Block, Limit] = {}
    bounds: dict[str, Bound] = {}
    for directive in directives:
        _RULES[type(directive)](directive, blocks, temporaries, sizes, limits, bounds)
    nests = []
    first = 0
    for size in sizes:
        nests.append(tuple(blocks[first : first + size]))
        first += size
    result = replace(kernel, nests=tuple(nests), temporaries=tuple(temporaries))
    limited = {number: limits[block] for number, block in enumerate(blocks) if block in limits}
    return Rewritten(result, limited, bounds)


def join_axes(block: Block, names: tuple[str, ...], into: str) -> Block:
    """The block with axes joined, where it has all of them in one list."""
    for group in (block.axes, *(r.axes for r in block.reductions)):
        chosen = [a for a in group if a.arg in names]
        if tuple(a.arg for a in chosen) == names:
            break
    else:
        return block
    joined = axis(into, product(axis_size(a) for a in chosen))
    mapping: dict[Expr, Expr] = {}
    inner: Dim = 1
    for a in reversed(chosen):
        quotient = divide(joined, as_expr(inner))
        mapping[a] = quotient if a is chosen[0] else modulo(quotient, as_expr(axis_size(a)))
        inner = inner * axis_size(a)

    def place(axes: tuple[Expr, ...]) -> tuple[Expr, ...]:
        if chosen[0] not in axes:
            return axes
        return tuple(joined if a is chosen[0] else a for a in axes if a is chosen[0] or a not in chosen)

    return _substituted(block, mapping, place)


def _substituted(
    block: Block, mapping: Mapping[Expr, Expr], place: Callable[[tuple[Expr, ...]], tuple[Expr, ...]]
) -> Block:
    """The block with axes replaced by expressions of the axes that `place` puts in their stead."""
    exprs: list[Expr] = []
    for r in block.reductions:
        exprs += [*r.step, *(s.initial for s in r.states)]
    for store in block.stores:
        exprs += [*store.index, store.value, store.valid]
    new = iter(substitute(exprs, mapping))
    reductions = []
    for r in block.reductions:
        step = tuple(next(new) for _ in r.step)
        states = tuple(replace(s, initial=next(new)) for s in r.states)
        reductions.append(replace(r, axes=place(r.axes), states=states, step=step))
    stores = []
    for store in block.stores:
        position = tuple(next(new) for _ in store.index)
        stores.append(replace(store, index=position, value=next(new), valid=next(new)))
    return Block(place(block.axes), tuple(stores), tuple(reductions), place(block.ordered))


# ---- one rule per directive: they change the lists that they are given ----


def _join(directive: Join, blocks: Blocks, *_: Any) -> None:
    for number in directive.blocks:
        blocks[number] = join_axes(blocks[number], directive.axes, directive.into)


def _tile(
    directive: Tile, blocks: Blocks, temporaries: Rooms, sizes: Sizes, limits: Limits, bounds: Bounds
) -> None:
    if (bound := bounds.pop(directive.axis, None)) is not None:
        bounds[f"{directive.axis}_t"] = bound.parts(directive.size)
    room = {temporary.name: temporary.shape for temporary in temporaries}
    for number in directive.blocks:
        blocks[number] = _tiled(blocks[number], directive, room)


def _tiled(block: Block, directive: Tile, room: Mapping[str, tuple[Dim, ...]]) -> Block:
    old = next(a for a in (*block.axes, *block.reduce_axes) if a.arg == directive.axis)
    size = axis_size(old)
    count = divide(as_expr(size) + (directive.size - 1), constant(directive.size))
    outer = axis(f"{directive.axis}_t", int(count.arg) if count.op is Op.CONST else count)
    inner = axis(f"{directive.axis}_r", directive.size)
    position = add(multiply(outer, constant(directive.size)), inner)

    def place(axes: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(new for a in axes for new in ((outer, inner) if a is old else (a,)))

    inside = less(position, as_expr(size))
    if inside is not TRUE and old in block.reduce_axes:
        for operand, factor in enumerate(block.reductions[0].term.args):
            block = with_factor(block, operand, zero_outside(factor, old, position, inside))
    elif inside is not TRUE:
        block = _guarded(block, old, position, inside, room)
    return _substituted(block, {old: position}, place)


def _guarded(block: Block, old: Expr, at: Expr, inside: Expr, room: Mapping[str, tuple[Dim, ...]]) -> Block:
    """Loads and stores that depend on `old`, which is going to be `at`, happen only where `inside` holds;
    but a load from a temporary with room for every `at` needs no guard."""
    mapping: dict[Expr, Expr] = {}
    roots = [*block.exprs, *(s.initial for r in block.reductions for s in r.states)]
    for expr in topological(roots):
        if expr.op is Leaf.LOAD and old in axes_of(expr.args):
            valid, *position = substitute(expr.args, mapping)
            if not _fits(substitute(position, {old: at}), room.get(expr.arg[0])):
                mapping[expr] = make(Leaf.LOAD, (both(valid, inside), *position), expr.dtype, expr.arg)
    guarded = _substituted(block, mapping, lambda axes: axes)
    stores = tuple(replace(store, valid=both(store.valid, inside)) for store in guarded.stores)
    return replace(guarded, stores=stores)


def _fits(position: Sequence[Expr], shape: tuple[Dim, ...] | None) -> bool:
    """Whether an index is inside a temporary of that shape wherever it may be."""
    if shape is None:
        return False
    return all(
        each.lo >= 0 and isinstance(size, int) and each.hi < size
        for each, size in zip(position, shape, strict=True)
    )


def _stage(directive: Stage, blocks: Blocks, temporaries: Rooms, sizes: Sizes, *_: Any) -> None:
    number = directive.block
    pack, room, block = staged(directive, blocks[number], f"panel{len(temporaries)}")
    temporaries.append(room)
    if directive.shared:
        blocks[number : number + 1] = [pack, block]
        sizes[_nest_of(number, sizes)[0]] += 1
    else:
        blocks[number] = block
        _insert(number, [pack], blocks, sizes)


def _window(directive: Window, blocks: Blocks, temporaries: Rooms, sizes: Sizes, *_: Any) -> None:
    block = blocks[directive.block]
    factor = block.reductions[0].term.args[directive.operand]
    fill, copy, read = copied(factor, directive.lanes, directive.multiple, f"window{len(temporaries)}")
    temporaries.append(copy)
    blocks[directive.block] = with_factor(block, directive.operand, read)
    _insert(directive.block, [fill], blocks, sizes)


def _shift(directive: Shift, blocks: Blocks, temporaries: Rooms, sizes: Sizes, *_: Any) -> None:
    name = f"sums{len(temporaries)}"
    sums, room, blocks[directive.block] = shifted(blocks[directive.block], directive.operand, name)
    temporaries.append(room)
    _insert(directive.block, [sums], blocks, sizes)


def _insert(number: int, new: Sequence[Block], blocks: Blocks, sizes: Sizes) -> None:
    """Nests of one block each, before the nest of block `number`."""
    position, first = _nest_of(number, sizes)
    sizes[position:position] = [1] * len(new)
    blocks[first:first] = new


def _split_reduce(
    directive: SplitReduce, blocks: Blocks, temporaries: Rooms, sizes: Sizes, limits: Limits, *_: Any
) -> None:
    pair, limit, rooms = halves(blocks[directive.block], directive)
    blocks[directive.block : directive.block + 1] = pair
    temporaries += rooms
    limits[pair[0]] = limit
    sizes[_nest_of(directive.block, sizes)[0]] += 1


def _nest_of(number: int, sizes: Sequence[int]) -> tuple[int, int]:
    """The position of the nest that has a block of that number, and the number of its first block."""
    first = 0
    for position, size in enumerate(sizes):  # noqa: B007 - read after the loop
        if number < first + size:
            break
        first += size
    return position, first


def _rows(
    directive: Rows, blocks: Blocks, temporaries: Rooms, sizes: Sizes, limits: Limits, bounds: Bounds
) -> None:
    rows_tiled(directive, blocks, temporaries, bounds)


def _restrict(
    directive: Restrict, blocks: Blocks, temporaries: Rooms, sizes: Sizes, limits: Limits, bounds: Bounds
) -> None:
    position, first = _nest_of(directive.blocks[0], sizes)
    end = first + sizes[position]
    members = tuple(blocks[first:end])
    restricted = restrict_columns(members, common_axes(members), temporaries, bounds)
    if restricted is not None:
        blocks[first:end], before = restricted
        sizes[position] = len(restricted[0])
        _insert(first, before, blocks, sizes)


def _stage_rows(
    directive: StageRows, blocks: Blocks, temporaries: Rooms, sizes: Sizes, limits: Limits, bounds: Bounds
) -> None:
    position, first = _nest_of(directive.block, sizes)
    common = common_axes(tuple(blocks[first : first + sizes[position]]))
    block, name = blocks[directive.block], f"rows{len(temporaries)}"
    stage, room, read = rows_staged(block, directive.operand, common, name, bounds)
    blocks[directive.block : directive.block + 1] = [stage, with_factor(block, directive.operand, read)]
    temporaries.append(room)
    sizes[position] += 1
    share_rooms((directive.block,), blocks, temporaries)


def _panel(
    directive: Panel, blocks: Blocks, temporaries: Rooms, sizes: Sizes, limits: Limits, bounds: Bounds
) -> None:
    number = directive.block
    pack, block, room = panelled(directive, blocks[number], f"panel{len(temporaries)}", bounds)
    blocks[number : number + 1] = [pack, block]
    temporaries.append(room)
    sizes[_nest_of(number, sizes)[0]] += 1


def _chunk(
    directive: Chunk, blocks: Blocks, temporaries: Rooms, sizes: Sizes, limits: Limits, bounds: Bounds
) -> None:
    position, first = _nest_of(directive.block, sizes)
    common = common_axes(tuple(blocks[first : first + sizes[position]]))
    name = f"total{len(temporaries)}"
    parts, total = chunked(directive, blocks[directive.block], common, name, bounds)
    blocks[directive.block : directive.block + 1] = parts
    temporaries.append(total)
    sizes[position] += 2


_RULES: dict[type, Callable[..., None]] = {
    Join: _join,
    Tile: _tile,
    Stage: _stage,
    Panel: _panel,
    Window: _window,
    Shift: _shift,
    SplitReduce: _split_reduce,
    Rows: _rows,
    Restrict: _restrict,
    StageRows: _stage_rows,
    Chunk: _chunk,
}
