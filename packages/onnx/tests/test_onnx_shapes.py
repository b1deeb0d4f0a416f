"""Shapes that the run decides: folding on the host, symbolic sizes, inputs whose values are shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_case import Array, assert_close, run_onnxruntime

import petaflop_onnx
from petaflop_onnx.execute import Execution

_FLOAT, _INT64 = TensorProto.FLOAT, TensorProto.INT64


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str | None]]],
    outputs: dict[str, tuple[int, list[int | str | None]]],
    weights: dict[str, Array] | None = None,
    opset: int = 13,
) -> onnx.ModelProto:
    infos = [
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in side.items()]
        for side in (inputs, outputs)
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", infos[0], infos[1], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _flatten_heads() -> onnx.ModelProto:
    """The chain that exporters write for x.reshape(x.shape[0], -1, 2)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["row"]),
        helper.make_node("Concat", ["row", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    weights = {"zero": np.asarray(0), "axis": np.asarray([0]), "rest": np.asarray([-1, 2])}
    return _model(nodes, {"x": (_FLOAT, ["batch", 6])}, {"y": (_FLOAT, [None, None, 2])}, weights)


def test_shape_arithmetic_folds_for_every_size(tmp_path: Path) -> None:
    model = _flatten_heads()
    ours = petaflop_onnx.load(_save(model, tmp_path))
    assert ours.inputs[0].shape == ("batch", 6) and ours.outputs[0].shape == (None, None, 2)
    for batch in (1, 3, 2, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 6)).astype(np.float32)
        assert_close([ours({"x": x})["y"].numpy()], [x.reshape(batch, 3, 2)])


def test_inputs_that_are_shapes_are_read_by_value(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["s", "two"], ["t"]), helper.make_node("Expand", ["x", "t"], ["y"])]
    inputs = {"x": (_FLOAT, [1, 1]), "s": (_INT64, [2])}
    model = _model(nodes, inputs, {"y": (_FLOAT, [None, None])}, {"two": np.asarray(2)})
    ours = petaflop_onnx.load(_save(model, tmp_path))
    x = np.full((1, 1), 3, np.float32)
    for sizes in ([1, 2], [3, 1], [1, 2]):
        feeds = {"x": x, "s": np.asarray(sizes, np.int64)}
        assert_close([ours(feeds)["y"].numpy()], run_onnxruntime(model, feeds))


def test_each_signature_is_captured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"x": (_FLOAT, ["n", 1]), "s": (_INT64, [2])}
    model = _model([helper.make_node("Expand", ["x", "s"], ["y"])], inputs, {"y": (_FLOAT, [None, None])})
    ours = petaflop_onnx.load(_save(model, tmp_path))
    traced = []
    run = Execution.run
    monkeypatch.setattr(Execution, "run", lambda *args: (traced.append(1), run(*args)))
    for _ in range(3):
        for rows, size in ((1, 2), (1, 3), (2, 3)):
            x = np.full((rows, 1), 3, np.float32)
            assert ours({"x": x, "s": np.asarray([rows, size])})["y"].tolist() == [[3.0] * size] * rows
    assert len(traced) == 3


