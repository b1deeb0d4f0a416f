"""Loops as C-like source text, in the dialect that is given as data: one kernel function per phase.

Lanes become loops over single elements, which a C compiler vectorises: lanes never depend on each other.
Parts of an expression that are used twice get names; compilers do the rest. No compiler is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from petaflop.dtype import DType, index
from petaflop.errors import CompileError
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import TRUE, Expr, Leaf, as_expr, topological
from petaflop.ir.loops import Alloc, For, If, Let, Loops, Memory, Phase, Segment, Statement, Store, walk
from petaflop.render.c_dialect import CDialect
from petaflop.render.c_ops import OPERATIONS, literal, number_of

__all__ = ["render"]

LONG = 64  # characters from which on a part of an expression gets a name


def render(loops: Loops, dialect: CDialect) -> str:
    """Source text of `loops`; raises CompileError for a dtype or an operation that the dialect has not."""
    functions = "\n\n".join(Function(loops, phase, dialect).text() for phase in loops.phases)
    return "\n\n".join([dialect.head, *_helpers(functions, dialect.helpers), functions]) + "\n"


def _helpers(text: str, helpers: Mapping[str, str]) -> list[str]:
    """Definitions of the helpers that `text` names, those that they name before them."""
    found: dict[str, str] = {}

    def visit(source: str) -> None:
        for name in dict.fromkeys(re.findall(r"[A-Za-z_]\w*", source)):
            if name in helpers and name not in found:
                found[name] = ""  # so that its own definition does not name it again
                visit(helpers[name])
                del found[name]  # behind those that it needs
                found[name] = helpers[name]

    visit(text)
    return list(found.values())


class Function:
    """Renders one phase. `binding` tells how loop variables, let-names and sizes are called at the current
    place."""

    def __init__(self, loops: Loops, phase: Phase, dialect: CDialect) -> None:
        self.loops, self.phase, self.dialect = loops, phase, dialect
        self.lines: list[str] = []
        self.depth = 1
        self.index = number_of(dialect, index).register
        self.taken: list[set[str]] = [set(dialect.reserved)]  # names by scope
        self.binding: dict[Expr, str] = {}
        self.buffers: dict[str, tuple[str, DType]] = {}  # name in the loops -> name in C, dtype
        self.parts = 0

    # ---- text ----

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def fresh(self, wanted: str) -> str:
        """A name that is an identifier of C and means nothing else here."""
        name = base = re.sub(r"\W", "_", wanted) or "_"
        count = 1
        while any(name in scope for scope in self.taken) or name in self.dialect.helpers:
            count += 1
            name = f"{base}_{count}"
        self.taken[-1].add(name)
        return name

    def text(self) -> str:
        """The whole function."""
        read, written = _buffers_used(self.phase)
        parameters = list(self.dialect.parameters)
        for number, (name, dtype) in enumerate(self.loops.arguments):
            if name in read | written or self.dialect.argument:
                const = "" if name in written else "const "
                self._bind(parameters, self._declared(name, dtype), const, number)
        for number, variable in enumerate(self.loops.variables):
            self.binding[variable] = name = self.fresh(variable.arg)
            fields = {"type": self.index, "name": name, "number": number}
            self._place(parameters, self.dialect.variable, self.dialect.bind_variable, fields)
        for memory in self.loops.memory:
            if memory.name in read | written:
                self._memory(memory)
        base = as_expr(0)
        for segment in self.phase.segments:
            self._segment(segment, base)
            base = base + segment.tasks
        head = self.dialect.entry.format(name=self.phase.entry, parameters=", ".join(parameters))
        return "\n".join([head, "{", *self.lines, "}"])

    def _declared(self, name: str, dtype: DType) -> dict[str, Any]:
        self.buffers[name] = (self.fresh(name), dtype)
        return {"type": number_of(self.dialect, dtype).memory, "name": self.buffers[name][0]}

    def _bind(self, parameters: list[str], fields: dict[str, Any], const: str, number: int) -> None:
        fields |= {"const": const, "number": number}
        self._place(parameters, self.dialect.argument, self.dialect.bind_argument, fields)

    def _place(
        self, parameters: list[str], parameter: str, declaration: str, fields: Mapping[str, Any]
    ) -> None:
        if parameter:
            parameters.append(parameter.format(**fields))
        if declaration:
            self.line(declaration.format(**fields))

    def _memory(self, memory: Memory) -> None:
        template = self.dialect.scratch if memory.space == "scratch" else self.dialect.shared
        fields = self._declared(memory.name, memory.dtype)
        self.line(template.format(**fields, offset=memory.offset, count=len(self.loops.arguments)))

    def _segment(self, segment: Segment, base: Expr) -> None:
        alone = len(self.phase.segments) == 1
        template = self.dialect.task if alone else self.dialect.segment
        counts = {"base": base, "tasks": as_expr(segment.tasks)}
        texts = dict(zip(counts, self.expressions(list(counts.values())), strict=True))
        with_name = self._scoped(segment.task)
        self.line(template.format(type=self.index, name=with_name, **texts) + " {")
        self._body(segment.body)
        self._leave(segment.task)

    # ---- scopes ----

    def _scoped(self, axis: Expr) -> str:
        """Enter the braces of a loop over `axis`; gives its name."""
        self.taken.append(set())
        self.binding[axis] = name = self.fresh(axis.arg)
        return name

    def _leave(self, axis: Expr) -> None:
        self.line("}")
        self.taken.pop()
        del self.binding[axis]

    def _body(self, body: Iterable[Statement]) -> None:
        self.depth += 1
        self.taken.append(set())
        for statement in body:
            _STATEMENTS[type(statement)](self, statement)
        self.taken.pop()
        self.depth -= 1

    # ---- statements ----

    def _for(self, loop: For) -> None:
        start, stop = self.expressions([loop.start, loop.stop])
        comment = _PRAGMAS[loop.bind](self.dialect).format(count=loop.stop)
        if comment:
            self.line(comment)
        name = self._scoped(loop.axis)
        step = f"{name}++" if loop.step == 1 else f"{name} += {loop.step}"
        self.line(f"for ({self.index} {name} = {_bare(start)}; {name} < {stop}; {step}) {{")
        self._body(loop.body)
        self._leave(loop.axis)

    def _if(self, branch: If) -> None:
        (condition,) = self.expressions([branch.condition])
        self.line(f"if ({_bare(condition)}) {{")
        self._body(branch.body)
        if branch.orelse:
            self.line("} else {")
            self._body(branch.orelse)
        self.line("}")

    def _let(self, let: Let) -> None:
        (text,) = self.expressions([let.value])
        name = self.fresh(let.name.arg)
        self.line(f"const {number_of(self.dialect, let.value.dtype).register} {name} = {_bare(text)};")
        self.binding[let.name] = name

    def _alloc(self, alloc: Alloc) -> None:
        fields = self._declared(alloc.name, alloc.dtype)
        self.line(self.dialect.local.format(**fields, size=alloc.size))

    def _store(self, store: Store) -> None:
        offset, value, valid = self.expressions([store.offset, store.value, store.valid])
        name, dtype = self.buffers[store.buffer]
        template = number_of(self.dialect, dtype).store
        text = template.format(pointer=name, offset=_bare(offset), value=_bare(value))
        gate = "" if store.valid is TRUE else f"if ({_bare(valid)}) "
        self.line(f"{gate}{text};")

    # ---- expressions ----

    def expressions(self, roots: Sequence[Expr]) -> list[str]:
        """The texts of expressions for the next statement; declarations of what they share come before it."""
        order = _reached(roots, self.binding)
        uses: dict[Expr, int] = {}
        for expr in order:
            for part in _parts(expr, self.binding):
                uses[part] = uses.get(part, 0) + 1
        for root in roots:
            uses[root] = uses.get(root, 0) + 1
        texts: dict[Expr, str] = {}
        for expr in order:
            text = self._text(expr, texts)
            worth = expr not in self.binding and expr.op is not Op.CONST
            if worth and (uses[expr] > 1 or (len(text) > LONG and expr not in roots)):
                text = self._part(expr.dtype, text)
            texts[expr] = text
        return [texts[root] for root in roots]

    def _part(self, dtype: DType, text: str) -> str:
        self.parts += 1
        name = self.fresh(f"v{self.parts}")
        self.line(f"const {number_of(self.dialect, dtype).register} {name} = {_bare(text)};")
        return name

    def _text(self, expr: Expr, texts: Mapping[Expr, str]) -> str:
        if expr in self.binding:
            return self.binding[expr]
        if expr.op is Op.CONST:
            return literal(self.dialect, expr.arg, expr.dtype)
        if expr.op is Leaf.LOAD:
            return self._load(expr, texts)
        operation = OPERATIONS.get(expr.op)
        if operation is None:
            raise CompileError(f"render_c: expected a primitive operation, got {expr.op} in {expr}")
        return operation(self.dialect, expr, [texts[arg] for arg in expr.args])

    def _load(self, expr: Expr, texts: Mapping[Expr, str]) -> str:
        (name, fill), (valid, offset) = expr.arg, expr.args
        number = number_of(self.dialect, expr.dtype)
        text = number.load.format(pointer=self.buffers[name][0], offset=_bare(texts[offset]))
        if valid is TRUE:
            return text
        return f"({texts[valid]} ? {text} : {literal(self.dialect, fill, expr.dtype)})"


_STATEMENTS: dict[type, Callable[[Function, Any], None]] = {
    For: Function._for,
    If: Function._if,
    Let: Function._let,
    Store: Function._store,
    Alloc: Function._alloc,
}
_PRAGMAS: dict[str, Callable[[CDialect], str]] = {
    "serial": lambda dialect: "",
    "unroll": lambda dialect: dialect.unroll,
    "vector": lambda dialect: dialect.lanes,
}


def _parts(expr: Expr, binding: Mapping[Expr, str]) -> tuple[Expr, ...]:
    """What the text of an expression is made of: a name stands for itself, not for the size it carries."""
    return () if expr in binding or expr.op in (Leaf.AXIS, Leaf.STATE, Op.VAR) else expr.args


def _reached(roots: Iterable[Expr], binding: Mapping[Expr, str]) -> list[Expr]:
    """Expressions that `roots` are made of, arguments first."""
    order: dict[Expr, None] = {}
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        expr, ready = stack.pop()
        if ready:
            order[expr] = None
        elif expr not in order:
            stack.append((expr, True))
            stack.extend((part, False) for part in reversed(_parts(expr, binding)))
    return list(order)


def _exprs(statement: Statement) -> tuple[Expr, ...]:
    if type(statement) not in _HOLDS:
        raise CompileError(
            f"render_c: expected no matrix instructions, got {statement}; "
            "leave them out of the target, as no dialect of C spells them"
        )
    return _HOLDS[type(statement)](statement)


_HOLDS: dict[type, Callable[[Any], tuple[Expr, ...]]] = {
    For: lambda loop: (loop.start, loop.stop),
    If: lambda branch: (branch.condition,),
    Let: lambda let: (let.value,),
    Store: lambda store: (store.offset, store.value, store.valid),
    Alloc: lambda alloc: (),
}


def _buffers_used(phase: Phase) -> tuple[set[str], set[str]]:
    """Names of the buffers that are read, and of those that are written."""
    statements: Iterator[Statement] = (s for segment in phase.segments for s in walk(segment.body))
    held = list(statements)
    written = {s.buffer for s in held if isinstance(s, Store)}
    loads = topological(expr for s in held for expr in _exprs(s))
    return {expr.arg[0] for expr in loads if expr.op is Leaf.LOAD}, written


def _bare(text: str) -> str:
    """Without parentheses around all of it."""
    if not text.startswith("("):
        return text
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[1:-1] if position == len(text) - 1 else text
    return text
