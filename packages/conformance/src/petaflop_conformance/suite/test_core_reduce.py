"""Reductions and scans: every axis, every dtype, lengths around a vector's width, and sums that show a poor
order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from petaflop.dtype import DTYPES, DType, float32, int32
from petaflop.graph import view
from petaflop.graph.node import cast, compute, const, reduce, scan
from petaflop.graph.ops import Op
from petaflop_conformance.case import Case
from petaflop_conformance.values import awkward, generator, ordinary

pytestmark = [pytest.mark.level("core"), pytest.mark.usefixtures("fusion")]

FOLDS = (Op.ADD, Op.MUL, Op.MAX)
NAMES = {Op.ADD: "SUM", Op.MUL: "PRODUCT", Op.MAX: "MAXIMUM"}


def each() -> Iterator[Any]:
    for op in FOLDS:
        for dtype in DTYPES.values():
            yield pytest.param(op, dtype, id=f"{op}-{dtype}", marks=pytest.mark.requires(dtype.name))


INTEGERS = [param for param in each() if param.values[1].kind in "iu"]
FLOATS = [param for param in each() if param.values[1].is_float]
WIDER = [("int8", "int64"), ("int16", "int32"), ("int32", "int64"), ("uint8", "uint32")]
WIDER += [("uint32", "uint64"), ("float32", "float64"), ("int32", "float64")]


def subsets(rank: int) -> list[tuple[int, ...]]:
    return [axes for count in range(1, rank + 1) for axes in itertools.combinations(range(rank), count)]


def tame(op: Op, dtype: DType, shape: tuple[int, ...], *key: object) -> Any:
    """Values whose products stay in range."""
    values = ordinary(dtype, shape, op.value, *key)
    if dtype.is_float and op is Op.MUL:
        return generator(str(dtype), shape, "tame").uniform(0.8, 1.25, shape).astype(dtype.numpy)
    return values


@pytest.mark.parametrize(("op", "dtype"), list(each()))
def test_every_axis(case: Case, op: Op, dtype: DType) -> None:
    leaf = case.leaf(tame(op, dtype, (3, 5, 4)))
    case.check(*(reduce(op, leaf, axes) for axes in subsets(3)), measures=NAMES[op])


@pytest.mark.parametrize("op", FOLDS, ids=str)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 65, 127, 1000])
@pytest.mark.requires("float32", "int32")
def test_every_length(case: Case, op: Op, size: int) -> None:
    """Of whole and of partial vectors; a reduction of nothing gives the operation's identity."""
    x, n = case.leaf(tame(op, float32, (3, size))), case.leaf(ordinary(int32, (3, size), "n"))
    case.check(reduce(op, x, (1,)), reduce(op, n, (1,)), reduce(op, x, (0,)), reduce(op, n, (0, 1)))


@pytest.mark.parametrize(("op", "dtype"), list(each()))
def test_nothing(case: Case, op: Op, dtype: DType) -> None:
    """The identity of every dtype, where there is nothing to fold, and nothing where nobody asks."""
    leaf = case.leaf(np.zeros((3, 0, 2), dtype.numpy))
    case.check(reduce(op, leaf, (1,)), reduce(op, leaf, (0, 1)), reduce(op, leaf, (0,)), scan(op, leaf, 1))


