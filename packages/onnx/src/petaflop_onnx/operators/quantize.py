"""Between floats and their quantized integers: one scale per tensor, per axis or per block."""

from __future__ import annotations

from petaflop import Tensor
from petaflop.dtype import DType, float32, int32, uint8
from petaflop_onnx.host import normalize_axis
from petaflop_onnx.narrow import Format, decoded, encoded
from petaflop_onnx.operators.common import onnx_dtype, onnx_type, shape_of
from petaflop_onnx.operators.elementwise import converted
from petaflop_onnx.table import Call, operator
from petaflop_onnx.values import Value, to_narrow, to_tensor


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


def _numbers(value: Value) -> Tensor:
    """Elements that kernels compute with, whatever their type."""
    narrow = to_narrow(value)
    return to_tensor(value) if narrow is None else decoded(narrow)


def _kind(value: Value) -> DType | Format:
    narrow = to_narrow(value)
    return to_tensor(value).dtype if narrow is None else narrow.format


@operator("QuantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28, raw=True)
def _quantize(call: Call, given: Value, scales: Value, zero: Value = None) -> Value:
    to = (
        onnx_type(call["output_dtype"])
        if call.get("output_dtype")
        else uint8
        if zero is None
        else _kind(zero)
    )
    x, scale = _numbers(given), _numbers(scales)
    wide = onnx_dtype(call["precision"]) if call.get("precision") else float32
    scaled = (x.cast(wide) / _spread(call, scale, x).cast(wide)).cast(float32)
    whole = not to.is_float
    scaled = scaled.round() if whole else scaled
    if zero is not None:
        scaled = scaled + _spread(call, _numbers(zero), x).cast(float32)
    if isinstance(to, Format):
        return encoded(scaled.clip(to.low, to.high) if whole else scaled, to, bool(call["saturate"]))
    return _saturate(scaled, to) if whole else converted(call, scaled, to)


@operator("DequantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28, raw=True)
def _dequantize(call: Call, given: Value, scales: Value, zero: Value = None) -> Value:
    x, scale = _numbers(given), _numbers(scales)
    wide = x.cast(int32) if x.dtype.is_integer else x.cast(float32)
    if zero is not None:
        wide = wide - _spread(call, _numbers(zero), x).cast(wide.dtype)
    to = onnx_dtype(call["output_dtype"]) if call.get("output_dtype") else None
    scale = scale if to is None else scale.cast(to)
    return wide.cast(scale.dtype) * _spread(call, scale, x)


@operator("DynamicQuantizeLinear", 11)
def _dynamic_quantize(_: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.min().minimum(0), x.max().maximum(0)
    scale = (high - low) / 255
    zero = _saturate((-low / scale).round(), uint8)
    return _saturate((x / scale).round() + zero.cast(float32), uint8), scale, zero
