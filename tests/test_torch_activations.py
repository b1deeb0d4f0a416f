"""Activation functions against torch, over every float dtype, integers and awkward values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch_case import FLOATS, as_dtype, check, normal, refuse

NAN, INF = float("nan"), float("inf")
ANY = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, 6.0, -3.0, 3.0, 1e-3, 25.0, -88.0, 100.0, -120.0]
ENDS = [NAN, INF, -INF]

# ours, and torch's where it is not the function of the same name
ACTIVATIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any] | None]] = {
    "relu": (lambda x: x.relu(), None),
    "relu6": (lambda x: x.relu6(), F.relu6),
    "sigmoid": (lambda x: x.sigmoid(), None),
    "tanh": (lambda x: x.tanh(), None),
    "silu": (lambda x: x.silu(), F.silu),
    "swish": (lambda x: x.swish(), F.silu),
    "gelu": (lambda x: x.gelu(), F.gelu),
    "gelu-tanh": (lambda x: x.gelu(approximate="tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "quick_gelu": (lambda x: x.quick_gelu(), lambda x: x * torch.sigmoid(1.702 * x)),
    "elu": (lambda x: x.elu(), F.elu),
    "elu-alpha": (lambda x: x.elu(0.7), lambda x: F.elu(x, 0.7)),
    "celu": (lambda x: x.celu(), F.celu),
    "celu-alpha": (lambda x: x.celu(1.7), lambda x: F.celu(x, 1.7)),
    "selu": (lambda x: x.selu(), F.selu),
    "mish": (lambda x: x.mish(), F.mish),
    "softplus": (lambda x: x.softplus(), F.softplus),
    "softplus-beta": (lambda x: x.softplus(2.0, 10.0), lambda x: F.softplus(x, 2.0, 10.0)),
    "softsign": (lambda x: x.softsign(), F.softsign),
    "leaky_relu": (lambda x: x.leaky_relu(), F.leaky_relu),
    "leaky_relu-slope": (lambda x: x.leaky_relu(0.2), lambda x: F.leaky_relu(x, 0.2)),
    "hardswish": (lambda x: x.hardswish(), F.hardswish),
    "hardsigmoid": (lambda x: x.hardsigmoid(), F.hardsigmoid),
    "hardtanh": (lambda x: x.hardtanh(), F.hardtanh),
    "hardtanh-ends": (lambda x: x.hardtanh(-2.5, 3.5), lambda x: F.hardtanh(x, -2.5, 3.5)),
    "logsigmoid": (lambda x: x.logsigmoid(), F.logsigmoid),
}
SINGLE = ("celu-alpha", "hardsigmoid")  # whose constants torch keeps in float32


@pytest.mark.parametrize("name", ["gelu", "gelu-tanh"])
def test_what_doubles_on_the_way_does_not_overflow(name: str) -> None:
    mine, theirs = ACTIVATIONS[name]
    check(mine, np.array([2e38, -2e38, 3.4e38], np.float32), theirs=theirs, gradients=False)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_floats(name: str) -> None:
    mine, theirs = ACTIVATIONS[name]
    for dtype in FLOATS:
        loose = {"rtol": 1e-7} if dtype == "float64" and name in SINGLE else {}
        loose = {"atol": 1e-7} if dtype == "float32" and name.startswith("gelu") else loose  # 1 + erf cancels
        check(mine, as_dtype(ANY, dtype), theirs=theirs, **loose)
        check(mine, as_dtype(ENDS, dtype), theirs=theirs, gradients=False)
    check(mine, np.zeros((2, 0), np.float32), theirs=theirs)
    check(mine, np.array(-1.5, np.float32), theirs=theirs)


@pytest.mark.parametrize("name", ["relu", "relu6", "sigmoid", "tanh", "hardtanh"])
def test_integers(name: str) -> None:
    mine, theirs = ACTIVATIONS[name]
    check(mine, np.array([-3, 0, 2, 9], np.int32), theirs=theirs)


def test_prelu() -> None:
    for weight in (np.array([0.25], np.float32), np.array([0.25, -1.0, 2.0], np.float32)):
        check(lambda x, w: x.prelu(w), normal(2, 3, 4), weight, theirs=F.prelu, atol=1e-6)


def test_errors_are_those_of_torch() -> None:
    x = np.ones(2, np.float32)
    refuse(lambda x: x.gelu(approximate="fast"), x, kind=RuntimeError)
    refuse(lambda x: x.celu(0.0), x, kind=RuntimeError)  # torch: ZeroDivisionError is a RuntimeError there
    refuse(lambda x: x.relu(), np.ones(2, bool), kind=RuntimeError)
