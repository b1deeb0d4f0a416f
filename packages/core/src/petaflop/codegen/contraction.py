"""Plans for sums of products: matrix products, batched or not, and convolutions, by one rule.

The factors of the product depend on different axes: m only on the first, n only on the second, k on both (the
reduce axes). A register tile of m × n is summed over k from panels in which a tile's elements are neighbours;
packing a panel evaluates the factor, so casts, masks and windows cost nothing further in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from petaflop.codegen.cost import Summary, points, size_of, summarize
from petaflop.codegen.matrix import plan_matrix
from petaflop.codegen.product import (
    MOST_TASKS,
    TASK_WORK,
    Contraction,
    Product,
    ceil_div,
    joined,
    tasks_of,
    thread,
)
from petaflop.codegen.rewrite import rewrite
from petaflop.codegen.roles import Roles, is_sum_of_products, loads_below, roles_of, walks
from petaflop.codegen.windows import windows_of
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Leaf
from petaflop.ir.kernel import Block, Kernel, axes_of, axis_size
from petaflop.ir.plan import Fuse, Panel, Rewrite, Split, Stage, Tile, Window
from petaflop.ir.target import Target

__all__ = ["cycles", "plan_contraction", "runs"]

LEAST_WORK = 1 << 13  # multiply-adds below which panels do not pay
RUN = 128  # products summed up in one chain before the partial sum is put aside
PANEL_ROWS = 24  # rows from which on packing the other factor pays
LEAST_ROWS = 4  # rows from which on it pays where the other factor is not contiguous
LEAST_LANES = 0.6  # of whole vectors, the part that a row must fill
FEWEST_LANES = 4  # fewer columns than a whole vector has lanes are worth a part of one, down to this
FAR = 1024  # bytes: rows that step so far along k share few sets of a cache


def plan_contraction(
    kernel: Kernel, first: int, blocks: Sequence[Block], target: Target
) -> Contraction | None:
    """The plan of a nest whose first block, number `first`, is a sum of products; None where another plan is
    better."""
    if not is_sum_of_products(blocks):
        return None
    if (matrix := plan_matrix(kernel, first, blocks, target)) is not None:
        return matrix
    product = _product(kernel, blocks, target, along_loads=False)
    if product is None:
        return None
    windowed = None if product.contiguous else _plan_windows(kernel, first, product, target)
    return windowed or _plan(first, product, target, windowed=False)


def _product(kernel: Kernel, blocks: Sequence[Block], target: Target, along_loads: bool) -> Product | None:
    summaries = [summarize(kernel, block) for block in blocks]
    roles = roles_of(blocks, summaries, along_loads)
    if roles is None:
        return None
    width = max(1, target.vector_bytes // max(s.itemsize for s in summaries))
    m, n, k = points(roles.m), points(roles.n), points(roles.k)
    while n < width and width > FEWEST_LANES and not along_loads:
        width //= 2
    work = m * n * k * (points(roles.outer) if along_loads else 1)
    if width < 2 or m < 2 or work < LEAST_WORK or n < (LEAST_LANES if along_loads else 1) * width:
        return None
    tile_m, vectors = _register_tile(m, n, width, target.vector_registers)
    columns = blocks[0].reductions[0].term.args[roles.columns]
    contiguous = walks(summaries[0], columns, roles.n, 1)
    return Product(blocks, summaries, roles, width, m, n, k, tile_m, vectors, contiguous)


def _plan_windows(kernel: Kernel, first: int, product: Product, target: Target) -> Contraction | None:
    """The plan on a padded copy of what the columns read, with lanes along the last axis alone: no panel, as
    each element of the copy serves many products."""
    lanes, columns = product.roles.n[-1], product.roles.columns
    length = size_of(axis_size(lanes))
    whole = -(-length // product.width) * product.width
    sums = windows_of(product.factors[columns])
    if sums is None or length < LEAST_LANES * whole or product.m < LEAST_ROWS or sums[-1].factor(lanes) < 1:
        return None
    vectors = _register_tile(product.m, length, product.width, target.vector_registers)[1]
    window = Window(first, columns, lanes.arg, vectors * product.width)
    seen = rewrite(kernel, (window,)).kernel
    blocks = seen.blocks[first + 1 : first + 1 + len(product.blocks)]
    copied = _product(seen, blocks, target, along_loads=True)
    if copied is None or not copied.contiguous:
        return None
    plan = _plan(first + 1, copied, target, windowed=True)
    return plan and replace(plan, rewrites=(window, *plan.rewrites), added=plan.added + 1)


def _plan(first: int, product: Product, target: Target, windowed: bool) -> Contraction | None:
    roles, tile_m, tile_n = product.roles, product.tile_m, product.tile_n
    packing = _packing(product, windowed)
    if packing is None:
        return None
    numbers = tuple(range(first, first + len(product.blocks)))
    rewrites: list[Rewrite] = []
    m, n = (joined(axes, numbers, rewrites) for axes in (roles.m, roles.n))
    run = _tiles_of_a_panel(product, packing, target)
    added = _stages(first, numbers, product, packing, m, n, run, rewrites)
    rows_fit = max(1, target.l2_bytes // 2 // (product.k * 4) // tile_m) * tile_m
    rows_first = windowed and product.m > rows_fit  # rows stay in the cache while the outer axes pass by
    tasks = tasks_of(product, rows_fit, rows_first)
    if run:
        tasks = replace(
            tasks, outer=tuple(Split(a.arg, thread(True, 1)) for a in roles.outer), m=False, n=False
        )

    split = list(tasks.outer)
    width = product.width
    vector = (("unroll", tile_n), ("vector", width)) if product.vectors > 1 else (("vector", width),)
    if packing.rows:
        split += [Split(f"{m}_t", thread(tasks.m, tasks.m_step)), Split(f"{m}_r", (("unroll", tile_m),))]
    else:
        split.append(Split(m, (*thread(tasks.m, tasks.m_step * tile_m), ("unroll", tile_m))))
    if run:
        split += [
            Split(f"{n}_t_b", thread(True, 1)),
            Split(f"{n}_r", vector),
            _lanes_of_a_panel(product, n, vector),
        ]
    elif packing.tile_columns:
        split += [Split(f"{n}_t", thread(tasks.n, tasks.n_step)), Split(f"{n}_r", vector)]
    else:
        split.append(Split(n, (*thread(tasks.n, tasks.n_step * tile_n), *vector)))
    fuse = () if run else _fuse_k(roles, packing.rows, packing.columns, product.summaries[0])
    if product.blocks[0].reductions[0].states[0].dtype.is_float:
        split += runs([(fuse[0].into, product.k)] if fuse else [(a.arg, points([a])) for a in roles.k])
    outer_n = f"{n}_t.{int(tasks.n)}" if packing.tile_columns else f"{n}.{int(tasks.n)}"
    outer_m = f"{m}_t.{int(tasks.m)}" if packing.rows else f"{m}.{int(tasks.m)}"
    order: tuple[str, ...] = () if run else (outer_n, outer_m)
    if windowed:
        order = (outer_m, *tasks.order, outer_n) if rows_first else (*tasks.order, outer_n, outer_m)
    return Contraction(tuple(rewrites), added, fuse, tuple(s for s in split if s.levels), order)


def _tiles_of_a_panel(product: Product, packing: _Packing, target: Target) -> int:
    """How many tiles of columns a task packs for itself; 0 where they are packed for all tasks beforehand,
    because one does not fit the cache or there are too few of them to share out."""
    roles, factor = product.roles, product.factors[product.roles.columns]
    fit = target.l2_bytes // 2 // (product.k * product.tile_n * factor.dtype.itemsize)
    alone = len(product.blocks) == 1 and set(roles.outer) <= axes_of((factor,))
    if not packing.columns or not alone or not fit:
        return 0
    outer, tiles = points(roles.outer), ceil_div(product.n, product.tile_n)
    wanted = max(1, min(MOST_TASKS, outer * product.m * product.n * product.k // TASK_WORK))
    run = max(1, min(fit, tiles * outer // wanted))
    return run if ceil_div(tiles, run) * outer >= min(wanted, 4 * target.threads) else 0


def _lanes_of_a_panel(product: Product, n: str, vector: tuple[tuple[str, int], ...]) -> Split:
    """The lanes of the block that packs: along k where that is how the factor lies."""
    last = product.roles.k[-1]
    along_k = walks(product.summaries[0], product.factors[product.roles.columns], (last,), 1)
    return Split(f"{last.arg}_p", (("vector", product.width),)) if along_k else Split(f"{n}_r_p", vector)


@dataclass(frozen=True, slots=True)
class _Packing:
    """Which factors go to panels, and whether the columns are cut into whole tiles."""

    rows: bool
    columns: bool
    tile_columns: bool


def _packing(product: Product, windowed: bool) -> _Packing | None:
    """None where the columns would have to be packed and that does not pay."""
    columns = not windowed and product.m >= (PANEL_ROWS if product.contiguous else LEAST_ROWS)
    if not product.contiguous and not columns:
        return None
    rows = product.n >= 2 * product.width and not _rows_as_they_are(product)
    return _Packing(rows, columns, columns or (windowed and product.n % product.tile_n != 0))


def _stages(
    first: int,
    numbers: tuple[int, ...],
    product: Product,
    packing: _Packing,
    m: str,
    n: str,
    run: int,
    rewrites: list[Rewrite],
) -> int:
    """Add what cuts the axes into tiles and packs the factors; gives the number of blocks that this adds."""
    roles = product.roles
    outer = [a.arg for a in roles.outer]
    used = [{a.arg for a in axes_of((factor,))} for factor in product.factors]
    if packing.tile_columns:
        rewrites.append(Tile(numbers, n, product.tile_n))
    if packing.rows:
        rewrites.append(Tile(numbers, m, product.tile_m))
    added = 0
    beforehand = packing.columns and not run
    for pack, operand, name in ((beforehand, roles.columns, n), (packing.rows, roles.rows, m)):
        if pack:
            around = tuple(a for a in outer if a in used[operand])
            names = (*around, f"{name}_t", *(a.arg for a in roles.k), f"{name}_r")
            rewrites.append(Stage(first + added, operand, names))
            added += 1
    if run:
        rewrites.append(Panel(first + added, roles.columns, f"{n}_t", run))
    return added


def _rows_as_they_are(product: Product) -> bool:
    """Whether the rows are read where they lie: plain loads, a step of k not far away."""
    rows, roles = product.factors[product.roles.rows], product.roles
    if rows.op is not Leaf.LOAD or rows.args[0].op is not Op.CONST:
        return False
    if not walks(product.summaries[0], rows, (*roles.m, *roles.k), None):
        return False
    reads = loads_below(product.summaries[0], rows)  # the other factor may be read from the same memory
    access = next(a for a in reads if roles.m[-1] in a.strides)
    far = access.strides.get(roles.k[-1], 0) * access.itemsize >= FAR
    return not far or product.n < 8 * product.width


def runs(axes: list[tuple[str, int]]) -> list[Split]:
    """Partial sums of about RUN products along the (axis, size)s of k: a "block" of the outermost axis of
    which one step is no longer than that."""
    if math.prod(size for _, size in axes) <= 2 * RUN:
        return []
    inner = 1
    for name, size in reversed(axes):
        if inner * size > 2 * RUN:
            return [Split(name, (("block", max(1, RUN // inner)),))]
        inner *= size
    return []


def _fuse_k(roles: Roles, pack_rows: bool, pack_columns: bool, summary: Summary) -> tuple[Fuse, ...]:
    """Join the reduce axes where every factor is packed or walks through them as one."""
    if len(roles.k) < 2:
        return ()
    for access in summary.accesses:
        packed = pack_columns and bool(set(roles.n) & access.strides.keys() | access.irregular & set(roles.n))
        packed |= pack_rows and bool(set(roles.m) & (access.strides.keys() | access.irregular))
        if packed or access.is_store:
            continue
        for outer, inner in zip(roles.k, roles.k[1:], strict=False):
            if {outer, inner} & (access.irregular | access.guarded):
                return ()
            if access.strides.get(outer, 0) != access.strides.get(inner, 0) * size_of(axis_size(inner)):
                return ()
    names = tuple(a.arg for a in roles.k)
    return (Fuse(names, "_".join(names)),)


# ---- the register tile ----


def _register_tile(m: int, n: int, width: int, registers: int) -> tuple[int, int]:
    """Rows and vectors of columns of the tile with the least estimated time for m × n."""
    best = (float("inf"), 1, 1)
    for vectors in range(1, 5):
        for rows in range(1, 17):
            if rows * vectors + vectors + 1 > registers or rows > m:
                continue
            columns = -(-n // (vectors * width))
            time = columns * (m // rows * cycles(rows, vectors) + m % rows * cycles(1, vectors))
            if (vectors - 1) * width < n:
                best = min(best, (time, -rows, vectors))
    return -best[1], best[2]


def cycles(rows: int, vectors: int) -> float:
    """Cycles of one step of k: two multiply-adds and two loads a cycle, four cycles until a sum can be added
    to."""
    return max(rows * vectors / 2, (rows + vectors) / 2, 4.0) + 0.3
