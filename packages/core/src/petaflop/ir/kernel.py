"""The second noun: a Kernel is an ordered list of blocks, each with named axes, reductions and stores.

Values and indices are `Expr`s (graph/symbolic.py). Loads name a buffer and an index tuple in that buffer's
*logical* axes; flattening to memory happens only when a kernel is lowered, by the layout that the plan chose.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from petaflop.dtype import DType, bool_, index
from petaflop.graph.ops import Native, Op
from petaflop.graph.symbolic import (
    TRUE,
    Dim,
    Expr,
    Leaf,
    as_expr,
    constant,
    evaluate,
    make,
    product,
    rebuild,
    select,
    substitute,
    topological,
)

__all__ = [
    "Argument",
    "Block",
    "Kernel",
    "Reduction",
    "State",
    "Store",
    "Temporary",
    "axes_of",
    "axis",
    "axis_size",
    "common_axes",
    "load",
    "loads_of",
    "operations",
    "reduction",
    "state",
    "value",
]


def axis(name: str, size: Dim) -> Expr:
    """A loop index that runs over 0 <= name < size."""
    extent = as_expr(size)
    return make(Leaf.AXIS, (extent,), index, name, 0, max(extent.hi - 1, 0))


def axis_size(expr: Expr) -> Dim:
    """The number of values that an axis takes."""
    size = expr.args[0]
    return int(size.arg) if size.op is Op.CONST else size


def load(buffer: str, position: Iterable[Expr], dtype: DType, valid: Expr = TRUE, fill: float = 0) -> Expr:
    """The element of `buffer` at a logical index; `fill` where `valid` is false, without touching memory."""
    return make(Leaf.LOAD, (valid, *position), dtype, (buffer, fill))


def value(op: Op | Native, *args: Expr, dtype: DType | None = None) -> Expr:
    """A compute, CAST or BITCAST expression on values; `dtype` where it is not that of the last argument."""
    if op is Op.WHERE:
        return select(*args)
    if op is Op.CAST and dtype is index and (inner := _index_below(args[0])) is not None:
        return inner
    return rebuild(make(op, args, dtype or args[-1].dtype), args)


def _index_below(expr: Expr) -> Expr | None:
    """The index expression that an integer value was cast from, if every one of its values survived the
    cast."""
    while expr.op is Op.CAST and expr.dtype.is_integer:
        inner = expr.args[0]
        if inner.dtype is index:
            return inner if expr.dtype.min <= inner.lo and inner.hi <= expr.dtype.max else None
        if not (
            inner.dtype.is_integer and inner.dtype.min >= expr.dtype.min and inner.dtype.max <= expr.dtype.max
        ):
            return None
        expr = inner
    return constant(expr.arg) if expr.op is Op.CONST and expr.dtype.is_integer else None


def state(name: str, dtype: DType) -> Expr:
    """The running (or, in a store, the finished) value of a reduction's state."""
    return make(Leaf.STATE, (), dtype, name)


@dataclass(frozen=True, slots=True)
class State:
    """One running value of a reduction: its name and what it starts from."""

    name: str
    dtype: DType
    initial: Expr

    @property
    def expr(self) -> Expr:
        return state(self.name, self.dtype)

    @property
    def other(self) -> Expr:
        """The same state of another partial result, for `Reduction.merge`."""
        return state(self.name + "'", self.dtype)


@dataclass(frozen=True, slots=True)
class Reduction:
    """A fold over `axes`: `step` gives the next states from the states and an element, `merge` joins two
    partials.

    A simple ADD, MUL or MAX names its `op`, and its `step` is op(state, term). A `scan` steps in order and
    its block's stores run at every step.
    """

    axes: tuple[Expr, ...]
    states: tuple[State, ...]
    step: tuple[Expr, ...]
    merge: tuple[Expr, ...]
    op: Op | None = None
    scan: bool = False

    @property
    def term(self) -> Expr:
        """What a simple reduction folds in."""
        assert self.op is not None
        return self.step[0].args[1]


_IDENTITY = {Op.ADD: lambda dtype: 0, Op.MUL: lambda dtype: 1, Op.MAX: lambda dtype: dtype.min}


def reduction(name: str, op: Op, term: Expr, axes: tuple[Expr, ...], scan: bool = False) -> Reduction:
    """The simple reduction of `term` by ADD, MUL or MAX."""
    dtype = term.dtype
    total = State(name, dtype, constant(_IDENTITY[op](dtype), dtype))
    step = make(op, (total.expr, term), dtype)
    merge = make(op, (total.expr, total.other), dtype)
    return Reduction(axes, (total,), (step,), (merge,), op, scan)


