"""Q8_0: blocks of 32 codes of 8 bits along the last axis, under a float16 scale; a value is scale · code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from petaflop import Tensor
from petaflop.plugin_api import DTYPES, Plane, QuantScheme
from petaflop_example_q8.gguf_file import GGUF

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

_LARGEST = 127.0 * 65504.0  # the last value that a float16 scale reaches; exact in float32


class ExampleQ8(QuantScheme):
    """The bytes and values of GGUF's Q8_0; values are cut off at ±8319008, where GGUF gives infinities."""

    name = "example_q8"
    version = 1
    block = (32,)
    bits_per_weight = 8.5
    files = (GGUF(),)

    def planes(self, shape: Shape) -> Mapping[str, Plane]:
        """A scale and 32 codes for each block, in the order of the file."""
        blocks = (*shape[:-1], shape[-1] // 32)
        return {
            "scale": Plane(DTYPES["float16"], (*blocks, 1)),
            "codes": Plane(DTYPES["int8"], (*blocks, 32)),
        }

    def pack(self, values: Array) -> Mapping[str, Array]:
        """As GGUF does it: codes by the scale in float32, halves away from zero; the scale is rounded."""
        blocks = self._blocks(values).astype(np.float32)
        scale = abs(blocks).max(-1, keepdims=True) / np.float32(127)
        usable = scale >= np.float32(2.0**-126)  # below, its inverse is infinite, and float16 has no scale
        codes = blocks * (1 / np.where(usable, scale, np.float32(np.inf)))
        rounded = np.copysign(np.floor(abs(codes) + np.float32(0.5)), codes)
        return {"scale": scale.astype(np.float16), "codes": rounded.astype(np.int8)}

    def bound(self, values: Array) -> Array:
        """Half a step and a little for float32, what float16 does to the scale, and what is cut off."""
        blocks = self._blocks(values)
        step = abs(blocks).max(-1, keepdims=True) / 127
        scale_error = np.maximum(step * 2.0**-11, np.minimum(step, 2.0**-25)) + step * 2.0**-23
        allowed = np.broadcast_to(step * (0.5 + 2.0**-14) + 127 * scale_error, blocks.shape)
        cut_off = np.maximum(abs(values.astype(np.float64)) - _LARGEST, 0)
        result: Array = allowed.reshape(values.shape) + cut_off
        return result

    def unpack(self, planes: Mapping[str, Array], shape: Shape) -> Array:
        """float16 times int8 is exact in float32."""
        self.check_planes(planes, shape)
        return (planes["scale"].astype(np.float32) * planes["codes"].astype(np.float32)).reshape(shape)

    def dequantize(self, planes: Mapping[str, Tensor], shape: Shape) -> Tensor:
        """The same expression of tensors, which fuses into the product that reads it."""
        self.check_planes(planes, shape)
        values: Tensor = planes["scale"].cast("float32") * planes["codes"].cast("float32")
        return values.reshape(*shape)

    def _blocks(self, values: Array) -> Array:
        within = np.clip(self.check_values(values).astype(np.float64), -_LARGEST, _LARGEST)
        return within.reshape(self.planes(values.shape)["codes"].shape)
