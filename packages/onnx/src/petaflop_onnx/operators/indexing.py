"""Operators that read or write at computed places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from petaflop import Tensor
from petaflop.dtype import int64
from petaflop.plugin_api import Expr
from petaflop_onnx.host import normalize_axis
from petaflop_onnx.operators.common import Array, numbers, shape_of
from petaflop_onnx.sizes import NeedsNumber
from petaflop_onnx.table import Call, operator


def _wrapped(index: Tensor, size: int) -> Tensor:
    """Negative places counted from the end."""
    return (index < 0).where(index + size, index)


@operator("Gather", 1, 11, 13, either=(1,))
def _gather(call: Call, x: Tensor, index: Tensor | Array) -> Tensor:
    axis = normalize_axis(call["axis"], x.ndim)
    before = (slice(None),) * axis
    if not isinstance(index, np.ndarray):
        return x[(*before, index)]
    size = shape_of(x)[axis]
    if index.size and isinstance(size, Expr):  # the least size that it may have decides
        if not -size.lo <= index.min() <= index.max() < size.lo:
            raise NeedsNumber(f"indices: {index.min()} to {index.max()} of {size}")
    elif index.size and not -size <= index.min() <= index.max() < size:
        raise ValueError(f"indices: expected {-size} to {size - 1}, got {index.min()} to {index.max()}")
    if index.ndim == 0:
        return x[(*before, int(index))]
    return x[(*before, Tensor(index, device=x.device))]


@operator("GatherElements", 11, 13)
def _gather_elements(call: Call, x: Tensor, index: Tensor) -> Tensor:
    axis = normalize_axis(call["axis"], x.ndim)
    return x.gather(axis, _wrapped(index, shape_of(x)[axis]))


def _flat_places(index: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Row-major places of index tuples, which lie along the last axis."""
    depth = shape_of(index)[-1] if index.ndim else 0
    if not depth or depth != len(sizes):
        raise ValueError(f"indices: expected tuples as long as there are axes to index, got {depth} numbers")
    place = _wrapped(index[..., 0], sizes[0])
    for k, size in enumerate(sizes[1:], 1):
        place = place * size + _wrapped(index[..., k], size)
    return place


