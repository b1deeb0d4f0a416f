"""Resize and Upsample: each axis is a weighted sum of gathers at places that the host knows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from petaflop import Tensor
from petaflop_onnx.host import normalize_axis
from petaflop_onnx.operators.common import Array, numbers, positions, shape_of
from petaflop_onnx.table import Call, operator


def _half_pixel(out: Array, scale: float, size: int, wanted: int) -> Array:
    return (out + 0.5) / scale - 0.5


def _half_pixel_symmetric(out: Array, scale: float, size: int, wanted: int) -> Array:
    adjustment = wanted / (scale * size)
    centre = size / 2
    return centre * (1 - adjustment) + (out + 0.5) / scale - 0.5


def _pytorch_half_pixel(out: Array, scale: float, size: int, wanted: int) -> Array:
    return (out + 0.5) / scale - 0.5 if wanted > 1 else np.zeros_like(out)


def _align_corners(out: Array, scale: float, size: int, wanted: int) -> Array:
    """By the size before rounding, which is what the scale asks for."""
    length = scale * size
    return out * (size - 1) / (length - 1) if length != 1 else np.zeros_like(out)


def _asymmetric(out: Array, scale: float, size: int, wanted: int) -> Array:
    return out / scale


_PLACES: dict[str, Callable[..., Array]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_half_pixel_for_nn": lambda out, scale, size, wanted: (out + 0.5) / scale,
}
_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda place: np.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: np.floor(place + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _cubic(distance: Array, a: float) -> Array:
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _choose(table: dict[str, Any], call: Call, name: str, default: str) -> Any:
    wanted = call.get(name, default)
    if wanted not in table:
        raise ValueError(f"{name}: expected one of {', '.join(table)}, got {wanted!r}")
    return table[wanted]


def _crop_places(window: tuple[float, float], out: Array, size: int, length: float) -> Array:
    """Places within a window, given as parts of the axis."""
    first, last = window
    if length == 1:
        return np.full_like(out, (first + last) * (size - 1) / 2)
    return out * (last - first) * (size - 1) / (length - 1) + first * (size - 1)


def _kernel(call: Call, scale: float) -> tuple[int, Callable[[Array], Array]]:
    """How far taps reach, and their weights by distance; antialias stretches both when it makes smaller."""
    stretch = min(scale, 1.0) if call.get("antialias") else 1.0
    if call["mode"] == "cubic":
        a = call["cubic_coeff_a"]
        return math.ceil(2 / stretch), lambda distance: _cubic(distance * stretch, a)
    if call["mode"] in ("linear", "bilinear"):
        return math.ceil(1 / stretch), lambda distance: np.maximum(0, 1 - np.abs(distance * stretch))
    raise ValueError(f"mode: expected nearest, linear or cubic, got {call['mode']!r}")


def _resize_axis(
    call: Call, x: Tensor, axis: int, scale: float, wanted: int, window: tuple[float, float] | None
) -> Tensor:
    """One axis at a new size; the places and weights are constants."""
    size = shape_of(x)[axis]
    out = positions(0, wanted).astype(np.float64)
    default = "half_pixel" if call.operator == "Resize" and call.version > 10 else "asymmetric"
    if window is not None:
        place = _crop_places(window, out, size, scale * size)
    else:
        place = _choose(_PLACES, call, "coordinate_transformation_mode", default)(out, scale, size, wanted)
    if call["mode"] == "nearest":
        first = "round_prefer_floor" if call.operator == "Resize" and call.version > 10 else "floor"
        result = _take(x, axis, _choose(_NEAREST, call, "nearest_mode", first)(place))
    else:
        result = _weighted(call, x, axis, scale, place)
    if window is None:
        return result
    outside = (place < 0) | (place > size - 1)
    shape = [-1 if k == axis else 1 for k in range(x.ndim)]
    lost = Tensor(outside.reshape(shape), device=x.device)
    return lost.where(call["extrapolation_value"], result).cast(x.dtype)


def _weighted(call: Call, x: Tensor, axis: int, scale: float, place: Array) -> Tensor:
    size = shape_of(x)[axis]
    reach, weigh = _kernel(call, scale)
    base = np.floor(place)
    taps = [base + offset for offset in range(1 - reach, 1 + reach)]
    weights = [weigh(place - tap) for tap in taps]
    if call.get("exclude_outside"):
        weights = [np.where((tap < 0) | (tap >= size), 0, w) for tap, w in zip(taps, weights, strict=True)]
    if call.get("exclude_outside") or call.get("antialias"):
        total = np.sum(weights, axis=0)
        weights = [w / np.where(total == 0, 1, total) for w in weights]
    shape = [-1 if k == axis else 1 for k in range(x.ndim)]
    parts = [
        _take(x, axis, tap) * Tensor(w.astype(np.float32).reshape(shape), device=x.device).cast(x.dtype)
        for tap, w in zip(taps, weights, strict=True)
    ]
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def _take(x: Tensor, axis: int, places: Array) -> Tensor:
    clamped = places.clip(0, shape_of(x)[axis] - 1).astype(np.int32)
    return x[(*(slice(None),) * axis, Tensor(clamped, device=x.device))]


def _resize_to(
    call: Call,
    x: Tensor,
    scales: list[float] | None,
    sizes: list[int] | None,
    windows: list[tuple[float, float]] | None = None,
) -> Tensor:
    given = call.get("axes")
    axes = list(range(x.ndim)) if given is None else [normalize_axis(axis, x.ndim) for axis in given]
    if sizes is not None:
        scales, sizes = _from_sizes(call, [shape_of(x)[axis] for axis in axes], sizes)
    elif scales is not None:
        sizes = [math.floor(shape_of(x)[axis] * scale) for axis, scale in zip(axes, scales, strict=True)]
    if scales is None or sizes is None or len(scales) != len(axes) or min(scales) <= 0:
        raise ValueError(f"scales: expected {len(axes)} positive scales or sizes, got {scales or sizes}")
    for k, (axis, scale, wanted) in enumerate(zip(axes, scales, sizes, strict=True)):
        window = None if windows is None or windows[k] == (0, 1) else windows[k]
        if scale != 1 or wanted != shape_of(x)[axis] or window is not None:
            x = _resize_axis(call, x, axis, scale, wanted, window)
    return x


def _from_sizes(call: Call, old: list[int], sizes: list[int]) -> tuple[list[float], list[int]]:
    scales = [wanted / size for wanted, size in zip(sizes, old, strict=True)]
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return scales, sizes
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [scale] * len(old), [math.floor(scale * size + 0.5) for size in old]


@operator("Resize", 11, 13, 18, 19, host=(1, 2, 3))
def _resize(
    call: Call,
    x: Tensor,
    region: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
) -> Tensor:
    windows = None
    if call.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        if region is None or region.size % 2:
            raise ValueError("roi: expected starts and ends for tf_crop_and_resize, got none")
        ends = numbers(region)
        windows = list(zip(ends[: len(ends) // 2], ends[len(ends) // 2 :], strict=True))
    by_scale = None if scales is None or scales.size == 0 else numbers(scales)
    by_size = None if sizes is None or sizes.size == 0 else numbers(sizes)
    if windows is not None and len(windows) != len(by_scale or by_size or ()):
        raise ValueError(f"roi: expected a start and an end for each axis, got {len(windows)}")
    return _resize_to(call, x, by_scale, by_size, windows)


@operator("Resize", 10, host=(1,))
@operator("Upsample", 9, host=(1,))
def _upsample(call: Call, x: Tensor, scales: Array) -> Tensor:
    return _resize_to(call, x, numbers(scales), None)


@operator("Upsample", 7)
def _upsample_attribute(call: Call, x: Tensor) -> Tensor:
    return _resize_to(call, x, list(call["scales"]), None)
