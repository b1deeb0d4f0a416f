"""Scales searched so that the error of the values is least, inputs weighed by how large they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from petaflop.plugin_api import ArgumentError, Encoder, QuantScheme
from petaflop_quant.encoders.grids import Grid, Scales, checked_importance, grid_of

__all__ = ["Search", "encoded", "known_grid"]

Array: TypeAlias = np.ndarray[Any, Any]
_AT_ONCE = 1 << 14  # elements: what is made of them at a time stays in the cache


class Search(Encoder):
    """Least Σ importance · error², of the blocks' scales and then of the codes under them.

    `importance`, [K], is the mean of x² of each input, as an importance matrix has it.
    """

    name = "search"
    importance = "squares"

    def supports(self, scheme: QuantScheme) -> bool:
        """Formats of blocks whose scales are free numbers, also those that `pack` does not know."""
        return grid_of(scheme, 1) is not None

    def encode(
        self, scheme: QuantScheme, values: Array, importance: Array | None = None
    ) -> Mapping[str, Array]:
        """Planes; ArgumentError for a format without such scales."""
        grid = known_grid(self.name, scheme, values)
        weights = checked_importance(self.name, importance, values.shape[-1:])
        return encoded(scheme, grid, values, weights, grid.fit)


def known_grid(name: str, scheme: QuantScheme, values: Array) -> Grid:
    """The grid of a format for these values; ArgumentError if it has none."""
    scheme.check_values(values)
    grid = grid_of(scheme, values.shape[-1]) if values.ndim else None
    if grid is None:
        raise ArgumentError(f"{name}: expected a format with scales to choose, got {scheme.name}")
    return grid


def encoded(
    scheme: QuantScheme, grid: Grid, values: Array, weights: Array, fit: Callable[[Array, Array], Scales]
) -> Mapping[str, Array]:
    """Planes under the scales that `fit` finds, some blocks at a time."""
    wide = np.broadcast_to(np.maximum(weights, 0), values.shape)
    blocks, weighed = (np.reshape(each, (-1, grid.size)) for each in (values, wide))
    made = []
    each = max(1, _AT_ONCE // grid.size)
    for start in range(0, max(len(blocks), 1), each):
        x = blocks[start : start + each].astype(np.float64)
        w = weighed[start : start + each].astype(np.float64)
        w = np.where(w.sum(-1, keepdims=True) > 0, w, 1.0)
        scales = fit(x, w)
        made.append(grid.planes(scales, grid.encode(x, scales)))
    planes = {name: np.concatenate([each[name] for each in made]) for name in made[0]}
    expected = scheme.planes(values.shape)
    return {name: planes[name].reshape(plane.shape) for name, plane in expected.items()}
