"""GATHER, SCATTER and ASSIGN: duplicates, positions out of range, regions with steps, and memory that
overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petaflop.dtype import DTYPES, DType, float32, int32
from petaflop.graph import view
from petaflop.graph.node import assign, compute, const, gather, iota, realize, reduce, scatter
from petaflop.graph.ops import Op
from petaflop_conformance.case import Case
from petaflop_conformance.values import generator, ordinary

pytestmark = [pytest.mark.level("core"), pytest.mark.usefixtures("fusion")]

EACH = [
    pytest.param(dtype, id=dtype.name, marks=pytest.mark.requires(dtype.name)) for dtype in DTYPES.values()
]
INTEGERS = [param for param in EACH if param.values[0].is_integer]
FLOATS = [param for param in EACH if param.values[0].is_float]
FAR = [-(2**31), -7, -1, 0, 1, 2, 3, 4, 5, 6, 1000, 2**31 - 1]
FAR += [sign * 2**bits + 1 for bits in (8, 16, 32) for sign in (1, -1)]  # cut off, they would be inside
OPS = pytest.mark.parametrize("op", [None, Op.ADD, Op.MUL, Op.MAX], ids=["set", "add", "mul", "max"])


def far(dtype: DType) -> Any:
    """Positions around an axis of 5, and as far beyond as the dtype goes."""
    inside = [n for n in FAR if int(dtype.min) <= n <= int(dtype.max)]
    return np.array([*inside, int(dtype.min), int(dtype.max)], dtype.numpy)


def numbers(dtype: Any, *shape: int) -> Any:
    return ordinary(dtype, shape, "indexed")


# ---- gather ----


@pytest.mark.parametrize("dtype", EACH)
@pytest.mark.requires("int32")
def test_gather(case: Case, dtype: DType) -> None:
    """Along each axis, with duplicates."""
    leaf = case.leaf(numbers(dtype, 4, 3, 5))
    nodes = []
    for axis, length in enumerate((4, 3, 5)):
        shape = [4, 3, 5]
        shape[axis] = 6
        nodes.append(
            gather(leaf, case.leaf(generator(axis).integers(0, length, shape).astype(np.int32)), axis)
        )
    case.check(*nodes)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.requires("float32")
def test_gather_out_of_range_reads_zero(case: Case, dtype: DType) -> None:
    """Never memory, not even just before or after: positions go from -2³¹ to 2³¹ - 1 as far as the dtype
    does."""
    leaf = case.leaf(numbers(float32, 5) + np.float32(10))
    case.check(gather(leaf, case.leaf(far(dtype)), 0))


@pytest.mark.requires("float32", "int32")
def test_gather_beyond_an_axis_reads_zero(case: Case) -> None:
    """Not the next row, though the position is inside the memory."""
    leaf = case.leaf(numbers(float32, 4, 5) + np.float32(10))
    rows = np.broadcast_to(np.arange(-6, 10, dtype=np.int32)[:, None], (16, 5)).copy()
    columns = np.broadcast_to(np.arange(-6, 10, dtype=np.int32), (4, 16)).copy()
    case.check(gather(leaf, case.leaf(rows), 0), gather(leaf, case.leaf(columns), 1))


@pytest.mark.requires("float32", "int32")
def test_gather_from_nothing(case: Case) -> None:
    leaf, index = case.leaf(np.zeros((0, 2), np.float32)), case.leaf(np.zeros((3, 2), np.int32))
    case.check(
        gather(leaf, index, 0),
        gather(case.leaf(np.ones((3, 2), np.float32)), case.leaf(np.zeros((0, 2), np.int32)), 0),
    )


@pytest.mark.requires("float32", "int32")
def test_embedding(case: Case) -> None:
    """Rows of a table by a computed index, through views on both, in the middle of arithmetic."""
    table = case.leaf(numbers(float32, 11, 6))
    tokens = case.leaf(np.array([0, 10, 3, 3, 11, -1, 7], np.int32))
    wanted = compute(Op.ADD, tokens, const(0, int32, (7,)))
    index = view.expand(view.reshape(wanted, (7, 1)), (7, 6))
    rows = gather(table, index, 0)
    case.check(
        compute(Op.MUL, rows, rows),
        reduce(Op.ADD, rows, (1,)),
        gather(compute(Op.ADD, table, table), index, 0),
    )


@pytest.mark.requires("float32", "int32")
def test_gather_of_a_padded_view(case: Case) -> None:
    """The padding is inside the range, and reads zero as well."""
    padded = view.pad(case.leaf(numbers(float32, 4) + np.float32(5)), ((2, 1),))
    case.check(gather(padded, case.leaf(np.array([0, 1, 2, 5, 6, 7, -1], np.int32)), 0))


# ---- scatter ----


@OPS
@pytest.mark.parametrize("dtype", EACH)
@pytest.mark.requires("int32")
def test_scatter(case: Case, dtype: DType, op: Op | None) -> None:
    """Duplicates in index order (when setting, the last wins), positions out of range dropped; along each
    axis."""
    source = case.leaf(numbers(dtype, 4, 5))
    nodes = []
    for axis in (0, 1):
        shape = [4, 5]
        shape[axis] = 9
        index = generator(axis, str(op)).integers(-2, 7, shape).astype(np.int32)
        values = ordinary(dtype, tuple(shape), "values")
        nodes.append(scatter(source, case.leaf(index), case.leaf(values), axis, op))
    case.check(*nodes, source)


@OPS
@pytest.mark.parametrize("dtype", EACH)
@pytest.mark.requires("int32")
def test_scatter_of_another_rank(case: Case, dtype: DType, op: Op | None) -> None:
    """Along the only axis, and along each of three, with more duplicates than positions."""
    nodes = []
    for shape in ((5,), (2, 3, 4)):
        source = case.leaf(numbers(dtype, *shape))
        for axis, length in enumerate(shape):
            longer = (*shape[:axis], 11, *shape[axis + 1 :])
            index = generator(shape, axis, str(op)).integers(-1, length + 1, longer).astype(np.int32)
            values = case.leaf(ordinary(dtype, longer, "values"))
            nodes.append(scatter(source, case.leaf(index), values, axis, op))
    case.check(*nodes)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.requires("float32")
def test_scatter_out_of_range_is_dropped(case: Case, dtype: DType) -> None:
    """Positions of every dtype, as far as it goes."""
    source, index = case.leaf(numbers(float32, 5)), case.leaf(far(dtype))
    values = case.leaf(numbers(float32, len(far(dtype))))
    case.check(*(scatter(source, index, values, 0, op) for op in (None, Op.ADD)))


@OPS
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.requires("int32")
def test_scatter_of_special_values(case: Case, dtype: DType, op: Op | None) -> None:
    """NaN and infinities, before and after an ordinary number."""
    specials = np.repeat([np.nan, np.inf, -np.inf, 0.0, -0.0], 2)
    values = np.where(np.tile([True, False], 10), np.repeat(specials, 2), 1.5)
    values[2::4], values[3::4] = values[3::4].copy(), values[2::4].copy()
    index = np.repeat(np.arange(10), 2).astype(np.int32)
    source = case.leaf(numbers(dtype, 10))
    case.check(scatter(source, case.leaf(index), case.leaf(values.astype(dtype.numpy)), 0, op))


@OPS
@pytest.mark.requires("int32")
def test_long_scatter(case: Case, op: Op | None) -> None:
    """Thousands of values of the whole range for a few positions: in order from the first to the last."""
    random = generator("long", str(op))
    nodes = []
    for shape, axis in (((7,), 0), ((7, 3), 0), ((3, 7), 1)):
        longer = (*shape[:axis], 5003, *shape[axis + 1 :])
        index = case.leaf(random.integers(-1, 8, longer, dtype=np.int32))
        values = case.leaf(random.integers(-(2**31), 2**31, longer).astype(np.int32))
        nodes.append(scatter(case.leaf(numbers(int32, *shape)), index, values, axis, op))
    case.check(*nodes)


@pytest.mark.requires("float32", "int32")
def test_scatter_adds_in_index_order(case: Case) -> None:
    """(1e8 + 1) - 1e8 + 1 in this order and no other: the same bits on every device."""
    values = np.array([1e8, 1.0, -1e8, 1.0], np.float32)
    source, index = case.leaf(np.zeros(1, np.float32)), case.leaf(np.zeros(4, np.int32))
    (got,) = case.run(scatter(source, index, case.leaf(values), 0, Op.ADD))
    assert got[0] == added(values)
    many = generator("order").uniform(-1e4, 1e4, 5003).astype(np.float32)
    index = case.leaf(np.zeros(5003, np.int32))
    (got,) = case.run(scatter(source, index, case.leaf(many), 0, Op.ADD))
    assert got[0] == added(many)


def added(values: Any) -> Any:
    """One after the other."""
    total = np.float32(0)
    for value in values:
        total = total + value
    return total


@pytest.mark.requires("float32", "int32")
def test_scatter_of_nothing(case: Case) -> None:
    source = case.leaf(numbers(float32, 3, 2))
    index, values = case.leaf(np.zeros((0, 2), np.int32)), case.leaf(np.zeros((0, 2), np.float32))
    case.check(scatter(source, index, values, 0, Op.ADD))


@pytest.mark.requires("float32", "int32")
def test_scatter_of_computed_values(case: Case) -> None:
    source, index = case.leaf(numbers(float32, 6)), case.leaf(np.array([5, 0, 0, 2], np.int32))
    values = case.leaf(numbers(float32, 4))
    target = compute(Op.MUL, source, source)
    result = scatter(target, index, compute(Op.ADD, values, values), 0, Op.ADD)
    case.check(result, compute(Op.ADD, result, target))


# ---- assign ----

REGIONS = {
    "whole": None,
    "middle": ((1, 2, 1), (0, 5, 1)),
    "stepped": ((0, 2, 2), (1, 2, 3)),
    "backwards": ((3, 4, -1), (4, 3, -2)),
    "single": ((2, 1, 1), (3, 1, 1)),
    "empty": ((1, 0, 1), (0, 5, 1)),
}


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("dtype", EACH)
def test_assign(case: Case, dtype: DType, region: str) -> None:
    target = case.leaf(numbers(dtype, 4, 5))
    where = REGIONS[region]
    shape = (4, 5) if where is None else tuple(count for _, count, _ in where)
    value = case.leaf(ordinary(dtype, shape, "new"))
    case.check(assign(target, value, where), assign(target, const(1, dtype, shape), where))


@pytest.mark.parametrize("shift", [1, -1, 3])
@pytest.mark.requires("float32")
def test_assign_from_an_overlapping_view(case: Case, shift: int) -> None:
    """x[1:] = x[:-1] moves each element once: what is read is the value from before."""
    x = case.leaf(numbers(float32, 40))
    size = 40 - abs(shift)
    start = max(-shift, 0)
    moved = view.shrink(x, ((start, start + size),))
    case.check(assign(x, moved, ((max(shift, 0), size, 1),)))


@pytest.mark.requires("float32")
def test_assign_of_the_own_transpose_and_reverse(case: Case) -> None:
    x = case.leaf(numbers(float32, 7, 7))
    case.check(assign(x, view.permute(x, (1, 0)), None), assign(x, view.flip(x, (0, 1)), None))


@pytest.mark.requires("float32")
def test_old_value_survives_an_assignment(case: Case) -> None:
    """A read made before an assignment sees the old contents, whichever is asked for first."""
    x = realize(compute(Op.MUL, case.leaf(numbers(float32, 9)), case.leaf(numbers(float32, 9))))
    before = compute(Op.ADD, x, x)
    after = assign(x, const(0.0, float32, (4,)), ((2, 4, 1),))
    case.check(after, before, x)


@pytest.mark.requires("float32")
def test_assignments_in_a_row(case: Case) -> None:
    """Each sees what those before it wrote."""
    x = case.leaf(numbers(float32, 12))
    for step in range(5):
        value = view.shrink(compute(Op.ADD, x, const(float(step), float32, (12,))), ((step, step + 4),))
        x = assign(x, value, ((step + 2, 4, 1),))
    case.check(x)


@given(data=st.data())
@pytest.mark.requires("int32")
def test_assign_to_any_region(case: Case, data: Any) -> None:
    size = data.draw(st.sampled_from((1, 6, 17)))
    step = data.draw(st.sampled_from((1, 2, 3, -1, -2)))
    count = data.draw(st.integers(0, (size + abs(step) - 1) // abs(step)))
    span = abs(step) * max(count - 1, 0)
    start = data.draw(st.integers(0, size - 1 - span)) + (span if step < 0 else 0)
    target, value = iota((size,), 0), const(-5, int32, (count,))
    held = realize(compute(Op.ADD, case.leaf(np.zeros(size, np.int32)), target))
    case.check(assign(held, value, ((start, count, step),)))
