"""Loops as LLVM IR text for a CPU: one function per phase, `void @entry(buffers, variables, scratch, first,
last)`.

Vector loops are rendered in the manner of ispc: a value is uniform (a scalar) or varies over the lanes of the
loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from petaflop.dtype import DType, float32
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, Leaf, is_constant, linear_terms
from petaflop.ir.loops import (
    Alloc,
    Deposit,
    Fetch,
    For,
    Fragments,
    If,
    Let,
    Loops,
    Memory,
    Multiply,
    Phase,
    Statement,
    Store,
)
from petaflop.ir.target import Target
from petaflop.render.llvm_divide import LEAST_LANES, quotient_function
from petaflop.render.llvm_masks import below
from petaflop.render.llvm_matrix import deposit, fetch, fragments, multiply, release, tile_registers
from petaflop.render.llvm_memory import load, store
from petaflop.render.llvm_ops import OPERATIONS, literal, memory_type, register_type, splat, vector
from petaflop.render.llvm_uses import buffers_used, unseen
from petaflop.render.llvm_values import Address, Value
from petaflop.render.llvm_words import in_words, store_words

__all__ = ["render"]

Prelude = Callable[[set[str]], str]
DUMMY_BYTES = 1024  # where accesses that are switched off go


def render(loops: Loops, target: Target, prelude: Prelude) -> str:
    """LLVM IR text of `loops`.

    `prelude` gives the definitions of the functions named in a set, such as `petaflop_exp2_v8f32`: EXP2, LOG2
    and SIN of so many lanes.
    """
    functions, declarations, math = [], set(), set()
    for phase in loops.phases:
        function = Function(loops, phase, target.has_fma)
        functions += [function.text(), *function.constants]
        declarations |= function.declarations
        math |= function.math_names
    head = [f'target triple = "{target.triple}"'] if target.triple else []
    cpu = [f'"target-cpu"="{target.cpu}"'] if target.cpu else []
    features = [f'"target-features"="{target.features}"'] if target.features else []
    width = [f'"prefer-vector-width"="{target.vector_bytes * 8}"'] if target.vector_bytes > 32 else []
    attributes = f"attributes #0 = {{ {' '.join(['nounwind', *cpu, *features, *width])} }}"
    return "\n".join(
        [*head, *functions, *sorted(declarations), prelude(math) if math else "", attributes, ""]
    )


class Function:
    """Renders one phase. `binding` tells what loop variables and let-names stand for at the current place."""

    def __init__(self, loops: Loops, phase: Phase, has_fma: bool) -> None:
        self.loops, self.phase, self.has_fma = loops, phase, has_fma
        self.lines: list[str] = []
        self.levels: list[list[str]] = [self.lines]  # one list of lines per enclosing loop or branch
        self.allocations: list[str] = []
        self.constants: list[str] = []
        self.declarations: set[str] = set()
        self.math_names: set[str] = set()
        self.counter = 0
        self.width = 1  # lanes of the enclosing vector loop
        self.lane: Expr | None = None
        self.dtypes: dict[str, DType] = dict(loops.arguments)
        self.pointers: dict[str, str] = {}
        self.binding: dict[Expr, Any] = {}  # axis or name -> int (unrolled) or Value
        self.scopes: list[dict[Any, Value]] = [{}]
        self.volatile: dict[
            Any, tuple[Value, frozenset[str]]
        ] = {}  # what depends on memory, until it may change
        self.fragments: dict[str, tuple[Fragments, str | int]] = {}  # with their address or first number
        self._leaves: dict[Expr, tuple[tuple[Expr, ...], frozenset[str]]] = {}

    # ---- text ----

    def new(self) -> str:
        self.counter += 1
        return f"%v{self.counter}"

    def line(self, text: str) -> str:
        name = self.new()
        self.lines.append(f"  {name} = {text}")
        return name

    def effect(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def call(self, name: str, result: str, *operands: str) -> str:
        self.declare(name, result, operands)
        return self.line(f"call {result} @{name}({', '.join(operands)})")

    def run(self, name: str, *operands: str) -> None:
        """Call an intrinsic that gives nothing."""
        self.declare(name, "void", operands)
        self.effect(f"call void @{name}({', '.join(operands)})")

    def declare(self, name: str, result: str, operands: tuple[str, ...]) -> None:
        types = ", ".join(_type_of(operand) for operand in operands)
        self.declarations.add(f"declare {result} @{name}({types})")

    def math(self, name: str) -> str:
        self.math_names.add(name)
        return name

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def text(self) -> str:
        """The whole function."""
        body = self._body()
        given = "ptr %buffers, ptr %variables, ptr noalias %scratch, i64 %first, i64 %last"
        head = f"define void @{self.phase.entry}({given}) #0 {{"
        return "\n".join([head, "entry:", *self.allocations, *body, "  ret void", "}"])

    def _body(self) -> list[str]:
        every = {*(name for name, _ in self.loops.arguments), *(memory.name for memory in self.loops.memory)}
        used = every if len(self.loops.phases) == 1 else buffers_used(self.phase)
        for position, (name, _) in enumerate(self.loops.arguments):
            if name in used:
                self.pointers[name] = self._load_pointer(position)
        memories = [memory for memory in self.loops.memory if memory.name in used]
        if any(memory.space == "shared" for memory in memories):
            shared = self._load_pointer(len(self.loops.arguments))
        for memory in memories:
            self._place(memory, "%scratch" if memory.space == "scratch" else shared)
        for position, variable in enumerate(self.loops.variables):
            slot = self.line(f"getelementptr i64, ptr %variables, i64 {position}")
            self.binding[variable] = Value(self.line(f"load i64, ptr {slot}"), 1, 0)
        tiles = tile_registers(self.phase)
        if tiles is not None:
            self.run(tiles.begin, f"ptr {self.constant(tiles.configuration)}")
        base: Expr | int = 0
        single = len(self.phase.segments) == 1
        for segment in self.phase.segments:
            if single:
                first, last = "%first", "%last"
            else:
                first, last = self._clamp(base, base + segment.tasks)
            self._loop(segment.task, first, last, 1, segment.body)
            base = base + segment.tasks
        if tiles is not None:
            self.run(tiles.end)
        return self.lines

    def constant(self, data: bytes) -> str:
        """The address of constant bytes."""
        name = f"@{self.phase.entry}.constant{len(self.constants)}"
        text = "".join(f"\\{byte:02X}" for byte in data)
        head = f"{name} = private unnamed_addr constant"
        self.constants.append(f'{head} [{len(data)} x i8] c"{text}", align 64')
        return name

    def _load_pointer(self, position: int) -> str:
        slot = self.line(f"getelementptr ptr, ptr %buffers, i64 {position}")
        return self.line(f"load ptr, ptr {slot}")

    def _place(self, memory: Memory, base: str) -> None:
        self.dtypes[memory.name] = memory.dtype
        self.pointers[memory.name] = self.line(f"getelementptr i8, ptr {base}, i64 {memory.offset}")

    def _clamp(self, low: Any, high: Any) -> tuple[str, str]:
        """[first, last) within [low, high), counted from low."""
        low, high = (self.scalar(bound) for bound in (low, high))
        first = self.call("llvm.smax.i64", "i64", "i64 %first", f"i64 {low}")
        last = self.call("llvm.smin.i64", "i64", "i64 %last", f"i64 {high}")
        return self.line(f"sub i64 {first}, {low}"), self.line(f"sub i64 {last}, {low}")

    # ---- statements ----

    def statements(self, body: tuple[Statement, ...]) -> None:
        for statement in in_words(self, body):
            if isinstance(statement, tuple):
                store_words(self, statement)
                self.written(statement[0].buffer)
            else:
                _STATEMENTS[type(statement)](self, statement)
        for statement in body:
            if isinstance(statement, Fragments):
                release(self, statement)

    def _loop(self, axis: Expr, start: str, stop: str, step: int, body: tuple[Statement, ...]) -> None:
        """A counted loop that also does nothing where start >= stop; what its body hoists comes before it."""
        number = self.counter = self.counter + 1
        counter = f"%i{number}"
        outer = self.binding.get(axis)
        self.binding[axis] = Value(counter, 1, len(self.levels))
        inside = self._enclosed(body)
        if outer is not None:
            self.binding[axis] = outer
        self.effect(f"br label %before{number}")
        self.label(f"before{number}")
        self.effect(f"br label %head{number}")
        self.label(f"head{number}")
        self.effect(f"{counter} = phi i64 [ {start}, %before{number} ], [ {counter}.next, %last{number} ]")
        more = self.line(f"icmp slt i64 {counter}, {stop}")
        self.effect(f"br i1 {more}, label %body{number}, label %end{number}")
        self.label(f"body{number}")
        self.lines += inside
        self.effect(f"br label %last{number}")
        self.label(f"last{number}")
        self.effect(f"{counter}.next = add nsw i64 {counter}, {step}")
        self.effect(f"br label %head{number}")
        self.label(f"end{number}")

    def _enclosed(self, body: tuple[Statement, ...]) -> list[str]:
        """The lines of statements in basic blocks of their own: nothing computed there is known
        afterwards."""
        self.scopes.append({})
        self.lines = []
        self.levels.append(self.lines)
        self.volatile = {}
        self.statements(body)
        lines = self.levels.pop()
        self.lines = self.levels[-1]
        self.scopes.pop()
        self.volatile = {}
        return lines

    def _for(self, loop: For) -> None:
        if loop.bind == "vector":
            assert self.lane is None and is_constant(loop.stop) and is_constant(loop.start, 0)
            if loop.stop.arg == 1:
                self._unroll(loop)
                return
            self.lane, self.width = loop.axis, int(loop.stop.arg)
            self.statements(loop.body)
            self.lane, self.width = None, 1
        elif loop.bind == "unroll":
            self._unroll(loop)
        else:
            self._loop(loop.axis, self.scalar(loop.start), self.scalar(loop.stop), loop.step, loop.body)

    def _unroll(self, loop: For) -> None:
        for position in range(int(loop.start.arg), int(loop.stop.arg), loop.step):
            self.binding[loop.axis] = position
            self.statements(loop.body)
        self.binding.pop(loop.axis, None)

    def _if(self, branch: If) -> None:
        condition = self.scalar(branch.condition)
        number = self.counter = self.counter + 1
        other = f"else{number}" if branch.orelse else f"join{number}"
        parts = [
            (name, self._enclosed(body))
            for name, body in (("then", branch.body), ("else", branch.orelse))
            if body
        ]
        self.effect(f"br i1 {condition}, label %then{number}, label %{other}")
        for name, lines in parts:
            self.label(f"{name}{number}")
            self.lines += lines
            self.effect(f"br label %join{number}")
        self.label(f"join{number}")

    def _let(self, let: Let) -> None:
        # a fresh Value object: what was computed from an earlier value of the name is found no more
        value = self.value(let.value)
        self.binding[let.name] = Value(value.name, value.width, len(self.levels) - 1)

    def _alloc(self, alloc: Alloc) -> None:
        self.dtypes[alloc.name] = alloc.dtype
        if alloc.name not in self.pointers:
            self.pointers[alloc.name] = name = self.new()
            element = memory_type(alloc.dtype)
            self.allocations.append(f"  {name} = alloca [{alloc.size} x {element}], align 64")

    def _store(self, statement: Store) -> None:
        store(self, statement)
        self.written(statement.buffer)

    def written(self, buffer: str) -> None:
        """What was read from a buffer is known no more."""
        stale = [key for key, (_, buffers) in self.volatile.items() if buffer in buffers]
        for key in stale:
            del self.volatile[key]

    @property
    def dummy(self) -> str:
        """Memory that may always be read and written."""
        if "%dummy" not in self.pointers.values():
            self.pointers["%dummy"] = "%dummy"
            self.allocations.append(f"  %dummy = alloca [{DUMMY_BYTES} x i8], align 64")
        return "%dummy"

    # ---- values ----

    def leaves(self, expr: Expr) -> tuple[tuple[Expr, ...], frozenset[str]]:
        """The axes and names that `expr` depends on, and the buffers that it reads."""
        found = self._leaves.get(expr)
        if found is None:
            for part in unseen(expr, self._leaves):
                leaves: dict[Expr, None] = {part: None} if part.op in _NAMED else {}
                buffers: set[str] = {part.arg[0]} if part.op is Leaf.LOAD else set()
                if part.op is not Leaf.AXIS:
                    for arg in part.args:
                        leaves.update(dict.fromkeys(self._leaves[arg][0]))
                        buffers |= self._leaves[arg][1]
                self._leaves[part] = tuple(leaves), frozenset(buffers)
            found = self._leaves[expr]
        return found

    def varies(self, expr: Expr) -> bool:
        """Whether the lanes of the vector loop may see different values."""
        if self.lane is None:
            return False
        return any(
            leaf is self.lane or getattr(self.binding.get(leaf), "width", 1) > 1
            for leaf in self.leaves(expr)[0]
        )

    def _key(self, expr: Expr, leaves: tuple[Expr, ...]) -> Any:
        """What `expr` means at this place; `leaves` are those of `expr`."""
        return (expr, *map(self.binding.get, leaves)) if leaves else expr

    def _level(self, leaves: tuple[Expr, ...], buffers: frozenset[str]) -> int:
        """The outermost loop level where an expression of these leaves can be computed."""
        if buffers:
            return len(self.levels) - 1
        return max([getattr(self.binding.get(leaf), "level", 0) for leaf in leaves], default=0)

    def _find(self, key: Any) -> Value | None:
        for scope in reversed(self.scopes):
            if key in scope:
                return scope[key]
        return None

    def _known(self, expr: Expr) -> Value | None:
        leaves, buffers = self.leaves(expr)
        key = self._key(expr, leaves)
        if buffers:
            found = self.volatile.get(key)
            return found[0] if found else None
        return self._find(key)

    def _at(self, level: int) -> list[str]:
        """From now on lines go to that level; returns where they went before."""
        before = self.lines
        self.lines = self.levels[level]
        return before

    def _line_at(self, level: int, text: str) -> str:
        before = self._at(level)
        name = self.line(text)
        self.lines = before
        return name

    def value(self, root: Expr) -> Value:
        """Render an expression; what is known already is not rendered again."""
        values: dict[Expr, Value] = {}
        entered: set[Expr] = set()
        stack = [root]
        while stack:
            expr = stack[-1]
            if expr not in entered:
                entered.add(expr)
                found = self._leaf(expr)
                if found is None:
                    parts = expr.args[:1] if expr.op is Leaf.LOAD else expr.args
                    stack += [part for part in parts[::-1] if part not in values]
                    continue
                values[expr] = found
            elif expr not in values:
                values[expr] = self._compute(expr, values)
            stack.pop()
        return values[root]

    def _compute(self, expr: Expr, values: Mapping[Expr, Value]) -> Value:
        """Render an expression whose arguments are known, at the outermost level where that is possible."""
        leaves, buffers = self.leaves(expr)
        level = self._level(leaves, buffers)
        before = self._at(level)
        name, width = load(self, expr) if expr.op is Leaf.LOAD else self._operation(expr, values)
        self.lines = before
        value = Value(name, width, level)
        if buffers:
            self.volatile[self._key(expr, leaves)] = (value, buffers)
        else:
            self.scopes[level][self._key(expr, leaves)] = value
        return value

    def _leaf(self, expr: Expr) -> Value | None:
        """The value of a leaf, or of what has been rendered."""
        if expr.op is Op.CONST:
            return Value(literal(expr.arg, expr.dtype), 1, 0)
        if expr is self.lane:
            lanes = ", ".join(f"i64 {lane}" for lane in range(self.width))
            return Value(f"<{lanes}>", self.width, 0)
        if expr.op in _NAMED:
            bound = self.binding[expr]
            return Value(str(bound), 1, 0) if isinstance(bound, int) else bound
        return self._known(expr)

    def _operation(self, expr: Expr, values: Mapping[Expr, Value]) -> tuple[str, int]:
        width = max([values[arg].width for arg in expr.args])
        by_one = expr.op is Op.DIV and values[expr.args[1]].width == 1 and width >= LEAST_LANES
        if by_one and expr.dtype is float32 and self.has_fma:
            lanes, divisor = (values[arg].name for arg in expr.args)
            return self._quotient(lanes, divisor, width), width
        if expr.op is Op.LT and width > 1 and (mask := below(self, expr)):
            return mask, width
        names = [self.widen(values[arg], arg.dtype, width) for arg in expr.args]
        return OPERATIONS[expr.op](self, expr, names, width), width

    def _quotient(self, lanes: str, divisor: str, width: int) -> str:
        """Lanes over one number."""
        name, definition = quotient_function(width)
        self.declarations.add(definition)
        kind = register_type(float32, width)
        return self.line(f"call {kind} @{name}({kind} {lanes}, float {divisor})")

    def widen(self, value: Value, dtype: DType, width: int) -> str:
        """The value in `width` lanes."""
        if value.width == width:
            return value.name
        scalar = register_type(dtype)
        if not value.name.startswith("%"):
            return splat(value.name, scalar, width)
        key = ("spread", value.name, width)
        found = self._find(key)
        if found is None:
            lanes = vector(scalar, width)
            first = self._line_at(value.level, f"insertelement {lanes} poison, {scalar} {value.name}, i64 0")
            zeros = f"{vector('i32', width)} zeroinitializer"
            name = self._line_at(value.level, f"shufflevector {lanes} {first}, {lanes} poison, {zeros}")
            found = self.scopes[value.level][key] = Value(name, width, value.level)
        return found.name

    def scalar(self, expr: Expr | int) -> str:
        """The name of a uniform index or condition."""
        if isinstance(expr, int):
            return str(expr)
        value = self.value(expr)
        assert value.width == 1, f"expected a uniform value, got {expr}"
        return value.name

    # ---- addresses ----

    def address(self, offset: Expr) -> Address:
        """A flat offset, taken apart by how far out each part can be computed."""
        terms, constant = linear_terms(offset)
        uniform: list[tuple[Value, int]] = []
        varying: list[tuple[Expr, int]] = []
        stride = 0
        for term, factor in terms.items():
            bound = self.binding.get(term)
            if term is self.lane:
                stride = factor
            elif isinstance(bound, int):
                constant += factor * bound
            elif self.varies(term):
                varying.append((term, factor))
            else:
                uniform.append((self.value(term), factor))
        return Address(uniform, constant, stride, varying)

    def pointer(self, buffer: str, address: Address, constant: int) -> str:
        """The address of an element; the parts of outer loops are added outside the inner ones."""
        element = memory_type(self.dtypes[buffer])
        base = self.pointers[buffer]
        for level in sorted({value.level for value, _ in address.uniform}):
            names = tuple((value.name, factor) for value, factor in address.uniform if value.level == level)
            found = self._find((base, names))
            if found is None:
                before = self._at(level)
                pointer = self.line(f"getelementptr {element}, ptr {base}, i64 {self._sum(names, level)}")
                self.lines = before
                found = self.scopes[level][(base, names)] = Value(pointer, 1, level)
            base = found.name
        return self.line(f"getelementptr {element}, ptr {base}, i64 {constant}") if constant else base

    def total(self, uniform: list[tuple[Value, int]]) -> str:
        """The sum of uniform values times their factors, where the last of them is known."""
        level = max(value.level for value, _ in uniform)
        before = self._at(level)
        name = self._sum(tuple((value.name, factor) for value, factor in uniform), level)
        self.lines = before
        return name

    def _sum(self, terms: tuple[tuple[str, int], ...], level: int) -> str:
        found = self._find(terms)
        if found is None:
            total = ""
            for name, factor in terms:
                scaled = name if factor == 1 else self.line(f"mul nsw i64 {name}, {factor}")
                total = scaled if not total else self.line(f"add nsw i64 {total}, {scaled}")
            found = self.scopes[level][terms] = Value(total, 1, level)
        return found.name


_NAMED = (Leaf.AXIS, Leaf.STATE, Op.VAR)
_STATEMENTS: dict[type, Callable[[Function, Any], None]] = {
    For: Function._for,
    If: Function._if,
    Let: Function._let,
    Store: Function._store,
    Alloc: Function._alloc,
    Fragments: fragments,
    Fetch: fetch,
    Multiply: multiply,
    Deposit: deposit,
}


def _type_of(operand: str) -> str:
    """The type of a typed operand such as `<8 x float> %v1` or `i1 false`."""
    return operand[: operand.index(">") + 1] if operand.startswith("<") else operand.split()[0]
