"""What an encoder must know of a format: scales that fit a block, codes under those scales, planes of both.

A `Grid` is made for a format; those that no grid is known for are left to their own `pack`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from petaflop.plugin_api import ArgumentError, QuantScheme
from petaflop_quant.bits import write
from petaflop_quant.encoders.fit import affine, best_of, level_scale
from petaflop_quant.formats.blocks import HALF_LIMIT, BlockFormat
from petaflop_quant.formats.plain import Q8_0, OneScale, ScaleAndMinimum
from petaflop_quant.formats.rows import INT8_ROW
from petaflop_quant.formats.table import nearest
from petaflop_quant.formats.two_level import Q6_K, TwoLevel, WithMinimums

__all__ = ["Affine", "Grid", "Scales", "checked_importance", "grid_of"]

Array: TypeAlias = np.ndarray[Any, Any]
Scales: TypeAlias = dict[str, Array]
_SPREADS = np.arange(-10, 11) / 10.0


class Grid:
    """The values that blocks of a format may have: step · level + offset, as its scales say.

    `size` is how many elements of the last axis a block has; `last` the last code.
    """

    def __init__(self, scheme: Any, size: int, last: int) -> None:
        self.scheme, self.size, self.last = scheme, size, last

    # ---- levels and codes ----

    def code(self, steps: Array) -> Array:
        """The codes whose levels are nearest to numbers that count in steps."""
        levels = self.scheme.levels
        if isinstance(levels, tuple):
            return nearest(levels, steps)
        return (np.rint(steps) + levels).clip(0, self.last).astype(np.uint8)

    def level(self, codes: Array) -> Array:
        """What codes stand for, in steps."""
        levels = self.scheme.levels
        if isinstance(levels, tuple):
            return np.array(levels)[codes]
        return codes.astype(np.float64) - levels

    def rounded(self, steps: Array) -> Array:
        """The nearest levels."""
        return self.level(self.code(steps))

    # ---- blocks ----

    def fit(self, x: Array, w: Array) -> Scales:
        """Scales for values [blocks, size] under weights of the same shape, as they will be kept."""
        raise NotImplementedError

    def steps(self, scales: Scales) -> tuple[Array, Array]:
        """Step and offset of every element: [blocks, size] each, or what broadcasts to it."""
        raise NotImplementedError

    def planes(self, scales: Scales, codes: Array) -> Mapping[str, Array]:
        """The planes [blocks, count] of scales and codes."""
        raise NotImplementedError

    def encode(self, x: Array, scales: Scales) -> Array:
        """The codes nearest to values [blocks, size]."""
        step, offset = self.steps(scales)
        return self.code(_steps(x - offset, step))

    def decode(self, codes: Array, scales: Scales) -> Array:
        """The values of codes."""
        step, offset = self.steps(scales)
        result: Array = step * self.level(codes) + offset
        return result


def _steps(x: Array, step: Array) -> Array:
    result: Array = np.where(step != 0, x / np.where(step != 0, step, 1), 0)
    return result


def _half(numbers: Array) -> Array:
    """As a float16 keeps them."""
    limited = np.clip(numbers, -HALF_LIMIT, HALF_LIMIT).astype(np.float16)
    result: Array = limited.astype(np.float64)
    return result


class _OneScale(Grid):
    """d."""

    def fit(self, x: Array, w: Array) -> Scales:
        return {"d": _half(level_scale(x, w, self.rounded, self.ends()))[:, None]}

    def ends(self) -> list[float]:
        levels = self.scheme.levels
        first = levels[0] if isinstance(levels, tuple) else -float(levels or self.last // 2)
        return [first * (1 + spread / (40 if self.last > 100 else 8)) for spread in _SPREADS[::2]]

    def steps(self, scales: Scales) -> tuple[Array, Array]:
        return scales["d"], np.zeros(1)

    def planes(self, scales: Scales, codes: Array) -> Mapping[str, Array]:
        planes: Mapping[str, Array] = self.scheme.joined(codes, d=scales["d"])
        return planes


class _Signed(_OneScale):
    """Codes that are their own levels, in a plane of int8."""

    def code(self, steps: Array) -> Array:
        return np.rint(steps).clip(-127, 127).astype(np.int8)

    def level(self, codes: Array) -> Array:
        return codes.astype(np.float64)

    def planes(self, scales: Scales, codes: Array) -> Mapping[str, Array]:
        return {"d": scales["d"].astype(np.float16), "qs": codes}


class Affine(Grid):
    """Formats with a step ≥ 0 and an offset for each part: `keep` gives them as the format holds them."""

    @property
    def parts(self) -> int:
        """Parts of a block that have a step of their own."""
        return 1

    def split(self, x: Array) -> Array:
        """Values [blocks, size] as [parts, elements]."""
        return x.reshape(-1, self.size // self.parts)

    def keep(self, x: Array, w: Array, step: Array, minimum: Array) -> Scales:
        """Scales for steps and minimums [parts], offsets being −minimum."""
        raise NotImplementedError


class _ScaleAndMinimum(Affine):
    """d and m, a minimum of either sign."""

    def fit(self, x: Array, w: Array) -> Scales:
        low = x.min(-1)
        step, below = affine(x - low[:, None], w, self.last, _SPREADS.tolist())
        return self.keep(x, w, step, below - low)

    def keep(self, x: Array, w: Array, step: Array, minimum: Array) -> Scales:
        return {"d": _half(step)[:, None], "m": _half(-minimum)[:, None]}

    def steps(self, scales: Scales) -> tuple[Array, Array]:
        return scales["d"], scales["m"]

    def planes(self, scales: Scales, codes: Array) -> Mapping[str, Array]:
        planes: Mapping[str, Array] = self.scheme.joined(codes, **scales)
        return planes


class _TwoLevel(Grid):
    """d and whole scales of parts, of either sign."""

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest scale of a part."""
        return (-128, 127) if isinstance(self.scheme, Q6_K) else (-32, 31)

    def fit(self, x: Array, w: Array) -> Scales:
        parts, weights = (each.reshape(-1, self.size // self.scheme.parts) for each in (x, w))
        levels = self.scheme.levels
        end = levels[0] if isinstance(levels, tuple) else -float(levels)
        wanted = level_scale(parts, weights, self.rounded, [end * (1 + s / 8) for s in _SPREADS[::2]])
        wanted = wanted.reshape(len(x), self.scheme.parts)
        low, high = self.limits
        signed = np.take_along_axis(wanted, abs(wanted).argmax(-1)[:, None], -1)
        unit = _half(signed / low)
        whole = np.rint(_steps(wanted, unit))
        units = np.repeat(unit, self.scheme.parts, 1).reshape(-1)
        choices = [(units, (whole + n).clip(low, high).reshape(-1)) for n in (0, -1, 1)]
        _, small = best_of(parts, weights, choices, lambda d, s: self._kept(parts, d * s))
        return {"d": unit, "small": small.reshape(wanted.shape)}

    def _kept(self, parts: Array, step: Array) -> Array:
        result: Array = step[:, None] * self.rounded(_steps(parts, step[:, None]))
        return result

    def steps(self, scales: Scales) -> tuple[Array, Array]:
        step = scales["d"] * scales["small"]
        return np.repeat(step, self.size // self.scheme.parts, 1), np.zeros(1)

    def planes(self, scales: Scales, codes: Array) -> Mapping[str, Array]:
        small = scales["small"].astype(np.int16)
        if isinstance(self.scheme, Q6_K):
            return self.scheme.joined(codes, d=scales["d"], scales=small)
        planes: dict[str, Array] = self.scheme.joined(codes, d=scales["d"])
        write(self.scheme.scale_bits, (small + 32).astype(np.uint8), planes)
        return planes


class _WithMinimums(Affine):
    """d, dmin and whole scales and minimums of parts, none below 0."""

    @property
    def parts(self) -> int:
        return int(self.scheme.parts)

    def fit(self, x: Array, w: Array) -> Scales:
        step, minimum = affine(self.split(x), self.split(w), self.last, _SPREADS.tolist())
        return self.keep(x, w, step, minimum)

    def keep(self, x: Array, w: Array, step: Array, minimum: Array) -> Scales:
        count, last = self.parts, self.scheme.last_small
        parts, weights = self.split(x), self.split(w)
        step, minimum = step.reshape(-1, count), np.maximum(minimum, 0).reshape(-1, count)
        unit, least = (_half(each.max(-1, keepdims=True) / last) for each in (step, minimum))
        whole, lower = np.rint(_steps(step, unit)), np.rint(_steps(minimum, least))
        units, leasts = (np.repeat(each, count, 1).reshape(-1) for each in (unit, least))
        near = [(a, b) for a in (0, -1, 1) for b in (0, -1, 1)]
        choices = [
            (units, leasts, (whole + a).clip(0, last).reshape(-1), (lower + b).clip(0, last).reshape(-1))
            for a, b in near
        ]
        _, _, small, minimums = best_of(
            parts, weights, choices, lambda d, m, s, n: self._kept(parts, d * s, m * n)
        )
        shape = step.shape
        return {"d": unit, "dmin": least, "small": small.reshape(shape), "minimums": minimums.reshape(shape)}

    def _kept(self, parts: Array, step: Array, minimum: Array) -> Array:
        codes = np.rint(_steps(parts + minimum[:, None], step[:, None])).clip(0, self.last)
        result: Array = step[:, None] * codes - minimum[:, None]
        return result

    def steps(self, scales: Scales) -> tuple[Array, Array]:
        each = self.size // self.scheme.parts
        step, minimum = scales["d"] * scales["small"], scales["dmin"] * scales["minimums"]
        return np.repeat(step, each, 1), -np.repeat(minimum, each, 1)

    def planes(self, scales: Scales, codes: Array) -> Mapping[str, Array]:
        planes: Mapping[str, Array] = self.scheme.packed(
            codes, scales["d"], scales["dmin"], scales["small"], scales["minimums"]
        )
        return planes


class _Row(Grid):
    """One float32 for a row of int8."""

    def code(self, steps: Array) -> Array:
        return np.rint(steps).clip(-127, 127).astype(np.int8)

    def level(self, codes: Array) -> Array:
        return codes.astype(np.float64)

    def fit(self, x: Array, w: Array) -> Scales:
        scale = level_scale(x, w, self.rounded, [127 * (1 + s / 40) for s in _SPREADS[::2]])
        return {"scale": np.abs(scale).astype(np.float32)[:, None]}

    def steps(self, scales: Scales) -> tuple[Array, Array]:
        return scales["scale"].astype(np.float64), np.zeros(1)

    def planes(self, scales: Scales, codes: Array) -> Mapping[str, Array]:
        return {"scale": scales["scale"], "codes": codes}


def grid_of(scheme: QuantScheme, columns: int) -> Grid | None:
    """The grid of a format, for rows of so many columns; None if none is known."""
    if isinstance(scheme, INT8_ROW):
        return _Row(scheme, columns, 255)
    if not isinstance(scheme, BlockFormat):
        return None
    if isinstance(scheme, Q8_0):
        return _Signed(scheme, scheme.size, 255)
    bits = sum(field.width for field in scheme.codes)
    for kind, grid in _GRIDS:
        if isinstance(scheme, kind):
            return grid(scheme, scheme.size, (1 << bits) - 1)
    return None


_GRIDS: tuple[tuple[type, type[Grid]], ...] = (
    (OneScale, _OneScale),
    (ScaleAndMinimum, _ScaleAndMinimum),
    (TwoLevel, _TwoLevel),
    (WithMinimums, _WithMinimums),
)


def checked_importance(name: str, importance: Array | None, shape: tuple[int, ...]) -> Array:
    """The importance as float64; ArgumentError unless it has that shape and is finite."""
    if importance is None:
        return np.ones(shape)
    given = np.asarray(importance, np.float64)
    if given.shape != shape or not np.isfinite(given).all():
        raise ArgumentError(
            f"{name}: expected finite importance of shape {list(shape)}, got {list(given.shape)}"
        )
    return given
