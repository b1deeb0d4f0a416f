"""The loops of a sum of products that a matrix instruction adds up: tiles of both factors are fetched, and
their products added to tiles of results that stay in registers; the results then lie in an array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from petaflop.codegen.flatten import TILE
from petaflop.codegen.ranges import Cursor, Level, Tile, loop_variable, loops, tile_loops, tile_position
from petaflop.errors import CompileError
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import (
    TRUE,
    Expr,
    Leaf,
    add,
    constant,
    linear_terms,
    make,
    multiply,
    substitute,
)
from petaflop.ir.kernel import Reduction, axes_of, value
from petaflop.ir.loops import Alloc, Deposit, Fetch, For, Fragments, Multiply, Statement, Store
from petaflop.ir.plan import Matrix
from petaflop.ir.target import MatrixInstruction, Target

if TYPE_CHECKING:
    from petaflop.codegen.nest import NestLowering

__all__ = ["Multiplication", "instruction_of"]

Body = tuple[Statement, ...]


def instruction_of(target: Target, name: str) -> MatrixInstruction:
    """The row of that name; raises CompileError."""
    for row in target.matrix_instructions:
        if row.name == name:
            return row
    names = ", ".join(row.name for row in target.matrix_instructions) or "none"
    raise CompileError(f"plan: expected a matrix instruction of {target.name} ({names}), got {name!r}")


class Multiplication:
    """One reduction at one register tile: `fragments` (rows, columns) of tiles of C."""

    def __init__(self, nest: NestLowering, directive: Matrix, r: Reduction, cursor: Cursor) -> None:
        self.nest, self.directive, self.reduction = nest, directive, r
        self.instruction = instruction_of(nest.target, directive.instruction)
        by_name = {a.arg: a for a in (*cursor.positions, *r.axes)}
        self.m, self.n = by_name[directive.m], by_name[directive.n]
        self.covered = [by_name[name] for name in directive.k]
        for a in self.covered:
            cursor = cursor.fix(a, constant(0), ())
        self.cursor = cursor
        sizes = [_covered(cursor.tiles[a]) for a in (self.m, self.n)]
        self.width = sizes[1]
        self.fragments = self._whole(sizes[0], self.instruction.m), self._whole(sizes[1], self.instruction.n)

    def _whole(self, size: int, step: int) -> int:
        if size % step:
            raise CompileError(f"plan: expected multiples of {step} for {self.directive}, got {size}")
        return size // step

    def loops(self) -> tuple[Body, dict[Expr, Expr]]:
        """The statements, and where the result of the reduction is found."""
        (total,) = self.reduction.states
        self.nest.names += 1
        names = [self.nest.name(text) for text in (total.name, "part", "c", "a", "b")]
        array, part, c, a, b = names
        rows, columns = self.fragments
        size = rows * columns * self.instruction.m * self.instruction.n
        registers = tuple(
            Fragments(name, self.instruction, operand, count)
            for name, operand, count in ((c, "c", rows * columns), (a, "a", rows), (b, "b", columns))
        )
        levels = self.nest.levels([x for x in self.reduction.axes if x not in self.covered])
        cut = next((number + 1 for number, level in enumerate(levels) if level.bind == "block"), None)
        body: Body = (Alloc(array, total.dtype, size),)
        if cut is None:
            body += registers + self._sum(levels, self.cursor, (c, a, b), array)
        else:
            body += (Alloc(part, total.dtype, size), *registers)
            body += self._each((Store(array, self._place(), total.initial),))
            joined = value(
                Op.ADD,
                *(make(Leaf.LOAD, (TRUE, self._place()), total.dtype, (name, 0)) for name in (array, part)),
            )

            def partial(inner: Cursor) -> Body:
                summed = self._sum(levels[cut:], inner, (c, a, b), part)
                return summed + self._each((Store(array, self._place(), joined),))

            body += loops(levels[:cut], self.cursor, partial)
        result = make(Leaf.LOAD, (TRUE, self._place()), total.dtype, (array, 0))
        return body, {total.expr: result}

    def _each(self, body: Body) -> Body:
        """`body` for every element of the result."""
        return tile_loops([*self.cursor.tiles[self.m], *self.cursor.tiles[self.n]], body)

    def _place(self) -> Expr:
        """The element of the array that belongs to a step of the tiles."""
        row, column = (tile_position(constant(0), self.cursor.tiles[a]) for a in (self.m, self.n))
        return add(multiply(row, constant(self.width)), column)

    def _sum(self, levels: Sequence[Level], cursor: Cursor, names: tuple[str, str, str], array: str) -> Body:
        """C from 0 over the loops of `levels`, then into `array`."""
        c = names[0]
        rows, columns = self.fragments
        count = _counter("c", rows * columns)
        i, j = _counter("i", rows), _counter("j", columns)
        number = add(multiply(i, constant(columns)), j)
        offset = add(
            multiply(i, constant(self.instruction.m * self.width)), multiply(j, constant(self.instruction.n))
        )
        body = _unrolled(count, rows * columns, (Fetch(c, count),))
        body += loops(levels, cursor, lambda inner: self._step(inner, names))
        deposit = (Deposit(array, offset, self.width, c, number),)
        return body + _unrolled(i, rows, _unrolled(j, columns, deposit))

    def _step(self, cursor: Cursor, names: tuple[str, str, str]) -> Body:
        """Fetch what one step of k needs of both factors, and multiply."""
        c, a, b = names
        rows, columns = self.fragments
        i, j = _counter("i", rows), _counter("j", columns)
        factors = sorted(self.reduction.term.args, key=lambda factor: self.m not in axes_of((factor,)))
        places = [
            self._tile(factor, cursor, along, step)
            for factor, along, step in zip(
                factors,
                (multiply(i, constant(self.instruction.m)), multiply(j, constant(self.instruction.n))),
                (self.m, self.n),
                strict=True,
            )
        ]
        number = add(multiply(i, constant(columns)), j)
        body = _unrolled(j, columns, (Fetch(b, j, *places[1]),))
        products = _unrolled(j, columns, (Multiply((c, number), (a, i), (b, j)),))
        return body + _unrolled(i, rows, (Fetch(a, i, *places[0]), *products))

    def _tile(self, factor: Expr, cursor: Cursor, step: Expr, along: Expr) -> tuple[str, Expr, int]:
        """(buffer, offset, pitch) of the tile of a factor that is `step` further along m or n."""
        read = factor.args[0] if factor.op is Op.CAST else factor
        wanted = self.instruction.a_dtype if along is self.m else self.instruction.b_dtype
        assert self.nest.lanes == 1 or read.arg[0] not in self.nest.local, "expected one panel for a point"
        if read.op is not Leaf.LOAD or read.args[0] is not TRUE or read.dtype.name != wanted:
            raise CompileError(
                f"plan: expected {wanted} as it lies in memory for {self.directive}, got {factor}"
            )
        mapping = {TILE: constant(0), **cursor.positions}
        mapping[along] = add(cursor.positions[along], step)
        (offset,) = substitute([read.args[1]], mapping)
        strides = linear_terms(read.args[1])[0]
        if along is self.m:
            return read.arg[0], offset, strides.get(along, 0)
        return read.arg[0], offset, strides.get(self.covered[0], 0)


def _covered(tiles: Sequence[Tile]) -> int:
    """How much of an axis the tiles cover."""
    return tiles[0].count * tiles[0].step if tiles else 1


def _counter(name: str, count: int) -> Expr:
    return loop_variable(name, 0, count - 1, count)


def _unrolled(counter: Expr, count: int, body: Body) -> Body:
    return (For(counter, constant(0), constant(count), 1, "unroll", body),)
