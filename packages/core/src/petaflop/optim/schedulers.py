"""Learning-rate schedulers with the names and numbers of PyTorch; `step()`, once an epoch, sets the rates."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from petaflop.errors import ArgumentError
from petaflop.optim.base import Optimizer

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "Scheduler",
    "SequentialLR",
    "StepLR",
]


class Scheduler:
    """Sets each group's rate to `factor(step)` times the rate that the group began with.

    A subclass gives `factor`, or `rate` where the new rate is no multiple of the first one.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = optimizer
        self.last_epoch = last_epoch
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.step()

    def factor(self, step: int) -> float:
        """The multiple of the first rate after `step` steps."""
        raise NotImplementedError(f"{type(self).__name__}: factor")

    def rate(self, base: float, step: int) -> float:
        """The rate of a group that began with `base` after `step` steps."""
        return base * self.factor(step)

    def step(self) -> None:
        """One step further."""
        self.last_epoch += 1
        self._apply()

    def _apply(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.rate(base, self.last_epoch)

    def get_last_lr(self) -> list[float]:
        """The rates of the groups now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        return {key: value for key, value in vars(self).items() if _plain(value)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        vars(self).update(state)
        if self.last_epoch >= 0:
            self._apply()


def _plain(value: Any) -> bool:
    return isinstance(value, (int, float, str, list, tuple)) or value is None


class LambdaLR(Scheduler):
    """`function(step)` times the first rate; a list has one function for each group."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]
    ) -> None:
        count = len(optimizer.param_groups)
        self._functions = [lr_lambda] * count if callable(lr_lambda) else list(lr_lambda)
        if len(self._functions) != count:
            raise ArgumentError(f"LambdaLR: expected {count} functions, got {len(self._functions)}")
        super().__init__(optimizer)

    def _apply(self) -> None:
        for group, base, function in zip(
            self.optimizer.param_groups, self.base_lrs, self._functions, strict=True
        ):
            group["lr"] = base * function(self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The step; functions are not saved."""
        return {"last_epoch": self.last_epoch, "base_lrs": self.base_lrs}


class StepLR(Scheduler):
    """Times gamma every `step_size` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.gamma ** (step // self.step_size)


class MultiStepLR(Scheduler):
    """Times gamma at each milestone."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.gamma ** bisect_right(self.milestones, step)


class ExponentialLR(Scheduler):
    """Times gamma every step."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.gamma**step


class ConstantLR(Scheduler):
    """Times `factor` for the first `total_iters` steps."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5) -> None:
        self.start_factor, self.total_iters = factor, total_iters
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.start_factor if step < self.total_iters else 1.0


class LinearLR(Scheduler):
    """A line from `start_factor` to `end_factor` over `total_iters` steps: a warm-up."""

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:
        if not 0 < start_factor <= 1 or not 0 <= end_factor <= 1:
            raise ArgumentError(f"LinearLR: expected factors up to 1, got {start_factor}, {end_factor}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        done = min(step, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * done


class PolynomialLR(Scheduler):
    """(1 − step/total_iters) to a power."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0) -> None:
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return (1 - min(step, self.total_iters) / self.total_iters) ** self.power


class CosineAnnealingLR(Scheduler):
    """Half a cosine from the first rate to `eta_min` over T_max steps, and on."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, base: float, step: int) -> float:
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * step / self.T_max)) / 2


class OneCycleLR(Scheduler):
    """Up from max_lr/div_factor to max_lr, then down to a fraction, over `total_steps` (or epochs · steps).

    Momentum is not cycled.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ArgumentError(
                    "OneCycleLR: expected total_steps, or epochs and steps_per_epoch, got neither"
                )
            total_steps = epochs * steps_per_epoch
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError(
                f"OneCycleLR: expected anneal_strategy cos or linear, got {anneal_strategy!r}"
            )
        self.total_steps, self.pct_start, self.anneal_strategy = total_steps, pct_start, anneal_strategy
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        count = len(optimizer.param_groups)
        self.max_lrs = [float(max_lr)] * count if isinstance(max_lr, (int, float)) else list(max_lr)
        for group, peak in zip(optimizer.param_groups, self.max_lrs, strict=True):
            group["initial_lr"] = peak / div_factor
        super().__init__(optimizer)

    def rate(self, base: float, step: int) -> float:
        if step >= self.total_steps:
            raise ArgumentError(f"OneCycleLR: expected at most {self.total_steps} steps, got {step + 1}")
        top, peak = self.pct_start * self.total_steps - 1, base * self.div_factor
        if step <= top:
            return self._between(base, peak, step / top)
        end = base / self.final_div_factor
        return self._between(peak, end, (step - top) / (self.total_steps - 1 - top))

    def _between(self, start: float, end: float, done: float) -> float:
        if self.anneal_strategy == "linear":
            return start + (end - start) * done
        return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


class SequentialLR:
    """Schedulers one after the other: the next one starts, at its own step 0, at each milestone."""

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[Scheduler], milestones: Sequence[int]
    ) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise ArgumentError(
                f"SequentialLR: expected {len(schedulers) - 1} milestones, got {len(milestones)}"
            )
        self.optimizer, self.schedulers, self.milestones = optimizer, list(schedulers), list(milestones)
        self.last_epoch = 0
        self._place()

    def _place(self) -> None:
        active = bisect_right(self.milestones, self.last_epoch)
        scheduler = self.schedulers[active]
        scheduler.last_epoch = self.last_epoch - (self.milestones[active - 1] if active else 0)
        scheduler._apply()

    def step(self) -> None:
        """One step further."""
        self.last_epoch += 1
        self._place()

    def get_last_lr(self) -> list[float]:
        """The rates of the groups now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The step, and the states of the schedulers."""
        return {"last_epoch": self.last_epoch, "schedulers": [part.state_dict() for part in self.schedulers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            vars(scheduler).update(saved)
        self.last_epoch = state["last_epoch"]
        self._place()


class ReduceLROnPlateau:
    """Times `factor` when a metric has not improved for more than `patience` steps: `step(metric)`."""

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs") or factor >= 1:
            raise ArgumentError(
                f"ReduceLROnPlateau: expected mode min or max, threshold_mode rel or abs and factor < 1, "
                f"got {mode!r}, {threshold_mode!r}, {factor}"
            )
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.min_lr, self.eps = cooldown, min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad_steps = self.waiting = 0
        self.last_epoch = 0

    def step(self, metric: float) -> None:
        """Take in the metric of this step."""
        self.last_epoch += 1
        if self._improved(float(metric)):
            self.best, self.bad_steps = float(metric), 0
        else:
            self.bad_steps += 1
        if self.waiting > 0:
            self.waiting, self.bad_steps = self.waiting - 1, 0
        if self.bad_steps > self.patience:
            for group in self.optimizer.param_groups:
                rate = max(group["lr"] * self.factor, self.min_lr)
                if group["lr"] - rate > self.eps:
                    group["lr"] = rate
            self.waiting, self.bad_steps = self.cooldown, 0

    def _improved(self, metric: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "abs":
            return sign * metric > sign * self.best + self.threshold
        return sign * metric > sign * self.best * (1 + sign * self.threshold)

    def get_last_lr(self) -> list[float]:
        """The rates of the groups now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs."""
        return {key: value for key, value in vars(self).items() if _plain(value)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        vars(self).update(state)
