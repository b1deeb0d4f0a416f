"""Operators that only move or make elements: shapes, axes, slices, pads, constants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from petaflop import Tensor
from petaflop.dtype import from_numpy_dtype
from petaflop.plugin_api import Expr
from petaflop_onnx.host import axes_of, normalize_axis, slices_of
from petaflop_onnx.operators.common import Array, numbers, onnx_dtype, pad_with, positions, shape_of
from petaflop_onnx.sizes import NeedsNumber, at_most, broadcast_sizes, clamped, plain, quotient, varies
from petaflop_onnx.table import Call, operator

_SHAPES = (13, 14, 19, 21, 23, 24, 25)
_VIEWS = (13, 21, 23, 24, 25)


@operator("Shape", 1, 13, 15, 19, 21, 23, 24, 25)
@operator("Size", 1, 13, 19, 21, 23, 24, 25)
def _shape(call: Call, _: Tensor) -> Tensor:
    raise AssertionError(f"{call.operator} is computed on the host")


@operator("Reshape", 5, *_SHAPES, host=(1,))
def _reshape(call: Call, x: Tensor, shape: Array) -> Tensor:
    return _reshape_to(x, numbers(shape), bool(call.get("allowzero")))


@operator("Reshape", 1)
def _reshape_attribute(call: Call, x: Tensor) -> Tensor:
    return _reshape_to(x, list(call.get("shape", ())), False)


def _reshape_to(x: Tensor, sizes: list[int], zero_is_zero: bool) -> Tensor:
    """0 keeps the size of that axis and one -1 takes what is left."""
    target = [shape_of(x)[k] if size == 0 and not zero_is_zero else size for k, size in enumerate(sizes)]
    if not zero_is_zero and any(_may_be_zero(size, shape_of(x), k) for k, size in enumerate(target)):
        raise NeedsNumber(f"shape: {target}")
    if target.count(-1) == 1 and 0 not in target:
        target[target.index(-1)] = quotient(shape_of(x), [size for size in target if size != -1])
    return x.reshape(*target)


def _may_be_zero(size: Any, shape: tuple[Any, ...], axis: int) -> bool:
    """Whether a size that varies would keep another axis where it is 0."""
    return isinstance(size, Expr) and size.lo <= 0 and (axis >= len(shape) or shape[axis] != size)


@operator("Flatten", 1, 9, 11, *_VIEWS)
def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call["axis"] if call["axis"] >= 0 else call["axis"] + x.ndim
    if not 0 <= axis <= x.ndim:
        raise ValueError(f"axis: expected {-x.ndim} to {x.ndim}, got {call['axis']}")
    return x.reshape(plain(math.prod(shape_of(x)[:axis])), plain(math.prod(shape_of(x)[axis:])))


@operator("Transpose", 1, *_VIEWS)
def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(*(call.get("perm") or range(x.ndim)[::-1]))


@operator("Squeeze", *_VIEWS, host=(1,))
@operator("Squeeze", 1, 11)
def _squeeze(call: Call, x: Tensor, axes: Array | None = None) -> Tensor:
    if axes is None and call.get("axes") is None:
        if any(isinstance(size, Expr) and size.lo <= 1 for size in shape_of(x)):
            raise NeedsNumber(f"axes of size 1 among {list(shape_of(x))}")
        return x.reshape(*[size for size in shape_of(x) if size != 1])
    which = axes_of(call, axes, x.ndim)
    if any(shape_of(x)[axis] != 1 for axis in which):
        raise ValueError(f"axes: expected axes of size 1, got {list(which)} of {list(shape_of(x))}")
    return x.reshape(*[size for axis, size in enumerate(shape_of(x)) if axis not in which])


@operator("Unsqueeze", *_VIEWS, host=(1,))
@operator("Unsqueeze", 1, 11)
def _unsqueeze(call: Call, x: Tensor, axes: Array | None = None) -> Tensor:
    given = call["axes"] if axes is None else numbers(axes)
    rank = x.ndim + len(given)
    which = {normalize_axis(axis, rank) for axis in given}
    if len(which) != len(given):
        raise ValueError(f"axes: expected different axes, got {list(given)}")
    sizes = iter(shape_of(x))
    return x.reshape(*[1 if axis in which else next(sizes) for axis in range(rank)])


@operator("Expand", 8, 13, host=(1,))
def _expand(_: Call, x: Tensor, shape: Array) -> Tensor:
    sizes = broadcast_sizes(shape_of(x), numbers(shape))
    return x.reshape(*[1] * (len(sizes) - x.ndim), *shape_of(x)).expand(*sizes)


@operator("Tile", 6, 13, host=(1,))
def _tile(_: Call, x: Tensor, repeats: Array) -> Tensor:
    if repeats.size != x.ndim:
        raise ValueError(f"repeats: expected {x.ndim} numbers, got {repeats.size}")
    return x.repeat(*numbers(repeats))


@operator("Tile", 1, host=(1, 2))
def _tile_axis(_: Call, x: Tensor, tiles: Array, axis: Array) -> Tensor:
    repeats = [1] * x.ndim
    repeats[normalize_axis(int(axis.item()), x.ndim)] = int(tiles.item())
    return x.repeat(*repeats)


@operator("Concat", 1, 4, 11, 13)
def _concat(call: Call, *parts: Tensor) -> Tensor:
    return parts[0].cat(*parts[1:], dim=call.get("axis", 1)) if len(parts) > 1 else parts[0]


@operator("Slice", 10, 11, 13, host=(1, 2, 3, 4))
@operator("Slice", 1)
def _slice(call: Call, x: Tensor, *given: Array | None) -> Tensor:
    cuts = slices_of(call, shape_of(x), *given)
    return x[tuple(_cut_of(cut, size) for cut, size in zip(cuts, shape_of(x), strict=True))]


def _cut_of(cut: slice, size: Any) -> slice:
    """The slice of an axis whose size or ends vary within its bounds, as ONNX and Python clamp."""
    if cut == slice(None) or not varies((size, cut.start, cut.stop)):
        return cut
    if cut.step != 1:
        raise NeedsNumber(f"steps: {cut.step}")
    start, stop = clamped(cut.start, size), clamped(cut.stop, size)
    if plain(stop - start) != 0 and not at_most(start, stop):
        return slice(0, 0)
    return slice(start, stop)


def cut(x: Tensor, axis: int, sizes: list[int]) -> tuple[Tensor, ...]:
    if sum(sizes) != shape_of(x)[axis] or min(sizes, default=0) < 0:
        raise ValueError(f"split: expected sizes that add to {shape_of(x)[axis]}, got {sizes}")
    parts, start = [], 0
    for size in sizes:
        ranges = [(0, n) for n in shape_of(x)]
        ranges[axis] = (start, start + size)
        parts.append(x.shrink(ranges))
        start += size
    return tuple(parts)


@operator("Split", 13, 18, host=(1,))
@operator("Split", 1, 2, 11)
def _split(call: Call, x: Tensor, split: Array | None = None) -> tuple[Tensor, ...]:
    axis = normalize_axis(call.get("axis", 0), x.ndim)
    given = call.get("split") if split is None else numbers(split)
    if given is None:
        count = call.get("num_outputs") or call.output_count
        part = -(-shape_of(x)[axis] // count)
        given = [part] * (count - 1) + [shape_of(x)[axis] - part * (count - 1)]
    return cut(x, axis, list(given))


# ---- pads ----


@operator("Pad", 11, 13, host=(1,), either=(2,))
@operator("Pad", 18, 19, 21, 23, 24, 25, host=(1, 3), either=(2,))
def _pad(call: Call, x: Tensor, pads: Array, fill: Any = None, axes: Array | None = None) -> Tensor:
    which = list(range(x.ndim)) if axes is None else [normalize_axis(axis, x.ndim) for axis in numbers(axes)]
    given = numbers(pads)
    if len(given) != 2 * len(which):
        raise ValueError(f"pads: expected {2 * len(which)} numbers, got {len(given)}")
    widths = [(0, 0)] * x.ndim
    for axis, before, after in zip(which, given[: len(which)], given[len(which) :], strict=True):
        widths[axis] = (before, after)
    return _pad_mode(call["mode"], x, widths, fill)


@operator("Pad", 1, 2)
def _pad_attribute(call: Call, x: Tensor) -> Tensor:
    given = call.get("pads") or call["paddings"]
    if len(given) != 2 * x.ndim:
        raise ValueError(f"pads: expected {2 * x.ndim} numbers, got {len(given)}")
    widths = list(zip(given[: x.ndim], given[x.ndim :], strict=True))
    return _pad_mode(call["mode"], x, widths, np.asarray(call["value"]))


def _pad_mode(mode: str, x: Tensor, widths: list[tuple[int, int]], fill: Any) -> Tensor:
    if mode != "constant":
        for axis, (before, after) in enumerate(widths):
            x = _pad_axis(mode, x, axis, before, after)
        return x
    if fill is None or isinstance(fill, np.ndarray):
        return pad_with(x, widths, 0 if fill is None or fill.size == 0 else fill.item())
    inside = x.full_like(1).pad(tuple(widths))
    return (inside != 0).where(pad_with(x, widths, 0), fill.reshape(()))


def _pad_axis(mode: str, x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Pads that repeat what is inside: a gather at positions that the host knows."""
    if (before, after) == (0, 0):
        return x
    size = shape_of(x)[axis]
    taken = positions(-before, size + after)
    if mode == "edge":
        taken = taken.clip(0, size - 1)
    elif mode == "wrap":
        taken = taken % size
    elif mode == "reflect":
        period = max(2 * (size - 1), 1)
        taken = taken % period
        taken = np.where(taken >= size, period - taken, taken)
    else:
        raise ValueError(f"mode: expected constant, edge, reflect or wrap, got {mode!r}")
    return x[(slice(None),) * axis + (Tensor(taken.astype(np.int32), device=x.device),)]


