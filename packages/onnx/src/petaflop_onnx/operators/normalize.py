"""Normalizations."""

from __future__ import annotations

from typing import Any

from petaflop import Tensor
from petaflop_onnx.host import normalize_axis
from petaflop_onnx.operators.common import onnx_dtype, shape_of
from petaflop_onnx.table import Call, operator


def _by_channel(value: Tensor, rank: int) -> Tensor:
    return value.reshape(1, -1, *[1] * (rank - 2))


def _batch(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    """(x − mean) · scale / √(variance + ε) + bias; the factors are computed once per channel."""
    factor = scale / (variance + epsilon).sqrt()
    return (x - _by_channel(mean, x.ndim)) * _by_channel(factor, x.ndim) + _by_channel(bias, x.ndim)


@operator("BatchNormalization", 1, 6, 7, 9, 14, 15)
def _batch_normalization(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Any:
    if call.version < 7 and not call["is_test"]:
        raise ValueError("is_test: expected 1, as models are run and not trained, got 0")
    if call.get("training_mode"):
        axes, keep = (0, *range(2, x.ndim)), call["momentum"]
        now, spread = x.mean(axes), x.var(axes, correction=0)
        y = _batch(x, scale, bias, now, spread, call["epsilon"]).cast(x.dtype)
        return y, mean * keep + now * (1 - keep), variance * keep + spread * (1 - keep)
    return _batch(x, scale, bias, mean, variance, call["epsilon"]).cast(x.dtype)


def _standardize(x: Tensor, axes: tuple[int, ...], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    inverse = ((centred * centred).mean(axes, keepdim=True) + epsilon).sqrt().reciprocal()
    return centred * inverse, mean, inverse


@operator("InstanceNormalization", 1, 6, 22)
def _instance_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    normal, _, _ = _standardize(x, tuple(range(2, x.ndim)), call["epsilon"])
    return normal * _by_channel(scale, x.ndim) + _by_channel(bias, x.ndim)


@operator("LayerNormalization", 17)
def _layer_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    axes = tuple(range(normalize_axis(call["axis"], x.ndim), x.ndim))
    normal, mean, inverse = _standardize(x.cast(onnx_dtype(call["stash_type"])), axes, call["epsilon"])
    out = normal.cast(x.dtype) * scale
    return out if bias is None else out + bias, mean, inverse


@operator("RMSNormalization", 23)
def _rms_normalization(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(normalize_axis(call["axis"], x.ndim), x.ndim))
    wide = x.cast(onnx_dtype(call["stash_type"]))
    inverse = ((wide * wide).mean(axes, keepdim=True) + call["epsilon"]).sqrt().reciprocal()
    return (wide * inverse).cast(x.dtype) * scale


@operator("GroupNormalization", 21)
def _group_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = call["num_groups"]
    wide = x.cast(onnx_dtype(call["stash_type"])).reshape(shape_of(x)[0], groups, -1)
    normal, _, _ = _standardize(wide, (2,), call["epsilon"])
    normal = normal.reshape(*shape_of(x)).cast(x.dtype)
    return normal * _by_channel(scale, x.ndim) + _by_channel(bias, x.ndim)


@operator("MeanVarianceNormalization", 9, 13)
def _mean_variance_normalization(call: Call, x: Tensor) -> Tensor:
    axes = tuple(normalize_axis(axis, x.ndim) for axis in call["axes"])
    mean = x.mean(axes, keepdim=True)
    deviation = ((x * x).mean(axes, keepdim=True) - mean * mean).sqrt()
    return (x - mean) / (deviation + 1e-9)


@operator("LRN", 1, 13)
def _lrn(call: Call, x: Tensor) -> Tensor:
    """Each channel divided by the energy of its neighbours."""
    size = call["size"]
    widths = [(0, 0)] * x.ndim
    widths[1] = ((size - 1) // 2, size // 2)
    energy = (x * x).pad(tuple(widths)).unfold(1, size, 1).sum(-1)
    return x / (energy * (call["alpha"] / size) + call["bias"]).pow(call["beta"])
