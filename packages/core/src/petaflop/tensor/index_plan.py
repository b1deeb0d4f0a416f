"""What an index says about each axis, and where its arrays go: NumPy's rules as data for reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from petaflop.dtype import int32, int64
from petaflop.errors import ArgumentError, ArgumentTypeError, IndexRangeError, ShapeError
from petaflop.graph import view
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr, product
from petaflop.tensor.base import broadcast_shapes
from petaflop.tensor.movement import size_node

__all__ = ["NEW", "NOTHING", "Axis", "IndexPlan", "kept_sizes", "slice_axis", "span"]


@dataclass(slots=True)
class Axis:
    """What an index says about one axis: a region, read backwards or not, kept or dropped; or an array."""

    start: Dim
    count: Dim
    step: int = 1
    reverse: bool = False
    dropped: bool = False
    array: Any = None
    checked: bool = False  # its values are known to be in range


NEW = object()  # None in an index: a new axis
NOTHING = object()  # `...` where every axis is named: it only parts the arrays beside it


class IndexPlan:
    """Where the index arrays go: the axes they name become one, at `place`, indexed by one flat integer."""

    def __init__(self, items: list[Any], axes: list[Axis], source: Any) -> None:
        shape = source.shape
        # as in NumPy, an integer beside arrays is an array too; its region has been taken already
        arrays = [(number, axis) for number, axis in enumerate(axes) if axis.array is not None]
        self.items, self.axes = items, axes
        self.numbers = [number for number, _ in arrays]
        self.index_shape = self._common_shape([axis.array for _, axis in arrays])
        places = [
            p
            for p, item in enumerate(items)
            if isinstance(item, Axis) and (item.array is not None or item.dropped)
        ]
        self.adjacent = places == list(range(places[0], places[-1] + 1))
        self.first_item = places[0]
        others = [number for number in range(len(axes)) if number not in self.numbers]
        before = [number for number in others if self.adjacent and number < self.numbers[0]]
        self.place = len(before)
        self.order = (*before, *self.numbers, *[number for number in others if number not in before])
        self.shape = shape
        self.index = self._flat_index([axis for _, axis in arrays])
        self.count = product(self.index_shape)

    def _common_shape(self, arrays: list[Any]) -> tuple[Dim, ...]:
        try:
            return broadcast_shapes("index", arrays)
        except ShapeError as error:  # NumPy and PyTorch raise IndexError for this one
            raise IndexRangeError(str(error)) from None

    def _flat_index(self, axes: list[Axis]) -> Any:
        sizes = [self.shape[number] for number in self.numbers]
        total, inside = None, None
        many = product(sizes)
        wide = int64 if isinstance(many, int) and many > int32.max else None
        for size, axis in zip(sizes, axes, strict=True):
            spread = axis.array._wrap(axis.array._expanded(self.index_shape))
            spread = spread if wide is None else spread.cast(wide)
            total = spread if total is None else total * spread._wrap(size_node(size, ())) + spread
            if len(axes) > 1 and not axis.checked:  # or one index too far would be an element of the next row
                fits = (spread >= 0) & (spread < spread._wrap(size_node(size, ())))
                inside = fits if inside is None else inside & fits
        return total if inside is None else inside.where(total, -1)

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
            if not isinstance(item, Axis):
                result += [1] if item is NEW else []
                continue
            if item.array is None and not item.dropped:
                result.append(rest[number])
            number += 1
        return tuple(result) if self.adjacent else (*self.index_shape, *result)


def _without(shape: tuple[Dim, ...], place: int) -> tuple[Dim, ...]:
    return shape[:place] + shape[place + 1 :]


def kept_sizes(items: list[Any], sizes: Sequence[Dim]) -> list[Dim]:
    result: list[Dim] = []
    remaining = iter(sizes)
    for item in items:
        if not isinstance(item, Axis):
            result += [1] if item is NEW else []
            continue
        size = next(remaining)
        if not item.dropped:
            result.append(size)
    return result


def slice_axis(item: slice, size: Dim) -> Axis:
    values = (item.start, item.stop, item.step)
    if isinstance(size, int) and not any(isinstance(value, Expr) for value in values):
        try:
            found = range(*item.indices(size))
        except TypeError:
            raise ArgumentTypeError(f"index: expected integers in a slice, got {item}") from None
        except ValueError:
            raise ArgumentError(f"index: expected a step other than 0, got {item}") from None
        count = len(found)
        if not count:
            return Axis(min(max(found.start, 0), size), 0)
        return Axis(min(found[0], found[-1]), count, abs(found.step), found.step < 0)
    if item.step not in (None, 1):
        raise ArgumentError(f"index: expected step 1 in a symbolic slice, got {item.step}")
    start = 0 if item.start is None else item.start
    stop = size if item.stop is None else item.stop
    start = size + start if isinstance(start, int) and start < 0 else start
    stop = size + stop if isinstance(stop, int) and stop < 0 else stop
    count = stop - start  # type: ignore[assignment]
    return Axis(start, int(count.arg) if isinstance(count, Expr) and count.op is Op.CONST else count)


def span(axis: Axis) -> tuple[Dim, Dim]:
    """From the first to the last element of a region."""
    if axis.count == 0:
        return axis.start, axis.start
    if axis.step == 1:
        return axis.start, axis.start + axis.count
    return axis.start, axis.start + (axis.count - 1) * axis.step + 1
