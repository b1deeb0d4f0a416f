"""The oracle itself: it knows every op, raises no false alarm, and sees what fixed tolerances do not.

The devices here are simulated: graphs evaluated by NumPy in the narrow dtype, right or with a planted fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from petaflop.dtype import (
    DType,
    bfloat16,
    float16,
    float32,
    float64,
)
from petaflop.graph.node import Node, toposort
from petaflop.graph.ops import Op
from petaflop.realize import from_host
from petaflop_conformance.bounded import Policy, exact
from petaflop_conformance.graphs import Grower
from petaflop_conformance.oracle import RULES, judge

Array = np.ndarray[Any, Any]
GRAPHS = 120
STEEP = (Op.EXP2, Op.LOG2, Op.SIN, Op.SQRT)


def test_every_op_has_a_rule() -> None:
    assert set(RULES) == set(Op)


# ---- simulated devices ----

_NUMPY: dict[Op, Callable[..., Any]] = {
    Op.ADD: np.add,
    Op.MUL: np.multiply,
    Op.DIV: np.divide,
    Op.MAX: np.maximum,
    Op.LT: np.less,
    Op.NE: np.not_equal,
    Op.AND: np.bitwise_and,
    Op.WHERE: np.where,
    Op.SQRT: np.sqrt,
    Op.EXP2: np.exp2,
    Op.LOG2: np.log2,
    Op.SIN: np.sin,
}
Fault = Callable[[Node, Array], Array]


def simulate(root: Node, inputs: Mapping[Node, Array], fault: Fault = lambda node, array: array) -> Array:
    """What a device that computes every operation in its own dtype would give."""
    done: dict[Node, Array] = dict(inputs)
    for node in toposort([root]):
        if node in done:
            continue
        sources = [done[source] for source in node.sources]
        if node.op in _NUMPY:
            array = _NUMPY[node.op](*sources)
        elif node.op is Op.REDUCE:
            array = _reduced(node, sources[0])
        elif node.op is Op.CAST:
            array = sources[0].astype(node.dtype.numpy)
        else:  # views: what they do to positions is exact, so the rules themselves will do
            array = RULES[node.op](node, Policy(), *map(exact, sources)).value
        done[node] = fault(node, np.asarray(array).astype(node.dtype.numpy))
    return done[root]


def _reduced(node: Node, source: Array) -> Array:
    if node.arg.op is Op.MAX:
        return np.maximum.reduce(source, axis=node.arg.axes, keepdims=True)
    return source.astype(node.dtype.numpy).sum(axis=node.arg.axes, keepdims=True, dtype=node.dtype.numpy)


def off_by_relative(node: Node, array: Array) -> Array:
    return array * np.float32(1 + 2.0**-12) if node.op in STEEP else array


def narrow_sums(node: Node, array: Array) -> Array:
    if node.op is not Op.REDUCE or node.arg.op is not Op.ADD:
        return array
    return array.astype(np.float16).astype(array.dtype)


def shifted(node: Node, array: Array) -> Array:
    return np.roll(array, 1) if node.op is Op.DIV else array


def random_graphs(dtype: DType, count: int = GRAPHS, operations: int = 8) -> Any:
    """(root, inputs, oracle's answer) of tame graphs of `operations` steps."""
    for seed in range(count):
        generator = np.random.default_rng(seed)
        inputs = {}
        for _ in range(3):
            array = generator.uniform(-4, 4, (4, 8)).astype(dtype.numpy)
            inputs[from_host(array, "reference")] = array
        grower = Grower(
            lambda options, generator=generator: options[generator.integers(len(options))], inputs
        )
        yield (root := grower.grow(operations)), inputs, grower.oracle(root)


@pytest.mark.parametrize("dtype", [float32, float16, bfloat16, float64], ids=str)
def test_no_false_alarm_on_a_correct_device(dtype: DType) -> None:
    alarms, compared, total = [], 0, 0
    for root, inputs, expected in random_graphs(dtype):
        verdict = judge(simulate(root, inputs), expected, root.dtype)
        alarms += [verdict.message] if verdict.wrong else []
        compared, total = compared + verdict.compared, total + expected.value.size
    assert alarms == []
    assert compared >= 0.9 * total, "the graphs are too wild: most elements may be anything"


@pytest.mark.parametrize(
    ("fault", "uses", "share"),
    [
        (off_by_relative, lambda node: node.op in STEEP, 0.90),
        (narrow_sums, lambda node: node.op is Op.REDUCE and node.arg.op is Op.ADD, 0.90),
        (shifted, lambda node: node.op is Op.DIV, 0.90),
    ],
    ids=["off-by-2^-12", "narrow-sums", "shifted"],
)
def test_a_fault_that_reaches_the_result_is_seen(
    fault: Fault, uses: Callable[[Node], bool], share: float
) -> None:
    seen = fixed = used = 0
    for root, inputs, expected in random_graphs(float32):
        if not any(uses(node) for node in toposort([root])):
            continue
        used += 1
        got = simulate(root, inputs, fault)
        seen += judge(got, expected, root.dtype).wrong > 0
        cared = ~expected.free
        fixed += not np.allclose(got[cared], expected.value[cared], rtol=1e-3, atol=1e-6)
    assert used > 40
    assert seen >= share * used, f"{seen} of {used} seen; a tolerance of 1e-3 sees {fixed}"
    assert seen >= fixed
