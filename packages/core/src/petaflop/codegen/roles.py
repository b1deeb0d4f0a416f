"""Who is who in a sum of products: which axes only the one factor has, which only the other, which both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from petaflop.codegen.cost import Access, Summary, points, size_of
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr
from petaflop.ir.kernel import Block, axes_of, axis_size, loads_of

__all__ = ["Roles", "is_sum_of_products", "loads_below", "roles_of", "walks"]


@dataclass(frozen=True, slots=True)
class Roles:
    """The factor with m and the factor with n, and the axes by role; `outer` ones are plain loops around
    all."""

    rows: int
    columns: int
    outer: tuple[Expr, ...]
    m: tuple[Expr, ...]
    n: tuple[Expr, ...]
    k: tuple[Expr, ...]


def is_sum_of_products(blocks: Sequence[Block]) -> bool:
    block = blocks[0]
    if len(block.reductions) != 1 or any(b.axes != block.axes or b.ordered for b in blocks):
        return False
    r = block.reductions[0]
    if r.op is not Op.ADD or r.scan or r.term.op is not Op.MUL or any(b.reductions for b in blocks[1:]):
        return False
    return r.term.dtype.kind != "b"


def roles_of(blocks: Sequence[Block], summaries: Sequence[Summary], along_loads: bool) -> Roles | None:
    """The roles, if the block has them; n may be several axes that stores walk through as one, and with
    `along_loads` the loads as well."""
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
    n = _run(list(only_n), last, summaries, stores_only=not along_loads)
    m = _run(only_m, only_m[-1], summaries, stores_only=False)
    outer = tuple(a for a in block.axes if a not in n and a not in m)
    return Roles(rows, columns, outer, m, n, r.axes)


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


def loads_below(summary: Summary, factor: Expr) -> list[Access]:
    """The accesses of a factor."""
    names = {e.arg[0] for e in loads_of((factor,))}
    return [access for access in summary.accesses if access.buffer in names and not access.is_store]


def walks(summary: Summary, factor: Expr, axes: Sequence[Expr], stride: int | None) -> bool:
    """Whether every load below `factor` has fixed strides along `axes`, the last of them `stride` unless
    None."""
    for access in loads_below(summary, factor):
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
