"""A second opinion on graphs: evaluates nodes one by one in NumPy, apart from scheduler and devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from petaflop.graph.node import Node, toposort
from petaflop.graph.ops import COMPUTE, SPEC, Op

Array = np.ndarray[Any, Any]

_FOLDS = {Op.ADD: np.add, Op.MUL: np.multiply, Op.MAX: np.maximum}


def _reduce(node: Node, x: Array) -> Array:
    return _FOLDS[node.arg.op].reduce(x.astype(node.dtype.numpy), axis=node.arg.axes, keepdims=True)


def _scan(node: Node, x: Array) -> Array:
    return _FOLDS[node.arg.op].accumulate(x.astype(node.dtype.numpy), axis=node.arg.axis)


def _iota(node: Node) -> Array:
    line = np.arange(node.shape[node.arg], dtype=node.dtype.numpy)
    return np.broadcast_to(
        line.reshape([-1 if k == node.arg else 1 for k in range(len(node.shape))]), node.shape
    )


def _window(node: Node, x: Array) -> Array:
    axis, size, stride, dilation = node.arg
    span = dilation * (size - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(x, span, axis)
    picked = windows[(slice(None),) * axis + (slice(None, None, stride),)]
    return picked[..., ::dilation]


def _gather(node: Node, x: Array, index: Array) -> Array:
    size = x.shape[node.arg]
    inside = (index >= 0) & (index < size)
    return np.where(inside, np.take_along_axis(x, np.where(inside, index, 0), node.arg), 0).astype(x.dtype)


def _scatter(node: Node, x: Array, index: Array, values: Array) -> Array:
    out = x.copy()
    for place in np.ndindex(*index.shape):
        at = list(place)
        at[node.arg.axis] = int(index[place])
        if 0 <= at[node.arg.axis] < x.shape[node.arg.axis]:
            fold = _FOLDS.get(node.arg.op)
            out[tuple(at)] = values[place] if fold is None else fold(out[tuple(at)], values[place])
    return out


def _assign(node: Node, x: Array, value: Array) -> Array:
    if node.arg is None:
        return value
    out = x.copy()
    for place in np.ndindex(*value.shape):
        out[tuple(start + i * step for i, (start, _, step) in zip(place, node.arg, strict=True))] = value[
            place
        ]
    return out


_MEANING: dict[Op, Callable[..., Array]] = {
    Op.REDUCE: _reduce,
    Op.SCAN: _scan,
    Op.CAST: lambda node, x: x.astype(node.dtype.numpy),
    Op.CONST: lambda node: np.full(node.shape, node.arg, node.dtype.numpy),
    Op.IOTA: _iota,
    Op.RESHAPE: lambda node, x: x.reshape(node.shape),
    Op.PERMUTE: lambda node, x: x.transpose(node.arg),
    Op.EXPAND: lambda node, x: np.broadcast_to(x, node.shape),
    Op.PAD: lambda node, x: np.pad(x, node.arg),
    Op.SHRINK: lambda node, x: x[tuple(slice(a, b) for a, b in node.arg)],
    Op.FLIP: lambda node, x: np.flip(x, node.arg),
    Op.WINDOW: _window,
    Op.GATHER: _gather,
    Op.SCATTER: _scatter,
    Op.ASSIGN: _assign,
    Op.REALIZE: lambda node, x: x,
    Op.DETACH: lambda node, x: x,
    Op.CUSTOM: lambda node, *sources: node.arg.numpy(*sources),
}


def evaluate(roots: list[Node], values: dict[Node, Array]) -> list[Array]:
    """The values of `roots`, given those of leaves."""
    done = dict(values)
    with np.errstate(all="ignore"):
        for node in toposort(roots):
            if node in done:
                continue
            sources = [done[source] for source in node.sources]
            if node.op in COMPUTE:
                operator = SPEC[node.op].numpy
                assert operator is not None
                done[node] = operator(*sources)
            else:
                done[node] = _MEANING[node.op](node, *sources)
            assert done[node].shape == node.shape, (node, done[node].shape)
            assert done[node].dtype == node.dtype.numpy, (node, done[node].dtype)
    return [done[root] for root in roots]
