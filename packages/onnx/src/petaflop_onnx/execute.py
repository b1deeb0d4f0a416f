"""Runs steps. Steps whose inputs are all small integer Constants fold on the host, the others become Tensor
code. Within a capture nothing may be read: a step that must know what kernels compute raises NeedsValue, and
the model runs step by step instead.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from petaflop import Tensor
from petaflop.errors import DeviceError, FileFormatError, NumericsError, PetaflopError, building
from petaflop_onnx.body import Body, Step
from petaflop_onnx.formals import check_types
from petaflop_onnx.host import FOLD, LARGEST_FLOATS, LARGEST_FOLD, TooLarge
from petaflop_onnx.narrow import Format, Narrow
from petaflop_onnx.reading import fault, printable
from petaflop_onnx.sizes import FOLD_SIZES, NeedsBound, NeedsNumber, Sizes, plain, varies
from petaflop_onnx.table import Call
from petaflop_onnx.tensors import DTYPES
from petaflop_onnx.values import Constant, NeedsValue, Value, shape_of_value, to_narrow, to_tensor, type_text

__all__ = ["Execution", "Fates"]

_MOVES = frozenset(
    ["Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Reshape", "Slice", "Split"]
    + ["Squeeze", "Tile", "Transpose", "Unsqueeze"]
)
_MOST_STEPS = 10_000_000  # of one run: what loops unroll to


def _memory_limit() -> int:
    """The bytes of the machine: no single value of a graph may claim more."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 34


_LIMIT = _memory_limit()
# What handlers raise for attributes or shapes that a file got wrong; a device's own failures pass unchanged.
_FILE_FAULTS = (PetaflopError, ValueError, TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError)


class Fates:
    """What became of each step, for `--explain`: by its identity, the first time that it ran."""

    petaflop_guarded = ()  # notes, not what a capture depends on

    def __init__(self) -> None:
        self.by_step: dict[int, str] = {}

    def note(self, step: Step, fate: str) -> None:
        self.by_step.setdefault(id(step), fate)


