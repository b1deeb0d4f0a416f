"""Gradients of any order against torch.autograd: a second order of every kind of operation, and the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch_case import normal, refuse, second_order

from petaflop import grad
from petaflop.tensor import Tensor, no_grad

X, Y = normal(2, 3), normal(2, 3, seed=2)
POSITIVE = np.abs(X) + 0.5
IMAGE, KERNEL = normal(1, 2, 4, 4), normal(2, 2, 2, 2, seed=2)
PLACES = np.array([[0, 2, 2], [1, 0, 1]])


def places(x: Any) -> Any:
    return Tensor(PLACES, device=x.device) if isinstance(x, Tensor) else torch.tensor(PLACES)


Case = tuple[Callable[..., Any], Callable[..., Any] | None, tuple[Any, ...]]
SECOND: dict[str, Case] = {
    "mul": (lambda x, y: x * y + x, None, (X, Y)),
    "div": (lambda x, y: x / y, None, (X, POSITIVE)),
    "exp": (lambda x: x.exp() * x.sin(), None, (X,)),
    "log": (lambda x: x.log() + x.log1p(), None, (POSITIVE,)),
    "sqrt": (lambda x: x.sqrt() + x.rsqrt(), None, (POSITIVE,)),
    "pow": (lambda x, y: x**y, None, (POSITIVE, Y)),
    "pow-3": (lambda x: x**3 + x**-2, None, (POSITIVE,)),
    "tanh": (lambda x: x.tanh() * x.sigmoid(), None, (X,)),
    "erf": (lambda x: x.erf() + x.cosh(), None, (X,)),
    "atan": (lambda x: x.atan() + x.asinh(), None, (X,)),
    "gelu": (lambda x: x.gelu(), F.gelu, (X,)),
    "silu": (lambda x: x.silu() + x.mish(), lambda x: F.silu(x) + F.mish(x), (X,)),
    "softplus": (lambda x: x.softplus() + x.elu(), lambda x: F.softplus(x) + F.elu(x), (X,)),
    "logaddexp": (lambda x, y: x.logaddexp(y), None, (X, Y)),
    "fmod": (lambda x, y: x.fmod(y) * x * y, None, (X, POSITIVE)),
    "maximum": (lambda x, y: x.maximum(y) * x, None, (X, Y)),
    "where": (
        lambda x, y: (x > 0).where(x * y, y * y),
        lambda x, y: torch.where(x > 0, x * y, y * y),
        (X, Y),
    ),
    "clamp": (lambda x: x.clamp(-0.5, 0.5) * x, None, (X,)),
    "abs": (lambda x: x.abs(), None, (X,)),
    "relu": (lambda x: x.relu(), None, (X,)),
    "relu-mul": (lambda x, y: x.relu() * y, None, (X, Y)),
    "avg_pool2d-alone": (lambda x: x.avg_pool2d(2), lambda x: F.avg_pool2d(x, 2), (IMAGE,)),
    "max_pool2d-alone": (lambda x: x.max_pool2d(2), lambda x: F.max_pool2d(x, 2), (IMAGE,)),
    "sum": (lambda x: x.sum(-1) ** 2, None, (X,)),
    "prod": (lambda x: x.prod(-1), None, (X,)),
    "mean-var": (lambda x: x.mean(0) * x.var(0), None, (X,)),
    "std": (lambda x: x.std(-1), None, (X,)),
    "max": (lambda x: x.max(-1) ** 2, lambda x: x.amax(-1) ** 2, (X,)),
    "softmax": (lambda x: x.softmax(-1), None, (X,)),
    "log_softmax": (lambda x: x.log_softmax(-1) * x, None, (X,)),
    "logsumexp": (lambda x: x.logsumexp(-1), None, (X,)),
    "cumsum": (lambda x: x.cumsum(-1) ** 2, None, (X,)),
    "cumprod": (lambda x: x.cumprod(-1), None, (X,)),
    "norm": (lambda x: x.norm(2, -1), None, (X,)),
    "sort": (lambda x: x.sort(-1)[0] ** 2, None, (X,)),
    "matmul": (lambda x, y: x @ y.T * x.sum(), None, (X, Y)),
    "einsum": (
        lambda x, y: Tensor.einsum("ij,kj,ij->ik", x, y, x),
        lambda x, y: torch.einsum("ij,kj,ij->ik", x, y, x),
        (X, Y),
    ),
    "conv2d": (
        lambda x, w: x.conv2d(w, padding=1) ** 2,
        lambda x, w: F.conv2d(x, w, padding=1) ** 2,
        (IMAGE, KERNEL),
    ),
    "conv2d-stride": (
        lambda x, w: x.conv2d(w, stride=2) * 2,
        lambda x, w: F.conv2d(x, w, stride=2) * 2,
        (IMAGE, KERNEL),
    ),
    "conv_transpose2d": (
        lambda x, w: x.conv_transpose2d(w, stride=2) ** 2,
        lambda x, w: F.conv_transpose2d(x, w, stride=2) ** 2,
        (IMAGE, KERNEL),
    ),
    "avg_pool2d": (lambda x: x.avg_pool2d(2) ** 2, lambda x: F.avg_pool2d(x, 2) ** 2, (IMAGE,)),
    "max_pool2d": (lambda x: x.max_pool2d(2) ** 2, lambda x: F.max_pool2d(x, 2) ** 2, (IMAGE,)),
    "layernorm": (lambda x: x.layernorm(), lambda x: F.layer_norm(x, (3,)), (X,)),
    "attention": (
        lambda q, k: q.scaled_dot_product_attention(k, k * q),
        lambda q, k: F.scaled_dot_product_attention(q, k, k * q),
        (X, Y),
    ),
    "cross_entropy": (
        lambda x: x.cross_entropy(places(x)[:, 0], reduction="none"),
        lambda x: F.cross_entropy(x, places(x)[:, 0], reduction="none"),
        (X,),
    ),
    "bce": (
        lambda x: x.binary_crossentropy_logits(x.detach() * 0 + 0.3),
        lambda x: F.binary_cross_entropy_with_logits(x, torch.full_like(x, 0.3)),
        (X,),
    ),
    "gather": (lambda x: x.gather(1, places(x)) ** 2, None, (X,)),
    "scatter": (lambda x, y: x.scatter_add(1, places(x), y) ** 2 * x, None, (X, Y)),
    "index": (lambda x: x[:, [0, 0, 2]] ** 2, None, (X,)),
    "reshape": (lambda x: (x.reshape(3, 2).T.flip(0) * x) ** 2, None, (X,)),
    "pad": (lambda x: x.pad((1, 1)) ** 3, lambda x: F.pad(x, (1, 1)) ** 3, (X,)),
    "expand": (lambda x: (x.unsqueeze(0).expand(2, 2, 3) * x) ** 2, None, (X,)),
}


@pytest.mark.parametrize("name", SECOND)
def test_second_order(name: str) -> None:
    mine, theirs, arrays = SECOND[name]
    second_order(mine, *arrays, theirs=theirs)


def test_a_gradient_that_is_constant_has_gradients_of_zero() -> None:
    x, y, unused = (Tensor([3.0, -2.0], requires_grad=True) for _ in range(3))
    for function in (lambda x: x.abs(), lambda x: x * 2, lambda x: x.floor(), lambda x: x.relu() * y):
        (first,) = function(x).sum().gradient(x)
        assert first.realize().sum().gradient(x)[0].tolist() == [0, 0]
        assert grad(lambda x, f=function: grad(lambda z: f(z).sum())(x).sum())(x).tolist() == [0, 0]
        first.sum().backward()
        assert x.grad is not None and x.grad.tolist() == [0, 0]
        refuse(lambda x, part=first: part.sum().gradient(unused), X, kind=RuntimeError)
    x.grad = None
    x.abs().sum().backward(create_graph=True)
    x.grad.sum().backward()
    assert x.grad.tolist() == [1, -1]
    late = Tensor([1.0])
    made = (late * 2).sum()
    late.requires_grad_()
    refuse(lambda x: made.gradient(late), X, kind=RuntimeError)
    made = x.abs().sum()
    with no_grad():
        assert not made.gradient(x)[0].requires_grad


def test_third_order() -> None:
    x = Tensor([1.5, -0.5], dtype="float64", requires_grad=True, device="reference")
    y = torch.tensor([1.5, -0.5], dtype=torch.float64, requires_grad=True)
    ours, theirs = (x.tanh() * x**4).sum(), (y.tanh() * y**4).sum()
    for _ in range(3):
        (ours,) = (part.sum() for part in ours.gradient(x))
        theirs = torch.autograd.grad(theirs, y, create_graph=True)[0].sum()
        np.testing.assert_allclose(ours.item(), theirs.item(), rtol=1e-10)


# the same program on both sides: what .grad holds at its end
def accumulate(x: Any) -> None:
    (x * 2).sum().backward()
    (x * x).sum().backward()


def shared(x: Any) -> None:
    y = x * 3
    (y * y + y).sum().backward()


def detached(x: Any) -> None:
    (x * x.detach()).sum().backward()


def in_place(x: Any) -> None:
    y = x * 2
    y += x
    y = y * y.detach()
    y[0] = 0.0
    y.sum().backward()


def seeded(x: Any) -> None:
    seed = x.detach() + 1
    (x * x).backward(seed)


def cleared(x: Any) -> None:
    (x * 2).sum().backward()
    x.grad = None
    (x * 5).sum().backward()


def branched(x: Any) -> None:
    parts = [x[0] * 2, x[1] ** 2]
    (parts[0] * parts[1] + parts[0]).sum().backward()


def mixed(x: Any) -> None:
    (x.half() * 2 + x.double() ** 2).sum().backward()


PROGRAMS = (accumulate, shared, detached, in_place, seeded, cleared, branched, mixed)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_programs(program: Callable[[Any], None]) -> None:
    x = Tensor(X, device="reference").requires_grad_()
    y = torch.tensor(X, requires_grad=True)
    program(x)
    program(y)
    assert x.grad is not None and y.grad is not None and x.grad.dtype is x.dtype
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-3 if program is mixed else 1e-6)


def test_steps_have_gradients_of_zero() -> None:
    for name in ("floor", "ceil", "round", "trunc", "sign"):
        x = Tensor([0.5, -1.5], requires_grad=True)
        getattr(x, name)().sum().backward()
        assert x.grad is not None and x.grad.tolist() == [0.0, 0.0]


def test_no_grad_records_nothing() -> None:
    x = Tensor([1.0], requires_grad=True)
    with no_grad():
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad and not x.detach().requires_grad and not (x > 0).requires_grad


REFUSED: dict[str, Callable[[Any], Any]] = {
    "not-scalar": lambda x: (x * 2).backward(),
    "no-gradient": lambda x: x.detach().sum().backward(),
    "twice-shaped": lambda x: (x * 2).backward(x.detach()[0]),
    "integers": lambda x: x.detach().int().requires_grad_(),
    "leaf-in-place": lambda x: x.__iadd__(1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_those_of_torch(name: str) -> None:
    with pytest.raises(Exception) as caught:
        REFUSED[name](torch.tensor(X, requires_grad=True))
    refuse(lambda x: REFUSED[name](x.requires_grad_()), X, kind=type(caught.value))
