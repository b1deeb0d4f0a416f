"""GGUF's formats whose codes of 4 bits are looked up in a table: IQ4_NL, IQ4_XS, MXFP4, NVFP4."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from petaflop import Tensor
from petaflop_quant.bits import Bits, express, read, spread
from petaflop_quant.formats.blocks import HALF_LIMIT, Array, BlockFormat, Field, half_error
from petaflop_quant.formats.plain import OneScale
from petaflop_quant.formats.two_level import TwoLevel

__all__ = ["E2M1", "IQ4", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4", "nearest"]

IQ4 = (
    -127.0,
    -104.0,
    -83.0,
    -65.0,
    -49.0,
    -35.0,
    -22.0,
    -10.0,
    1.0,
    13.0,
    25.0,
    38.0,
    53.0,
    69.0,
    89.0,
    113.0,
)
_POSITIVE = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
E2M1 = (*_POSITIVE, 0.0, *(-each for each in _POSITIVE[1:]))  # twice the numbers of float4_e2m1; no −0


def nearest(levels: tuple[float, ...], values: Array) -> Array:
    """The codes whose levels, in ascending order, are nearest; the lower one at a tie."""
    edges = (np.array(levels[1:]) + np.array(levels[:-1])) / 2
    result: Array = np.searchsorted(edges.astype(values.dtype), values).astype(np.uint8)
    return result


class IQ4_NL(OneScale):
    """Levels that lie closer around zero."""

    name, block, bits_per_weight, gguf_type, levels = "iq4_nl", (32,), 4.5, 20, IQ4
    fields = (Field("d", "float16", 1), Field("qs", "uint8", 16))
    codes = (Bits("qs", 4, outer=1, lanes=16),)

    def _scale(self, blocks: Array) -> Array:
        """The number of largest size gets the level −127; in float64, as a float16 holds it."""
        within = np.clip(blocks, -HALF_LIMIT * 127, HALF_LIMIT * 127)
        signed = np.take_along_axis(within, abs(within).argmax(-1, keepdims=True), -1)
        result: Array = (signed.astype(np.float64) / -127).astype(np.float16).astype(np.float64)
        return result

    def encode(self, blocks: Array) -> Mapping[str, Array]:
        """To the nearest level of the scale that is kept."""
        scale = self._scale(blocks)
        codes = nearest(self.levels, blocks / np.where(scale == 0, 1, scale))
        return self.joined(codes, d=scale)

    def allowed(self, blocks: Array) -> Array:
        """Half of the widest gap, all beyond the end that has less levels, what float16 does to d."""
        scale = abs(self._scale(blocks.astype(np.float32)))
        largest = abs(blocks).max(-1, keepdims=True)
        beyond = abs(blocks) - 113 * scale
        rounding = 127 * half_error(largest / 127) + largest * 2.0**-22
        result: Array = np.maximum(12 * scale, beyond) + rounding
        return result


class IQ4_XS(TwoLevel):
    """IQ4_NL's levels under scales of 6 bits around 32, in parts of 32; loaded only."""

    name, block, bits_per_weight, gguf_type, levels, parts = "iq4_xs", (256,), 4.25, 23, IQ4, 8
    fallback = "iq4_nl"
    fields = (
        Field("d", "float16", 1),
        Field("scales_h", "uint8", 2),
        Field("scales_l", "uint8", 4),
        Field("qs", "uint8", 128),
    )
    codes = (Bits("qs", 4, outer=8, lanes=16),)
    scale_bits = (
        Bits("scales_l", 4, outer=4, lanes=1),
        Bits("scales_h", 2, outer=2, lanes=1, at=4),
    )

    def small_scales(self, flat: Mapping[str, Array]) -> Array:
        """Less 32."""
        return read(self.scale_bits, flat).astype(np.float32) - np.float32(32)

    def express_small_scales(self, flat: Mapping[str, Tensor]) -> Tensor:
        """Less 32."""
        return express(self.scale_bits, flat, self.size // self.parts).cast("float32") - 32.0


class MXFP4(BlockFormat):
    """Numbers of float4_e2m1 under a power of two, float8_e8m0; as in GGUF, 255 is no NaN but 2¹²⁸."""

    name, block, bits_per_weight, gguf_type, levels = "mxfp4", (32,), 4.25, 39, E2M1
    fields = (Field("e", "uint8", 1), Field("qs", "uint8", 16))
    codes = (Bits("qs", 4, outer=1, lanes=16),)

    def scales(self, flat: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """2^(e − 128): half of the power, as the levels are doubled."""
        return np.ldexp(np.float32(1), flat["e"].astype(np.int32) - 128), None

    def express_scales(self, flat: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The exponent put into the bits of a float32; the two least ones are subnormal."""
        code = spread(flat["e"], self.size).cast("int32")
        bits = code.lt(2).where((code + 1) * (1 << 21), (code - 1) * (1 << 23))
        return bits.bitcast("float32"), None

    def _exponent(self, blocks: Array) -> Array:
        """The largest value gets the binade of 4 to 6; as float64 counts it, which never rounds up."""
        largest = abs(blocks).max(-1, keepdims=True)
        _, exponent = np.frexp(largest)
        result: Array = np.where(largest > 0, np.clip(exponent - 3 + 127, 0, 254), 0)
        return result

    def encode(self, blocks: Array) -> Mapping[str, Array]:
        """To the nearest number, the smaller one at a tie, as in `gguf`."""
        exponent = self._exponent(blocks)
        scaled = np.ldexp(abs(blocks).astype(np.float64), 128 - exponent)
        codes = nearest(_POSITIVE, scaled)
        codes = np.where((blocks < 0) & (codes > 0), codes + 8, codes).astype(np.uint8)
        return self.joined(codes, e=exponent)

    def allowed(self, blocks: Array) -> Array:
        """Half of the gap around a value, and what is above the largest number."""
        half = np.ldexp(1.0, self._exponent(blocks.astype(np.float32)) - 128)
        scaled = abs(blocks) / half
        gap = np.where(scaled <= 4, 0.5, np.where(scaled <= 8, 1.0, 2.0))
        result: Array = np.maximum(gap, scaled - 12) * half * (1 + 2.0**-22)
        return result


class NVFP4(BlockFormat):
    """Numbers of float4_e2m1, each 16 under a float8_e4m3 without sign; loaded only.

    As in GGUF the scale 127 is no NaN but 0.
    """

    name, block, bits_per_weight, gguf_type, levels = "nvfp4", (64,), 4.5, 40, E2M1
    fields = (Field("d", "uint8", 4), Field("qs", "uint8", 32))
    codes = (Bits("qs", 4, outer=4, lanes=8),)

    def scales(self, flat: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """Half of the numbers, as the levels are doubled."""
        code = flat["d"].astype(np.int32)
        exponent, mantissa = (code >> 3) & 15, code & 7
        number = np.where(exponent > 0, np.ldexp(8.0 + mantissa, exponent - 11), np.ldexp(mantissa, -10))
        return np.where(code == 127, 0, number).astype(np.float32), None

    def express_scales(self, flat: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The bits of a float32 for normal numbers, a product for the others."""
        code = spread(flat["d"], self.size).cast("int32")
        magnitude = code & 127
        normal = (magnitude * (1 << 20) + (119 << 23)).bitcast("float32")
        number = magnitude.lt(8).where(magnitude.cast("float32") * 2.0**-10, normal)
        return code.eq(127).where(0.0, number), None
