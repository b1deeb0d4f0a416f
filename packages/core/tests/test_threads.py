"""What docs/architecture.md promises about threads: graphs are built and computed from any number of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from petaflop import Tensor, no_grad, optim
from petaflop.amp import autocast
from petaflop.dtype import bfloat16, float32


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(function: Callable[[int], None], count: int = 6) -> None:
    """Run a function in `count` threads at once; the first failure is raised here."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            function(number)
        except BaseException as error:  # noqa: BLE001 - a thread cannot raise into the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def ones(*shape: int, requires_grad: bool = False) -> Tensor:
    return Tensor(np.ones(shape, np.float32), requires_grad=requires_grad)


def test_equal_graphs_on_other_data() -> None:
    def work(number: int) -> None:
        for turn in range(20):
            x = Tensor(np.full((8, 8), number + turn, np.float32))
            expected = np.full((8, 8), 1 / 8 + 64 * (number + turn))
            np.testing.assert_allclose(((x @ x).softmax(-1) + x.sum()).numpy(), expected, rtol=1e-5)

    together(work)


def test_one_lazy_tensor_is_computed_by_all() -> None:
    lazy = ones(16, 16).exp() * 2 + 1
    together(lambda number: np.testing.assert_allclose(lazy.numpy(), np.full((16, 16), 2 * np.e + 1), 1e-6))


def test_gradients_of_a_shared_parameter() -> None:
    weight = ones(4, 4, requires_grad=True)

    def work(number: int) -> None:
        for _ in range(20):
            (grad,) = (weight * (number + 1)).sum().gradient(weight)
            assert (grad.numpy() == number + 1).all()

    together(work)


def test_modes_belong_to_a_thread() -> None:
    weight = ones(2, 2, requires_grad=True)

    def work(number: int) -> None:
        for _ in range(50):
            with no_grad(), autocast(bfloat16):
                product = weight @ weight
                assert not product.requires_grad and product.dtype is bfloat16
            product = weight @ weight
            assert product.requires_grad and product.dtype is float32

    together(work)


def test_training_side_by_side() -> None:
    def train() -> list[float]:
        weight = Tensor([[1.0, -2.0]], requires_grad=True)
        optimizer = optim.Adam([weight], lr=0.1)
        for _ in range(8):
            optimizer.zero_grad()
            (weight @ Tensor([[3.0], [1.0]])).square().sum().backward()
            optimizer.step()
        return weight.flatten().tolist()

    alone = train()

    def work(number: int) -> None:
        assert train() == alone

    together(work, 4)


def test_no_random_number_is_drawn_twice() -> None:
    Tensor.manual_seed(0)
    drawn: list[float] = []
    together(lambda number: drawn.extend(x for _ in range(10) for x in Tensor.rand(4).tolist()))
    assert len(set(drawn)) == len(drawn) == 240
