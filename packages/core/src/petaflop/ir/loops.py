"""The third noun: Loops is what a plan makes of a kernel, as data that a renderer turns into text.

Statements hold `Expr`s whose loads name a buffer and one flat offset in elements. A `Let` name is a
`Leaf.STATE`, a loop variable a `Leaf.AXIS`. A launch runs the phases in turn; each phase is a number of
independent tasks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petaflop.dtype import DType
from petaflop.graph.ops import Native, Op
from petaflop.graph.symbolic import TRUE, Dim, Expr, as_expr
from petaflop.ir.target import MatrixInstruction

__all__ = [
    "Alloc",
    "Deposit",
    "Fetch",
    "For",
    "Fragments",
    "If",
    "Let",
    "Loops",
    "Memory",
    "Multiply",
    "Phase",
    "PhaseSignature",
    "Segment",
    "Signature",
    "Statement",
    "Store",
    "walk",
]


_START = as_expr(0)


@dataclass(frozen=True, slots=True)
class For:
    """`axis` runs from `start` up to `stop` by `step`.

    `bind` is "serial", "unroll" (constant bounds, body repeated) or "vector" (0..stop lanes at once).
    """

    axis: Expr
    start: Expr
    stop: Expr
    step: int
    bind: str
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Let:
    """Give `value` a name (a `Leaf.STATE`) for the rest of the enclosing body."""

    name: Expr
    value: Expr


@dataclass(frozen=True, slots=True)
class Store:
    """buffer[offset] = value where valid."""

    buffer: str
    offset: Expr
    value: Expr
    valid: Expr = TRUE


@dataclass(frozen=True, slots=True)
class If:
    """Run `body` where a condition that is uniform over vector lanes holds, else `orelse`."""

    condition: Expr
    body: tuple[Statement, ...]
    orelse: tuple[Statement, ...] = ()


@dataclass(frozen=True, slots=True)
class Alloc:
    """`size` elements that live as long as a task, in registers or on the stack."""

    name: str
    dtype: DType
    size: int


@dataclass(frozen=True, slots=True)
class Fragments:
    """`count` tiles of operand "a", "b" or "c" of a matrix instruction, in registers, for the rest of the
    body."""

    name: str
    instruction: MatrixInstruction
    operand: str
    count: int

    @property
    def extent(self) -> tuple[int, int]:
        """(rows, elements of a row) of a tile in memory: B stands in groups of k, the others row by row."""
        i = self.instruction
        sizes = {"a": (i.m, i.k), "b": (i.k // i.group, i.n * i.group), "c": (i.m, i.n)}
        return sizes[self.operand]


@dataclass(frozen=True, slots=True)
class Fetch:
    """fragments[number] = a tile whose first element is buffer[offset] and whose rows are `pitch` elements
    apart; 0 everywhere without a buffer."""

    fragments: str
    number: Expr
    buffer: str = ""
    offset: Expr = _START
    pitch: int = 0


@dataclass(frozen=True, slots=True)
class Multiply:
    """c += a * b, each of them one of some fragments: (name, number)."""

    c: tuple[str, Expr]
    a: tuple[str, Expr]
    b: tuple[str, Expr]


@dataclass(frozen=True, slots=True)
class Deposit:
    """A tile whose first element is buffer[offset] and whose rows are `pitch` elements apart =
    fragments[number]."""

    buffer: str
    offset: Expr
    pitch: int
    fragments: str
    number: Expr


Statement = For | Let | Store | If | Alloc | Fragments | Fetch | Multiply | Deposit


@dataclass(frozen=True, slots=True)
class Memory:
    """`size` elements of working memory at a byte `offset`: per thread ("scratch") or per launch
    ("shared")."""

    name: str
    dtype: DType
    size: int
    space: str
    offset: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Independent tasks 0 <= task < tasks that run `body`."""

    task: Expr
    tasks: Dim
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Phase:
    """Segments whose task numbers follow one another; every task ends before the next phase begins."""

    entry: str
    segments: tuple[Segment, ...]

    @property
    def tasks(self) -> Dim:
        """How many tasks the phase has."""
        total: Dim = 0
        for segment in self.segments:
            total = total + segment.tasks
        return total


@dataclass(frozen=True, slots=True)
class PhaseSignature:
    """The function of one phase, and its number of tasks as an int or a prefix list over the variables."""

    entry: str
    tasks: Any


@dataclass(frozen=True, slots=True)
class Signature:
    """All that a launcher must know of compiled loops; goes with a cached binary as JSON.

    `scratch` bytes per thread are passed as `%scratch`; `shared` bytes per launch, where not 0, follow the
    arguments as one more buffer.
    """

    name: str
    phases: tuple[PhaseSignature, ...]
    arguments: tuple[str, ...]
    variables: tuple[str, ...]
    scratch: int = 0
    shared: int = 0

    def tasks(self, values: Sequence[int] = ()) -> list[int]:
        """Tasks of each phase, for values of the variables in order."""
        known = dict(zip(self.variables, values, strict=True))
        return [_evaluate(phase.tasks, known) for phase in self.phases]

    def to_json(self) -> str:
        """One line of JSON."""
        phases = [[phase.entry, phase.tasks] for phase in self.phases]
        return json.dumps([self.name, phases, self.arguments, self.variables, self.scratch, self.shared])

    @classmethod
    def from_json(cls, text: str) -> Signature:
        """The signature that `to_json` wrote."""
        name, phases, arguments, variables, scratch, shared = json.loads(text)
        entries = tuple(PhaseSignature(entry, tasks) for entry, tasks in phases)
        return cls(name, entries, tuple(arguments), tuple(variables), scratch, shared)


