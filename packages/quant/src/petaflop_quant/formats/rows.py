"""Formats with one float32 scale for each row: int8, and float8_e4m3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np

from petaflop import Tensor
from petaflop.plugin_api import DTYPES, Plane, QuantScheme, SchemeFile

__all__ = ["FP8_E4M3", "INT8_ROW"]

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]

_LEAST = 2.0**-126  # a smaller scale would lose bits, or have no inverse


class _Rows(QuantScheme):
    """A value is scale · code."""

    block = (None,)
    code: ClassVar[str]
    largest: ClassVar[float]

    @property
    def files(self) -> tuple[SchemeFile, ...]:  # type: ignore[override]
        """safetensors, plane by plane."""
        from petaflop_quant.files.safetensors import Planes

        return (Planes(self),)

    def planes(self, shape: Shape) -> Mapping[str, Plane]:
        """A scale for each row, a code for each element."""
        self.check_shape(shape)
        return {
            "scale": Plane(DTYPES["float32"], (*shape[:-1], 1)),
            "codes": Plane(DTYPES[self.code], shape),
        }

    def scale_of(self, values: Array) -> Array:
        """The scale that puts the largest number of each row at the last code; 0 for rows of zeros."""
        largest = abs(values.astype(np.float64)).max(-1, keepdims=True, initial=0)
        scale = (np.minimum(largest, np.finfo(np.float32).max) / self.largest).astype(np.float32)
        result: Array = np.where(scale >= _LEAST, scale, np.float32(0))
        return result

    def pack(self, values: Array) -> Mapping[str, Array]:
        """To nearest even."""
        self.check_values(values)
        scale = self.scale_of(values)
        wide = np.where(scale > 0, scale, 1).astype(np.float64)
        scaled = np.where(scale > 0, values / wide, 0).clip(-self.largest, self.largest)
        return {"scale": scale, "codes": self.rounded(scaled)}

    def rounded(self, scaled: Array) -> Array:
        """Codes of numbers within ±largest."""
        raise NotImplementedError(f"{self.name}: rounded")

    def bound(self, values: Array) -> Array:
        """Half the distance of codes at each value, what float32 rounds, what is too small for a scale."""
        scale = self.scale_of(values).astype(np.float64)
        size = abs(values.astype(np.float64))
        lost = np.where(scale > 0, np.maximum(size - scale * self.largest, 0), size)
        result: Array = self.half_gap(size, scale) + size * 2.0**-22 + lost
        return result

    def half_gap(self, size: Array, scale: Array) -> Array:
        """Half the distance of codes around a value."""
        raise NotImplementedError(f"{self.name}: half_gap")

    def unpack(self, planes: Mapping[str, Array], shape: Shape) -> Array:
        """One product in float32."""
        self.check_planes(planes, shape)
        with np.errstate(all="ignore"):
            values: Array = planes["scale"] * planes["codes"].astype(np.float32)
        return values

    def dequantize(self, planes: Mapping[str, Any], shape: Shape) -> Tensor:
        """The same, lazily."""
        self.check_planes(planes, shape)
        values: Tensor = planes["scale"] * planes["codes"].cast("float32")
        return values


class INT8_ROW(_Rows):
    """Codes −127 to 127: with activations of 8 bits, the format of W8A8."""

    name, bits_per_weight, code, largest = "int8_row", 8.03125, "int8", 127.0

    def rounded(self, scaled: Array) -> Array:
        """Whole numbers."""
        return np.rint(scaled).astype(np.int8)

    def half_gap(self, size: Array, scale: Array) -> Array:
        """The same everywhere."""
        return np.broadcast_to(scale / 2, size.shape)


class FP8_E4M3(_Rows):
    """Codes of 4 bits of exponent and 3 of mantissa, to ±448."""

    name, bits_per_weight, code, largest = "fp8_e4m3", 8.03125, "float8_e4m3", 448.0

    def rounded(self, scaled: Array) -> Array:
        """By way of float32, whose rounding is far below the distance of codes."""
        return scaled.astype(np.float32).astype(DTYPES["float8_e4m3"].numpy)

    def half_gap(self, size: Array, scale: Array) -> Array:
        """A sixteenth of the value's binade; below 2⁻⁶ steps of 2⁻⁹."""
        return np.maximum(size * 2.0**-4, scale * 2.0**-10) * (1 + 2.0**-18)