@dataclass(frozen=True, slots=True)
class Store:
    """buffer[index] = value where valid; with `accumulate`, buffer[index] = accumulate(buffer[index],
    value)."""

    buffer: str
    index: tuple[Expr, ...]
    value: Expr
    valid: Expr = TRUE
    accumulate: Op | None = None

    @property
    def exprs(self) -> tuple[Expr, ...]:
        return (self.valid, *self.index, self.value)


@dataclass(frozen=True, slots=True)
class Block:
    """For every point of `axes`: run the reductions in order, then the stores.

    Points are independent of one another, except along the axes named in `ordered`, which run in order.
    """

    axes: tuple[Expr, ...]
    stores: tuple[Store, ...]
    reductions: tuple[Reduction, ...] = ()
    ordered: tuple[Expr, ...] = ()

    @property
    def exprs(self) -> tuple[Expr, ...]:
        """Every root expression of the block."""
        steps = tuple(expr for r in self.reductions for expr in r.step)
        return steps + tuple(expr for store in self.stores for expr in store.exprs)

    @property
    def reduce_axes(self) -> tuple[Expr, ...]:
        return tuple(dict.fromkeys(a for r in self.reductions for a in r.axes))

    def map(self, mapping: dict[Expr, Expr], buffers: Mapping[str, str] | None = None) -> Block:
        """The block with expressions (axes, loads, …) replaced and simplified again; `buffers` renames what
        it reads."""
        if not mapping and buffers is None:
            return self
        folds = [e for r in self.reductions for e in (*(s.initial for s in r.states), *r.step, *r.merge)]
        new = iter(substitute((*folds, *(e for s in self.stores for e in s.exprs)), mapping, buffers))
        axes = [mapping.get(a, a) for a in self.axes]
        return Block(
            tuple([a for a in axes if a.op is Leaf.AXIS]),
            reductions=tuple([_map_reduction(r, mapping, new) for r in self.reductions]),
            stores=tuple([_map_store(s, *itertools.islice(new, 2 + len(s.index))) for s in self.stores]),
            ordered=tuple([mapping.get(a, a) for a in self.ordered]),
        )

    def __str__(self) -> str:
        return "\n".join(_block_lines(self))


def _map_reduction(r: Reduction, mapping: dict[Expr, Expr], new: Iterator[Expr]) -> Reduction:
    states = tuple([State(s.name, s.dtype, next(new)) for s in r.states])
    step, merge = (tuple(itertools.islice(new, len(r.states))) for _ in range(2))
    return Reduction(tuple([mapping.get(a, a) for a in r.axes]), states, step, merge, r.op, r.scan)


def _map_store(store: Store, valid: Expr, *rest: Expr) -> Store:
    return Store(store.buffer, rest[:-1], rest[-1], valid, store.accumulate)


