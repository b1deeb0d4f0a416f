"""What a block costs: its accesses and their strides, bytes and operations; all estimates, from shapes
alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from petaflop.dtype import index
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr, Leaf, linear_terms, topological
from petaflop.ir.kernel import Block, Kernel, axis_size
from petaflop.ir.layout import row_major

__all__ = ["Access", "Summary", "size_of", "summarize"]

_SLOW = {Op.EXP2: 12.0, Op.LOG2: 14.0, Op.SIN: 16.0, Op.SQRT: 4.0, Op.DIV: 4.0}  # in simple operations


def size_of(dim: Dim) -> int:
    """The size as a number; a symbolic one counts with its greatest value, but at most 4096."""
    return dim if isinstance(dim, int) else max(1, min(dim.hi, 4096))


@dataclass(frozen=True, slots=True)
class Access:
    """One load or store: its element size, the factor of each axis, and axes that move it in other ways."""

    buffer: str
    itemsize: int
    strides: dict[Expr, int]
    irregular: frozenset[Expr]
    is_store: bool
    guarded: frozenset[Expr]  # axes that decide whether the access happens


@dataclass(slots=True)
class Summary:
    """A block's accesses, the axes that its values use as numbers, and the cost of one innermost point."""

    accesses: list[Access] = field(default_factory=list)
    numbers: set[Expr] = field(default_factory=set)
    operations: float = 0.0
    itemsize: int = 1

    @property
    def bytes(self) -> int:
        """Bytes moved at a point."""
        return sum(access.itemsize for access in self.accesses)


def summarize(kernel: Kernel, block: Block) -> Summary:
    """Look at every expression of a block once."""
    summary = Summary()
    layouts = {b.name: row_major(b.shape) for b in kernel.buffers}
    sizes = {b.name: b.dtype.itemsize for b in kernel.buffers}
    leaves: dict[Expr, frozenset[Expr]] = {}
    for expr in topological(block.exprs):
        if expr.op is Leaf.AXIS:
            leaves[expr] = frozenset((expr,))
        else:
            below = {leaves[arg] for arg in expr.args}
            leaves[expr] = below.pop() if len(below) == 1 else frozenset().union(*below)
        if expr.op is Leaf.LOAD:
            offset = layouts[expr.arg[0]].offset(expr.args[1:])
            summary.accesses.append(
                _access(expr.arg[0], expr.dtype.itemsize, offset, leaves[expr.args[0]], False)
            )
        elif expr.dtype is not index and expr.op not in (Op.CONST, Leaf.STATE):
            for arg in expr.args:
                if arg.dtype is index:
                    summary.numbers |= leaves[arg]
            if expr.op is not Op.CAST and expr.op is not Op.BITCAST:
                summary.operations += _SLOW.get(expr.op, 1.0)
        if expr.dtype is not index and expr.dtype.kind != "b":
            width = max(expr.dtype.itemsize, 4) if expr.dtype.kind == "f" else expr.dtype.itemsize
            summary.itemsize = max(summary.itemsize, width)
    for store in block.stores:
        offset = layouts[store.buffer].offset(store.index)
        guards = leaves[store.valid]
        summary.accesses.append(_access(store.buffer, sizes[store.buffer], offset, guards, True))
        if store.accumulate is not None:
            summary.operations += 1
    return summary


def _access(buffer: str, itemsize: int, offset: Expr, guards: frozenset[Expr], is_store: bool) -> Access:
    strides: dict[Expr, int] = {}
    irregular: set[Expr] = set()
    for term, factor in linear_terms(offset)[0].items():
        if term.op is Leaf.AXIS:
            strides[term] = factor
        else:
            irregular |= _axes(term)
    return Access(buffer, itemsize, strides, frozenset(irregular), is_store, guards)


def _axes(expr: Expr) -> set[Expr]:
    return {part for part in topological((expr,)) if part.op is Leaf.AXIS}


def points(axes: Iterable[Expr]) -> int:
    """The number of points of a set of axes."""
    return math.prod(size_of(axis_size(a)) for a in axes)


def block_points(block: Block) -> int:
    """The number of innermost points of a block."""
    return points(block.axes) * max([1, *(points(r.axes) for r in block.reductions)])


def nanoseconds(blocks: Sequence[Block], summaries: Sequence[Summary], width: int) -> float:
    """A rough time of blocks on one core, for the number of tasks only."""
    total = 0.0
    for block, summary in zip(blocks, summaries, strict=True):
        total += block_points(block) * (0.08 * summary.bytes + 0.4 * summary.operations / width)
    return total
