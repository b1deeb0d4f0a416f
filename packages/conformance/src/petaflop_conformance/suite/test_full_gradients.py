"""Gradients: the graph that core makes is held to central differences in float64, the device to the oracle.

The two questions are apart: whether the gradient graph means the derivative is asked of the oracle's float64
values, and whether the device computes that graph is asked of the device, in every float dtype it declares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from petaflop.dtype import DTYPES, DType, bool_, int32
from petaflop.graph import view
from petaflop.graph.gradient import gradient
from petaflop.graph.node import Node, assign, cast, compute, const, gather, reduce, scan, scatter
from petaflop.graph.ops import Op
from petaflop_conformance.case import Case
from petaflop_conformance.layers import convolution, layer_norm, matmul, softmax
from petaflop_conformance.oracle import Oracle
from petaflop_conformance.steps import smooth_for
from petaflop_conformance.values import generator
from petaflop_conformance.weaving import Weaver, chooser

pytestmark = pytest.mark.level("full")

Array = np.ndarray[Any, Any]
Build = Callable[[Case, Node, Node], Node]
STEP = 2.0**-17


def positions(case: Case) -> Node:
    return case.leaf(np.array([[0, 2, 2, -1], [1, 1, 5, 0], [2, 0, 1, 1]], np.int32))


def mask(case: Case) -> Node:
    return case.leaf(np.arange(12).reshape(3, 4) % 3 == 0)


FUNCTIONS: dict[str, Build] = {
    "ADD": lambda case, x, y: compute(Op.ADD, x, y),
    "MUL": lambda case, x, y: compute(Op.MUL, x, y),
    "DIV": lambda case, x, y: compute(Op.DIV, x, y),
    "MAX": lambda case, x, y: compute(Op.MAX, x, y),
    "WHERE": lambda case, x, y: compute(Op.WHERE, mask(case), x, y),
    "SQRT": lambda case, x, y: compute(Op.SQRT, x),
    "EXP2": lambda case, x, y: compute(Op.EXP2, x),
    "LOG2": lambda case, x, y: compute(Op.LOG2, x),
    "SIN": lambda case, x, y: compute(Op.SIN, x),
    "sum": lambda case, x, y: compute(Op.SIN, reduce(Op.ADD, x, (0,))),
    "product": lambda case, x, y: reduce(Op.MUL, x, (1,)),
    "maximum": lambda case, x, y: reduce(Op.MAX, x, (0, 1)),
    "running-sum": lambda case, x, y: scan(Op.ADD, compute(Op.MUL, x, y), 1),
    "running-product": lambda case, x, y: scan(Op.MUL, x, 0),
    "running-maximum": lambda case, x, y: scan(Op.MAX, x, 1),
    "views": lambda case, x, y: compute(
        Op.MUL,
        view.permute(view.flip(x, (1,)), (1, 0)),
        view.reshape(view.pad(view.shrink(y, ((0, 2), (1, 4))), ((1, 0), (0, 1))), (4, 3)),
    ),
    "window": lambda case, x, y: compute(Op.SIN, view.window(x, 1, 2, 1, 2)),
    "expand": lambda case, x, y: compute(
        Op.MUL, view.expand(view.reshape(x, (3, 1, 4)), (3, 2, 4)), view.expand(y_row(y), (3, 2, 4))
    ),
    "gather": lambda case, x, y: compute(Op.MUL, gather(x, positions(case), 1), y),
    "scatter": lambda case, x, y: scatter(x, positions(case), y, 1, Op.ADD),
    "assign": lambda case, x, y: compute(
        Op.SIN, assign(x, view.shrink(y, ((0, 3), (0, 2))), ((0, 3, 1), (0, 2, 2)))
    ),
    "softmax": lambda case, x, y: compute(Op.MUL, softmax(x, 1), y),
    "layer-norm": lambda case, x, y: compute(Op.MUL, layer_norm(x), y),
    "matmul": lambda case, x, y: matmul(x, view.permute(y, (1, 0))),
    "convolution": lambda case, x, y: convolution(
        view.reshape(x, (1, 1, 3, 4)), view.reshape(y, (3, 1, 2, 2)), 1, 1, 1
    ),
}


def y_row(y: Node) -> Node:
    return view.reshape(view.shrink(y, ((0, 1), (0, 4))), (1, 1, 4))


def distinct(dtype: DType, key: str) -> Array:
    """Positive values, no two close: MAX has a gradient there."""
    values = generator("gradient", key).permutation(12) * 0.25 + 0.5
    return values.reshape(3, 4).astype(dtype.numpy)


def weights(case: Case, node: Node) -> Node:
    shape = tuple(int(size) for size in node.shape)
    return case.leaf(generator("seed", shape).uniform(0.5, 1.5, shape).astype(node.dtype.numpy))


def differences(output: Node, seed: Array, inputs: Mapping[Node, Array], target: Node) -> Array:
    """d(Σ output · seed) / d(target), by central differences of the oracle's float64 values."""
    result = np.empty(inputs[target].shape)
    for place in np.ndindex(result.shape):
        sums = []
        for sign in (1.0, -1.0):
            moved = inputs[target].astype(np.float64)
            moved[place] += sign * STEP
            value = Oracle({**inputs, target: moved})(output).value
            sums.append(float((value * seed).sum()))
        result[place] = (sums[0] - sums[1]) / (2 * STEP)
    return result


