"""Functions of one float over their whole range: angles beyond 30, every exponent, every narrow number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petaflop.dtype import DTYPES, DType
from petaflop.graph.node import cast, compute
from petaflop.graph.ops import Op
from petaflop_conformance.case import Case
from petaflop_conformance.rounding import format_of
from petaflop_conformance.values import awkward, generator

pytestmark = pytest.mark.level("full")

FLOATS = [
    pytest.param(dtype, id=dtype.name, marks=pytest.mark.requires(dtype.name))
    for dtype in DTYPES.values()
    if dtype.is_float
]
UNARY = (Op.SQRT, Op.EXP2, Op.LOG2, Op.SIN)


@pytest.mark.parametrize("dtype", FLOATS)
def test_sine_of_large_angles(case: Case, dtype: DType, count: Callable[[int], int]) -> None:
    """Beyond 30, up to the largest number, near multiples of π/2 as well."""
    random, largest = generator("angles", str(dtype)), format_of(dtype).largest
    ends = [end for end in (30.0, 1e3, 1e5, 1e9, 1e30, largest / 2) if end <= largest / 2]
    angles = [random.uniform(-end, end, count(400)) for end in ends]
    angles += [np.exp2(random.uniform(0, np.log2(largest), count(400)))]
    angles += [np.arange(-2000, 2000) * (np.pi / 2)]
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.concatenate([*angles, awkward(dtype).astype(np.float64)]).astype(dtype.numpy)
    case.check(compute(Op.SIN, case.leaf(values)), measures="SIN")


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_binade(case: Case, dtype: DType, count: Callable[[int], int]) -> None:
    """Random bits: every exponent counts alike, denormals and NaNs among them."""
    bits = generator("bits", str(dtype)).integers(0, 256, count(3000) * dtype.itemsize, dtype=np.uint8)
    leaf = case.leaf(bits.view(dtype.numpy))
    case.check(*(compute(op, leaf) for op in UNARY))


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3", "float8_e5m2"])
@pytest.mark.requires("float32")
def test_every_narrow_number(case: Case, name: str, backend: Any) -> None:
    """All 2⁸ or 2¹⁶ of them, through every function and every conversion."""
    if name not in backend.capabilities.dtypes:
        pytest.skip(f"not declared: {name}")
    dtype = DTYPES[name]
    every = np.arange(1 << dtype.bits, dtype=f"u{dtype.itemsize}").view(dtype.numpy)
    leaf = case.leaf(every)
    others = [DTYPES[each] for each in backend.capabilities.dtypes if each != name]
    case.check(*(compute(op, leaf) for op in UNARY), *(cast(leaf, other) for other in others))
