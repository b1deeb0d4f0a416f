"""A loaded model: call it with arrays by input name, get Tensors by output name.

What depends on no input is computed once, when the model is loaded. The rest is captured by `petaflop.jit`:
with plain sizes at the first call, with sizes that vary once a call has shown which do (dynamic.py); inputs
that decide shapes are part of that signature by value. Later calls replay. A graph whose shapes or branches
depend on what its kernels compute runs step by step.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petaflop import Tensor
from petaflop.errors import ArgumentError
from petaflop.jit import jit
from petaflop.plugin_api import check_inputs, config
from petaflop.recording import is_recording
from petaflop_onnx.body import Body, Step
from petaflop_onnx.dynamic import Dimensions
from petaflop_onnx.execute import Execution, Fates
from petaflop_onnx.graph import Graph, build
from petaflop_onnx.host import LARGEST_FOLD
from petaflop_onnx.narrow import Narrow, is_narrow, storage
from petaflop_onnx.reading import printable, read_model
from petaflop_onnx.values import Constant, NeedsValue, Value, ValueSpec, to_tensor

__all__ = ["Model", "load"]

_CAPTURES = 64  # kept per model: one for each set of shapes-deciding values
_SPATIAL = frozenset({"convolution", "pooling", "recurrent", "resize", "sampling", "signal"})
_LARGEST_BY_VALUE = 64  # elements of an input that may be part of a signature by value


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
        self.inputs: tuple[ValueSpec, ...] = graph.inputs
        self.outputs: tuple[ValueSpec, ...] = graph.outputs
        self._path, self._device = graph.path, device
        self._steps = _needed(graph.steps, [spec.name for spec in graph.outputs])
        self._fates = Fates()
        known: dict[str, Value] = {name: Constant(array, device) for name, array in graph.constants.items()}
        self._rest = _bake(self._path, self._steps, known, device, self._fates)
        self._known = known
        forms = {spec.form for spec in (*self.inputs, *self.outputs)}
        self._stepwise = forms != {""} or any(spec.optional for spec in self.inputs)
        wanted = wanted_by_value(self._rest)
        self._by_value = [spec.name for spec in self.inputs if spec.name in wanted and not self._stepwise]
        self._runs: OrderedDict[tuple[Any, ...], _Run] = OrderedDict()

    def __repr__(self) -> str:
        inputs, outputs = ", ".join(map(str, self.inputs)), ", ".join(map(str, self.outputs))
        return f"<Model {printable(self._path.name)}: ({inputs}) → ({outputs})>"

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run on arrays or Tensors with the names, dtypes and shapes of `inputs`; else ArgumentError.

        Outputs are Tensors; a sequence is a list of them, text an array of objects, a type that
        kernels lack (int4, float8e8m0) an ml_dtypes array, an empty optional None.
        """
        self._check(inputs)
        fixed = {name: _host(inputs[name]) for name in self._by_value if _is_small(inputs[name])}
        key = tuple((name, array.shape, array.tobytes()) for name, array in fixed.items())
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = self._run(fixed)
            if len(self._runs) > _CAPTURES:
                self._runs.popitem(last=False)
        self._runs.move_to_end(key)
        return run({name: self._value(inputs.get(name)) for name in run.names})

    def explain(self) -> list[tuple[str, str, str]]:
        """What became of each node: (name, operator, fate). Those that no run has reached yet are "not run".

        Fates: folded (computed when the model was loaded), host (shape arithmetic, text), kernel, inlined (a
        function's body ran), control (a branch or loop).
        """
        return [
            (
                step.call.name,
                f"{step.row.name}-{step.row.since}",
                self._fates.by_step.get(id(step), "not run"),
            )
            for step in self._steps
        ]

    def _check(self, inputs: Mapping[str, Any]) -> None:
        others = {spec.name: spec for spec in self.inputs if spec.form or spec.optional}
        plain = [spec for spec in self.inputs if spec.name not in others]
        tensors = {name: value for name, value in inputs.items() if name not in others}
        check_inputs(plain, tensors, self._path.name)
        for name, spec in others.items():
            value = inputs.get(name)
            if value is None and not spec.optional:
                raise ArgumentError(f"{self._path.name}: input {name}: expected {spec.form}, got nothing")
            if value is not None and isinstance(value, list) != (spec.form == "sequence"):
                got = "a list" if isinstance(value, list) else "a tensor"
                raise ArgumentError(f"{self._path.name}: input {name}: expected {spec.form}, got {got}")

    def _value(self, given: Any) -> Value:
        if isinstance(given, list):
            return [self._value(item) for item in given]
        if given is None or isinstance(given, Tensor):
            return given
        array = np.asarray(given)
        if array.dtype.kind in "OSU":
            texts = array.astype(object)
            if not all(isinstance(text, str) for text in texts.ravel()):
                raise ArgumentError(f"{self._path.name}: expected Python strings where the model takes text")
            return Constant(texts, self._device)
        if is_narrow(array.dtype):
            return storage(array, self._device)
        return Tensor(array, device=self._device)

    def _run(self, fixed: Mapping[str, np.ndarray[Any, Any]]) -> _Run:
        """How the model runs where these inputs have these values."""
        known, steps = dict(self._known), self._rest
        if fixed:
            known.update((name, Constant(array, self._device)) for name, array in fixed.items())
            steps = _bake(self._path, steps, known, self._device, self._fates)
        rest = [spec for spec in self.inputs if spec.name not in fixed]
        names, results = [spec.name for spec in rest], [spec.name for spec in self.outputs]
        as_numbers = self._stepwise or not _may_vary(rest) or any(map(_is_spatial, steps))
        dimensions = None if as_numbers else Dimensions(rest)
        return _Run(
            self._path, self._device, steps, known, names, results, self._stepwise, self._fates, dimensions
        )


