"""Layers against torch: weights are exchanged through state dicts; values and all gradients must agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from petaflop import nn
from petaflop.tensor import Tensor

RNG = np.random.default_rng(7)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def exchange(mine: nn.Module, other: torch.nn.Module) -> None:
    """Copy torch's weights into ours; the names and shapes must be the same, in the same order."""
    state = other.state_dict()
    assert list(mine.state_dict()) == list(state)
    mine.load_state_dict({name: value.numpy() for name, value in state.items()})


def results(value: Any) -> list[Any]:
    return [part for item in value for part in results(item)] if isinstance(value, (tuple, list)) else [value]


def check(
    mine: nn.Module, other: torch.nn.Module, *arrays: Any, rtol: float = 2e-5, atol: float = 2e-5
) -> None:
    """Outputs, input gradients, parameter gradients and buffers, in training and in evaluation mode."""
    exchange(mine, other)
    for training in (True, False):
        mine.train(training)
        other.train(training)
        ours = [Tensor(array) for array in arrays]
        theirs = [torch.tensor(array) for array in arrays]
        for x, y in zip(ours, theirs, strict=True):
            if x.dtype.is_float:
                x.requires_grad_()
                y.requires_grad_()
        first = [part for part in results(mine(*ours)) if part is not None]
        second = [part for part in results(other(*theirs)) if part is not None]
        mine.zero_grad()
        other.zero_grad()
        weights = [np.cos(np.arange(part.numel())).reshape(part.shape).astype(np.float32) for part in second]
        sum((part * Tensor(w)).sum() for part, w in zip(first, weights, strict=True)).backward()
        sum((part * torch.tensor(w)).sum() for part, w in zip(second, weights, strict=True)).backward()
        for x, y in zip(first, second, strict=True):
            np.testing.assert_allclose(x.numpy(), y.detach().numpy(), rtol=rtol, atol=atol)
        for x, y in zip(ours, theirs, strict=True):
            if x.dtype.is_float:
                np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=rtol, atol=atol)
        for (name, x), y in zip(mine.named_parameters(), other.parameters(), strict=True):
            assert x.grad is not None, name
            np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=rtol, atol=5 * atol, err_msg=name)
        for (name, x), y in zip(mine.named_buffers(), other.buffers(), strict=True):
            np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=rtol, atol=atol, err_msg=name)


