"""Graphs that are deep or wide: no recursion, no quadratic work, and no crash when they are let go."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest

from petaflop import Tensor
from petaflop.graph import node as graph
from petaflop.graph.ops import Op
from petaflop.profile import profile


def pair(value: float, **options: bool) -> Tensor:
    return Tensor(np.full(2, value, np.float32), device="reference", **options)


@pytest.fixture(autouse=True)
def _shallow_stack() -> object:
    """Nothing may need a deep stack: not even the limit that Python starts with."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    yield
    sys.setrecursionlimit(before)


def test_a_hundred_thousand_operations_in_a_chain() -> None:
    one = graph.const(1, pair(0).dtype, (2,))
    node = pair(0.0).node
    for _ in range(100_000):
        node = graph.compute(Op.ADD, node, one)
    with profile() as recorded:
        assert Tensor._from_node(node, "reference").tolist() == [100_000, 100_000]
    assert len(recorded.launches) < 1000


def test_backward_through_ten_thousand_operations() -> None:
    x = pair(1.0, requires_grad=True)
    y = x
    for _ in range(10_000):
        y = y + x
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [10_001, 10_001]


def test_backward_of_backward_through_a_thousand_operations() -> None:
    x = pair(1.0, requires_grad=True)
    y = x
    for _ in range(1000):
        y = y * 1.001
    (first,) = (y * y).sum().gradient(x)
    (second,) = first.sum().gradient(x)
    np.testing.assert_allclose(second.numpy(), np.full(2, 2 * 1.001**2000), rtol=1e-3)


def test_a_long_chain_is_let_go() -> None:
    node = pair(0.0).node
    step = pair(1.0).node
    for _ in range(200_000):
        node = graph.compute(Op.ADD, node, step)
    del node
    gc.collect()
    assert step.buffer is not None


def test_one_value_with_ten_thousand_users() -> None:
    shared = pair(1.0) * 3
    total = shared
    for _ in range(9_999):
        total = total + shared
    assert total.tolist() == [30_000, 30_000]


def test_one_value_with_a_thousand_results() -> None:
    shared = (pair(1.0) * 3).exp2()
    results = [shared + n for n in range(1000)]
    with profile() as recorded:
        Tensor.realize(*results)
    assert [r.tolist()[0] for r in results] == [8 + n for n in range(1000)]
    assert len(recorded.launches) < 60


def test_a_sum_of_five_thousand_tensors_and_its_gradients() -> None:
    parts = [pair(float(n), requires_grad=True) for n in range(5000)]
    total = sum(parts[1:], parts[0])
    total.sum().backward()
    assert total.tolist() == [12_497_500, 12_497_500]
    assert all(part.grad is not None for part in parts)
    assert parts[4999].grad is not None and parts[4999].grad.tolist() == [1, 1]


def test_a_stack_of_many_tensors() -> None:
    assert Tensor.stack(*(pair(float(n)) for n in range(500))).sum().item() == 249_500
