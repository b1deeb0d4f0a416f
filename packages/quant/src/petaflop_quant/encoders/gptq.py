"""GPTQ: columns are rounded one after the other, and those to come make up for the error of each.

What a column's error means for the others is read from the mean of x xᵀ (Frantar et al., arXiv 2210.17323).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from petaflop.plugin_api import ArgumentError, Encoder, QuantScheme
from petaflop_quant.encoders.grids import Grid, grid_of
from petaflop_quant.encoders.search import encoded, known_grid

__all__ = ["GPTQ"]

Array: TypeAlias = np.ndarray[Any, Any]
_DAMPING = 0.01  # of the mean square of an input, added to all: inputs that are alike cannot be told apart
_COLUMNS = 128  # that pass their error on together


class GPTQ(Encoder):
    """Least change of the product with inputs of that mean x xᵀ; a row is never worse than without."""

    name = "gptq"
    importance = "hessian"

    def supports(self, scheme: QuantScheme) -> bool:
        """Formats of blocks along the inputs."""
        return grid_of(scheme, 1) is not None

    def encode(
        self, scheme: QuantScheme, values: Array, importance: Array | None = None
    ) -> Mapping[str, Array]:
        """Planes; without importance the inputs do not depend on each other, and nothing is passed on."""
        grid = known_grid(self.name, scheme, values)
        columns = values.shape[-1]
        hessian = np.eye(columns) if importance is None else np.asarray(importance, np.float64)
        if hessian.shape != (columns, columns) or not np.isfinite(hessian).all():
            wanted = f"finite importance of shape [{columns}, {columns}]"
            raise ArgumentError(f"{self.name}: expected {wanted}, got {list(hessian.shape)}")
        squares = np.maximum(np.diag(hessian), 0)
        plain = encoded(scheme, grid, values, squares, grid.fit)
        if not columns or not squares.any():
            return plain
        planes = _passed_on(grid, values.reshape(-1, columns).astype(np.float64), hessian)
        shapes = {name: plane.shape for name, plane in scheme.planes(values.shape).items()}
        found = {name: planes[name].reshape(shape) for name, shape in shapes.items()}
        return _better_rows(scheme, values, hessian, plain, found)


def _passed_on(grid: Grid, rows: Array, hessian: Array) -> dict[str, Array]:
    """Planes [rows · blocks, count], the scales of a block chosen when its first column is reached."""
    count, columns = rows.shape
    upper = _inverse_root(hessian)
    weights = np.broadcast_to(np.maximum(np.diag(hessian), 0), rows.shape)
    left = rows.copy()
    codes: list[Array] = []
    made: list[Mapping[str, Array]] = []
    scales: Any = None
    for first in range(0, columns, _COLUMNS):
        last = min(first + _COLUMNS, columns)
        errors = np.zeros((count, last - first))
        for column in range(first, last):
            place = column % grid.size
            if place == 0:
                block = slice(column, column + grid.size)
                pending = left[:, block].copy()
                if column < last < column + grid.size:  # what this run of columns has not passed on yet
                    pending[:, last - column :] -= errors @ upper[first:last, last : column + grid.size]
                w = weights[:, block]
                scales = grid.fit(pending, np.where(w.sum(-1, keepdims=True) > 0, w, 1.0))
                step, offset = (np.broadcast_to(each, pending.shape) for each in grid.steps(scales))
                codes = []
            here = left[:, column]
            s, o = step[:, place], offset[:, place]
            code = grid.code(np.where(s != 0, (here - o) / np.where(s != 0, s, 1), 0))
            codes.append(code)
            error = (here - (s * grid.level(code) + o)) / upper[column, column]
            left[:, column + 1 : last] -= np.outer(error, upper[column, column + 1 : last])
            errors[:, column - first] = error
            if place == grid.size - 1:
                made.append(grid.planes(scales, np.stack(codes, -1)))
        left[:, last:] -= errors @ upper[first:last, last:]
    return {name: np.stack([each[name] for each in made], 1) for name in made[0]}


def _inverse_root(hessian: Array) -> Array:
    """U, upper triangular, with Uᵀ U the inverse of the damped hessian."""
    damped = (hessian + hessian.T) / 2
    diagonal = np.diag(damped)
    unused = diagonal <= 0
    damped[unused] = 0
    damped[:, unused] = 0
    mean = float(diagonal[~unused].mean())
    np.fill_diagonal(damped, np.where(unused, mean, diagonal) + _DAMPING * mean)
    while True:
        try:
            lower = np.linalg.cholesky(damped[::-1, ::-1])
            break
        except np.linalg.LinAlgError:  # no mean of x xᵀ: as much as it takes
            np.fill_diagonal(damped, np.diag(damped) * 1.5)
            damped *= 1 / 1.25
    # With the order of columns reversed, H = R Rᵀ has R upper triangular, and U = R⁻¹ is so too.
    return np.linalg.inv(lower[::-1, ::-1])


def _better_rows(
    scheme: QuantScheme,
    values: Array,
    hessian: Array,
    first: Mapping[str, Array],
    second: Mapping[str, Array],
) -> Mapping[str, Array]:
    """Each row of the planes that change the product less."""
    columns = values.shape[-1]
    changes = []
    for planes in (first, second):
        error = (scheme.unpack(planes, values.shape).astype(np.float64) - values).reshape(-1, columns)
        changes.append(((error @ hessian) * error).sum(-1))
    better = changes[1] < changes[0]
    result = {}
    for name, plane in first.items():
        chosen = better.reshape(values.shape[:-1] + (1,) * (plane.ndim - values.ndim + 1))
        result[name] = np.where(chosen, second[name], plane)
    return result
