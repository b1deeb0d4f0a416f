"""Losses: functions of (prediction, target) with PyTorch's names, defaults and reductions."""

from __future__ import annotations

from typing import Any

from petaflop.errors import ArgumentError, ShapeError
from petaflop.nn.module import Module
from petaflop.tensor import Tensor

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "NLLLoss",
    "SmoothL1Loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "smooth_l1_loss",
]


def _reduced(name: str, loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    if reduction == "none":
        return loss
    raise ArgumentError(f"{name}: expected reduction mean, sum or none, got {reduction!r}")


def _same_shape(name: str, prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ShapeError(
            f"{name}: expected equal shapes, got {list(prediction.shape)} and {list(target.shape)}"
        )


def mse_loss(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(prediction − target)².

    >>> mse_loss(Tensor([1.0, 3.0]), Tensor([1.0, 1.0])).item()
    2.0
    """
    _same_shape("mse_loss", prediction, target)
    return _reduced("mse_loss", (prediction - target).square(), reduction)


def l1_loss(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|prediction − target|."""
    _same_shape("l1_loss", prediction, target)
    return _reduced("l1_loss", (prediction - target).abs(), reduction)


def huber_loss(prediction: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d²/2 below delta, delta·(|d| − delta/2) above."""
    _same_shape("huber_loss", prediction, target)
    difference = prediction - target
    distance = difference.abs()
    loss = (distance < delta).where(difference.square() * 0.5, (distance - 0.5 * delta) * delta)
    return _reduced("huber_loss", loss, reduction)


def smooth_l1_loss(prediction: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d²/(2·beta) below beta, |d| − beta/2 above."""
    if beta == 0:
        return l1_loss(prediction, target, reduction)
    return huber_loss(prediction, target, reduction, beta) * (1 / beta)


def kl_div(prediction: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target·(log target − prediction), where `prediction` holds logarithms; `batchmean` divides by N."""
    _same_shape("kl_div", prediction, target)
    if log_target:
        loss = target.exp() * (target - prediction)
    else:
        positive = target > 0
        safe = positive.where(target, target * 0 + 1)
        loss = positive.where(target * (safe.log() - prediction), target * 0)
    if reduction == "batchmean":
        return loss.sum() / int(prediction.shape[0])
    return _reduced("kl_div", loss, reduction)


class _Loss(Module):
    """Keeps the arguments of a loss."""

    def __init__(self, **kwargs: Any) -> None:
        self._kwargs = kwargs


class MSELoss(_Loss):
    """`mse_loss` as a module."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return mse_loss(prediction, target, **self._kwargs)


class L1Loss(_Loss):
    """`l1_loss` as a module."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return l1_loss(prediction, target, **self._kwargs)


class HuberLoss(_Loss):
    """`huber_loss` as a module."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return huber_loss(prediction, target, **self._kwargs)


class SmoothL1Loss(_Loss):
    """`smooth_l1_loss` as a module."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return smooth_l1_loss(prediction, target, **self._kwargs)


class KLDivLoss(_Loss):
    """`kl_div` as a module."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return kl_div(prediction, target, **self._kwargs)


class CrossEntropyLoss(_Loss):
    """`Tensor.cross_entropy` as a module."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return prediction.cross_entropy(target, **self._kwargs)


class NLLLoss(_Loss):
    """`Tensor.nll_loss` as a module."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return prediction.nll_loss(target, **self._kwargs)


class BCELoss(_Loss):
    """`Tensor.binary_crossentropy` as a module."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return prediction.binary_crossentropy(target, **self._kwargs)


class BCEWithLogitsLoss(_Loss):
    """`Tensor.binary_crossentropy_logits` as a module."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return prediction.binary_crossentropy_logits(target, **self._kwargs)
