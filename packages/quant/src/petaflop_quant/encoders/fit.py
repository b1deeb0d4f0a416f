"""Scales that fit values best: searched over a few candidates, each followed by least squares.

All functions take values x and weights w, [groups, elements], and minimize Σ w · (x − what is kept)².
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

__all__ = ["affine", "best_of", "error_of", "level_scale"]

Array: TypeAlias = np.ndarray[Any, Any]
Rounding: TypeAlias = Callable[[Array], Array]  # numbers in steps → the levels nearest to them


def error_of(x: Array, w: Array, kept: Array) -> Array:
    """Σ w · (x − kept)² of each group."""
    result: Array = (w * (x - kept) ** 2).sum(-1)
    return result


def _over(numerator: Array | float, denominator: Array) -> Array:
    """A quotient, 0 where there is nothing to divide by."""
    result: Array = np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), 0)
    return result


def affine(x: Array, w: Array, last: int, candidates: Sequence[float]) -> tuple[Array, Array]:
    """(step, minimum), both [groups], of codes 0 … last: a value is step · code − minimum, minimum ≥ 0.

    Each candidate c spreads the range of a group over last + c steps.
    """
    low, high = np.minimum(x.min(-1), 0), x.max(-1)
    span = np.maximum(high - low, 0)
    step, minimum = span / last, -low
    best = error_of(x, w, _affine_kept(x, step, minimum, last))
    for candidate in candidates:
        codes = np.rint((x - low[:, None]) * _over(last + candidate, span)[:, None]).clip(0, last)
        wc = w * codes
        sums = w.sum(-1), wc.sum(-1), (wc * codes).sum(-1), (w * x).sum(-1), (wc * x).sum(-1)
        sw, sc, scc, sx, scx = sums
        determinant = sw * scc - sc * sc
        tried, offset = _over(sw * scx - sx * sc, determinant), _over(scc * sx - sc * scx, determinant)
        free = offset <= 0
        tried = np.maximum(np.where(free, tried, _over(scx, scc)), 0)
        below = np.where(free, -offset, 0)
        error = error_of(x, w, _affine_kept(x, tried, below, last))
        better = error < best
        step, minimum, best = (
            np.where(better, a, b) for a, b in ((tried, step), (below, minimum), (error, best))
        )
    return step, minimum


def _affine_kept(x: Array, step: Array, minimum: Array, last: int) -> Array:
    codes = np.rint((x + minimum[:, None]) * _over(np.ones_like(step), step)[:, None]).clip(0, last)
    result: Array = step[:, None] * codes - minimum[:, None]
    return result


def level_scale(x: Array, w: Array, rounding: Rounding, ends: Sequence[float]) -> Array:
    """The scale [groups], of either sign, under which the levels that `rounding` finds fit best.

    Each of `ends` is a level that the number of largest size is put at.
    """
    signed = np.take_along_axis(x, abs(x).argmax(-1)[:, None], -1)[:, 0]
    scale, best = np.zeros_like(signed), error_of(x, w, np.zeros_like(x))
    for end in ends:
        tried = signed / end
        for _ in range(2):  # the levels that least squares leads to, once more
            levels = rounding(x * _over(np.sign(tried), abs(tried))[:, None])
            wl = w * levels
            tried = _over((wl * x).sum(-1), (wl * levels).sum(-1))
        levels = rounding(x * _over(np.sign(tried), abs(tried))[:, None])
        error = error_of(x, w, tried[:, None] * levels)
        better = error < best
        scale, best = np.where(better, tried, scale), np.where(better, error, best)
    return scale


def best_of(x: Array, w: Array, choices: Sequence[tuple[Array, ...]], kept: Callable[..., Array]) -> Any:
    """Of each group the choice (arrays [groups]) whose kept values have the least error."""
    best: tuple[Array, ...] | None = None
    least = np.zeros(0)
    for choice in choices:
        error = error_of(x, w, kept(*choice))
        if best is None:
            best, least = choice, error
            continue
        better = error < least
        best = tuple(np.where(better, new, old) for new, old in zip(choice, best, strict=True))
        least = np.where(better, error, least)
    return best
