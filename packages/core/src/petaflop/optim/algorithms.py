"""The optimizers: each is what one step makes of a parameter, its gradient and its state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from petaflop.dtype import DType
from petaflop.errors import ArgumentError, ShapeError
from petaflop.optim.base import Optimizer, Slot, State
from petaflop.tensor import Tensor

__all__ = ["LAMB", "SGD", "Adam", "AdamW", "Muon", "orthogonalized"]


def _complement(beta: float, steps: Tensor) -> Tensor:
    """1 − betaᵗ without cancellation: −expm1(t·ln beta)."""
    return -(steps * math.log(beta)).expm1() if beta > 0 else steps * 0 + 1


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov's momentum and weight decay, as in PyTorch.

    >>> weight = Tensor([1.0]).requires_grad_()
    >>> _ = (weight * 3).sum().backward()
    >>> SGD([weight], lr=0.5).step()
    >>> weight.tolist()
    [-0.5]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ArgumentError(
                f"SGD: expected momentum > 0 and dampening 0 with nesterov, got {momentum}, {dampening}"
            )
        values = {"momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {"lr": lr, **values, "nesterov": nesterov, "maximize": maximize})

    def _initial(self, tensor: Tensor, dtype: DType, group: Mapping[str, Any]) -> State:
        return {"momentum_buffer": self._zeros(tensor, dtype)} if group["momentum"] else {}

    def _update(self, at: Slot, group: Mapping[str, Any]) -> Tensor:
        value, grad = at.value, at.grad
        if group["weight_decay"]:
            grad = grad + value * group["weight_decay"]
        if not group["momentum"]:
            return value - at.rate * grad
        fresh = grad
        if group["dampening"]:
            first = (at.steps == 1).cast(grad.dtype)  # the buffer starts as the first gradient, undamped
            fresh = grad * (first * group["dampening"] + (1 - group["dampening"]))
        buffer = at.keep("momentum_buffer", at.state["momentum_buffer"] * group["momentum"] + fresh)
        update = grad + buffer * group["momentum"] if group["nesterov"] else buffer
        return value - at.rate * update


class Adam(Optimizer):
    """Adam; `weight_decay` is added to the gradient (L2), or applied to the weights if `decoupled`.

    >>> weight = Tensor([1.0]).requires_grad_()
    >>> _ = (weight * 3).sum().backward()
    >>> Adam([weight], lr=0.5).step()
    >>> round(weight.item(), 4)
    0.5
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ArgumentError(f"{type(self).__name__}: expected 0 <= betas < 1, got {betas}")
        values = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {"lr": lr, **values, "amsgrad": amsgrad, "maximize": maximize})

    def _initial(self, tensor: Tensor, dtype: DType, group: Mapping[str, Any]) -> State:
        state = {"exp_avg": self._zeros(tensor, dtype), "exp_avg_sq": self._zeros(tensor, dtype)}
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = self._zeros(tensor, dtype)
        return state

    def _moments(self, at: Slot, grad: Tensor, group: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        beta1, beta2 = group["betas"]
        before = at.state["exp_avg"]
        first = at.keep("exp_avg", before + (grad - before) * (1 - beta1))
        second = at.keep("exp_avg_sq", at.state["exp_avg_sq"] * beta2 + grad * grad * (1 - beta2))
        return first, second

    def _update(self, at: Slot, group: Mapping[str, Any]) -> Tensor:
        value, grad = at.value, at.grad
        if group["weight_decay"] and self.decoupled:
            value = value * (1 - at.rate * group["weight_decay"])
        elif group["weight_decay"]:
            grad = grad + value * group["weight_decay"]
        first, second = self._moments(at, grad, group)
        if group["amsgrad"]:
            second = at.keep("max_exp_avg_sq", at.state["max_exp_avg_sq"].maximum(second))
        beta1, beta2 = group["betas"]
        scale = second.sqrt() / _complement(beta2, at.steps).sqrt() + group["eps"]
        return value - at.rate / _complement(beta1, at.steps) * (first / scale)


class AdamW(Adam):
    """Adam with decoupled weight decay, 0.01 by default."""

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize)


class LAMB(Adam):
    """Adam whose update of each tensor is scaled to the norm of the tensor, for large batches."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def _update(self, at: Slot, group: Mapping[str, Any]) -> Tensor:
        value, grad = at.value, at.grad
        first, second = self._moments(at, grad, group)
        beta1, beta2 = group["betas"]
        scale = (second / _complement(beta2, at.steps)).sqrt() + group["eps"]
        update = first / _complement(beta1, at.steps) / scale + value * group["weight_decay"]
        weight_norm, update_norm = value.square().sum().sqrt(), update.square().sum().sqrt()
        trust = ((weight_norm > 0) & (update_norm > 0)).where(weight_norm / update_norm, weight_norm * 0 + 1)
        return value - at.rate * trust * update


class Muon(Optimizer):
    """Momentum whose update is orthogonalised by five Newton–Schulz steps; for matrices only, as in PyTorch.

    The products run in the working dtype (float32); PyTorch's run in bfloat16.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
    ) -> None:
        values = {"weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
        polynomial = {"ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps}
        super().__init__(params, {"lr": lr, **values, **polynomial})
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.ndim != 2:
                    raise ShapeError(
                        f"Muon: expected matrices, got {list(tensor.shape)}; use AdamW for the others"
                    )

    def _initial(self, tensor: Tensor, dtype: DType, group: Mapping[str, Any]) -> State:
        return {"momentum_buffer": self._zeros(tensor, dtype)}

    def _update(self, at: Slot, group: Mapping[str, Any]) -> Tensor:
        value, grad = at.value, at.grad
        momentum = group["momentum"]
        before = at.state["momentum_buffer"]
        buffer = at.keep("momentum_buffer", before + (grad - before) * (1 - momentum))
        update = grad + (buffer - grad) * momentum if group["nesterov"] else buffer
        update = orthogonalized(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = (int(size) for size in at.target.shape)
        scaled = at.rate * math.sqrt(max(1.0, rows / columns))
        decayed = value * (1 - at.rate * group["weight_decay"])
        return decayed - scaled * update


def orthogonalized(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """A matrix with the singular vectors of `matrix` and singular values near 1."""
    a, b, c = coefficients
    rows, columns = (int(size) for size in matrix.shape)
    wide = rows <= columns
    x = matrix if wide else matrix.transpose(0, 1)
    x = x / x.square().sum().sqrt().maximum(eps)
    for _ in range(steps):
        gram = x.matmul(x.transpose(0, 1))
        x = x * a + (gram * b + gram.matmul(gram) * c).matmul(x)
    return x if wide else x.transpose(0, 1)
