"""Pooling over any number of spatial axes, by sliding windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from petaflop import Tensor
from petaflop.dtype import int64
from petaflop_onnx.operators.common import Array, pad_with, shape_of, spatial_pads
from petaflop_onnx.table import Call, operator


class _Windows(NamedTuple):
    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[tuple[int, int]]  # what the node asks for
    extra: list[int]  # what ceil_mode adds at the end


def _windows(call: Call, x: Tensor) -> _Windows:
    rank = x.ndim - 2
    kernel = list(call["kernel_shape"])
    strides = list(call.get("strides") or (1,) * rank)
    dilations = list(call.get("dilations") or (1,) * rank)
    if (
        not len(kernel) == len(strides) == len(dilations) == rank >= 1
        or min(kernel + strides + dilations) < 1
    ):
        raise ValueError(
            f"kernel_shape: expected {rank} positive sizes, strides and dilations, got {kernel}, {strides}"
        )
    pads = spatial_pads(call, shape_of(x)[2:], kernel, strides, dilations)
    extra = [0] * rank
    if call.get("ceil_mode"):
        for axis in range(rank):
            extra[axis] = _ceil_extra(
                shape_of(x)[axis + 2], kernel[axis], strides[axis], dilations[axis], pads[axis]
            )
    return _Windows(kernel, strides, dilations, pads, extra)


def _ceil_extra(size: int, taps: int, stride: int, dilation: int, pads: tuple[int, int]) -> int:
    """Elements missing at the end for one more window; none where it would start in the padding."""
    span = (taps - 1) * dilation + 1
    room = size + pads[0] + pads[1] - span
    count = -(-room // stride) + 1
    if (count - 1) * stride >= size + pads[0]:
        count -= 1
    return max(0, (count - 1) * stride - room)


def _taps(x: Tensor, windows: _Windows, fill: float) -> Tensor:
    """x padded, and each spatial axis replaced by positions, with the taps of each as new last axes."""
    widths = [
        (before, after + more) for (before, after), more in zip(windows.pads, windows.extra, strict=True)
    ]
    x = pad_with(x, [(0, 0), (0, 0), *widths], fill)
    for axis, (taps, stride, dilation) in enumerate(
        zip(windows.kernel, windows.strides, windows.dilations, strict=True)
    ):
        x = x.unfold(axis + 2, taps, stride, dilation)
    return x


def _last(windows: _Windows) -> tuple[int, ...]:
    return tuple(range(-len(windows.kernel), 0))


@operator("MaxPool", 1, 8, 10, 11, 12, 22)
def _max_pool(call: Call, x: Tensor) -> Any:
    windows = _windows(call, x)
    taps = _taps(x, windows, x.dtype.min)
    best = taps.max(_last(windows))
    if call.output_count == 1:
        return best
    order = list(range(x.ndim - 2))
    if call["storage_order"]:  # column major
        order.reverse()
    sizes = shape_of(x)[2:]
    place = Tensor.arange(math.prod(sizes), device=x.device).cast(int64)
    place = place.reshape(*[sizes[k] for k in order]).permute(*order).reshape(1, 1, *sizes)
    places = _taps(place, windows, -1)
    rank = best.ndim
    flat, found = taps.flatten(rank), places.flatten(rank).expand(*shape_of(best), -1)
    inside = found.gather(rank, flat.argmax(-1, keepdim=True).cast(int64)).squeeze(-1)
    images, size = math.prod(shape_of(x)[:2]), math.prod(sizes)
    base = Tensor.arange(images, device=x.device).cast(int64).reshape(*shape_of(x)[:2], *[1] * (rank - 2))
    return best, inside + base * size


@operator("MaxUnpool", 9, 11, 22, host=(2,))
def _max_unpool(call: Call, x: Tensor, places: Tensor, shape: Array | None = None) -> Tensor:
    """Values back at the places that MaxPool gave, in an image of zeros."""
    kernel, rank = call["kernel_shape"], x.ndim - 2
    strides, pads = call.get("strides") or (1,) * rank, call.get("pads") or (0,) * (2 * rank)
    inner = [
        (size - 1) * stride - pads[k] - pads[k + rank] + taps
        for k, (size, stride, taps) in enumerate(zip(shape_of(x)[2:], strides, kernel, strict=True))
    ]
    source = [*shape_of(x)[:2], *inner]
    target = source if shape is None else [int(size) for size in shape]
    flat = Tensor.zeros(math.prod(source), dtype=x.dtype, device=x.device)
    filled = flat.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(*source)
    return pad_with(filled, [(0, big - small) for big, small in zip(target, source, strict=True)], 0)


def _average(x: Tensor, windows: _Windows, count_padding: bool) -> Tensor:
    total = _taps(x, windows, 0).sum(_last(windows))
    if not any(windows.extra) and (count_padding or not any(map(any, windows.pads))):
        count = 1
        for taps in windows.kernel:
            count *= taps
        return total / count
    ones = Tensor.ones(1, 1, *shape_of(x)[2:], dtype=x.dtype, device=x.device)
    if count_padding:  # the node's padding counts, what ceil_mode adds does not
        ones = pad_with(ones, [(0, 0), (0, 0), *windows.pads], 1)
        windows = windows._replace(pads=[(0, 0)] * len(windows.pads))
    return total / _taps(ones, windows, 0).sum(_last(windows))


@operator("AveragePool", 1, 7, 10, 11, 19, 22)
def _average_pool(call: Call, x: Tensor) -> Tensor:
    return _average(x, _windows(call, x), bool(call.get("count_include_pad")))


@operator("LpPool", 2, 11, 18, 22)
def _lp_pool(call: Call, x: Tensor) -> Tensor:
    windows = _windows(call, x)
    return _norm(_taps(x, windows, 0), call["p"], _last(windows))


def _norm(x: Tensor, p: int, axes: Sequence[int], keep: bool = False) -> Tensor:
    if p == 1:
        return x.abs().sum(tuple(axes), keepdim=keep)
    if p == 2:
        return (x * x).sum(tuple(axes), keepdim=keep).sqrt()
    return x.abs().pow(p).sum(tuple(axes), keepdim=keep).pow(1 / p)


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@operator("GlobalMaxPool", 1, 22)
def _global_max_pool(_: Call, x: Tensor) -> Tensor:
    return x.max(_spatial(x), keepdim=True)


@operator("GlobalAveragePool", 1, 22)
def _global_average_pool(_: Call, x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


@operator("GlobalLpPool", 2, 22)
def _global_lp_pool(call: Call, x: Tensor) -> Tensor:
    return _norm(x, call["p"], _spatial(x), True)


@operator("LpNormalization", 1, 22)
def _lp_normalization(call: Call, x: Tensor) -> Tensor:
    norm = _norm(x, call["p"], (call["axis"],), True)
    return (norm == 0).where(0, x / norm)
