"""Gradients along axes and through indices: of REDUCE, SCAN, GATHER and SCATTER, ties and zeros included.

Each function takes the node and the gradient of its value, and gives those of its sources. Small words that
the other rules use as well stand first.
"""

from __future__ import annotations

from collections.abc import Callable

from petaflop.dtype import bool_, int32
from petaflop.graph.adjoint import accumulator
from petaflop.graph.node import Node, cast, compute, const, gather, iota, reduce, scan, scatter
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr, product
from petaflop.graph.view import expand, flip, pad, permute, reshape, shrink

__all__ = [
    "drop",
    "equal",
    "gather_gradient",
    "inverse",
    "keep",
    "negative",
    "number",
    "reduce_gradient",
    "scan_gradient",
    "scatter_gradient",
]


# ---- words ----


def number(value: float, like: Node) -> Node:
    return const(value, like.dtype, like.shape)


def negative(x: Node) -> Node:
    return compute(Op.MUL, x, number(-1, x))


def inverse(condition: Node) -> Node:
    return compute(Op.NE, condition, const(True, bool_, condition.shape))


def equal(a: Node, b: Node) -> Node:
    return inverse(compute(Op.NE, a, b))


def keep(condition: Node, x: Node) -> Node:
    return compute(Op.WHERE, condition, x, number(0, x))


def drop(condition: Node, x: Node) -> Node:
    return compute(Op.WHERE, condition, number(0, x), x)


# ---- along axes ----


def reduce_gradient(node: Node, grad: Node) -> tuple[Node]:
    """REDUCE by ADD, MAX or MUL."""
    source = node.sources[0]
    wide = cast(source, node.dtype)
    return (cast(_REDUCE[node.arg.op](node, wide, expand(grad, source.shape)), source.dtype),)


def _reduce_max(node: Node, wide: Node, grad: Node) -> Node:
    """An equal share to each of the maxima."""
    chosen = equal(wide, expand(node, wide.shape))
    dtype = accumulator(wide.dtype)
    count = reduce(Op.ADD, cast(chosen, dtype), node.arg.axes)
    return keep(chosen, compute(Op.DIV, grad, expand(cast(count, wide.dtype), wide.shape)))


def _reduce_mul(node: Node, wide: Node, grad: Node) -> Node:
    """The product of the others, as those before times those after: right with any number of zeros."""
    kept = tuple(axis for axis in range(len(wide.shape)) if axis not in node.arg.axes)
    order = kept + node.arg.axes
    line = permute(wide, order)
    shape = line.shape
    line = reshape(line, (*shape[: len(kept)], product(shape[len(kept) :])))
    axis = len(kept)
    others = compute(Op.MUL, _products_before(line, axis), _products_after(line, axis))
    others = permute(reshape(others, shape), tuple(order.index(k) for k in range(len(order))))
    return compute(Op.MUL, grad, others)


_REDUCE: dict[Op, Callable[[Node, Node, Node], Node]] = {
    Op.ADD: lambda node, wide, grad: grad,
    Op.MAX: _reduce_max,
    Op.MUL: _reduce_mul,
}


def _shift(x: Node, axis: int, by: int, fill: float) -> Node:
    """x moved by `by` places towards the end of `axis` (towards the start if negative), `fill` behind it."""
    length = x.shape[axis]
    away = abs(by)
    ranges: list[tuple[Dim, Dim]] = [(0, size) for size in x.shape]
    ranges[axis] = (0, length - away) if by > 0 else (away, length)
    widths = tuple(((away, 0) if by > 0 else (0, away)) if k == axis else (0, 0) for k in range(len(x.shape)))
    moved = pad(shrink(x, tuple(ranges)), widths)
    if fill == 0:
        return moved
    kept = pad(shrink(const(True, bool_, x.shape), tuple(ranges)), widths)
    return compute(Op.WHERE, kept, moved, number(fill, x))


def _products_before(x: Node, axis: int) -> Node:
    return _shift(scan(Op.MUL, x, axis), axis, 1, 1.0)


def _products_after(x: Node, axis: int) -> Node:
    return flip(_products_before(flip(x, (axis,)), axis), (axis,))


def scan_gradient(node: Node, grad: Node) -> tuple[Node]:
    """SCAN by ADD, MUL or MAX."""
    source = node.sources[0]
    wide = cast(source, node.dtype)
    return (cast(_SCAN[node.arg.op](node, wide, grad), source.dtype),)


def _scan_add(node: Node, wide: Node, grad: Node) -> Node:
    axis = (node.arg.axis,)
    return flip(scan(Op.ADD, flip(grad, axis), node.arg.axis), axis)


