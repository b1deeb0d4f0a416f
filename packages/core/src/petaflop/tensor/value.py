"""A node with Python's operators: what the formulas of tensor/ are written in.

Both operands have one shape and one dtype, or the other one is a number. No broadcasting, no promotion, no
gradient mode: those belong to the Tensor, which wraps what comes out.
"""

from __future__ import annotations

from petaflop.dtype import DType, bool_
from petaflop.graph import node as graph
from petaflop.graph.node import Node
from petaflop.graph.ops import Op

__all__ = ["Operand", "Value", "logical_or", "where"]


class Value:
    """A thin wrapper: `(Value(x) * 2 + 1).node`."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    @property
    def dtype(self) -> DType:
        return self.node.dtype

    def constant(self, number: float) -> Value:
        """A number of this value's dtype and shape."""
        return Value(graph.const(number, self.node.dtype, self.node.shape))

    def _other(self, operand: Operand) -> Node:
        if isinstance(operand, Value):
            return operand.node
        return graph.const(operand, self.node.dtype, self.node.shape)

    def __add__(self, other: Operand) -> Value:
        return Value(graph.compute(Op.ADD, self.node, self._other(other)))

    def __mul__(self, other: Operand) -> Value:
        return Value(graph.compute(Op.MUL, self.node, self._other(other)))

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Value:
        return self * -1

    def __sub__(self, other: Operand) -> Value:
        if isinstance(other, Value):
            return self + -other
        return self + -other

    def __rsub__(self, other: Operand) -> Value:
        return -self + other

    def __truediv__(self, other: Operand) -> Value:
        return Value(graph.compute(Op.DIV, self.node, self._other(other)))

    __floordiv__ = __truediv__  # DIV floors on integers

    def __rtruediv__(self, other: float) -> Value:
        return self.constant(other) / self

    def __and__(self, other: Operand) -> Value:
        return Value(graph.compute(Op.AND, self.node, self._other(other)))

    def __or__(self, other: Operand) -> Value:
        """Bitwise or; on bool, ADD is or."""
        if self.node.dtype is bool_:
            return self + other
        return self + other - (self & other)

    def __xor__(self, other: Operand) -> Value:
        if self.node.dtype is bool_:
            return self.ne(other)
        return self + other - (self & other) * 2

    def __invert__(self) -> Value:
        if self.node.dtype is bool_:
            return self.ne(True)
        return -self - 1

    def __lt__(self, other: Operand) -> Value:
        return Value(graph.compute(Op.LT, self.node, self._other(other)))

    def __gt__(self, other: Operand) -> Value:
        return Value(graph.compute(Op.LT, self._other(other), self.node))

    def __le__(self, other: Operand) -> Value:
        """a <= b, false if either is NaN."""
        if self.node.dtype.is_float:
            return (self < other) | self.eq(other)
        return ~(self > other)

    def __ge__(self, other: Operand) -> Value:
        if self.node.dtype.is_float:
            return (self > other) | self.eq(other)
        return ~(self < other)

    def ne(self, other: Operand) -> Value:
        return Value(graph.compute(Op.NE, self.node, self._other(other)))

    def eq(self, other: Operand) -> Value:
        return ~self.ne(other)

    def maximum(self, other: Operand) -> Value:
        return Value(graph.compute(Op.MAX, self.node, self._other(other)))

    def minimum(self, other: Operand) -> Value:
        """The smaller; NaN if either is."""
        if self.node.dtype is bool_:
            return self & other
        if self.node.dtype.is_integer:  # -x overflows at the least integer, ~x does not
            return ~((~self).maximum(~Value(self._other(other))))
        return -((-self).maximum(-Value(self._other(other))))

    def sqrt(self) -> Value:
        return Value(graph.compute(Op.SQRT, self.node))

    def exp2(self) -> Value:
        return Value(graph.compute(Op.EXP2, self.node))

    def log2(self) -> Value:
        return Value(graph.compute(Op.LOG2, self.node))

    def sin(self) -> Value:
        return Value(graph.compute(Op.SIN, self.node))

    def cast(self, dtype: DType) -> Value:
        return Value(graph.cast(self.node, dtype))

    def bitcast(self, dtype: DType) -> Value:
        return Value(graph.bitcast(self.node, dtype))

    def detach(self) -> Value:
        """The same value, through which no gradient flows."""
        return Value(graph.detach(self.node))

    def magnitude(self) -> Value:
        """|x| with the gradient 1 at 0 (not 0, as `abs` has): formulas are smooth there."""
        return where(self < 0, -self, self)

    def isnan(self) -> Value:
        return self.ne(self)


Operand = Value | float


def where(condition: Value, yes: Operand, no: Operand) -> Value:
    """`yes` where the condition holds, else `no`; one of the two may be a number."""
    if isinstance(yes, Value):
        return Value(graph.compute(Op.WHERE, condition.node, yes.node, yes._other(no)))
    assert isinstance(no, Value)
    return Value(graph.compute(Op.WHERE, condition.node, no._other(yes), no.node))


def logical_or(a: Value, b: Value) -> Value:
    return a + b
