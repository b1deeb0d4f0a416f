"""Formats for each tensor so that a model has a number of bits per weight: where a bit does most, it goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from petaflop.errors import ArgumentError
from petaflop_quant.choosing import encoder_named, format_for

__all__ = ["LADDER", "mixed"]

Array: TypeAlias = np.ndarray[Any, Any]
LADDER = ("q2_k", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0")
_SAMPLE = 64  # rows of a tensor that its errors are measured on


def mixed(
    tensors: Mapping[str, Any],
    bits: float,
    importance: Mapping[str, Array] | None = None,
    ladder: Sequence[str] = LADDER,
) -> dict[str, str]:
    """A format for each tensor of two or more axes, `bits` per weight over all of them at most.

    Each step up the ladder goes to the tensor whose error it lessens most for the bytes that it costs; errors
    are Σ importance · error², measured. ArgumentError for a target below the lowest format.

    >>> table = mixed({"a": np.ones((2, 256), np.float32)}, 4.5)
    >>> table["a"] in LADDER
    True
    """
    options = {
        name: found
        for name, values in tensors.items()
        if (found := _options(np.asarray(values), (importance or {}).get(name), ladder))
    }
    weights = sum(math.prod(tensors[name].shape) for name in options)
    budget = bits * weights / 8
    level = dict.fromkeys(options, 0)
    used = sum(found[0][1] for found in options.values())
    if used > budget:
        least = 8 * used / max(weights, 1)
        raise ArgumentError(f"bits: expected at least {least:.3f} per weight, got {bits}")
    while steps := [
        (_gain(found, level[name]), name)
        for name, found in options.items()
        if level[name] + 1 < len(found) and used + found[level[name] + 1][1] - found[level[name]][1] <= budget
    ]:
        _, name = max(steps)
        used += options[name][level[name] + 1][1] - options[name][level[name]][1]
        level[name] += 1
    return {name: options[name][n][0] for name, n in level.items()}


def _gain(found: list[tuple[str, int, float]], level: int) -> float:
    """The error that a step up saves for each byte."""
    (_, size, error), (_, larger, less) = found[level : level + 2]
    return (error - less) / (larger - size)


def _options(values: Array, importance: Array | None, ladder: Sequence[str]) -> list[tuple[str, int, float]]:
    """(format, bytes, error) of the formats that a tensor can have, each larger and better than the last."""
    if values.ndim < 2 or values.dtype.kind not in "fV" or not values.size:
        return []
    shape = values.shape
    rows = values.reshape(-1, shape[-1])
    sample = rows[:: -(-len(rows) // _SAMPLE)].astype(np.float32)
    weight = np.ones(shape[-1]) if importance is None else importance
    weight = np.diag(weight) if weight.ndim == 2 else weight
    search = encoder_named("search")
    found: list[tuple[str, int, float]] = []
    for name in ladder:
        scheme = format_for(name, shape)
        if scheme is None or scheme.name in {each[0] for each in found}:
            continue
        planes = search.encode(scheme, sample, weight)
        kept = scheme.unpack(planes, sample.shape).astype(np.float64)
        error = float((weight * (kept - sample) ** 2).sum()) * len(rows) / len(sample)
        found.append((scheme.name, scheme.nbytes(shape), error))
    found.sort(key=lambda each: each[1])
    return [each for n, each in enumerate(found) if all(each[2] < other[2] for other in found[:n])]