def test_a_shape_that_kernels_compute_is_read(tmp_path: Path) -> None:
    """No capture holds it: the graph runs step by step, and the shape may differ at each call."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=1),
        helper.make_node("Cast", ["most"], ["size"], to=_INT64),
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Tile", ["e", "size"], ["y"]),
    ]
    model = _model(nodes, {"x": (_FLOAT, [2])}, {"y": (_FLOAT, [None])})
    ours = petaflop_onnx.load(_save(model, tmp_path))
    for values in ([1.0, 3.0], [2.0, 0.0]):
        x = np.asarray(values, np.float32)
        assert_close([ours({"x": x})["y"].numpy()], run_onnxruntime(model, {"x": x}))


def test_what_depends_on_no_input_is_computed_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0]),
        helper.make_node("Exp", ["c"], ["e"]),
        helper.make_node("ReduceMax", ["e"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["n"], to=_INT64),
        helper.make_node("Unsqueeze", ["n", "axis"], ["count"]),
        helper.make_node("Tile", ["x", "count"], ["t"]),
        helper.make_node("Identity", ["e"], ["z"]),
    ]
    outputs = {"t": (_FLOAT, [None]), "z": (_FLOAT, [3])}
    model = _model(nodes, {"x": (_FLOAT, [2])}, outputs, {"axis": np.asarray([0])})
    feeds = {"x": np.asarray([1, 2], np.float32)}
    ours = petaflop_onnx.load(_save(model, tmp_path))(feeds)
    assert_close([value.numpy() for value in ours.values()], run_onnxruntime(model, feeds))
    assert ours["t"].shape == (40,)


def test_initializers_of_no_elements(tmp_path: Path) -> None:
    nodes = [helper.make_node("Concat", ["x", "none"], ["y"], axis=0)]
    model = _model(nodes, {"x": (_FLOAT, [2])}, {"y": (_FLOAT, [2])}, {"none": np.zeros(0, np.float32)})
    model.graph.initializer[0].ClearField("raw_data")
    ours = petaflop_onnx.load(_save(model, tmp_path))
    np.testing.assert_array_equal(ours({"x": np.ones(2, np.float32)})["y"].numpy(), 1)


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_both_names_of_the_domain(domain: str, tmp_path: Path) -> None:
    model = _flatten_heads()
    model.opset_import[0].domain = domain
    for node in model.graph.node:
        node.domain = "" if domain else "ai.onnx"
    x = np.ones((1, 6), np.float32)
    assert petaflop_onnx.load(_save(model, tmp_path))({"x": x})["y"].shape == (1, 3, 2)


@pytest.mark.parametrize("size", [-1, "", "?"])
def test_unknown_sizes(size: int | str, tmp_path: Path) -> None:
    model = _model([helper.make_node("Relu", ["x"], ["y"])], {"x": (_FLOAT, [2])}, {"y": (_FLOAT, [None])})
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    if isinstance(size, int):
        dim.dim_value = size
    else:
        dim.dim_param = size
    ours = petaflop_onnx.load(_save(model, tmp_path))
    assert ours.inputs[0].shape == (None,)
    assert ours({"x": np.ones(5, np.float32)})["y"].shape == (5,)


@pytest.mark.parametrize(
    "attributes",
    [
        {"value": numpy_helper.from_array(np.asarray([1.5], np.float32))},
        {"value_float": 1.5},
        {"value_int": 3},
        {"value_floats": [1.5, 2.5]},
        {"value_ints": [1, 2]},
    ],
    ids=lambda attributes: next(iter(attributes)),
)
def test_every_form_of_constant(attributes: dict[str, object], tmp_path: Path) -> None:
    kind = _INT64 if "int" in next(iter(attributes)) else _FLOAT
    model = _model([helper.make_node("Constant", [], ["y"], **attributes)], {}, {"y": (kind, None)})
    assert_close([petaflop_onnx.load(_save(model, tmp_path))({})["y"].numpy()], run_onnxruntime(model, {}))


def test_typed_data_fields(tmp_path: Path) -> None:
    """float16 and bfloat16 bit patterns in int32_data, bools, 64-bit unsigned."""
    half = onnx.TensorProto(name="h", data_type=TensorProto.FLOAT16, dims=[2], int32_data=[0x3C00, 0xC000])
    brain = onnx.TensorProto(name="b", data_type=TensorProto.BFLOAT16, dims=[1], int32_data=[0x4040])
    nodes = [
        helper.make_node("Cast", ["h"], ["y"], to=_FLOAT),
        helper.make_node("Cast", ["b"], ["z"], to=_FLOAT),
    ]
    model = _model(nodes, {}, {"y": (_FLOAT, [2]), "z": (_FLOAT, [1])})
    model.graph.initializer.extend([half, brain])
    got = petaflop_onnx.load(_save(model, tmp_path))({})
    np.testing.assert_array_equal(got["y"].numpy(), [1, -2])
    np.testing.assert_array_equal(got["z"].numpy(), [3])


def test_a_model_stays_on_its_device(tmp_path: Path) -> None:
    """What a graph makes out of nothing is made where the model runs, not on the default device."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node(
            "ConstantOfShape", ["s"], ["c"], value=numpy_helper.from_array(np.full(1, 0.5, np.float32))
        ),
        helper.make_node("EyeLike", ["x"], ["e"], k=1),
        helper.make_node("Range", ["a", "b", "d"], ["r"]),
        helper.make_node("Add", ["x", "c"], ["xc"]),
        helper.make_node("Add", ["e", "r"], ["er"]),
        helper.make_node("Mul", ["xc", "er"], ["y"]),
    ]
    weights = {"a": np.float32(0), "b": np.float32(3), "d": np.float32(1)}
    model = _model(nodes, {"x": (_FLOAT, [2, 3])}, {"y": (_FLOAT, [2, 3])}, weights)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for device in ("reference", "cpu"):
        got = petaflop_onnx.load(_save(model, tmp_path), device)({"x": x})["y"]
        assert got.device == device
        assert_close([got.numpy()], run_onnxruntime(model, {"x": x}))
