"""Plans for sums of products that an instruction of the target multiplies tile by tile.

A row of `Target.matrix_instructions` serves where both factors are values of its dtypes, cast to what it sums
up in. Both factors are packed in the order in which it takes them, so that what they are computed from (a
cast, a mask, an activation) costs nothing further in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from petaflop.codegen.cost import Summary, points, summarize
from petaflop.codegen.narrow import narrowed
from petaflop.codegen.product import TASK_WORK, Contraction, Pack, Product, ceil_div, joined, tasks_of, thread
from petaflop.codegen.rewrite import rewrite
from petaflop.codegen.roles import Roles, loads_below, roles_of, walks
from petaflop.codegen.shift import OTHER
from petaflop.dtype import to_dtype
from petaflop.graph.symbolic import TRUE, Expr, Leaf
from petaflop.ir.kernel import Block, Kernel, axes_of, axis_size
from petaflop.ir.plan import Fuse, Matrix, Rewrite, Shift, Split, Stage, Tile
from petaflop.ir.target import MatrixInstruction, Target

__all__ = ["plan_matrix"]

LEAST_WORK = 1 << 13  # multiply-adds below which panels do not pay
PANEL_ROWS = 24  # rows from which on packing columns that are contiguous pays
LEAST_ROWS = 4  # rows from which on it pays for others
FAR = 4096  # bytes: rows that are multiples of it apart share a few lines of the nearest cache
CHAIN = 128  # roundings of a sum in one chain before it is put aside
PACKED = 1 << 16  # elements that a task packs
MANY = 8  # independent parts from which on they are tasks enough
RUN = 8  # tiles of columns that are packed together at most


@dataclass(frozen=True, slots=True)
class _Choice:
    """An instruction, tiles of it along m and n that fill the registers, and the estimated cycles."""

    row: MatrixInstruction
    rows: int
    columns: int
    cycles: float


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the loops stand: axes by role, what is packed, and where the columns are.

    Columns are packed in the product's nest, a `run` of tiles at a time (1: each tile on its own), where
    `inside` is "columns", and rows tile by tile where it is "rows"; else beforehand. `rows_outside` says that
    the loop over rows stands outside that over columns.
    """

    m: str
    n: str
    k: str
    twice: bool  # whether k is cut into steps of the instruction and these into groups
    pack_rows: bool
    run: int
    inside: str
    rows_outside: bool

    @property
    def steps(self) -> tuple[str, ...]:
        """The axes that one instruction sums over."""
        return (f"{self.k}_r_t", f"{self.k}_r_r") if self.twice else (f"{self.k}_r",)

    @property
    def columns(self) -> tuple[str, ...]:
        """Runs of tiles of columns, where they are runs, tiles, and places in a tile."""
        n = self.n
        return (f"{n}_t", f"{n}_r_t", f"{n}_r_r") if self.run > 1 else (f"{n}_t", f"{n}_r")

    @property
    def rows(self) -> tuple[str, ...]:
        """Tiles of rows and places in a tile, or just rows."""
        return (f"{self.m}_t", f"{self.m}_r") if self.pack_rows else (self.m,)


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
    if choice is None:
        return _shifted(kernel, first, blocks, roles, target)
    if choice.cycles > m * n * k / _flat(target):
        return None
    row = choice.row
    product = Product(
        blocks, summaries, roles, row.n, m, n, k, choice.rows * row.m, choice.columns, contiguous
    )
    return _plan(first, product, choice, target)


def _shifted(
    kernel: Kernel, first: int, blocks: Sequence[Block], roles: Roles, target: Target
) -> Contraction | None:
    """The plan with a factor of the other signedness, where that is what an instruction wants."""
    term = blocks[0].reductions[0].term
    for row in target.matrix_instructions:
        sides = {roles.rows: to_dtype(row.a_dtype), roles.columns: to_dtype(row.b_dtype)}
        wrong = [side for side, dtype in sides.items() if narrowed(term.args[side], dtype) is None]
        if len(wrong) != 1 or term.dtype.name != row.c_dtype or sides[wrong[0]] not in OTHER:
            continue
        if narrowed(term.args[wrong[0]], OTHER[sides[wrong[0]]]) is None:
            continue
        shift = Shift(first, wrong[0])
        seen = rewrite(kernel, (shift,)).kernel
        after = seen.blocks[first + 1 : first + 1 + len(blocks)]
        plan = plan_matrix(seen, first + 1, after, replace(target, matrix_instructions=(row,)))
        if plan is not None:
            return replace(plan, rewrites=(shift, *plan.rewrites), added=plan.added + 1)
    return None


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
            busy = rows * columns * row.cycles
            step = busy + 1.5 * fetched if row.tiles else max(busy, fetched, 4.0)
            count = ceil_div(m, rows * row.m) * ceil_div(n, columns * row.n) * ceil_div(k, row.k)
            if (cycles := count * (step + 0.3)) < best.cycles:
                best = _Choice(row, rows, columns, cycles)
    return best


