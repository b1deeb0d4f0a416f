"""Long sums of values that show a poor order: all equal, all positive, in every layout.

A sum of n terms may be off by max(8, √n) roundings in units of u·Σ|x|: a blocked order does far better, one
running total per lane does not. Random normal data cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petaflop.dtype import DTYPES, DType, float32
from petaflop.graph.node import Node, reduce, scan
from petaflop.graph.ops import Op
from petaflop_conformance.case import Case
from petaflop_conformance.layers import softmax
from petaflop_conformance.rounding import unit
from petaflop_conformance.values import generator

pytestmark = pytest.mark.level("full")

Array = np.ndarray[Any, Any]
LENGTHS = {"quick": (1000, 1 << 16, 1 << 20), "full": (1000, 65537, 1 << 20, 1 << 24)}
LENGTHS["soak"] = (*LENGTHS["full"], (1 << 24) - 1)

VALUES: dict[str, Callable[[DType, int], Array]] = {
    "equal": lambda dtype, n: np.full(n, 0.1).astype(dtype.numpy),
    "positive": lambda dtype, n: generator("positive", n).uniform(0.5, 1.5, n).astype(dtype.numpy),
    "falling": lambda dtype, n: (1 / np.arange(1, n + 1)).astype(dtype.numpy),
}
LAYOUTS: dict[str, Callable[[int], tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "all": lambda n: ((n,), (0,)),
    "rows": lambda n: ((4, n // 4), (1,)),
    "columns": lambda n: ((n // 8, 8), (0,)),
    "both": lambda n: ((n // 8, 8), (0, 1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.requires("float32")
def test_long_sum(case: Case, values: str, layout: str, profile: str) -> None:
    for length in LENGTHS[profile]:
        shape, axes = LAYOUTS[layout](length)
        array = VALUES[values](float32, int(np.prod(shape))).reshape(shape)
        _compare(case, array, axes, float32)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("values", ["equal", "positive"])
@pytest.mark.requires("float32")
def test_long_sum_of_narrow_values(case: Case, values: str, name: str, profile: str, backend: Any) -> None:
    """Accumulated in float32, as their own dtype would not hold the sum."""
    if name not in backend.capabilities.dtypes:
        pytest.skip(f"not declared: {name}")
    for length in LENGTHS[profile]:
        _compare(case, VALUES[values](DTYPES[name], length), (0,), float32)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
@pytest.mark.requires("float32")
def test_sum_in_its_own_dtype(case: Case, name: str, backend: Any) -> None:
    if name not in backend.capabilities.dtypes:
        pytest.skip(f"not declared: {name}")
    dtype = DTYPES[name]
    leaves = [case.leaf(VALUES[values](dtype, 1000).reshape(4, 250)) for values in ("equal", "positive")]
    case.check(*(reduce(Op.ADD, leaf, axes) for leaf in leaves for axes in ((1,), (0, 1))))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("op", [Op.ADD, Op.MUL], ids=str)
def test_scan_of_narrow_values(case: Case, op: Op, name: str, backend: Any) -> None:
    """A running total that is rounded at each of a few hundred terms is off by a sixth."""
    if name not in backend.capabilities.dtypes:
        pytest.skip(f"not declared: {name}")
    array = np.full(1000, {Op.ADD: 0.1, Op.MUL: 1.01}[op]).astype(DTYPES[name].numpy)
    array = array[:600] if op is Op.MUL else array
    case.check(scan(op, case.leaf(array), 0))


@pytest.mark.parametrize("values", ["equal", "positive"])
@pytest.mark.requires("float32")
def test_long_scan(case: Case, values: str) -> None:
    """A running sum has no tree to keep its error small: a device needs float64, or a compensated sum."""
    array = VALUES[values](float32, 40_000)
    case.check(scan(Op.ADD, case.leaf(array), 0))


def _compare(case: Case, array: Array, axes: tuple[int, ...], dtype: DType) -> None:
    """The sum against one in float64, which blocks; the oracle itself would take as much memory again."""
    node: Node = reduce(Op.ADD, case.leaf_unknown(array), axes, dtype)
    (got,) = case.run(node)
    wide = array.astype(np.float64)
    expected = wide.sum(axis=axes, keepdims=True)
    count = array.size // expected.size
    bound = max(8.0, count**0.5) * unit(dtype) * np.abs(wide).sum(axis=axes, keepdims=True)
    error = np.abs(got.astype(np.float64) - expected)
    case.measure("SUM", str(dtype), float((error / bound).max()))
    assert (error <= bound).all(), (
        f"sum of {count}: expected an error of at most {max(8.0, count**0.5):.0f} u·Σ|x|, "
        f"got {float((error / bound).max()) * max(8.0, count**0.5):.0f}"
    )


@pytest.mark.requires("float32")
def test_softmax_of_a_long_row(case: Case) -> None:
    """The same order inside a fused kernel, where equal values add up."""
    case.check(softmax(case.leaf(np.zeros((2, 40_000), np.float32)), 1))


@pytest.mark.parametrize("name", ["int8", "uint8", "int32", "int64", "bool"])
@pytest.mark.requires("int32")
def test_long_integer_folds(case: Case, name: str, backend: Any) -> None:
    """Exact in every order: they wrap."""
    if name not in backend.capabilities.dtypes:
        pytest.skip(f"not declared: {name}")
    dtype = DTYPES[name]
    values = generator("long", name).integers(0, 2 if name == "bool" else 100, 100_003).astype(dtype.numpy)
    leaf = case.leaf(values)
    case.check(*(reduce(op, leaf, (0,)) for op in (Op.ADD, Op.MUL, Op.MAX)))