class Execution:
    """One pass over steps; with `may_read`, outside a capture, values that kernels compute may be read."""

    def __init__(
        self,
        path: Path,
        device: str | None,
        may_read: bool = False,
        fates: Fates | None = None,
    ) -> None:
        self.path, self.device, self.may_read = path, device, may_read
        self.fates = fates or Fates()
        self._constants: dict[int, dict[str, Value]] = {}
        self._count = 0

    def run(self, steps: Iterable[Step], values: dict[str, Value]) -> None:
        """Run `steps`, adding what they make to `values`."""
        values[""] = None
        for step in steps:
            self._count += 1
            inputs = [values[name] for name in step.inputs]
            try:
                if self._count > _MOST_STEPS:
                    raise ValueError(f"expected at most {_MOST_STEPS} steps in one run, got a loop of more")
                with building(step.where):
                    outputs = self._step(step, inputs, values)
                if any(step.outputs[len(outputs) :]):
                    raise ValueError(f"expected {len(step.outputs)} outputs, got {len(outputs)}")
            except (DeviceError, NumericsError, FileFormatError):
                raise
            except _FILE_FAULTS as error:
                raise fault(self.path, step.where, f"{error} [{_shapes(inputs)}]") from error
            for name, output in zip(step.outputs, outputs, strict=False):
                if name:
                    self._check_size(step, output)
                    values[name] = output

    def run_body(self, body: Body, inputs: Sequence[Value], outer: Mapping[str, Value]) -> list[Value]:
        """What a body makes of its inputs and of the names that it captures from `outer`."""
        if id(body) not in self._constants:
            self._constants[id(body)] = {
                name: Constant(array, self.device) for name, array in body.constants.items()
            }
        values = {name: outer[name] for name in body.captured}
        values.update(self._constants[id(body)])
        values.update(dict.fromkeys(body.inputs))
        values.update(zip(body.inputs, inputs, strict=False))
        self.run(body.steps, values)
        return [values[name] for name in body.outputs]

    def read(self, value: Value, what: str) -> np.ndarray[Any, Any]:
        """The elements of a value; NeedsValue where kernels compute them and this is a capture."""
        if isinstance(value, (Constant, Sizes)):
            return value.array
        if not self.may_read:
            raise NeedsValue(what)
        return to_tensor(value).numpy()

    def _read(self, value: Value) -> np.ndarray[Any, Any]:
        return self.read(value, "a handler")

    def _step(self, step: Step, inputs: list[Value], values: Mapping[str, Value]) -> Sequence[Value]:
        row, call = step.row, replace(step.call, device=self.device, read=self._read)
        check_types(step.formals, [type_text(value) for value in inputs])
        if row.name in ("Shape", "Size") and row.since:
            return self._done(step, "host: shape", self._known(*_shape_of(step, inputs[0])))
        if row.control:
            fate = "inlined" if step.expand or "" in step.bodies else "control"
            return self._done(step, fate, *row.handler(self, step, inputs, values))
        if (folded := self._fold(step, inputs)) is not None:
            return self._done(step, "host: shape arithmetic", *folded)
        if row.reads and not self.may_read:
            raise NeedsValue(step.where)
        if row.name in _MOVES and inputs and (narrow := to_narrow(inputs[0])) is not None:
            return self._done(step, "kernel", *self._move(step, call, narrow.format, inputs))
        arguments = [self._argument(step, position, value) for position, value in enumerate(inputs)]
        result = row.handler(call, *arguments)
        outputs = result if isinstance(result, tuple) else (result,)
        made = [Constant(out, self.device) if isinstance(out, np.ndarray) else out for out in outputs]
        plain = any(isinstance(out, Tensor) for out in made)
        return self._done(step, "host" if row.on_host or not plain else "kernel", *made)

    def _move(self, step: Step, call: Call, form: Format, inputs: list[Value]) -> Iterable[Value]:
        """Operators that only move elements move the bytes of types that kernels lack."""
        given: list[Any] = []
        for position, value in enumerate(inputs):
            narrow = to_narrow(value)
            given.append(self._argument(step, position, value if narrow is None else narrow.tensor))
        result = step.row.handler(call, *given)
        outputs = result if isinstance(result, tuple) else (result,)
        return [Narrow(out, form) for out in outputs]

    def _done(self, step: Step, fate: str, *outputs: Value) -> Sequence[Value]:
        self.fates.note(step, fate)
        return outputs

    def _fold(self, step: Step, inputs: list[Value]) -> tuple[Value, ...] | None:
        """What the host makes of small constants; None where kernels must."""
        if step.row.name not in FOLD or not step.row.since:
            return None
        if any(isinstance(value, Sizes) for value in inputs):
            return self._fold_sizes(step, inputs)
        present = [value for value in inputs if value is not None]
        known = [value for value in present if isinstance(value, Constant) and self._foldable(value)]
        if len(known) < len(present) or not _fits(step, known):
            return None
        arrays = [value.array if isinstance(value, Constant) else None for value in inputs]
        try:
            result = FOLD[step.row.name](step.call, *arrays)
        except TooLarge:
            return None
        made = [
            Constant(array, self.device) for array in (result if isinstance(result, tuple) else (result,))
        ]
        return tuple(made) if all(map(self._foldable, made)) else None

    def _fold_sizes(self, step: Step, inputs: list[Value]) -> tuple[Value, ...] | None:
        """The same where some sizes vary."""
        fold = FOLD_SIZES.get(step.row.name)
        if fold is None or not all(value is None or _is_integral(value) for value in inputs):
            return None
        arrays = [
            value.array.astype(object) if isinstance(value, (Constant, Sizes)) else None for value in inputs
        ]
        try:
            result = fold(step.call, *arrays)
        except NeedsBound:
            raise
        except NeedsNumber:
            return None  # as data it is well defined: kernels compute it
        if result is None:
            return None
        dtype = next(value.dtype for value in inputs if isinstance(value, Sizes))
        if step.row.name == "Cast":
            dtype = np.dtype(DTYPES[step.call["to"]])
        made = result if isinstance(result, tuple) else (result,)
        return tuple(self._known(array, dtype) for array in made)

    def _known(self, array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> Constant | Sizes:
        """Sizes, as a Constant where they are all numbers or answers."""
        elements = [plain(size) for size in array.ravel()]
        if varies(elements):
            kept = np.empty(len(elements), object)
            kept[:] = elements
            return Sizes(kept.reshape(array.shape), dtype, self.device)
        flags = bool(elements) and isinstance(elements[0], bool)
        return Constant(np.asarray(elements, bool if flags else dtype).reshape(array.shape), self.device)

    def _foldable(self, value: Constant) -> bool:
        """Floats are folded only within a capture, where nothing can be read: sizes may depend on them."""
        small = value.array.dtype.kind == "f" and value.array.size <= LARGEST_FLOATS
        return value.foldable or (small and not self.may_read)

    def _argument(self, step: Step, position: int, value: Value) -> Any:
        if position in step.row.either and isinstance(value, Constant):
            return value.array
        if position in step.row.host and value is not None:
            return self.read(value, f"{step.where}: input {position} ({printable(step.inputs[position])})")
        return value if step.row.raw or value is None else to_tensor(value)

    def _check_size(self, step: Step, value: Value) -> None:
        if not isinstance(value, Tensor):
            return
        size = math.prod(value.shape) * value.dtype.itemsize
        if isinstance(size, int) and size > _LIMIT:
            message = f"expected at most {_LIMIT} bytes for one value, got {list(value.shape)}"
            raise fault(self.path, step.where, message)


def _shapes(inputs: Iterable[Value]) -> str:
    parts = []
    for value in inputs:
        if value is None:
            parts.append("none")
        elif isinstance(value, list):
            parts.append(f"a sequence of {len(value)}")
        else:
            like: Any = value.array if isinstance(value, Constant) else value
            if isinstance(value, Narrow):
                parts.append(f"{value.format.dtype}{list(value.shape)}")
                continue
            parts.append(f"{like.dtype}{list(like.shape)}".removeprefix("petaflop."))
    return ", ".join(parts)


def _fits(step: Step, known: list[Constant]) -> bool:
    """Whether a fold stays small; only a Range can make much out of little."""
    if step.row.name != "Range":
        return True
    start, stop, delta = (int(value.array.item()) for value in known)
    return delta != 0 and len(range(start, stop, delta)) <= LARGEST_FOLD


def _is_integral(value: Value) -> bool:
    return isinstance(value, Sizes) or (isinstance(value, Constant) and value.array.dtype.kind in "biu")


def _shape_of(step: Step, value: Value) -> tuple[np.ndarray[Any, Any], np.dtype[Any]]:
    shape = shape_of_value(value)
    if step.row.name == "Size":
        return np.asarray(math.prod(shape), object), np.dtype(np.int64)
    wanted = shape[step.call.get("start", 0) : step.call.get("end")]
    return np.asarray(wanted, object).reshape(-1), np.dtype(np.int64)
