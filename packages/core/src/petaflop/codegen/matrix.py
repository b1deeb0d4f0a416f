"""Plans for sums of products that an instruction of the target multiplies tile by tile.

A row of `Target.matrix_instructions` serves where both factors are values of its dtypes, cast to what it sums
up in. Both factors are packed in the order in which it takes them, so that what they are computed from (a
cast, a mask, an activation) costs nothing further in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from petaflop.codegen.cost import Summary, points, size_of, summarize
from petaflop.codegen.narrow import narrowed
from petaflop.codegen.product import TASK_WORK, Contraction, Product, ceil_div, joined, tasks_of, thread
from petaflop.codegen.roles import Roles, loads_below, roles_of, walks
from petaflop.dtype import to_dtype
from petaflop.graph.symbolic import Expr
from petaflop.ir.kernel import Block, Kernel, axes_of, axis_size
from petaflop.ir.plan import Fuse, Matrix, Rewrite, Split, Stage, Tile
from petaflop.ir.target import MatrixInstruction, Target

__all__ = ["plan_matrix"]

LEAST_WORK = 1 << 13  # multiply-adds below which panels do not pay
PANEL_ROWS = 24  # rows from which on packing columns that are contiguous pays
LEAST_ROWS = 4  # rows from which on it pays for others
CHAIN = 128  # roundings of a sum in one chain before it is put aside
PACKED = 1 << 16  # elements that a task packs


@dataclass(frozen=True, slots=True)
class _Choice:
    """An instruction, tiles of it along m and n that fill the registers, and the estimated cycles."""

    row: MatrixInstruction
    rows: int
    columns: int
    cycles: float


@dataclass(frozen=True, slots=True)
class _Names:
    """Axes of the rewritten block, by role: tiles and places in them."""

    m: str
    n: str
    k: str
    group: bool  # whether k is cut twice

    @property
    def covered(self) -> tuple[str, ...]:
        """The axes that one instruction sums over."""
        return (f"{self.k}_r_t", f"{self.k}_r_r") if self.group else (f"{self.k}_r",)


def plan_matrix(kernel: Kernel, first: int, blocks: Sequence[Block], target: Target) -> Contraction | None:
    """The plan of a nest whose first block, number `first`, is a sum of products; None where no instruction
    serves or another plan is better."""
    if not target.matrix_instructions:
        return None
    summaries = [summarize(kernel, block) for block in blocks]
    roles = roles_of(blocks, summaries, along_loads=False)
    if roles is None or len(roles.k) != 1:
        return None
    sizes = points(roles.m), points(roles.n), points(roles.k)
    factors = blocks[0].reductions[0].term.args
    contiguous = walks(summaries[0], factors[roles.columns], roles.n, 1)
    if not all(_plain(summaries[0], factor, (*roles.m, *roles.n, *roles.k)) for factor in factors):
        return None
    m, n, k = sizes
    if m < (PANEL_ROWS if contiguous else LEAST_ROWS) or m * n * k < LEAST_WORK:
        return None
    choice = min(_choices(blocks[0], roles, sizes, target), key=lambda c: c.cycles, default=None)
    if choice is None or choice.cycles > m * n * k / _flat(target):
        return None
    row = choice.row
    product = Product(
        blocks, summaries, roles, row.n, m, n, k, choice.rows * row.m, choice.columns, contiguous
    )
    return _plan(first, product, choice, target)


def _flat(target: Target) -> int:
    """Multiply-adds of float32 that a core does in a cycle without such an instruction."""
    return 2 * target.vector_width(4)


def _plain(summary: Summary, factor: Expr, axes: Sequence[Expr]) -> bool:
    """Whether every load below the factor has fixed strides along the axes, and happens everywhere."""
    return not any((access.irregular | access.guarded) & set(axes) for access in loads_below(summary, factor))


def _choices(block: Block, roles: Roles, sizes: tuple[int, int, int], target: Target) -> Iterator[_Choice]:
    """What could do it, with the best number of tiles in registers."""
    term = block.reductions[0].term
    for row in target.matrix_instructions:
        factors = zip((roles.rows, roles.columns), (row.a_dtype, row.b_dtype), strict=True)
        serves = all(narrowed(term.args[side], to_dtype(dtype)) is not None for side, dtype in factors)
        if term.dtype.name == row.c_dtype and serves:
            yield _tiles(row, sizes, target)


def _tiles(row: MatrixInstruction, sizes: tuple[int, int, int], target: Target) -> _Choice:
    m, n, k = sizes
    registers = row.tiles.count if row.tiles else target.vector_registers - 1
    best = _Choice(row, 1, 1, float("inf"))
    for rows in range(1, 17):
        for columns in range(1, 5):
            # operands out of vector registers are fetched one row at a time, or by the instruction itself
            held = rows * columns + columns + (rows if row.tiles else 0)
            beyond = (rows > 1 and (rows - 1) * row.m >= m) or (columns > 1 and (columns - 1) * row.n >= n)
            if held > registers or beyond:
                continue
            fetched = (rows * row.m + columns * row.k // row.group) / 2  # two loads in a cycle
            step = max(rows * columns * row.cycles, fetched, 4.0)
            count = ceil_div(m, rows * row.m) * ceil_div(n, columns * row.n) * ceil_div(k, row.k)
            if (cycles := count * (step + 0.3)) < best.cycles:
                best = _Choice(row, rows, columns, cycles)
    return best


def _plan(first: int, product: Product, choice: _Choice, target: Target) -> Contraction:
    row, roles = choice.row, product.roles
    numbers = tuple(range(first, first + len(product.blocks)))
    rewrites: list[Rewrite] = []
    m, n = (joined(axes, numbers, rewrites) for axes in (roles.m, roles.n))
    names = _Names(m, n, roles.k[0].arg, row.group < row.k)
    rewrites += [Tile(numbers, n, product.tile_n), Tile(numbers, m, product.tile_m)]
    rewrites.append(Tile((first,), names.k, row.k))
    if names.group:
        rewrites.append(Tile((first,), f"{names.k}_r", row.group))
    packs = _packs(first, product, choice, names, rewrites)

    itemsize = to_dtype(row.a_dtype).itemsize
    rows_fit = max(1, target.l2_bytes // 2 // (product.k * itemsize) // product.tile_m) * product.tile_m
    speed = row.m * row.n * row.k / row.cycles / _flat(target)
    tasks = tasks_of(product, rows_fit, False, int(TASK_WORK * max(1.0, speed)))
    inner = "loop" if row.tiles else "unroll"
    wide = ((inner, product.tile_n), ("vector", row.n)) if choice.columns > 1 else (("vector", row.n),)
    split = [
        *tasks.outer,
        Split(f"{m}_t", thread(tasks.m, tasks.m_step)),
        Split(f"{m}_r", ((inner, product.tile_m),)),
        Split(f"{n}_t", thread(tasks.n, tasks.n_step)),
        Split(f"{n}_r", wide),
    ]
    chain = CHAIN // row.roundings
    if to_dtype(row.c_dtype).is_float and ceil_div(product.k, row.k) > 2 * chain:
        split.append(Split(f"{names.k}_t", (("block", chain),)))
    order = (f"{n}_t.{int(tasks.n)}", f"{m}_t.{int(tasks.m)}")
    matrix = Matrix(row.name, f"{m}_r", f"{n}_r", names.covered)
    return Contraction(
        tuple(rewrites), len(packs), (), tuple(s for s in split if s.levels), order, matrix, tuple(packs)
    )


def _packs(
    first: int, product: Product, choice: _Choice, names: _Names, rewrites: list[Rewrite]
) -> list[tuple[tuple[Fuse, ...], tuple[Split, ...]]]:
    """Add what packs the factors; gives how the nests that this adds run."""
    row, roles = choice.row, product.roles
    used = [{a.arg for a in axes_of((factor,))} for factor in product.factors]
    sides = (
        (roles.columns, names.n, row.b_dtype, product.tile_n, product.n),
        (roles.rows, names.m, row.a_dtype, product.tile_m, product.m),
    )
    packs: list[tuple[tuple[Fuse, ...], tuple[Split, ...]]] = []
    for operand, name, dtype, tile, size in sides:
        outer = [a for a in roles.outer if a.arg in used[operand]]
        *blocked, last = names.covered
        columns = operand == roles.columns
        along = not columns and walks(product.summaries[0], product.factors[operand], roles.k, 1)
        inside = (*blocked, f"{name}_r", last) if columns else (f"{name}_r", *blocked, last)
        axes = (*(a.arg for a in outer), f"{name}_t", f"{names.k}_t", *inside)
        rewrites.append(Stage(first + len(packs), operand, axes, dtype, together=not along))
        per_tile = tile * product.k
        chunk = max(1, PACKED // per_tile)
        whole = ceil_div(size, tile)
        split = [Split(f"{name}_t", thread(whole > chunk, chunk))]
        split += [Split(a.arg, thread(size_of(axis_size(a)) > 1, 1)) for a in outer]
        fuse: tuple[Fuse, ...] = ()
        if along:
            fuse = (Fuse(names.covered, "_".join(names.covered)),) if names.group else ()
            lanes = fuse[0].into if fuse else last
            split.append(Split(lanes, (("vector", row.k),)))
        else:
            split.append(Split(f"{name}_r", (("vector", min(16, tile & -tile)),)))
        packs.append((fuse, tuple(s for s in split if s.levels)))
    return packs
