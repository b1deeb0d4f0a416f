"""Adjoints of linear operations that take more than one step: sums that stay one reduction, sliding windows.

The adjoint of WINDOW is a gather, never a scatter and never zero-insertion: x's element j is read by tap t
of position (j − t·dilation)/stride, so elements with equal j mod stride (a *phase*) read an affine view of g.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from petaflop.dtype import DType, float32
from petaflop.dtype import index as index_dtype
from petaflop.graph.node import Node, cast, compute, reduce
from petaflop.graph.ops import VIEWS, Leaf, Op
from petaflop.graph.symbolic import Dim, Expr, as_expr, make, topological
from petaflop.graph.view import expand, flip, pad, permute, reshape, shrink, source_index, window

__all__ = ["Phases", "accumulator", "sum_axes", "window_adjoint"]


def accumulator(dtype: DType) -> DType:
    """What sums of `dtype` accumulate in: float32 for the floats below it."""
    return float32 if dtype.is_float and dtype.itemsize < 4 else dtype


def sum_axes(node: Node, axes: tuple[int, ...]) -> Node:
    """The sum along `axes`, which keep size 1, in the dtype of `node`."""
    if not axes:
        return node
    return cast(reduce(Op.ADD, node, axes, accumulator(node.dtype)), node.dtype)


# ---- sums under views: view(Σ x) = Σ view(x), so that a chain of sums and views becomes one reduction ----

_MOVES: dict[Op, Callable[[Node, Node], Node]] = {
    Op.RESHAPE: lambda node, inner: reshape(inner, node.shape + _summed(node, inner)),
    Op.PERMUTE: lambda node, inner: permute(inner, (*node.arg, *range(len(node.shape), len(inner.shape)))),
    Op.PAD: lambda node, inner: pad(inner, node.arg + ((0, 0),) * (len(inner.shape) - len(node.shape))),
    Op.SHRINK: lambda node, inner: shrink(
        inner, node.arg + tuple((0, size) for size in _summed(node, inner))
    ),
    Op.FLIP: lambda node, inner: flip(inner, node.arg),
}


def _summed(node: Node, inner: Node) -> tuple[Dim, ...]:
    return inner.shape[len(node.sources[0].shape) :]


def _unsummed(node: Node) -> Node:
    """`x` with `node` = Σ x over the axes that x has more than node, behind node's own."""
    chain: list[Node] = []
    below = node
    while below.buffer is None and below.op in _MOVES:
        chain.append(below)
        below = below.sources[0]
    narrow = below.dtype
    if below.op is Op.CAST and below.sources[0].dtype is accumulator(narrow):
        below = below.sources[0]
    if below.op is not Op.REDUCE or below.buffer is not None or below.arg.op is not Op.ADD:
        return node
    source, axes = below.sources[0], below.arg.axes
    if below.dtype is not accumulator(source.dtype):
        return node
    kept = tuple(axis for axis in range(len(source.shape)) if axis not in axes)
    inner = reshape(permute(source, kept + axes), below.shape + tuple(source.shape[axis] for axis in axes))
    for view in reversed(chain):
        inner = _MOVES[view.op](view, inner)
    return inner


# ---- the sliding window ----


