"""Runs a Graph's steps. A value is a Tensor, or a Constant that the host knows; steps whose inputs are all
small integer Constants fold on the host, the others become Tensor code. Used once per signature: a capture
replays the result.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from petaflop.errors import DeviceError, FileFormatError, NumericsError, PetaflopError
from petaflop_onnx.formals import check_dtypes
from petaflop_onnx.graph import Step
from petaflop_onnx.host import FOLD, LARGEST_FOLD
from petaflop_onnx.reading import fault, printable
from petaflop_onnx.values import Constant, Value, to_tensor

__all__ = ["Constant", "Execution", "Value"]


def _memory_limit() -> int:
    """The bytes of the machine: no single value of a graph may claim more."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 34


_LIMIT = _memory_limit()
# What handlers raise for attributes or shapes that a file got wrong; a device's own failures pass unchanged.
_FILE_FAULTS = (PetaflopError, ValueError, TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError)


class Execution:
    """One pass over steps; `may_read` (while loading) lets host positions read Tensors that need no input."""

    def __init__(self, path: Path, device: str | None, may_read: bool = False) -> None:
        self.path, self.device, self.may_read = path, device, may_read

    def run(self, steps: Iterable[Step], values: dict[str, Value | None]) -> None:
        """Run `steps`, adding what they make to `values`."""
        values[""] = None
        for step in steps:
            inputs = [values[name] for name in step.inputs]
            try:
                outputs = self._step(step, inputs)
            except (DeviceError, NumericsError, FileFormatError):
                raise
            except _FILE_FAULTS as error:
                raise fault(self.path, _where(step), f"{error} [{_shapes(inputs)}]") from error
            for name, output in zip(step.outputs, outputs, strict=False):
                if name:
                    self._check_size(step, output)
                    values[name] = output

    def _step(self, step: Step, inputs: list[Value | None]) -> list[Value]:
        row, call = step.row, replace(step.call, device=self.device)
        check_dtypes(step.formals, [_dtype_of(value) for value in inputs])
        if row.name in ("Shape", "Size"):
            return [Constant(_shape_of(step, inputs[0]), self.device)]
        known = [value for value in inputs if isinstance(value, Constant) and value.foldable]
        present = sum(value is not None for value in inputs)
        if row.name in FOLD and len(known) == present and _fits(step, known):
            arrays = [None if value is None else value.array for value in inputs]  # type: ignore[union-attr]
            folded = FOLD[row.name](call, *arrays)
            if folded.dtype.kind in "biu":
                return [Constant(folded, self.device)]
        arguments = [self._argument(step, position, value) for position, value in enumerate(inputs)]
        result = row.handler(call, *arguments)
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        return [Constant(out, self.device) if isinstance(out, np.ndarray) else out for out in outputs]

    def _argument(self, step: Step, position: int, value: Value | None) -> Any:
        if value is None:
            return None
        if position in step.row.either and isinstance(value, Constant):
            return value.array
        if position not in step.row.host:
            return to_tensor(value)
        if isinstance(value, Constant):
            return value.array
        if self.may_read:
            return value.numpy()
        name = printable(step.inputs[position])
        raise ValueError(
            f"input {position} ({name}): expected a value known before the run, got one kernels compute"
        )

    def _check_size(self, step: Step, value: Value) -> None:
        if isinstance(value, Constant):
            return
        size = math.prod(map(int, value.shape)) * value.dtype.itemsize
        if size > _LIMIT:
            message = f"expected at most {_LIMIT} bytes for one value, got {list(value.shape)}"
            raise fault(self.path, _where(step), message)


def _dtype_of(value: Value | None) -> str | None:
    if value is None:
        return None
    return value.array.dtype.name if isinstance(value, Constant) else value.dtype.numpy.name


def _where(step: Step) -> str:
    return f"node {printable(step.call.name)!r} ({step.row.name}-{step.row.since})"


def _shapes(inputs: Iterable[Value | None]) -> str:
    parts = []
    for value in inputs:
        if value is None:
            parts.append("none")
        else:
            like: Any = value.array if isinstance(value, Constant) else value
            parts.append(f"{like.dtype}{list(like.shape)}".removeprefix("petaflop."))
    return ", ".join(parts)


def _fits(step: Step, known: list[Constant]) -> bool:
    """Whether a fold stays small; only a Range can make much out of little."""
    if step.row.name != "Range":
        return True
    start, stop, delta = (int(value.array.item()) for value in known)
    return delta != 0 and len(range(start, stop, delta)) <= LARGEST_FOLD


def _shape_of(step: Step, value: Value | None) -> np.ndarray[Any, Any]:
    shape = (value.array if isinstance(value, Constant) else value).shape  # type: ignore[union-attr]
    if step.row.name == "Size":
        return np.asarray(math.prod(shape), np.int64)
    return np.asarray(shape[step.call.get("start", 0) : step.call.get("end")], np.int64).reshape(-1)