# ---- blocks ----


@operator("DepthToSpace", 1, 11, 13, 28)
def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    batch, depth, height, width = shape_of(x)
    block = call["blocksize"]
    if call.get("mode", "DCR") == "DCR":
        x = x.reshape(batch, block, block, depth // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(batch, depth // block**2, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, depth // block**2, height * block, width * block)


@operator("SpaceToDepth", 1, 13, 28)
def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    batch, depth, height, width = shape_of(x)
    block = call["blocksize"]
    order = (0, 3, 5, 1, 2, 4) if call.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    x = x.reshape(batch, depth, height // block, block, width // block, block).permute(*order)
    return x.reshape(batch, depth * block**2, height // block, width // block)


# ---- made from nothing ----

_NUMBERS = {
    "value_float": np.float32,
    "value_int": np.int64,
    "value_floats": np.float32,
    "value_ints": np.int64,
}


@operator("Constant", 1, 9, 11, 12, *_VIEWS, 19)
def _constant(call: Call) -> Array:
    if call.get("value") is not None:
        return call["value"]
    given = [name for name in _NUMBERS if call.get(name) is not None]
    if len(given) != 1:
        raise ValueError(f"value: expected one number or tensor, got {sorted(call.attributes) or 'none'}")
    return np.asarray(call[given[0]], _NUMBERS[given[0]])


@operator("ConstantOfShape", 9, 20, 21, 23, 24, 25, host=(0,))
def _constant_of_shape(call: Call, shape: Array) -> Any:
    value = call.get("value")
    value = np.zeros(1, np.float32) if value is None else value
    sizes = numbers(shape)
    if value.size != 1 or any(size < 0 for size in sizes):
        raise ValueError(f"input: expected sizes of 0 or more and one value, got {sizes} and {value.size}")
    if value.dtype.kind in "biu" and not varies(sizes) and math.prod(sizes) <= 1024:
        return np.full(sizes, value.item(), value.dtype)
    dtype = from_numpy_dtype(value.dtype)
    return Tensor.full(tuple(sizes), value.item(), dtype=dtype, device=call.device)


@operator("Range", 11, 27, host=(0, 1, 2))
def _range(call: Call, start: Array, stop: Array, step: Array) -> Tensor:
    if step.item() == 0:
        raise ValueError("delta: expected a number other than 0, got 0")
    if varies((start.item(), stop.item(), step.item())):
        return _range_of_sizes(call, start.item(), stop.item(), step)
    count = max(0, math.ceil((stop.item() - start.item()) / step.item()))
    dtype = from_numpy_dtype(start.dtype)
    wide = dtype if dtype.is_float else from_numpy_dtype(np.dtype(np.int64))
    return (Tensor.arange(count, device=call.device).cast(wide) * step.item() + start.item()).cast(dtype)


def _range_of_sizes(call: Call, start: Any, stop: Any, step: Array) -> Tensor:
    if step.dtype.kind != "i" or step.item() != 1:
        raise NeedsNumber(f"delta: {step.item()}")
    count = plain(stop - start) if at_most(start, stop) else 0
    dtype = from_numpy_dtype(step.dtype)
    return Tensor.arange(count, device=call.device).cast(dtype) + start


@operator("EyeLike", 9, 22)
def _eye_like(call: Call, x: Tensor) -> Tensor:
    rows, columns = shape_of(x)
    dtype = x.dtype if call.get("dtype") is None else onnx_dtype(call["dtype"])
    along, down = (Tensor.arange(size, device=x.device) for size in (columns, rows))
    distance = along.reshape(1, -1) - down.reshape(-1, 1)
    return (distance == call["k"]).cast(dtype)


@operator("Trilu", 14, host=(1,))
def _trilu(call: Call, x: Tensor, diagonal: Array | None = None) -> Tensor:
    offset = 0 if diagonal is None else int(diagonal.item())
    return x.triu(offset) if call["upper"] else x.tril(offset)
