"""ONNX graphs of real architectures with made-up weights, the same everywhere: as models, as feeds, and their
true outputs in float64.

The graphs are the importer's test data, or those in the folder that BENCH_GRAPHS names.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

TESTS = Path(__file__).resolve().parents[1] / "packages" / "onnx" / "tests"
sys.path.insert(0, str(TESTS))
from onnx_case import GRAPHS, feeds_for, load_filled  # noqa: E402

__all__ = ["batches", "feeds", "graph_names", "model", "session", "truth"]

Array = np.ndarray[Any, Any]


def _folder() -> Path:
    return Path(os.environ.get("BENCH_GRAPHS", TESTS / "data"))


def graph_names() -> list[str]:
    """The graphs that there are; an error where there are none."""
    names = sorted(path.stem for path in _folder().glob("*.onnx"))
    if not names:
        raise SystemExit(f"BENCH_GRAPHS: expected a folder with .onnx graphs, got {_folder()}")
    return names


def batches(name: str) -> tuple[int, ...]:
    """1, and 8 where the graph has a size of that name."""
    return (1, 8) if "batch" in GRAPHS.get(name, {}) else (1,)


@cache
def model(name: str) -> onnx.ModelProto:
    """The graph with its weights."""
    return load_filled(_folder() / f"{name}.onnx")


def feeds(name: str, batch: int = 1) -> dict[str, Array]:
    """Made-up inputs."""
    sizes = GRAPHS.get(name, {})
    return feeds_for(model(name), sizes | ({"batch": batch} if "batch" in sizes else {}))


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """onnxruntime as it is by default, on so many threads."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


@cache
def truth(name: str, batch: int) -> list[Array]:
    """What ONNX's own reference implementation gives when every float32 is a float64."""
    evaluator = ReferenceEvaluator(_doubled(model(name)))
    wide = {
        key: value.astype(np.float64) if value.dtype == np.float32 else value
        for key, value in feeds(name, batch).items()
    }
    return [np.asarray(value) for value in evaluator.run(None, wide)]


def _doubled(narrow: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose tensors, inputs, outputs and casts are of float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(narrow)
    del wide.graph.value_info[:]
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in wide.graph.initializer:
        _double(tensor)
    for node in wide.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _double(attribute.t)
            elif attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                raise NotImplementedError(f"{node.op_type}: expected no graphs inside, got {attribute.name}")
            elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return wide


def _double(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
