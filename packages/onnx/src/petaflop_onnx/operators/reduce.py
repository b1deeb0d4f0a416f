"""Reductions, running sums, and the place of a maximum."""

from __future__ import annotations

from collections.abc import Callable

from petaflop import Tensor
from petaflop.dtype import bool_, int64, uint8
from petaflop_onnx.host import axes_of, normalize_axis
from petaflop_onnx.operators.common import Array, shape_of
from petaflop_onnx.table import Call, operator

Axes = tuple[int, ...]


def _empty(x: Tensor, axes: Axes, keep: bool, value: float) -> Tensor | None:
    """What a reduction of no elements gives."""
    if all(shape_of(x)[axis] for axis in axes):
        return None
    shape = [1 if k in axes else n for k, n in enumerate(shape_of(x)) if keep or k not in axes]
    return Tensor.full(tuple(shape), value, dtype=x.dtype, device=x.device)


def _max(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if (empty := _empty(x, axes, keep, x.dtype.min)) is not None:
        return empty
    if x.dtype is bool_:
        return x.cast(uint8).max(axes, keepdim=keep).cast(bool_)
    return x.max(axes, keepdim=keep)


def _min(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if (empty := _empty(x, axes, keep, x.dtype.max)) is not None:
        return empty
    if x.dtype is bool_:
        return x.cast(uint8).min(axes, keepdim=keep).cast(bool_)
    return x.min(axes, keepdim=keep)


_REDUCE: dict[str, Callable[[Tensor, Axes, bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: (
        x.mean(axes, keepdim=keep) if x.dtype.is_float else _integer_mean(x, axes, keep)
    ),
    "ReduceProd": lambda x, axes, keep: x.prod(axes, keepdim=keep),
    "ReduceMax": _max,
    "ReduceMin": _min,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt(),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep),
}
_AXES_BECAME_INPUT = {
    "ReduceSum": (13,),
    "ReduceMax": (18, 20),
    "ReduceMin": (18, 20),
    "ReduceLogSum": (18, 28),
    "ReduceLogSumExp": (18, 28),
}
_AXES_ATTRIBUTE = {"ReduceSum": (1, 11), "ReduceMax": (1, 11, 12, 13), "ReduceMin": (1, 11, 12, 13)}


def _integer_mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    total = x.sum(axes, keepdim=keep)
    count = 1
    for axis in axes:
        count *= shape_of(x)[axis]
    return total.div(count, rounding_mode="trunc")


def _reducer(function: Callable[[Tensor, Axes, bool], Tensor]) -> Callable[..., Tensor]:
    def handler(call: Call, x: Tensor, axes: Array | None = None) -> Tensor:
        empty = axes is None or axes.size == 0
        if empty and call.get("noop_with_empty_axes") and call.get("axes") is None:
            return x if call.operator in _NOOP else function(x, (), True)
        which = axes_of(call, None if empty else axes, x.ndim)
        return function(x, which, bool(call["keepdims"])).cast(x.dtype)

    return handler


_NOOP = frozenset(("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin"))

for _name, _function in _REDUCE.items():
    operator(_name, *_AXES_BECAME_INPUT.get(_name, (18,)), host=(1,))(_reducer(_function))
    operator(_name, *_AXES_ATTRIBUTE.get(_name, (1, 11, 13)))(_reducer(_function))


def _last(x: Tensor, axis: int, place: Callable[[Tensor], Tensor]) -> Tensor:
    """The last of equal extremes: the first of the reversed axis."""
    return shape_of(x)[axis] - 1 - place(x.flip(axis))


def _arg(call: Call, x: Tensor, name: str) -> Tensor:
    axis = normalize_axis(call["axis"], x.ndim)

    def place(y: Tensor) -> Tensor:
        return getattr(y, name)(axis, keepdim=bool(call["keepdims"]))

    found = _last(x, axis, place) if call.get("select_last_index") else place(x)
    return found.cast(int64)


@operator("ArgMax", 1, 11, 12, 13)
def _argmax(call: Call, x: Tensor) -> Tensor:
    return _arg(call, x, "argmax")


@operator("ArgMin", 1, 11, 12, 13)
def _argmin(call: Call, x: Tensor) -> Tensor:
    return _arg(call, x, "argmin")


def _running(call: Call, x: Tensor, axis: int, name: str, start: int) -> Tensor:
    axis = normalize_axis(axis, x.ndim)
    x = x.flip(axis) if call["reverse"] else x
    total = getattr(x, name)(axis).cast(x.dtype)
    if call["exclusive"]:
        first = total.full_like(start).shrink(
            [(0, min(1, n) if k == axis else n) for k, n in enumerate(shape_of(x))]
        )
        rest = total.shrink([(0, max(n - 1, 0) if k == axis else n) for k, n in enumerate(shape_of(x))])
        total = first.cat(rest, dim=axis)
    return total.flip(axis) if call["reverse"] else total


@operator("CumSum", 11, 14, host=(1,))
def _cumsum(call: Call, x: Tensor, axis: Array) -> Tensor:
    return _running(call, x, int(axis.item()), "cumsum", 0)


@operator("CumProd", 26, host=(1,))
def _cumprod(call: Call, x: Tensor, axis: Array) -> Tensor:
    return _running(call, x, int(axis.item()), "cumprod", 1)


@operator("TopK", 10, 11, 24, host=(1,))
def _topk(call: Call, x: Tensor, count: Array) -> tuple[Tensor, Tensor]:
    largest, ordered = bool(call.get("largest", 1)), bool(call.get("sorted", 1))
    values, places = x.topk(int(count.item()), call["axis"], largest, ordered)
    return values, places.cast(int64)


@operator("TopK", 1)
def _topk_attribute(call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    values, places = x.topk(call["k"], call["axis"])
    return values, places.cast(int64)
