"""Activation functions."""

from __future__ import annotations

from petaflop import Tensor
from petaflop_onnx.host import normalize_axis
from petaflop_onnx.operators.common import shape_of
from petaflop_onnx.table import Call, operator


@operator("Relu", 1, 6, 13, 14)
def _relu(_: Call, x: Tensor) -> Tensor:
    return x.relu()


@operator("Sigmoid", 1, 6, 13)
def _sigmoid(_: Call, x: Tensor) -> Tensor:
    return x.sigmoid()


@operator("Softplus", 1, 22)
def _softplus(_: Call, x: Tensor) -> Tensor:
    return x.softplus()


@operator("Softsign", 1, 22)
def _softsign(_: Call, x: Tensor) -> Tensor:
    return x.softsign()


@operator("HardSwish", 14, 22)
def _hard_swish(_: Call, x: Tensor) -> Tensor:
    return x.hardswish()


@operator("Mish", 18, 22)
def _mish(_: Call, x: Tensor) -> Tensor:
    return x.mish()


@operator("Gelu", 20)
def _gelu(call: Call, x: Tensor) -> Tensor:
    return x.gelu(approximate=call["approximate"])


@operator("LeakyRelu", 1, 6, 16)
def _leaky_relu(call: Call, x: Tensor) -> Tensor:
    return (x < 0).where(x * call["alpha"], x)


@operator("Elu", 1, 6, 22)
def _elu(call: Call, x: Tensor) -> Tensor:
    return x.elu(call["alpha"])


@operator("Selu", 1, 6, 22)
def _selu(call: Call, x: Tensor) -> Tensor:
    return (x > 0).where(x, x.expm1() * call["alpha"]) * call["gamma"]


@operator("Celu", 12, 28)
def _celu(call: Call, x: Tensor) -> Tensor:
    return x.celu(call["alpha"])


@operator("Swish", 24)
def _swish(call: Call, x: Tensor) -> Tensor:
    return x * (x * call["alpha"]).sigmoid()


@operator("HardSigmoid", 1, 6, 22)
def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return (x * call["alpha"] + call["beta"]).clip(0, 1)


@operator("ThresholdedRelu", 10, 22)
def _thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return (x > call["alpha"]).where(x, 0)


@operator("Shrink", 9)
def _shrink(call: Call, x: Tensor) -> Tensor:
    bias, limit = call["bias"], call["lambd"]
    return (x < -limit).where(x + bias, (x > limit).where(x - bias, 0)).cast(x.dtype)


@operator("PRelu", 7, 9, 16)
def _prelu(_: Call, x: Tensor, slope: Tensor) -> Tensor:
    return (x < 0).where(x * slope, x)


@operator("PRelu", 1, 6)
def _prelu_by_channel(_: Call, x: Tensor, slope: Tensor) -> Tensor:
    if slope.ndim == 1 and shape_of(slope)[0] != 1:
        slope = slope.reshape(-1, *[1] * (x.ndim - 2))
    return (x < 0).where(x * slope, x)


# ---- over an axis ----


@operator("Softmax", 13)
def _softmax(call: Call, x: Tensor) -> Tensor:
    return x.softmax(call["axis"])


@operator("LogSoftmax", 13)
def _log_softmax(call: Call, x: Tensor) -> Tensor:
    return x.log_softmax(call["axis"])


def _rows(call: Call, x: Tensor) -> Tensor:
    """Before opset 13 everything from `axis` on is one row."""
    axis = normalize_axis(call["axis"], x.ndim)
    return x.flatten(axis) if axis < x.ndim else x.unsqueeze(-1)


@operator("Softmax", 1, 11)
def _softmax_rows(call: Call, x: Tensor) -> Tensor:
    return _rows(call, x).softmax(-1).reshape(*shape_of(x))


@operator("LogSoftmax", 1, 11)
def _log_softmax_rows(call: Call, x: Tensor) -> Tensor:
    return _rows(call, x).log_softmax(-1).reshape(*shape_of(x))


def _one_at_maximum(x: Tensor, axis: int) -> Tensor:
    first = x.argmax(axis, keepdim=True)
    positions = Tensor.arange(shape_of(x)[axis], device=x.device).cast(first.dtype)
    shape = [1] * x.ndim
    shape[axis] = -1
    return (positions.reshape(*shape) == first).cast(x.dtype)


@operator("Hardmax", 13)
def _hardmax(call: Call, x: Tensor) -> Tensor:
    return _one_at_maximum(x, call["axis"])


@operator("Hardmax", 1, 11)
def _hardmax_rows(call: Call, x: Tensor) -> Tensor:
    return _one_at_maximum(_rows(call, x), -1).reshape(*shape_of(x))
