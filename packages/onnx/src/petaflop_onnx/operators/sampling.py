"""Operators that sample images at computed places: GridSample, RoiAlign, MaxRoiPool, DeformConv."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from petaflop import Tensor
from petaflop.dtype import float32, int64
from petaflop_onnx.operators.common import shape_of
from petaflop_onnx.table import Call, operator

# Places outside of an axis: (index, size) → (index inside, whether it counts).
Outside = Callable[[Tensor, int], tuple[Tensor, Tensor | None]]


def _zeros(index: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    return index.clip(0, size - 1), (index >= 0) & (index < size)


def _border(index: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    return index.clip(0, size - 1), None


def _reflect_centres(index: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    """Mirrored at the centres of the first and last element."""
    period = max(2 * (size - 1), 1)
    index = index.mod(period)
    return index.minimum(period - index) if size > 1 else index * 0, None


def _reflect_edges(index: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    """Mirrored at the outer edges."""
    index = index.mod(2 * size)
    return index.minimum(2 * size - 1 - index), None


def _nearest(place: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    return [(place.round(), None)]


def _linear(place: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    low = place.floor()
    return [(low, low + 1 - place), (low + 1, place - low)]


def _cubic(place: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """Four taps by the convolution kernel with a = −0.75."""
    a = -0.75
    low = place.floor()
    t = place - low

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [(low - 1, far(t + 1)), (low, near(t)), (low + 1, near(1 - t)), (low + 2, far(2 - t))]


_TAPS = {
    "nearest": _nearest,
    "linear": _linear,
    "bilinear": _linear,
    "cubic": _cubic,
    "bicubic": _cubic,
}


def _pick(x: Tensor, index: Sequence[Tensor]) -> Tensor:
    """x [N, C, *sizes] at index tuples, each [N, P]: [N, C, P]."""
    batch, channels, *sizes = shape_of(x)
    place = index[0]
    for each, size in zip(index[1:], sizes[1:], strict=True):
        place = place * size + each
    flat = x.reshape(batch, channels, math.prod(sizes))
    return flat.gather(2, place.unsqueeze(1).expand(batch, channels, shape_of(place)[1]))


def _sample(
    x: Tensor,
    places: Sequence[Tensor],
    mode: str,
    outside: Outside,
    join: Callable[[Tensor, Tensor], Tensor] = Tensor.add,
) -> Tensor:
    """x [N, C, *sizes] at fractional places [N, P] of each axis, the weighted taps of `mode` joined: [N, C,
    P]."""
    if mode not in _TAPS:
        raise ValueError(f"mode: expected one of {', '.join(_TAPS)}, got {mode!r}")
    total: Tensor | None = None
    for taps in itertools.product(*[_TAPS[mode](place) for place in places]):
        found = [outside(tap.cast(int64), size) for (tap, _), size in zip(taps, shape_of(x)[2:], strict=True)]
        part = _pick(x, [index for index, _ in found])
        for _, counts in found:
            part = part if counts is None else counts.unsqueeze(1).where(part, 0)
        for _, weight in taps:
            part = part if weight is None else part * weight.unsqueeze(1).cast(x.dtype)
        total = part if total is None else join(total, part)
    assert total is not None
    return total


@operator("GridSample", 16, 20, 22)
def _grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    """The grid's last axis holds places from −1 to 1, in the reverse order of x's axes."""
    sizes = shape_of(x)[2:]
    batch, *out, rank = shape_of(grid)
    if rank != len(sizes) or len(out) != rank or batch != shape_of(x)[0]:
        raise ValueError(f"grid: expected [N, …, {len(sizes)}] for X of {list(shape_of(x))}")
    corners = bool(call["align_corners"])
    reflect = _reflect_centres if corners else _reflect_edges
    outsides: dict[str, Outside] = {"zeros": _zeros, "border": _border, "reflection": reflect}
    if call["padding_mode"] not in outsides:
        raise ValueError(f"padding_mode: expected one of {', '.join(outsides)}, got {call['padding_mode']!r}")
    flat = grid.reshape(batch, -1, rank)
    places = []
    for k, size in enumerate(sizes):
        unit = flat[:, :, rank - 1 - k] + 1
        places.append(unit * ((size - 1) / 2) if corners else (unit * size - 1) * 0.5)
    sampled = _sample(x, places, call["mode"], outsides[call["padding_mode"]])
    return sampled.reshape(batch, shape_of(x)[1], *out)


# ---- regions ----


def _region_axis(
    call: Call, low: Tensor, high: Tensor, bins: int, half: bool
) -> tuple[Tensor, Tensor | None]:
    """Places [R, bins, samples] along one axis, and which of them count where regions differ."""
    offset = 0.5 if half else 0.0
    start = low * call["spatial_scale"] - offset
    length = high * call["spatial_scale"] - offset - start
    length = length if half else length.maximum(1)
    width = (length / bins).reshape(-1, 1, 1)
    bin_ = Tensor.arange(bins, device=low.device).cast(float32).reshape(1, -1, 1)
    start = start.reshape(-1, 1, 1)
    if call["sampling_ratio"] > 0:
        ratio = call["sampling_ratio"]
        step = (Tensor.arange(ratio, device=low.device).cast(float32).reshape(1, 1, -1) + 0.5) / ratio
        return start + (bin_ + step) * width, None
    counts = np.maximum(np.ceil(call.read(length / bins)), 1)
    many = Tensor(counts.astype(np.float32), device=low.device).reshape(-1, 1, 1)
    step = Tensor.arange(int(counts.max(initial=1)), device=low.device).cast(float32).reshape(1, 1, -1)
    return start + (bin_ + (step + 0.5) / many) * width, step < many


def _into(place: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Clamped places, and which are near enough to the image to count."""
    return place.clip(0, size - 1), (place >= -1) & (place <= size)


