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
from petaflop.codegen.rewrite import rewrite
from petaflop.codegen.roles import Roles, is_sum_of_products, loads_below, roles_of, walks
from petaflop.codegen.windows import windows_of
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, Leaf
from petaflop.ir.kernel import Block, Kernel, axes_of, axis_size
from petaflop.ir.plan import Fuse, Join, Rewrite, Split, Stage, Tile, Window
from petaflop.ir.target import Target

__all__ = ["Contraction", "plan_contraction"]

LEAST_WORK = 1 << 13  # multiply-adds below which panels do not pay
TASK_WORK = 1 << 20  # multiply-adds of one task
MOST_TASKS = 64
RUN = 128  # products summed up in one chain before the partial sum is put aside
PANEL_ROWS = 24  # rows from which on packing the other factor pays
LEAST_ROWS = 4  # rows from which on it pays where the other factor is not contiguous
LEAST_LANES = 0.6  # of whole vectors, the part that a row must fill
FEWEST_LANES = 4  # fewer columns than a whole vector has lanes are worth a part of one, down to this
FAR = 1024  # bytes: rows that step so far along k share few sets of a cache


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True, slots=True)
class Contraction:
    """What to do to a nest: rewrites that add `added` nests before it, then how its loops run."""

    rewrites: tuple[Rewrite, ...]
    added: int
    fuse: tuple[Fuse, ...]
    split: tuple[Split, ...]
    order: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Product:
    """A sum of products, its sizes and its register tile; `contiguous` where lanes of n are neighbours."""

    blocks: Sequence[Block]
    summaries: Sequence[Summary]
    roles: Roles
    width: int
    m: int
    n: int
    k: int
    tile_m: int
    vectors: int
    contiguous: bool

    @property
    def factors(self) -> tuple[Expr, ...]:
        return self.blocks[0].reductions[0].term.args

    @property
    def tile_n(self) -> int:
        return self.vectors * self.width


def plan_contraction(
    kernel: Kernel, first: int, blocks: Sequence[Block], target: Target
) -> Contraction | None:
    """The plan of a nest whose first block, number `first`, is a sum of products; None where another plan is
    better."""
    if not is_sum_of_products(blocks):
        return None
    product = _product(kernel, blocks, target, along_loads=False)
    if product is None:
        return None
    windowed = None if product.contiguous else _plan_windows(kernel, first, product, target)
    return windowed or _plan(first, product, target, windowed=False)


def _product(kernel: Kernel, blocks: Sequence[Block], target: Target, along_loads: bool) -> _Product | None:
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
    return _Product(blocks, summaries, roles, width, m, n, k, tile_m, vectors, contiguous)


def _plan_windows(kernel: Kernel, first: int, product: _Product, target: Target) -> Contraction | None:
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


