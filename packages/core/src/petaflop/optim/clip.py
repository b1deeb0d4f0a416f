"""Gradient clipping, in place and lazy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from petaflop.optim.base import working_dtype
from petaflop.tensor import Tensor, no_grad

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


def _with_grad(params: Iterable[Tensor] | Tensor) -> list[tuple[Tensor, Tensor]]:
    listed = [params] if isinstance(params, Tensor) else list(params)
    return [(tensor, tensor.grad.detach()) for tensor in listed if tensor.grad is not None]


@no_grad()
def clip_grad_norm_(params: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scale all gradients together so that their norm is at most `max_norm`; returns the norm before, lazily.

    >>> weight = Tensor([3.0, 4.0]).requires_grad_()
    >>> _ = (weight * weight).sum().backward()
    >>> clip_grad_norm_([weight], 1.0).item()
    10.0
    """
    pairs = _with_grad(params)
    if not pairs:
        return Tensor(0.0)
    grads = [grad.cast(working_dtype(grad.dtype)) for _, grad in pairs]
    if math.isinf(norm_type):
        norm = _fold([grad.abs().max() for grad in grads], Tensor.maximum)
    elif norm_type == 2:
        norm = _fold([grad.square().sum() for grad in grads], Tensor.add).sqrt()
    else:
        norm = _fold([grad.abs().pow(norm_type).sum() for grad in grads], Tensor.add).pow(1 / norm_type)
    scale = (max_norm / (norm + 1e-6)).minimum(1.0)
    for (tensor, before), grad in zip(pairs, grads, strict=True):
        tensor.grad = (grad * scale.cast(grad.dtype)).cast(before.dtype)
    return norm


def _fold(values: list[Tensor], function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = function(total, value)
    return total


@no_grad()
def clip_grad_value_(params: Iterable[Tensor] | Tensor, clip_value: float) -> None:
    """Clamp every element of the gradients to ±clip_value."""
    for tensor, grad in _with_grad(params):
        tensor.grad = grad.clamp(-clip_value, clip_value)
