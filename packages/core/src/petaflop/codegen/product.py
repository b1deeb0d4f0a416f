"""A sum of products as its planners see it, what a plan for one consists of, and how it is cut into tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from petaflop.codegen.cost import Summary, points, size_of
from petaflop.codegen.roles import Roles
from petaflop.graph.symbolic import Expr
from petaflop.ir.kernel import Block, axis_size
from petaflop.ir.plan import Fuse, Join, Matrix, Rewrite, Split

__all__ = ["Contraction", "Pack", "Product", "Tasks", "ceil_div", "joined", "tasks_of", "thread"]

TASK_WORK = 1 << 20  # multiply-adds of one task
MOST_TASKS = 64


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


Pack = tuple[tuple[Fuse, ...], tuple[Split, ...]]  # how a nest that packs a factor runs


@dataclass(frozen=True, slots=True)
class Contraction:
    """What to do to a nest: rewrites that add `added` nests before it, then how its loops run, and those of
    the added nests where the planner is not to choose."""

    rewrites: tuple[Rewrite, ...]
    added: int
    fuse: tuple[Fuse, ...]
    split: tuple[Split, ...]
    order: tuple[str, ...]
    matrix: Matrix | None = None
    packs: tuple[Pack, ...] = ()


@dataclass(frozen=True, slots=True)
class Product:
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


@dataclass(frozen=True, slots=True)
class Tasks:
    """How the axes are shared out: splits and loop names of the outer axes, tiles of a task along m and n,
    and whether there are tasks along them at all."""

    outer: tuple[Split, ...]
    order: tuple[str, ...]
    m: bool
    n: bool
    m_step: int
    n_step: int


def tasks_of(
    product: Product, rows_fit: int, rows_first: bool, task_work: int = TASK_WORK, along_m: bool = True
) -> Tasks:
    """Tasks of about `task_work` multiply-adds: of the outer axes first, then of at most `rows_fit` rows
    (the other way round with `rows_first`, and none of rows without `along_m`), then of columns."""
    outer = product.roles.outer
    work = product.m * product.n * product.k
    tasks = max(1, min(MOST_TASKS, points(outer) * work // task_work))
    inner_tasks = tasks
    m_tasks = max(1, min(tasks, ceil_div(product.m, rows_fit))) if rows_first else 1
    inner_tasks //= m_tasks
    split: list[Split] = []
    order: list[str] = []
    for a in outer:
        order.append(f"{a.arg}.{int(inner_tasks > 1)}")
        if inner_tasks > 1:
            split.append(Split(a.arg, (("thread", 1),)))
            inner_tasks //= size_of(axis_size(a))
    if not rows_first:
        m_tasks = max(1, min(inner_tasks, ceil_div(product.m, rows_fit)))
        inner_tasks //= m_tasks
    n_tasks = max(1, min(inner_tasks, ceil_div(product.n, product.tile_n)))
    if n_tasks < inner_tasks:
        m_tasks = max(1, min(m_tasks * inner_tasks // n_tasks, ceil_div(product.m, product.tile_m)))
    m_tasks = m_tasks if along_m else 1
    m_step = ceil_div(ceil_div(product.m, m_tasks), product.tile_m)
    n_step = ceil_div(ceil_div(product.n, n_tasks), product.tile_n)
    return Tasks(tuple(split), tuple(order), m_tasks > 1, n_tasks > 1, m_step, n_step)


def thread(threads: bool, step: int) -> tuple[tuple[str, int], ...]:
    """The "thread" level of an axis, if it has one."""
    return (("thread", step),) if threads else ()


def joined(axes: tuple[Expr, ...], numbers: tuple[int, ...], rewrites: list[Rewrite]) -> str:
    """The name of the axes as one; adds the rewrite that joins them where they are several."""
    names = tuple(a.arg for a in axes)
    if len(names) > 1:
        rewrites.append(Join(numbers, names, "_".join(names)))
    return "_".join(names)
