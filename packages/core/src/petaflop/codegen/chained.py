"""Plans for nests over rows that hold products: softmax(q @ k.T) @ v, or two layers in a row.

A task takes a tile of rows. The rows of what lies between the products stay in the cache, each product runs
in register tiles over panels that are packed once for all tiles, and what maps or reduces rows runs in lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from petaflop.codegen.axes import edge_of, reduce_levels, vector_choice
from petaflop.codegen.contraction import LEAST_WORK, RUN, cycles, runs
from petaflop.codegen.cost import Summary, points, size_of, summarize
from petaflop.codegen.product import MOST_TASKS, TASK_WORK, Contraction, ceil_div
from petaflop.codegen.roles import Roles, is_sum_of_products, roles_of, walks
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, Leaf
from petaflop.ir.kernel import Block, Kernel, axes_of, axis_size, common_axes
from petaflop.ir.plan import Chunk, Rewrite, Rows, Split, Stage, StageRows, Tile
from petaflop.ir.target import Target

__all__ = ["plan_chain"]

TILE_ROWS = 32  # of a task's step: enough to use a panel often
FAR = 1024  # bytes between the rows of a factor, from which on they are packed

Levels = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class _Product:
    """A product of a nest: the position of its block, who is who, and its register tile."""

    position: int
    block: Block
    summary: Summary
    roles: Roles
    width: int
    tile_m: int
    vectors: int

    @property
    def tile_n(self) -> int:
        return self.vectors * self.width

    @property
    def n(self) -> str:
        return str(self.roles.n[0].arg)

    def factor(self, side: int) -> Expr:
        return self.block.reductions[0].term.args[side]


def plan_chain(kernel: Kernel, first: int, blocks: Sequence[Block], target: Target) -> Contraction | None:
    """The plan of a nest of several blocks whose first is number `first`; None where it holds no product over
    the rows."""
    common = common_axes(tuple(blocks))
    if len(blocks) < 2 or not common or not isinstance(axis_size(common[-1]), int):
        return None
    row = common[-1]
    rows = _rows(kernel, blocks, row, target)
    products = [
        product
        for position, block in enumerate(blocks)
        if (product := _product(kernel, position, block, common, rows, target)) is not None
    ]
    work = sum(points(p.block.axes) * points(p.roles.k) for p in products)
    if not products or work < LEAST_WORK:
        return None
    numbers = tuple(range(first, first + len(blocks)))
    rewrites: list[Rewrite] = [Rows(numbers, row.arg, rows)]
    split: list[Split] = []
    order: list[str] = []
    added = 0
    for p in reversed(products):  # from the end, so that the numbers before stay as they are
        own = f"{row.arg}_r{p.position}"
        split += [Split(own, (("unroll", p.tile_m),))] if p.tile_m > 1 else []
        vector = (("unroll", p.tile_n), ("vector", p.width)) if p.vectors > 1 else (("vector", p.width),)
        n = p.n
        tiles = size_of(axis_size(p.roles.n[0])) > p.tile_n
        if tiles:
            rewrites.append(Tile((first + added + p.position,), n, p.tile_n))
            split.append(Split(f"{n}_r", vector))
        else:
            split.append(Split(n, vector))
        columns = _columns_staged(p, common, tiles)
        if columns:
            rewrites.append(Stage(first + added + p.position, p.roles.columns, columns))
            added += 1
        number = first + added + p.position
        if not _near(p.summary, p.factor(p.roles.rows), p.roles.k):
            rewrites.append(StageRows(number, p.roles.rows))
            last = p.roles.k[-1]
            split.append(Split(f"{last.arg}_m", (("vector", p.width),)))
            number += 1
        k = p.roles.k
        if len(k) == 1 and size_of(axis_size(k[0])) > RUN:
            rewrites.append(Chunk(number, k[0].arg, RUN))
            order.append(f"{k[0].arg}_b.0")
        else:
            split += runs([(a.arg, points([a])) for a in k])
        order += [f"{n}_t.0", f"{own}.0"] if tiles else [f"{own}.0"]
    inside = {p.position for p in products}
    for position, block in enumerate(blocks):
        if position not in inside:
            split += _lanes(kernel, block, common, target)
    split += _threads(common, row, rows, work)
    return Contraction(tuple(rewrites), added, (), tuple(split), tuple(order))


def _rows(kernel: Kernel, blocks: Sequence[Block], row: Expr, target: Target) -> int:
    """How many rows a tile has: as many as fit the cache with what is kept of each."""
    stored = {s.buffer for block in blocks for s in block.stores}
    kept = [t for t in kernel.temporaries if t.name in stored]
    bytes_of_row = max([1, *(points_of(t.shape[t.shared :]) * t.dtype.itemsize for t in kept)])
    rows = TILE_ROWS
    while rows > 4 and rows * bytes_of_row > target.l2_bytes // 4:
        rows //= 2
    return min(rows, size_of(axis_size(row)))


def points_of(shape: Sequence[object]) -> int:
    total = 1
    for size in shape:
        total *= size if isinstance(size, int) else 1
    return total


def _product(
    kernel: Kernel, position: int, block: Block, common: Sequence[Expr], rows: int, target: Target
) -> _Product | None:
    """The block as a product of rows with a factor that they share, or None."""
    if not is_sum_of_products((block,)):
        return None
    summary = summarize(kernel, block)
    roles = roles_of((block,), (summary,), along_loads=False)
    if roles is None or roles.m[-1] is not common[-1] or len(roles.n) != 1:
        return None
    if set(block.axes) - set(common) != set(roles.n):
        return None
    width = max(1, target.vector_bytes // summary.itemsize)
    n = size_of(axis_size(roles.n[0]))
    while n < width:
        width //= 2
    if width < 2:
        return None
    tile_m, vectors = _register_tile(rows, n, width, target.vector_registers)
    return _Product(position, block, summary, roles, width, tile_m, vectors)


def _register_tile(rows: int, n: int, width: int, registers: int) -> tuple[int, int]:
    """Rows and vectors of the tile with the least estimated time for rows × n; vectors are a power of two."""
    best = (float("inf"), -1, 1)
    for vectors in (1, 2, 4):
        for tall in range(1, min(rows, 16) + 1):
            if tall * vectors + vectors + 1 <= registers and (vectors - 1) * width < n:
                time = rows // tall * cycles(tall, vectors) + rows % tall * cycles(1, vectors)
                best = min(best, (-(-n // (vectors * width)) * time, -vectors, tall))
    return best[2], -best[1]


def _columns_staged(p: _Product, common: Sequence[Expr], tiles: bool) -> tuple[str, ...]:
    """The axes of the panels of the factor that rows share; none where it is read where it lies."""
    factor = p.factor(p.roles.columns)
    if not tiles and walks(p.summary, factor, p.roles.n, 1) and _near(p.summary, factor, p.roles.k):
        return ()
    k = tuple(a.arg for a in p.roles.k)
    used = axes_of((factor,))
    around = tuple(a.arg for a in common if a in used)
    return (*around, f"{p.n}_t", *k, f"{p.n}_r") if tiles else (*around, *k, p.n)


def _near(summary: Summary, factor: Expr, k: Sequence[Expr]) -> bool:
    """Whether a factor is a plain load whose elements along k are not far apart."""
    if factor.op is not Leaf.LOAD or factor.args[0].op is not Op.CONST:
        return False
    access = next(a for a in summary.accesses if a.buffer == factor.arg[0] and not a.is_store)
    regular = not (access.irregular | access.guarded) & set(k)
    return regular and access.strides.get(k[-1], FAR) * access.itemsize < FAR


def _lanes(kernel: Kernel, block: Block, common: Sequence[Expr], target: Target) -> list[Split]:
    """Vector lanes of a block that maps or reduces rows."""
    summary = summarize(kernel, block)
    width = max(1, target.vector_bytes // summary.itemsize)
    tiles = vector_choice((block,), (summary,), common, width, (), target.has_masked_access)
    tiles = {a: levels for a, levels in tiles.items() if a not in common}
    result = []
    for a in block.reduce_axes:
        levels = reduce_levels(a, tiles.get(a), (block,))
        result += [Split(a.arg, levels)] if levels else []
    for a, levels in tiles.items():
        if a in block.axes:
            edge = edge_of(a, levels, (block,), (summary,)) if target.has_masked_access else "peel"
            result.append(Split(a.arg, levels, edge))
    return result


def _threads(common: Sequence[Expr], row: Expr, rows: int, work: int) -> list[Split]:
    """How the tiles are cut into tasks, the outermost axes first."""
    wanted = min(MOST_TASKS, work // TASK_WORK)
    result = []
    for a in common:
        size = ceil_div(size_of(axis_size(a)), rows) if a is row else size_of(axis_size(a))
        if wanted >= 2 and size >= 2:
            step = ceil_div(size, wanted)
            result.append(Split(f"{a.arg}_t" if a is row else a.arg, (("thread", step),)))
            wanted //= ceil_div(size, step)
    return result
