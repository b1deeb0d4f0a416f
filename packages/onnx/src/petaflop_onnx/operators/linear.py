"""Matrix products."""

from __future__ import annotations

from petaflop import Tensor
from petaflop.dtype import float32, int32
from petaflop_onnx.operators.common import legacy, shape_of
from petaflop_onnx.operators.convolution import convolve, without_channel_zero
from petaflop_onnx.table import Call, operator


@operator("MatMul", 1, 9, 13)
def _matmul(_: Call, a: Tensor, b: Tensor) -> Tensor:
    return a.matmul(b)


def _product(call: Call, a: Tensor, b: Tensor) -> Tensor:
    a = a.transpose(0, 1) if call["transA"] else a
    b = b.transpose(0, 1) if call["transB"] else b
    product = a.matmul(b)
    return product if call["alpha"] == 1 else product * call["alpha"]


@operator("Gemm", 7, 9, 11, 13)
def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    product = _product(call, a, b)
    if c is None or call["beta"] == 0:
        return product
    return product + (c if call["beta"] == 1 else c * call["beta"])


@operator("Gemm", 1, 6)
def _gemm_legacy(call: Call, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    product = _product(call, a, b)
    return product + legacy(call, product, c) * call["beta"]


@operator("Einsum", 12, 28)
def _einsum(call: Call, *operands: Tensor) -> Tensor:
    return Tensor.einsum(call["equation"].replace(" ", ""), *operands)


def _without_zero(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """x as int32 less its zero point, which is one number or one per row or column."""
    wide = x.cast(int32)
    if zero is None:
        return wide
    zero = zero.cast(int32)
    if zero.ndim == 1 and shape_of(zero)[0] != 1 and axis == -2:
        zero = zero.unsqueeze(-1)
    return wide - zero


@operator("MatMulInteger", 10)
def _matmul_integer(
    _: Call, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    return _without_zero(a, a_zero, -2).matmul(_without_zero(b, b_zero, -1))


@operator("Det", 11, 22)
def _det(_: Call, x: Tensor) -> Tensor:
    """By elimination with the largest pivot of each column."""
    lead, size = shape_of(x)[:-2], shape_of(x)[-1]
    rows = x.reshape(-1, size, size)
    place = Tensor.arange(size, device=x.device)
    result = Tensor.ones(shape_of(rows)[0], dtype=x.dtype, device=x.device)
    for k in range(size):
        height = (place >= k).where(rows[:, :, k].abs(), -1)
        pivot = height.argmax(1).reshape(-1, 1)
        swapped = (place == k).where(pivot, (place == pivot).where(k, place))
        rows = rows.gather(1, swapped.unsqueeze(2).expand(*shape_of(rows)))
        top = rows[:, k : k + 1]
        diagonal = top[:, :, k]
        result = result * diagonal[:, 0] * (pivot[:, 0] == k).where(1, -1)
        factor = (place > k).where(rows[:, :, k] / (diagonal == 0).where(1, diagonal), 0)
        rows = rows - factor.unsqueeze(2) * top
    return result.reshape(*lead)


# ---- quantized products ----


def _rescaled(total: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """An int32 sum as the quantized result: scaled, rounded, moved to its zero and saturated."""
    dtype = zero.dtype
    return ((total.cast(float32) * scale).round() + zero.cast(float32)).clip(dtype.min, dtype.max).cast(dtype)


@operator("QLinearMatMul", 10, 21)
def _qlinear_matmul(
    _: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """a's scale may be one per row, b's one per column."""
    product = _without_zero(a, a_zero, -2).matmul(_without_zero(b, b_zero, -1))
    by_row = a_scale.unsqueeze(-1) if a_scale.ndim == 1 and shape_of(a_scale)[0] != 1 else a_scale
    scale = by_row.cast(float32) * b_scale.cast(float32) / y_scale.cast(float32)
    return _rescaled(product, scale, y_zero)


@operator("QLinearConv", 10)
def _qlinear_conv(
    call: Call,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """The weight's scale and zero may be one per output channel."""
    total = convolve(call, x.cast(int32) - x_zero.cast(int32), without_channel_zero(w, w_zero), bias)
    scale = (x_scale * w_scale / y_scale).reshape(-1, *[1] * (x.ndim - 2))
    return _rescaled(total, scale, y_zero)
