"""Views of a tensor: reshape, permute, expand, pad, slice. None of them computes anything."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any, Self

from petaflop.dtype import bool_, int32
from petaflop.errors import ArgumentTypeError, IndexRangeError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr, product
from petaflop.tensor.base import TensorBase

__all__ = ["Movement", "dims", "size_node"]


def dims(name: str, sizes: Sequence[Any]) -> tuple[Dim, ...]:
    """Sizes given one by one or as one sequence; integers or Variables."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    try:
        return tuple(size if isinstance(size, Expr) else operator.index(size) for size in sizes)
    except TypeError:
        raise ArgumentTypeError(f"{name}: expected integers, got {tuple(sizes)}") from None


class Movement(TensorBase):
    """Shape and order."""

    __slots__ = ()

    # ---- shape ----

    def reshape(self, *shape: Any) -> Self:
        """The same elements in row-major order under another shape; one size may be -1.

        >>> Tensor.arange(6).reshape(2, -1).shape
        (2, 3)
        """
        sizes = list(dims("reshape", shape))
        unknown = [axis for axis, size in enumerate(sizes) if not isinstance(size, Expr) and size == -1]
        total = self.numel()
        if len(unknown) > 1 or any(not isinstance(size, Expr) and size < -1 for size in sizes):
            raise ShapeError(f"reshape: expected sizes >= 0 and at most one -1, got {sizes}")
        if unknown:
            rest = product([size for axis, size in enumerate(sizes) if axis != unknown[0]])
            if rest == 0 or (isinstance(rest, int) and isinstance(total, int) and total % rest):
                raise ShapeError(f"reshape: expected sizes that divide {total} elements, got {sizes}")
            quotient = total // rest
            sizes[unknown[0]] = (
                int(quotient.arg) if isinstance(quotient, Expr) and quotient.op is Op.CONST else quotient
            )
        if product(sizes) != total:
            raise ShapeError(f"reshape: expected {total} elements for {self._text()}, got shape {sizes}")
        return self._wrap(view.reshape(self.node, tuple(sizes)))

    def view(self, *shape: Any) -> Self:
        """`reshape`; or `bitcast` when a dtype is given, as in PyTorch."""
        if len(shape) == 1 and not isinstance(shape[0], (int, tuple, list, Expr)):
            return self.bitcast(shape[0])
        return self.reshape(*shape)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Self:
        """The axes from `start_dim` to `end_dim` as one."""
        start, end = self._axis("flatten", start_dim), self._axis("flatten", end_dim)
        if start > end:
            raise ShapeError(f"flatten: expected start_dim <= end_dim, got {start_dim} and {end_dim}")
        shape = self.shape
        return self.reshape(*shape[:start], product(shape[start : end + 1]), *shape[end + 1 :])

    def unflatten(self, dim: int, sizes: Sequence[Any]) -> Self:
        """One axis as several; one size may be -1."""
        axis = self._axis("unflatten", dim)
        inner = list(dims("unflatten", (tuple(sizes),)))
        if -1 in inner:
            rest = product([size for size in inner if size != -1])
            inner[inner.index(-1)] = self.shape[axis] // rest if rest != 0 else 0
        if product(inner) != self.shape[axis]:
            raise ShapeError(f"unflatten: expected sizes of product {self.shape[axis]}, got {list(sizes)}")
        return self.reshape(*self.shape[:axis], *inner, *self.shape[axis + 1 :])

    def squeeze(self, dim: int | Sequence[int] | None = None) -> Self:
        """Without the axes of size 1: all of them, or those named; others are left alone."""
        axes = self._axes("squeeze", dim)
        kept = (size for axis, size in enumerate(self.shape) if axis not in axes or size != 1)
        return self.reshape(tuple(kept))

    def unsqueeze(self, dim: int) -> Self:
        """With a new axis of size 1 at `dim`."""
        axis = self._axis("unsqueeze", dim, extra=1)
        return self.reshape(*self.shape[:axis], 1, *self.shape[axis:])

    # ---- order ----

    def permute(self, *order: Any) -> Self:
        """Axis k of the result is axis order[k] of this tensor."""
        named = dims("permute", order)
        axes = tuple(self._axis("permute", axis) for axis in named)
        if sorted(axes) != list(range(self.ndim)):
            raise ShapeError(f"permute: expected each of {self.ndim} axes once, got {list(named)}")
        return self._wrap(view.permute(self.node, axes))

    def transpose(self, dim0: int = 1, dim1: int = 0) -> Self:
        """Two axes exchanged."""
        a, b = self._axis("transpose", dim0), self._axis("transpose", dim1)
        order = list(range(self.ndim))
        if order:
            order[a], order[b] = order[b], order[a]
        return self._wrap(view.permute(self.node, tuple(order)))

    @property
    def T(self) -> Self:
        """All axes reversed."""
        return self._wrap(view.permute(self.node, tuple(range(self.ndim))[::-1]))

    @property
    def mT(self) -> Self:
        """The last two axes exchanged."""
        return self.transpose(-1, -2)

    def movedim(self, source: int | Sequence[int], destination: int | Sequence[int]) -> Self:
        """Axes moved to other places; the others keep their order."""
        starts, ends = self._axes("movedim", source), self._axes("movedim", destination)
        if len(starts) != len(ends):
            raise ShapeError(f"movedim: expected as many places as axes, got {source} and {destination}")
        order = [axis for axis in range(self.ndim) if axis not in starts]
        for end, start in sorted(zip(ends, starts, strict=True)):
            order.insert(end, start)
        return self._wrap(view.permute(self.node, tuple(order)))

    def flip(self, *dims_: Any) -> Self:
        """The named axes reversed."""
        return self._wrap(view.flip(self.node, self._axes("flip", dims("flip", dims_))))

    # ---- size ----

    def expand(self, *shape: Any) -> Self:
        """Axes of size 1 repeated, new axes in front; -1 keeps a size."""
        sizes = list(dims("expand", shape))
        missing = len(sizes) - self.ndim
        if missing < 0:
            raise ShapeError(f"expand: expected at least {self.ndim} sizes for {self._text()}, got {sizes}")
        old = (1,) * missing + self.shape
        for axis, size in enumerate(sizes):
            if not isinstance(size, Expr) and size == -1 and axis >= missing:
                sizes[axis] = old[axis]
            elif old[axis] not in (1, size) or (not isinstance(size, Expr) and size < 0):
                raise ShapeError(f"expand: expected sizes equal or 1, got {self._text()} to {sizes}")
        return self._wrap(view.expand(view.reshape(self.node, old), tuple(sizes)))

    def expand_as(self, other: TensorBase) -> Self:
        return self.expand(other.shape)

    broadcast_to = expand

    def repeat(self, *repeats: Any) -> Self:
        """The whole tensor tiled; new axes in front."""
        counts = dims("repeat", repeats)
        if len(counts) < self.ndim or any(isinstance(c, int) and c < 0 for c in counts):
            raise ShapeError(f"repeat: expected {self.ndim} or more counts >= 0, got {list(counts)}")
        old = (1,) * (len(counts) - self.ndim) + self.shape
        split = tuple(itertools.chain.from_iterable((1, size) for size in old))
        tiled = tuple(itertools.chain.from_iterable(zip(counts, old, strict=True)))
        node = view.expand(view.reshape(self.node, split), tiled)
        return self._wrap(
            view.reshape(node, tuple(product((count, size)) for count, size in zip(counts, old, strict=True)))
        )

    def repeat_interleave(self, repeats: Any, dim: int | None = None) -> Self:
        """Each element along an axis repeated; over the flat tensor without one."""
        if dim is None:
            return self.flatten().repeat_interleave(repeats, 0)
        axis = self._axis("repeat_interleave", dim)
        (repeats,) = dims("repeat_interleave", (repeats,))
        if not isinstance(repeats, Expr) and repeats < 0:
            raise ShapeError(f"repeat_interleave: expected repeats >= 0, got {repeats}")
        shape = self.shape
        node = view.reshape(self.node, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
        node = view.expand(node, (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
        return self._wrap(view.reshape(node, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :])))

    def _pad_constant(self, widths: Sequence[tuple[Any, Any]], value: float = 0.0) -> Self:
        node = self.node
        ranges = []
        for size, (before, after) in zip(node.shape, widths, strict=True):
            start = -before if isinstance(before, int) and before < 0 else 0
            stop = size + after if isinstance(after, int) and after < 0 else size
            if isinstance(start, int) and isinstance(stop, int) and stop < start:
                raise ShapeError(f"pad: expected sizes >= 0, got {self._text()} with {list(widths)}")
            ranges.append((start, stop))
        node = view.shrink(node, tuple(ranges))
        positive = tuple(
            tuple(width if isinstance(width, Expr) else max(width, 0) for width in pair) for pair in widths
        )
        padded = view.pad(node, positive)  # type: ignore[arg-type]
        if value == 0 or padded is node:
            return self._wrap(padded)
        inside = view.pad(graph.const(True, bool_, node.shape), positive)  # type: ignore[arg-type]
        fill = graph.const(value, node.dtype, padded.shape)
        return self._wrap(graph.compute(Op.WHERE, inside, padded, fill))

    def shrink(self, ranges: Sequence[tuple[Any, Any] | None]) -> Self:
        """start <= i < stop of each axis; None keeps an axis."""
        if len(ranges) != self.ndim:
            raise ShapeError(f"shrink: expected {self.ndim} ranges for {self._text()}, got {len(ranges)}")
        full = tuple(
            (0, size) if pair is None else pair for pair, size in zip(ranges, self.shape, strict=True)
        )
        for (start, stop), size in zip(full, self.shape, strict=True):
            known = all(isinstance(value, int) for value in (start, stop, size))
            if known and not 0 <= start <= stop <= size:  # type: ignore[operator]
                raise ShapeError(f"shrink: expected 0 <= start <= stop <= {size}, got {(start, stop)}")
        return self._wrap(view.shrink(self.node, full))

    def _part(self, axis: int, start: Dim, stop: Dim) -> Self:
        """start <= i < stop along one axis."""
        ranges = [(0, size) for size in self.shape]
        ranges[axis] = (start, stop)  # type: ignore[assignment]
        return self._wrap(view.shrink(self.node, tuple(ranges)))

    def narrow(self, dim: int, start: Any, length: Any) -> Self:
        """`length` elements along an axis from `start` on, which counts from the end where it is negative."""
        axis = self._axis("narrow", dim)
        size = self.size(axis)
        if isinstance(start, int) and isinstance(size, int):
            if not -size <= start <= size:
                raise IndexRangeError(f"narrow: expected {-size} <= start <= {size}, got {start}")
            start += size * (start < 0)
        return self.shrink([(start, start + length) if k == axis else None for k in range(self.ndim)])

    def unfold(self, dim: int, size: int, step: int, dilation: int = 1) -> Self:
        """A sliding window: `dim` becomes its positions, a new last axis holds the `size` elements of
        each."""
        axis = self._axis("unfold", dim)
        span = dilation * (size - 1) + 1
        if size < 0 or step < 1 or dilation < 1:
            raise ShapeError(f"unfold: expected size >= 0 and step >= 1, got {size} and {step}")
        length = self.shape[axis]
        if isinstance(length, int) and span > length:
            raise ShapeError(f"unfold: expected a window of at most {length}, got {span}")
        return self._wrap(view.window(self.node, axis, size, step, dilation))


def size_node(size: Dim, shape: tuple[Dim, ...]) -> Node:
    """A size, perhaps symbolic, in every element of a shape."""
    if isinstance(size, int):
        return graph.const(size, int32, shape)
    return view.expand(view.reshape(graph.variable(size), (1,) * len(shape)), shape)
