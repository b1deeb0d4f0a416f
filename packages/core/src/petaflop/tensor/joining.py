"""Tensors joined, split, rolled and padded; diagonals and triangles. Views, and choices by position."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Self

from petaflop.dtype import int32
from petaflop.errors import ArgumentError, ArgumentTypeError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim
from petaflop.tensor.base import common_dtype
from petaflop.tensor.movement import Movement, dims, size_node

__all__ = ["Joining"]


class Joining(Movement):
    """What takes tensors apart and puts them together."""

    __slots__ = ()

    # ---- joining and splitting ----

    def cat(self, *others: Any, dim: int = 0) -> Self:
        """Tensors joined along an existing axis; `a.cat(b, c, dim=1)` or `Tensor.cat([a, b, c], 1)`."""
        tensors, dim = _tensors_and_axis("cat", self, others, dim)
        if not all(tensor.ndim for tensor in tensors):
            raise ShapeError("cat: expected tensors with axes, got a scalar; use stack()")
        kept = [t for t in tensors if t.shape != (0,)] or tensors[:1]  # PyTorch skips legacy empty tensors
        first = kept[0]
        axis = first._axis("cat", dim)
        for tensor in kept[1:]:
            same = tensor.ndim == first.ndim and all(
                a == b for k, (a, b) in enumerate(zip(tensor.shape, first.shape, strict=True)) if k != axis
            )
            if not same:
                raise ShapeError(
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
        tensors, dim = _tensors_and_axis("stack", self, others, dim)
        for tensor in tensors[1:]:
            if tensor.shape != tensors[0].shape:
                raise ShapeError(f"stack: expected one shape, got {tensors[0]._text()} and {tensor._text()}")
        axis = tensors[0]._axis("stack", dim, extra=1)
        parts = [tensor.unsqueeze(axis) for tensor in tensors]
        return parts[0]._joined(parts, axis, common_dtype(tensors))

    def split(self, split_size: int | Sequence[int], dim: int = 0) -> tuple[Self, ...]:
        """Parts of `split_size` along an axis (the last may be smaller), or of the sizes given."""
        axis = self._axis("split", dim)
        total = self.size(axis)
        if isinstance(split_size, int):
            if split_size <= 0:
                raise ShapeError(f"split: expected a size > 0, got {split_size}")
            starts = range(0, max(total, 1), split_size)  # type: ignore[type-var]
            sizes = [min(split_size, total - start) for start in starts]  # type: ignore[type-var]
        else:
            sizes = list(split_size)
        if sum(sizes) != total or min(sizes, default=0) < 0:  # type: ignore[type-var]
            raise ShapeError(f"split: expected sizes that add up to {total}, got {sizes}")
        ends = list(itertools.accumulate(sizes))
        return tuple(self._part(axis, end - size, end) for size, end in zip(sizes, ends, strict=True))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Self, ...]:
        """At most `chunks` parts of equal size along an axis; the last may be smaller."""
        if chunks <= 0:
            raise ShapeError(f"chunk: expected chunks > 0, got {chunks}")
        size = self.size(dim)
        if size == 0:
            return self.split([0] * chunks, dim)
        return self.split(max(-(-size // chunks), 1), dim)  # type: ignore[arg-type, type-var]

    def unbind(self, dim: int = 0) -> tuple[Self, ...]:
        """The slices along an axis, without it."""
        axis = self._axis("unbind", dim)
        size = self.size(axis)
        if not isinstance(size, int):
            raise ShapeError(f"unbind: expected a known size, got {size}")
        return tuple(self._part(axis, k, k + 1).squeeze(axis) for k in range(size))

    def meshgrid(self, *others: Any, indexing: str = "ij") -> tuple[Self, ...]:
        """One tensor per vector, with an axis for each of them; "ij" or "xy" order."""
        if indexing not in ("ij", "xy"):
            raise ArgumentError(f"meshgrid: expected indexing ij or xy, got {indexing!r}")
        vectors = _tensors("meshgrid", self, others)
        for vector in vectors:
            if vector.ndim > 1:
                raise ShapeError(f"meshgrid: expected vectors, got {vector._text()}")
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
            raise ShapeError(f"diagonal: expected two different axes, got {dim1} and {dim2}")
        order = [axis for axis in range(self.ndim) if axis not in (a, b)]
        moved = self.permute(*order, a, b)
        rows, columns = moved.shape[-2:]
        length = max(min(rows + min(offset, 0), columns - max(offset, 0)), 0)  # type: ignore[type-var]
        if length == 0:
            return moved.shrink([*[None] * len(order), (0, 0), (0, 0)]).reshape(*moved.shape[:-2], 0)
        top, left = max(-offset, 0), max(offset, 0)
        square = moved.shrink([*[None] * len(order), (top, top + length), (left, left + length)])
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
            raise ShapeError(f"diag: expected a vector or a matrix, got {self._text()}")
        length = self.shape[0]
        flat = self.unsqueeze(1)._pad_constant([(0, 0), (0, length)])
        square = flat.reshape(-1)._part(0, 0, length * length).reshape(length, length)
        widths = [(max(-diagonal, 0), max(diagonal, 0)), (max(diagonal, 0), max(-diagonal, 0))]
        return square._pad_constant(widths)

    def _triangle(self, name: str, diagonal: int) -> tuple[Node, Node]:
        """(row + diagonal, column) of every element."""
        if self.ndim < 2:
            raise ShapeError(f"{name}: expected at least 2 axes, got {self._text()}")
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

    # ---- around the edges ----

    def roll(self, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Self:
        """Elements shifted along axes, those that leave coming in at the other end; over the flat tensor
        without axes."""
        if dims is None:
            return self.flatten().roll(shifts, 0).reshape(self.shape)
        amounts = (shifts,) if isinstance(shifts, int) else tuple(shifts)
        listed = (dims,) if isinstance(dims, int) else dims
        axes = tuple(self._axis("roll", axis) for axis in listed)
        if len(amounts) != len(axes):
            raise ShapeError(f"roll: expected one shift per axis, got {len(amounts)} and {len(axes)}")
        result = self
        for amount, axis in zip(amounts, axes, strict=True):
            size = self.shape[axis]
            if self.numel() == 0 or (cut := -amount % size) == 0:
                continue
            result = result._part(axis, cut, size).cat(result._part(axis, 0, cut), dim=axis)
        return result

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
            raise ArgumentError(f"pad: expected constant, reflect, replicate or circular, got {mode!r}")
        crop = [(min(before, 0), min(after, 0)) for before, after in widths]
        # as in PyTorch, what has been cut off is still reflected, but no longer wraps around
        result = self._pad_constant(crop) if mode == "circular" else self
        for axis, (before, after) in enumerate(widths):
            if before > 0 or after > 0:
                result = pick(result, axis, max(before, 0), max(after, 0))
        return result if mode == "circular" else result._pad_constant(crop)

    def _pad_widths(self, padding: Sequence[Any]) -> list[tuple[Any, Any]]:
        if any(width is None or isinstance(width, (tuple, list)) for width in padding):
            if len(padding) != self.ndim:
                raise ShapeError(f"pad: expected {self.ndim} pairs for {self._text()}, got {len(padding)}")
            return [(0, 0) if width is None else (width[0], width[1]) for width in padding]
        flat = dims("pad", (tuple(padding),))
        if len(flat) % 2 or len(flat) > 2 * self.ndim:
            raise ShapeError(f"pad: expected pairs for up to {self.ndim} axes, got {len(flat)} widths")
        pairs = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
        return [(0, 0)] * (self.ndim - len(pairs)) + pairs


def _tensors(name: str, first: Any, others: Sequence[Any]) -> list[Any]:
    """`Tensor.f([a, b])`, `Tensor.f(a, b)` and `a.f(b)` alike."""
    tensors = [*first, *others] if isinstance(first, (list, tuple)) else [first, *others]
    if len(tensors) == 2 and isinstance(tensors[1], (list, tuple)):
        tensors = [tensors[0], *tensors[1]]
    if not tensors:
        raise ShapeError(f"{name}: expected at least one tensor, got none")
    if not all(isinstance(tensor, Movement) for tensor in tensors):
        raise ArgumentTypeError(f"{name}: expected tensors, got {[type(t).__name__ for t in tensors]}")
    return tensors


def _tensors_and_axis(name: str, first: Any, others: Sequence[Any], dim: int) -> tuple[list[Any], int]:
    """The tensors, and the axis: the only other argument after a list, as in `torch.cat([a, b], 1)`."""
    if isinstance(first, (list, tuple)) and len(others) == 1 and isinstance(others[0], int):
        return _tensors(name, first, ()), others[0]
    return _tensors(name, first, others), dim


def _reflect(tensor: Any, axis: int, before: int, after: int) -> Any:
    size = tensor.shape[axis]
    if before >= size or after >= size:
        raise ShapeError(f"pad: expected reflect widths below {size}, got {(before, after)}")
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
        raise ShapeError(f"pad: expected circular widths of at most {size}, got {(before, after)}")
    return tensor._part(axis, size - before, size).cat(tensor, tensor._part(axis, 0, after), dim=axis)
