"""Module's bookkeeping: names, modes, freezing, devices; running statistics."""

from __future__ import annotations

import numpy as np
import pytest

from petaflop import nn, optim
from petaflop.dtype import float16, int64
from petaflop.errors import ArgumentError, ShapeError
from petaflop.nn.norm import pending_statistics
from petaflop.tensor import Tensor, no_grad


class Block(nn.Module):
    """A bit of everything."""

    def __init__(self) -> None:
        self.first = nn.Linear(2, 3)
        self.rest = [nn.LayerNorm(3), nn.Dropout(0.5)]
        self.table = {"norm": nn.BatchNorm1d(3)}
        self.scale = nn.Parameter(Tensor.ones(1))
        self.register_buffer("step", Tensor(np.zeros((), np.int64)))
        self.register_buffer("cache", Tensor.zeros(2), persistent=False)
        self.plain = Tensor.ones(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) * self.scale
        for layer in self.rest:
            x = layer(x)
        return self.table["norm"](x)


NAMES = ["scale", "first.weight", "first.bias", "rest.0.weight", "rest.0.bias"]
NAMES += ["table.norm.weight", "table.norm.bias"]


def test_names() -> None:
    block = Block()
    assert [name for name, _ in block.named_parameters()] == NAMES
    buffers = [
        "step",
        "cache",
        "table.norm.running_mean",
        "table.norm.running_var",
        "table.norm.num_batches_tracked",
    ]
    assert [name for name, _ in block.named_buffers()] == buffers
    assert set(block.state_dict()) == {*NAMES, *buffers} - {"cache"}
    assert [name for name, _ in block.named_modules()] == ["", "first", "rest.0", "rest.1", "table.norm"]
    assert "(first): Linear(2, 3, bias=True)" in repr(block)


def test_shared_parameters_are_listed_once() -> None:
    block = Block()
    block.again = block.first
    assert len(list(block.parameters())) == len(NAMES)


def test_modes_and_freezing() -> None:
    block = Block()
    assert block.training and not block.eval().rest[1].training and block.train().rest[1].training
    block.first.requires_grad_(False)
    block(Tensor.rand(4, 2)).sum().backward()
    assert block.first.weight.grad is None and block.scale.grad is not None
    block.zero_grad()
    assert block.scale.grad is None
    with pytest.raises(NotImplementedError, match="Module: expected a method forward"):
        nn.Module()(1)
    with pytest.raises(ArgumentError, match="scale: expected a Tensor or None"):
        block.scale = 3


def test_to_keeps_integers() -> None:
    block = Block().to(float16)
    assert block.scale.dtype is float16 and block.scale.requires_grad
    assert block.step.dtype is int64 and block.cache.dtype is float16


def test_dropout_keeps_the_mean() -> None:
    x = Tensor.ones(10000)
    y = nn.Dropout(0.25)(x).numpy()
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert abs(y.mean() - 1) < 0.05
    assert nn.Dropout(1.0)(x).numpy().max() == 0
    with pytest.raises(ArgumentError, match="0 <= p <= 1"):
        nn.Dropout(2)


def test_running_statistics_wait_for_the_optimizer() -> None:
    model = nn.BatchNorm1d(2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    x = Tensor(np.array([[1.0, 2.0], [3.0, 6.0]], np.float32))
    model(x).square().sum().backward()
    assert not model.running_mean.node.is_realized
    optimizer.step()
    assert model.running_mean.node.is_realized and not pending_statistics()
    np.testing.assert_allclose(model.running_mean.numpy(), [0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(model.running_var.numpy(), [1.1, 1.7], rtol=1e-6)


def test_running_statistics_do_not_pile_up() -> None:
    model = nn.BatchNorm1d(2)
    x = Tensor(np.ones((4, 2), np.float32))
    with no_grad():
        for _ in range(50):
            model(x)
    from petaflop.graph.node import toposort

    assert len(toposort([model.running_mean.node])) < 60
    assert model.num_batches_tracked.item() == 50


def test_shapes_are_checked() -> None:
    for layer, shape in (
        (nn.LayerNorm(3), (2, 4)),
        (nn.GroupNorm(1, 3), (2, 4)),
        (nn.BatchNorm2d(3), (2, 3)),
        (nn.LSTMCell(3, 2), (2, 4)),
        (nn.MultiheadAttention(4, 2), (2, 4)),
    ):
        with pytest.raises(ShapeError, match=f"{type(layer).__name__}: expected"):
            layer(*[Tensor.zeros(*shape)] * (3 if isinstance(layer, nn.MultiheadAttention) else 1))
    with pytest.raises(ArgumentError, match="groups"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(ArgumentError, match='stride 1 with padding "same"'):
        nn.Conv2d(3, 4, 3, padding="same", stride=2)
