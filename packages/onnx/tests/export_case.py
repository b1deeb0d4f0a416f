"""One exported function: onnxruntime and our own importer make of the file what the function gives."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

import petaflop_onnx
from petaflop import Tensor

Array = np.ndarray[Any, Any]
onnxruntime.set_default_logger_severity(4)
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}


def text_of(array: Array, dynamic: Mapping[int, str] | None = None) -> str:
    """The input that `export` is told: `float32[n?,3]`."""
    sizes = [f"{(dynamic or {})[axis]}?" if axis in (dynamic or {}) else str(size)
             for axis, size in enumerate(array.shape)]  # fmt: skip
    return f"{array.dtype.name}[{','.join(sizes)}]"


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """onnxruntime's results. It has no bfloat16 arrays in Python: they pass as float32, which holds them."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            _rename(wide.graph, value.name)
            cast = helper.make_node("Cast", [value.name], [f"{value.name}_narrow"], to=TensorProto.BFLOAT16)
            wide.graph.node.insert(0, cast)
    narrow = [value.type.tensor_type.elem_type == TensorProto.BFLOAT16 for value in model.graph.output]
    for value, is_narrow in zip(model.graph.output, narrow, strict=True):
        if is_narrow:
            _rename(wide.graph, value.name)
            cast = helper.make_node("Cast", [f"{value.name}_narrow"], [value.name], to=TensorProto.FLOAT)
            wide.graph.node.append(cast)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        wide.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    arrays = {k: v.astype(np.float32) if v.dtype == ml_dtypes.bfloat16 else v for k, v in feeds.items()}
    results = session.run(None, arrays)
    return [each.astype(ml_dtypes.bfloat16) if is_narrow else np.asarray(each)
            for each, is_narrow in zip(results, narrow, strict=True)]  # fmt: skip


def _rename(graph: onnx.GraphProto, name: str) -> None:
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [f"{name}_narrow" if each == name else each for each in side]


def check(
    function: Callable[..., Any],
    *arrays: Array,
    dynamic: Sequence[Mapping[int, str]] = (),
    others: Sequence[Sequence[Array]] = (),
    tolerance: float | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    """Export with the shapes of `arrays` (sizes in `dynamic` vary, and `others` have other ones); compare."""
    names = [f"x{place}" for place in range(len(arrays))]
    axes = [*dynamic, *[{}] * len(arrays)]
    inputs = {name: text_of(array, each) for name, array, each in zip(names, arrays, axes, strict=False)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model = petaflop_onnx.export(function, path, inputs=inputs, opset=opset)
        onnx.checker.check_model(str(path), full_check=True)
        imported = petaflop_onnx.load(path)
        for feed in (arrays, *others):
            feeds = dict(zip(names, feed, strict=True))
            expected = [part.numpy() for part in parts(function(*map(Tensor, feed)))]
            kept = {each.name for each in model.graph.input}
            _compare(run(model, {name: feeds[name] for name in kept}), expected, tolerance)
            _compare([value.numpy() for value in imported(feeds).values()], expected, tolerance)
    return model


def parts(value: Any) -> list[Tensor]:
    """The tensors of a result, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    return [part for item in value for part in parts(item)] if isinstance(value, (tuple, list)) else [value]


def _compare(got: Sequence[Array], expected: Sequence[Array], tolerance: float | None) -> None:
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        allowed = tolerance or TOLERANCE.get(theirs.dtype.name)
        if allowed is None:
            np.testing.assert_array_equal(ours, theirs)
            continue
        wide = [each.astype(np.float64) for each in (ours, theirs)]
        scale = float(np.abs(wide[1][np.isfinite(wide[1])]).max(initial=0.0)) or 1.0
        np.testing.assert_allclose(*wide, rtol=allowed, atol=allowed * min(scale, 1.0))


def operators(model: onnx.ModelProto) -> list[str]:
    """The operators of a model, in order."""
    return [node.op_type for node in model.graph.node]
