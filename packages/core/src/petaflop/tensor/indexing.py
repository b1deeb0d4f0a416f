"""NumPy's indexing: integers, slices, None, `...`, masks, integer arrays; read and write. Then gather and
scatter.

Slices and integers are views. Arrays of integers become one GATHER (SCATTER when written) over the axes they
name. Indices out of range raise IndexError where they are known when the graph is built; read on a device
they give 0.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from petaflop.dtype import bool_, int32, int64
from petaflop.errors import ArgumentError, ArgumentTypeError, DTypeError, IndexRangeError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr, product
from petaflop.tensor.base import TensorBase, broadcast_shapes
from petaflop.tensor.fault import fault
from petaflop.tensor.movement import size_node
from petaflop.tensor.random import Random

__all__ = ["Indexing"]


@dataclass(slots=True)
class _Axis:
    """What an index says about one axis: a region, read backwards or not, kept or dropped; or an array."""

    start: Dim
    count: Dim
    step: int = 1
    reverse: bool = False
    dropped: bool = False
    array: Any = None


_NEW = object()  # None in an index: a new axis


class Indexing(Random):
    """x[...] and x[...] = value."""

    __slots__ = ()

    # ---- reading ----

    def __getitem__(self, index: Any) -> Self:
        items = self._items(index)
        axes = [item for item in items if item is not _NEW]
        regions = self._regions(axes)
        if not any(axis.array is not None for axis in axes):
            return regions.reshape(tuple(_kept_sizes(items, regions.shape)))
        return self._gathered(items, axes, regions)

    def _items(self, index: Any) -> list[Any]:
        """One _Axis for each axis, _NEW for each new one, in order."""
        raw = list(index) if isinstance(index, tuple) else [index]
        raw = [self._prepared(item) for item in raw]
        used = sum(_consumes(item) for item in raw)
        dots = [position for position, item in enumerate(raw) if item is Ellipsis]
        if len(dots) > 1:
            raise fault(IndexRangeError, "index: expected at most one '...', got more")
        if used > self.ndim:
            raise fault(
                IndexRangeError, f"index: expected at most {self.ndim} indices for {self._text()}, got {used}"
            )
        place = dots[0] if dots else len(raw)
        raw[place : place + len(dots)] = [slice(None)] * (self.ndim - used)
        items: list[Any] = []
        axis = 0
        for item in raw:
            if item is None:
                items.append(_NEW)
            elif isinstance(item, TensorBase) and item.dtype is bool_:
                items.extend(self._mask_axes(item, axis))
                axis += item.ndim
            else:
                items.append(self._one_axis(item, axis))
                axis += 1
        return items

    def _prepared(self, item: Any) -> Any:
        """Lists and arrays as tensors; bounds are checked later, where the values are known."""
        if (
            isinstance(item, TensorBase)
            or item is None
            or item is Ellipsis
            or isinstance(item, (slice, Expr))
        ):
            return item
        if isinstance(item, (bool, np.bool_)):
            return self._wrap(graph.const(bool(item), bool_))
        if isinstance(item, (list, tuple, np.ndarray, range)):
            array = np.asarray(item)
            if array.size == 0 and not isinstance(item, np.ndarray):
                array = array.astype(np.int32)
            return type(self)(array, None, self.device) if array.dtype == np.bool_ else array
        try:
            return operator.index(item)
        except TypeError:
            raise fault(
                IndexRangeError,
                "index: expected integers, slices, None, ..., masks or integer arrays, "
                f"got {type(item).__name__}",
            ) from None

    def _one_axis(self, item: Any, axis: int) -> _Axis:
        size = self.shape[axis]
        if isinstance(item, slice):
            return _slice_axis(item, size)
        if isinstance(item, Expr):
            return _Axis(item, 1, dropped=True)
        if isinstance(item, int):
            if isinstance(size, int):
                if not -size <= item < size:
                    raise fault(
                        IndexRangeError,
                        f"index: expected -{size} <= index < {size} for axis {axis}, got {item}",
                    )
                return _Axis(item % size, 1, dropped=True)
            return _Axis(item if item >= 0 else size + item, 1, dropped=True)
        return _Axis(0, size, array=self._index_array(item, size, axis))

    def _index_array(self, item: Any, size: Dim, axis: int) -> Any:
        """Integer indices as a tensor, negative ones counted from the end."""
        if isinstance(item, np.ndarray):
            if item.dtype.kind not in "iu":
                raise fault(IndexRangeError, f"index: expected integers or bool, got {item.dtype}")
            if isinstance(size, int) and item.size and not (-size <= item.min() and item.max() < size):
                wrong = item.min() if item.min() < -size else item.max()
                raise fault(
                    IndexRangeError, f"index: expected -{size} <= index < {size} for axis {axis}, got {wrong}"
                )
            return type(self)(np.where(item < 0, item + size, item).astype(np.int32), None, self.device)
        if not item.dtype.is_integer:
            raise fault(IndexRangeError, f"index: expected integers or bool, got {item.dtype}")
        index = item.detach()
        wide = index.cast(int64 if index.dtype.itemsize == 8 else int32)
        return (wide < 0).where(wide + wide._wrap(size_node(size, ())), wide)

    def _mask_axes(self, mask: Any, axis: int) -> list[_Axis]:
        """A mask as the integer arrays of its true elements; computes, since the result's shape depends on
        it."""
        if mask.ndim == 0:
            raise fault(
                IndexRangeError, "index: expected a mask with axes, got a bool; use where() or unsqueeze(0)"
            )
        for offset, size in enumerate(mask.shape):
            if self.shape[axis + offset] != size:
                raise fault(
                    IndexRangeError,
                    f"index: expected a mask that matches {self._text()} at axis {axis + offset}, "
                    f"got {mask._text()}",
                )
        positions = np.nonzero(mask.numpy())
        return [
            _Axis(0, self.shape[axis + offset], array=type(self)(found.astype(np.int32), None, self.device))
            for offset, found in enumerate(positions)
        ]

    def _regions(self, axes: Sequence[_Axis]) -> Self:
        """The slices taken, every axis kept."""
        node = view.shrink(self.node, tuple(_span(axis) for axis in axes))
        for number, axis in enumerate(axes):
            if axis.step != 1 and axis.array is None and axis.count != 0:
                shape = list(node.shape)
                node = view.window(node, number, 1, axis.step)
                shape[number] = node.shape[number]
                node = view.reshape(node, tuple(shape))
        reversed_axes = tuple(number for number, axis in enumerate(axes) if axis.reverse)
        return self._wrap(view.flip(node, reversed_axes))

    def _gathered(self, items: list[Any], axes: list[_Axis], source: Self) -> Self:
        plan = _Plan(items, axes, source)
        flat = plan.grouped(source.node)
        shape = (*flat.shape[: plan.place], plan.count, *flat.shape[plan.place + 1 :])
        result = graph.gather(flat, plan.spread(shape), plan.place)
        return self._wrap(view.reshape(result, plan.result_shape(result.shape)))

    # ---- writing ----

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, TensorBase) and index.dtype is bool_ and self._set_mask(index, value):
            return
        items = self._items(index)
        axes = [item for item in items if item is not _NEW]
        source = self._lift(value)
        if any(axis.array is not None for axis in axes):
            self._set_scattered(items, axes, source)
            return
        sizes = tuple(axis.count for axis in axes)
        expected = tuple(_kept_sizes(items, sizes))
        node = graph.cast(_broadcast_value(source, expected), self.dtype)
        node = view.reshape(node, sizes)
        node = view.flip(node, tuple(number for number, axis in enumerate(axes) if axis.reverse))
        self._take_region(node, axes)

    def _take_region(self, node: Node, axes: Sequence[_Axis]) -> None:
        region = tuple((axis.start, axis.count, axis.step) for axis in axes)
        whole = all(r == (0, size, 1) for r, size in zip(region, self.shape, strict=True))
        self._take(node, None if whole else region)

    def _take(self, value: Node, region: Any = None) -> Self:
        raise NotImplementedError

    def _set_mask(self, mask: Any, value: Any) -> bool:
        """x[mask] = a value that does not depend on which elements are true: no need to know them."""
        rest = self.ndim - mask.ndim
        source = self._lift(value)
        if rest < 0 or mask.shape != self.shape[: mask.ndim] or source.ndim > rest:
            return False
        chosen = mask.reshape((*mask.shape, *(1,) * rest)).expand(self.shape)
        filled = graph.cast(_broadcast_value(source, self.shape), self.dtype)
        self._take(graph.compute(Op.WHERE, chosen.node, filled, self.node))
        return True

    def _set_scattered(self, items: list[Any], axes: list[_Axis], value: Any) -> None:
        source = self._regions(axes)
        plan = _Plan(items, axes, source)
        flat = plan.grouped(source.node)
        shape = (*flat.shape[: plan.place], plan.count, *flat.shape[plan.place + 1 :])
        wanted = plan.result_shape(shape)
        values = view.reshape(graph.cast(_broadcast_value(value, wanted), self.dtype), shape)
        written = plan.ungrouped(graph.scatter(flat, plan.spread(shape), values, plan.place, None))
        written = view.flip(written, tuple(number for number, axis in enumerate(axes) if axis.reverse))
        self._take_region(written, axes)

    # ---- along one axis ----

    def gather(self, dim: int, index: Any) -> Self:
        """out[i][j] = self[index[i][j]][j] for dim 0: indices of the result's shape, at most self's size
        elsewhere."""
        axis, chosen = self._indexed("gather", dim, index)
        ranges = tuple((0, n) for n in chosen.shape)
        ranges = tuple((0, self.shape[axis]) if k == axis else pair for k, pair in enumerate(ranges))
        return self._wrap(graph.gather(view.shrink(self.node, ranges), chosen.node, axis))

    def _indexed(self, name: str, dim: int, index: Any) -> tuple[int, Any]:
        chosen = self._lift(index).detach()
        axis = self._axis(name, dim)
        if not chosen.dtype.is_integer:
            raise fault(DTypeError, f"{name}: expected an integer index, got {chosen.dtype}")
        small = chosen.ndim == self.ndim and all(
            k == axis or not (isinstance(n, int) and isinstance(size, int)) or n <= size
            for k, (n, size) in enumerate(zip(chosen.shape, self.shape, strict=True))
        )
        if not small:
            raise fault(
                ShapeError,
                f"{name}: expected an index of {self.ndim} axes, at most {list(self.shape)} but for axis "
                f"{axis}, got {list(chosen.shape)}",
            )
        return axis, chosen

    def take_along_dim(self, index: Any, dim: int) -> Self:
        """`gather` whose index broadcasts with self but for `dim`, as NumPy's take_along_axis."""
        chosen, axis = self._lift(index), self._axis("take_along_dim", dim)
        shape = tuple(n if k == axis else self.shape[k] for k, n in enumerate(chosen.shape))
        return self.gather(axis, chosen.expand(shape))

    def index_select(self, dim: int, index: Any) -> Self:
        """The elements of one axis that a vector of indices names."""
        axis = self._axis("index_select", dim)
        return self[(slice(None),) * axis + (self._lift(index),)]

    def scatter(self, dim: int, index: Any, src: Any, reduce: str | None = None) -> Self:
        """A copy with out[index[i][j]][j] = src[i][j] for dim 0; `reduce` "add" or "multiply" folds in
        instead.

        With equal indices the last wins.
        """
        folds = {None: None, "add": Op.ADD, "multiply": Op.MUL}
        if reduce not in folds:
            raise fault(ArgumentError, f"scatter: expected reduce add, multiply or None, got {reduce!r}")
        return self._scattered("scatter", dim, index, src, folds[reduce])

    def scatter_add(self, dim: int, index: Any, src: Any) -> Self:
        """A copy with out[index[i][j]][j] += src[i][j] for dim 0, in the order of the index."""
        return self._scattered("scatter_add", dim, index, src, Op.ADD)

    def _scattered(self, name: str, dim: int, index: Any, src: Any, fold: Op | None) -> Self:
        axis, chosen = self._indexed(name, dim, index)
        if isinstance(src, TensorBase):
            short = src.ndim != self.ndim or any(
                isinstance(n, int) and isinstance(size, int) and n > size
                for n, size in zip(chosen.shape, src.shape, strict=True)
            )
            if short:
                raise fault(
                    ShapeError, f"{name}: expected a src of at least {list(chosen.shape)}, got {src._text()}"
                )
            values = view.shrink(src.node, tuple((0, n) for n in chosen.shape))
            if values.dtype is not self.dtype:
                raise fault(
                    DTypeError, f"{name}: expected a src of {self.dtype}, got {values.dtype}; cast it first"
                )
        else:
            values = graph.const(src, self.dtype, chosen.shape)
        # rows that the index does not reach get the index -1, which writes nothing
        widths = tuple((0, 0 if k == axis else self.shape[k] - n) for k, n in enumerate(chosen.shape))
        padded = chosen._pad_constant(widths, -1)
        return self._wrap(graph.scatter(self.node, padded.node, view.pad(values, widths), axis, fold))

    def scatter_reduce(self, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True) -> Self:
        """`scatter` that folds by "sum", "prod", "mean", "amax" or "amin", with or without what was there."""
        known = ("sum", "prod", "mean", "amax", "amin")
        if reduce not in known:
            raise fault(ArgumentError, f"scatter_reduce: expected one of {', '.join(known)}, got {reduce!r}")
        if reduce == "amin":
            return (
                self._mirrored().scatter_reduce(dim, index, src._mirrored(), "amax", include_self)._mirrored()
            )
        fold = {"sum": Op.ADD, "mean": Op.ADD, "prod": Op.MUL, "amax": Op.MAX}[reduce]
        base = self
        ones = src.ones_like(dtype=int32)
        count = self.zeros_like(dtype=int32)._scattered("scatter_reduce", dim, index, ones, Op.ADD)
        if not include_self:
            identity = {Op.ADD: 0, Op.MUL: 1, Op.MAX: self.dtype.min}[fold]
            base = (count > 0).where(self.full_like(identity), self)
        result = base._scattered("scatter_reduce", dim, index, src, fold)
        if reduce != "mean":
            return result
        total = count + 1 if include_self else count.maximum(1)
        return result / total.cast(self.dtype) if self.dtype.is_float else result // total.cast(self.dtype)

    # ---- by value: these compute, since their shapes depend on what is there ----

    def nonzero(self) -> Self:
        """The int32 indices of the elements that are not 0, one row each; computes."""
        found = np.argwhere(self.numpy()).astype(np.int32)
        return type(self)(found.reshape(-1, self.ndim), None, self.device)

    def masked_select(self, mask: Any) -> Self:
        """The elements where a mask (that broadcasts) holds, as a vector; computes."""
        chosen = self._lift(mask)
        if chosen.dtype is not bool_:
            raise fault(DTypeError, f"masked_select: expected a bool mask, got {chosen.dtype}")
        shape = broadcast_shapes("masked_select", [self, chosen])
        flat = self.broadcast_to(shape).flatten()
        return flat[chosen.broadcast_to(shape).flatten()]


