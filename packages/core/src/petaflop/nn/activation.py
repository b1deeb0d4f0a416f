"""Activations, dropout and pooling as modules: thin names around the methods of Tensor."""

from __future__ import annotations

from typing import Any

from petaflop.errors import ArgumentError
from petaflop.nn.module import Module
from petaflop.tensor import Tensor

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "SELU",
    "AvgPool2d",
    "Dropout",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "MaxPool2d",
    "Mish",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Tanh",
]


class _Activation(Module):
    """Calls the Tensor method `method` with the arguments that the module was made with."""

    method: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args, self._kwargs = args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        return getattr(x, self.method)(*self._args, **self._kwargs)

    def extra_repr(self) -> str:
        return ", ".join([*map(repr, self._args), *(f"{k}={v!r}" for k, v in self._kwargs.items())])


def _activation(name: str, method: str) -> type[_Activation]:
    doc = f"`Tensor.{method}` as a module; its arguments are given here."
    return type(name, (_Activation,), {"method": method, "__doc__": doc, "__module__": __name__})


ReLU = _activation("ReLU", "relu")
ReLU6 = _activation("ReLU6", "relu6")
Sigmoid = _activation("Sigmoid", "sigmoid")
Tanh = _activation("Tanh", "tanh")
SiLU = _activation("SiLU", "silu")
ELU = _activation("ELU", "elu")
CELU = _activation("CELU", "celu")
SELU = _activation("SELU", "selu")
Mish = _activation("Mish", "mish")
Softplus = _activation("Softplus", "softplus")
Softsign = _activation("Softsign", "softsign")
LeakyReLU = _activation("LeakyReLU", "leaky_relu")
Hardswish = _activation("Hardswish", "hardswish")
Hardsigmoid = _activation("Hardsigmoid", "hardsigmoid")
Hardtanh = _activation("Hardtanh", "hardtanh")
LogSigmoid = _activation("LogSigmoid", "logsigmoid")
GELU = _activation("GELU", "gelu")
Softmax = _activation("Softmax", "softmax")
LogSoftmax = _activation("LogSoftmax", "log_softmax")
MaxPool2d = _activation("MaxPool2d", "max_pool2d")
AvgPool2d = _activation("AvgPool2d", "avg_pool2d")


class Dropout(Module):
    """Zeros with probability p, the rest scaled by 1/(1 − p); in evaluation mode the input.

    >>> Dropout(0.5).eval()(Tensor([1.0])).tolist()
    [1.0]
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ArgumentError(f"Dropout: expected 0 <= p <= 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        kept = Tensor.rand(*x.shape, device=x.device) >= self.p
        return kept.where(x * (1 / (1 - self.p)), 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"
