"""Matrix products."""

from __future__ import annotations

from petaflop import Tensor
from petaflop.dtype import int32
from petaflop_onnx.operators.common import legacy, shape_of
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
