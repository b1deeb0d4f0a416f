"""NumPy's indexing: integers, slices, None, `...`, masks, integer arrays; read and write.

Slices and integers are views. Arrays of integers become one GATHER (SCATTER when written) over the axes they
name. Indices out of range raise IndexError where they are known when the graph is built; read on a device
they give 0.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from petaflop.dtype import bool_, int32, int64
from petaflop.errors import IndexRangeError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr
from petaflop.tensor.base import TensorBase
from petaflop.tensor.index_plan import NEW, NOTHING, Axis, IndexPlan, kept_sizes, slice_axis, span
from petaflop.tensor.movement import size_node
from petaflop.tensor.random import Random

__all__ = ["Indexing"]


class Indexing(Random):
    """x[...] and x[...] = value."""

    __slots__ = ()

    # ---- reading ----

    def __getitem__(self, index: Any) -> Self:
        raw = self._raw(index)
        if any(_is_flag(item) for item in raw):
            shape, rest = self._flags_as_axes(raw)
            return self.reshape(shape)[rest]
        items = self._items(raw)
        axes = [item for item in items if isinstance(item, Axis)]
        regions = self._regions(axes)
        if not any(axis.array is not None for axis in axes):
            return regions.reshape(tuple(kept_sizes(items, regions.shape)))
        return self._gathered(items, axes, regions)

    def _raw(self, index: Any) -> list[Any]:
        """The parts of an index, a `...` that stands for axes as slices: every axis is named once."""
        raw = list(index) if isinstance(index, tuple) else [index]
        raw = [self._prepared(item) for item in raw]
        used = sum(_consumes(item) for item in raw)
        dots = [position for position, item in enumerate(raw) if item is Ellipsis]
        if len(dots) > 1:
            raise IndexRangeError("index: expected at most one '...', got more")
        if used > self.ndim:
            raise IndexRangeError(
                f"index: expected at most {self.ndim} indices for {self._text()}, got {used}"
            )
        place = dots[0] if dots else len(raw)
        if self.ndim > used:  # one of no width still parts the arrays beside it
            raw[place : place + len(dots)] = [slice(None)] * (self.ndim - used)
        return raw

    def _flags_as_axes(self, raw: list[Any]) -> tuple[tuple[Dim, ...], tuple[Any, ...]]:
        """True and False in an index, each as a new axis of size 1 of which it picks all or nothing."""
        shape: list[Dim] = []
        index: list[Any] = []
        axis = 0
        for item in raw:
            if _is_flag(item):
                shape.append(1)
                index.append(np.arange(int(bool(item))))
            else:
                count = _consumes(item)
                shape.extend(self.shape[axis : axis + count])
                index.append(item)
                axis += count
        return tuple(shape), tuple(index)

    def _items(self, raw: list[Any]) -> list[Any]:
        """One Axis for each axis, NEW for each new one, NOTHING for a `...` of no width, in order."""
        items: list[Any] = []
        axis = 0
        for item in raw:
            if item is None:
                items.append(NEW)
            elif item is Ellipsis:
                items.append(NOTHING)
            elif _is_mask(item):
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
            return np.asarray(item)
        if isinstance(item, (list, tuple, np.ndarray, range)):
            try:
                array = np.asarray(item)
            except ValueError:
                raise IndexRangeError(f"index: expected rows of one length, got {item}") from None
            return array.astype(np.int32) if array.size == 0 and not isinstance(item, np.ndarray) else array
        try:
            return operator.index(item)
        except TypeError:
            raise IndexRangeError(
                "index: expected integers, slices, None, ..., masks or integer arrays, "
                f"got {type(item).__name__}",
            ) from None

    def _one_axis(self, item: Any, axis: int) -> Axis:
        size = self.shape[axis]
        if isinstance(item, slice):
            return slice_axis(item, size)
        if isinstance(item, Expr):
            return Axis(item, 1, dropped=True)
        if isinstance(item, int):
            if isinstance(size, int):
                if not -size <= item < size:
                    raise IndexRangeError(
                        f"index: expected -{size} <= index < {size} for axis {axis}, got {item}",
                    )
                return Axis(item % size, 1, dropped=True)
            return Axis(item if item >= 0 else size + item, 1, dropped=True)
        return Axis(0, size, array=self._index_array(item, size, axis), checked=isinstance(item, np.ndarray))

    def _index_array(self, item: Any, size: Dim, axis: int) -> Any:
        """Integer indices as a tensor, negative ones counted from the end."""
        if isinstance(item, np.ndarray):
            if item.dtype.kind not in "iu":
                raise IndexRangeError(f"index: expected integers or bool, got {item.dtype}")
            if isinstance(size, int) and item.size and not (-size <= item.min() and item.max() < size):
                wrong = item.min() if item.min() < -size else item.max()
                raise IndexRangeError(
                    f"index: expected -{size} <= index < {size} for axis {axis}, got {wrong}"
                )
            return type(self)(np.where(item < 0, item + size, item).astype(np.int32), None, self.device)
        if not item.dtype.is_integer:
            raise IndexRangeError(f"index: expected integers or bool, got {item.dtype}")
        index = item.detach()
        self._expect_indices("index", index, axis, least=None)
        wide = index.cast(int64 if index.dtype.itemsize == 8 else int32)
        return (wide < 0).where(wide + wide._wrap(size_node(size, ())), wide)

    def _mask_axes(self, mask: Any, axis: int) -> list[Axis]:
        """A mask as the integer arrays of its true elements; computes, since the result's shape depends on
        it."""
        for offset, size in enumerate(mask.shape):
            if self.shape[axis + offset] != size:
                raise IndexRangeError(
                    f"index: expected a mask that matches {self._text()} at axis {axis + offset}, "
                    f"got {list(mask.shape)}",
                )
        positions = np.nonzero(mask if isinstance(mask, np.ndarray) else mask.numpy())
        return [self._one_axis(found, axis + offset) for offset, found in enumerate(positions)]

    def _regions(self, axes: Sequence[Axis]) -> Self:
        """The slices taken, every axis kept."""
        node = view.shrink(self.node, tuple(span(axis) for axis in axes))
        for number, axis in enumerate(axes):
            if axis.step != 1 and axis.array is None and axis.count != 0:
                shape = list(node.shape)
                node = view.window(node, number, 1, axis.step)
                shape[number] = node.shape[number]
                node = view.reshape(node, tuple(shape))
        reversed_axes = tuple(number for number, axis in enumerate(axes) if axis.reverse)
        return self._wrap(view.flip(node, reversed_axes))

    def _gathered(self, items: list[Any], axes: list[Axis], source: Self) -> Self:
        plan = IndexPlan(items, axes, source)
        flat = plan.grouped(source.node)
        shape = (*flat.shape[: plan.place], plan.count, *flat.shape[plan.place + 1 :])
        result = graph.gather(flat, plan.spread(shape), plan.place)
        return self._wrap(view.reshape(result, plan.result_shape(result.shape)))

    # ---- writing ----

    def __setitem__(self, index: Any, value: Any) -> None:
        raw = self._raw(index)
        if any(_is_flag(item) for item in raw):
            shape, rest = self._flags_as_axes(raw)
            changed = self.reshape(shape)
            changed[rest] = value
            self._take(view.reshape(changed.node, self.shape))
            return
        if (
            raw
            and _is_mask(raw[0])
            and all(isinstance(item, slice) and item == slice(None) for item in raw[1:])
        ):
            mask = raw[0] if isinstance(raw[0], TensorBase) else self._lift(raw[0])
            if self._set_mask(mask, value):
                return
        items = self._items(raw)
        axes = [item for item in items if isinstance(item, Axis)]
        source = self._lift(value)
        if any(axis.array is not None for axis in axes):
            self._set_scattered(items, axes, source)
            return
        sizes = tuple(axis.count for axis in axes)
        expected = tuple(kept_sizes(items, sizes))
        node = graph.cast(_broadcast_value(source, expected), self.dtype)
        node = view.reshape(node, sizes)
        node = view.flip(node, tuple(number for number, axis in enumerate(axes) if axis.reverse))
        self._take_region(node, axes)

    def _take_region(self, node: Node, axes: Sequence[Axis]) -> None:
        region = tuple((axis.start, axis.count, axis.step) for axis in axes)
        whole = all(r == (0, size, 1) for r, size in zip(region, self.shape, strict=True))
        self._take(node, None if whole else region)

    def _take(self, value: Node, region: Any = None) -> Self:
        raise NotImplementedError

    def _set_mask(self, mask: Any, value: Any) -> bool:
        """x[mask] = a value that does not depend on which elements are true: no need to know them."""
        rest = self.ndim - mask.ndim
        source = self._lift(value)
        if mask.shape != self.shape[: mask.ndim] or source.ndim > rest:
            return False
        chosen = mask.reshape((*mask.shape, *(1,) * rest)).expand(self.shape)
        filled = graph.cast(_broadcast_value(source, self.shape), self.dtype)
        self._take(graph.compute(Op.WHERE, chosen.node, filled, self.node))
        return True

    def _set_scattered(self, items: list[Any], axes: list[Axis], value: Any) -> None:
        source = self._regions(axes)
        plan = IndexPlan(items, axes, source)
        flat = plan.grouped(source.node)
        shape = (*flat.shape[: plan.place], plan.count, *flat.shape[plan.place + 1 :])
        wanted = plan.result_shape(shape)
        values = view.reshape(graph.cast(_broadcast_value(value, wanted), self.dtype), shape)
        written = plan.ungrouped(graph.scatter(flat, plan.spread(shape), values, plan.place, None))
        written = view.flip(written, tuple(number for number, axis in enumerate(axes) if axis.reverse))
        self._take_region(written, axes)


def _is_mask(item: Any) -> bool:
    return (isinstance(item, TensorBase) and item.dtype is bool_) or (
        isinstance(item, np.ndarray) and item.dtype == np.bool_
    )


def _is_flag(item: Any) -> bool:
    """True or False, as a number or as a scalar tensor."""
    return _is_mask(item) and item.ndim == 0


def _consumes(item: Any) -> int:
    """How many axes an index uses up."""
    if item is None or item is Ellipsis:
        return 0
    return item.ndim if _is_mask(item) else 1


def _broadcast_value(source: Any, shape: tuple[Dim, ...]) -> Node:
    """A value for a region; leading axes of size 1 may be too many, as in NumPy."""
    node = source.node
    while len(node.shape) > len(shape) and node.shape[0] == 1:
        node = view.reshape(node, node.shape[1:])
    fits = len(node.shape) <= len(shape) and all(
        n in (1, size) for n, size in zip(node.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ShapeError(f"setitem: expected a value that broadcasts to {list(shape)}, got {source._text()}")
    missing = len(shape) - len(node.shape)
    return view.expand(view.reshape(node, (1,) * missing + node.shape), shape)
