"""What optimizers share. A step is one lazy graph over all parameters, realized together in few launches.

The learning rate of a group and the count of steps live on the device: a new rate makes no new kernel, a
replayed step counts on, and a step can be skipped there (mixed precision) without asking the host.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from petaflop.dtype import DType, float32, float64
from petaflop.errors import ArgumentError, ArgumentTypeError, ShapeError
from petaflop.nn.norm import pending_statistics
from petaflop.tensor import Tensor, no_grad
from petaflop.tensor.core import differentiated

__all__ = ["Optimizer", "ParamGroup", "Slot", "State", "working_dtype"]

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Slot:
    """One parameter in a step; value, gradient, rate and count of steps are in the working dtype.

    Nothing changes where `skip` is true; `changed` collects the tensors that are assigned.
    """

    target: Tensor
    value: Tensor
    grad: Tensor
    state: State
    rate: Tensor
    steps: Tensor
    skip: Tensor | None
    changed: list[Tensor]

    def keep(self, name: str, value: Tensor) -> Tensor:
        """Assign a new state, and read it there: so it is computed once, in the parameter's own nest."""
        return self.assign(self.state[name], value).detach()

    def assign(self, target: Tensor, value: Tensor) -> Tensor:
        """`target` with its new value, unless the step is skipped."""
        if self.skip is not None:
            value = self.skip.where(target.detach().cast(value.dtype), value)
        self.changed.append(target)
        return target.assign(value.cast(target.dtype))


class ParamGroup(dict[str, Any]):
    """The parameters that share hyperparameters. Setting `lr` writes it to the device at once."""

    on_device = frozenset(("lr",))  # a captured step goes on with a new rate

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        tensors: list[Tensor] = self["params"]
        self.dtype = float64 if any(tensor.dtype is float64 for tensor in tensors) else float32
        self.rate = Tensor(self._array(self["lr"]), device=tensors[0].device if tensors else None)

    def __deepcopy__(self, memo: dict[int, Any]) -> ParamGroup:
        return ParamGroup({key: copy.deepcopy(value, memo) for key, value in self.items()})

    def _array(self, rate: float) -> np.ndarray[Any, Any]:
        return np.asarray(rate, self.dtype.numpy)

    def __setitem__(self, key: str, value: Any) -> None:
        changed = key == "lr" and float(value) != self["lr"]
        super().__setitem__(key, float(value) if key == "lr" else value)
        if changed:
            self.rate.assign(Tensor(self._array(float(value)), device=self.rate.device)).realize()