def _plan(first: int, product: _Product, target: Target, windowed: bool) -> Contraction | None:
    roles, tile_m, tile_n = product.roles, product.tile_m, product.tile_n
    summary, factors = product.summaries[0], product.factors
    pack_columns = not windowed and product.m >= (PANEL_ROWS if product.contiguous else LEAST_ROWS)
    if not product.contiguous and not pack_columns:
        return None
    pack_rows = product.n >= 2 * product.width and not _rows_as_they_are(product)

    numbers = tuple(range(first, first + len(product.blocks)))
    rewrites: list[Rewrite] = []
    m, n = (_joined(axes, numbers, rewrites) for axes in (roles.m, roles.n))
    k_names = tuple(a.arg for a in roles.k)
    outer = [a.arg for a in roles.outer]
    added = 0
    used = [{a.arg for a in axes_of((factor,))} for factor in factors]
    tile_columns = pack_columns or (windowed and product.n % tile_n != 0)
    if tile_columns:
        rewrites.append(Tile(numbers, n, tile_n))
    if pack_rows:
        rewrites.append(Tile(numbers, m, tile_m))
    for pack, operand, name in ((pack_columns, roles.columns, n), (pack_rows, roles.rows, m)):
        if pack:
            around = tuple(a for a in outer if a in used[operand])
            rewrites.append(Stage(first + added, operand, (*around, f"{name}_t", *k_names, f"{name}_r")))
            added += 1

    work = product.m * product.n * product.k
    tasks = max(1, min(MOST_TASKS, points(roles.outer) * work // TASK_WORK))
    rows_fit = max(1, target.l2_bytes // 2 // (product.k * 4) // tile_m) * tile_m
    rows_first = windowed and product.m > rows_fit  # rows stay in the cache while the outer axes pass by
    split: list[Split] = []
    inner_tasks = tasks
    m_tasks = max(1, min(tasks, ceil_div(product.m, rows_fit))) if rows_first else 1
    inner_tasks //= m_tasks
    outer_order: list[str] = []
    for a in roles.outer:
        outer_order.append(f"{a.arg}.{int(inner_tasks > 1)}")
        if inner_tasks > 1:
            split.append(Split(a.arg, (("thread", 1),)))
            inner_tasks //= size_of(axis_size(a))
    if not rows_first:
        m_tasks = max(1, min(inner_tasks, ceil_div(product.m, rows_fit)))
        inner_tasks //= m_tasks
    n_tasks = max(1, min(inner_tasks, ceil_div(product.n, tile_n)))
    if n_tasks < inner_tasks:
        m_tasks = max(1, min(m_tasks * inner_tasks // n_tasks, ceil_div(product.m, tile_m)))
    m_step = ceil_div(ceil_div(product.m, m_tasks), tile_m)  # in tiles
    n_step = ceil_div(ceil_div(product.n, n_tasks), tile_n)
    m_thread = m_tasks > 1
    n_thread = n_tasks > 1
    width = product.width
    vector = (("unroll", tile_n), ("vector", width)) if product.vectors > 1 else (("vector", width),)
    if pack_rows:
        split += [Split(f"{m}_t", _thread(m_thread, m_step)), Split(f"{m}_r", (("unroll", tile_m),))]
    else:
        split.append(Split(m, (*_thread(m_thread, m_step * tile_m), ("unroll", tile_m))))
    if tile_columns:
        split += [Split(f"{n}_t", _thread(n_thread, n_step)), Split(f"{n}_r", vector)]
    else:
        split.append(Split(n, (*_thread(n_thread, n_step * tile_n), *vector)))
    fuse = _fuse_k(roles, pack_rows, pack_columns, summary)
    if product.blocks[0].reductions[0].states[0].dtype.is_float:
        split += runs([(fuse[0].into, product.k)] if fuse else [(a.arg, points([a])) for a in roles.k])
    outer_n = f"{n}_t.{int(n_thread)}" if tile_columns else f"{n}.{int(n_thread)}"
    outer_m = f"{m}_t.{int(m_thread)}" if pack_rows else f"{m}.{int(m_thread)}"
    order: tuple[str, ...] = (outer_n, outer_m)
    if windowed:
        order = (outer_m, *outer_order, outer_n) if rows_first else (*outer_order, outer_n, outer_m)
    return Contraction(tuple(rewrites), added, fuse, tuple(s for s in split if s.levels), order)


def _rows_as_they_are(product: _Product) -> bool:
    """Whether the rows are read where they lie: plain loads, a step of k not far away."""
    rows, roles = product.factors[product.roles.rows], product.roles
    if rows.op is not Leaf.LOAD or rows.args[0].op is not Op.CONST:
        return False
    if not walks(product.summaries[0], rows, (*roles.m, *roles.k), None):
        return False
    (access,) = loads_below(product.summaries[0], rows)
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


def _thread(threads: bool, step: int) -> tuple[tuple[str, int], ...]:
    return (("thread", step),) if threads else ()


def _joined(axes: tuple[Expr, ...], numbers: tuple[int, ...], rewrites: list[Rewrite]) -> str:
    names = tuple(a.arg for a in axes)
    if len(names) > 1:
        rewrites.append(Join(numbers, names, "_".join(names)))
    return "_".join(names)


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
