"""Plans for nests over rows that hold products: softmax(q @ k.T) @ v, or two layers in a row.

A task takes a tile of rows. The rows of what lies between the products stay in the cache, each product runs
in register tiles over panels that are packed once for all tiles, and what maps or reduces rows runs in lanes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from petaflop.codegen.axes import edge_of, reduce_levels, vector_choice
from petaflop.codegen.contraction import LEAST_WORK, RUN, cycles, runs
from petaflop.codegen.cost import Summary, points, size_of, summarize
from petaflop.codegen.product import MOST_TASKS, TASK_WORK, Contraction, ceil_div
from petaflop.codegen.rewrite import rewrite
from petaflop.codegen.roles import Roles, is_sum_of_products, loads_below, roles_of, walks
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, Leaf
from petaflop.ir.kernel import Block, Kernel, axes_of, axis_size, common_axes
from petaflop.ir.plan import Chunk, Restrict, Rewrite, Rows, Split, Stage, StageRows, Tile
from petaflop.ir.target import Target

__all__ = ["plan_chain"]

TILE_ROWS = 32  # of a task's step: enough to use a panel often
FEW_ROWS = 16  # where what is kept of more does not fit the cache; panels would be read too often for fewer
FAR = 1024  # bytes between the rows of a factor, from which on they are packed


@dataclass(frozen=True, slots=True)
class _Product:
    """A product of a nest: the position of its block, who is who, its axis of rows and its register tile."""

    position: int
    block: Block
    summary: Summary
    roles: Roles
    row: Expr
    width: int
    tile_m: int
    vectors: int

    @property
    def tile_n(self) -> int:
        return self.vectors * self.width

    @property
    def n(self) -> str:
        return str(self.roles.n[0].arg)

    @property
    def tiled(self) -> bool:
        """Whether there are more columns than in a register tile."""
        return size_of(axis_size(self.roles.n[0])) > self.tile_n

    @property
    def chunked(self) -> bool:
        return len(self.roles.k) == 1 and points(self.roles.k) > RUN

    @property
    def staged_rows(self) -> bool:
        return not _near(self.summary, self.factor(self.roles.rows), self.row, self.roles.k)

    def factor(self, side: int) -> Expr:
        return self.block.reductions[0].term.args[side]


def plan_chain(kernel: Kernel, first: int, blocks: Sequence[Block], target: Target) -> Contraction | None:
    """The plan of a nest of several blocks whose first is number `first`; None where it holds no product over
    the rows."""
    axes = common_axes(tuple(blocks))
    if len(blocks) < 2 or not axes or not isinstance(axis_size(axes[-1]), int):
        return None
    numbers = tuple(range(first, first + len(blocks)))
    rows = Rows(numbers, axes[-1].arg, _rows(kernel, blocks, axes[-1], target))
    nest, rewrites = _restricted(kernel, rows, numbers)
    products = [
        product
        for position, block in enumerate(nest.blocks)
        if (product := _product(nest, position, block, rows.size, target)) is not None
    ]
    work = sum(points(p.block.axes) * points(p.roles.k) for p in products)
    if not products or work < LEAST_WORK:
        return None
    split: list[Split] = []
    order: list[str] = []
    start = first + nest.added
    for p in reversed(products):  # from the end, so that the numbers before stay as they are
        for directive in _packed(p, nest.common, start):
            rewrites.append(directive)
            start += isinstance(directive, Stage)
        splits, loops = _register_loops(p)
        split += splits
        order += loops
    inside = {p.position for p in products}
    for position, block in enumerate(nest.blocks):
        if position not in inside:
            split += _lanes(nest, block, target)
    split += _threads(nest.common, work)
    return Contraction(tuple(rewrites), start - first, (), tuple(split), tuple(order))


@dataclass(frozen=True, slots=True)
class _Nest:
    """A nest by tiles of rows, in the kernel that has it, after `added` nests more; `common` ends with the
    number of a tile."""

    kernel: Kernel
    blocks: Sequence[Block]
    common: tuple[Expr, ...]
    added: int


def _restricted(kernel: Kernel, rows: Rows, numbers: tuple[int, ...]) -> tuple[_Nest, list[Rewrite]]:
    """The nest by tiles of rows, without the columns that it does not need."""
    position = _position(kernel, numbers[0])
    tiled, restricted = (
        rewrite(kernel, directives).kernel for directives in ((rows,), (rows, Restrict(numbers)))
    )
    fewer = restricted.nests != tiled.nests
    seen = restricted if fewer else tiled
    added = len(seen.nests) - len(kernel.nests)
    blocks = seen.nests[position + added]
    return _Nest(seen, blocks, common_axes(blocks), added), [rows, *([Restrict(numbers)] if fewer else [])]


def _position(kernel: Kernel, number: int) -> int:
    """The position of the nest that has a block of that number."""
    counts = accumulate(len(nest) for nest in kernel.nests)
    return next(position for position, count in enumerate(counts) if number < count)


def _packed(p: _Product, common: Sequence[Expr], start: int) -> Iterator[Rewrite]:
    """Tiles, panels and chunks of a product; a panel stands in a nest of its own, before that of the rows."""
    number = start + p.position
    if p.tiled:
        yield Tile((number,), p.n, p.tile_n)
    columns = _columns_staged(p, common)
    if columns:
        yield Stage(number, p.roles.columns, columns)
        number += 1
    if p.staged_rows:
        yield StageRows(number, p.roles.rows)
        number += 1
    if p.chunked:
        yield Chunk(number, p.roles.k[0].arg, RUN)


def _register_loops(p: _Product) -> tuple[list[Split], list[str]]:
    """The register tile of a product, and its own loops from the outside in: chunks, columns, rows."""
    vector = (("unroll", p.tile_n), ("vector", p.width)) if p.vectors > 1 else (("vector", p.width),)
    split = [Split(f"{p.n}_r" if p.tiled else p.n, vector)]
    if p.tile_m > 1:
        split.append(Split(p.row.arg, (("unroll", p.tile_m),)))
    if p.staged_rows:
        split.append(Split(f"{p.roles.k[-1].arg}_m", (("vector", p.width),)))
    if not p.chunked:
        split += runs([(a.arg, points([a])) for a in p.roles.k])
    order = [f"{p.roles.k[0].arg}_b.0"] if p.chunked else []
    return split, [*order, *([f"{p.n}_t.0"] if p.tiled else []), f"{p.row.arg}.0"]


def _rows(kernel: Kernel, blocks: Sequence[Block], row: Expr, target: Target) -> int:
    """How many rows a tile has, for what is kept of each to fit the cache."""
    stored = {s.buffer for block in blocks for s in block.stores}
    kept = [t for t in kernel.temporaries if t.name in stored]
    bytes_of_row = max([1, *(points_of(t.shape[t.shared :]) * t.dtype.itemsize for t in kept)])
    fit = TILE_ROWS * bytes_of_row <= target.l2_bytes // 2
    return min(TILE_ROWS if fit else FEW_ROWS, size_of(axis_size(row)))


def points_of(shape: Sequence[object]) -> int:
    total = 1
    for size in shape:
        total *= size if isinstance(size, int) else 1
    return total


def _product(nest: _Nest, position: int, block: Block, rows: int, target: Target) -> _Product | None:
    """The block as a product of rows with a factor that they share, or None."""
    if not is_sum_of_products((block,)):
        return None
    summary = summarize(nest.kernel, block)
    roles = roles_of((block,), (summary,), along_loads=False)
    row, *own = block.axes[len(nest.common) :]
    if roles is None or roles.m[-1] is not row or len(roles.n) != 1 or own != [*roles.n]:
        return None
    width = max(1, target.vector_bytes // summary.itemsize)
    n = size_of(axis_size(roles.n[0]))
    while n < width:
        width //= 2
    if width < 2:
        return None
    return _Product(
        position, block, summary, roles, row, width, *_register_tile(rows, n, width, target.vector_registers)
    )


def _register_tile(rows: int, n: int, width: int, registers: int) -> tuple[int, int]:
    """Rows and vectors of the tile with the least estimated time for rows × n; vectors are a power of two."""
    best = (float("inf"), -1, 1)
    for vectors in (1, 2, 4):
        for tall in range(1, min(rows, 16) + 1):
            if tall * vectors + vectors + 1 <= registers and (vectors - 1) * width < n:
                time = rows // tall * cycles(tall, vectors) + rows % tall * cycles(1, vectors)
                best = min(best, (-(-n // (vectors * width)) * time, -vectors, tall))
    return best[2], -best[1]


def _columns_staged(p: _Product, common: Sequence[Expr]) -> tuple[str, ...]:
    """The axes of the panels of the factor that rows share; none where it is read where it lies."""
    factor = p.factor(p.roles.columns)
    if (
        not p.tiled
        and walks(p.summary, factor, p.roles.n, 1)
        and _near(p.summary, factor, p.roles.n[0], p.roles.k)
    ):
        return ()
    k = tuple(a.arg for a in p.roles.k)
    used = axes_of((factor,))
    around = tuple(a.arg for a in common if a in used)
    return (*around, f"{p.n}_t", *k, f"{p.n}_r") if p.tiled else (*around, *k, p.n)


def _near(summary: Summary, factor: Expr, beside: Expr, k: Sequence[Expr]) -> bool:
    """Whether a factor is a plain load whose elements along k are not far apart; it has the axis `beside`,
    unlike the other factor, which may be read from the same memory."""
    if factor.op is not Leaf.LOAD or factor.args[0].op is not Op.CONST:
        return False
    return any(
        beside in access.strides
        and not (access.irregular | access.guarded) & set(k)
        and access.strides.get(k[-1], FAR) * access.itemsize < FAR
        for access in loads_below(summary, factor)
    )


def _lanes(nest: _Nest, block: Block, target: Target) -> list[Split]:
    """Vector lanes of a block that maps or reduces rows."""
    summary = summarize(nest.kernel, block)
    width = max(1, target.vector_bytes // summary.itemsize)
    tiles = vector_choice((block,), (summary,), nest.common, width, (), target.has_masked_access)
    result = []
    for a in block.reduce_axes:
        levels = reduce_levels(a, tiles.get(a), (block,))
        result += [Split(a.arg, levels)] if levels else []
    for a, levels in tiles.items():
        if a in block.axes and a not in nest.common:
            edge = edge_of(a, levels, (block,), (summary,)) if target.has_masked_access else "peel"
            result.append(Split(a.arg, levels, edge))
    return result


def _threads(common: Sequence[Expr], work: int) -> list[Split]:
    """How the tiles are cut into tasks, the outermost axes first."""
    wanted = min(MOST_TASKS, work // TASK_WORK)
    result = []
    for a in common:
        size = size_of(axis_size(a))
        if wanted >= 2 and size >= 2:
            step = ceil_div(size, wanted)
            result.append(Split(a.arg, (("thread", step),)))
            wanted //= ceil_div(size, step)
    return result
