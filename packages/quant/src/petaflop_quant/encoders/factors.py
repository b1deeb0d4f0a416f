"""Encoders that multiply weights by a factor for each input, and have the inputs divided by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from petaflop.plugin_api import Encoder, QuantScheme
from petaflop_quant.encoders.grids import checked_importance
from petaflop_quant.encoders.search import Search, encoded, known_grid

__all__ = ["AWQ", "SmoothQuant"]

Array: TypeAlias = np.ndarray[Any, Any]
_STRENGTHS = np.arange(0, 20) / 20
_SAMPLE = 64  # rows on which strengths are compared
_RANGE = 1e4  # of factors


def _balanced(factors: Array) -> Array:
    """float32 around 1, within a range that no product leaves."""
    known = np.where(np.isfinite(factors) & (factors > 0), factors, 1.0)
    middle = np.exp(np.log(known).mean()) if known.size else 1.0
    result: Array = np.clip(known / middle, 1 / _RANGE, _RANGE).astype(np.float32)
    return result


class AWQ(Search):
    """Inputs that are large on average get finer steps: factors are their size to the power that errs least
    (Lin et al., arXiv 2306.00978). The bytes are those of `search`."""

    name = "awq"
    importance = "squares"

    def factors(self, scheme: QuantScheme, values: Array, importance: Array | None = None) -> Array | None:
        """None where nothing is known of the inputs, or no factors err less."""
        if importance is None or not values.size:
            return None
        grid = known_grid(self.name, scheme, values)
        squares = np.maximum(checked_importance(self.name, importance, values.shape[-1:]), 0)
        rows = values.reshape(-1, values.shape[-1])
        sample = rows[:: -(-len(rows) // _SAMPLE)].astype(np.float64)
        least, best = np.inf, None
        for strength in _STRENGTHS:
            factors = _balanced(np.sqrt(squares) ** strength)
            planes = encoded(scheme, grid, sample * factors, squares / factors**2.0, grid.fit)
            kept = scheme.unpack(planes, sample.shape) / factors
            error = float((squares * (kept - sample) ** 2).sum())
            if error < least:
                least, best = error, factors if strength else None
        return best


class SmoothQuant(Encoder):
    """Outliers of the inputs are moved to the weights, half of them: for activations of 8 bits
    (Xiao et al., arXiv 2211.10438). The bytes are the format's own, to nearest."""

    name = "smoothquant"
    importance = "largest"

    def factors(self, scheme: QuantScheme, values: Array, importance: Array | None = None) -> Array | None:
        """√(largest input / largest weight) of each input; None where nothing is known of the inputs."""
        if importance is None or not values.size:
            return None
        inputs = np.maximum(checked_importance(self.name, importance, values.shape[-1:]), 0)
        weights = abs(values.reshape(-1, values.shape[-1]).astype(np.float64)).max(0)
        both = (inputs > 0) & (weights > 0)
        return _balanced(np.sqrt(np.where(both, inputs, 1) / np.where(both, weights, 1)))

    def encode(
        self, scheme: QuantScheme, values: Array, importance: Array | None = None
    ) -> Mapping[str, Array]:
        """What `QuantScheme.pack` gives."""
        if importance is not None:
            checked_importance(self.name, importance, values.shape[-1:])
        return scheme.pack(values)
