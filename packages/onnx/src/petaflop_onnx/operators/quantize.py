"""Between floats and their quantized integers: one scale per tensor, per axis or per block."""

from __future__ import annotations

from petaflop import Tensor
from petaflop.dtype import DType, float32, int32, uint8
from petaflop_onnx.host import normalize_axis
from petaflop_onnx.operators.common import onnx_dtype, shape_of
from petaflop_onnx.table import Call, operator


def _spread(call: Call, scale: Tensor, x: Tensor) -> Tensor:
    """The scale (or zero point) of every element of x."""
    if scale.ndim == 0 or (scale.ndim == 1 and shape_of(scale)[0] == 1):
        return scale.reshape(*[1] * x.ndim)
    axis = normalize_axis(call.get("axis", 1), x.ndim)
    if scale.ndim == 1:
        return scale.reshape(*[-1 if k == axis else 1 for k in range(x.ndim)])
    block = call.get("block_size") or -(-shape_of(x)[axis] // shape_of(scale)[axis])
    wide = scale.repeat_interleave(block, axis)
    return wide.shrink([(0, size) for size in shape_of(x)])


def _saturate(x: Tensor, dtype: DType) -> Tensor:
    return x.clip(dtype.min, dtype.max).cast(dtype) if dtype.is_integer else x.cast(dtype)


@operator("QuantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28)
def _quantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    dtype = (
        onnx_dtype(call["output_dtype"])
        if call.get("output_dtype")
        else uint8
        if zero is None
        else zero.dtype
    )
    scaled = x.cast(float32) / _spread(call, scale, x).cast(float32)
    scaled = scaled.round() if dtype.is_integer else scaled
    return _saturate(scaled if zero is None else scaled + _spread(call, zero, x).cast(float32), dtype)


@operator("DequantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28)
def _dequantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    wide = x.cast(int32) if x.dtype.is_integer else x.cast(float32)
    if zero is not None:
        wide = wide - _spread(call, zero, x).cast(wide.dtype)
    return wide.cast(scale.dtype) * _spread(call, scale, x)


@operator("DynamicQuantizeLinear", 11)
def _dynamic_quantize(_: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.min().minimum(0), x.max().maximum(0)
    scale = (high - low) / 255
    zero = _saturate((-low / scale).round(), uint8)
    return _saturate((x / scale).round() + zero.cast(float32), uint8), scale, zero
