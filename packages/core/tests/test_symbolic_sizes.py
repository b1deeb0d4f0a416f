"""Symbolic sizes: one kernel serves every value of a Variable: views, reductions, products, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petaflop import Tensor, Variable, jit
from petaflop.errors import ArgumentError, JitError, ShapeError
from petaflop.profile import profile
from petaflop.recording import settled, sized

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


def test_arguments_bring_the_values_of_their_sizes() -> None:
    rows, more = Variable("own_rows", 2, 64), Variable("more_rows", 0, 64)
    joined = jit(lambda a, b: a.cat(b).softmax(0))
    counted = jit(lambda a, b: Tensor.zeros(a.shape[0] + b.shape[0], 2) + a.shape[0])
    for first, second in ((3, 4), (9, 0), (2, 1), (40, 17)):
        values = {rows: first, more: second}
        a = X.astype(np.float32)[np.arange(first) % 16]
        b = X.astype(np.float32)[np.arange(second) % 16]
        given = sized(Tensor(a), (rows, 16), values), sized(Tensor(b), (more, 16), values)
        with profile() as recorded:
            result, size = settled(joined(*given)), settled(counted(*given))
        assert recorded.compiles == [] or first == 3
        assert result.shape == (first + second, 16) and size.shape == (first + second, 2)
        np.testing.assert_allclose(result.numpy(), softmax(np.concatenate([a, b]).T).T, rtol=1e-5)
        assert (size.numpy() == first).all()
    assert rows.value is None and len(joined.captures) == 1


def test_temporaries_stay_while_sizes_grow_but_not_where_one_would_be_too_small() -> None:
    grown, cut = Variable("grown_rows", 2, 64), Variable("cut_rows", 0, 60)
    a = np.random.default_rng(1).standard_normal((64, 16)).astype(np.float32)
    table = Tensor(a).realize()
    product = jit(lambda rows: (rows @ x).softmax(0) @ x)
    rest = jit(lambda: (table[cut:] @ x).softmax(0) @ x)
    temporaries = []
    for size in (33, 34, 39, 40, 41, 33):
        given = sized(Tensor(a[:size]), (grown, 16), {grown: size})
        np.testing.assert_allclose(settled(product(given)).numpy(), expected(a[:size]), rtol=1e-3, atol=1e-5)
        (((capture, _),),) = product.captures.values()
        temporaries.append([buffer for buffer in capture.buffers or () if buffer is not None])
    assert all(temporaries)
    assert temporaries[0] == temporaries[3] != temporaries[4]
    for start in (9, 8, 10, 3, 60):
        cut.bind(start)
        np.testing.assert_allclose(rest().numpy(), expected(a[start:]), rtol=1e-3, atol=1e-5)
    (((capture, _),),) = rest.captures.values()
    assert dict(capture.prepared.plans.room({cut: 9})) == {cut: 9}


def expected(rows: Array) -> Array:
    return softmax((rows.astype(np.float64) @ X).T).T @ X


def test_arguments_agree_on_their_sizes() -> None:
    rows = Variable("agreed_rows", 2, 9)
    add = jit(lambda a, b: a + b)
    a, b = Tensor.rand(3), Tensor.rand(4)
    add(sized(a, (rows,), {rows: 3}), sized(a, (rows,), {rows: 3}))
    with pytest.raises(JitError, match="agreed_rows=3, got agreed_rows=4"):
        add(sized(a, (rows,), {rows: 3}), sized(b, (rows,), {rows: 4}))
    with pytest.raises(ShapeError, match=r"expected sizes that make \[3\], got \[4\]"):
        sized(a, (rows,), {rows: 4})


def test_the_order_of_a_sum_of_sizes_does_not_matter() -> None:
    assert n + m is m + n and n * 2 + m + 1 is 1 + m + n * 2


def test_a_branch_on_a_size_is_decided_by_its_bounds_or_an_error() -> None:
    assert n and n + 1 > n and not n < 1
    for undecided in (n - 3, n < m, n >= 4):
        with pytest.raises(ArgumentError, match="for every size or for none"):
            bool(undecided)


def test_bounds_and_missing_values() -> None:
    with pytest.raises(ArgumentError, match="expected 1 <= rows <= 16, got 17"):
        n.bind(17)
    with pytest.raises(ArgumentError, match="expected a bound value"):
        x[: Variable("unbound", 1, 4)].sum().item()
