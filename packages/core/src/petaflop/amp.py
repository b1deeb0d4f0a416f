"""Mixed precision: `autocast` narrows the operands of products, `GradScaler` keeps gradients in range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from petaflop.dtype import float32, int32
from petaflop.errors import ArgumentError
from petaflop.optim.base import Optimizer
from petaflop.tensor import Tensor, no_grad
from petaflop.tensor.precision import autocast

__all__ = ["GradScaler", "autocast"]


class GradScaler:
    """Multiplies the loss so that float16 gradients do not vanish; skips steps whose gradients overflowed.

    The scale grows by `growth_factor` after `growth_interval` good steps and shrinks by `backoff_factor`
    after a bad one. Everything stays on the device: no step waits for the host.

    >>> from petaflop.optim import SGD
    >>> weight = Tensor([1.0]).requires_grad_()
    >>> optimizer, scaler = SGD([weight], lr=0.5), GradScaler()
    >>> _ = scaler.scale((weight * 3).sum()).backward()
    >>> scaler.step(optimizer)
    >>> scaler.update()
    >>> weight.tolist()
    [-0.5]
    """

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
        device: str | None = None,
    ) -> None:
        if not (growth_factor > 1 and 0 < backoff_factor < 1):
            raise ArgumentError(
                f"GradScaler: expected growth_factor > 1 and 0 < backoff_factor < 1, "
                f"got {growth_factor}, {backoff_factor}"
            )
        self.growth_factor, self.backoff_factor = growth_factor, backoff_factor
        self.growth_interval, self.enabled = growth_interval, enabled
        self._scale = Tensor(np.asarray(init_scale, np.float32), device=device)
        self._good_steps = Tensor(np.asarray(0, np.int32), device=device)
        self._bad: dict[int, Tensor] = {}

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale; call backward on that."""
        return loss * self._scale.cast(loss.dtype) if self.enabled else loss

    @no_grad()
    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale now, to clip them before `step`."""
        if not self.enabled or id(optimizer) in self._bad:
            return
        inverse = 1.0 / self._scale
        bad = Tensor(False, device=self._scale.device)
        for tensor, grad in _gradients(optimizer):
            bad = bad | ~grad.cast(float32).abs().max().isfinite()
            tensor.grad = (grad.cast(float32) * inverse).cast(grad.dtype)
        self._bad[id(optimizer)] = bad

    def step(self, optimizer: Optimizer) -> None:
        """The optimizer's step; where a gradient is not finite, one that changes nothing."""
        if not self.enabled:
            optimizer.step()
            return
        self.unscale_(optimizer)
        optimizer.step(skip=self._bad[id(optimizer)])

    @no_grad()
    def update(self) -> None:
        """Grow or shrink the scale, by what the steps since the last update met."""
        if not self._bad:
            return
        flags = list(self._bad.values())
        bad = flags[0]
        for flag in flags[1:]:
            bad = bad | flag
        good = self._good_steps + 1
        full = good >= self.growth_interval
        grown = full.where(self._scale * self.growth_factor, self._scale)
        scale = bad.where(self._scale * self.backoff_factor, grown)
        steps = (bad | full).where(Tensor(0, dtype=int32), good)
        self._scale.assign(scale)
        self._good_steps.assign(steps)
        self._bad.clear()
        Tensor.realize(self._scale, self._good_steps)

    def get_scale(self) -> float:
        """The scale now (asks the device)."""
        return float(self._scale.item()) if self.enabled else 1.0

    def state_dict(self) -> dict[str, Any]:
        """The scale and the count of good steps."""
        return {"scale": self._scale, "good_steps": self._good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._scale.assign(state["scale"])
        self._good_steps.assign(state["good_steps"])
        Tensor.realize(self._scale, self._good_steps)


def _gradients(optimizer: Optimizer) -> Iterator[tuple[Tensor, Tensor]]:
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            if tensor.grad is not None:
                yield tensor, tensor.grad.detach()
