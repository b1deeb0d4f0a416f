"""Optimizers, schedulers, clipping, loss scaling against torch.optim, step by step from the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from petaflop import optim
from petaflop.amp import GradScaler
from petaflop.tensor import Tensor

SHAPES = [(3, 4), (4,), (2, 3, 2)]


def pair(dtype: Any = np.float32, shapes: Any = SHAPES) -> tuple[list[Tensor], list[torch.Tensor]]:
    """The same parameters on both sides."""
    generator = np.random.default_rng(1)
    arrays = [generator.standard_normal(shape).astype(dtype) for shape in shapes]
    ours = [Tensor(array).requires_grad_() for array in arrays]
    theirs = [torch.tensor(array, requires_grad=True) for array in arrays]
    return ours, theirs


def set_grads(ours: list[Tensor], theirs: list[torch.Tensor], step: int, scale: float = 1.0) -> None:
    generator = np.random.default_rng(100 + step)
    for mine, other in zip(ours, theirs, strict=True):
        grad = (generator.standard_normal(tuple(other.shape)) * scale).astype(other.detach().numpy().dtype)
        mine.grad = Tensor(grad)
        other.grad = torch.tensor(grad)


def compare(ours: list[Tensor], theirs: list[torch.Tensor], rtol: float = 2e-5, atol: float = 2e-6) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.detach().numpy(), rtol=rtol, atol=atol)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "sgd-dampening": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    "sgd-nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd-maximize": ("SGD", {"lr": 0.1, "maximize": True}),
    "adam": ("Adam", {"lr": 0.01}),
    "adam-decay": ("Adam", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}),
    "adam-amsgrad": ("Adam", {"lr": 0.01, "amsgrad": True}),
    "adam-beta-zero": ("Adam", {"lr": 0.01, "betas": (0.0, 0.9)}),
    "adamw": ("AdamW", {"lr": 0.01}),
    "adamw-decay": ("AdamW", {"lr": 0.01, "weight_decay": 0.3}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_equal_torch(name: str, dtype: Any) -> None:
    kind, arguments = CASES[name]
    ours, theirs = pair(dtype)
    mine, other = getattr(optim, kind)(ours, **arguments), getattr(torch.optim, kind)(theirs, **arguments)
    tight = {"rtol": 1e-11, "atol": 1e-12} if dtype is np.float64 else {}
    for step in range(8):
        set_grads(ours, theirs, step)
        mine.step()
        other.step()
        compare(ours, theirs, **tight)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_muon(shape: tuple[int, int]) -> None:
    """PyTorch multiplies in bfloat16, so its update is known to about one part in a hundred."""
    ours, theirs = pair(shapes=[shape])
    mine, other = optim.Muon(ours, lr=0.1), torch.optim.Muon(theirs, lr=0.1)
    for step in range(4):
        set_grads(ours, theirs, step)
        mine.step()
        other.step()
        compare(ours, theirs, rtol=0, atol=0.01 * (step + 1))


def test_groups_and_new_rates() -> None:
    def groups(params: list[Any]) -> list[Any]:
        return [{"params": params[:1], "lr": 0.5}, {"params": params[1:]}]

    ours, theirs = pair()
    mine, other = optim.AdamW(groups(ours), lr=0.01), torch.optim.AdamW(groups(theirs), lr=0.01)
    for step in range(6):
        set_grads(ours, theirs, step)
        for optimizer in (mine, other):
            optimizer.param_groups[1]["lr"] = 0.01 * (step + 1)
        mine.step()
        other.step()
        compare(ours, theirs)


def test_parameters_without_gradients_stay() -> None:
    ours, theirs = pair()
    mine, other = optim.Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1)
    for step in range(3):
        set_grads(ours, theirs, step)
        ours[1].grad = theirs[1].grad = None
        mine.step()
        other.step()
        compare(ours, theirs)


def test_state_dict_resumes() -> None:
    ours, theirs = pair()
    first, other = optim.Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1)
    for step in range(3):
        set_grads(ours, theirs, step)
        first.step()
        other.step()
    second = optim.Adam(ours, lr=0.7)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        set_grads(ours, theirs, step)
        second.step()
        other.step()
        compare(ours, theirs)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clip_grad_norm(norm_type: float, max_norm: float) -> None:
    ours, theirs = pair()
    set_grads(ours, theirs, 0)
    mine = optim.clip_grad_norm_(ours, max_norm, norm_type)
    other = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    assert mine.item() == pytest.approx(other.item(), rel=1e-5)
    compare([t.grad for t in ours], [t.grad for t in theirs])


def test_clip_grad_value() -> None:
    ours, theirs = pair()
    set_grads(ours, theirs, 0)
    optim.clip_grad_value_(ours, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    compare([t.grad for t in ours], [t.grad for t in theirs])


SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lambda": ("LambdaLR", {"lr_lambda": lambda step: 0.9**step}),
    "step": ("StepLR", {"step_size": 3, "gamma": 0.5}),
    "multistep": ("MultiStepLR", {"milestones": [2, 5, 6], "gamma": 0.3}),
    "exponential": ("ExponentialLR", {"gamma": 0.8}),
    "constant": ("ConstantLR", {"factor": 0.25, "total_iters": 4}),
    "linear": ("LinearLR", {"start_factor": 0.1, "total_iters": 6}),
    "polynomial": ("PolynomialLR", {"total_iters": 7, "power": 2.0}),
    "cosine": ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0.01}),
    "onecycle": ("OneCycleLR", {"max_lr": 1.0, "total_steps": 13, "cycle_momentum": False}),
    "onecycle-linear": (
        "OneCycleLR",
        {
            "max_lr": 1.0,
            "epochs": 13,
            "steps_per_epoch": 1,
            "anneal_strategy": "linear",
            "cycle_momentum": False,
        },
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_schedulers(name: str) -> None:
    kind, arguments = SCHEDULERS[name]
    ours, theirs = pair()
    mine, other = optim.SGD(ours, lr=0.5), torch.optim.SGD(theirs, lr=0.5)
    kept = {key: value for key, value in arguments.items() if key != "cycle_momentum"}
    first = getattr(optim, kind)(mine, **kept)
    second = getattr(torch.optim.lr_scheduler, kind)(other, **arguments)
    for step in range(12):
        assert first.get_last_lr() == pytest.approx(second.get_last_lr(), rel=1e-12), step
        set_grads(ours, theirs, step)
        mine.step()
        other.step()
        first.step()
        second.step()
    compare(ours, theirs)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sequential_schedulers() -> None:
    rates = []
    for kit, optimizer in zip(
        (optim, torch.optim.lr_scheduler),
        (optim.SGD(pair()[0], lr=0.5), torch.optim.SGD(pair()[1], lr=0.5)),
        strict=True,
    ):
        parts = [
            kit.LinearLR(optimizer, start_factor=0.1, total_iters=4),
            kit.CosineAnnealingLR(optimizer, 8),
        ]
        scheduler = kit.SequentialLR(optimizer, parts, [4])
        rates.append([])
        for _ in range(12):
            rates[-1].append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
    np.testing.assert_allclose(rates[0], rates[1], rtol=1e-9)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_reduce_on_plateau(mode: str, threshold_mode: str) -> None:
    metrics = np.random.default_rng(3).uniform(0.5, 1.5, 40)
    arguments = {"mode": mode, "threshold_mode": threshold_mode, "patience": 2, "cooldown": 1, "factor": 0.5}
    mine, other = optim.SGD(pair()[0], lr=1.0), torch.optim.SGD(pair()[1], lr=1.0)
    first = optim.ReduceLROnPlateau(mine, **arguments)
    second = torch.optim.lr_scheduler.ReduceLROnPlateau(other, **arguments)
    for metric in metrics:
        first.step(metric)
        second.step(metric)
        assert mine.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"])


def test_loss_scaling_skips_what_overflows() -> None:
    """Gradients of inf or NaN change nothing and shrink the scale; good ones grow it."""
    ours, theirs = pair()
    mine, other = optim.Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1)
    scaler = GradScaler(init_scale=8.0, growth_interval=2)
    scale, good = 8.0, 0
    for step, value in enumerate([1.0, np.inf, 1.0, 1.0, np.nan, 1.0, 1.0]):
        set_grads(ours, theirs, step)
        overflow = not np.isfinite(value)
        for tensor in ours:
            assert tensor.grad is not None
            tensor.grad = tensor.grad * scale
        if overflow:
            assert ours[1].grad is not None
            ours[1].grad = ours[1].grad + float(value)
        scaler.step(mine)
        scaler.update()
        if not overflow:
            other.step()
        compare(ours, theirs)
        good = 0 if overflow else good + 1
        scale = scale / 2 if overflow else scale
        if good == 2:
            scale, good = scale * 2, 0
        assert scaler.get_scale() == scale