Make = Callable[[Any], Any]
LAYERS: dict[str, tuple[Make, tuple[Any, ...]]] = {
    "linear": (lambda kit: kit.Linear(5, 3), (normal(2, 4, 5),)),
    "linear-bare": (lambda kit: kit.Linear(5, 3, bias=False), (normal(4, 5),)),
    "bilinear": (lambda kit: kit.Bilinear(3, 4, 2), (normal(5, 3), normal(5, 4))),
    "conv1d": (lambda kit: kit.Conv1d(2, 4, 3, stride=2, padding=1), (normal(2, 2, 9),)),
    "conv2d": (lambda kit: kit.Conv2d(3, 4, 3, padding=1), (normal(2, 3, 5, 6),)),
    "conv2d-stride": (
        lambda kit: kit.Conv2d(2, 4, (3, 2), stride=(2, 3), dilation=(1, 2)),
        (normal(1, 2, 9, 9),),
    ),
    "conv2d-groups": (
        lambda kit: kit.Conv2d(4, 6, 3, groups=2, padding=1, bias=False),
        (normal(1, 4, 5, 5),),
    ),
    "conv2d-same": (lambda kit: kit.Conv2d(2, 2, (4, 3), padding="same"), (normal(1, 2, 5, 5),)),
    "conv3d": (lambda kit: kit.Conv3d(2, 3, 2, padding=1), (normal(1, 2, 3, 4, 3),)),
    "conv-transpose1d": (
        lambda kit: kit.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1),
        (normal(2, 2, 5),),
    ),
    "conv-transpose2d": (
        lambda kit: kit.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (normal(1, 4, 4, 3),),
    ),
    "embedding": (lambda kit: kit.Embedding(7, 4), (np.array([[1, 2], [6, 1]]),)),
    "embedding-padding": (lambda kit: kit.Embedding(7, 4, padding_idx=2), (np.array([[1, 2], [6, 1]]),)),
    "layernorm": (lambda kit: kit.LayerNorm(6), (normal(2, 3, 6),)),
    "layernorm-two": (lambda kit: kit.LayerNorm((3, 6), eps=1e-3, bias=False), (normal(2, 3, 6),)),
    "rmsnorm": (lambda kit: kit.RMSNorm(6), (normal(2, 3, 6),)),
    "groupnorm": (lambda kit: kit.GroupNorm(2, 4), (normal(3, 4, 2, 3),)),
    "instancenorm": (lambda kit: kit.InstanceNorm2d(3), (normal(2, 3, 4, 4),)),
    "instancenorm-tracked": (
        lambda kit: kit.InstanceNorm1d(3, affine=True, track_running_stats=True),
        (normal(2, 3, 5),),
    ),
    "batchnorm1d": (lambda kit: kit.BatchNorm1d(4), (normal(6, 4),)),
    "batchnorm2d": (lambda kit: kit.BatchNorm2d(3), (normal(2, 3, 4, 4),)),
    "batchnorm2d-average": (lambda kit: kit.BatchNorm2d(3, momentum=None), (normal(2, 3, 4, 4),)),
    "batchnorm3d": (lambda kit: kit.BatchNorm3d(2, affine=False), (normal(2, 2, 2, 3, 2),)),
    "attention": (lambda kit: kit.MultiheadAttention(8, 2, batch_first=True), (normal(2, 5, 8),) * 3),
    "attention-cross": (
        lambda kit: kit.MultiheadAttention(8, 4, bias=False),
        (normal(3, 2, 8), normal(5, 2, 8), normal(5, 2, 8)),
    ),
    "lstm-cell": (lambda kit: kit.LSTMCell(3, 4), (normal(2, 3),)),
    "gru-cell": (lambda kit: kit.GRUCell(3, 4), (normal(2, 3), normal(2, 4))),
    "lstm": (lambda kit: kit.LSTM(3, 4, num_layers=2), (normal(4, 2, 3),)),
    "lstm-batch-first": (lambda kit: kit.LSTM(3, 4, batch_first=True), (normal(2, 4, 3),)),
    "network": (
        lambda kit: kit.Sequential(
            kit.Conv2d(1, 4, 3, padding=1),
            kit.BatchNorm2d(4),
            kit.ReLU(),
            kit.MaxPool2d(2),
            kit.Flatten(),
            kit.Linear(16, 3),
            kit.LogSoftmax(-1),
        ),
        (normal(3, 1, 4, 4),),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    make, arrays = LAYERS[name]
    check(make(nn), make(torch.nn), *arrays)


ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "ReLU": (),
    "ReLU6": (),
    "Sigmoid": (),
    "Tanh": (),
    "SiLU": (),
    "ELU": (),
    "CELU": (),
    "SELU": (),
    "Mish": (),
    "Softplus": (),
    "Softsign": (),
    "LeakyReLU": (0.1,),
    "Hardswish": (),
    "Hardsigmoid": (),
    "Hardtanh": (),
    "LogSigmoid": (),
    "GELU": (),
    "Softmax": (-1,),
    "LogSoftmax": (1,),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    values = np.concatenate([normal(2, 20) * 3, np.array([[0.0, -1.0, 1.0, 8.0]] * 2, np.float32)], 1)
    if name in ("Hardtanh", "ReLU6", "Hardswish", "Hardsigmoid"):
        values = values[:, :20]  # at the corners any slope between the two sides is right
    check(getattr(nn, name)(*ACTIVATIONS[name]), getattr(torch.nn, name)(*ACTIVATIONS[name]), values)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss", "KLDivLoss"])
def test_regression_loss(name: str, reduction: str) -> None:
    target = np.abs(normal(4, 3))
    mine, other = getattr(nn, name)(reduction=reduction), getattr(torch.nn, name)(reduction=reduction)
    check(mine, other, normal(4, 3) * 2, target)


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "NLLLoss"])
@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3)])
def test_class_loss(name: str, shape: tuple[int, ...]) -> None:
    target = RNG.integers(0, 4, (shape[0], *shape[2:]))
    check(getattr(nn, name)(), getattr(torch.nn, name)(), normal(*shape), target)


