"""GGUF's formats of 32 elements with a float16 scale, or a scale and a minimum: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.

Bytes are those of the `gguf` library, but for blocks whose scale would be infinite: there values are cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from petaflop import Tensor
from petaflop_quant.bits import Bits, spread
from petaflop_quant.formats.blocks import HALF_LIMIT, Array, BlockFormat, Field, half_error

__all__ = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "OneScale", "ScaleAndMinimum"]

_D, _M = Field("d", "float16", 1), Field("m", "float16", 1)
_NIBBLES = Bits("qs", 4, outer=1, lanes=16)
_FIFTH = Bits("qh", 1, outer=4, lanes=1, at=4)
_LEAST = np.float32(2.0**-126)  # below, the inverse of a scale is infinite, and float16 has no such scale


def inverse(scale: Array) -> Array:
    """1 / scale in float32; 0 where a block is all but zero."""
    usable = abs(scale) >= _LEAST
    result: Array = np.where(usable, 1 / np.where(usable, scale, np.float32(1)), np.float32(0))
    return result


class OneScale(BlockFormat):
    """A value is d · level."""

    def scales(self, flat: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """d."""
        return flat["d"].astype(np.float32), None

    def express_scales(self, flat: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """d."""
        return spread(flat["d"], self.size).cast("float32"), None


class Symmetric(OneScale):
    """The number of largest size gets the code 0, so that its sign decides that of d."""

    half: ClassVar[int]

    def encode(self, blocks: Array) -> Mapping[str, Array]:
        """As `gguf` rounds: halves up, by the scale before it becomes a float16."""
        limit = np.float32(HALF_LIMIT * self.half)
        blocks = np.clip(blocks, -limit, limit)
        signed = np.take_along_axis(blocks, abs(blocks).argmax(-1, keepdims=True), -1)
        scale = signed / np.float32(-self.half)
        codes = np.trunc(blocks * inverse(scale) + np.float32(self.half + 0.5))
        codes = codes.clip(0, 2 * self.half - 1).astype(np.uint8)
        return self.joined(codes, d=scale)

    def allowed(self, blocks: Array) -> Array:
        """Half a step, a whole one at the end that has no code; what float16 does to d; what is cut off."""
        limit = HALF_LIMIT * self.half
        within = np.clip(blocks, -limit, limit)
        signed = np.take_along_axis(within, abs(within).argmax(-1, keepdims=True), -1)
        scale = abs(signed) / self.half
        beyond = np.maximum(-within * np.sign(signed) - (self.half - 1) * scale, 0)
        rounding = scale * 2.0**-14 + self.half * (half_error(scale) + scale * 2.0**-23)
        result: Array = np.maximum(scale / 2, beyond) + rounding + abs(blocks - within)
        return result


class Q4_0(Symmetric):
    """Codes of 4 bits around 8."""

    name, block, bits_per_weight, gguf_type, levels, half = "q4_0", (32,), 4.5, 2, 8, 8
    fields = (_D, Field("qs", "uint8", 16))
    codes = (_NIBBLES,)


class Q5_0(Symmetric):
    """Codes of 5 bits around 16; the fifth bits stand together."""

    name, block, bits_per_weight, gguf_type, levels, half = "q5_0", (32,), 5.5, 6, 16, 16
    fields = (_D, Field("qh", "uint8", 4), Field("qs", "uint8", 16))
    codes = (_NIBBLES, _FIFTH)


class Q8_0(OneScale):
    """Signed codes of 8 bits."""

    name, block, bits_per_weight, gguf_type = "q8_0", (32,), 8.5, 8
    fields = (_D, Field("qs", "int8", 32))

    def read_codes(self, flat: Mapping[str, Array]) -> Array:
        """The plane itself."""
        return flat["qs"]

    def express_codes(self, flat: Mapping[str, Tensor]) -> Tensor:
        """The plane itself."""
        return flat["qs"]

    def encode(self, blocks: Array) -> Mapping[str, Array]:
        """As `gguf` rounds: halves away from zero."""
        limit = np.float32(HALF_LIMIT * 127)
        blocks = np.clip(blocks, -limit, limit)
        scale = abs(blocks).max(-1, keepdims=True) / np.float32(127)
        codes = blocks * inverse(scale)
        whole = np.floor(abs(codes))
        rounded = whole + np.floor(2 * (abs(codes) - whole))
        return {"d": scale.astype(np.float16), "qs": np.copysign(rounded, codes).astype(np.int8)}

    def allowed(self, blocks: Array) -> Array:
        """Half a step, what float16 does to d, what is cut off."""
        limit = HALF_LIMIT * 127
        within = np.clip(blocks, -limit, limit)
        scale = abs(within).max(-1, keepdims=True) / 127
        rounding = scale * 2.0**-14 + 127 * (half_error(scale) + scale * 2.0**-23)
        result: Array = scale / 2 + rounding + abs(blocks - within)
        return result


class ScaleAndMinimum(BlockFormat):
    """A value is d · code + m, where codes end at `last`."""

    last: ClassVar[int]

    def scales(self, flat: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """d and m."""
        return flat["d"].astype(np.float32), flat["m"].astype(np.float32)

    def express_scales(self, flat: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """d and m."""
        wide = {name: spread(flat[name], self.size).cast("float32") for name in ("d", "m")}
        return wide["d"], wide["m"]

    def _within(self, blocks: Array) -> tuple[Array, Array, Array]:
        """Values that the format reaches, their least, and the step."""
        kind = blocks.dtype.type
        low = np.clip(blocks.min(-1, keepdims=True), kind(-HALF_LIMIT), kind(HALF_LIMIT))
        high = np.minimum(blocks.max(-1, keepdims=True), low + kind(self.last * HALF_LIMIT))
        high = np.maximum(high, low)
        return np.clip(blocks, low, high), low, (high - low) / kind(self.last)

    def encode(self, blocks: Array) -> Mapping[str, Array]:
        """As `gguf` rounds: halves up, by the scale before it becomes a float16."""
        blocks, low, scale = self._within(blocks)
        codes = np.trunc((blocks - low) * inverse(scale) + np.float32(0.5))
        return self.joined(codes.clip(0, self.last).astype(np.uint8), d=scale, m=low)

    def allowed(self, blocks: Array) -> Array:
        """Half a step, what float16 does to d and m, what is cut off."""
        within, low, scale = self._within(blocks)
        rounding = scale * 2.0**-14 + self.last * (half_error(scale) + scale * 2.0**-23)
        rounding = rounding + half_error(low) + np.maximum(abs(within), abs(low)) * 2.0**-22
        result: Array = scale / 2 + rounding + abs(blocks - within)
        return result


class Q4_1(ScaleAndMinimum):
    """Codes of 4 bits above a minimum."""

    name, block, bits_per_weight, gguf_type, last = "q4_1", (32,), 5.0, 3, 15
    fields = (_D, _M, Field("qs", "uint8", 16))
    codes = (_NIBBLES,)


class Q5_1(ScaleAndMinimum):
    """Codes of 5 bits above a minimum."""

    name, block, bits_per_weight, gguf_type, last = "q5_1", (32,), 6.0, 7, 31
    fields = (_D, _M, Field("qh", "uint8", 4), Field("qs", "uint8", 16))
    codes = (_NIBBLES, _FIFTH)
