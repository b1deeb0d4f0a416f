"""GGUF's formats of 256 elements, in parts whose scales are small integers times a float16: Q2_K to Q6_K.

With minimums a value is (d · scale) · code − dmin · minimum, otherwise (d · scale) · (code − zero).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from petaflop import Tensor
from petaflop_quant.bits import Bits, express, read, spread
from petaflop_quant.formats.blocks import HALF_LIMIT, Array, BlockFormat, Field

__all__ = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TwoLevel", "WithMinimums", "half_above"]

_D, _DMIN = Field("d", "float16", 1), Field("dmin", "float16", 1)
_NIBBLES = Bits("qs", 4, outer=4, lanes=32)


def half_above(numbers: Array) -> Array:
    """The least float16 that is no smaller, of numbers of 0 to HALF_LIMIT, in float32."""
    near = np.minimum(numbers, 65504).astype(np.float16)
    above = np.nextafter(near, np.float16(np.inf))
    result: Array = np.where(near >= np.minimum(numbers, 65504), near, above).astype(np.float32)
    return result


def _steps(needed: Array, unit: Array, last: int) -> Array:
    """The least integers n with n · unit ≥ needed, up to rounding; 0 where there is no unit."""
    counts = np.ceil(needed / np.where(unit > 0, unit, 1))
    result: Array = np.clip(counts, 0, last)
    return result


class TwoLevel(BlockFormat):
    """Signed small scales; codes around `levels`."""

    parts: ClassVar[int] = 16

    def small_scales(self, flat: Mapping[str, Array]) -> Array:
        """The integers of the parts, float32[blocks, parts]."""
        raise NotImplementedError(f"{self.name}: small_scales")

    def express_small_scales(self, flat: Mapping[str, Tensor]) -> Tensor:
        """The same, lazily, float32[rows, blocks, size]."""
        raise NotImplementedError(f"{self.name}: express_small_scales")

    def scales(self, flat: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """d · scale."""
        return flat["d"].astype(np.float32) * self.small_scales(flat), None

    def express_scales(self, flat: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """d · scale."""
        return spread(flat["d"], self.size).cast("float32") * self.express_small_scales(flat), None


class Q3_K(TwoLevel):
    """Codes of 3 bits around 4, scales of 6 bits around 32; loaded only."""

    name, block, bits_per_weight, gguf_type, levels = "q3_k", (256,), 3.4375, 11, 4
    fallback = "iq4_nl"
    fields = (Field("hmask", "uint8", 32), Field("qs", "uint8", 64), Field("scales", "uint8", 12), _D)
    codes = (Bits("qs", 2, outer=2, lanes=32), Bits("hmask", 1, outer=1, lanes=32, at=2))
    scale_bits = (
        Bits("scales", 4, outer=1, lanes=8),
        Bits("scales", 2, outer=1, lanes=4, at=4, start=8),
    )

    def small_scales(self, flat: Mapping[str, Array]) -> Array:
        """Less 32."""
        return read(self.scale_bits, flat).astype(np.float32) - np.float32(32)

    def express_small_scales(self, flat: Mapping[str, Tensor]) -> Tensor:
        """Less 32."""
        return express(self.scale_bits, flat, self.size // self.parts).cast("float32") - 32.0


class Q6_K(TwoLevel):
    """Codes of 6 bits around 32, scales of 8 bits."""

    name, block, bits_per_weight, gguf_type, levels = "q6_k", (256,), 6.5625, 14, 32
    fallback = "q8_0"
    fields = (Field("ql", "uint8", 128), Field("qh", "uint8", 64), Field("scales", "int8", 16), _D)
    codes = (Bits("ql", 4, outer=2, lanes=64), Bits("qh", 2, outer=2, lanes=32, at=4))

    def small_scales(self, flat: Mapping[str, Array]) -> Array:
        """The plane itself."""
        return flat["scales"].astype(np.float32)

    def express_small_scales(self, flat: Mapping[str, Tensor]) -> Tensor:
        """The plane itself."""
        return spread(flat["scales"], self.size).cast("float32")

    def _chosen(self, blocks: Array) -> tuple[Array, Array, Array]:
        """d and the parts' scales, so that 31 steps reach every value; and the values in parts."""
        parts = np.clip(blocks, -HALF_LIMIT * 31, HALF_LIMIT * 31).reshape(-1, self.parts, 16)
        needed = abs(parts).max(-1).astype(np.float64) / 31
        unit = half_above(needed.max(-1, keepdims=True) / 127)
        return unit, _steps(needed, unit, 127), parts

    def encode(self, blocks: Array) -> Mapping[str, Array]:
        """To nearest even."""
        unit, scales, parts = self._chosen(blocks)
        step = (unit * scales)[:, :, None]
        codes = np.rint(parts / np.where(step > 0, step, 1)).clip(-32, 31) + 32
        return self.joined(codes.astype(np.uint8).reshape(-1, self.size), d=unit, scales=scales)

    def allowed(self, blocks: Array) -> Array:
        """Half a step of the part, and what is cut off."""
        unit, scales, parts = self._chosen(blocks.astype(np.float32))
        step = (unit * scales)[:, :, None] * (0.5 + 2.0**-18)
        beyond = np.maximum(abs(blocks) - 31 * 65504.0, 0).reshape(parts.shape)
        tiny = np.where(step > 0, 0, abs(parts))
        result: Array = (step + beyond + tiny + abs(blocks.reshape(parts.shape)) * 2.0**-23).reshape(
            blocks.shape
        )
        return result


