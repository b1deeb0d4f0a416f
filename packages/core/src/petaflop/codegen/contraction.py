"""Plans for sums of products: matrix products, batched or not, and convolutions, by one rule.

The factors of the product depend on different axes: m only on the first, n only on the second, k on both (the
reduce axes). A register tile of m × n is summed over k from panels in which a tile's elements are neighbours;
packing a panel evaluates the factor, so casts, masks and windows cost nothing further in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from petaflop.codegen.cost import Summary, points, size_of, summarize
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, Leaf
from petaflop.ir.kernel import Block, Kernel, axes_of, axis_size
from petaflop.ir.plan import Fuse, Join, Rewrite, Split, Stage, Tile
from petaflop.ir.target import Target

__all__ = ["Contraction", "plan_contraction"]

LEAST_WORK = 1 << 13  # multiply-adds below which panels do not pay
TASK_WORK = 1 << 20  # multiply-adds of one task
MOST_TASKS = 64
RUN = 128  # products summed up in one chain before the partial sum is put aside
PANEL_ROWS = 24  # rows from which on packing the other factor pays


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
class _Roles:
    """The factor with m and the factor with n, and the axes by role; `outer` ones are plain loops around
    all."""

    rows: int
    columns: int
    outer: tuple[Expr, ...]
    m: tuple[Expr, ...]
    n: tuple[Expr, ...]
    k: tuple[Expr, ...]


def plan_contraction(
    kernel: Kernel, first: int, blocks: Sequence[Block], target: Target
) -> Contraction | None:
    """The plan of a nest whose first block, number `first`, is a sum of products; None where another plan is
    better."""
    if not _is_sum_of_products(blocks):
        return None
    summaries = [summarize(kernel, block) for block in blocks]
    roles = _roles(blocks, summaries)
    if roles is None:
        return None
    block = blocks[0]
    factors = block.reductions[0].term.args
    width = max(1, target.vector_bytes // max(s.itemsize for s in summaries))
    m_size, n_size, k_size = points(roles.m), points(roles.n), points(roles.k)
    if width < 2 or n_size < width or m_size < 2 or m_size * n_size * k_size < LEAST_WORK:
        return None
    tile_m, vectors = _register_tile(m_size, n_size, width, target.vector_registers)
    tile_n = vectors * width
    contiguous = _walks(summaries[0], factors[roles.columns], roles.n, 1)
    pack_columns = m_size >= PANEL_ROWS or (not contiguous and m_size >= 4)
    if not contiguous and not pack_columns:
        return None
    rows = factors[roles.rows]
    plain = rows.op is Leaf.LOAD and rows.args[0].op is Op.CONST
    pack_rows = n_size >= 2 * width and not (plain and _walks(summaries[0], rows, (*roles.m, *roles.k), None))
    if not contiguous and len(roles.n) > 1 and not pack_columns:
        return None

    numbers = tuple(range(first, first + len(blocks)))
    rewrites: list[Rewrite] = []
    m, n = (_joined(axes, numbers, rewrites) for axes in (roles.m, roles.n))
    k_names = tuple(a.arg for a in roles.k)
    outer = [a.arg for a in roles.outer]
    added = 0
    used = [{a.arg for a in axes_of((factor,))} for factor in factors]
    if pack_columns:
        rewrites.append(Tile(numbers, n, tile_n))
    if pack_rows:
        rewrites.append(Tile(numbers, m, tile_m))
    for pack, operand, name in ((pack_columns, roles.columns, n), (pack_rows, roles.rows, m)):
        if pack:
            around = tuple(a for a in outer if a in used[operand])
            rewrites.append(Stage(first + added, operand, (*around, f"{name}_t", *k_names, f"{name}_r")))
            added += 1

    work = m_size * n_size * k_size
    tasks = max(1, min(MOST_TASKS, points(roles.outer) * work // TASK_WORK))
    split: list[Split] = []
    inner_tasks = tasks
    for a in roles.outer:
        if inner_tasks > 1:
            split.append(Split(a.arg, (("thread", 1),)))
            inner_tasks //= size_of(axis_size(a))
    rows_fit = max(1, target.l2_bytes // 2 // (k_size * 4) // tile_m) * tile_m
    m_tasks = max(1, min(inner_tasks, ceil_div(m_size, rows_fit)))
    n_tasks = max(1, min(inner_tasks // m_tasks, ceil_div(n_size, tile_n)))
    if n_tasks * m_tasks < inner_tasks:
        m_tasks = max(1, min(inner_tasks // n_tasks, ceil_div(m_size, tile_m)))
    m_step = ceil_div(ceil_div(m_size, m_tasks), tile_m)  # in tiles
    n_step = ceil_div(ceil_div(n_size, n_tasks), tile_n)
    m_thread = m_tasks > 1
    n_thread = n_tasks > 1
    vector = (("unroll", tile_n), ("vector", width)) if vectors > 1 else (("vector", width),)
    if pack_rows:
        split += [Split(f"{m}_t", _thread(m_thread, m_step)), Split(f"{m}_r", (("unroll", tile_m),))]
    else:
        split.append(Split(m, (*_thread(m_thread, m_step * tile_m), ("unroll", tile_m))))
    if pack_columns:
        split += [Split(f"{n}_t", _thread(n_thread, n_step)), Split(f"{n}_r", vector)]
    else:
        split.append(Split(n, (*_thread(n_thread, n_step * tile_n), *vector)))
    fuse = _fuse_k(roles, pack_rows, pack_columns, summaries[0])
    k = fuse[0].into if fuse else k_names[-1]
    k_run = k_size if fuse or len(k_names) == 1 else size_of(axis_size(roles.k[-1]))
    if block.reductions[0].states[0].dtype.is_float and k_run > 2 * RUN:
        split.append(Split(k, (("block", RUN),)))
    outer_n = f"{n}_t.{int(n_thread)}" if pack_columns else f"{n}.{int(n_thread)}"
    outer_m = f"{m}_t.{int(m_thread)}" if pack_rows else f"{m}.{int(m_thread)}"
    return Contraction(tuple(rewrites), added, fuse, tuple(s for s in split if s.levels), (outer_n, outer_m))


def _thread(threads: bool, step: int) -> tuple[tuple[str, int], ...]:
    return (("thread", step),) if threads else ()


def _joined(axes: tuple[Expr, ...], numbers: tuple[int, ...], rewrites: list[Rewrite]) -> str:
    names = tuple(a.arg for a in axes)
    if len(names) > 1:
        rewrites.append(Join(numbers, names, "_".join(names)))
    return "_".join(names)


# ---- roles ----


def _is_sum_of_products(blocks: Sequence[Block]) -> bool:
    block = blocks[0]
    if len(block.reductions) != 1 or any(b.axes != block.axes or b.ordered for b in blocks):
        return False
    r = block.reductions[0]
    if r.op is not Op.ADD or r.scan or r.term.op is not Op.MUL or any(b.reductions for b in blocks[1:]):
        return False
    return r.term.dtype.kind != "b"


def _roles(blocks: Sequence[Block], summaries: Sequence[Summary]) -> _Roles | None:
    block = blocks[0]
    r = block.reductions[0]
    used = [axes_of((factor,)) for factor in r.term.args]
    if not all(set(r.axes) <= axes for axes in used):
        return None
    stores = [access for access in summaries[-1].accesses if access.is_store]
    last = next((a for a in reversed(block.axes) if stores[-1].strides.get(a, 0) == 1), None)
    sides = [side for side in (0, 1) if last in used[side] and last not in used[1 - side]]
    if last is None or not sides:
        return None
    columns, rows = sides[0], 1 - sides[0]
    only_n = [a for a in block.axes if a in used[columns] and a not in used[rows]]
    only_m = [a for a in block.axes if a in used[rows] and a not in used[columns]]
    if not only_m:
        return None
    n = _run(list(only_n), last, summaries, stores_only=True)
    m = _run(only_m, only_m[-1], summaries, stores_only=False)
    outer = tuple(a for a in block.axes if a not in n and a not in m)
    return _Roles(rows, columns, outer, m, n, r.axes)


def _run(axes: list[Expr], last: Expr, summaries: Sequence[Summary], stores_only: bool) -> tuple[Expr, ...]:
    """The axes up to `last` that stores (or all accesses) walk through as if they were one."""
    run = [last]
    for a in reversed(axes[: axes.index(last)]):
        inner = points(run)
        accesses = [access for s in summaries for access in s.accesses if access.is_store or not stores_only]
        joint = all(
            access.strides.get(a, 0) == access.strides.get(run[-1], 0) * size_of(axis_size(run[-1]))
            and not {a, run[-1]} & access.irregular
            for access in accesses
        )
        if not joint or inner == 0 or not isinstance(axis_size(run[-1]), int):
            break
        run.append(a)
    return tuple(reversed(run))


def _walks(summary: Summary, factor: Expr, axes: Sequence[Expr], stride: int | None) -> bool:
    """Whether every load below `factor` has fixed strides along `axes`, the last of them `stride` unless
    None."""
    names = {e.arg[0] for e in _loads(factor)}
    for access in summary.accesses:
        if access.buffer not in names or access.is_store:
            continue
        if access.irregular & set(axes) or access.guarded & set(axes):
            return False
        if stride is not None and access.strides.get(axes[-1], 0) != stride:
            return False
        if stride is None and 1 not in (access.strides.get(a) for a in axes):
            return False
        for outer, inner in pairwise(axes):
            joint = access.strides.get(inner, 0) * size_of(axis_size(inner))
            if stride is not None and access.strides.get(outer, 0) != joint:
                return False
    return True


def _loads(factor: Expr) -> list[Expr]:
    from petaflop.ir.kernel import loads_of

    return list(loads_of((factor,)))


def _fuse_k(roles: _Roles, pack_rows: bool, pack_columns: bool, summary: Summary) -> tuple[Fuse, ...]:
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
            time = columns * (m // rows * _cycles(rows, vectors) + m % rows * _cycles(1, vectors))
            if (vectors - 1) * width < n:
                best = min(best, (time, -rows, vectors))
    return -best[1], best[2]


def _cycles(rows: int, vectors: int) -> float:
    """Cycles of one step of k: two multiply-adds and two loads a cycle, four cycles until a sum can be added
    to."""
    return max(rows * vectors / 2, (rows + vectors) / 2, 4.0) + 0.3
