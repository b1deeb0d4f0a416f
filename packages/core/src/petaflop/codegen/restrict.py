"""Columns that a tile of rows need not compute: where conditions on indices leave one value for a whole row.

In a causal mask every score beyond the last row of a tile is -inf, whatever the scores are. What a nest maps
from such columns depends on the row alone, so a reduction takes the value once instead of for each column,
and a product the value times a sum that all rows share. Nothing is assumed about the value: it may be -inf,
0, a large number or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from petaflop.codegen.affine import settled, settling_edges
from petaflop.codegen.ranges import minimum
from petaflop.codegen.rows import Bound
from petaflop.dtype import float32, float64
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import (
    TRUE,
    Expr,
    Leaf,
    add,
    constant,
    divide,
    less,
    multiply,
    select,
    substitute,
    topological,
)
from petaflop.ir.kernel import (
    Block,
    Reduction,
    Store,
    Temporary,
    axes_of,
    axis,
    axis_size,
    load,
    loads_of,
    reduction,
    value,
)

__all__ = ["restrict_columns"]

STEP = 64  # columns that edges are multiples of: whole vectors and panels of most dtypes


@dataclass(frozen=True, slots=True)
class _Nest:
    """A nest of tiles of rows: its blocks, the axes around a tile, temporaries, and how new names begin."""

    blocks: Sequence[Block]
    common: tuple[Expr, ...]
    temporaries: Mapping[str, Temporary]
    prefix: str

    def row(self, block: Block) -> Expr:
        return block.axes[len(self.common)]


@dataclass(slots=True)
class _Side:
    """What is known of the columns beyond an edge, upwards or downwards from it.

    `fills` has the value there of what a temporary holds, with the row axis that it is in terms of; `terms`
    says for each block that reduces them what it folds in, and `factors` for each product the row's factor
    and the one that all rows share.
    """

    upwards: bool
    edges: list[Expr] = field(default_factory=list)
    columns: dict[int, Expr] = field(default_factory=dict)  # block → its axis of columns
    fills: dict[str, tuple[Expr, Expr]] = field(default_factory=dict)
    rows: dict[int, Block] = field(default_factory=dict)  # what stores the value beyond of a block that maps
    terms: dict[int, Expr] = field(default_factory=dict)
    factors: dict[int, tuple[Expr, Expr]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "above" if self.upwards else "below"


def restrict_columns(
    blocks: Sequence[Block],
    common: tuple[Expr, ...],
    temporaries: list[Temporary],
    bounds: dict[str, Bound],
) -> tuple[list[Block], list[Block]] | None:
    """The blocks of a nest of tiles of rows with bounds for their columns, and blocks to run before it; None
    where all columns are needed."""
    nest = _Nest(blocks, common, {t.name: t for t in temporaries}, f"beyond{len(temporaries)}")
    found = [side for upwards in (True, False) if (side := _side(nest, upwards)) is not None]
    width = _width(found)
    low, high = constant(0), constant(width)
    sides: list[_Side] = []
    for side in found:
        edge = _stepped(side, width)
        if edge is not (high if side.upwards else low):
            low, high = (low, edge) if side.upwards else (edge, high)
            sides.append(side)
    if not width or not sides:
        return None
    low = minimum(low, high)
    writer = _Writer(nest, temporaries, bounds, width)
    result: list[Block] = []
    for number, block in enumerate(blocks):
        for side in sides:
            block = writer.corrected(side, number, block, high if side.upwards else low, result)
        result.append(block)
        for side in sides:
            if number in side.rows:
                writer.keep(side.rows[number], result)
    for side in sides:
        for a in side.columns.values():
            known = bounds.get(a.arg, Bound(constant(0), constant(width)))
            bounds[a.arg] = replace(known, high=high) if side.upwards else replace(known, low=low)
    return result, writer.before


def _width(sides: Sequence[_Side]) -> int:
    """The number of columns, or 0 where there are several kinds of them."""
    sizes = {axis_size(a) for side in sides for a in side.columns.values()}
    return size if len(sizes) == 1 and isinstance(size := sizes.pop(), int) else 0


# ---- what is beyond an edge ----


def _side(nest: _Nest, upwards: bool) -> _Side | None:
    side = _Side(upwards)
    for number, block in enumerate(nest.blocks):
        reads = [read for read in loads_of(block.exprs) if read.arg[0] in side.fills]
        if not (_folds(nest, side, number, block, reads) or _maps(nest, side, number, block, reads)):
            if reads:
                return None  # it needs columns that are not going to be there
            for store in block.stores:
                side.fills.pop(store.buffer, None)
    for number in reversed(range(len(nest.blocks))):
        _demanded(nest, side, number)
    return side if side.terms else None


def _reads_columns(nest: _Nest, block: Block, reads: Sequence[Expr], column: Expr) -> bool:
    """Whether all reads are of the block's own rows, and run along `column`."""
    place = (*nest.common, nest.row(block))
    return all(r.args[0] is TRUE and r.args[1:-1] == place and r.args[-1] is column for r in reads)