@dataclass(frozen=True, slots=True)
class Phases:
    """A gradient whose elements j of `axis` with j mod len(parts) = r are `parts[r]`; None is zero.

    Kept apart until somebody needs the whole, so that a strided convolution stays affine on each axis.
    """

    axis: int
    length: Dim
    parts: tuple[Node | Phases | None, ...]

    def map(self, function: Callable[[Node | Phases], Node | Phases], axis: int) -> Phases:
        """`function` of each phase; `axis` is where the result has the interleaved axis."""
        return Phases(
            axis, self.length, tuple(None if part is None else function(part) for part in self.parts)
        )

    def whole(self) -> Node:
        """The phases interleaved: each fills a column of a new axis, which is then merged into theirs."""
        count = len(self.parts)
        total: Node | None = None
        for column, part in enumerate(self.parts):
            if part is None:
                continue
            node = part.whole() if isinstance(part, Phases) else part
            rows = (
                -(-self.length // count)
                if isinstance(self.length, int)
                else (self.length + count - 1) // count
            )
            widths: list[tuple[Dim, Dim]] = [(0, 0)] * len(node.shape)
            widths[self.axis] = (0, rows - node.shape[self.axis])
            node = _insert(pad(node, tuple(widths)), self.axis + 1)
            widths.insert(self.axis + 1, (column, count - 1 - column))
            widths[self.axis] = (0, 0)
            node = pad(node, tuple(widths))
            total = node if total is None else compute(Op.ADD, total, node)
        assert total is not None
        shape = total.shape
        merged = reshape(total, (*shape[: self.axis], shape[self.axis] * count, *shape[self.axis + 2 :]))
        return _cut(merged, self.axis, self.length)


def _insert(node: Node, axis: int) -> Node:
    return reshape(node, (*node.shape[:axis], 1, *node.shape[axis:]))


def _cut(node: Node, axis: int, length: Dim) -> Node:
    """The first `length` elements of `axis`, or zeros behind it up to `length`."""
    size = node.shape[axis]
    missing = length - size
    if not isinstance(missing, int) and missing.op is Op.CONST:
        missing = int(missing.arg)
    fits = missing <= 0 if isinstance(missing, int) else missing.hi <= 0
    if fits:
        ranges = [(0, n) for n in node.shape]
        ranges[axis] = (0, length)
        return shrink(node, tuple(ranges))
    return pad(node, tuple((0, missing if k == axis else 0) for k in range(len(node.shape))))


def window_adjoint(grad: Node | Phases, node: Node) -> Node | Phases:
    """The gradient of the source of the WINDOW `node`, given that of the window."""
    axis, size, stride, dilation = node.arg
    if isinstance(grad, Phases):
        if grad.axis not in (axis, len(node.shape) - 1):
            return grad.map(lambda part: window_adjoint(part, node), grad.axis)
        grad = grad.whole()
    length = node.sources[0].shape[axis]
    if size == 1 or (dilation == 1 and size <= stride):
        return _tiles(grad, axis, stride, length)
    parts = []
    for phase in range(stride):
        taps = [tap for tap in range(size) if (tap * dilation - phase) % stride == 0]
        rows = (length - phase + stride - 1) // stride
        empty = not taps or (isinstance(rows, int) and rows <= 0)
        parts.append(None if empty else _phase(grad, axis, stride, dilation, phase, taps, rows))
    if stride == 1:
        assert isinstance(parts[0], Node)
        return parts[0]
    return Phases(axis, length, tuple(parts))


def _tiles(grad: Node, axis: int, stride: int, length: Dim) -> Node:
    """Windows that do not overlap: each element belongs to one tap, so the taps are laid side by side."""
    last = len(grad.shape) - 1
    side_by_side = permute(grad, (*range(axis + 1), last, *range(axis + 1, last)))
    widths = [(0, 0)] * (last + 1)
    widths[axis + 1] = (0, stride - grad.shape[last])  # type: ignore[assignment]
    padded = pad(side_by_side, tuple(widths))
    shape = padded.shape
    flat = reshape(padded, (*shape[:axis], shape[axis] * stride, *shape[axis + 2 :]))
    return _cut(flat, axis, length)


def _phase(grad: Node, axis: int, stride: int, dilation: int, phase: int, taps: list[int], rows: Dim) -> Node:
    """Σ over the taps m of one phase: g[q + first − m·step, taps[m]], for 0 <= q < rows."""
    last = len(grad.shape) - 1
    count = len(taps)
    apart = taps[1] - taps[0] if count > 1 else 1
    step = apart * dilation // stride
    first = (phase - taps[0] * dilation) // stride
    inner = _unsummed(grad)

    def taken(node: Node) -> Node:
        ranges: list[tuple[Dim, Dim]] = [(0, n) for n in node.shape]
        ranges[last] = (taps[0], taps[-1] + 1)
        node = shrink(node, tuple(ranges))
        if apart > 1:
            node = window(node, last, 1, apart)
            node = reshape(node, node.shape[:-1])
        return flip(node, (last,))

    def skew(node: Node) -> Node:
        return _skew(node, axis, last, step, (count - 1) * step - first, rows)

    factors = _factors(inner, axis)
    if factors is None:
        skewed = skew(taken(inner))
    else:
        moving, still = map(taken, factors)
        one = shrink(still, tuple((0, 1 if k == axis else n) for k, n in enumerate(still.shape)))
        moved = skew(moving)
        skewed = compute(Op.MUL, moved, expand(one, moved.shape))
    total = sum_axes(skewed, (last, *range(last + 1, len(skewed.shape))))
    return reshape(total, total.shape[:last])


def _factors(node: Node, axis: int) -> tuple[Node, Node] | None:
    """What changes along `axis` and what does not, where `node` is a product of such, as of a convolution's
    gradient and its weights: zeros around one are zeros of the product, which the scheduler still sees."""
    chain: list[Node] = []
    below = node
    while below.buffer is None and below.op in _MOVES:
        chain.append(below)
        below = below.sources[0]
    if below.op is not Op.MUL or below.buffer is not None:
        return None
    parts = []
    for source in below.sources:
        for view in reversed(chain):
            source = _MOVES[view.op](view, source)
        parts.append(source)
    a, b = parts
    if _is_still(b, axis):
        return a, b
    return (b, a) if _is_still(a, axis) else None


def _is_still(node: Node, axis: int) -> bool:
    """Whether the elements of a view along `axis` are one element of what is below it."""
    index = [
        make(Leaf.AXIS, (as_expr(n),), index_dtype, f"i{k}", 0, _most(n)) for k, n in enumerate(node.shape)
    ]
    moving, place = index[axis], list(index)
    while node.buffer is None and node.op in VIEWS:
        place, valid = source_index(node, place)
        if moving in topological((valid,)):
            return False
        node = node.sources[0]
    return moving not in topological(place)


def _most(size: Dim) -> int:
    return (size if isinstance(size, int) else size.hi) - 1


def _skew(node: Node, axis: int, taps: int, step: int, before: Dim, rows: Dim) -> Node:
    """out[q, m] = node[q + m·step − before, m] along (axis, taps), zero outside: row m moves by m·step.

    In memory order (m, p) the element is m·(length + step) + q, which is a reshape of the padded rows.
    """
    positions, count = node.shape[axis], node.shape[taps]
    assert isinstance(count, int)
    length = rows + (count - 1) * step
    widths: list[tuple[Dim, Dim]] = [(0, 0)] * len(node.shape)
    widths[axis] = (before, _constant(length - before - positions))
    padded = pad(node, tuple(widths))
    if count == 1:
        return padded
    others = tuple(k for k in range(len(node.shape)) if k not in (axis, taps))
    order = (*others, taps, axis)
    flat = permute(padded, order)
    lead = flat.shape[:-2]
    flat = reshape(flat, (*lead, count * length))
    flat = pad(flat, ((0, 0),) * len(lead) + ((0, count * step),))
    rows_by_tap = reshape(flat, (*lead, count, _constant(length + step)))
    out = shrink(rows_by_tap, tuple((0, n) for n in (*lead, count)) + ((0, rows),))
    return permute(out, tuple(order.index(k) for k in range(len(order))))


def _constant(size: Dim) -> Dim:
    return int(size.arg) if isinstance(size, Expr) and size.op is Op.CONST else size
