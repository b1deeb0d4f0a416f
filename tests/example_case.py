"""Helpers of the tests of examples/: a program as a module, the trained models that noxfile.py fetches, and a
model that runs in onnxruntime at the same time.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

import petaflop_onnx
from petaflop import Tensor

Array = np.ndarray[Any, Any]
onnxruntime.set_default_logger_severity(4)
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load_example(name: str) -> ModuleType:
    """examples/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def model_data(variable: str) -> Path:
    """Where a trained model is, as `nox -s together` says it."""
    path = os.environ.get(variable)
    if not path:
        pytest.fail(f"{variable}: expected the place of a trained model; `nox -s together` sets it")
    return Path(path)


class Checked:
    """A model of ours whose every call is compared with onnxruntime's answer.

    Errors are relative to the largest value of an output, and at most `TOLERANCE`; where a network is so
    steep that onnxruntime without its optimisations differs by more from itself, at most twice that.
    """

    TOLERANCE = 1e-4

    def __init__(self, path: Path) -> None:
        levels = onnxruntime.GraphOptimizationLevel
        self.session, self.plain = (
            _session(path, level) for level in (levels.ORT_ENABLE_ALL, levels.ORT_DISABLE_ALL)
        )
        self.model = petaflop_onnx.load(path)
        self.inputs, self.outputs = self.model.inputs, self.model.outputs
        self.worst, self.calls = 0.0, 0

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        arrays = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in inputs.items()}
        names = [spec.name for spec in self.outputs]
        expected, plain = (each.run(names, arrays) for each in (self.session, self.plain))
        results = self.model(inputs)
        for name, theirs, other in zip(names, expected, plain, strict=True):
            ours = results[name].numpy()
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), name
            scale = float(np.abs(theirs).max()) or 1.0
            error, own = (float(np.abs(each - theirs).max()) / scale for each in (ours, other))
            self.worst = max(self.worst, error)
            assert error <= max(self.TOLERANCE, 2 * own), f"{name}: {error}, onnxruntime's own {own}"
        self.calls += 1
        return results


def _session(path: Path, level: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = level
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
