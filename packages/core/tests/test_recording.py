"""A recording is the graph of a call: constants computed before it, nothing that changes anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from petaflop import Tensor, Variable, float32, grad, no_grad
from petaflop.errors import JitError
from petaflop.graph.ops import Op
from petaflop.recording import host_values, memory_of, placeholder, record

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_what_was_there_before_is_memory() -> None:
    lazy = Tensor(X) * 2 + 1
    x = placeholder(float32, (2, 3), lazy.device)
    result, nodes = record("export", lambda a: a + lazy, x)
    assert [node.op for node in nodes if node.buffer is None] == [Op.BUFFER, Op.ADD]
    (constant,) = [node for node in nodes if node.buffer is not None]
    np.testing.assert_array_equal(host_values(constant), X * 2 + 1)
    assert result.node is nodes[-1]


def test_parameters_take_no_gradient_and_are_the_same_leaves_afterwards() -> None:
    weight = Tensor(X, requires_grad=True)
    loss = (weight * 2).relu().sum()
    leaf = weight.node
    _, nodes = record("export", lambda a: (a * weight).relu(), placeholder(float32, (2, 3), weight.device),
                      constants=[weight])  # fmt: skip
    assert [node.op for node in nodes if node.buffer is None] == [Op.BUFFER, Op.MUL, Op.CONST, Op.MAX]
    assert memory_of(weight) in nodes
    assert weight.node is leaf and weight.requires_grad
    loss.backward()
    assert weight.grad is not None and weight.grad.tolist() == [[0, 2, 2], [2, 2, 2]]


def test_gradients_inside_and_sizes_that_vary() -> None:
    x = placeholder(float32, (Variable("n", 1, 9), 3), Tensor(X).device)
    result, nodes = record("export", lambda a: {"g": grad(lambda b: (b * b).sum())(a)}, x)
    assert result["g"].shape == x.shape
    assert not {Op.DETACH, Op.REALIZE, Op.CUSTOM} & {node.op for node in nodes}


counter = Tensor(X)


def _assigns(x: Tensor) -> Tensor:
    with no_grad():
        counter.assign(counter + 1)
    return x + counter


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x + Tensor.rand(3), "draws random numbers"),
        (_assigns, "assigns to"),
        (lambda x: x * float(x.sum()), "read it outside"),
    ],
)
def test_what_is_no_function_of_its_arguments(function: Any, message: str) -> None:
    state = Tensor.rand(2).tolist()
    with pytest.raises(JitError, match=message):
        record("export", function, placeholder(float32, (2, 3), Tensor(X).device))
    assert Tensor.rand(2).tolist() != state  # drawing goes on
    assert counter.tolist() == X.tolist()