@dataclass(frozen=True, slots=True)
class Loops:
    """A lowered kernel: phases over arguments (name, dtype), variables and working memory."""

    name: str
    arguments: tuple[tuple[str, DType], ...]
    variables: tuple[Expr, ...]
    phases: tuple[Phase, ...]
    memory: tuple[Memory, ...] = ()

    def _bytes(self, space: str) -> int:
        ends = [m.offset + m.size * m.dtype.itemsize for m in self.memory if m.space == space]
        return max(ends, default=0)

    @property
    def signature(self) -> Signature:
        """What a launcher needs; the loops themselves are not needed to load a cached binary."""
        return Signature(
            self.name,
            tuple(PhaseSignature(phase.entry, _prefix(phase.tasks)) for phase in self.phases),
            tuple(name for name, _ in self.arguments),
            tuple(variable.arg for variable in self.variables),
            self._bytes("scratch"),
            self._bytes("shared"),
        )

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}: {dtype}" for name, dtype in self.arguments)
        variables = "".join(f"; {v.arg} in {v.lo}..{v.hi}" for v in self.variables)
        lines = [f"loops {self.name}({arguments}{variables}):"]
        lines += [f"  {m.space} {m.name}: {m.dtype}[{m.size}] at {m.offset}" for m in self.memory]
        for phase in self.phases:
            lines.append(f"  phase {phase.entry}:")
            for segment in phase.segments:
                lines.append(f"    task {segment.task} < {segment.tasks}:")
                lines += _lines(segment.body, "      ")
        return "\n".join(lines)


def walk(body: Iterable[Statement]) -> Iterator[Statement]:
    """Every statement of `body` and below, outer ones first."""
    stack = list(reversed(tuple(body)))
    while stack:
        statement = stack.pop()
        yield statement
        if isinstance(statement, For):
            stack.extend(reversed(statement.body))
        elif isinstance(statement, If):
            stack.extend(reversed(statement.body + statement.orelse))


# ---- printing ----


def _lines(body: Iterable[Statement], indent: str) -> list[str]:
    lines = []
    for statement in body:
        lines += _PRINT[type(statement)](statement, indent)
    return lines


def _for_lines(loop: For, indent: str) -> list[str]:
    start = "" if loop.start is as_expr(0) else f"{loop.start} .. "
    step = "" if loop.step == 1 else f" by {loop.step}"
    head = f"{indent}{'for' if loop.bind == 'serial' else loop.bind} {loop.axis} < {start}{loop.stop}{step}:"
    return [head, *_lines(loop.body, indent + "  ")]


def _if_lines(branch: If, indent: str) -> list[str]:
    lines = [f"{indent}if {branch.condition}:", *_lines(branch.body, indent + "  ")]
    if branch.orelse:
        lines += [f"{indent}else:", *_lines(branch.orelse, indent + "  ")]
    return lines


def _store_lines(store: Store, indent: str) -> list[str]:
    gate = "" if store.valid is TRUE else f" if {store.valid}"
    return [f"{indent}{store.buffer}[{store.offset}] = {store.value}{gate}"]


def _tile(tile: Fetch | Deposit) -> str:
    return f"tile {tile.buffer}[{tile.offset}] by {tile.pitch}"


def _one(fragment: tuple[str, Expr]) -> str:
    return f"{fragment[0]}[{fragment[1]}]"


_PRINT: dict[type, Callable[[Any, str], list[str]]] = {
    For: _for_lines,
    If: _if_lines,
    Store: _store_lines,
    Let: lambda let, indent: [f"{indent}let {let.name}: {let.name.dtype} = {let.value}"],
    Alloc: lambda alloc, indent: [f"{indent}alloc {alloc.name}: {alloc.dtype}[{alloc.size}]"],
    Fragments: lambda f, indent: [
        f"{indent}fragments {f.name}: {f.count} of {f.operand} of {f.instruction.name}"
    ],
    Fetch: lambda f, indent: [f"{indent}{f.fragments}[{f.number}] = {_tile(f) if f.buffer else 'zero'}"],
    Multiply: lambda m, indent: [f"{indent}{_one(m.c)} += {_one(m.a)} @ {_one(m.b)}"],
    Deposit: lambda d, indent: [f"{indent}{_tile(d)} = {d.fragments}[{d.number}]"],
}


# ---- task counts as JSON ----

_FOLD: dict[str, Callable[..., int]] = {
    "ADD": lambda a, b: a + b,
    "MUL": lambda a, b: a * b,
    "DIV": lambda a, b: a // b,
    "MOD": lambda a, b: a % b,
    "MAX": max,
    "LT": lambda a, b: int(a < b),
    "AND": lambda a, b: a & b,
    "WHERE": lambda c, a, b: a if c else b,
}


def _prefix(expr: Dim) -> Any:
    if isinstance(expr, int):
        return expr
    if expr.op is Op.CONST:
        return int(expr.arg)
    if expr.op is Op.VAR:
        return str(expr.arg)
    assert isinstance(expr.op, (Op, Native))
    return [expr.op.name, *map(_prefix, expr.args)]


def _evaluate(tasks: Any, known: Mapping[str, int]) -> int:
    if isinstance(tasks, list):
        return _FOLD[tasks[0]](*(_evaluate(part, known) for part in tasks[1:]))
    return known[tasks] if isinstance(tasks, str) else int(tasks)
