"""The initial values of parameters: PyTorch's defaults."""

from __future__ import annotations

import math

from petaflop.nn.module import Parameter
from petaflop.tensor import Tensor

__all__ = ["normal", "ones", "uniform", "xavier", "zeros"]


def uniform(shape: tuple[int, ...], fan_in: int) -> Tensor:
    """Between ±1/√fan_in, which is Kaiming's rule with a = √5."""
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    return Parameter(Tensor.uniform(*shape, low=-bound, high=bound))


def xavier(shape: tuple[int, int]) -> Tensor:
    """Glorot's uniform rule."""
    bound = math.sqrt(6 / sum(shape))
    return Parameter(Tensor.uniform(*shape, low=-bound, high=bound))


def normal(shape: tuple[int, ...]) -> Tensor:
    """Standard normal."""
    return Parameter(Tensor.randn(*shape))


def zeros(shape: tuple[int, ...]) -> Tensor:
    """All 0."""
    return Parameter(Tensor.zeros(*shape))


def ones(shape: tuple[int, ...]) -> Tensor:
    """All 1."""
    return Parameter(Tensor.ones(*shape))
