"""Every elementwise primitive in every declared dtype, on awkward values, and with a constant for an
operand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from petaflop.dtype import DTYPES, DType
from petaflop.graph.node import Node, compute, const
from petaflop.graph.ops import SPEC, Op
from petaflop_conformance.case import Case
from petaflop_conformance.values import arguments, awkward, ordinary, pairs

pytestmark = [pytest.mark.level("core"), pytest.mark.usefixtures("fusion")]

KINDS = {"any": "buif", "not bool": "uif", "integer or bool": "bui", "float": "f"}
BINARY = (Op.ADD, Op.MUL, Op.DIV, Op.MAX, Op.LT, Op.NE, Op.AND)
UNARY = (Op.SQRT, Op.EXP2, Op.LOG2, Op.SIN)


def each(ops: tuple[Op, ...]) -> Iterator[Any]:
    """(op, dtype) for every dtype that the op spec lets the op take."""
    for op in ops:
        for dtype in DTYPES.values():
            if dtype.kind in KINDS[SPEC[op].dtypes]:
                yield pytest.param(op, dtype, id=f"{op}-{dtype}", marks=pytest.mark.requires(dtype.name))


@pytest.mark.parametrize(("op", "dtype"), list(each(BINARY)))
def test_binary(case: Case, op: Op, dtype: DType) -> None:
    left, right = pairs(dtype)
    case.check(compute(op, case.leaf(left), case.leaf(right)), measures=op.value)


@pytest.mark.parametrize(("op", "dtype"), list(each(UNARY)))
def test_unary(case: Case, op: Op, dtype: DType) -> None:
    case.check(compute(op, case.leaf(arguments(op, dtype))), measures=op.value)


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(dtype, id=dtype.name, marks=pytest.mark.requires(dtype.name)) for dtype in DTYPES.values()],
)
def test_where(case: Case, dtype: DType) -> None:
    left, right = pairs(dtype)
    condition = case.leaf(np.arange(left.size) % 3 == 0)
    case.check(compute(Op.WHERE, condition, case.leaf(left), case.leaf(right)), measures="WHERE")


@pytest.mark.parametrize(("op", "dtype"), list(each(BINARY)))
def test_constant_operand(case: Case, op: Op, dtype: DType) -> None:
    """A constant invites a compiler to be clever: x / 41 must not become x · (1/41)."""
    values = np.concatenate([awkward(dtype), ordinary(dtype, (131,), "constant")])
    leaf = case.leaf(values)
    right, left = constants(dtype)
    nodes = [compute(op, leaf, const(number, dtype, leaf.shape)) for number in right]
    case.check(*nodes, compute(op, const(left, dtype, leaf.shape), leaf))


def constants(dtype: DType) -> tuple[list[Any], Any]:
    """Constants for the right-hand side, and one for the left."""
    if dtype.kind == "b":
        return [True, False], True
    if dtype.is_integer:
        return [3, 8, 41, -1 if int(dtype.min) else 1], 100
    return [-0.0, 2.0, 41.0, float("inf")], float("nan") if dtype.itemsize < 4 else 1.0


@pytest.mark.requires("float32")
def test_division_is_correctly_rounded(case: Case, backend: Any) -> None:
    """n / n is 1 and n·k / n is k for all small whole numbers, so that floor(a / b) can be trusted."""
    if not backend.capabilities.correctly_rounded_division:
        pytest.skip("not declared: correctly_rounded_division")
    whole = np.arange(1, 200, dtype=np.float32)
    product = np.multiply.outer(whole, whole)
    divisor = np.broadcast_to(whole, product.shape).copy()
    case.check(compute(Op.DIV, case.leaf(product), case.leaf(divisor)))


@pytest.mark.requires("float32", "bool")
def test_where_does_not_touch_what_it_does_not_select(case: Case) -> None:
    """NaN and overflow on the other side stay there."""
    x = case.leaf(np.array([-1.0, 0.0, 4.0, np.nan, np.inf, -np.inf], np.float32))
    zero = const(0.0, x.dtype, x.shape)
    positive = compute(Op.LT, zero, x)
    case.check(compute(Op.WHERE, positive, compute(Op.SQRT, x), zero), compute(Op.WHERE, positive, x, zero))


@pytest.mark.parametrize(
    "size", [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 1000, 4099, 70_001, (1 << 20) + 7]
)
@pytest.mark.requires("float32", "int32")
def test_every_length(case: Case, size: int) -> None:
    """Lengths around the width of a vector, and beyond a grid's: neither a lane too few nor one too many."""
    x, n = (
        case.leaf(ordinary(DTYPES["float32"], (size,), "x")),
        case.leaf(ordinary(DTYPES["int32"], (size,), "n")),
    )
    case.check(compute(Op.ADD, x, x), compute(Op.MUL, n, n), _chain(x))


def _chain(x: Node) -> Node:
    return compute(Op.MAX, compute(Op.MUL, compute(Op.ADD, x, x), x), x)
