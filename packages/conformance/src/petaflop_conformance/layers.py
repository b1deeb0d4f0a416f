"""The layers that networks are made of, as graphs of primitive operations."""

from __future__ import annotations

from petaflop.dtype import DType, int32
from petaflop.graph import view
from petaflop.graph.node import Node, compute, const, iota, reduce
from petaflop.graph.ops import Op

__all__ = ["argmax", "attention", "convolution", "layer_norm", "matmul", "minus", "number", "softmax", "wide"]


def number(value: float, like: Node) -> Node:
    """A constant of the dtype and shape of `like`."""
    return const(value, like.dtype, like.shape)


def minus(a: Node, b: Node) -> Node:
    """a − b, as ADD and MUL."""
    return compute(Op.ADD, a, compute(Op.MUL, b, number(-1.0, b)))


def wide(node: Node, like: Node) -> Node:
    """`node` repeated to the shape of `like`."""
    return view.expand(node, like.shape)


def softmax(x: Node, axis: int) -> Node:
    """With the maximum taken off first."""
    shifted = minus(x, wide(reduce(Op.MAX, x, (axis,)), x))
    power = compute(Op.EXP2, compute(Op.MUL, shifted, number(1.4426950408889634, x)))
    return compute(Op.DIV, power, wide(reduce(Op.ADD, power, (axis,)), x))


def layer_norm(x: Node) -> Node:
    """Over the last axis."""
    last, share = len(x.shape) - 1, 1.0 / int(x.shape[-1])
    mean = compute(Op.MUL, (total := reduce(Op.ADD, x, (last,))), number(share, total))
    centred = minus(x, wide(mean, x))
    squares = reduce(Op.ADD, compute(Op.MUL, centred, centred), (last,))
    variance = compute(Op.ADD, compute(Op.MUL, squares, number(share, squares)), number(1e-5, squares))
    return compute(Op.DIV, centred, wide(compute(Op.SQRT, variance), x))


def matmul(a: Node, b: Node, dtype: DType | None = None) -> Node:
    """[…, m, k] @ [k, n] as a product of two broadcast views, summed over k."""
    *batch, m, k = a.shape
    n = b.shape[-1]
    left = view.expand(view.reshape(a, (*batch, m, k, 1)), (*batch, m, k, n))
    right = view.expand(view.reshape(b, (*[1] * (len(batch) + 1), k, n)), (*batch, m, k, n))
    axis = len(batch) + 1
    return view.reshape(reduce(Op.ADD, compute(Op.MUL, left, right), (axis,), dtype), (*batch, m, n))


def convolution(x: Node, weight: Node, stride: int, dilation: int, padding: int) -> Node:
    """[n, c, h, w] with [o, c, kh, kw], through two sliding windows."""
    n, c, _, _ = x.shape
    o, _, kh, kw = map(int, weight.shape)
    padded = view.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    taps = view.window(view.window(padded, 2, kh, stride, dilation), 3, kw, stride, dilation)
    _, _, oh, ow, _, _ = taps.shape
    full = (n, o, c, oh, ow, kh, kw)
    seen = view.expand(view.reshape(taps, (n, 1, c, oh, ow, kh, kw)), full)
    kernel = view.expand(view.reshape(weight, (1, o, c, 1, 1, kh, kw)), full)
    return view.reshape(reduce(Op.ADD, compute(Op.MUL, seen, kernel), (2, 5, 6)), (n, o, oh, ow))


def attention(q: Node, k: Node, v: Node) -> Node:
    """[t, d] each, with a causal mask."""
    scores = matmul(q, view.permute(k, (1, 0)))
    later = compute(Op.LT, iota(scores.shape, 0), iota(scores.shape, 1))
    masked = compute(Op.WHERE, later, number(float("-inf"), scores), scores)
    return matmul(softmax(masked, 1), v)


def argmax(x: Node) -> Node:
    """[m, n]: n minus the first position in each row that equals its maximum, made of primitives."""
    size = int(x.shape[1])
    differs = compute(Op.NE, x, wide(reduce(Op.MAX, x, (1,)), x))
    falling = compute(Op.MUL, iota(x.shape, 1), const(-1, int32, x.shape))
    backwards = compute(Op.ADD, falling, const(size, int32, x.shape))
    score = compute(Op.WHERE, differs, const(0, int32, x.shape), backwards)
    return reduce(Op.MAX, score, (1,))