def _plan(first: int, product: Product, choice: _Choice, target: Target) -> Contraction:
    row, roles = choice.row, product.roles
    numbers = tuple(range(first, first + len(product.blocks)))
    rewrites: list[Rewrite] = []
    m, n = (joined(axes, numbers, rewrites) for axes in (roles.m, roles.n))
    shape = _shape(m, n, product, row, target)
    rewrites += _tiles_of(numbers, shape, product, row)
    packs: list[Pack] = []
    fuse: tuple[Fuse, ...] = ()
    split: list[Split] = []
    sides = (("rows", _pack_rows), ("columns", _pack_columns))
    for side, pack in sorted(sides, key=lambda side: side[0] == shape.inside):
        if side == "columns" or shape.pack_rows:
            made = pack(first + len(packs), product, row, shape, rewrites)
            if shape.inside == side:
                fuse, split = made[0], list(made[1])
            else:
                packs.append(made)

    speed = row.m * row.n * row.k / row.cycles / _flat(target)
    work = int(TASK_WORK * max(1.0, speed))
    wide = replace(product, vectors=product.vectors * shape.run)
    rows_fit = _fitting(target.l2_bytes // 2, product.k, row, product.tile_m)
    rows_fit = product.tile_m if shape.rows_outside else rows_fit
    tasks = tasks_of(wide, rows_fit, False, work, along_m=shape.inside != "columns")
    bind = "loop" if row.tiles else "unroll"
    vector = ((bind, product.tile_n), ("vector", row.n)) if choice.columns > 1 else (("vector", row.n),)
    rows = (bind, product.tile_m)
    split += [*tasks.outer, Split(shape.columns[0], thread(tasks.n, tasks.n_step))]
    split.append(Split(shape.columns[-1], vector))
    if shape.pack_rows:
        split += [Split(shape.rows[0], thread(tasks.m, tasks.m_step)), Split(shape.rows[1], (rows,))]
    else:
        split.append(Split(m, (*thread(tasks.m, tasks.m_step * product.tile_m), rows)))
    chain = CHAIN // row.roundings
    if to_dtype(row.c_dtype).is_float and ceil_div(product.k, row.k) > 2 * chain:
        split.append(Split(f"{shape.k}_t", (("block", chain),)))
    order = _order(shape, tasks.m, tasks.n)
    matrix = Matrix(row.name, shape.rows[-1], shape.columns[-1], shape.steps)
    return Contraction(
        tuple(rewrites), len(packs), fuse, tuple(s for s in split if s.levels), order, matrix, tuple(packs)
    )


def _fitting(room: int, k: int, row: MatrixInstruction, tile: int) -> int:
    """Rows or columns, in whole tiles and at least one, whose panel fits into `room` bytes."""
    return max(1, room // (k * to_dtype(row.a_dtype).itemsize) // tile) * tile


def _shape(m: str, n: str, product: Product, row: MatrixInstruction, target: Target) -> _Shape:
    """Keep the columns in the second cache while all rows pass by, if they fit, and pack a tile of rows just
    before it does; else pack runs of columns just before all rows pass by, if those fit; else pack both
    beforehand, and let parts of the rows stay."""
    k, outer, pack_rows = product.k, product.roles.outer, not _rows_as_they_are(product, row)
    around = [set(outer) <= axes_of((product.factors[side],)) for side in (0, 1)]
    alone = len(product.blocks) == 1 and around[product.roles.columns]
    few_columns = product.n <= _fitting(target.l2_bytes // 2, k, row, product.tile_n)
    few_rows = product.m <= _fitting(target.l2_bytes // 2, k, row, product.tile_m)
    tiles = ceil_div(product.n, product.tile_n)
    run, inside = 1, ""
    if alone and few_columns and points(outer) >= MANY:
        run, inside = tiles, "columns"
    elif few_columns:
        inside = "rows" if pack_rows and len(product.blocks) == 1 and around[product.roles.rows] else ""
    elif alone and few_rows:
        fit = _fitting(target.l2_bytes // 2, k, row, product.tile_n) // product.tile_n
        run, inside = min(RUN, fit, ceil_div(tiles, MANY)), "columns"
    return _Shape(
        m,
        n,
        product.roles.k[0].arg,
        row.group < row.k,
        pack_rows,
        run,
        inside,
        few_columns or inside == "columns",
    )


def _order(shape: _Shape, m_tasks: bool, n_tasks: bool) -> tuple[str, ...]:
    """The loops from the outside in: of rows and columns, and of what packs columns, whose neighbours are
    read together."""
    first, rows = f"{shape.columns[0]}.{int(n_tasks)}", f"{shape.rows[0]}.{int(m_tasks)}"
    if shape.run > 1:
        pack = tuple(f"{name}_p.0" for name in (f"{shape.k}_t", *shape.steps[:-1], shape.columns[1]))
        return (first, *pack, rows, f"{shape.columns[1]}.0")
    return (rows, first) if shape.rows_outside and shape.inside != "columns" else (first, rows)


def _tiles_of(
    numbers: tuple[int, ...], shape: _Shape, product: Product, row: MatrixInstruction
) -> list[Rewrite]:
    """Cut the axes into the tiles of the shape."""
    tiles = [Tile(numbers, shape.n, product.tile_n * shape.run)]
    if shape.run > 1:
        tiles.append(Tile(numbers, f"{shape.n}_r", product.tile_n))
    if shape.pack_rows:
        tiles.append(Tile(numbers, shape.m, product.tile_m))
    tiles.append(Tile(numbers[:1], shape.k, row.k))
    if shape.twice:
        tiles.append(Tile(numbers[:1], f"{shape.k}_r", row.group))
    return list(tiles)


def _rows_as_they_are(product: Product, row: MatrixInstruction) -> bool:
    """Whether the instruction takes the rows where they lie: neighbours along k, in whole tiles."""
    factor = narrowed(product.factors[product.roles.rows], to_dtype(row.a_dtype))
    if factor is None or factor.op is not Leaf.LOAD or factor.args[0] is not TRUE:
        return False
    summary, roles = product.summaries[0], product.roles
    steps = [x.strides.get(roles.m[-1], 0) * x.itemsize for x in loads_below(summary, factor)]
    far = any(step and step % FAR == 0 for step in steps) and product.n > 8 * product.tile_n
    fixed = all(isinstance(axis_size(a), int) for a in (*roles.m, *roles.k))
    whole = fixed and product.k % row.k == 0 and product.m % (product.tile_m if row.m > 1 else 1) == 0
    return walks(summary, factor, roles.k, 1) and whole and not far


def _around(product: Product, operand: int) -> tuple[str, ...]:
    used = axes_of((product.factors[operand],))
    return tuple(a.arg for a in product.roles.outer if a in used)


def _pack_columns(
    number: int, product: Product, row: MatrixInstruction, shape: _Shape, rewrites: list[Rewrite]
) -> Pack:
    """Add what packs the columns; gives how the nest runs that this adds, unless it joins the product's."""
    operand = product.roles.columns
    around = _around(product, operand)
    *blocked, last = shape.steps
    *tiles, place = shape.columns
    axes = (*around, *tiles, f"{shape.k}_t", *blocked, place, last)
    inside = shape.inside == "columns"
    shared = len(around) + 1 if inside else 0
    rewrites.append(Stage(number, operand, axes, row.b_dtype, together=True, shared=shared))
    lanes = (("vector", row.n),)
    if inside:
        return (), (Split(f"{place}_p", lanes),)
    return (), _shared_out(product, operand, tiles[0], product.n, product.tile_n, Split(place, lanes))


def _pack_rows(
    number: int, product: Product, row: MatrixInstruction, shape: _Shape, rewrites: list[Rewrite]
) -> Pack:
    """Add what packs the rows, and give how the nest runs that this adds: along k where they lie so."""
    operand = product.roles.rows
    along = walks(product.summaries[0], product.factors[operand], product.roles.k, 1)
    *blocked, last = shape.steps
    tiles, place = shape.rows
    around = _around(product, operand)
    axes = (*around, tiles, f"{shape.k}_t", place, *blocked, last)
    inside = shape.inside == "rows"
    shared = len(around) + 1 if inside else 0
    rewrites.append(Stage(number, operand, axes, row.a_dtype, together=not along, shared=shared))
    own = "_p" if inside else ""
    fuse: tuple[Fuse, ...] = ()
    lanes = Split(f"{place}{own}", (("vector", min(16, product.tile_m & -product.tile_m)),))
    if along:
        steps = tuple(f"{name}{own}" for name in shape.steps)
        fuse = (Fuse(steps, "_".join(steps)),) if shape.twice else ()
        lanes = Split(fuse[0].into if fuse else steps[-1], (("vector", row.k),))
    return fuse, (lanes,) if inside else _shared_out(
        product, operand, tiles, product.m, product.tile_m, lanes
    )


def _shared_out(
    product: Product, operand: int, tiles: str, size: int, tile: int, lanes: Split
) -> tuple[Split, ...]:
    """The splits of a nest that packs: tasks of some tiles, and its lanes."""
    chunk = max(1, PACKED // (tile * product.k))
    splits = [Split(tiles, thread(ceil_div(size, tile) > chunk, chunk)), lanes]
    used = axes_of((product.factors[operand],))
    splits += [Split(a.arg, thread(points((a,)) > 1, 1)) for a in product.roles.outer if a in used]
    return tuple(s for s in splits if s.levels)
