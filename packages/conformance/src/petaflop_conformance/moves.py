"""The oracle's rules for leaves, views, indexed operations and effects: all exact, so values and errors just
move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from petaflop.errors import ArgumentError
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, evaluate
from petaflop_conformance.bounded import Bounded, Policy, exact
from petaflop_conformance.rules import Rule, add, maximum, multiply

__all__ = ["MOVES", "sizes", "take_windows"]

Array = np.ndarray[Any, Any]


def sizes(shape: tuple[Dim, ...]) -> tuple[int, ...]:
    """A shape with every bound Variable replaced by its value."""
    return tuple(evaluate(size) for size in shape)


def _each(source: Bounded, move: Callable[[Array], Array]) -> Bounded:
    return Bounded(move(source.value), move(source.error), move(source.free))


# ---- leaves ----


def _const(node: Node, policy: Policy) -> Bounded:
    number = np.float64(node.arg) if node.dtype.is_float else node.dtype.numpy.type(node.arg)
    return exact(np.broadcast_to(number, sizes(node.shape)))


def _iota(node: Node, policy: Policy) -> Bounded:
    shape = sizes(node.shape)
    column = [1] * len(shape)
    column[node.arg] = -1
    counts = np.arange(shape[node.arg]).astype(np.float64 if node.dtype.is_float else node.dtype.numpy)
    return exact(np.broadcast_to(counts.reshape(column), shape))


def _variable(node: Node, policy: Policy) -> Bounded:
    return exact(np.array(evaluate(node.arg), node.dtype.numpy))


def _buffer(node: Node, policy: Policy) -> Bounded:
    raise ArgumentError(f"oracle: expected every BUFFER among the inputs, got {node} without its array")


# ---- views ----


def _pad(node: Node, policy: Policy, source: Bounded) -> Bounded:
    widths = [sizes(pair) for pair in node.arg]
    return _each(source, lambda array: np.pad(array, widths) if widths else array)


def _shrink(node: Node, policy: Policy, source: Bounded) -> Bounded:
    region = tuple(slice(*sizes(pair)) for pair in node.arg)
    return _each(source, lambda array: array[region])


def _flip(node: Node, policy: Policy, source: Bounded) -> Bounded:
    return _each(source, lambda array: np.flip(array, node.arg))


def take_windows(array: Array, axis: int, size: int, stride: int, dilation: int) -> Array:
    """`axis` becomes the positions of a sliding window, a new last axis its taps."""
    positions = (array.shape[axis] - dilation * (size - 1) - 1) // stride + 1
    index = np.arange(positions)[:, None] * stride + np.arange(size)[None, :] * dilation
    return np.moveaxis(np.take(array, index, axis=axis), axis + 1, -1)


def _window(node: Node, policy: Policy, source: Bounded) -> Bounded:
    return _each(source, lambda array: take_windows(array, *node.arg))


# ---- indexed ----


def _gather(node: Node, policy: Policy, source: Bounded, index: Bounded) -> Bounded:
    axis = node.arg
    length = source.shape[axis]
    position = index.value.astype(object) if index.value.dtype == np.uint64 else index.value.astype(np.int64)
    inside = ((position >= 0) & (position < length)).astype(bool)
    if not length:
        zero = np.zeros(index.shape, source.value.dtype)
        return exact(zero, index.free)
    safe = np.where(inside, position, 0).astype(np.int64)
    taken = _each(source, lambda array: np.take_along_axis(array, safe, axis))
    zero = np.zeros((), source.value.dtype)
    return Bounded(
        np.where(inside, taken.value, zero),
        np.where(inside, taken.error, 0.0),
        index.free | (inside & taken.free),
    )


def _scatter(node: Node, policy: Policy, source: Bounded, index: Bounded, values: Bounded) -> Bounded:
    """One index after another along the axis, so duplicates fall in order; an unclear index makes its line
    free."""
    axis = node.arg.axis
    combine = {
        None: lambda old, new: new,
        Op.ADD: lambda old, new: add(node.dtype, policy, old, new),
        Op.MUL: lambda old, new: multiply(node.dtype, policy, old, new),
        Op.MAX: lambda old, new: maximum(node.dtype, old, new),
    }[node.arg.op]
    lines = [_as_lines(np.array(array), axis) for array in (source.value, source.error, source.free)]
    lines[2] |= _as_lines(index.free, axis).any(-1, keepdims=True)
    moved = _each(values, lambda array: _as_lines(array, axis))
    positions = _as_lines(index.value, axis)
    for step in range(positions.shape[-1]):
        position = positions[..., step]
        rows = np.nonzero((position >= 0) & (position < lines[0].shape[-1]))
        where = (*rows, position[rows].astype(np.int64))
        old = Bounded(*(line[where] for line in lines))
        new = combine(old, _each(moved, lambda array, rows=rows, step=step: array[..., step][rows]))  # type: ignore[misc]
        lines[0][where], lines[1][where], lines[2][where] = new.value, new.error, new.free | old.free
    return Bounded(*(np.moveaxis(line, -1, axis + 1)[0] for line in lines))


def _as_lines(array: Array, axis: int) -> Array:
    return np.moveaxis(array[None], axis + 1, -1)


# ---- effects ----


def _assign(node: Node, policy: Policy, target: Bounded, value: Bounded) -> Bounded:
    if node.arg is None:
        return value
    where = tuple(_region(*(evaluate(part) for part in region)) for region in node.arg)
    result = [np.array(array) for array in (target.value, target.error, target.free)]
    for old, new in zip(result, (value.value, value.error, value.free), strict=True):
        old[where] = new
    return Bounded(*result)


def _region(start: int, count: int, step: int) -> slice:
    stop = start + count * step
    return slice(start, stop if stop >= 0 else None, step)


def _same(node: Node, policy: Policy, source: Bounded) -> Bounded:
    return source


def _custom(node: Node, policy: Policy, *sources: Bounded) -> Bounded:
    raise ArgumentError(
        "oracle: expected primitive operations, got CUSTOM; compare it with what its author states"
    )


MOVES: dict[Op, Rule] = {
    Op.CONST: _const,
    Op.BUFFER: _buffer,
    Op.VAR: _variable,
    Op.IOTA: _iota,
    Op.RESHAPE: lambda node, policy, a: _each(a, lambda array: array.reshape(sizes(node.shape))),
    Op.PERMUTE: lambda node, policy, a: _each(a, lambda array: array.transpose(node.arg)),
    Op.EXPAND: lambda node, policy, a: _each(a, lambda array: np.broadcast_to(array, sizes(node.shape))),
    Op.PAD: _pad,
    Op.SHRINK: _shrink,
    Op.FLIP: _flip,
    Op.WINDOW: _window,
    Op.GATHER: _gather,
    Op.SCATTER: _scatter,
    Op.ASSIGN: _assign,
    Op.COPY: _same,
    Op.REALIZE: _same,
    Op.DETACH: _same,
    Op.CUSTOM: _custom,
}