def compare(case: Case, output: Node, inputs: Mapping[Node, Array], targets: Sequence[Node]) -> None:
    """The meaning of the gradient graph against differences, and the device against the graph's meaning."""
    seed = weights(case, output)
    known = {**inputs, seed: case.oracle(seed).value}
    found = gradient([output], [seed], targets)
    assert any(grad is not None for grad in found)
    for target, grad in zip(targets, found, strict=True):
        expected = differences(output, known[seed], known, target)
        if grad is None:
            assert not expected.any(), "expected a gradient, got none"
            continue
        got = case.oracle(grad).value
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7 * scale)
    case.check(*(grad for grad in found if grad is not None))


def inputs_of(case: Case) -> dict[Node, Array]:
    """Every leaf that the case has made, with its array."""
    return dict(case.inputs)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.requires("float32", "int32", "bool")
def test_gradient(case: Case, name: str) -> None:
    x, y = case.leaf(distinct(DTYPES["float32"], "x")), case.leaf(distinct(DTYPES["float32"], "y"))
    output = FUNCTIONS[name](case, x, y)
    compare(case, output, inputs_of(case), [x, y])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.requires("float32", "int32", "bool")
def test_gradients_in_other_dtypes(case: Case, dtype: str, backend: Any) -> None:
    """All of them in one graph; the oracle's float64 is the same for every dtype of the inputs' values."""
    if dtype not in backend.capabilities.dtypes:
        pytest.skip(f"not declared: {dtype}")
    kind = DTYPES[dtype]
    x, y = case.leaf(distinct(kind, "x")), case.leaf(distinct(kind, "y"))
    found: list[Node] = []
    for name in ("ADD", "MUL", "DIV", "MAX", "WHERE", "SQRT", "EXP2", "SIN", "sum", "views", "gather"):
        output = FUNCTIONS[name](case, x, y)
        found += [g for g in gradient([output], [weights(case, output)], [x, y]) if g is not None]
    case.check(*found)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.requires("float32", "int32", "bool")
def test_gradient_of_a_random_graph(case: Case, seed: int) -> None:
    """Smooth fused graphs of 8 operations, with respect to their first input."""
    weaver = Weaver(chooser(np.random.default_rng(seed)), case.leaf, ["float32", "int32"], case.policy)
    weaver.awkward = False
    target = weaver.leaf(DTYPES["float32"], (3, 4))
    output = weaver.grow(8, smooth_for, DTYPES["float32"], inputs=0)
    compare(case, output, weaver.inputs, [target])


@pytest.mark.requires("float32", "int32", "bool")
def test_gradient_of_a_gradient(case: Case) -> None:
    x, y = case.leaf(distinct(DTYPES["float32"], "x")), case.leaf(distinct(DTYPES["float32"], "y"))
    for name in ("DIV", "softmax"):
        output = FUNCTIONS[name](case, x, y)
        (first,) = gradient([output], [weights(case, output)], [x])
        assert first is not None
        compare(case, compute(Op.MUL, first, x), inputs_of(case), [x, y])


@pytest.mark.requires("float32", "int32", "bool")
def test_what_has_no_gradient(case: Case) -> None:
    """Comparisons, integers and what was detached contribute nothing."""
    x = case.leaf(distinct(DTYPES["float32"], "x") + np.float32(0.1))
    less = compute(Op.LT, x, const(1.0, x.dtype, x.shape))
    assert less.dtype is bool_
    chosen = compute(Op.WHERE, less, x, cast(cast(x, int32), x.dtype))
    compare(case, chosen, inputs_of(case), [x])
