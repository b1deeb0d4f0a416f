"""Optimizers without torch: LAMB and Muon against NumPy, launches of a step, rates without kernels,
errors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from petaflop import nn, optim
from petaflop.amp import GradScaler
from petaflop.errors import ArgumentError, ArgumentTypeError, ShapeError
from petaflop.optim.algorithms import orthogonalized
from petaflop.profile import profile
from petaflop.tensor import Tensor

RNG = np.random.default_rng(0)


def parameter(*shape: int) -> Tensor:
    return Tensor(RNG.standard_normal(shape).astype(np.float32)).requires_grad_()


def test_lamb() -> None:
    weight = parameter(3, 4)
    expected = weight.numpy().astype(np.float64)
    first = second = np.zeros((3, 4))
    optimizer = optim.LAMB([weight], lr=0.1, weight_decay=0.05)
    for step in range(1, 6):
        grad = RNG.standard_normal((3, 4)).astype(np.float32)
        weight.grad = Tensor(grad)
        optimizer.step()
        first = 0.9 * first + 0.1 * grad
        second = 0.999 * second + 0.001 * grad.astype(np.float64) ** 2
        update = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-6) + 0.05 * expected
        expected = expected - 0.1 * np.linalg.norm(expected) / np.linalg.norm(update) * update
        np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3)])
def test_orthogonalized(shape: tuple[int, int]) -> None:
    """Newton–Schulz keeps the singular vectors and takes every singular value near 1."""
    matrix = RNG.standard_normal(shape).astype(np.float32)
    result = orthogonalized(Tensor(matrix), (3.4445, -4.7750, 2.0315), 5, 1e-7).numpy().astype(np.float64)
    left, values, right = np.linalg.svd(result, full_matrices=False)
    assert values.min() > 0.6 and values.max() < 1.3
    expected_left, _, expected_right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(
        (left @ right) @ (expected_left @ expected_right).T, np.eye(shape[0]), atol=1e-3
    ) if (shape[0] < shape[1]) else np.testing.assert_allclose(
        (left @ right).T @ (expected_left @ expected_right), np.eye(3), atol=1e-3
    )


def launches(function: Any) -> tuple[int, int]:
    """(launches, schedules made anew) of a call."""
    with profile() as p:
        function()
    return len(p.launches), sum(not record.cached for record in p.schedules)


@pytest.mark.parametrize("kind", [optim.SGD, optim.AdamW])
def test_a_step_is_few_launches(kind: Any) -> None:
    weights = [parameter(n + 2, 3) for n in range(40)]
    optimizer = kind(weights, lr=0.1)

    def set_grads() -> None:
        for weight in weights:
            weight.grad = Tensor(RNG.standard_normal(weight.shape).astype(np.float32))

    set_grads()
    optimizer.step()
    set_grads()
    made, _ = launches(optimizer.step)
    assert made <= 8, f"{made} launches for 40 parameters"


def test_a_new_rate_makes_no_new_kernel() -> None:
    weight = parameter(4)
    optimizer = optim.SGD([weight], lr=0.1, momentum=0.9)
    for rate in (0.1, 0.2, 0.3, 0.4):
        before = weight.numpy()
        weight.grad = Tensor(np.ones(4, np.float32))
        optimizer.param_groups[0]["lr"] = rate
        _, anew = launches(optimizer.step)
        if rate > 0.2:
            assert anew == 0
    assert not np.array_equal(weight.numpy(), before)


def test_a_step_needs_no_host_read_and_keeps_losses_readable() -> None:
    """The loss and the gradients can be read after the step: they are those before it."""
    weight = Tensor([3.0]).requires_grad_()
    optimizer = optim.SGD([weight], lr=0.5)
    loss = (weight * weight).sum()
    loss.backward()
    optimizer.step()
    assert weight.item() == 0 and loss.item() == 9 and weight.grad.item() == 6


def test_half_parameters_keep_float_state() -> None:
    weight = Tensor(np.ones(3, np.float16)).requires_grad_()
    optimizer = optim.Adam([weight], lr=1e-3)
    for _ in range(3):
        weight.grad = Tensor(np.full(3, 1e-4, np.float16))
        optimizer.step()
    assert str(optimizer.state[id(weight)]["exp_avg_sq"].dtype) == "float32"
    np.testing.assert_allclose(weight.numpy().astype(np.float32), 1 - 3e-3, atol=1e-3)


def test_scaler_disabled_and_state() -> None:
    weight = Tensor([1.0]).requires_grad_()
    scaler, optimizer = GradScaler(enabled=False), optim.SGD([weight], lr=1.0)
    scaler.scale(weight.sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert weight.item() == 0 and scaler.get_scale() == 1
    other = GradScaler(init_scale=2.0)
    other.load_state_dict(GradScaler(init_scale=32.0).state_dict())
    assert other.get_scale() == 32


def test_errors() -> None:
    weight = parameter(2)
    with pytest.raises(ArgumentError, match="lr >= 0"):
        optim.SGD([weight], lr=-1)
    with pytest.raises(ArgumentError, match="at least one parameter"):
        optim.SGD([], lr=1)
    with pytest.raises(ArgumentError, match="in one group"):
        optim.SGD([weight, weight], lr=1)
    with pytest.raises(ArgumentError, match="leaves that require gradients"):
        optim.SGD([Tensor([1.0])], lr=1)
    with pytest.raises(ArgumentTypeError, match="expected Tensors, got ndarray"):
        optim.SGD([np.ones(3)], lr=1)
    with pytest.raises(ArgumentError, match="nesterov"):
        optim.SGD([weight], lr=1, nesterov=True)
    with pytest.raises(ArgumentError, match="betas"):
        optim.Adam([weight], betas=(1.0, 0.9))
    with pytest.raises(ShapeError, match="Muon: expected matrices"):
        optim.Muon([weight])
    with pytest.raises(ArgumentError, match="groups of"):
        optim.SGD([weight], lr=1).load_state_dict(optim.SGD([weight, parameter(3)], lr=1).state_dict())
    with pytest.raises(ArgumentError, match="total_steps"):
        optim.OneCycleLR(optim.SGD([weight], lr=1), max_lr=1.0)


def test_a_small_network_learns() -> None:
    """Exclusive or, which no linear model can do."""
    Tensor.manual_seed(1)
    x = Tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = Tensor([[0.0], [1.0], [1.0], [0.0]])
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


def test_a_copy_of_model_and_optimizer_goes_on_by_itself() -> None:
    def train(model: nn.Linear, optimizer: optim.Adam, turns: int) -> list[float]:
        for _ in range(turns):
            optimizer.zero_grad()
            model(Tensor([[1.0, 2.0]])).square().sum().backward()
            optimizer.step()
        return model.weight.flatten().tolist()

    model = nn.Linear(2, 2)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    train(model, optimizer, 2)
    model_copy, optimizer_copy = copy.deepcopy((model, optimizer))
    before = model.weight.flatten().tolist()
    there = train(model_copy, optimizer_copy, 3)
    assert model.weight.flatten().tolist() == before != there
    assert train(model, optimizer, 3) == there
