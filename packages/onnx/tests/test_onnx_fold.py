"""Shape arithmetic: each operator that the host folds, on small constants, against onnxruntime. No device."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_case import Array, assert_close, node_model, run_onnxruntime

import petaflop_onnx
from petaflop.profile import profile
from petaflop_onnx.execute import Execution
from petaflop_onnx.graph import build
from petaflop_onnx.host import FOLD
from petaflop_onnx.values import Constant


def n(*values: Any) -> Array:
    return np.asarray(values, np.int64)


@dataclass
class Fold:
    op: str
    inputs: list[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 18
    outputs: int = 1


def fold(op: str, *inputs: Array | None, opset: int = 18, outputs: int = 1, **attributes: Any) -> Fold:
    return Fold(op, list(inputs), attributes, opset, outputs)


_a, _b, _table = n(7, -8, 9, 0), n(2, 3, -4, 5), n([1, 2, 3], [4, 5, 6])
_f = np.asarray([1.5, -2.5, 0.25, 4], np.float32)
_ORDER = ["Max", "Min", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
_CASES = [
    *(fold(op, _a, _b) for op in ("Add", "Sub", "Mul", "Div", *_ORDER)),
    *(fold(op, _f, _f[::-1].copy()) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Less")),
    *(fold(op, _a) for op in ("Abs", "Neg", "Sign", "Identity")),
    *(fold(op, _f) for op in ("Ceil", "Floor", "Round", "Neg", "Abs")),
    fold("Sqrt", np.abs(_f)),
    *(fold(op, _a > 0, _b > 2) for op in ("And", "Or")),
    fold("Not", _a > 0),
    fold("Mod", _a, _b),
    fold("Mod", _a, _b, fmod=1),
    fold("Where", _a > 0, _a, _b),
    *(fold("Cast", _a, to=kind) for kind in (TensorProto.INT32, TensorProto.BOOL, TensorProto.FLOAT)),
    fold("Cast", _f, to=TensorProto.INT64),
    fold("Cast", np.asarray(["3", "-7"], object), to=TensorProto.INT64),
    fold("Concat", _a, _b, axis=0),
    fold("Gather", _table, n(1, 0), axis=0),
    fold("Gather", _table, np.asarray(-1), axis=1),
    fold("Expand", n([1], [2]), n(2, 3)),
    fold("Tile", _table, n(2, 1)),
    fold("Flatten", _table, axis=1),
    fold("Flatten", _table, axis=0),
    fold("Transpose", _table, perm=[1, 0]),
    fold("Transpose", _table),
    fold("NonZero", _a),
    fold("NonZero", _table - 2),
    fold("Range", np.asarray(2), np.asarray(9), np.asarray(3)),
    *(fold(op, _table, keepdims=k, axes=[1], opset=11) for op in ("ReduceMax", "ReduceProd") for k in (0, 1)),
    *(fold(op, _table, keepdims=0) for op in ("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum")),
    fold("ReduceSum", _table, n(0), keepdims=1),
    fold("ReduceSum", _table, None, noop_with_empty_axes=1),
    fold("Reshape", _table, n(0, -1, 1)),
    fold("Slice", _a, n(3), n(0), n(0), n(-2)),
    fold("Slice", _table, n(0, 1), n(2, 9)),
    fold("Split", _a, n(1, 3), outputs=2),
    fold("Split", n(1, 2, 3), outputs=2, num_outputs=2),
    fold("Split", _a, outputs=2, opset=13),
    fold("Squeeze", n([1, 2]), n(0)),
    fold("Squeeze", n([1, 2]), opset=11),
    fold("Unsqueeze", _a, n(0, 2)),
]


@pytest.mark.parametrize("one", _CASES, ids=lambda one: f"{one.op}-{one.opset}-{len(one.attributes)}")
def test_folds_as_onnxruntime_computes(one: Fold) -> None:
    constant = range(len(one.inputs))
    model = node_model(one.op, one.opset, one.inputs, one.outputs, tuple(constant), **one.attributes)
    graph = build(Path("model"), model)
    values: dict[str, Any] = {name: Constant(array, None) for name, array in graph.constants.items()}
    Execution(Path("model"), "no-such-device").run(graph.steps, values)
    made = [values[f"y{k}"] for k in range(one.outputs)]
    assert all(isinstance(value, Constant) for value in made)
    assert_close([value.array for value in made], run_onnxruntime(model, {}))


def test_every_fold_has_a_case() -> None:
    assert {one.op for one in _CASES} == set(FOLD)


def test_sizes_that_are_scaled_as_floats(tmp_path: Path) -> None:
    """Half of a size, rounded down, by way of floats: no kernel, so that the graph is one capture."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "half"], ["halved"]),
        helper.make_node("Floor", ["halved"], ["floored"]),
        helper.make_node("Cast", ["floored"], ["size"], to=TensorProto.INT64),
        helper.make_node("Slice", ["x", "zero", "size"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    arrays = {"half": np.asarray([0.5], np.float32), "zero": n(0)}
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    inputs, outputs = [info("x", 1, ["n"])], [info("y", 1, [None])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    ours = petaflop_onnx.load(path)
    for size in (5, 8):
        x = np.arange(size, dtype=np.float32)
        assert_close([ours({"x": x})["y"].numpy()], [x[: size // 2]])
        with profile() as seen:
            ours({"x": x})["y"].numpy()
        assert not seen.schedules