class WithMinimums(BlockFormat):
    """Small scales and small minimums, both ≥ 0, of 6 bits in 12 bytes; codes end at `last`."""

    last: ClassVar[int]
    parts: ClassVar[int] = 8
    last_small: ClassVar[int] = 63

    def small(self, flat: Mapping[str, Array]) -> tuple[Array, Array]:
        """The integers of scales and minimums, uint8[blocks, 8] each."""
        first, second, third = np.split(flat["scales"], 3, -1)
        scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], -1)
        minimums = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], -1)
        return scales, minimums

    def small_bytes(self, scales: Array, minimums: Array) -> Array:
        """The 12 bytes of `small`."""
        first = scales[:, :4] | scales[:, 4:] >> 4 << 6
        second = minimums[:, :4] | minimums[:, 4:] >> 4 << 6
        return np.concatenate([first, second, scales[:, 4:] & 15 | (minimums[:, 4:] & 15) << 4], -1)

    def packed(
        self, codes: Array, unit: Array, least: Array, scales: Array, minimums: Array
    ) -> dict[str, Array]:
        """Planes of codes, d, dmin and the small numbers."""
        small = self.small_bytes(scales.astype(np.uint8), minimums.astype(np.uint8))
        return self.joined(codes, d=unit, dmin=least, scales=small)

    def express_small(self, flat: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The same, lazily: uint8[rows, blocks, size] each."""
        plane, each = flat["scales"], self.size // 8
        rows, blocks, _ = plane.shape
        upper = Tensor.arange(2, device=plane.device).reshape(2, 1, 1).ne(0)
        first, second, third = (
            plane[:, :, start : start + 4].reshape(rows, blocks, 1, 4, 1).expand(rows, blocks, 2, 4, each)
            for start in (0, 4, 8)
        )
        scales = upper.where((third & 15) + first // 64 * 16, first & 63)
        minimums = upper.where(third // 16 + second // 64 * 16, second & 63)
        return scales.reshape(rows, blocks, self.size), minimums.reshape(rows, blocks, self.size)

    def scales(self, flat: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """d · scale and −dmin · minimum."""
        scales, minimums = self.small(flat)
        step = flat["d"].astype(np.float32) * scales.astype(np.float32)
        return step, -(flat["dmin"].astype(np.float32) * minimums.astype(np.float32))

    def express_scales(self, flat: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """d · scale and −dmin · minimum."""
        scales, minimums = self.express_small(flat)
        unit, least = (spread(flat[name], self.size).cast("float32") for name in ("d", "dmin"))
        return unit * scales.cast("float32"), -(least * minimums.cast("float32"))


class Packing(WithMinimums):
    """Also the other way: all values of a part lie between its first and its last code."""

    def _chosen(self, blocks: Array) -> tuple[Array, ...]:
        """d, dmin and the small numbers, so that every value lies between two codes; the values in parts."""
        limit = HALF_LIMIT * self.last_small / 2
        parts = np.clip(blocks, -limit, limit).astype(np.float64).reshape(-1, self.parts, 256 // self.parts)
        low, high = np.maximum(-parts.min(-1), 0), np.maximum(parts.max(-1), 0)
        least = half_above(low.max(-1, keepdims=True) / self.last_small)
        minimums = _steps(low, least, self.last_small)
        needed = (high + least * minimums) / self.last
        unit = half_above(needed.max(-1, keepdims=True) / self.last_small)
        return unit, least, _steps(needed, unit, self.last_small), minimums, parts

    def encode(self, blocks: Array) -> Mapping[str, Array]:
        """To nearest even."""
        unit, least, scales, minimums, parts = self._chosen(blocks)
        step = (unit * scales)[:, :, None]
        codes = (parts + (least * minimums)[:, :, None]) / np.where(step > 0, step, 1)
        codes = np.rint(codes).clip(0, self.last).astype(np.uint8).reshape(-1, self.size)
        return self.packed(codes, unit, least, scales, minimums)

    def allowed(self, blocks: Array) -> Array:
        """Half a step of the part, and what is cut off."""
        unit, least, scales, minimums, parts = self._chosen(blocks.astype(np.float32))
        step = (unit * scales)[:, :, None] * (0.5 + 2.0**-18)
        values = blocks.reshape(parts.shape)
        limit = 65504.0 * self.last_small / 2
        beyond = np.maximum(abs(values) - limit, 0)
        rounding = (abs(values) + (least * minimums)[:, :, None]) * 2.0**-22
        result: Array = (step + beyond + rounding).reshape(blocks.shape)
        return result


class Q4_K(Packing):
    """Codes of 4 bits, in parts of 32."""

    name, block, bits_per_weight, gguf_type, last = "q4_k", (256,), 4.5, 12, 15
    fallback = "q5_0"
    fields = (_D, _DMIN, Field("scales", "uint8", 12), Field("qs", "uint8", 128))
    codes = (_NIBBLES,)


class Q5_K(Packing):
    """Codes of 5 bits, in parts of 32; the fifth bits stand together."""

    name, block, bits_per_weight, gguf_type, last = "q5_k", (256,), 5.5, 13, 31
    fallback = "q5_1"
    fields = (
        _D,
        _DMIN,
        Field("scales", "uint8", 12),
        Field("qh", "uint8", 32),
        Field("qs", "uint8", 128),
    )
    codes = (_NIBBLES, Bits("qh", 1, outer=1, lanes=32, at=4))


class Q2_K(WithMinimums):
    """Codes of 2 bits, in parts of 16 under scales and minimums of 4 bits; loaded only."""

    name, block, bits_per_weight, gguf_type, last = "q2_k", (256,), 2.625, 10, 3
    parts, last_small = 16, 15
    fallback = "iq4_nl"
    fields = (Field("scales", "uint8", 16), Field("qs", "uint8", 64), _D, _DMIN)
    codes = (Bits("qs", 2, outer=2, lanes=32),)

    def small(self, flat: Mapping[str, Array]) -> tuple[Array, Array]:
        """Scales in the low halves, minimums in the high ones."""
        return flat["scales"] & 15, flat["scales"] >> 4

    def small_bytes(self, scales: Array, minimums: Array) -> Array:
        """The 16 bytes of `small`."""
        result: Array = scales | minimums << 4
        return result

    def express_small(self, flat: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The same, lazily."""
        wide = spread(flat["scales"], self.size)
        return wide & 15, wide // 16