class Optimizer:
    """What all optimizers share; a subclass gives `defaults`' values and `_update`.

    `params` is an iterable of tensors that require gradients, or of dicts with "params" and overrides.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        name = type(self).__name__
        if not defaults["lr"] >= 0:
            raise ArgumentError(f"{name}: expected lr >= 0, got {defaults['lr']}")
        listed = list(params)
        if not listed:
            raise ArgumentError(f"{name}: expected at least one parameter, got none")
        self.defaults = defaults
        self.param_groups: list[ParamGroup] = []
        self.state: dict[int, State] = {}
        self._step_counts: dict[int, Tensor] = {}
        groups = listed if isinstance(listed[0], dict) else [{"params": listed}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """More parameters, with hyperparameters of their own where the group names them."""
        name = type(self).__name__
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        known = {id(tensor) for other in self.param_groups for tensor in other["params"]}
        for tensor in params:
            if not isinstance(tensor, Tensor):
                raise ArgumentTypeError(f"{name}: expected Tensors, got {type(tensor).__name__}")
            if not tensor.requires_grad or not tensor.is_leaf:
                raise ArgumentError(f"{name}: expected leaves that require gradients, got {tensor!r}")
            if id(tensor) in known:
                raise ArgumentError(f"{name}: expected each parameter in one group, got {tensor!r} twice")
            known.add(id(tensor))
        added = ParamGroup({**self.defaults, **group, "params": params})
        self.param_groups.append(added)
        self._step_counts[id(added)] = Tensor(np.zeros((), added.dtype.numpy), device=added.rate.device)
        for tensor in params:  # at once, so that the first step can be captured by `jit`
            self.state[id(tensor)] = self._initial(tensor, working_dtype(tensor.dtype), added)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """An optimizer of copies; copy it together with the model: `deepcopy((model, optimizer))`."""
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        owned = ("param_groups", "state", "_step_counts")
        for name, value in vars(self).items():
            if name not in owned:
                setattr(copied, name, copy.deepcopy(value, memo))
        copied.param_groups, copied.state, copied._step_counts = [], {}, {}
        for group in self.param_groups:
            other = copy.deepcopy(group, memo)
            copied.param_groups.append(other)
            copied._step_counts[id(other)] = copy.deepcopy(self._step_counts[id(group)], memo)
            for old, new in zip(group["params"], other["params"], strict=True):
                copied.state[id(new)] = copy.deepcopy(self.state[id(old)], memo)
        return copied

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for tensor in group["params"]:
                tensor.grad = None

    @no_grad()
    def step(self, skip: Tensor | None = None) -> None:
        """Update all parameters that have a gradient; nothing where the bool scalar `skip` is true."""
        # what the step overwrites is still needed by the losses and gradients that nobody has looked at yet
        losses = differentiated()
        grads = [tensor for group in self.param_groups for tensor in gradients_of(group)]
        changed = [tensor for group in self.param_groups for tensor in self._step_group(group, skip)]
        if changed:
            flags = [] if skip is None else [skip]
            # the last layer's gradients first: backward's own order lets go of activations as early as it can
            Tensor.realize(*losses, *reversed(grads), *changed, *flags, *pending_statistics())

    def _step_group(self, group: ParamGroup, skip: Tensor | None) -> list[Tensor]:
        active = [tensor for tensor in group["params"] if tensor.grad is not None]
        if not active:
            return []
        count = self._step_counts[id(group)]
        following = count + 1
        changed: list[Tensor] = []
        for tensor in active:
            dtype = working_dtype(tensor.dtype)
            grad = tensor.grad.detach().cast(dtype)
            if group.get("maximize"):
                grad = -grad
            state = self.state[id(tensor)]
            value = tensor.detach().cast(dtype)
            rate, steps = group.rate.cast(dtype), following.cast(dtype)
            slot = Slot(tensor, value, grad, state, rate, steps, skip, changed)
            slot.assign(tensor, self._update(slot, group))
        slot.assign(count, following)
        return changed

    def _zeros(self, tensor: Tensor, dtype: DType) -> Tensor:
        return Tensor(np.zeros(tensor.shape, dtype.numpy), device=tensor.device)

    def _initial(self, tensor: Tensor, dtype: DType, group: Mapping[str, Any]) -> State:
        """The state that a parameter starts with."""
        return {}

    def _update(self, at: Slot, group: Mapping[str, Any]) -> Tensor:
        """The next value of a parameter; its state goes to `at.keep`."""
        raise NotImplementedError

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Hyperparameters by group and states by parameter number, as PyTorch arranges them.

        The tensors are the optimizer's own, not copies.
        """
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for tensor in group["params"]:
                numbers[id(tensor)] = len(numbers)
            kept = {key: value for key, value in group.items() if key != "params"}
            step = self._step_counts[id(group)]
            groups.append(
                {**kept, "step": step, "params": [numbers[id(tensor)] for tensor in group["params"]]}
            )
        state = {numbers[key]: dict(value) for key, value in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, tensor by tensor, copied."""
        groups = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in groups]
        expected = [len(group["params"]) for group in self.param_groups]
        if sizes != expected:
            raise ArgumentError(f"load_state_dict: expected groups of {expected} parameters, got {sizes}")
        flat = [(tensor, group) for group in self.param_groups for tensor in group["params"]]
        changed: list[Tensor] = []
        for group, saved in zip(self.param_groups, groups, strict=True):
            for key, value in saved.items():
                if key not in ("params", "step"):
                    group[key] = value
            step = self._step_counts[id(group)]
            step.assign(_tensor(saved["step"], step))
            changed.append(step)
        for number, saved in state_dict["state"].items():
            tensor, group = flat[int(number)]
            own = self._initial(tensor, working_dtype(tensor.dtype), group)
            for key, value in saved.items():
                if key not in own or tuple(own[key].shape) != tuple(value.shape):
                    raise ShapeError(
                        f"load_state_dict: parameter {number}: unexpected {key} {list(value.shape)}"
                    )
                own[key].assign(_tensor(value, own[key]))
                changed.append(own[key])
            self.state[id(tensor)] = own
        Tensor.realize(*changed)


def gradients_of(group: Mapping[str, Any]) -> list[Tensor]:
    """The gradients of a group's parameters that have one."""
    return [tensor.grad for tensor in group["params"] if tensor.grad is not None]


def _tensor(value: Any, like: Tensor) -> Tensor:
    source = value.detach() if isinstance(value, Tensor) else Tensor(np.asarray(value), device=like.device)
    return source.to(like.device, like.dtype)


def working_dtype(dtype: DType) -> DType:
    return float32 if dtype.itemsize < 4 else dtype