def _scan_mul(node: Node, wide: Node, grad: Node) -> Node:
    """Products before j times s[j] = g[j] + x[j+1]·s[j+1], which doubling solves in log₂ n steps."""
    axis = node.arg.axis
    length = wide.shape[axis]
    total, factor = grad, _shift(wide, axis, -1, 0.0)
    distance = 1
    while distance < (length.hi if isinstance(length, Expr) else length):
        total = compute(Op.ADD, total, compute(Op.MUL, factor, _shift(total, axis, -distance, 0.0)))
        factor = compute(Op.MUL, factor, _shift(factor, axis, -distance, 0.0))
        distance *= 2
    return compute(Op.MUL, total, _products_before(wide, axis))


def _scan_max(node: Node, wide: Node, grad: Node) -> Node:
    """Each gradient goes to the last place that holds the running maximum."""
    axis = node.arg.axis
    places = iota(wide.shape, axis, int32)
    raised = compute(Op.WHERE, inverse(compute(Op.LT, wide, node)), places, const(-1, int32, wide.shape))
    return _scatter_sum(grad, scan(Op.MAX, raised, axis), axis, wide.shape)


_SCAN: dict[Op, Callable[[Node, Node, Node], Node]] = {
    Op.ADD: _scan_add,
    Op.MUL: _scan_mul,
    Op.MAX: _scan_max,
}


# ---- indexed ----


def _scatter_sum(values: Node, index: Node, axis: int, shape: tuple[Dim, ...]) -> Node:
    """Σ of the values at each index, into zeros of `shape`."""
    dtype = accumulator(values.dtype)
    return cast(scatter(const(0, dtype, shape), index, cast(values, dtype), axis, Op.ADD), values.dtype)


def gather_gradient(node: Node, grad: Node) -> tuple[Node, None]:
    """GATHER: the sum over all that read an element."""
    source, index = node.sources
    return _scatter_sum(grad, index, node.arg, source.shape), None


def scatter_gradient(node: Node, grad: Node) -> tuple[Node, None, Node]:
    """SCATTER that sets, adds, multiplies or takes the maximum."""
    to_source, to_values = _SCATTER[node.arg.op](node, grad)
    return to_source, None, to_values


def _scatter_set(node: Node, grad: Node) -> tuple[Node, Node]:
    """The value that stayed (the last at each index) gets the gradient, the overwritten source none."""
    source, index, _ = node.sources
    axis = node.arg.axis
    writer = scatter(const(-1, int32, source.shape), index, iota(index.shape, axis, int32), axis, None)
    free = compute(Op.LT, writer, const(0, int32, source.shape))
    stayed = equal(gather(writer, index, axis), iota(index.shape, axis, int32))
    return keep(free, grad), keep(stayed, gather(grad, index, axis))


def _scatter_mul(node: Node, grad: Node) -> tuple[Node, Node]:
    """The product of the others, zeros counted apart: exact to first order, beyond it where none is zero."""
    source, index, values = node.sources
    axis = node.arg.axis
    is_zero = equal(values, number(0, values))
    filled = compute(Op.WHERE, is_zero, number(1, values), values)
    count = _scatter_sum(cast(is_zero, values.dtype), index, axis, source.shape)
    rest = scatter(source, index, filled, axis, Op.MUL)
    allowed = compute(Op.WHERE, is_zero, number(1, values), number(0, values))
    single = equal(gather(count, index, axis), allowed)
    others = keep(single, compute(Op.DIV, gather(rest, index, axis), filled))
    ones = scatter(number(1, source), index, values, axis, Op.MUL)
    return compute(Op.MUL, grad, ones), compute(Op.MUL, gather(grad, index, axis), others)


def _scatter_max(node: Node, grad: Node) -> tuple[Node, Node]:
    """An equal share to each that equals the maximum, the source's own element among them."""
    source, index, values = node.sources
    axis = node.arg.axis
    from_source = equal(source, node)
    from_values = equal(values, gather(node, index, axis))
    count = _scatter_sum(cast(from_values, source.dtype), index, axis, source.shape)
    share = compute(Op.DIV, grad, compute(Op.ADD, count, cast(from_source, source.dtype)))
    return keep(from_source, share), keep(from_values, gather(share, index, axis))


_SCATTER: dict[Op | None, Callable[[Node, Node], tuple[Node, Node]]] = {
    None: _scatter_set,
    Op.ADD: lambda node, grad: (grad, gather(grad, node.sources[1], node.arg.axis)),
    Op.MUL: _scatter_mul,
    Op.MAX: _scatter_max,
}
