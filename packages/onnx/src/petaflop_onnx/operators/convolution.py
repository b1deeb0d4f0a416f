"""Convolutions of one to three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

from petaflop import Tensor
from petaflop.dtype import int32
from petaflop_onnx.operators.common import pad_with, shape_of, spatial_pads
from petaflop_onnx.table import Call, operator

__all__ = ["convolve", "without_channel_zero"]


def _numbers(call: Call, name: str, rank: int) -> list[int]:
    given = list(call.get(name) or (1,) * rank)
    if len(given) != rank or min(given, default=1) < 1:
        raise ValueError(f"{name}: expected {rank} numbers of 1 or more, got {given}")
    return given


def convolve(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rank = x.ndim - 2
    if rank < 1 or weight.ndim != x.ndim:
        raise ValueError(f"W: expected as many axes as X, 3 or more, got {x.ndim} and {weight.ndim}")
    kernel = list(shape_of(weight)[2:])
    if call.get("kernel_shape") and list(call["kernel_shape"]) != kernel:
        raise ValueError(f"kernel_shape: expected {kernel} as W has, got {list(call['kernel_shape'])}")
    strides, dilations = _numbers(call, "strides", rank), _numbers(call, "dilations", rank)
    pads = spatial_pads(call, shape_of(x)[2:], kernel, strides, dilations)
    padding: int | Sequence[int] = 0
    if all(before == after >= 0 for before, after in pads):
        padding = [before for before, _ in pads]
    else:
        x = pad_with(x, [(0, 0), (0, 0), *pads], 0)
    return x.conv2d(weight, bias, groups=call["group"], stride=strides, dilation=dilations, padding=padding)


@operator("Conv", 1, 11, 22)
def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return convolve(call, x, weight, bias)


def without_channel_zero(weight: Tensor, zero: Tensor | None) -> Tensor:
    """The weight as int32 less its zero point, which is one number or one per output channel."""
    wide = weight.cast(int32)
    return wide if zero is None else wide - zero.cast(int32).reshape(-1, *[1] * (weight.ndim - 1))


@operator("ConvInteger", 10)
def _conv_integer(
    call: Call, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    x = x.cast(int32)
    x = x if x_zero is None else x - x_zero.cast(int32)
    return convolve(call, x, without_channel_zero(weight, w_zero), None)


@operator("ConvTranspose", 1, 11, 22)
def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = x.ndim - 2
    kernel = list(shape_of(weight)[2:])
    strides, dilations = _numbers(call, "strides", rank), _numbers(call, "dilations", rank)
    extra = list(call.get("output_padding") or (0,) * rank)
    full = [
        (size - 1) * stride + (taps - 1) * dilation + 1 + more
        for size, stride, taps, dilation, more in zip(
            shape_of(x)[2:], strides, kernel, dilations, extra, strict=True
        )
    ]
    pads = _transpose_pads(call, shape_of(x)[2:], strides, full)
    out = x.conv_transpose2d(
        weight,
        bias,
        groups=call["group"],
        stride=strides,
        dilation=dilations,
        padding=0,
        output_padding=extra,
    )
    return pad_with(out, [(0, 0), (0, 0), *[(-before, -after) for before, after in pads]], 0)


def _transpose_pads(
    call: Call, sizes: Sequence[int], strides: Sequence[int], full: Sequence[int]
) -> list[tuple[int, int]]:
    """How much to cut from each side of the full output; negative widths add to it."""
    mode, wanted = call["auto_pad"], call.get("output_shape")
    if wanted is None and mode not in ("SAME_UPPER", "SAME_LOWER"):
        pads = call.get("pads") or (0,) * (2 * len(full))
        return (
            list(zip(pads[: len(full)], pads[len(full) :], strict=True))
            if mode == "NOTSET"
            else [(0, 0)] * len(full)
        )
    targets = (
        [size * stride for size, stride in zip(sizes, strides, strict=True)]
        if wanted is None
        else wanted[-len(full) :]
    )
    result = []
    for have, target in zip(full, targets, strict=True):
        total = have - target
        small, large = total // 2, total - total // 2
        result.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return result
