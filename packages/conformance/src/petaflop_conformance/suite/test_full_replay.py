"""`jit`: a captured function gives the bits that it gives without, on new inputs, sizes and contents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petaflop import Tensor, Variable, jit, no_grad
from petaflop.dtype import DTYPES
from petaflop_conformance.values import generator, ordinary

pytestmark = pytest.mark.level("full")

Function = Callable[..., Any]


def tensor(device: str, dtype: str, shape: tuple[int, ...], *key: object) -> Tensor:
    return Tensor(ordinary(DTYPES[dtype], shape, "replay", *key), device=device)


def bits(value: Any) -> list[bytes]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return [each.numpy().tobytes() for each in values]


FUNCTIONS: dict[str, Function] = {
    "elementwise": lambda x, y: (x * 2 + y).exp().sin(),
    "reductions": lambda x, y: (x.sum(0), y.max(1), (x * y).mean()),
    "softmax": lambda x, y: (x @ y.transpose(0, 1)).softmax(-1),
    "views": lambda x, y: (x.flip(0).transpose(0, 1), y[1:, ::2], x.reshape(-1)[3:]),
    "many-kernels": lambda x, y: ((x @ y.transpose(0, 1)) @ x).cumsum(0).sort(1)[0],
    "an-input": lambda x, y: (x, y + 1, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.requires("float32", "int32", "bool")
def test_replay_is_eager(device: str, name: str) -> None:
    captured = jit(FUNCTIONS[name])
    for call in range(4):
        x, y = tensor(device, "float32", (6, 8), "x", call), tensor(device, "float32", (6, 8), "y", call)
        assert bits(captured(x, y)) == bits(FUNCTIONS[name](x, y)), f"call {call} differs"


@pytest.mark.parametrize("name", ["int32", "uint8", "bool", "float16", "float64"])
@pytest.mark.requires("float32", "int32", "bool")
def test_replay_of_other_dtypes(device: str, name: str, backend: Any) -> None:
    if name not in backend.capabilities.dtypes:
        pytest.skip(f"not declared: {name}")

    def work(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return x.maximum(y), x.flip(0), (x != y)

    captured = jit(work)
    for call in range(3):
        x, y = tensor(device, name, (33,), "x", call), tensor(device, name, (33,), "y", call)
        assert bits(captured(x, y)) == bits(work(x, y))


@pytest.mark.requires("float32")
def test_results_of_one_replay_outlive_the_next(device: str) -> None:
    captured = jit(lambda x: (x * 3).sum(0))
    inputs = [tensor(device, "float32", (16, 16), call) for call in range(5)]
    results = [captured(x) for x in inputs]
    for x, result in zip(inputs, results, strict=True):
        assert bits(result) == bits((x * 3).sum(0))


@pytest.mark.requires("float32")
def test_state_that_a_replay_assigns(device: str) -> None:
    """A running total in memory that outlives the calls."""
    total, plain = Tensor.zeros(8, device=device).realize(), Tensor.zeros(8, device=device).realize()

    @jit
    def add(x: Tensor) -> Tensor:
        total.assign(total * 0.5 + x)
        return total * 2

    for call in range(5):
        x = tensor(device, "float32", (8,), "state", call)
        plain = (plain * 0.5 + x).realize()
        assert bits(add(x)) == bits(plain * 2), f"call {call} differs"
        assert bits(total) == bits(plain)


@pytest.mark.requires("float32")
def test_replay_with_another_size(device: str) -> None:
    """One capture serves every value of a Variable."""
    rows = Variable("rows", 1, 16)
    captured = jit(lambda x, n: (x[:n] * 2).sum(0))
    whole = tensor(device, "float32", (16, 5), "sizes")
    for value in (3, 16, 1, 7):
        expected = (whole.numpy()[:value].astype(np.float64) * 2).sum(0)
        got = captured(whole, rows.bind(value)).numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.requires("float32", "int32", "bool")
def test_a_step_of_training(device: str) -> None:
    """Loss and gradients, captured, against the same steps without."""
    images, labels = (
        tensor(device, "float32", (12, 10), "images"),
        tensor(device, "float32", (12, 3), "labels"),
    )

    def loss_of(weight: Tensor) -> Tensor:
        return ((images @ weight).softmax(-1) - labels).square().mean()

    start = generator("weight").uniform(-1, 1, (10, 3)).astype(np.float32)
    finals = []
    for wrap in (jit, lambda function: function):
        weight = Tensor(start.copy(), device=device).requires_grad_().realize()

        def step(weight: Tensor = weight) -> Tensor:
            weight.grad = None
            loss = loss_of(weight)
            loss.backward()
            with no_grad():
                weight.assign(weight - weight.grad * 0.1)
            return loss

        captured = wrap(step)
        losses = [captured().numpy().tolist() for _ in range(4)]
        finals.append((losses, weight.numpy()))
    np.testing.assert_allclose(finals[0][0], finals[1][0], rtol=1e-6)
    np.testing.assert_allclose(finals[0][1], finals[1][1], rtol=1e-5, atol=1e-7)