@operator("RoiAlign", 10, 16, 22)
def _roi_align(call: Call, x: Tensor, regions: Tensor, batches: Tensor) -> Tensor:
    """Each region is cut into bins; the value of a bin is the mean or maximum of samples."""
    half = call.get("coordinate_transformation_mode", "output_half_pixel") == "half_pixel"
    rows, columns = call["output_height"], call["output_width"]
    (_, channels, height, width), count = shape_of(x), shape_of(regions)[0]
    down, some_rows = _region_axis(call, regions[:, 1], regions[:, 3], rows, half)
    along, some_columns = _region_axis(call, regions[:, 0], regions[:, 2], columns, half)
    y, near_y = _into(down.reshape(count, rows, 1, -1, 1), height)
    z, near_z = _into(along.reshape(count, 1, columns, 1, -1), width)
    shape = (count, rows, columns, shape_of(y)[3], shape_of(z)[4])
    flat = [each.expand(*shape).reshape(count, -1) for each in (y, z)]
    best = call["mode"] == "max"  # of each sample ONNX takes the greatest weighted tap, not their sum
    join = Tensor.maximum if best else Tensor.add
    values = _sample(x[batches.cast(int64)], flat, "linear", _border, join)
    values = values.reshape(count, channels, *shape[1:])
    values = (near_y & near_z).unsqueeze(1).where(values, 0)
    counted: Tensor | None = None
    if some_rows is not None and some_columns is not None:
        counted = some_rows.reshape(count, 1, 1, 1, -1, 1) & some_columns.reshape(count, 1, 1, 1, 1, -1)
    if best:
        return (values if counted is None else counted.where(values, x.dtype.min)).max((-2, -1))
    if counted is None:
        return values.mean((-2, -1))
    total = counted.where(values, 0).sum((-2, -1))
    return total / counted.cast(x.dtype).sum((-2, -1))


@operator("MaxRoiPool", 1, 22)
def _max_roi_pool(call: Call, x: Tensor, regions: Tensor) -> Tensor:
    """Regions [R, 5] of (batch, x, y, x, y) in whole elements; the maximum of each bin, 0 where it is
    empty."""
    rows, columns = call["pooled_shape"]
    image = x[regions[:, 0].cast(int64)]

    def inside(low: Tensor, high: Tensor, bins: int, size: int) -> Tensor:
        """Which elements [R, bins, size] a bin holds."""
        start, end = ((edge * call["spatial_scale"] + 0.5).floor().reshape(-1, 1) for edge in (low, high))
        length = (end - start + 1).maximum(1)
        bin_ = Tensor.arange(bins, device=x.device).cast(float32).reshape(1, -1)
        first = (bin_ * length / bins).floor() + start
        last = ((bin_ + 1) * length / bins).ceil() + start
        place = Tensor.arange(size, device=x.device).cast(float32)
        return (place >= first.unsqueeze(-1)) & (place < last.unsqueeze(-1))

    across = inside(regions[:, 1], regions[:, 3], columns, shape_of(x)[3])
    down = inside(regions[:, 2], regions[:, 4], rows, shape_of(x)[2])
    lowest = x.dtype.min
    wide = across.unsqueeze(1).unsqueeze(1).where(image.unsqueeze(3), lowest).max(-1)  # [R, C, H, columns]
    wide = wide.transpose(2, 3).unsqueeze(2)  # [R, C, 1, columns, H]
    found = down.unsqueeze(1).unsqueeze(3).where(wide, lowest).max(-1)
    return (found == lowest).where(0, found)


# ---- deformable convolution ----


@operator("DeformConv", 19, 22)
def _deform_conv(
    call: Call,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """A convolution of two spatial axes whose taps are moved by `offset` and scaled by `mask`."""
    (batch, channels, _, _), (out, _, *kernel) = shape_of(x), shape_of(weight)
    groups, shared = call["group"], call["offset_group"]
    strides, dilations = call.get("strides") or (1, 1), call.get("dilations") or (1, 1)
    pads = call.get("pads") or (0, 0, 0, 0)
    size, taps = list(shape_of(offset)[2:]), math.prod(kernel)
    moved = offset.reshape(batch, shared, taps, 2, *size)
    places = []
    for axis in (0, 1):
        steps = Tensor.arange(size[axis], device=x.device).cast(float32) * strides[axis] - pads[axis]
        tap = Tensor.arange(kernel[axis], device=x.device).cast(float32) * dilations[axis]
        tap = tap.reshape(*[-1 if k == axis else 1 for k in (0, 1)]).expand(*kernel).reshape(taps, 1, 1)
        steps = steps.reshape(*[-1 if k == axis else 1 for k in (0, 1)])
        places.append((moved[:, :, :, axis] + (tap + steps).cast(x.dtype)).reshape(batch * shared, -1))
    image = x.reshape(batch * shared, channels // shared, *shape_of(x)[2:])
    values = _sample(image, places, "linear", _zeros).reshape(batch, shared, -1, taps, *size)
    if mask is not None:
        values = values * mask.reshape(batch, shared, 1, taps, *size)
    columns = values.reshape(batch, groups, channels // groups * taps, math.prod(size))
    rows = weight.reshape(groups, out // groups, channels // groups * taps)
    result = rows.unsqueeze(0).matmul(columns).reshape(batch, out, *size)
    return result if bias is None else result + bias.reshape(1, -1, 1, 1)
