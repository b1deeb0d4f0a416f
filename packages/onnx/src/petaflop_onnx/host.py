"""Shape arithmetic on the host: what NumPy may compute, which is integers and bools that come from shapes
and constants.

Everything else is a Tensor. The table below covers the operators that exporters use to compute shapes, axes
and slices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from petaflop_onnx.table import Call
from petaflop_onnx.tensors import DTYPES

__all__ = ["FOLD", "LARGEST_FOLD", "as_text", "axes_of", "normalize_axis", "slices_of"]

Array = np.ndarray[Any, Any]
LARGEST_FOLD = 1 << 12  # elements; larger constants are data, not shapes


def normalize_axis(axis: int, rank: int) -> int:
    """An axis counted from the front; ValueError when it is out of range."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis: expected {-rank} to {rank - 1}, got {axis}")
    return axis % rank if rank else 0


def axes_of(call: Call, given: Array | None, rank: int) -> tuple[int, ...]:
    """Sorted axes from an input or, in older versions, from an attribute; all axes where there are none."""
    axes = call.get("axes") if given is None else tuple(int(axis) for axis in given.ravel())
    if axes is None:
        return tuple(range(rank))
    return tuple(sorted({normalize_axis(axis, rank) for axis in axes}))


def slices_of(call: Call, shape: tuple[int, ...], *given: Array | None) -> tuple[slice, ...]:
    """Python slices for ONNX's starts, ends, axes and steps; ONNX clamps as Python does."""
    starts, ends, axes, steps = (*given, None, None, None, None)[:4]
    first = call["starts"] if starts is None else starts.ravel().tolist()
    last = call["ends"] if ends is None else ends.ravel().tolist()
    which = call.get("axes", range(len(first))) if axes is None else axes.ravel().tolist()
    stride = [1] * len(first) if steps is None else steps.ravel().tolist()
    if not len(first) == len(last) == len(which) == len(stride) or 0 in stride:
        raise ValueError(
            f"starts: expected as many as ends, axes and steps, and no step 0, got {list(first)}"
        )
    result = [slice(None)] * len(shape)
    for start, stop, axis, step in zip(first, last, which, stride, strict=True):
        axis = normalize_axis(axis, len(shape))
        backwards_to_front = step < 0 and stop < -shape[axis]
        result[axis] = slice(start, None if backwards_to_front else stop, step)
    return tuple(result)


def _squeeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    if axes is None and call.get("axes") is None:
        return x.squeeze()
    return x.squeeze(axes_of(call, axes, x.ndim))


def _unsqueeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    given = call.get("axes") if axes is None else axes.ravel().tolist()
    return np.expand_dims(x, tuple(given))


def _divide(_: Call, a: Array, b: Array) -> Array:
    """Integer division towards zero; by zero gives 0, as no shape depends on it."""
    safe = np.where(b == 0, 1, b)
    quotient = np.abs(a) // np.abs(safe) * np.sign(a) * np.sign(safe)
    return np.where(b == 0, 0, quotient).astype(np.result_type(a, b))


def _reduce(function: Callable[..., Any]) -> Callable[..., Array]:
    def fold(call: Call, x: Array, axes: Array | None = None) -> Array:
        if axes is not None and axes.size == 0 and call.get("noop_with_empty_axes"):
            return x
        given = None if axes is not None and axes.size == 0 else axes
        which = axes_of(call, given, x.ndim)
        return np.asarray(function(x, axis=which, keepdims=bool(call["keepdims"])), x.dtype)

    return fold


def _gather(call: Call, x: Array, index: Array) -> Array:
    return np.take(x, index, axis=normalize_axis(call["axis"], x.ndim))


def _reshape(call: Call, x: Array, shape: Array) -> Array:
    target = [
        x.shape[k] if size == 0 and not call.get("allowzero") else size
        for k, size in enumerate(shape.tolist())
    ]
    return x.reshape(target)


def _cast(call: Call, x: Array) -> Array:
    if call["to"] == TensorProto.STRING:
        return as_text(x)
    if x.dtype.kind != "O":
        return x.astype(DTYPES[call["to"]])
    dtype = DTYPES[call["to"]]
    parse: Callable[[str], Any] = float if dtype.kind not in "iu" else lambda text: int(float(text))
    return np.asarray([parse(text) for text in x.ravel()]).astype(dtype).reshape(x.shape)


def as_text(x: Array) -> Array:
    """Numbers as the shortest text that gives them back; whole floats without a point."""
    texts = np.empty(x.size, object)
    texts[:] = [_number_text(value) for value in x.ravel()]
    return texts.reshape(x.shape)


def _number_text(value: Any) -> str:
    if isinstance(value, (np.bool_, np.integer, str)):
        return str(value)
    names = {"nan": "NaN", "inf": "INF", "-inf": "-INF"}
    text = str(value)
    return names.get(text, text.removesuffix(".0"))


def _elementwise(function: Callable[..., Any]) -> Callable[..., Array]:
    def fold(_: Call, *operands: Array) -> Array:
        result = operands[0]
        for operand in operands[1:]:
            result = function(result, operand)
        return np.asarray(result)

    return fold


def _unary(function: Callable[..., Any]) -> Callable[..., Array]:
    def fold(_: Call, x: Array) -> Array:
        return np.asarray(function(x))

    return fold


def _concat(call: Call, *parts: Array) -> Array:
    return np.concatenate(parts, axis=call["axis"])


def _slice(call: Call, x: Array, *given: Array | None) -> Array:
    return x[slices_of(call, x.shape, *given)]


def _range(_: Call, start: Array, stop: Array, step: Array) -> Array:
    return np.arange(start.item(), stop.item(), step.item(), dtype=start.dtype)


def _where(_: Call, condition: Array, a: Array, b: Array) -> Array:
    return np.where(condition, a, b)


FOLD: Mapping[str, Callable[..., Array]] = {
    "Abs": _unary(np.abs),
    "Add": _elementwise(np.add),
    "And": _elementwise(np.logical_and),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _divide,
    "Equal": _elementwise(np.equal),
    "Gather": _gather,
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Identity": _unary(np.asarray),
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Max": _elementwise(np.maximum),
    "Min": _elementwise(np.minimum),
    "Mul": _elementwise(np.multiply),
    "Neg": _unary(np.negative),
    "Not": _unary(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Range": _range,
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
