"""Awkward values of every dtype, and awkward shapes: what a device that is almost right gets wrong."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from petaflop.dtype import DType
from petaflop.graph.ops import Op
from petaflop_conformance.rounding import format_of

__all__ = ["SHAPES", "arguments", "awkward", "generator", "ordinary", "pairs"]

Array = np.ndarray[Any, Any]

# Each new shape is a new compile, so examples draw from these: empty, single, prime, around a vector's width,
# deep.
SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (0,),
    (1,),
    (2,),
    (7,),
    (31,),
    (32,),
    (33,),
    (127,),
    (1, 1),
    (1, 5),
    (5, 1),
    (0, 3),
    (3, 4),
    (7, 11),
    (8, 8),
    (16, 33),
    (2, 0, 3),
    (2, 3, 4),
    (1, 7, 1),
    (5, 1, 6),
    (2, 3, 4, 5),
    (1, 2, 1, 3),
    (2, 1, 3, 1, 2),
    (2, 2, 2, 2, 2, 2),
)


def generator(*key: object) -> np.random.Generator:
    """Random numbers that depend on the key alone, in every process."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def _floats(dtype: DType) -> list[float]:
    form = format_of(dtype)
    edges = [
        form.smallest,
        form.smallest_normal - form.smallest,
        form.smallest_normal,
        form.largest,
        form.largest / 2,
    ]
    plain = [
        0.0,
        1.0,
        2.0,
        3.0,
        0.1,
        1 / 3,
        0.5,
        2.5,
        3.5,
        7.0,
        41.0,
        np.pi,
        100.7,
        127.5,
        128.0,
        255.9,
        1000.0,
        65504.0,
    ]
    large = [2.0**31, 2.0**31 - 64, 2.0**32, 2.0**53 + 2, 2.0**63, 2.0**64]
    fits = [number for number in plain + large if number <= form.largest]
    return [sign * number for number in edges + fits for sign in (1.0, -1.0)] + [np.inf, -np.inf, np.nan]


def _integers(dtype: DType) -> list[int]:
    low, high = int(dtype.min), int(dtype.max)
    middle = [
        -1000,
        -128,
        -7,
        -3,
        -2,
        -1,
        0,
        1,
        2,
        3,
        7,
        31,
        32,
        41,
        100,
        127,
        128,
        255,
        1000,
        2**16 + 1,
        2**24 + 1,
    ]
    middle += [2**31 - 1, 2**31, 2**53 + 1, 2**62 + 2**38 + 1]
    return [low, low + 1, high - 1, high] + [number for number in middle if low < number < high]


def awkward(dtype: DType) -> Array:
    """Zeros of both signs, denormals, extremes, infinities, NaN; or the ends of an integer's range and what
    is near."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.is_integer:
        return np.array(_integers(dtype), dtype.numpy)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(_floats(dtype)).astype(dtype.numpy)


def ordinary(dtype: DType, shape: tuple[int, ...], *key: object) -> Array:
    """Random values of modest size, in every dtype."""
    random = generator(str(dtype), shape, *key)
    if dtype.kind == "b":
        return random.random(shape) < 0.5
    if dtype.is_integer:
        return random.integers(
            max(int(dtype.min), -100), min(int(dtype.max), 100), shape, endpoint=True
        ).astype(dtype.numpy)
    return random.uniform(-4, 4, shape).astype(dtype.numpy)


def pairs(dtype: DType) -> tuple[Array, Array]:
    """Every awkward value against every other, then random ones."""
    values = awkward(dtype)
    left, right = (side.reshape(-1) for side in np.meshgrid(values, values, indexing="ij"))
    extra = [ordinary(dtype, (257,), side) for side in "ab"]
    return np.concatenate([left, extra[0]]), np.concatenate([right, extra[1]])


_DOMAINS: dict[Op, tuple[tuple[float, float], ...]] = {
    Op.SQRT: ((0, 4), (0, 1e4), (0, 1e30)),
    Op.EXP2: ((-1, 1), (-20, 20), (-160, 140), (-1080, 1030)),
    Op.LOG2: ((0, 4), (0.9, 1.1), (0, 1e30), (0, 1e-30)),
    Op.SIN: ((-4, 4), (-30, 30), (-0.01, 0.01), (-1e3, 1e3), (-1e6, 1e6), (-1e9, 1e9), (-1e30, 1e30)),
}


def arguments(op: Op, dtype: DType) -> Array:
    """Awkward and random arguments of a function of one float, and random bits: every exponent counts
    alike."""
    random = generator(op.value, str(dtype))
    with np.errstate(over="ignore"):
        extra = [random.uniform(low, high, 700).astype(dtype.numpy) for low, high in _DOMAINS[op]]
    bits = random.integers(0, 256, 700 * dtype.itemsize, dtype=np.uint8).view(dtype.numpy)
    return np.concatenate([awkward(dtype), *extra, bits])
