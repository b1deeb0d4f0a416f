"""Products with weights of a few bits: codes stay packed and are taken apart where they are read."""

from __future__ import annotations

from petaflop import Tensor
from petaflop.dtype import float32, int32, uint8
from petaflop.errors import ArgumentError
from petaflop_onnx.operators.common import shape_of
from petaflop_onnx.schemas import MICROSOFT
from petaflop_onnx.table import Call, operator

__all__: list[str] = []

_WIDTHS = (2, 4, 8)


def _codes(packed: Tensor, bits: int) -> Tensor:
    """[rows, bytes] of codes, low bits first, as [rows, codes].

    Bytes are repeated before they are taken apart: so the scheduler computes all of it where it is read.
    """
    rows, count = shape_of(packed)
    parts = 8 // bits
    wide = packed.reshape(rows, count, 1).expand(rows, count, parts)
    part = Tensor.arange(parts, device=packed.device)
    step = parts // 2
    while step:
        wide = (part & step).ne(0).where(wide // (1 << (bits * step)), wide)
        step //= 2
    return (wide & ((1 << bits) - 1)).reshape(rows, count * parts)


def _expect(call: Call, what: str, value: Tensor, shapes: list[tuple[int, ...]]) -> None:
    found = tuple(shape_of(value))
    if found not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ArgumentError(f"{call.operator}: expected {what} of shape {wanted}, got {list(found)}")


@operator("MatMulNBits", 1, domain=MICROSOFT)
def _matmul_n_bits(
    call: Call,
    a: Tensor,
    b: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    groups: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """(code − zero) · scale, exactly, in float32; `accuracy_level` lets others round A, and we do not."""
    size, outputs, bits, block = (call[name] for name in ("K", "N", "bits", "block_size"))
    if bits not in _WIDTHS or size < 1 or outputs < 1 or block < 16 or block & (block - 1):
        facts = f"K={size}, N={outputs}, bits={bits}, block_size={block}"
        raise ArgumentError(f"{call.operator}: expected bits of {_WIDTHS} and a power of two, got {facts}")
    if call["weight_prepacked"]:
        raise ArgumentError(f"{call.operator}: expected B as it is in files, got a prepacked one")
    count = -(-size // block)
    _expect(call, "B", b, [(outputs, count, block * bits // 8)])
    _expect(call, "scales", scales, [(outputs, count), (outputs * count,)])
    codes = _codes(b.reshape(outputs, count * block * bits // 8), bits)
    zero = _zeros(call, zeros, outputs, count, bits)
    scale = scales.reshape(outputs, count)
    if groups is not None:
        _expect(call, "g_idx", groups, [(size,), (count * block,)])
        index = groups[:size].cast(int32)
        wide = codes[:, :size].cast(float32) - (
            zero if isinstance(zero, float) else zero.index_select(1, index)
        )
        weight = wide * scale.index_select(1, index).cast(float32)
    else:
        wide = codes.cast(float32) - (zero if isinstance(zero, float) else _spread(zero, block))
        weight = (wide * _spread(scale, block).cast(float32))[:, :size]
    product = a.cast(float32).matmul(weight.transpose(0, 1))
    return (product if bias is None else product + bias.cast(float32)).cast(a.dtype)


def _zeros(call: Call, zeros: Tensor | None, outputs: int, count: int, bits: int) -> Tensor | float:
    """The zero of each block in float32, or the middle for all of them."""
    if zeros is None:
        return float(1 << (bits - 1))
    if zeros.dtype is not uint8:
        _expect(call, "zero_points", zeros, [(outputs, count), (outputs * count,)])
        return zeros.reshape(outputs, count).cast(float32)
    packed = -(-count * bits // 8)
    _expect(call, "zero_points", zeros, [(outputs, packed), (outputs * packed,)])
    return _codes(zeros.reshape(outputs, packed), bits)[:, :count].cast(float32)


def _spread(plane: Tensor, block: int) -> Tensor:
    """A number for each block, for each element."""
    rows, count = shape_of(plane)
    return plane.reshape(rows, count, 1).expand(rows, count, block).reshape(rows, count * block)
