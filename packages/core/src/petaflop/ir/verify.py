"""Checks of Kernels and Loops between the stages, for tests and for PETAFLOP_VERIFY=1.

A message names what was expected and prints the expression or statement with its inputs. What is refused here
is a fault of ours: no graph that a user can build may lead to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from petaflop.dtype import DType, bool_, index
from petaflop.errors import CompileError
from petaflop.graph.ops import COMPUTE, Native, Op
from petaflop.graph.symbolic import Expr, Leaf, is_constant, topological
from petaflop.ir.kernel import Block, Kernel, axes_of
from petaflop.ir.loops import (
    Alloc,
    Deposit,
    Fetch,
    For,
    Fragments,
    If,
    Let,
    Loops,
    Multiply,
    Segment,
    Statement,
    Store,
)

__all__ = ["verify_kernel", "verify_loops"]


def _expect(condition: bool, expected: str, got: object, where: object) -> None:
    if not condition:
        raise CompileError(f"verify: expected {expected}, got {got}, in {where}")


# ---- expressions ----

_COMPARE = (Op.LT, Op.NE)
_FREE = (Op.CONST, Op.CAST, Op.BITCAST, Op.VAR, Leaf.AXIS, Leaf.STATE, Leaf.LOAD)


def _check_types(expr: Expr) -> None:
    """The dtype rule of one operation."""
    if expr.op in _FREE:
        return
    _expect(expr.op in COMPUTE or isinstance(expr.op, Native), "a primitive operation", expr.op, expr)
    args = expr.args
    if expr.op is Op.WHERE:
        _expect(args[0].dtype is bool_, "a bool condition", args[0].dtype, expr)
        args = args[1:]
    dtypes = {arg.dtype for arg in args}
    _expect(len(dtypes) == 1, "operands of one dtype", sorted(map(str, dtypes)), expr)
    result = bool_ if expr.op in _COMPARE else args[0].dtype
    _expect(expr.dtype is result, f"a result of {result}", expr.dtype, expr)


# ---- kernels ----


def verify_kernel(kernel: Kernel) -> None:
    """Refuse a kernel that names what it does not have, or breaks a dtype rule; raises CompileError."""
    names = [b.name for b in kernel.buffers]
    _expect(len(set(names)) == len(names), "buffers of different names", names, kernel)
    known = {b.name: (b.dtype, len(b.shape)) for b in kernel.buffers}
    writable = {a.name for a in kernel.arguments if a.written} | {t.name for t in kernel.temporaries}
    for block in kernel.blocks:
        _verify_block(block, known, writable, set(kernel.variables))


def _verify_block(
    block: Block, known: Mapping[str, tuple[DType, int]], writable: set[str], variables: set[Expr]
) -> None:
    outer = set(block.axes)
    _expect(set(block.ordered) <= outer, "ordered axes among the block's axes", block.ordered, block)
    states: set[Expr] = set()
    running: set[Expr] = set()
    for r in block.reductions:
        own = {s.expr for s in r.states}
        count = len(r.states)
        _expect(len(r.step) == len(r.merge) == count, f"{count} steps and merges", (r.step, r.merge), block)
        for s, step in zip(r.states, r.step, strict=True):
            _expect(step.dtype is s.dtype, f"a step of {s.dtype}", step.dtype, step)
        _check_kernel_exprs(r.step, outer | set(r.axes), states | own, known, variables)
        states |= own
        running |= set(r.axes) if r.scan else set()
    for store in block.stores:
        _expect(store.buffer in writable, "a store to what is written", store.buffer, block)
        dtype, rank = known[store.buffer]
        _expect(store.value.dtype is dtype, f"a value of {dtype}", store.value.dtype, store.value)
        _expect(len(store.index) == rank, f"{rank} indices", store.index, block)
        _expect(store.valid.dtype is bool_, "a bool condition", store.valid.dtype, store.valid)
        _check_kernel_exprs(store.exprs, outer | running, states, known, variables)


def _check_kernel_exprs(
    roots: Iterable[Expr],
    axes: set[Expr],
    states: set[Expr],
    known: Mapping[str, tuple[DType, int]],
    variables: set[Expr],
) -> None:
    roots = list(roots)
    _expect(axes_of(roots) <= axes, "axes of the block", axes_of(roots) - axes, roots)
    for expr in _inside(roots):
        _check_types(expr)
        if expr.op is Leaf.STATE:
            _expect(expr in states, "a state of the block", expr, roots)
        elif expr.op is Op.VAR:
            _expect(expr in variables, "a variable of the kernel", expr, roots)
        elif expr.op is Leaf.LOAD:
            _expect(expr.arg[0] in known, "a load from a buffer of the kernel", expr.arg[0], expr)
            dtype, rank = known[expr.arg[0]]
            _expect(expr.dtype is dtype, f"a load of {dtype}", expr.dtype, expr)
            _expect(len(expr.args) == rank + 1, f"{rank} indices", len(expr.args) - 1, expr)


def _inside(roots: Iterable[Expr]) -> list[Expr]:
    """Expressions below `roots`, without the sizes that axes carry."""
    found = topological(roots)
    sizes = {part for a in found if a.op is Leaf.AXIS for part in topological(a.args)}
    return [expr for expr in found if expr not in sizes or expr.op is Op.CONST]


# ---- loops ----


@dataclass(slots=True)
class _Scope:
    """What may be named at a place: buffers with dtype and size (None: unknown), bound leaves, and tiles."""

    buffers: dict[str, tuple[DType, int | None]]
    bound: set[Expr]
    lanes: bool = False
    fragments: dict[str, Fragments] = field(default_factory=dict)


def verify_loops(loops: Loops) -> None:
    """Refuse loops that a renderer could not render; raises CompileError."""
    for phase in loops.phases:
        for segment in phase.segments:
            _verify_segment(loops, segment)


def _verify_segment(loops: Loops, segment: Segment) -> None:
    buffers: dict[str, tuple[DType, int | None]] = {name: (dtype, None) for name, dtype in loops.arguments}
    buffers |= {memory.name: (memory.dtype, memory.size) for memory in loops.memory}
    scope = _Scope(buffers, {segment.task, *loops.variables})
    _verify_body(segment.body, scope)


def _verify_body(body: Iterable[Statement], scope: _Scope) -> None:
    names: list[Expr] = []
    tiles: list[str] = []
    for statement in body:
        if isinstance(statement, Alloc):
            _expect(statement.size > 0, "room for an element", statement.size, statement)
            scope.buffers[statement.name] = (statement.dtype, statement.size)
        elif isinstance(statement, Let):
            _check_loop_exprs((statement.value,), scope, statement)
            _expect(
                statement.name.dtype is statement.value.dtype, "one dtype", statement.value.dtype, statement
            )
            scope.bound.add(statement.name)
            names.append(statement.name)
        elif isinstance(statement, Store):
            _verify_store(statement, scope)
        elif isinstance(statement, If):
            _check_loop_exprs((statement.condition,), scope, statement)
            _expect(statement.condition.dtype is bool_, "a bool", statement.condition.dtype, statement)
            _verify_body(statement.body, scope)
            _verify_body(statement.orelse, scope)
        elif isinstance(statement, Fragments):
            _expect(statement.name not in scope.fragments, "a name that is free", statement.name, statement)
            scope.fragments[statement.name] = statement
            tiles.append(statement.name)
        elif isinstance(statement, (Fetch, Deposit)):
            _verify_tile(statement, scope)
        elif isinstance(statement, Multiply):
            _verify_multiply(statement, scope)
        else:
            _verify_for(statement, scope)
    scope.bound.difference_update(names)
    for name in tiles:
        del scope.fragments[name]


def _verify_for(loop: For, scope: _Scope) -> None:
    _check_loop_exprs((loop.start, loop.stop), scope, loop.axis)
    _expect(loop.bind in ("serial", "unroll", "vector"), "a way to run a loop", loop.bind, loop.axis)
    _expect(loop.step > 0, "a step above 0", loop.step, loop.axis)
    _expect(loop.axis not in scope.bound, "a loop variable that is free", loop.axis, loop.axis)
    vector = loop.bind == "vector"
    if loop.bind != "serial":
        _expect(is_constant(loop.start) and is_constant(loop.stop), "constant bounds", loop.stop, loop.axis)
    if vector:
        _expect(not scope.lanes, "one vector loop at a place", loop.axis, loop.axis)
        _expect(is_constant(loop.start, 0) and loop.step == 1, "lanes from 0", loop.start, loop.axis)
    scope.bound.add(loop.axis)
    scope.lanes = scope.lanes or vector
    _verify_body(loop.body, scope)
    scope.bound.discard(loop.axis)
    if vector:
        scope.lanes = False


def _verify_store(store: Store, scope: _Scope) -> None:
    _check_loop_exprs((store.offset, store.value, store.valid), scope, store)
    _expect(store.buffer in scope.buffers, "a buffer that exists", store.buffer, store)
    dtype, size = scope.buffers[store.buffer]
    _expect(store.value.dtype is dtype, f"a value of {dtype}", store.value.dtype, store)
    _expect(store.offset.dtype is index, "an offset of dtype index", store.offset.dtype, store)
    _check_room(store.offset, size, store)


def _fragment(name: str, number: Expr, scope: _Scope, where: object) -> Fragments:
    """The fragments of that name, of which `number` is one."""
    _expect(name in scope.fragments, "fragments that exist", name, where)
    found = scope.fragments[name]
    _expect(number.lo >= 0 and number.hi < found.count, f"a number below {found.count}", number, where)
    _check_loop_exprs((number,), scope, where)
    _expect(not scope.lanes, "no lanes around a matrix instruction", number, where)
    return found


def _verify_tile(tile: Fetch | Deposit, scope: _Scope) -> None:
    """A tile in memory has the dtype of its operand and rows that do not overlap."""
    found = _fragment(tile.fragments, tile.number, scope, tile)
    if isinstance(tile, Fetch) and not tile.buffer:
        return
    row = found.instruction
    dtypes = {"a": row.a_dtype, "b": row.b_dtype, "c": row.c_dtype}
    _check_loop_exprs((tile.offset,), scope, tile)
    _expect(tile.buffer in scope.buffers, "a buffer that exists", tile.buffer, tile)
    dtype, size = scope.buffers[tile.buffer]
    _expect(dtype.name == dtypes[found.operand], f"a tile of {dtypes[found.operand]}", dtype, tile)
    rows, length = found.extent
    _expect(rows == 1 or tile.pitch >= length, f"rows {length} apart", tile.pitch, tile)
    _check_room(tile.offset, size, tile)
    _check_room(tile.offset + ((rows - 1) * tile.pitch + length - 1), size, tile)


def _verify_multiply(multiply: Multiply, scope: _Scope) -> None:
    found = {
        operand: _fragment(*one, scope, multiply)
        for operand, one in (("c", multiply.c), ("a", multiply.a), ("b", multiply.b))
    }
    for operand, fragments in found.items():
        _expect(fragments.operand == operand, f"a tile of operand {operand}", fragments, multiply)
        same = fragments.instruction == found["c"].instruction
        _expect(same, "tiles of one instruction", fragments.instruction.name, multiply)


def _check_loop_exprs(roots: Iterable[Expr], scope: _Scope, where: object) -> None:
    for expr in _inside(roots):
        _check_types(expr)
        if expr.op in (Leaf.AXIS, Leaf.STATE, Op.VAR):
            _expect(expr in scope.bound, "a name that is bound here", expr, where)
        elif expr.op is Leaf.LOAD:
            _expect(len(expr.args) == 2, "a condition and one flat offset", len(expr.args), where)
            _expect(expr.arg[0] in scope.buffers, "a buffer that exists", expr.arg[0], where)
            dtype, size = scope.buffers[expr.arg[0]]
            _expect(expr.dtype is dtype, f"a load of {dtype}", expr.dtype, where)
            _check_room(expr.args[1], size, where)


def _check_room(offset: Expr, size: int | None, where: object) -> None:
    """A constant offset into memory of our own must be inside it."""
    if size is not None and is_constant(offset):
        _expect(0 <= offset.arg < size, f"an offset below {size}", offset, where)