class _Run:
    """Steps as a function of the inputs `names`: one capture for each signature, or step by step."""

    def __init__(
        self,
        path: Path,
        device: str | None,
        steps: tuple[Step, ...],
        known: Mapping[str, Value],
        names: Sequence[str],
        results: Sequence[str],
        stepwise: bool,
        fates: Fates,
        dimensions: Dimensions | None,
    ) -> None:
        self.names, self._results, self._stepwise = names, results, stepwise
        self._dimensions = dimensions

        def run(given: Iterable[Value], may_read: bool) -> list[Value]:
            values = dict(known)
            values.update(zip(names, given, strict=True))
            Execution(path, device, may_read, fates).run(steps, values)
            return [values[name] for name in results]

        # Neither reads anything of the model, which changes with every capture: jit would capture anew.
        self._evaluate = run
        self._captured = jit(_capturable(run))

    def __call__(self, inputs: Mapping[str, Value]) -> dict[str, Any]:
        given = [inputs[name] for name in self.names]
        if not self._stepwise:
            try:
                return dict(zip(self._results, self._replayed(given), strict=True))
            except NeedsValue:
                self._stepwise = True
        outputs = [_result(value) for value in self._evaluate(given, True)]
        lazy = list(_tensors(outputs))
        if lazy:
            Tensor.realize(*lazy)
        return dict(zip(self._results, outputs, strict=True))

    def _replayed(self, given: Sequence[Any]) -> Iterable[Any]:
        if self._dimensions is None or is_recording() or config.check:  # a check may run without a capture
            return self._captured(*given)
        return self._dimensions.run(self._captured, given)


def _capturable(run: Callable[[Iterable[Value], bool], list[Value]]) -> Callable[..., tuple[Tensor, ...]]:
    def trace(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(to_tensor(value) for value in run(tensors, False))

    return trace


def _result(value: Value) -> Any:
    """What the caller sees: text and narrow types as arrays, all else as Tensors."""
    if isinstance(value, list):
        return [_result(item) for item in value]
    if isinstance(value, Constant):
        plain = value.array.dtype.kind != "O" and not is_narrow(value.array.dtype)
        return value.tensor if plain else value.array
    return value.numpy() if isinstance(value, Narrow) else value


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, list):
            yield from _tensors(value)
        elif isinstance(value, (Tensor, Narrow)):
            yield value.tensor if isinstance(value, Narrow) else value


def _is_small(value: Any) -> bool:
    return len(value.shape) <= 1 and sum(value.shape) <= _LARGEST_BY_VALUE


def _host(value: Any) -> np.ndarray[Any, Any]:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)


def _is_spatial(step: Step) -> bool:
    """Whether a step's plan wants numbers: windows over an image, a step of code for each time."""
    kind = step.row.handler.__module__.rpartition(".")[2]
    inside = (inner for body in step.bodies.values() for inner in body.steps)
    return kind in _SPATIAL or "Conv" in step.row.name or any(map(_is_spatial, inside))


def _may_vary(specs: Sequence[ValueSpec]) -> bool:
    """Whether sizes of these inputs may differ from call to call, at ranks that do not."""
    ranked = all(spec.shape is not None for spec in specs)
    return ranked and any(not isinstance(size, int) for spec in specs for size in spec.shape or ())


def _needed(steps: Sequence[Step], outputs: Iterable[str]) -> tuple[Step, ...]:
    """The steps that some output depends on."""
    wanted = set(outputs)
    kept: list[Step] = []
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            kept.append(step)
            wanted.update(step.reads)
    return tuple(reversed(kept))


def _bake(
    path: Path,
    steps: tuple[Step, ...],
    values: dict[str, Value],
    device: str | None,
    fates: Fates,
) -> tuple[Step, ...]:
    """Run what `values` are enough for, add what it makes to them, and return the other steps."""
    values[""] = None
    constant: list[Step] = []
    rest: list[Step] = []
    made: set[str] = set()
    for step in steps:
        known = all(name in values or name in made for name in step.reads)
        if known and not _stays_packed(step):
            constant.append(step)
            made.update(step.outputs)
        else:
            rest.append(step)
    if constant:
        for step in constant:
            fates.note(step, "folded")
        Execution(path, device, True, fates).run(constant, values)
        tensors = list(_tensors(values.values()))
        if tensors:
            Tensor.realize(*tensors)
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dtype.kind in "biu" and int(value.numel()) <= LARGEST_FOLD:
                values[name] = Constant(value.numpy(), device)
    return tuple(rest)


def _stays_packed(step: Step) -> bool:
    """Whether a step only unfolds weights: in blocks they are made for products, which read them packed."""
    return step.row.name == "DequantizeLinear" and bool(step.call.get("block_size"))


def wanted_by_value(steps: Sequence[Step]) -> set[str]:
    """Names whose values decide shapes or branches: those that reach a `host` position, other than through a
    Shape."""
    wanted: set[str] = set()
    for step in reversed(steps):
        if wanted.intersection(step.outputs) and step.row.name not in ("Shape", "Size"):
            wanted.update(step.reads)
        wanted.update(name for position, name in enumerate(step.inputs) if position in step.row.host)
        for body in step.bodies.values():
            wanted.update(_wanted_of_body(step, body))
    return wanted


def _wanted_of_body(step: Step, body: Body) -> set[str]:
    """The same within a body, as names of the graph around it; the body's inputs are the step's in order."""
    inside = wanted_by_value(body.steps)
    outside = set(body.captured & inside)
    own = zip(body.inputs, step.inputs, strict=False)
    return outside | {given for name, given in own if name in inside and given}
