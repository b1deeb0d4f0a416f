"""Random graphs that stay tame: each step looks at the oracle's values, so that nothing overflows and little
is free.

`Grower` takes its choices from a function, so that hypothesis can shrink them and a seeded generator can
replay them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from petaflop.dtype import DType, bool_
from petaflop.graph import view
from petaflop.graph.node import Node, cast, compute, const, reduce
from petaflop.graph.ops import Op
from petaflop_conformance.bounded import Bounded, Policy
from petaflop_conformance.oracle import Oracle

__all__ = ["Grower"]

Array = np.ndarray[Any, Any]
T = TypeVar("T")
Choose = Callable[[Sequence[T]], T]

_LARGEST = 60.0  # magnitudes beyond this are brought back before they are used again


class Grower:
    """Grows one graph over `inputs` (all of one shape), an operation at a time."""

    def __init__(
        self, choose: Choose[Any], inputs: Mapping[Node, Array], policy: Policy | None = None
    ) -> None:
        self.choose = choose
        self.oracle = Oracle(inputs, policy or Policy())
        self.pool = list(inputs)
        self.shape = self.pool[0].shape

    def grow(self, count: int) -> Node:
        """`count` more operations; the last is the graph's result, and uses the one before it."""
        for _ in range(count):
            last = self.pool[-1]
            steps = _BOOLS if last.dtype is bool_ else _FLOATS if last.dtype.is_float else _INTEGERS
            node = self.choose(steps)(self, last)
            self.pool.append(self._tamed(node))
        return self.pool[-1]

    def other(self, dtype: DType) -> Node:
        """Some node of this dtype, made by a CAST if need be."""
        same = [node for node in self.pool if node.dtype is dtype]
        return self.choose(same) if same else cast(self.pool[0], dtype)

    def bounds(self, node: Node) -> tuple[float, float]:
        """Least and greatest value that a correct device may hold."""
        known: Bounded = self.oracle(node)
        if not known.value.size:
            return 0.0, 0.0
        return float(np.min(known.value - known.error)), float(np.max(known.value + known.error))

    def positive(self, node: Node) -> Node:
        """`node`, or something made of it that is well above zero."""
        if self.bounds(node)[0] >= 0.05:
            return node
        return compute(Op.ADD, compute(Op.MUL, node, node), const(0.5, node.dtype, node.shape))

    def small(self, node: Node, limit: float) -> Node:
        """`node`, or a fraction of it with magnitudes up to `limit`."""
        low, high = self.bounds(node)
        size = max(-low, high)
        if size <= limit or not np.isfinite(size):
            return node
        return compute(Op.MUL, node, const(2.0 ** np.floor(np.log2(limit / size)), node.dtype, node.shape))

    def _tamed(self, node: Node) -> Node:
        return self.small(node, _LARGEST) if node.dtype.is_float else node


Step = Callable[[Grower, Node], Node]


def _binary(op: Op) -> Step:
    return lambda grower, last: compute(op, *_either_way(grower, last, grower.other(last.dtype)))


def _either_way(grower: Grower, a: Node, b: Node) -> tuple[Node, Node]:
    return (a, b) if grower.choose((True, False)) else (b, a)


def _divide(grower: Grower, last: Node) -> Node:
    if last.dtype.is_float:
        return compute(Op.DIV, last, grower.positive(grower.other(last.dtype)))
    return compute(Op.DIV, last, const(grower.choose((3, 7, 16)), last.dtype, last.shape))


def _where(grower: Grower, last: Node) -> Node:
    condition = compute(Op.LT, grower.other(last.dtype), grower.other(last.dtype))
    return compute(Op.WHERE, condition, *_either_way(grower, last, grower.other(last.dtype)))


def _sum(grower: Grower, last: Node) -> Node:
    axis = grower.choose(range(len(grower.shape)))
    return view.expand(reduce(Op.ADD, last, (axis,)), grower.shape)


def _greatest(grower: Grower, last: Node) -> Node:
    axis = grower.choose(range(len(grower.shape)))
    total = view.expand(reduce(Op.MAX, last, (axis,)), grower.shape)
    return total if last.dtype is bool_ else compute(Op.MUL, total, last)


def _flipped(grower: Grower, last: Node) -> Node:
    return view.flip(last, (grower.choose(range(len(grower.shape))),))


def _padded(grower: Grower, last: Node) -> Node:
    axis = grower.choose(range(len(grower.shape)))
    whole = [(0, size) for size in grower.shape]
    whole[axis] = (0, max(grower.shape[axis] - 1, 0))
    widths = [(0, 0)] * len(grower.shape)
    widths[axis] = (grower.shape[axis] - whole[axis][1], 0)
    return view.pad(view.shrink(last, tuple(whole)), tuple(widths))


def _reshaped(grower: Grower, last: Node) -> Node:
    order = tuple(reversed(range(len(grower.shape))))
    return view.reshape(view.permute(last, order), grower.shape)


def _to_number(grower: Grower, last: Node) -> Node:
    return cast(last, grower.choose([node.dtype for node in grower.pool if node.dtype is not bool_]))


def _compare(op: Op) -> Step:
    return lambda grower, last: compute(op, last, grower.other(last.dtype))


_VIEWS: tuple[Step, ...] = (_flipped, _padded, _reshaped)
_FLOATS: tuple[Step, ...] = (
    _binary(Op.ADD),
    _binary(Op.MUL),
    _divide,
    _binary(Op.MAX),
    _where,
    lambda grower, last: compute(Op.SQRT, grower.positive(last)),
    lambda grower, last: compute(Op.LOG2, grower.positive(last)),
    lambda grower, last: compute(Op.EXP2, grower.small(last, 5.0)),
    lambda grower, last: compute(Op.SIN, last),
    _sum,
    _greatest,
    *_VIEWS,
)
_INTEGERS: tuple[Step, ...] = (
    _binary(Op.ADD),
    _binary(Op.MUL),
    _divide,
    _binary(Op.MAX),
    _binary(Op.AND),
    _where,
    _compare(Op.LT),
    _sum,
    _greatest,
    *_VIEWS,
)
_BOOLS: tuple[Step, ...] = (
    _binary(Op.AND),
    _binary(Op.NE),
    _binary(Op.MAX),
    _to_number,
    _to_number,
    _greatest,
    *_VIEWS,
)
