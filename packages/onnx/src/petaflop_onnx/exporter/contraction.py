"""Sums of products as MatMul and Conv, and maxima over windows as MaxPool.

A contraction is one REDUCE over one MUL, however it was spelled: each axis belongs to one factor or to both,
is summed or not, and that alone says which MatMul it is. It is a convolution where a factor reads its memory
at `position*stride + tap*dilation`, which is found in the index arithmetic that the views come to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from petaflop.dtype import int32
from petaflop.plugin_api import TRUE, Dim, Expr, Node, Op, constant, linear_terms, source_index
from petaflop.plugin_api import axis as loop_axis
from petaflop_onnx.exporter.lowering import Lowering

__all__ = ["contraction_pattern"]

_WALKED = (Op.RESHAPE, Op.PERMUTE, Op.WINDOW, Op.EXPAND)


def contraction_pattern(low: Lowering, node: Node) -> str | None:
    """The value of a REDUCE that is a product of matrices, a convolution or a pool; None for any other."""
    if node.op is not Op.REDUCE or node.arg.dtype is not node.sources[0].dtype:
        return None
    source = node.sources[0]
    if source.buffer is not None:
        return None
    if node.arg.op is Op.MAX and source.dtype.is_float:
        return _pool(low, node)
    if node.arg.op is not Op.ADD or source.op is not Op.MUL or node.dtype.kind == "b":
        return None
    factors = [_Factor(low, each, source.shape) for each in source.sources]
    return _convolution(low, node, factors) or _product(low, node, factors)


class _Factor:
    """One factor of a MUL: its memory before it was broadcast, and the axes that it really has."""

    def __init__(self, low: Lowering, node: Node, shape: tuple[Dim, ...]) -> None:
        self.node = node.sources[0] if node.op is Op.EXPAND and node.buffer is None else node
        self.name, lean = low.lean(self.node)
        self.shape = (1,) * (len(shape) - len(lean)) + tuple(lean)
        self.axes = {axis for axis, size in enumerate(self.shape) if size != 1}

    def arranged(self, low: Lowering, groups: Sequence[Sequence[int]], keep: int = 0) -> str:
        """The value with its axes in these groups, each merged into one but for the axes of the first
        `keep`."""
        order = [axis for group in groups for axis in group]
        kept = sorted(order)
        name = low.writer.reshape(self.name, low.lean(self.node)[1], [self.shape[axis] for axis in kept])
        name = low.writer.transpose(name, [kept.index(axis) for axis in order])
        merged: list[Dim] = [self.shape[axis] for group in groups[:keep] for axis in group]
        merged += [_size(self.shape[axis] for axis in group) for group in groups[keep:]]
        return low.writer.reshape(name, [self.shape[axis] for axis in order], merged)


def _size(sizes: Any) -> Dim:
    total: Dim = 1
    for size in sizes:
        total = total * size
    return total


def _product(low: Lowering, node: Node, factors: Sequence[_Factor]) -> str | None:
    """MatMul of [batch…, rows, summed] and [batch…, summed, columns]."""
    left, right = factors
    summed = [axis for axis in node.arg.axes if node.sources[0].shape[axis] != 1]
    if not summed or not all(axis in left.axes and axis in right.axes for axis in summed):
        return None
    batch = sorted((left.axes & right.axes) - set(summed))
    rows, columns = (sorted(one.axes - other.axes) for one, other in ((left, right), (right, left)))
    if not rows and not columns:
        return None
    if batch:
        names = [
            left.arranged(low, [batch, rows, summed], 1),
            right.arranged(low, [batch, summed, columns], 1),
        ]
    else:  # the rows need not be merged: MatMul takes all but the last for a batch
        names = [left.arranged(low, [rows, summed], 1 if rows else 0), right.arranged(low, [summed, columns])]
    narrow = node.dtype.is_integer and node.dtype.itemsize < 4  # ONNX multiplies no such matrices
    names = [low.writer.cast(name, int32) for name in names] if narrow else names
    name = low.writer.op("MatMul", *names)
    name = low.writer.cast(name, node.dtype) if narrow else name
    shape = node.sources[0].shape
    order = [*batch, *rows, *columns]
    made = [shape[axis] for axis in batch]
    if batch or not rows:
        made.append(_size(shape[axis] for axis in rows))
    else:
        made += [shape[axis] for axis in rows]
    made.append(_size(shape[axis] for axis in columns))
    name = low.writer.reshape(name, made, [shape[axis] for axis in order])
    sorted_axes = sorted(order)
    name = low.writer.transpose(name, [order.index(axis) for axis in sorted_axes])
    return low.writer.reshape(name, [shape[axis] for axis in sorted_axes], node.shape)


# ---- convolutions and pools ----


@dataclass(frozen=True, slots=True)
class _Window:
    """One axis of memory that is read at position*stride + tap*dilation."""

    position: Expr
    tap: Expr
    stride: int
    dilation: int


def _walk(node: Node, index: list[Expr]) -> Iterator[tuple[Node, list[Expr]]]:
    """A node and what is below its views, one by one, with where an element of the node stands in each."""
    yield node, index
    while node.op in _WALKED and node.buffer is None:
        index, valid = source_index(node, index)
        assert valid is TRUE
        node = node.sources[0]
        yield node, index


def _image(node: Node, index: list[Expr]) -> tuple[Node, list[Expr]]:
    """What the windows of a node slide over; the node itself where it has none."""
    steps = list(_walk(node, index))
    last = [place for place, (each, _) in enumerate(steps[:-1]) if each.op is Op.WINDOW]
    return steps[last[-1] + 1 if last else 0]


def _windows(index: Sequence[Expr], taps: set[Expr]) -> list[_Window] | None:
    """The spatial axes of an index; None unless each is a position and a tap."""
    found = []
    for each in index:
        terms, offset = linear_terms(each)
        tap = [term for term in terms if term in taps]
        place = [term for term in terms if term not in taps]
        if offset or len(tap) > 1 or len(place) > 1:
            return None
        missing = constant(0)  # an axis of one position, or of one tap
        found.append(_Window(place[0] if place else missing, tap[0] if tap else missing,
                             terms[place[0]] if place else 1, terms[tap[0]] if tap else 1))  # fmt: skip
    return found


def _extent(axis: Expr, sizes: dict[Expr, Dim]) -> Dim:
    return sizes.get(axis, 1)


def _loops(shape: Sequence[Dim]) -> tuple[list[Expr], dict[Expr, Dim]]:
    axes = [constant(0) if size == 1 else loop_axis(f"i{place}", size) for place, size in enumerate(shape)]
    return axes, {axis: size for axis, size in zip(axes, shape, strict=True) if size != 1}


def _covers(memory: Sequence[Dim], windows: Sequence[_Window], sizes: dict[Expr, Dim]) -> bool:
    """Whether the positions are all that there are: ONNX works the number out again."""
    for size, window in zip(memory, windows, strict=True):
        span = window.dilation * (_extent(window.tap, sizes) - 1) + 1
        if not isinstance(size, int) or (size - span) // window.stride + 1 != _extent(window.position, sizes):
            return False
    return True


def _pool(low: Lowering, node: Node) -> str | None:
    """MaxPool: [N, C, positions…] maxima over taps that stand at the end, of memory of as many axes."""
    source, reduced = node.sources[0], node.arg.axes
    axes, sizes = _loops(source.shape)
    memory, index = _image(source, list(axes))
    count = len(reduced)
    rank = len(memory.shape)
    spatial = range(rank - count, rank)
    if memory is source or count > 3 or rank < count + 2 or len(source.shape) != rank + count:
        return None
    if reduced != tuple(range(rank, rank + count)) or index[: rank - count] != axes[: rank - count]:
        return None
    windows = _windows([index[axis] for axis in spatial], {axes[axis] for axis in reduced})
    if windows is None or not _covers([memory.shape[axis] for axis in spatial], windows, sizes):
        return None
    if [(w.position, w.tap) for w in windows] != [(axes[axis], axes[axis + count]) for axis in spatial]:
        return None
    batch, channels = memory.shape[0], _size(memory.shape[1 : rank - count])
    old = (batch, channels, *memory.shape[rank - count :])
    name = low.writer.reshape(low.full(memory), memory.shape, old)
    name = low.writer.op(
        "MaxPool", name, kernel_shape=[int(source.shape[axis]) for axis in reduced],
        strides=[w.stride for w in windows], dilations=[w.dilation for w in windows],
    )  # fmt: skip
    places = [source.shape[axis] for axis in spatial]
    return low.writer.reshape(name, (batch, channels, *places), node.shape)


def _convolution(low: Lowering, node: Node, factors: Sequence[_Factor]) -> str | None:
    """Conv of [N, G·C, sizes…] with [G·O, C, taps…], arranged as `conv2d` and its like do."""
    shape, reduced = node.sources[0].shape, set(node.arg.axes)
    axes, sizes = _loops(shape)
    taps = {axes[axis] for axis in reduced if shape[axis] != 1}
    starts = [[axis if k in each.axes else constant(0) for k, axis in enumerate(axes)] for each in factors]
    picture, where = _image(factors[0].node, starts[0])
    rank = len(picture.shape)
    count = rank - 2
    kernels = (step for step in _walk(factors[1].node, starts[1]) if len(step[0].shape) == rank)
    kernel, read = next(kernels, (picture, where))
    if not 1 <= count <= 3 or kernel is picture or len(shape) != 4 + 2 * count:
        return None
    # the axes of the MUL: N, G, O, positions…, C, taps…
    if reduced != set(range(3 + count, len(shape))) or where[0] is not axes[0]:
        return None
    groups, features, channels = shape[1], shape[2], shape[3 + count]
    first = axes[1] * features + axes[2]
    second = axes[1] * channels + axes[3 + count]
    if read[0] is not first or where[1] is not second or read[1] is not axes[3 + count]:
        return None
    if read[2:] != axes[4 + count :] or kernel.shape != (groups * features, channels, *shape[4 + count :]):
        return None
    windows = _windows(where[2:], taps)
    if windows is None or picture.shape[1] != groups * channels:
        return None
    expected = [(axes[3 + k], axes[4 + count + k]) for k in range(count)]
    if [(w.position, w.tap) for w in windows] != expected:
        return None
    if not _covers(picture.shape[2:], windows, sizes):
        return None
    before, after = (0,) * count, (0,) * count
    if picture.op is Op.PAD and picture.buffer is None and picture.arg[:2] == ((0, 0), (0, 0)):
        before, after = zip(*picture.arg[2:], strict=True)
        picture = picture.sources[0]
    if not all(isinstance(each, int) for each in (*before, *after, groups)):
        return None
    name = low.writer.op(
        "Conv", low.full(picture), low.full(kernel), group=groups, kernel_shape=list(kernel.shape[2:]),
        pads=[*before, *after], strides=[w.stride for w in windows], dilations=[w.dilation for w in windows],
    )  # fmt: skip
    places = shape[3 : 3 + count]
    return low.writer.reshape(name, (shape[0], kernel.shape[0], *places), node.shape)
