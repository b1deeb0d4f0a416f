"""ONNX's training domain: gradients, and one step of an optimizer for any number of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from petaflop import Tensor
from petaflop_onnx.table import Call, operator
from petaflop_onnx.values import Value, to_tensor

if TYPE_CHECKING:
    from petaflop_onnx.body import Step
    from petaflop_onnx.execute import Execution

_DOMAIN = "ai.onnx.preview.training"


def _groups(tensors: tuple[Tensor, ...], parts: int) -> list[tuple[Tensor, ...]]:
    """(values, gradients, states…) of each tensor; they come as all values, all gradients, and so on."""
    count = len(tensors) // parts
    if count * parts != len(tensors):
        raise ValueError(f"inputs: expected {parts} for each tensor, got {len(tensors)}")
    return [tuple(tensors[k + part * count] for part in range(parts)) for k in range(count)]


def _results(groups: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(group[part] for part in range(len(groups[0])) for group in groups)


@operator("Momentum", 1, domain=_DOMAIN)
def _momentum(call: Call, rate: Tensor, step: Tensor, *tensors: Tensor) -> Any:
    alpha = call["alpha"]
    fresh = (step > 0).where(call["beta"], 1.0)
    results = []
    for x, gradient, velocity in _groups(tensors, 3):
        slope = x * call["norm_coefficient"] + gradient
        velocity = velocity * alpha + slope * fresh.cast(x.dtype)
        move = slope + velocity * alpha if call["mode"] == "nesterov" else velocity
        results.append((x - rate.cast(x.dtype) * move, velocity))
    return _results(results)


@operator("Adagrad", 1, domain=_DOMAIN)
def _adagrad(call: Call, rate: Tensor, step: Tensor, *tensors: Tensor) -> Any:
    results = []
    for x, gradient, total in _groups(tensors, 3):
        now = rate / (step.cast(rate.dtype) * call["decay_factor"] + 1)
        slope = x * call["norm_coefficient"] + gradient
        total = total + slope * slope
        results.append((x - now.cast(x.dtype) * slope / (total.sqrt() + call["epsilon"]), total))
    return _results(results)


@operator("Adam", 1, domain=_DOMAIN)
def _adam(call: Call, rate: Tensor, step: Tensor, *tensors: Tensor) -> Any:
    alpha, beta = call["alpha"], call["beta"]
    results = []
    for x, gradient, first, second in _groups(tensors, 4):
        slope = x * call["norm_coefficient"] + gradient
        first = first * alpha + slope * (1 - alpha)
        second = second * beta + slope * slope * (1 - beta)
        time = step.cast(x.dtype)
        one = Tensor.ones_like(time)
        corrected = (1 - (one * beta).pow(time)).sqrt() / (1 - (one * alpha).pow(time))
        now = rate.cast(x.dtype) * (time > 0).where(corrected, 1.0)
        moved = x - now * first / (second.sqrt() + call["epsilon"])
        results.append((moved * (1 - call["norm_coefficient_post"]), first, second))
    return _results(results)


@operator("Gradient", 1, domain=_DOMAIN, control=True, named=("xs", "y"))
def _gradient(
    execution: Execution, step: Step, inputs: Sequence[Value], values: Mapping[str, Value]
) -> list[Tensor]:
    """How the value named y changes with those named xs, which the inputs must be: ours differentiates a
    graph where it was computed."""
    xs = [values[name] for name in step.call["xs"]]
    if any(given is not x for given, x in zip(inputs, xs, strict=False)):
        raise ValueError("Inputs: expected the values that xs names, got others (not supported)")
    return to_tensor(values[step.call["y"]]).gradient(*map(to_tensor, xs))
