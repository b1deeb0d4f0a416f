"""Matrix instructions in LLVM IR, spelled by the rows of a target: a row says which intrinsic multiplies, and
whether tiles are vectors or numbered registers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petaflop.dtype import to_dtype
from petaflop.graph.symbolic import Expr, linear_terms
from petaflop.ir.loops import Deposit, Fetch, Fragments, Multiply, Phase, walk
from petaflop.ir.target import TileRegisters
from petaflop.render.llvm_ops import scalar_type, vector

if TYPE_CHECKING:
    from petaflop.render.llvm import Function

__all__ = ["deposit", "fetch", "fragments", "multiply", "release", "tile_registers"]


def tile_registers(phase: Phase) -> TileRegisters | None:
    """The numbered registers that a phase uses."""
    for segment in phase.segments:
        for statement in walk(segment.body):
            if isinstance(statement, Fragments) and statement.instruction.tiles is not None:
                return statement.instruction.tiles
    return None


def fragments(f: Function, statement: Fragments) -> None:
    """Room for the tiles: numbers of registers, or vectors that LLVM keeps in registers."""
    tiles = statement.instruction.tiles
    if tiles is not None:
        first = sum(other.count for other, _ in f.fragments.values() if other.instruction.tiles)
        assert first + statement.count <= tiles.count, f"expected {tiles.count} tiles at most: {statement}"
        f.fragments[statement.name] = statement, first
        return
    name = f.new()
    f.allocations.append(f"  {name} = alloca [{statement.count} x {_type(statement)}], align 64")
    f.fragments[statement.name] = statement, name


def release(f: Function, statement: Fragments) -> None:
    """At the end of the body: its registers are free again."""
    del f.fragments[statement.name]


def _type(statement: Fragments) -> str:
    """The LLVM type of a tile in a vector register."""
    i = statement.instruction
    return vector(scalar_type(to_dtype(i.c_dtype)), i.m * i.n) if statement.operand == "c" else i.operand_type


def _number(f: Function, number: Expr) -> int:
    """A number of a tile, which depends on unrolled steps alone."""
    terms, total = linear_terms(number)
    for term, factor in terms.items():
        step = f.binding[term]
        assert isinstance(step, int), f"expected unrolled steps, got {term} in {number}"
        total += factor * step
    return total


def _register(f: Function, name: str, number: Expr) -> str:
    """The number of a tile register, or the address of a vector."""
    statement, place = f.fragments[name]
    index = _number(f, number)
    if isinstance(place, int):
        return f"i8 {place + index}"
    if not index:
        return f"ptr {place}"
    return f"ptr {f.line(f'getelementptr {_type(statement)}, ptr {place}, i64 {index}')}"


def fetch(f: Function, statement: Fetch) -> None:
    """A tile from memory, or zeros."""
    target, _ = f.fragments[statement.fragments]
    i, register = target.instruction, _register(f, statement.fragments, statement.number)
    if not statement.buffer:
        if i.tiles is not None:
            f.run(i.tiles.zero, register)
        else:
            f.effect(f"store {_type(target)} zeroinitializer, {register}")
        return
    pointer = _pointer(f, statement.buffer, statement.offset)
    if i.tiles is not None:
        pitch = statement.pitch * f.dtypes[statement.buffer].itemsize
        f.run(i.tiles.load, register, f"ptr {pointer}", f"i64 {pitch}")
        return
    name = _vector(f, target, pointer, f.dtypes[statement.buffer].itemsize)
    f.effect(f"store {_type(target)} {name}, {register}")


def _vector(f: Function, target: Fragments, pointer: str, itemsize: int) -> str:
    """One row as a vector, repeated until the register is full."""
    i = target.instruction
    rows, length = target.extent
    assert rows == 1, f"expected a tile of one row in a vector register, got {rows}"
    room = i.m * i.n * to_dtype(i.c_dtype).itemsize
    size = length * itemsize
    if size == room:
        return f.line(f"load {_type(target)}, ptr {pointer}, align {itemsize}")
    word, words = f"i{size * 8}", vector(f"i{size * 8}", room // size)
    one = f.line(f"load {word}, ptr {pointer}, align {itemsize}")
    first = f.line(f"insertelement {words} poison, {word} {one}, i64 0")
    order = f"{vector('i32', room // size)} zeroinitializer"
    every = f.line(f"shufflevector {words} {first}, {words} poison, {order}")
    return every if words == _type(target) else f.line(f"bitcast {words} {every} to {_type(target)}")


def multiply(f: Function, statement: Multiply) -> None:
    """c += a * b by the intrinsic of the row."""
    c, _ = f.fragments[statement.c[0]]
    i = c.instruction
    given = {"c": statement.c, "a": statement.a, "b": statement.b}
    registers = {operand: _register(f, *one) for operand, one in given.items()}
    if i.tiles is not None:
        f.run(i.spelling, *(registers[operand] for operand in i.operands))
        return
    values = {}
    for operand, (name, _) in given.items():
        kind = _type(f.fragments[name][0])
        values[operand] = f"{kind} {f.line(f'load {kind}, {registers[operand]}')}"
    result = f.call(i.spelling, _type(c), *(values[operand] for operand in i.operands))
    f.effect(f"store {_type(c)} {result}, {registers['c']}")


def deposit(f: Function, statement: Deposit) -> None:
    """A tile into memory."""
    source, _ = f.fragments[statement.fragments]
    i, register = source.instruction, _register(f, statement.fragments, statement.number)
    pointer = _pointer(f, statement.buffer, statement.offset)
    itemsize = f.dtypes[statement.buffer].itemsize
    if i.tiles is not None:
        f.run(i.tiles.store, register, f"ptr {pointer}", f"i64 {statement.pitch * itemsize}")
    else:
        name = f.line(f"load {_type(source)}, {register}")
        f.effect(f"store {_type(source)} {name}, ptr {pointer}, align {itemsize}")
    f.written(statement.buffer)


def _pointer(f: Function, buffer: str, offset: Expr) -> str:
    address = f.address(offset)
    return f.pointer(buffer, address, address.constant)
