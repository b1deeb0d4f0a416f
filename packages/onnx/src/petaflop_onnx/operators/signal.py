"""Fourier transforms, as products with the matrix of their waves, and what audio models do with them."""

from __future__ import annotations

import math

import numpy as np

from petaflop import Tensor
from petaflop.device.registry import get_backend
from petaflop.dtype import DType, float32, float64
from petaflop_onnx.host import normalize_axis
from petaflop_onnx.operators.common import Array, onnx_dtype, shape_of
from petaflop_onnx.table import Call, operator


def _accurate(x: Tensor) -> DType:
    """float64 where the device has it."""
    return float64 if "float64" in get_backend(x.device).capabilities.dtypes else float32


def _waves(rows: int, columns: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2π·row·column / length, [rows, columns]; the products are taken modulo the length."""
    row = Tensor.arange(rows, device=like.device).reshape(-1, 1)
    column = Tensor.arange(columns, device=like.device).reshape(1, -1)
    angle = (row * column).mod(length).cast(like.dtype) * (2 * math.pi / length)
    return angle.cos(), angle.sin()


def _transform(x: Tensor, length: int, inverse: bool, onesided: bool) -> Tensor:
    """x [..., n, 1 or 2] transformed along n, cut or filled up with zeros to `length`: [..., k, 2]."""
    wide = x.cast(_accurate(x))  # the error grows with the length
    real, imaginary = wide[..., 0], wide[..., 1] if shape_of(x)[-1] == 2 else None
    if inverse and onesided:
        return _real_inverse(real, imaginary, length).cast(x.dtype)
    bins = length // 2 + 1 if onesided else length
    taken = min(shape_of(real)[-1], length)
    cos, sin = _waves(taken, bins, length, wide)
    sin = sin if inverse else -sin
    a = real[..., :taken]
    first, second = a.matmul(cos), a.matmul(sin)
    if imaginary is not None:
        b = imaginary[..., :taken]
        first, second = first - b.matmul(sin), second + b.matmul(cos)
    scale = 1 / length if inverse else 1
    return (first * scale).stack(second * scale, dim=-1).cast(x.dtype)


def _real_inverse(real: Tensor, imaginary: Tensor | None, length: int) -> Tensor:
    """Half a spectrum back to real values [..., length, 1]: all but the ends stand for two bins."""
    bins = min(shape_of(real)[-1], length // 2 + 1)
    cos, sin = _waves(bins, length, length, real)
    place = Tensor.arange(bins, device=real.device)
    alone = (place == 0) | (place * 2 == length)
    weight = alone.where(1, 2).cast(real.dtype).reshape(-1, 1)
    total = real[..., :bins].matmul(cos * weight)
    if imaginary is not None:
        total = total - imaginary[..., :bins].matmul(sin * weight)
    return (total / length).unsqueeze(-1)


def _along(call: Call, x: Tensor, given: Array | None, axis: int) -> Tensor:
    axis = normalize_axis(axis, x.ndim)
    inverse, onesided = bool(call["inverse"]), bool(call["onesided"])
    if axis == x.ndim - 1 or shape_of(x)[-1] not in (1, 2):
        raise ValueError(f"axis: expected one before the last, of 1 or 2 numbers, got {axis}")
    size = shape_of(x)[axis]
    length = int(given.item()) if given is not None else 2 * (size - 1) if inverse and onesided else size
    if length < 1:
        raise ValueError(f"dft_length: expected 1 or more, got {length}")
    return _transform(x.movedim(axis, -2), length, inverse, onesided).movedim(-2, axis)


@operator("DFT", 17, host=(1,))
def _dft_attribute(call: Call, x: Tensor, length: Array | None = None) -> Tensor:
    return _along(call, x, length, call["axis"])


@operator("DFT", 20, host=(1, 2))
def _dft(call: Call, x: Tensor, length: Array | None = None, axis: Array | None = None) -> Tensor:
    return _along(call, x, length, -2 if axis is None else int(axis.item()))


@operator("STFT", 17, host=(1, 3))
def _stft(
    call: Call, x: Tensor, step: Array, window: Tensor | None = None, length: Array | None = None
) -> Tensor:
    """[batch, samples, 1 or 2] → [batch, frames, bins, 2]."""
    size = shape_of(x)[1]
    if length is not None:
        size = int(length.item())
    elif window is not None:
        size = shape_of(window)[0]
    frames = x.unfold(1, size, int(step.item())).transpose(2, 3)  # [batch, frames, size, 1 or 2]
    if window is not None:
        frames = frames * window.reshape(-1, 1)
    return _transform(frames, size, False, bool(call["onesided"]))


@operator("MelWeightMatrix", 17, host=(0, 1, 2, 3, 4))
def _mel_weights(call: Call, bins: Array, length: Array, rate: Array, low: Array, high: Array) -> Tensor:
    """Triangles between bins of the spectrum that lie evenly on the mel scale."""
    count, spectrum = int(bins.item()), int(length.item()) // 2 + 1
    first, last = (2595 * math.log10(1 + float(edge.item()) / 700) for edge in (low, high))
    mels = [first + k * (last - first) / (count + 2) for k in range(count + 2)]
    hertz = [700 * (10 ** (mel / 2595) - 1) for mel in mels]
    edges = [math.floor((int(length.item()) + 1) * each / int(rate.item())) for each in hertz]
    points = Tensor(np.asarray(edges, np.float32), device=call.device)
    left, centre, right = points[:-2], points[1:-1], points[2:]
    place = Tensor.arange(spectrum, device=call.device).cast(float32).reshape(-1, 1)
    rising = (centre == left).where(1, (place - left) / (centre - left).maximum(1))
    falling = (right - place) / (right - centre).maximum(1)
    before, after = (place >= left) & (place <= centre), (place >= centre) & (place < right)
    weights = after.where(falling, before.where(rising, 0))
    return weights.cast(onnx_dtype(call["output_datatype"]))