@pytest.mark.parametrize(("op", "dtype"), INTEGERS)
def test_ends_of_the_range(case: Case, op: Op, dtype: DType) -> None:
    """Rows of the least values alone, of the greatest, of both: no fold, lane or scan starts above the least,
    and sums and products wrap without a detour through a float."""
    low, high, steps = int(dtype.min), int(dtype.max), np.arange(37) % 3
    rows = [[low] * 37, [low + int(k) for k in steps], [high - int(k) for k in steps]]
    rows += [[high if k % 2 else low for k in range(37)], [low + 1 + int(k) * (high // 3) for k in steps]]
    leaf = case.leaf(np.array(rows, dtype.numpy))
    case.check(*(reduce(op, leaf, axes) for axes in subsets(2)), scan(op, leaf, 0), scan(op, leaf, 1))


@pytest.mark.parametrize("op", FOLDS, ids=str)
@pytest.mark.parametrize("length", [5003, 70_001, (1 << 20) + 7])
@pytest.mark.requires("float32", "int32")
def test_long_fold(case: Case, op: Op, length: int) -> None:
    """Nothing is left out at either end, and nothing counts twice: odd numbers, and maxima at the ends."""
    odd = case.leaf(generator(length).integers(-1000, 1000, length, dtype=np.int32) | 1)
    rising = case.leaf(np.arange(length, dtype=np.float32))
    ends = [reduce(Op.MAX, each, (0,)) for each in (rising, view.flip(rising, (0,)))]
    pair = view.reshape(view.shrink(odd, ((0, length - length % 2),)), (2, length // 2))
    case.check(reduce(op, odd, (0,)), reduce(op, pair, (1,)), *ends)


@pytest.mark.parametrize("op", FOLDS, ids=str)
@pytest.mark.requires("int32")
def test_many_rows(case: Case, op: Op) -> None:
    """More of them than a grid may have along one axis."""
    leaf = case.leaf(np.arange(70_001 * 3, dtype=np.int32).reshape(70_001, 3))
    case.check(reduce(op, leaf, (1,)), scan(op, leaf, 1))


@pytest.mark.parametrize(("op", "dtype"), FLOATS)
def test_special_values(case: Case, op: Op, dtype: DType) -> None:
    """NaN and infinities anywhere in a row, each row with another one of them; zeros of both signs."""
    rows = np.tile(tame(op, dtype, (1, 40)), (24, 1))
    specials = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-44)
    for row, (special, place) in enumerate(itertools.product(specials, (0, 7, 20, 39))):
        rows[row, place] = special
    leaf = case.leaf(rows)
    case.check(reduce(op, leaf, (1,)), reduce(op, leaf, (0,)))


@pytest.mark.requires("float32")
def test_maximum_of_negatives(case: Case) -> None:
    """The identity of a maximum is the least value, not zero; so is what a partial vector is filled with."""
    leaf = case.leaf(-1 - np.abs(ordinary(float32, (5, 13), "negative")))
    case.check(reduce(Op.MAX, leaf, (1,)), reduce(Op.MAX, leaf, (0,)), reduce(Op.MAX, leaf, (0, 1)))


@pytest.mark.parametrize(("op", "dtype"), [param for param in each() if param.values[0] is Op.MAX])
def test_maximum_of_awkward_values(case: Case, op: Op, dtype: DType) -> None:
    values = awkward(dtype)
    leaf = case.leaf(np.stack([values, values[::-1], np.roll(values, 3)]))
    case.check(reduce(op, leaf, (0,)), reduce(op, leaf, (1,)))


@pytest.mark.parametrize("length", [1 << 10, 1 << 16, 1 << 20])
@pytest.mark.parametrize("kind", ["equal", "positive", "whole", "alternating"])
@pytest.mark.requires("float32")
def test_long_sum(case: Case, kind: str, length: int) -> None:
    """Equal and positive terms show an accumulator that is too narrow or an order that is too long."""
    values = {
        "equal": lambda: np.full(length, 0.1, np.float32),
        "positive": lambda: generator(length).random(length, np.float32),
        "whole": lambda: (np.arange(length) % 16).astype(np.float32),
        "alternating": lambda: (
            np.where(np.arange(length) % 2, 1e4, -1e4).astype(np.float32) + np.float32(0.25)
        ),
    }[kind]()
    case.check(reduce(Op.ADD, case.leaf(values), (0,)), measures="SUM")


@pytest.mark.parametrize("shape", [(600_000, 3), (300_007, 1), (262_145, 5), (70_001, 20)], ids=str)
@pytest.mark.requires("float32")
def test_long_narrow_columns(case: Case, shape: tuple[int, int]) -> None:
    """Runs that a device sums apart neither overlap nor leave a gap: whole numbers, so the sum is exact."""
    values = (np.arange(shape[0] * shape[1]) % 7).astype(np.float32).reshape(shape)
    case.check(reduce(Op.ADD, case.leaf(values), (0,)))


@pytest.mark.parametrize("narrow", ["float16", "bfloat16", "int8", "uint8", "bool"])
@pytest.mark.requires("float32", "int32")
def test_narrow_sum_accumulates_wide(case: Case, narrow: str, backend: Any) -> None:
    """REDUCE states its accumulate dtype: 5000 ones in float16 are 5000, which float16 itself cannot
    count."""
    if narrow not in backend.capabilities.dtypes:
        pytest.skip(f"not declared: {narrow}")
    dtype = DTYPES[narrow]
    wide = float32 if dtype.is_float else int32
    leaf = case.leaf(np.ones((2, 5000), dtype.numpy))
    case.check(
        reduce(Op.ADD, leaf, (1,), wide),
        reduce(Op.ADD, cast(leaf, wide), (1,)),
        reduce(Op.ADD, leaf, (0,), wide),
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [pytest.param(*pair, id="-".join(pair), marks=pytest.mark.requires(*pair)) for pair in WIDER],
)
def test_wide_accumulator(case: Case, old: str, new: str) -> None:
    """Each term is converted before it is folded: sums that the narrow dtype cannot hold."""
    dtype = DTYPES[old]
    random = generator("wide", old)
    if dtype.is_integer:
        values = random.integers(int(dtype.max) // 2, int(dtype.max), (5, 33), dtype.numpy)
    else:
        values = random.uniform(0.5, 1.5, (5, 33)).astype(dtype.numpy)
    leaf = case.leaf(values)
    case.check(*(reduce(op, leaf, (1,), DTYPES[new]) for op in FOLDS), scan(Op.ADD, leaf, 1, DTYPES[new]))


@pytest.mark.requires("int32")
def test_integer_sum_wraps(case: Case) -> None:
    leaf = case.leaf(np.full((3, 9), 2**30 + 7, np.int32))
    case.check(reduce(Op.ADD, leaf, (1,)), reduce(Op.MUL, leaf, (1,)), reduce(Op.ADD, leaf, (0, 1)))


@pytest.mark.requires("float32")
def test_what_comes_before_and_after(case: Case) -> None:
    """A reduction with a prologue, an epilogue, and its result broadcast back over its own input."""
    x = case.leaf(ordinary(float32, (6, 37), "around"))
    total = reduce(Op.ADD, compute(Op.MUL, x, x), (1,))
    root = compute(Op.SQRT, compute(Op.ADD, total, const(1.0, float32, total.shape)))
    case.check(root, compute(Op.DIV, x, view.expand(root, x.shape)))


@pytest.mark.requires("float32")
def test_reduction_of_a_reduction(case: Case) -> None:
    x = case.leaf(ordinary(float32, (4, 5, 6), "twice"))
    inner = reduce(Op.ADD, x, (2,))
    case.check(
        reduce(Op.MAX, inner, (1,)), reduce(Op.ADD, compute(Op.MUL, x, view.expand(inner, x.shape)), (0, 1))
    )


# ---- scans ----


@pytest.mark.parametrize(("op", "dtype"), list(each()))
def test_scan(case: Case, op: Op, dtype: DType) -> None:
    leaf = case.leaf(tame(op, dtype, (3, 5, 4), "scan"))
    case.check(*(scan(op, leaf, axis) for axis in range(3)))


@pytest.mark.parametrize("op", FOLDS, ids=str)
@pytest.mark.parametrize("size", [0, 1, 2, 17, 64, 1000])
@pytest.mark.requires("float32", "int32")
def test_scan_of_every_length(case: Case, op: Op, size: int) -> None:
    x, n = case.leaf(tame(op, float32, (2, size), "scan")), case.leaf(ordinary(int32, (2, size), "scan"))
    case.check(scan(op, x, 1), scan(op, n, 1), scan(op, compute(Op.ADD, n, n), 1))


@pytest.mark.requires("float32")
def test_scan_with_special_values(case: Case) -> None:
    rows = np.tile(ordinary(float32, (1, 12), "special"), (4, 1))
    rows[0, 3], rows[1, 5], rows[2, 0], rows[3, 11] = np.nan, np.inf, -np.inf, np.nan
    case.check(*(scan(op, case.leaf(rows), 1) for op in (Op.ADD, Op.MAX)))
