"""Small things that several handlers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from petaflop import Tensor
from petaflop.dtype import DType, from_numpy_dtype
from petaflop_onnx.host import normalize_axis
from petaflop_onnx.narrow import FORMATS, Format
from petaflop_onnx.table import Call
from petaflop_onnx.tensors import DTYPES, NARROW

__all__ = [
    "Array",
    "legacy",
    "numbers",
    "onnx_dtype",
    "onnx_type",
    "pad_with",
    "positions",
    "shape_of",
    "spatial_pads",
]

Array = np.ndarray[Any, Any]
_MOST_PLACES = 1 << 26


def onnx_dtype(number: int) -> DType:
    """The dtype of an ONNX element type; ValueError for those without kernels."""
    if number not in DTYPES:
        raise ValueError(f"to: expected an element type that kernels have, got {number}")
    return from_numpy_dtype(DTYPES[number])


def onnx_type(number: int) -> DType | Format:
    """The same, or the format of a type that kernels lack."""
    return FORMATS[NARROW[number].name] if number in NARROW else onnx_dtype(number)


def numbers(array: Array) -> list[Any]:
    """The elements of a host array as Python numbers."""
    return list(array.ravel().tolist())


def positions(first: int, last: int) -> Array:
    """The integers from `first` up to `last`; ValueError where there are more than a host should make."""
    if last - first > _MOST_PLACES:
        raise ValueError(f"sizes: expected an axis of at most {_MOST_PLACES}, got {last - first}")
    return np.arange(first, last)


def legacy(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """b as broadcast before opset 7: aligned at `axis` of a, not at the end."""
    if not call.get("broadcast") or call.get("axis") is None:
        return b
    axis = normalize_axis(call["axis"], a.ndim)
    return b.reshape(*b.shape, *[1] * (a.ndim - axis - b.ndim))


def pad_with(x: Tensor, widths: Sequence[tuple[int, int]], fill: float) -> Tensor:
    """x padded by (before, after) per axis; negative widths crop."""
    if all(width == (0, 0) for width in widths):
        return x
    for (before, after), size in zip(widths, shape_of(x), strict=True):
        if before + after + size < 0:
            raise ValueError(
                f"pads: expected to leave an axis of {size} a size of 0 or more, got {before}, {after}"
            )
    return x.pad(tuple(widths), value=fill)


def shape_of(x: Tensor) -> tuple[Any, ...]:
    """The shape: ints, and expressions for the sizes that vary between the calls of one capture.

    An expression never becomes a number by mistake: int(), range() and branches on it are errors, which make
    the model run with plain numbers.
    """
    return tuple(x.shape)


def spatial_pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis, from `pads` or `auto_pad`."""
    rank = len(sizes)
    mode = call.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = call.get("pads") or (0,) * (2 * rank)
        if len(pads) != 2 * rank:
            raise ValueError(f"pads: expected {2 * rank} numbers, got {list(pads)}")
        return list(zip(pads[:rank], pads[rank:], strict=True))
    if mode == "VALID":
        return [(0, 0)] * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad: expected NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {mode!r}")
    result = []
    for size, taps, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        result.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return result