def _mapped(nest: _Nest, block: Block) -> Expr | None:
    """The axis of columns of a block that stores a row of a temporary in each of its own."""
    store = block.stores[0]
    own = store.index[-1] if store.index else constant(0)
    place = (*nest.common, nest.row(block))
    whole = store.index[:-1] == place and store.valid is TRUE and own in block.axes and own not in place
    return own if whole and len(block.stores) == 1 and store.buffer in nest.temporaries else None


def _maps(nest: _Nest, side: _Side, number: int, block: Block, reads: Sequence[Expr]) -> bool:
    own = _mapped(nest, block)
    if own is None or not _reads_columns(nest, block, reads, own):
        return False
    (store,) = block.stores
    row = nest.row(block)
    edges, beyond = _beyond(nest, side, block, store.value, own, reads)
    if own in axes_of((beyond,)) or any(e.op is Leaf.STATE for e in topological((beyond,))):
        return False
    side.edges += edges
    side.columns[number] = own
    if beyond.op is not Op.CONST:
        name = f"{nest.prefix}_{side.name}{number}"
        mine = axis(f"{row.arg}_{side.name}", axis_size(row))
        (kept,) = substitute((beyond,), {row: mine})
        side.rows[number] = Block((*nest.common, mine), (Store(name, (*nest.common, mine), kept),))
        beyond = load(name, (*nest.common, row), beyond.dtype)
    side.fills[store.buffer] = row, beyond
    return True


def _demanded(nest: _Nest, side: _Side, number: int) -> None:
    """Leave out columns of a block that no later one reads."""
    block = nest.blocks[number]
    own = _mapped(nest, block)
    if own is None or number in side.columns:
        return
    name, some = block.stores[0].buffer, False
    for k, other in enumerate(nest.blocks):
        reads = [read for read in loads_of(other.exprs) if read.arg[0] == name] if k > number else []
        if reads and (k not in side.columns or not _reads_columns(nest, other, reads, side.columns[k])):
            return
        some = some or bool(reads)
    if some:
        side.columns[number] = own


def _folds(nest: _Nest, side: _Side, number: int, block: Block, reads: Sequence[Expr]) -> bool:
    if len(block.reductions) != 1 or block.ordered:
        return False
    (r,) = block.reductions
    column = r.axes[0]
    if r.op not in (Op.ADD, Op.MAX) or r.scan or len(r.axes) > 1:
        return False
    if not _reads_columns(nest, block, reads, column):
        return False
    edges, beyond = _beyond(nest, side, block, r.term, column, reads)
    if not edges and not reads:
        return False
    if column in axes_of((beyond,)):
        factors = _factors(nest, block, r, beyond)
        if factors is None:
            return False
        side.factors[number] = factors
    side.terms[number] = beyond
    side.edges += edges
    side.columns[number] = column
    return True


def _factors(nest: _Nest, block: Block, r: Reduction, term: Expr) -> tuple[Expr, Expr] | None:
    """A term as the row's factor and one that all rows share, if it is the product of such."""
    if r.op is not Op.ADD or term.op is not Op.MUL or term.dtype not in (float32, float64):
        return None
    (column,) = r.axes
    shared = [factor for factor in term.args if column in axes_of((factor,))]
    each = [factor for factor in term.args if column not in axes_of((factor,))]
    own = set(block.axes[len(nest.common) + 1 :])
    if len(each) != 1 or own & axes_of(each) or _reads_inside(nest, shared):
        return None
    return None if {nest.row(block), nest.common[-1]} & axes_of(shared) else (each[0], shared[0])


def _reads_inside(nest: _Nest, exprs: Sequence[Expr]) -> bool:
    return any(read.arg[0] in nest.temporaries for read in loads_of(exprs))


def _beyond(
    nest: _Nest, side: _Side, block: Block, expr: Expr, column: Expr, reads: Sequence[Expr]
) -> tuple[list[Expr], Expr]:
    """The edges of the conditions in an expression, and the expression beyond them."""
    row = nest.row(block)
    found = settling_edges((expr,), column, row, nest.common, side.upwards)
    known = {condition: beyond for condition, (_, beyond) in found.items()}
    for read in reads:
        there, fill = side.fills[read.arg[0]]
        known[read] = substitute((fill,), {there: row})[0]
    return [edge for edge, _ in found.values()], settled(expr, known)