@operator("GatherND", 11, 12, 13)
def _gather_nd(call: Call, x: Tensor, index: Tensor) -> Tensor:
    batch, depth = call.get("batch_dims", 0), shape_of(index)[-1]
    lead, sizes, rest = shape_of(x)[:batch], shape_of(x)[batch : batch + depth], shape_of(x)[batch + depth :]
    rows = math.prod(lead)
    place = _flat_places(index, tuple(sizes)).reshape(rows, -1)
    if batch:
        place = place + (Tensor.arange(rows, device=x.device) * math.prod(sizes)).cast(place.dtype).reshape(
            -1, 1
        )
    table = x.reshape(rows * math.prod(sizes), *rest)
    return table[place.reshape(-1)].reshape(*shape_of(index)[:-1], *rest)


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_into(x: Tensor, axis: int, index: Tensor, values: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return x.scatter(axis, index, values)
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction: expected none, {', '.join(_REDUCTIONS)}, got {reduction!r}")
    return x.scatter_reduce(axis, index, values, _REDUCTIONS[reduction])


@operator("Scatter", 9)
@operator("ScatterElements", 11, 13, 16, 18)
def _scatter_elements(call: Call, x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    axis = normalize_axis(call["axis"], x.ndim)
    return _scatter_into(x, axis, _wrapped(index, shape_of(x)[axis]), values, call.get("reduction", "none"))


@operator("ScatterND", 11, 13, 16, 18)
def _scatter_nd(call: Call, x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    depth = shape_of(index)[-1]
    sizes, rest = shape_of(x)[:depth], shape_of(x)[depth:]
    place = _flat_places(index, tuple(sizes)).reshape(-1, 1)
    width = math.prod(rest)
    place = place.expand(shape_of(place)[0], width)
    table = x.reshape(math.prod(sizes), width)
    rows = values.reshape(shape_of(place)[0], width)
    return _scatter_into(table, 0, place, rows, call.get("reduction", "none")).reshape(*shape_of(x))


@operator("OneHot", 9, 11, 28, host=(1,))
def _one_hot(call: Call, index: Tensor, depth: Array, values: Tensor) -> Tensor:
    count = int(depth.item())
    axis = normalize_axis(call["axis"], index.ndim + 1)
    shape = [1] * (index.ndim + 1)
    shape[axis] = count
    places = Tensor.arange(count, device=index.device).cast(int64).reshape(*shape)
    wanted = _wrapped(index.cast(int64), count).unsqueeze(axis)
    return (places == wanted).where(values[1], values[0])


@operator("Compress", 9, 11, 28, host=(1,))
def _compress(call: Call, x: Tensor, condition: Array) -> Tensor:
    if call.get("axis") is None:
        x, axis = x.reshape(-1), 0
    else:
        axis = normalize_axis(call["axis"], x.ndim)
    places = np.flatnonzero(condition.ravel()[: shape_of(x)[axis]])
    return x[(*(slice(None),) * axis, Tensor(places.astype(np.int64), device=x.device))]


@operator("ReverseSequence", 10, 28)
def _reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = call["time_axis"], call["batch_axis"]
    along = [1] * x.ndim
    along[time] = -1
    across = [1] * x.ndim
    across[batch] = -1
    places = Tensor.arange(shape_of(x)[time], device=x.device).cast(int64).reshape(*along)
    stop = lengths.cast(int64).reshape(*across)
    source = (places < stop).where(stop - 1 - places, places)
    return x.gather(time, source.expand(*shape_of(x)))


@operator("CenterCropPad", 18, host=(1,))
def _center_crop_pad(call: Call, x: Tensor, shape: Array) -> Any:
    given = call.get("axes")
    axes = range(x.ndim) if given is None else [normalize_axis(axis, x.ndim) for axis in given]
    for axis, target in zip(axes, numbers(shape), strict=True):
        size = shape_of(x)[axis]
        ranges, widths = [(0, n) for n in shape_of(x)], [(0, 0)] * x.ndim
        start = max(0, (size - target) // 2)
        ranges[axis] = (start, start + min(size, target))
        missing = max(0, target - size)
        widths[axis] = (missing // 2, missing - missing // 2)
        x = x.shrink(ranges).pad(tuple(widths))
    return x


@operator("TensorScatter", 24)
def _tensor_scatter(call: Call, cache: Tensor, update: Tensor, first: Tensor | None = None) -> Tensor:
    """`update` written into the cache along one axis, from a place of its own for each row of the batch."""
    axis = normalize_axis(call["axis"], cache.ndim)
    longest, length, batch = shape_of(cache)[axis], shape_of(update)[axis], shape_of(cache)[0]
    along = [-1 if k == axis else 1 for k in range(cache.ndim)]
    place = Tensor.arange(longest, device=cache.device).cast(int64).reshape(*along)
    if first is not None:
        place = place - first.cast(int64).reshape(batch, *[1] * (cache.ndim - 1))
    if call["mode"] == "circular":
        place = place.mod(longest)
    written = (place >= 0) & (place < length)
    source = place.clip(0, length - 1).expand(*shape_of(cache))
    return written.where(update.gather(axis, source), cache)


@operator("Col2Im", 18, host=(1, 2))
def _col2im(call: Call, x: Tensor, image: Array, block: Array) -> Tensor:
    """Columns [N, C * taps, blocks] added up into an image, each tap where it was taken from."""
    sizes, taps = numbers(image), numbers(block)
    rank = len(sizes)
    strides = call.get("strides") or (1,) * rank
    dilations = call.get("dilations") or (1,) * rank
    pads = call.get("pads") or (0,) * (2 * rank)
    padded = [size + pads[k] + pads[k + rank] for k, size in enumerate(sizes)]
    counts = [
        (size - (tap - 1) * dilation - 1) // stride + 1
        for size, tap, dilation, stride in zip(padded, taps, dilations, strides, strict=True)
    ]
    place = Tensor.zeros(*[1] * (2 * rank), dtype=int64, device=x.device)
    for k in range(rank):
        tap = Tensor.arange(taps[k], device=x.device).cast(int64) * dilations[k]
        step = Tensor.arange(counts[k], device=x.device).cast(int64) * strides[k]
        spot = tap.reshape(*[-1 if j == k else 1 for j in range(2 * rank)]) + step.reshape(
            *[-1 if j == k + rank else 1 for j in range(2 * rank)]
        )
        place = place * padded[k] + spot
    batch, total = shape_of(x)[0], math.prod(taps) * math.prod(counts)
    rows = x.reshape(batch, -1, total)
    index = place.reshape(1, 1, total).expand(*shape_of(rows))
    empty = Tensor.zeros(*shape_of(rows)[:2], math.prod(padded), dtype=x.dtype, device=x.device)
    filled = empty.scatter_add(2, index, rows).reshape(batch, -1, *padded)
    return filled.shrink(
        [(0, n) for n in shape_of(filled)[:2]] + [(pads[k], pads[k] + sizes[k]) for k in range(rank)]
    )