class _Plan:
    """Where the index arrays go: the axes they name become one, at `place`, indexed by one flat integer."""

    def __init__(self, items: list[Any], axes: list[_Axis], source: Any) -> None:
        shape = source.shape
        # as in NumPy, an integer beside arrays is an array too; its region has been taken already
        arrays = [(number, axis.array) for number, axis in enumerate(axes) if axis.array is not None]
        self.items, self.axes = items, axes
        self.numbers = [number for number, _ in arrays]
        self.index_shape = broadcast_shapes("index", [array for _, array in arrays])
        places = [
            p for p, item in enumerate(items) if item is not _NEW and (item.array is not None or item.dropped)
        ]
        self.adjacent = places == list(range(places[0], places[-1] + 1))
        self.first_item = places[0]
        others = [number for number in range(len(axes)) if number not in self.numbers]
        before = [number for number in others if self.adjacent and number < self.numbers[0]]
        self.place = len(before)
        self.order = (*before, *self.numbers, *[number for number in others if number not in before])
        self.shape = shape
        self.index = self._flat_index([array for _, array in arrays])
        self.count = product(self.index_shape)

    def _flat_index(self, arrays: list[Any]) -> Any:
        total: Any = None
        for number, array in zip(self.numbers, arrays, strict=True):
            spread = array._wrap(array._expanded(self.index_shape))
            size = spread._wrap(size_node(self.shape[number], self.index_shape))
            total = spread if total is None else total * size + spread
        return total

    def grouped(self, node: Node) -> Node:
        """The axes of the arrays as one."""
        moved = view.permute(node, self.order)
        shape = moved.shape
        end = self.place + len(self.numbers)
        return view.reshape(moved, (*shape[: self.place], product(shape[self.place : end]), *shape[end:]))

    def ungrouped(self, node: Node) -> Node:
        """The inverse of `grouped`."""
        node = view.reshape(node, tuple(self.shape[axis] for axis in self.order))
        return view.permute(node, tuple(self.order.index(axis) for axis in range(len(self.order))))

    def spread(self, shape: tuple[Dim, ...]) -> Node:
        """The flat index along `place` in every element of a shape."""
        ones = tuple(self.count if axis == self.place else 1 for axis in range(len(shape)))
        return view.expand(view.reshape(self.index.node, ones), shape)

    def result_shape(self, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The shape that NumPy gives: the index's where the arrays stood, or in front where they stood apart.

        `shape` is grouped; sizes of dropped axes (1) vanish, new axes (1) appear.
        """
        rest = dict(
            zip(
                [axis for axis in self.order if axis not in self.numbers],
                _without(shape, self.place),
                strict=True,
            )
        )
        result: list[Dim] = []
        number = 0
        for position, item in enumerate(self.items):
            if self.adjacent and position == self.first_item:
                result.extend(self.index_shape)
            if item is _NEW:
                result.append(1)
                continue
            if item.array is None and not item.dropped:
                result.append(rest[number])
            number += 1
        return tuple(result) if self.adjacent else (*self.index_shape, *result)


def _without(shape: tuple[Dim, ...], place: int) -> tuple[Dim, ...]:
    return shape[:place] + shape[place + 1 :]


def _consumes(item: Any) -> int:
    """How many axes an index uses up."""
    if item is None or item is Ellipsis:
        return 0
    if isinstance(item, TensorBase) and item.dtype is bool_:
        return item.ndim
    return 1


def _kept_sizes(items: list[Any], sizes: Sequence[Dim]) -> list[Dim]:
    result: list[Dim] = []
    remaining = iter(sizes)
    for item in items:
        if item is _NEW:
            result.append(1)
            continue
        size = next(remaining)
        if not item.dropped:
            result.append(size)
    return result


def _slice_axis(item: slice, size: Dim) -> _Axis:
    values = (item.start, item.stop, item.step)
    if isinstance(size, int) and not any(isinstance(value, Expr) for value in values):
        try:
            found = range(*item.indices(size))
        except TypeError:
            raise fault(ArgumentTypeError, f"index: expected integers in a slice, got {item}") from None
        except ValueError:
            raise fault(ArgumentError, f"index: expected a step other than 0, got {item}") from None
        count = len(found)
        if not count:
            return _Axis(min(max(found.start, 0), size), 0)
        return _Axis(min(found[0], found[-1]), count, abs(found.step), found.step < 0)
    if item.step not in (None, 1):
        raise fault(ArgumentError, f"index: expected step 1 in a symbolic slice, got {item.step}")
    start = 0 if item.start is None else item.start
    stop = size if item.stop is None else item.stop
    start = size + start if isinstance(start, int) and start < 0 else start
    stop = size + stop if isinstance(stop, int) and stop < 0 else stop
    count = stop - start  # type: ignore[assignment]
    return _Axis(start, int(count.arg) if isinstance(count, Expr) and count.op is Op.CONST else count)


def _span(axis: _Axis) -> tuple[Dim, Dim]:
    """From the first to the last element of a region."""
    if axis.count == 0:
        return axis.start, axis.start
    if axis.step == 1:
        return axis.start, axis.start + axis.count
    return axis.start, axis.start + (axis.count - 1) * axis.step + 1


def _broadcast_value(source: Any, shape: tuple[Dim, ...]) -> Node:
    """A value for a region; leading axes of size 1 may be too many, as in NumPy."""
    node = source.node
    while len(node.shape) > len(shape) and node.shape[0] == 1:
        node = view.reshape(node, node.shape[1:])
    fits = len(node.shape) <= len(shape) and all(
        n in (1, size) for n, size in zip(node.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise fault(
            ShapeError, f"setitem: expected a value that broadcasts to {list(shape)}, got {source._text()}"
        )
    missing = len(shape) - len(node.shape)
    return view.expand(view.reshape(node, (1,) * missing + node.shape), shape)
