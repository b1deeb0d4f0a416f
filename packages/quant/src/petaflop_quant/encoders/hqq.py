"""HQQ: offsets that make the errors few rather than small, found without any inputs.

Half-quadratic splitting of Σ |error|^0.7: large errors are set aside as outliers, the offset is the mean of
what remains, and the price of an outlier rises with each round (Badri and Shaji, 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from petaflop.plugin_api import ArgumentError, Encoder, QuantScheme
from petaflop_quant.encoders.grids import Affine, Scales, grid_of
from petaflop_quant.encoders.search import encoded, known_grid

__all__ = ["HQQ"]

Array: TypeAlias = np.ndarray[Any, Any]
_POWER, _ROUNDS = 0.7, 20
_PRICE, _RISE = 10.0, 1.01


class HQQ(Encoder):
    """Steps that span the range, offsets by half-quadratic splitting."""

    name = "hqq"

    def supports(self, scheme: QuantScheme) -> bool:
        """Formats with a step and an offset for each part."""
        return isinstance(grid_of(scheme, 1), Affine)

    def encode(
        self, scheme: QuantScheme, values: Array, importance: Array | None = None
    ) -> Mapping[str, Array]:
        """Planes; ArgumentError for a format without offsets."""
        grid = known_grid(self.name, scheme, values)
        if not isinstance(grid, Affine):
            raise ArgumentError(f"{self.name}: expected a format with offsets, got {scheme.name}")
        return encoded(scheme, grid, values, np.ones(values.shape[-1]), lambda x, w: _fitted(grid, x, w))


def _fitted(grid: Affine, x: Array, w: Array) -> Scales:
    parts = grid.split(x)
    low, high = parts.min(-1), parts.max(-1)
    if grid.parts > 1:  # there no minimum lies above 0
        low = np.minimum(low, 0)
    step = (high - low) / grid.last
    safe = np.where(step > 0, step, 1)[:, None]
    scaled = parts / safe
    zero, best, least = -low / safe[:, 0], -low / safe[:, 0], np.full(len(parts), np.inf)
    price = _PRICE
    for _ in range(_ROUNDS):
        codes = np.rint(scaled + zero[:, None]).clip(0, grid.last)
        error = parts - (codes - zero[:, None]) * safe
        size = (abs(error) ** _POWER).sum(-1)
        best, least = np.where(size < least, zero, best), np.minimum(size, least)
        zero = (codes - (parts - _shrunk(error, price)) / safe).mean(-1)
        price *= _RISE
    return grid.keep(x, w, step, best * step)


def _shrunk(error: Array, price: float) -> Array:
    """The outliers: errors less what their price takes off them."""
    size = abs(error)
    taken = np.where(size > 0, size, 1) ** (_POWER - 1) / price
    result: Array = np.sign(error) * np.maximum(size - taken, 0)
    return result
