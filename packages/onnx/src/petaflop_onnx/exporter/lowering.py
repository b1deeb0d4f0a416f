"""Nodes of our graph in, names of ONNX values out. A value is written *lean*: with axes of size 1 (or none
at all) where broadcasting will add what is missing, and expanded only for those who need all of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from petaflop.dtype import DType, bool_, float32, float64
from petaflop.plugin_api import SPEC, Dim, Node, Op
from petaflop_onnx.exporter.writer import Writer

__all__ = ["COMPUTE", "LEAN", "Lowering", "Row", "adds_leading_axes", "broadcast"]

Row = Callable[["Lowering", Node], str]
Shape = tuple[Dim, ...]
COMPUTE = frozenset(op for op, row in SPEC.items() if row.family == "compute")
LEAN = COMPUTE | {Op.CONST, Op.IOTA, Op.EXPAND, Op.CAST}


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape that NumPy's rule gives; sizes are equal or 1."""
    columns = itertools.zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    return tuple(next((size for size in column if size != 1), 1) for column in columns)[::-1]


def adds_leading_axes(node: Node) -> bool:
    """Whether a RESHAPE does what broadcasting does by itself."""
    if node.op is not Op.RESHAPE:
        return False
    inner = node.sources[0].shape
    more = len(node.shape) - len(inner)
    return more > 0 and node.shape == (1,) * more + inner


@dataclass
class Lowering:
    """The values written so far, and the rules: whole patterns first, then the row of the operation."""

    writer: Writer
    rows: Mapping[Op, Row]
    patterns: Sequence[Callable[[Lowering, Node], str | None]] = ()
    _lean: dict[Node, tuple[str, Shape]] = field(default_factory=dict)
    _full: dict[Node, str] = field(default_factory=dict)

    def give(self, node: Node, name: str) -> None:
        """An input, or a constant: a node that has a name already."""
        self._lean[node] = (name, node.shape)

    def write(self, node: Node) -> None:
        """One node whose sources have been written."""
        if node in self._lean:
            return
        for pattern in self.patterns:
            if (name := pattern(self, node)) is not None:
                self._lean[node] = (name, self.lean_shape(node) if node.op in LEAN else node.shape)
                return
        self._lean[node] = (self.rows[node.op](self, node), self.lean_shape(node))

    def lean(self, node: Node) -> tuple[str, Shape]:
        """The name and the shape that the value has in the graph."""
        return self._lean[node]

    def full(self, node: Node) -> str:
        """The name of the value with all of the node's shape."""
        if node not in self._full:
            name, shape = self._lean[node]
            padded = (1,) * (len(node.shape) - len(shape)) + shape
            same = padded == node.shape  # then it is only a matter of axes of size 1
            write = self.writer.reshape if same else self.writer.expand
            self._full[node] = write(name, shape, node.shape)
        return self._full[node]

    def operands(self, node: Node) -> list[str]:
        """The lean names of an elementwise node's sources."""
        return [self._lean[source][0] for source in node.sources]

    def lean_shape(self, node: Node) -> Shape:
        """The shape in which a node's row writes its value."""
        if node.op is Op.CONST:
            return ()
        if node.op is Op.IOTA:
            return tuple(size if axis == node.arg else 1 for axis, size in enumerate(node.shape))
        if adds_leading_axes(node):
            return self._lean[node.sources[0]][1]
        if node.op in LEAN:
            return broadcast([self._lean[source][1] for source in node.sources])
        return node.shape

    def where(self, dtype: DType, condition: str, a: str, b: str) -> str:
        """One or the other; bools by logic, since runtimes choose among numbers only."""
        op = self.writer.op
        if dtype is not bool_:
            return op("Where", condition, a, b)
        return op("Or", op("And", condition, a), op("And", op("Not", condition), b))

    def cast(self, name: str, old: DType, new: DType) -> str:
        """Our conversion: from float to integer it saturates, and NaN gives 0; ONNX leaves both open."""
        writer = self.writer
        if old is new:
            return name
        if not (old.is_float and new.is_integer):
            return writer.cast(name, new)
        exact = float32 if new.bits <= 16 else float64 if new.bits == 32 else old
        if exact is not old or old.itemsize < 4:
            exact = exact if exact.itemsize >= 4 else float32
            name = name if exact is old else writer.cast(name, exact)
        name = writer.op("Where", writer.op("IsNaN", name), writer.number(0, exact), name)
        if new.bits <= 32:
            bounds = (writer.number(limit, exact) for limit in (new.min, new.max))
            return writer.cast(writer.op("Clip", name, *bounds), new)
        result = writer.cast(name, new)
        ends = ("GreaterOrEqual", new.max + 1, new.max), ("LessOrEqual", new.min, new.min)
        for test, limit, value in ends:
            beyond = writer.op(test, name, writer.number(limit, exact))
            result = writer.op("Where", beyond, writer.number(value, new), result)
        return result