def test_binary_losses() -> None:
    target = RNG.integers(0, 2, (4, 3)).astype(np.float32)
    probability = 1 / (1 + np.exp(-normal(4, 3)))
    for mine, other, x in (
        (nn.BCELoss(), torch.nn.BCELoss(), probability),
        (nn.BCEWithLogitsLoss(), torch.nn.BCEWithLogitsLoss(), normal(4, 3)),
    ):
        ours, theirs = Tensor(x).requires_grad_(), torch.tensor(x, requires_grad=True)
        first, second = mine(ours, Tensor(target)), other(theirs, torch.tensor(target))
        first.backward()
        second.backward()
        assert first.item() == pytest.approx(second.item(), rel=1e-5)
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_attention_masks() -> None:
    mine, other = (
        nn.MultiheadAttention(8, 2, batch_first=True),
        torch.nn.MultiheadAttention(8, 2, batch_first=True),
    )
    exchange(mine, other)
    x = normal(2, 4, 8)
    ours, theirs = Tensor(x), torch.tensor(x)
    padding = np.array([[False, False, True, True], [False, False, False, True]])
    causal = np.triu(np.ones((4, 4), bool), 1)
    first = mine(ours, ours, ours, key_padding_mask=Tensor(padding), attn_mask=Tensor(causal))
    second = other(
        theirs, theirs, theirs, key_padding_mask=torch.tensor(padding), attn_mask=torch.tensor(causal)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-5)
    again = mine(ours, ours, ours, key_padding_mask=Tensor(padding), is_causal=True)[0]
    np.testing.assert_allclose(again.numpy(), first[0].numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["Linear", "Conv2d", "LSTMCell", "Embedding"])
def test_initial_values_have_torch_s_spread(name: str) -> None:
    """The same bounds, and a standard deviation within a few percent, on layers that are large enough."""
    arguments = {"Linear": (64, 200), "Conv2d": (16, 64, 3), "LSTMCell": (64, 64), "Embedding": (200, 64)}[
        name
    ]
    mine, other = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
    for (key, x), y in zip(mine.named_parameters(), other.parameters(), strict=True):
        assert float(x.numpy().std()) == pytest.approx(float(y.detach().std()), rel=0.15), key
        if name != "Embedding":
            assert abs(x.numpy()).max() <= float(y.detach().abs().max()) * 1.1


def test_training_follows_torch() -> None:
    """Ten steps of a small network from the same weights give the same losses."""
    from petaflop import optim

    def network(kit: Any) -> Any:
        return kit.Sequential(kit.Linear(6, 16), kit.Tanh(), kit.Linear(16, 3))

    mine, other = network(nn), network(torch.nn)
    exchange(mine, other)
    first, second = optim.AdamW(mine.parameters(), lr=0.05), torch.optim.AdamW(other.parameters(), lr=0.05)
    x, labels = normal(32, 6), RNG.integers(0, 3, 32)
    for _ in range(10):
        loss = mine(Tensor(x)).cross_entropy(Tensor(labels))
        expected = torch.nn.functional.cross_entropy(other(torch.tensor(x)), torch.tensor(labels))
        for optimizer, value in ((first, loss), (second, expected)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