@dataclass(frozen=True, slots=True)
class Argument:
    """A buffer that the launcher passes: its logical shape, and whether the kernel reads or writes it."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    written: bool = False
    read: bool = True


@dataclass(frozen=True, slots=True)
class Temporary:
    """A kernel-private buffer; dimensions in `shared` hold one value at a time per common outer iteration.

    `shared` says how many leading dimensions are indexed by exactly the kernel's common axes, so that a plan
    that computes it inside those loops needs memory for the remaining dimensions only.
    """

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Kernel:
    """What one launch computes: unrelated nests, each a run of blocks that share their leading axes.

    For one point of a nest's common axes its blocks run in order, so a later block may read what an earlier
    one stored there. Nothing in a nest depends on another nest of the kernel.
    """

    arguments: tuple[Argument, ...]
    nests: tuple[tuple[Block, ...], ...]
    temporaries: tuple[Temporary, ...] = ()
    variables: tuple[Expr, ...] = ()
    _key: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(block for nest in self.nests for block in nest)

    @property
    def buffers(self) -> list[Argument | Temporary]:
        """Everything that loads and stores may name."""
        return [*self.arguments, *self.temporaries]

    def argument(self, name: str) -> Argument | Temporary:
        """The argument or temporary of that name."""
        for candidate in self.buffers:
            if candidate.name == name:
                return candidate
        raise KeyError(name)

    @property
    def key(self) -> str:
        """A digest of the structure: equal for equal kernels, in every process."""
        if not self._key:
            self._key.append(hashlib.sha256(str(self).encode()).hexdigest())
        return self._key[0]

    def __str__(self) -> str:
        lines = [f"kernel({', '.join(map(_argument_text, self.arguments))}{_variables_text(self)}):"]
        for temporary in self.temporaries:
            shape = f"{temporary.dtype}[{_dims(temporary.shape)}]"
            lines.append(f"  private {temporary.name}: {shape} shared {temporary.shared}")
        for nest in self.nests:
            shared = ", ".join(str(a) for a in common_axes(nest))
            lines.append(f"  nest over {shared or 'nothing'}:")
            for block in nest:
                lines.extend("    " + line for line in _block_lines(block))
        return "\n".join(lines)


def common_axes(blocks: tuple[Block, ...]) -> tuple[Expr, ...]:
    """The leading axes that all blocks of a nest have in common (all its axes where it is alone)."""
    shared = blocks[0].axes
    for block in blocks[1:]:
        length = 0
        while length < min(len(shared), len(block.axes)) and shared[length] is block.axes[length]:
            length += 1
        shared = shared[:length]
    return shared


def loads_of(exprs: Iterable[Expr]) -> Iterator[Expr]:
    """Every LOAD below `exprs`, each once."""
    return iter(_loads(tuple(exprs)))


@functools.lru_cache(1024)
def _loads(exprs: tuple[Expr, ...]) -> tuple[Expr, ...]:
    return tuple([expr for expr in topological(exprs) if expr.op is Leaf.LOAD])


def axes_of(exprs: Iterable[Expr]) -> set[Expr]:
    """Every AXIS below `exprs`."""
    return {expr for expr in topological(exprs) if expr.op is Leaf.AXIS}


def operations(kernel: Kernel, sizes: Mapping[Expr, int] | None = None) -> int:
    """Arithmetic operations of one launch, counting each compute expression once a point (2 for a
    multiply-add); `sizes` are the values of Variables, those that are bound unless given."""
    total = 0
    for block in kernel.blocks:
        points = evaluate(product(axis_size(a) for a in block.axes), sizes)
        for r in block.reductions:
            steps = points * evaluate(product(axis_size(a) for a in r.axes), sizes)
            total += steps * sum(_is_work(e) for e in topological(r.step))
        total += points * sum(_is_work(e) for e in topological(s.value for s in block.stores))
    return total


def _is_work(expr: Expr) -> bool:
    """Arithmetic on values: not indices, comparisons (padding would count at every tap) or selections."""
    return expr.dtype not in (index, bool_) and expr.op not in _NO_WORK


_NO_WORK = (Op.CONST, Op.CAST, Op.BITCAST, Op.WHERE, Op.VAR, Leaf.AXIS, Leaf.LOAD, Leaf.STATE)


# ---- printing ----


def _dims(shape: Iterable[Dim]) -> str:
    return ", ".join(map(str, shape))


def _argument_text(argument: Argument) -> str:
    mode = ("inout " if argument.read else "out ") if argument.written else ""
    return f"{mode}{argument.name}: {argument.dtype}[{_dims(argument.shape)}]"


def _variables_text(kernel: Kernel) -> str:
    return "".join(f"; {v.arg} in {v.lo}..{v.hi}" for v in kernel.variables)


def _block_lines(block: Block) -> list[str]:
    lines = []
    indent = ""
    if block.axes:
        names = ", ".join(f"{a.arg} < {axis_size(a)}" for a in block.axes)
        order = f" in order of {', '.join(str(a) for a in block.ordered)}" if block.ordered else ""
        lines.append(f"for {names}{order}:")
        indent = "  "
    inner = indent
    for r in block.reductions:
        names = ", ".join(f"{a.arg} < {axis_size(a)}" for a in r.axes)
        lines.extend(f"{indent}{s.name}: {s.dtype} = {s.initial}" for s in r.states)
        lines.append(f"{indent}{'scan' if r.scan else 'reduce'} {names}:")
        lines.extend(f"{indent}  {s.name} = {step}" for s, step in zip(r.states, r.step, strict=True))
        if r.op is None:
            lines.extend(f"{indent}  merge {s.name} = {m}" for s, m in zip(r.states, r.merge, strict=True))
        inner = indent + "  " if r.scan else indent
    for store in block.stores:
        operator = f" {store.accumulate}=" if store.accumulate else " ="
        gate = "" if store.valid is TRUE else f" if {store.valid}"
        lines.append(f"{inner}{store.buffer}[{_dims(store.index)}]{operator} {store.value}{gate}")
    return lines
