"""Mixed precision against torch.autocast in bfloat16 and float16: dtypes, values, gradients, steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from petaflop import nn, optim
from petaflop.amp import GradScaler, autocast
from petaflop.dtype import bfloat16, float16, float32, to_dtype
from petaflop.errors import DTypeError
from petaflop.tensor import Tensor

RNG = np.random.default_rng(5)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


PRODUCTS = {
    "matmul": (lambda x: x @ x.transpose(0, 1), (4, 6)),
    "linear": (lambda x: x.linear(x, x.sum(1)), (4, 6)),
    "einsum": (lambda x: Tensor.einsum("ij,kj->ik", x, x), (4, 6)),
    "conv2d": (lambda x: x.conv2d(x, x.sum((1, 2, 3))), (2, 2, 3, 3)),
    "conv_transpose2d": (lambda x: x.conv_transpose2d(x), (2, 2, 3, 3)),
    "attention": (lambda x: x.scaled_dot_product_attention(x, x), (2, 4, 6)),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_products_are_narrow_inside_and_wide_outside(name: str, dtype: str) -> None:
    function, shape = PRODUCTS[name]
    x = Tensor(normal(*shape)).requires_grad_()
    wide = function(x)
    with autocast(dtype):
        narrow = function(x)
        with autocast(enabled=False):
            assert function(x).dtype is float32
        assert function(x.cast("float64")).dtype.itemsize == 8
    assert narrow.dtype is to_dtype(dtype) and function(x).dtype is float32
    unit = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
    scale = float(np.abs(wide.numpy()).max())
    np.testing.assert_allclose(narrow.cast(float32).numpy(), wide.numpy(), atol=4 * unit * scale)
    narrow.cast(float32).sum().backward()
    assert x.grad is not None and x.grad.dtype is float32
    (expected,) = wide.sum().gradient(x)
    bound = 16 * unit * float(np.abs(expected.numpy()).max()) + 4 * unit
    np.testing.assert_allclose(x.grad.numpy(), expected.numpy(), atol=bound)


def test_a_step_follows_torch() -> None:
    def network(kit: Any) -> Any:
        return kit.Sequential(kit.Conv2d(1, 4, 3), kit.ReLU(), kit.Flatten(), kit.Linear(64, 5))

    mine, other = network(nn), network(torch.nn)
    mine.load_state_dict({name: value.numpy() for name, value in other.state_dict().items()})
    first, second = optim.SGD(mine.parameters(), lr=0.1), torch.optim.SGD(other.parameters(), lr=0.1)
    scaler = GradScaler(init_scale=1024.0)
    x, labels = normal(8, 1, 6, 6), RNG.integers(0, 5, 8)
    for _ in range(4):
        with autocast(bfloat16):
            scores = mine(Tensor(x))
        assert scores.dtype is bfloat16
        loss = scores.cast(float32).cross_entropy(Tensor(labels))
        with torch.autocast("cpu", torch.bfloat16):
            scores = other(torch.tensor(x))
        expected = torch.nn.functional.cross_entropy(scores.float(), torch.tensor(labels))
        first.zero_grad()
        second.zero_grad()
        scaler.scale(loss).backward()
        expected.backward()
        scaler.step(first)
        scaler.update()
        second.step()
        assert loss.item() == pytest.approx(expected.item(), abs=0.03)
    assert all(tensor.dtype is float32 for tensor in mine.parameters())


def test_autocast_as_decorator_and_its_errors() -> None:
    @autocast(float16)
    def product(x: Tensor) -> Tensor:
        return x @ x

    assert product(Tensor(normal(3, 3))).dtype is float16
    assert product(Tensor([[1, 2], [3, 4]])).dtype is not float16
    with pytest.raises(DTypeError, match="autocast: expected a float dtype, got int32"):
        autocast("int32")
