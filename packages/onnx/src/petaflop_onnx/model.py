"""A loaded model: call it with arrays by input name, get Tensors by output name.

What depends on no input is computed once, when the model is loaded. The rest is captured by `petaflop.jit`
at the first call with new shapes; inputs that decide shapes are part of that signature by value. Later
calls replay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from petaflop import Tensor
from petaflop.jit import jit
from petaflop.plugin_api import TensorSpec, check_inputs
from petaflop_onnx.execute import Constant, Execution, Value
from petaflop_onnx.graph import Graph, Step, build
from petaflop_onnx.host import LARGEST_FOLD
from petaflop_onnx.reading import printable, read_model
from petaflop_onnx.values import to_tensor

__all__ = ["Model", "load"]

_CAPTURES = 64  # kept per model: one for each set of shapes-deciding values


def load(path: str | Path, device: str | None = None) -> Model:
    """Read an ONNX file into a Model on `device` (the default device if None).

    >>> model = load("model.onnx")
    >>> outputs = model({"x": np.zeros((1, 3, 224, 224), np.float32)})

    Raises FileFormatError, naming file and field, for a file that is no valid model or uses what is not
    supported; all unsupported operators are listed in one error.
    """
    path = Path(path)
    return Model(build(path, read_model(path)), device)


class Model:
    """A graph ready to run. `inputs` and `outputs` describe what it takes and gives, in order."""

    def __init__(self, graph: Graph, device: str | None = None) -> None:
        self.inputs: tuple[TensorSpec, ...] = graph.inputs
        self.outputs: tuple[TensorSpec, ...] = graph.outputs
        self._path, self._device = graph.path, device
        constants: dict[str, Value | None] = {
            name: Constant(array, device) for name, array in graph.constants.items()
        }
        self._steps = _needed(graph)
        self._known = _bake(self._path, self._steps, constants, device)
        self._steps = tuple(step for step in self._steps if not _is_known(step, self._known))
        self._by_value = _shape_inputs(graph, self._steps)
        self._captures: OrderedDict[tuple[Any, ...], Callable[..., tuple[Tensor, ...]]] = OrderedDict()

    def __repr__(self) -> str:
        inputs, outputs = ", ".join(map(str, self.inputs)), ", ".join(map(str, self.outputs))
        return f"<Model {printable(self._path.name)}: ({inputs}) → ({outputs})>"

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run on arrays or Tensors with the names, dtypes and shapes of `inputs`; else ArgumentError."""
        check_inputs(self.inputs, inputs, self._path.name)
        fixed = {name: _host(inputs[name]) for name in self._by_value}
        key = tuple((name, array.shape, array.tobytes()) for name, array in fixed.items())
        run = self._captures.get(key)
        if run is None:
            run = self._captures[key] = jit(self._tracer(fixed))
            if len(self._captures) > _CAPTURES:
                self._captures.popitem(last=False)
        self._captures.move_to_end(key)
        tensors = [self._tensor(inputs[spec.name]) for spec in self.inputs if spec.name not in fixed]
        return dict(zip((spec.name for spec in self.outputs), run(*tensors), strict=True))

    def _tensor(self, array: Any) -> Tensor:
        return array if isinstance(array, Tensor) else Tensor(array, device=self._device)

    def _tracer(self, fixed: Mapping[str, np.ndarray[Any, Any]]) -> Callable[..., tuple[Tensor, ...]]:
        """The steps as a function of tensors. It reads nothing of the model, which changes with every capture
        that it keeps: jit would capture anew."""
        names = [spec.name for spec in self.inputs if spec.name not in fixed]
        results = [spec.name for spec in self.outputs]
        path, device, steps, known = self._path, self._device, self._steps, self._known

        def trace(*tensors: Tensor) -> tuple[Tensor, ...]:
            values = dict(known)
            values.update((name, Constant(array, device)) for name, array in fixed.items())
            values.update(zip(names, tensors, strict=True))
            Execution(path, device).run(steps, values)
            return tuple(to_tensor(values[name]) for name in results)

        return trace


def _host(value: Any) -> np.ndarray[Any, Any]:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)


def _needed(graph: Graph) -> tuple[Step, ...]:
    """The steps that some output depends on."""
    wanted = {spec.name for spec in graph.outputs}
    kept: list[Step] = []
    for step in reversed(graph.steps):
        if wanted.intersection(step.outputs):
            kept.append(step)
            wanted.update(step.inputs)
    return tuple(reversed(kept))


def _is_known(step: Step, known: Mapping[str, Value | None]) -> bool:
    return all(name in known for name in step.outputs)


def _bake(
    path: Path, steps: tuple[Step, ...], values: dict[str, Value | None], device: str | None
) -> dict[str, Value | None]:
    """Run what depends on no input and keep what the other steps and the outputs may read."""
    values[""] = None
    constant: list[Step] = []
    made: set[str] = set()
    for step in steps:
        if all(name in values or name in made for name in step.inputs):
            constant.append(step)
            made.update(step.outputs)
    if constant:
        Execution(path, device, may_read=True).run(constant, values)
        tensors = [value for value in values.values() if isinstance(value, Tensor)]
        if tensors:
            Tensor.realize(*tensors)
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dtype.kind in "biu" and int(value.numel()) <= LARGEST_FOLD:
                values[name] = Constant(value.numpy(), device)
    return values


def _shape_inputs(graph: Graph, steps: tuple[Step, ...]) -> tuple[str, ...]:
    """Inputs whose values decide shapes: those that reach a `host` position other than through a Shape."""
    wanted: set[str] = set()
    for step in reversed(steps):
        if wanted.intersection(step.outputs) and step.row.name not in ("Shape", "Size"):
            wanted.update(step.inputs)
        wanted.update(name for position, name in enumerate(step.inputs) if position in step.row.host)
    return tuple(spec.name for spec in graph.inputs if spec.name in wanted)
