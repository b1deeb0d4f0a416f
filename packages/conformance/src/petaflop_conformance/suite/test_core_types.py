"""CAST between every two declared dtypes, BITCAST, and constants and counters of every dtype."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from petaflop.dtype import DTYPES, DType, float32, int32
from petaflop.graph.node import bitcast, cast, compute, const, iota
from petaflop.graph.ops import Op
from petaflop_conformance.case import Case
from petaflop_conformance.rounding import format_of
from petaflop_conformance.values import awkward, ordinary

pytestmark = [pytest.mark.level("core"), pytest.mark.usefixtures("fusion")]


def each_pair() -> Iterator[Any]:
    for old in DTYPES.values():
        for new in DTYPES.values():
            if old is not new:
                yield pytest.param(
                    old, new, id=f"{old}-{new}", marks=pytest.mark.requires(old.name, new.name)
                )


def each_bits() -> Iterator[Any]:
    for param in each_pair():
        old, new = param.values
        if "b" not in (old.kind, new.kind):
            yield param


EACH = [
    pytest.param(dtype, id=dtype.name, marks=pytest.mark.requires(dtype.name)) for dtype in DTYPES.values()
]


@pytest.mark.parametrize(("old", "new"), list(each_pair()))
def test_cast(case: Case, old: DType, new: DType) -> None:
    """Saturating from float to integer, NaN to 0, wrapping between integers, to nearest even in narrow
    floats."""
    values = np.concatenate([awkward(old), ordinary(old, (257,), "cast")])
    if old.is_float and new.is_float and new.mantissa < old.mantissa:
        values = np.concatenate([values, _between(old, new)])
    if old.is_integer and new.is_float:
        values = np.concatenate([values, _whole_ties(old, new)])
    case.check(cast(case.leaf(values), new), measures="CAST")


def _between(old: DType, new: DType) -> Any:
    """Numbers half way between two of `new`, denormals and the last before an overflow included, and the
    neighbours in `old` of such."""
    form, steps = format_of(new), np.arange(1, 200, dtype=np.float64)
    unit = 2.0**-new.mantissa
    spread = 1 + (steps + 0.5) * unit
    small = (np.arange(40) + 0.5) * form.smallest
    last = form.largest * (1 + np.array([-1, 0, 0.5, 1]) * unit / 2)
    with np.errstate(over="ignore"):
        middle = np.concatenate([1 + steps * unit / 2, spread, small, last]).astype(old.numpy)
        beside = [np.nextafter(middle, old.numpy.type(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([middle, -middle, *beside])


def _whole_ties(old: DType, new: DType) -> Any:
    """Integers half way between two floats, and those beside them: rounding twice gives another float."""
    halves = [(1 << k, 1 << (k - new.mantissa - 1)) for k in range(new.mantissa + 1, 64)]
    ties = [whole + odd * half for whole, half in halves for odd in (1, 3)]
    near = [sign * (tie + beside) for tie in ties for beside in (-1, 0, 1) for sign in (1, -1)]
    return np.array([n for n in near if int(old.min) <= n <= int(old.max)], old.numpy)


@pytest.mark.parametrize(("old", "new"), list(each_bits()))
def test_bitcast(case: Case, old: DType, new: DType) -> None:
    """The same bytes, in memory and of a computed value; the last axis is scaled where the sizes differ."""
    values = ordinary(old, (6, 8), "bits")
    leaf = case.leaf(values)
    computed = compute(Op.ADD, leaf, leaf)
    case.same(bitcast(leaf, new), values.view(new.numpy))
    case.check(bitcast(computed, new))


@pytest.mark.parametrize("dtype", [param for param in EACH if param.values[0].is_float])
def test_bitcast_of_special_values(case: Case, dtype: DType, backend: Any) -> None:
    """A round trip through integers keeps infinities, zeros and denormals."""
    values = awkward(dtype)
    values = values[~np.isnan(values.astype(np.float64))]
    names = [
        name for name in (f"int{dtype.bits}", f"uint{dtype.bits}") if name in backend.capabilities.dtypes
    ]
    if not names:
        pytest.skip(f"not declared: int{dtype.bits}")
    for name in names:
        case.same(bitcast(case.leaf(values), DTYPES[name]), values.view(DTYPES[name].numpy))
        case.same(bitcast(bitcast(case.leaf(values), DTYPES[name]), dtype), values)


@pytest.mark.parametrize("dtype", EACH)
def test_const(case: Case, dtype: DType) -> None:
    """A constant of every dtype as a result of its own, and an awkward one inside a kernel."""
    leaf = case.leaf(ordinary(dtype, (5,), "const"))
    numbers = [const(number, dtype, (5,)) for number in awkward(dtype)[:6]]
    case.check(numbers[0], const(1, dtype, ()), *(compute(Op.MAX, leaf, number) for number in numbers))


@pytest.mark.parametrize("dtype", [param for param in EACH if param.values[0].is_integer])
def test_iota(case: Case, dtype: DType) -> None:
    case.check(
        *(iota((3, 5, 2), axis, dtype) for axis in range(3)),
        iota((0,), 0, dtype),
        iota((100,), 0, dtype),
        *([iota((70_001,), 0, dtype), iota((70_001, 2), 0, dtype)] if dtype.itemsize > 2 else []),
    )


@pytest.mark.requires("float32", "int32", "bool")
def test_cast_chain(case: Case) -> None:
    """A cast there and back is not nothing: it truncates, saturates and rounds."""
    x = case.leaf(np.concatenate([awkward(float32), ordinary(float32, (61,), "chain")]))
    case.check(cast(cast(x, int32), float32), cast(cast(x, DTYPES["bool"]), float32))


@pytest.mark.requires("float32", "float16")
def test_cast_to_half_and_back(case: Case) -> None:
    x = case.leaf(np.concatenate([awkward(float32), ordinary(float32, (61,), "half")]))
    case.check(cast(cast(x, DTYPES["float16"]), float32))


@pytest.mark.requires("float32", "bfloat16")
def test_cast_to_bfloat16_and_back(case: Case) -> None:
    x = case.leaf(np.concatenate([awkward(float32), ordinary(float32, (61,), "brain")]))
    case.check(cast(cast(x, DTYPES["bfloat16"]), float32))