def _stepped(side: _Side, width: int) -> Expr:
    """The edge beyond which all conditions are settled, as a whole number of steps within the columns."""
    edge = side.edges[0]
    for other in side.edges[1:]:
        further = less(edge, other) if side.upwards else less(other, edge)
        edge = select(further, other, edge)
    if side.upwards:
        return minimum(multiply(divide(edge + (STEP - 1), constant(STEP)), constant(STEP)), constant(width))
    return multiply(divide(minimum(edge, constant(width)), constant(STEP)), constant(STEP))


# ---- what is computed instead ----


@dataclass(slots=True)
class _Writer:
    """Adds what columns beyond the edges give; `before` are blocks to run ahead of the nest."""

    nest: _Nest
    temporaries: list[Temporary]
    bounds: dict[str, Bound]
    width: int
    before: list[Block] = field(default_factory=list)
    sums: dict[int, str] = field(default_factory=dict)  # block of a product → sums over steps of columns

    def keep(self, block: Block, result: list[Block]) -> None:
        """A block of the nest that stores into a temporary of its own, one element for each point."""
        (store,) = block.stores
        shape = tuple(axis_size(a) for a in block.axes)
        self.temporaries.append(Temporary(store.buffer, store.value.dtype, shape, len(self.nest.common)))
        result.append(block)

    def corrected(self, side: _Side, number: int, block: Block, edge: Expr, result: list[Block]) -> Block:
        """The block with the part of the columns beyond in its results."""
        if number not in side.terms:
            return block
        r = self.nest.blocks[number].reductions[0]
        total, term = r.states[0].expr, side.terms[number]
        missing = add(constant(self.width), multiply(edge, constant(-1))) if side.upwards else edge
        if number in side.factors:
            with_them = value(Op.ADD, total, self._product(side, number, edge, result))
        elif r.op is Op.MAX:
            if term is r.states[0].initial:
                return block
            with_them = value(Op.MAX, total, term)
        else:
            times = value(Op.CAST, missing, dtype=term.dtype)
            with_them = value(Op.ADD, total, value(Op.MUL, times, term))
        new = value(Op.WHERE, less(constant(0), missing), with_them, total)
        stores = []
        for store in block.stores:
            valid, *place, stored = substitute(store.exprs, {total: new})
            stores.append(replace(store, valid=valid, index=tuple(place), value=stored))
        return replace(block, stores=tuple(stores))

    def _product(self, side: _Side, number: int, edge: Expr, result: list[Block]) -> Expr:
        """The row's factor times the sum of the columns' factors beyond the edge, which all rows of a tile
        share. The sum is scaled down, so that it does not overflow where none of its terms does."""
        block, common = self.nest.blocks[number], self.nest.common
        each, other = side.factors[number]
        (r,) = block.reductions
        (column,) = r.axes
        own = block.axes[len(common) + 1 :]
        around = tuple(a for a in common if a in axes_of((other,)))
        parts = -(-self.width // STEP)
        scale = 2.0 ** math.ceil(math.log2(self.width))
        if number not in self.sums:
            self.sums[number] = f"{self.nest.prefix}_sums{number}"
            part, place = axis(f"{column.arg}_part", parts), axis(f"{column.arg}_place", STEP)
            position = add(multiply(part, constant(STEP)), place)
            (factor,) = substitute((other,), {column: position})
            term = value(Op.MUL, factor, constant(1 / scale, factor.dtype))
            term = value(Op.WHERE, less(position, constant(self.width)), term, constant(0, term.dtype))
            fold = reduction(f"{self.sums[number]}_total", Op.ADD, term, (place,))
            axes = (*around, part, *own)
            store = Store(self.sums[number], axes, fold.states[0].expr)
            self.before.append(Block(axes, (store,), (fold,)))
            shape = tuple(axis_size(a) for a in axes)
            self.temporaries.append(Temporary(self.sums[number], term.dtype, shape))
        name = f"{self.nest.prefix}_{side.name}{number}"
        part = axis(f"{column.arg}_{side.name}", parts)
        first = divide(edge + (STEP - 1), constant(STEP))
        self.bounds[part.arg] = (
            Bound(first, constant(parts))
            if side.upwards
            else Bound(constant(0), divide(edge, constant(STEP)))
        )
        mine = tuple(axis(f"{a.arg}_{name}", axis_size(a)) for a in own)
        read = load(self.sums[number], (*around, part, *mine), other.dtype)
        fold = reduction(f"{name}_total", Op.ADD, read, (part,))
        axes = (*common, *mine)
        self.keep(Block(axes, (Store(name, axes, fold.states[0].expr),), (fold,)), result)
        shared = value(Op.MUL, each, load(name, (*common, *own), other.dtype))
        return value(Op.MUL, shared, constant(scale, other.dtype))
