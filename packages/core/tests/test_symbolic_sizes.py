"""Symbolic sizes: one kernel serves every value of a Variable: views, reductions, products, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petaflop import Tensor, Variable, jit
from petaflop.errors import ArgumentError
from petaflop.profile import profile

n, m = Variable("rows", 1, 16), Variable("columns", 1, 16)
X = np.random.default_rng(0).standard_normal((16, 16))
x = Tensor(X.astype(np.float32)).realize()
Array = np.ndarray[Any, Any]


def gradient() -> Tensor:
    weight = Tensor(X.astype(np.float32), requires_grad=True)
    (weight[:n] ** 2).sum().backward()
    assert weight.grad is not None
    return weight.grad


def masked() -> Tensor:
    seen = Tensor.arange(n).reshape(1, -1) <= Tensor.arange(n).reshape(-1, 1)
    return seen.where(x[:n, :n], -9.0)


def softmax(a: Array) -> Array:
    e = np.exp(a)
    return e / e.sum(-1, keepdims=True)


CASES: dict[str, tuple[Callable[[], Tensor], Callable[[int], Array]]] = {
    "softmax": (lambda: x[:, :n].softmax(-1), lambda s: softmax(X[:, :s])),
    "product of rows": (lambda: x[:n] @ x, lambda s: X[:s] @ X),
    "product over": (lambda: x[:, :n] @ x[:n], lambda s: X[:, :s] @ X[:s]),
    "mean": (lambda: x[:n].mean(0), lambda s: X[:s].mean(0)),
    "argmax": (lambda: x[:n].argmax(0), lambda s: X[:s].argmax(0)),
    "cumsum": (lambda: x[:n].cumsum(0), lambda s: X[:s].cumsum(0)),
    "cat": (lambda: x[:n].cat(x), lambda s: np.concatenate([X[:s], X])),
    "arange": (lambda: Tensor.arange(n), lambda s: np.arange(s)),
    "reshape": (lambda: x[:n].reshape(n * 16), lambda s: X[:s].reshape(-1)),
    "flip": (lambda: x[:n].T.flip(1), lambda s: X[:s].T[:, ::-1]),
    "value": (lambda: x * n, lambda s: X * s),
    "two sizes": (lambda: x[:n, :m].sum(0), lambda s: X[:s, : 17 - s].sum(0)),
    "mask": (masked, lambda s: np.where(np.tri(s, dtype=bool), X[:s, :s], -9.0)),
    "gradient": (gradient, lambda s: np.where(np.arange(16)[:, None] < s, 2 * X, 0)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("jitted", [False, True])
def test_one_kernel_serves_every_size(name: str, jitted: bool) -> None:
    function, expected = CASES[name]
    called = jit(function) if jitted and name != "gradient" else function
    schedules = set()
    for size in (3, 16, 1, 7):
        n.bind(size)
        m.bind(17 - size)
        with profile() as recorded:
            np.testing.assert_allclose(called().numpy(), expected(size), rtol=1e-5, atol=1e-5)
        schedules |= {launch.name for launch in recorded.launches}
        if size != 3:
            assert recorded.compiles == []
    assert len(schedules) == 1


def test_a_position_moves_without_a_new_kernel() -> None:
    at = Variable("at", 0, 12)
    for start in (0, 12, 5):
        at.bind(start)
        with profile() as recorded:
            np.testing.assert_allclose(x[at : at + 4].sum(0).numpy(), X[start : start + 4].sum(0), rtol=1e-4)
            np.testing.assert_allclose(x[at].numpy(), X[start], rtol=1e-5)
        assert start == 0 or recorded.compiles == []


def test_bounds_and_missing_values() -> None:
    with pytest.raises(ArgumentError, match="expected 1 <= rows <= 16, got 17"):
        n.bind(17)
    with pytest.raises(ArgumentError, match="expected a bound value"):
        x[: Variable("unbound", 1, 4)].sum().item()
