"""Views of a tensor: reshape, permute, expand, pad, slice, join. None of them computes anything."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any, Self

from petaflop.dtype import bool_, int32
from petaflop.errors import ArgumentError, ArgumentTypeError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr, product
from petaflop.tensor.base import TensorBase, common_dtype
from petaflop.tensor.fault import fault

__all__ = ["Movement", "dims", "size_node"]


def dims(name: str, sizes: Sequence[Any]) -> tuple[Dim, ...]:
    """Sizes given one by one or as one sequence; integers or Variables."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    try:
        return tuple(size if isinstance(size, Expr) else operator.index(size) for size in sizes)
    except TypeError:
        raise fault(ArgumentTypeError, f"{name}: expected integers, got {tuple(sizes)}") from None


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
            raise fault(ShapeError, f"reshape: expected sizes >= 0 and at most one -1, got {sizes}")
        if unknown:
            rest = product([size for axis, size in enumerate(sizes) if axis != unknown[0]])
            if rest == 0 or (isinstance(rest, int) and isinstance(total, int) and total % rest):
                raise fault(ShapeError, f"reshape: expected sizes that divide {total} elements, got {sizes}")
            quotient = total // rest
            sizes[unknown[0]] = (
                int(quotient.arg) if isinstance(quotient, Expr) and quotient.op is Op.CONST else quotient
            )
        if product(sizes) != total:
            raise fault(
                ShapeError, f"reshape: expected {total} elements for {self._text()}, got shape {sizes}"
            )
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
            raise fault(ShapeError, f"flatten: expected start_dim <= end_dim, got {start_dim} and {end_dim}")
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
            raise fault(
                ShapeError, f"unflatten: expected sizes of product {self.shape[axis]}, got {list(sizes)}"
            )
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
            raise fault(ShapeError, f"permute: expected each of {self.ndim} axes once, got {list(named)}")
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

    def movedim(self, source: int, destination: int) -> Self:
        """One axis moved to another place; the others keep their order."""
        start, end = self._axis("movedim", source), self._axis("movedim", destination)
        order = [axis for axis in range(self.ndim) if axis != start]
        order.insert(end, start)
        return self._wrap(view.permute(self.node, tuple(order)))

    def flip(self, *dims_: Any) -> Self:
        """The named axes reversed."""
        return self._wrap(view.flip(self.node, self._axes("flip", dims("flip", dims_))))

    def roll(self, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Self:
        """Elements shifted along axes, those that leave coming in at the other end; over the flat tensor
        without axes."""
        if dims is None:
            return self.flatten().roll(shifts, 0).reshape(self.shape)
        amounts = (shifts,) if isinstance(shifts, int) else tuple(shifts)
        axes = self._axes("roll", dims)
        if len(amounts) != len(axes):
            raise fault(ShapeError, f"roll: expected one shift per axis, got {len(amounts)} and {len(axes)}")
        result = self
        for amount, axis in zip(amounts, axes, strict=True):
            size = self.shape[axis]
            if size == 0 or (cut := -amount % size) == 0:
                continue
            result = result._part(axis, cut, size).cat(result._part(axis, 0, cut), dim=axis)
        return result

    # ---- size ----

    def expand(self, *shape: Any) -> Self:
        """Axes of size 1 repeated, new axes in front; -1 keeps a size."""
        sizes = list(dims("expand", shape))
        missing = len(sizes) - self.ndim
        if missing < 0:
            raise fault(
                ShapeError, f"expand: expected at least {self.ndim} sizes for {self._text()}, got {sizes}"
            )
        old = (1,) * missing + self.shape
        for axis, size in enumerate(sizes):
            if not isinstance(size, Expr) and size == -1:
                sizes[axis] = old[axis]
            elif old[axis] != 1 and old[axis] != size:
                raise fault(ShapeError, f"expand: expected sizes equal or 1, got {self._text()} to {sizes}")
        return self._wrap(view.expand(view.reshape(self.node, old), tuple(sizes)))

    def expand_as(self, other: TensorBase) -> Self:
        return self.expand(other.shape)

    broadcast_to = expand

    def repeat(self, *repeats: Any) -> Self:
        """The whole tensor tiled; new axes in front."""
        counts = dims("repeat", repeats)
        if len(counts) < self.ndim or any(isinstance(c, int) and c < 0 for c in counts):
            raise fault(ShapeError, f"repeat: expected {self.ndim} or more counts >= 0, got {list(counts)}")
        old = (1,) * (len(counts) - self.ndim) + self.shape
        split = tuple(itertools.chain.from_iterable((1, size) for size in old))
        tiled = tuple(itertools.chain.from_iterable(zip(counts, old, strict=True)))
        node = view.expand(view.reshape(self.node, split), tiled)
        return self._wrap(
            view.reshape(node, tuple(count * size for count, size in zip(counts, old, strict=True)))
        )

    def repeat_interleave(self, repeats: int, dim: int | None = None) -> Self:
        """Each element along an axis repeated; over the flat tensor without one."""
        if dim is None:
            return self.flatten().repeat_interleave(repeats, 0)
        axis = self._axis("repeat_interleave", dim)
        shape = self.shape
        node = view.reshape(self.node, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
        node = view.expand(node, (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
        return self._wrap(view.reshape(node, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :])))

    def pad(self, padding: Sequence[Any], mode: str = "constant", value: float = 0.0) -> Self:
        """Elements added around: (left, right, top, bottom, …) from the last axis backwards, as in PyTorch.

        Or one (before, after) or None per axis, as in tinygrad. Negative widths cut. `mode` is "constant",
        "reflect", "replicate" or "circular".
        """
        widths = self._pad_widths(padding)
        if mode == "constant":
            return self._pad_constant(widths, value)
        pick = {"reflect": _reflect, "replicate": _replicate, "circular": _circular}.get(mode)
        if pick is None:
            raise fault(
                ArgumentError, f"pad: expected constant, reflect, replicate or circular, got {mode!r}"
            )
        result = self
        for axis, (before, after) in enumerate(widths):
            if before or after:
                result = pick(result, axis, before, after)
        return result

    def _pad_widths(self, padding: Sequence[Any]) -> list[tuple[Any, Any]]:
        if any(width is None or isinstance(width, (tuple, list)) for width in padding):
            if len(padding) != self.ndim:
                raise fault(
                    ShapeError, f"pad: expected {self.ndim} pairs for {self._text()}, got {len(padding)}"
                )
            return [(0, 0) if width is None else (width[0], width[1]) for width in padding]
        flat = dims("pad", (tuple(padding),))
        if len(flat) % 2 or len(flat) > 2 * self.ndim:
            raise fault(ShapeError, f"pad: expected pairs for up to {self.ndim} axes, got {len(flat)} widths")
        pairs = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
        return [(0, 0)] * (self.ndim - len(pairs)) + pairs

    def _pad_constant(self, widths: Sequence[tuple[Any, Any]], value: float = 0.0) -> Self:
        node = self.node
        ranges = []
        for size, (before, after) in zip(node.shape, widths, strict=True):
            start = -before if isinstance(before, int) and before < 0 else 0
            stop = size + after if isinstance(after, int) and after < 0 else size
            if isinstance(start, int) and isinstance(stop, int) and stop < start:
                raise fault(ShapeError, f"pad: expected sizes >= 0, got {self._text()} with {list(widths)}")
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
            raise fault(
                ShapeError, f"shrink: expected {self.ndim} ranges for {self._text()}, got {len(ranges)}"
            )
        full = tuple(
            (0, size) if pair is None else pair for pair, size in zip(ranges, self.shape, strict=True)
        )
        for (start, stop), size in zip(full, self.shape, strict=True):
            known = all(isinstance(value, int) for value in (start, stop, size))
            if known and not 0 <= start <= stop <= size:  # type: ignore[operator]
                raise fault(ShapeError, f"shrink: expected 0 <= start <= stop <= {size}, got {(start, stop)}")
        return self._wrap(view.shrink(self.node, full))

    def _part(self, axis: int, start: Dim, stop: Dim) -> Self:
        """start <= i < stop along one axis."""
        ranges = [(0, size) for size in self.shape]
        ranges[axis] = (start, stop)  # type: ignore[assignment]
        return self._wrap(view.shrink(self.node, tuple(ranges)))

    def narrow(self, dim: int, start: Any, length: Any) -> Self:
        """`length` elements along an axis from `start` on."""
        axis = self._axis("narrow", dim)
        return self.shrink([(start, start + length) if k == axis else None for k in range(self.ndim)])

    def unfold(self, dim: int, size: int, step: int, dilation: int = 1) -> Self:
        """A sliding window: `dim` becomes its positions, a new last axis holds the `size` elements of
        each."""
        axis = self._axis("unfold", dim)
        span = dilation * (size - 1) + 1
        if size < 0 or step < 1 or dilation < 1:
            raise fault(ArgumentError, f"unfold: expected size >= 0 and step >= 1, got {size} and {step}")
        length = self.shape[axis]
        if isinstance(length, int) and span > length:
            raise fault(ShapeError, f"unfold: expected a window of at most {length}, got {span}")
        return self._wrap(view.window(self.node, axis, size, step, dilation))

    # ---- joining and splitting ----

    def cat(self, *others: Any, dim: int = 0) -> Self:
        """Tensors joined along an existing axis; `a.cat(b, c, dim=1)` or `Tensor.cat([a, b, c], dim=1)`."""
        tensors = _tensors("cat", self, others)
        kept = [t for t in tensors if t.shape != (0,)] or tensors[:1]  # PyTorch skips legacy empty tensors
        first = kept[0]
        axis = first._axis("cat", dim)
        for tensor in kept[1:]:
            same = tensor.ndim == first.ndim and all(
                a == b for k, (a, b) in enumerate(zip(tensor.shape, first.shape, strict=True)) if k != axis
            )
            if not same:
                raise fault(
                    ShapeError,
                    f"cat: expected sizes equal but at axis {axis}, got {first._text()} and {tensor._text()}",
                )
        return first._joined(kept, axis, common_dtype(tensors))

    def _joined(self, tensors: Sequence[Movement], axis: int, dtype: Any) -> Self:
        """Each part padded to the full size, then chosen by position: no part is copied twice."""
        total: Dim = sum((tensor.shape[axis] for tensor in tensors), 0)
        shape = (*self.shape[:axis], total, *self.shape[axis + 1 :])
        position = graph.iota(shape, axis)
        result: Node | None = None
        start: Dim = 0
        for tensor in tensors:
            stop = start + tensor.shape[axis]
            widths: list[tuple[Dim, Dim]] = [(0, 0)] * len(shape)
            widths[axis] = (start, total - stop)
            part = view.pad(graph.cast(tensor.node, dtype), tuple(widths))
            if result is None:
                result = part
            else:
                before = graph.compute(Op.LT, position, size_node(start, shape))
                result = graph.compute(Op.WHERE, before, result, part)
            start = stop
        assert result is not None
        return self._wrap(result)

    def stack(self, *others: Any, dim: int = 0) -> Self:
        """Tensors of one shape joined along a new axis."""
        tensors = _tensors("stack", self, others)
        for tensor in tensors[1:]:
            if tensor.shape != tensors[0].shape:
                raise fault(
                    ShapeError, f"stack: expected one shape, got {tensors[0]._text()} and {tensor._text()}"
                )
        axis = tensors[0]._axis("stack", dim, extra=1)
        parts = [tensor.unsqueeze(axis) for tensor in tensors]
        return parts[0]._joined(parts, axis, common_dtype(tensors))

    def split(self, split_size: int | Sequence[int], dim: int = 0) -> tuple[Self, ...]:
        """Parts of `split_size` along an axis (the last may be smaller), or of the sizes given."""
        axis = self._axis("split", dim)
        total = self.shape[axis]
        if isinstance(split_size, int):
            if split_size <= 0:
                raise fault(ShapeError, f"split: expected a size > 0, got {split_size}")
            starts = range(0, max(total, 1), split_size)  # type: ignore[type-var]
            sizes = [min(split_size, total - start) for start in starts]  # type: ignore[type-var]
        else:
            sizes = list(split_size)
        if sum(sizes) != total or min(sizes, default=0) < 0:  # type: ignore[type-var]
            raise fault(ShapeError, f"split: expected sizes that add up to {total}, got {sizes}")
        ends = list(itertools.accumulate(sizes))
        return tuple(self._part(axis, end - size, end) for size, end in zip(sizes, ends, strict=True))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Self, ...]:
        """At most `chunks` parts of equal size along an axis; the last may be smaller."""
        if chunks <= 0:
            raise fault(ShapeError, f"chunk: expected chunks > 0, got {chunks}")
        size = self.shape[self._axis("chunk", dim)]
        return self.split(max(-(-size // chunks), 1), dim)  # type: ignore[arg-type, type-var]

    def unbind(self, dim: int = 0) -> tuple[Self, ...]:
        """The slices along an axis, without it."""
        axis = self._axis("unbind", dim)
        size = self.shape[axis]
        if not isinstance(size, int):
            raise fault(ShapeError, f"unbind: expected a known size, got {size}")
        return tuple(self._part(axis, k, k + 1).squeeze(axis) for k in range(size))

    def meshgrid(self, *others: TensorBase, indexing: str = "ij") -> tuple[Self, ...]:
        """One tensor per vector, with an axis for each of them; "ij" or "xy" order."""
        if indexing not in ("ij", "xy"):
            raise fault(ArgumentError, f"meshgrid: expected indexing ij or xy, got {indexing!r}")
        vectors = _tensors("meshgrid", self, others)
        shape = tuple(vector.numel() for vector in vectors)
        grids = []
        for axis, vector in enumerate(vectors):
            row = vector.reshape(tuple(shape[axis] if k == axis else 1 for k in range(len(shape))))
            grids.append(row.expand(shape))
        if indexing == "xy" and len(grids) > 1:
            grids = [grid.transpose(0, 1) for grid in grids]
        return tuple(grids)

    # ---- diagonals and triangles ----

    def diagonal(self, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Self:
        """The diagonal of two axes, as a new last axis."""
        a, b = self._axis("diagonal", dim1), self._axis("diagonal", dim2)
        if a == b:
            raise fault(ShapeError, f"diagonal: expected two different axes, got {dim1} and {dim2}")
        order = [axis for axis in range(self.ndim) if axis not in (a, b)]
        moved = self.permute(*order, a, b)
        rows, columns = moved.shape[-2:]
        length = max(min(rows + min(offset, 0), columns - max(offset, 0)), 0)  # type: ignore[type-var]
        top, left = max(-offset, 0), max(offset, 0)
        square = moved.shrink([*[None] * len(order), (top, top + length), (left, left + length)])
        if length == 0:
            return square.reshape(*square.shape[:-2], 0)
        # flat, every (length + 1)-th element; the last row is completed so that the window divides
        lead = square.shape[:-2]
        flat = square.reshape(*lead, length * length)
        flat = flat._pad_constant([*[(0, 0)] * len(lead), (0, length)])
        return flat.reshape(*lead, length, length + 1)._part(len(lead) + 1, 0, 1).squeeze(-1)

    def diag(self, diagonal: int = 0) -> Self:
        """A matrix with this vector on a diagonal, or the diagonal of this matrix."""
        if self.ndim == 2:
            return self.diagonal(diagonal)
        if self.ndim != 1:
            raise fault(ShapeError, f"diag: expected a vector or a matrix, got {self._text()}")
        length = self.shape[0]
        flat = self.unsqueeze(1)._pad_constant([(0, 0), (0, length)])
        square = flat.reshape(-1)._part(0, 0, length * length).reshape(length, length)
        widths = [(max(-diagonal, 0), max(diagonal, 0)), (max(diagonal, 0), max(-diagonal, 0))]
        return square._pad_constant(widths)

    def _triangle(self, name: str, diagonal: int) -> tuple[Node, Node]:
        """(row + diagonal, column) of every element."""
        if self.ndim < 2:
            raise fault(ShapeError, f"{name}: expected at least 2 axes, got {self._text()}")
        rows = graph.iota(self.shape, self.ndim - 2)
        columns = graph.iota(self.shape, self.ndim - 1)
        return graph.compute(Op.ADD, rows, graph.const(diagonal, int32, self.shape)), columns

    def tril(self, diagonal: int = 0) -> Self:
        """The lower triangle; zeros above the diagonal."""
        rows, columns = self._triangle("tril", diagonal)
        zero = graph.const(0, self.dtype, self.shape)
        return self._wrap(graph.compute(Op.WHERE, graph.compute(Op.LT, rows, columns), zero, self.node))

    def triu(self, diagonal: int = 0) -> Self:
        """The upper triangle; zeros below the diagonal."""
        rows, columns = self._triangle("triu", diagonal)
        zero = graph.const(0, self.dtype, self.shape)
        return self._wrap(graph.compute(Op.WHERE, graph.compute(Op.LT, columns, rows), zero, self.node))


def size_node(size: Dim, shape: tuple[Dim, ...]) -> Node:
    """A size, perhaps symbolic, in every element of a shape."""
    if isinstance(size, int):
        return graph.const(size, int32, shape)
    return view.expand(view.reshape(graph.variable(size), (1,) * len(shape)), shape)


def _tensors(name: str, first: Any, others: Sequence[Any]) -> list[Any]:
    """`Tensor.f([a, b])`, `Tensor.f(a, b)` and `a.f(b)` alike."""
    tensors = [*first, *others] if isinstance(first, (list, tuple)) else [first, *others]
    if len(tensors) == 2 and isinstance(tensors[1], (list, tuple)):
        tensors = [tensors[0], *tensors[1]]
    if not tensors or not all(isinstance(tensor, Movement) for tensor in tensors):
        raise fault(ArgumentTypeError, f"{name}: expected tensors, got {[type(t).__name__ for t in tensors]}")
    return tensors


def _reflect(tensor: Any, axis: int, before: int, after: int) -> Any:
    size = tensor.shape[axis]
    if before >= size or after >= size:
        raise fault(ShapeError, f"pad: expected reflect widths below {size}, got {(before, after)}")
    left = tensor._part(axis, 1, before + 1).flip(axis)
    right = tensor._part(axis, size - 1 - after, size - 1).flip(axis)
    return left.cat(tensor, right, dim=axis)


def _replicate(tensor: Any, axis: int, before: int, after: int) -> Any:
    size = tensor.shape[axis]
    shape = list(tensor.shape)
    parts = []
    for width, edge in ((before, 0), (after, size - 1)):
        shape[axis] = width
        parts.append(tensor._part(axis, edge, edge + 1).expand(*shape))
    return parts[0].cat(tensor, parts[1], dim=axis)


def _circular(tensor: Any, axis: int, before: int, after: int) -> Any:
    size = tensor.shape[axis]
    if before > size or after > size:
        raise fault(ShapeError, f"pad: expected circular widths of at most {size}, got {(before, after)}")
    return tensor._part(axis, size - before, size).cat(tensor, tensor._part(axis, 0, after), dim=axis)
