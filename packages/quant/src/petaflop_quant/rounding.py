"""Activations rounded to 8 bits: the step for each row that quantized products of integers begin with."""

from __future__ import annotations

from petaflop import Tensor

__all__ = ["int8_rows"]


def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8[…, k] and scales float32[…, 1] of rows: largest size / 127, halves to even.

    >>> codes, scale = int8_rows(Tensor([[1.0, -0.5, 127.0]]))
    >>> codes.tolist(), scale.tolist()
    ([[1, 0, 127]], [[1.0]])
    """
    largest = x.abs().max(-1, keepdim=True).cast("float32")
    scale = largest * (1 / 127)
    safe = scale.gt(0).where(scale, 1.0)
    return (x.cast("float32") / safe).round().clamp(-127, 127).cast("int8"), scale
