"""Branches, loops, functions and sequences against onnxruntime, and what `explain` says of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_case import Array, assert_close, run_onnxruntime

import petaflop_onnx
from petaflop.errors import ArgumentError, FileFormatError
from petaflop.profile import profile

_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
_node, _info = helper.make_node, helper.make_tensor_value_info


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, Array] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def _load(model: onnx.ModelProto, folder: Path) -> petaflop_onnx.Model:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return petaflop_onnx.load(path)


def _same(model: onnx.ModelProto, folder: Path, *calls: dict[str, Array]) -> petaflop_onnx.Model:
    ours = _load(model, folder)
    for feeds in calls:
        got = [value.numpy() for value in ours(feeds).values()]
        assert_close(got, run_onnxruntime(model, feeds))
    return ours


def _x(*values: float) -> Array:
    return np.asarray(values, np.float32)


def _branches() -> tuple[onnx.GraphProto, onnx.GraphProto]:
    """Both use names of the graph around them; one has a constant of its own."""
    scale = numpy_helper.from_array(_x(2), "scale")
    then = [_node("Mul", ["x", "scale"], ["a"]), _node("Add", ["a", "bias"], ["t"])]
    other = [_node("Sub", ["x", "bias"], ["e"])]
    return (
        helper.make_graph(then, "then", [], [_info("t", _FLOAT, None)], [scale]),
        helper.make_graph(other, "else", [], [_info("e", _FLOAT, None)]),
    )


def test_a_branch_by_an_input_is_part_of_the_signature(tmp_path: Path) -> None:
    then, other = _branches()
    node = _node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    inputs = [_info("x", _FLOAT, [3]), _info("c", _BOOL, [])]
    model = _model([node], inputs, [_info("y", _FLOAT, [3])], {"bias": _x(1, 2, 3)})
    feeds = [{"x": _x(5, -6, 7), "c": np.asarray(way)} for way in (True, False)]
    ours = _same(model, tmp_path, *feeds)
    with profile() as seen:
        ours(feeds[0])["y"].numpy()
    assert seen.launches and not seen.schedules


def test_a_branch_by_what_kernels_compute(tmp_path: Path) -> None:
    then, other = _branches()
    nodes = [
        _node("ReduceSum", ["x"], ["sum"], keepdims=0),
        _node("Greater", ["sum", "zero"], ["c"]),
        _node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    weights = {"bias": _x(1, 2, 3), "zero": np.float32(0)}
    model = _model(nodes, [_info("x", _FLOAT, [3])], [_info("y", _FLOAT, [3])], weights)
    _same(model, tmp_path, {"x": _x(1, 2, 3)}, {"x": _x(-1, -2, -3)})


def _power_loop(nodes: list[onnx.NodeProto], weights: dict[str, Array]) -> onnx.ModelProto:
    """Doubles a value and stacks it, for as long as the body's `go` is true."""
    inputs = [_info("n", _INT64, []), _info("before", _BOOL, []), _info("v", _FLOAT, [2])]
    outputs = [_info("go", _BOOL, []), _info("w", _FLOAT, [2]), _info("row", _FLOAT, [2])]
    body = [_node("Add", ["v", "v"], ["w"]), _node("Add", ["w", "x"], ["row"]), *nodes]
    loop = _node("Loop", ["m", "c"], ["last", "rows"], body=helper.make_graph(body, "b", inputs, outputs))
    loop.input.append("x")
    given = [_info("x", _FLOAT, [2]), _info("m", _INT64, []), _info("c", _BOOL, [])]
    results = [_info("last", _FLOAT, [2]), _info("rows", _FLOAT, [None, 2])]
    return _model([loop], given, results, weights)


def test_a_loop_of_known_length_is_unrolled(tmp_path: Path) -> None:
    model = _power_loop([_node("Identity", ["before"], ["go"])], {})
    feeds = {"x": _x(1, -1), "m": np.asarray(4), "c": np.asarray(True)}
    ours = _same(model, tmp_path, feeds, {**feeds, "m": np.asarray(2)})
    with profile() as seen:
        ours(feeds)["rows"].numpy()
    assert seen.launches and not seen.schedules


def test_a_loop_until_a_value_is_large(tmp_path: Path) -> None:
    nodes = [_node("ReduceSum", ["w"], ["sum"], keepdims=0), _node("Less", ["sum", "limit"], ["go"])]
    model = _power_loop(nodes, {"limit": np.float32(100)})
    feeds = {"x": _x(1, 1), "m": np.asarray(50), "c": np.asarray(True)}
    _same(model, tmp_path, feeds, {**feeds, "x": _x(30, 1)})


def test_a_loop_that_never_ends_is_refused(tmp_path: Path) -> None:
    model = _power_loop([_node("Identity", ["before"], ["go"])], {})
    feeds = {"x": _x(1, -1), "m": np.asarray((1 << 63) - 1), "c": np.asarray(True)}
    start = time.process_time()
    with pytest.raises(FileFormatError, match=r"model.onnx: node 'Loop' \(Loop-16\): M: expected at most"):
        _load(model, tmp_path)(feeds)
    assert time.process_time() - start < 2


def test_a_scan_both_ways(tmp_path: Path) -> None:
    inputs = [_info("s", _FLOAT, [2]), _info("r", _FLOAT, [2])]
    outputs = [_info("t", _FLOAT, [2]), _info("o", _FLOAT, [2])]
    body = [_node("Add", ["s", "r"], ["t"]), _node("Mul", ["t", "scale"], ["o"])]
    for backwards in (0, 1):
        scan = _node(
            "Scan",
            ["start", "x"],
            ["last", "all"],
            body=helper.make_graph(body, "b", inputs, outputs),
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_input_directions=[backwards],
            scan_output_axes=[-1],
            scan_output_directions=[1 - backwards],
        )
        model = _model(
            [scan],
            [_info("start", _FLOAT, [2]), _info("x", _FLOAT, [2, 3])],
            [_info("last", _FLOAT, [2]), _info("all", _FLOAT, [2, 3])],
            {"scale": _x(3, 5)},
        )
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        _same(model, tmp_path, {"start": _x(1, 2), "x": x})


def _function_model() -> onnx.ModelProto:
    """y = leaky(x; slope 0.2) · 3, by a function that the model defines with an attribute of its own."""
    body = [_node("LeakyRelu", ["u"], ["l"])]
    reference = onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    body[0].attribute.append(reference)
    body += [_node("Constant", [], ["three"], value_float=3.0), _node("Mul", ["l", "three"], ["v"])]
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "Leak", ["u"], ["v"], body, opsets, ["slope"])
    node = _node("Leak", ["x"], ["y"], domain="local", slope=0.2)
    inputs, outputs = [_info("x", _FLOAT, [3])], [_info("y", _FLOAT, [3])]
    return _model([node], inputs, outputs, functions=[function])


def test_functions_of_the_model_are_inlined(tmp_path: Path) -> None:
    ours = _same(_function_model(), tmp_path, {"x": _x(-1, 0, 2)})
    assert ours.explain() == [("Leak", "Leak-0", "inlined")]


def test_functions_that_call_each_other_for_ever(tmp_path: Path) -> None:
    model = _function_model()
    model.functions[0].node[0].CopyFrom(_node("Leak", ["u"], ["l"], domain="local"))
    with pytest.raises(FileFormatError, match=r"expected at most \d+ graphs inside one another"):
        _load(model, tmp_path)


def test_functions_that_double_with_every_level(tmp_path: Path) -> None:
    """22 levels of two calls each would be millions of nodes: refused while they are counted."""
    model = _function_model()
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for level in range(22):
        inner = f"F{level - 1}" if level else "Leak"
        nodes = [_node(inner, ["u"], ["l"], domain="local"), _node(inner, ["l"], ["v"], domain="local")]
        model.functions.append(helper.make_function("local", f"F{level}", ["u"], ["v"], nodes, opsets, []))
    model.graph.node[0].op_type = "F21"
    del model.graph.node[0].attribute[:]
    with pytest.raises(FileFormatError, match=r"expected at most \d+ nodes in branches and functions"):
        _load(model, tmp_path)


def test_names_that_a_branch_lacks_are_named(tmp_path: Path) -> None:
    then, other = _branches()
    node = _node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    inputs = [_info("x", _FLOAT, [3]), _info("c", _BOOL, [])]
    with pytest.raises(FileFormatError, match=r"graph.node\[0\] 'If'.input: expected a value .* 'bias'"):
        _load(_model([node], inputs, [_info("y", _FLOAT, [3])]), tmp_path)


def test_unsupported_operators_inside_are_listed(tmp_path: Path) -> None:
    then, other = _branches()
    then.node[0].op_type, other.node[0].op_type = "Foo", "Bar"
    node = _node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    inputs = [_info("x", _FLOAT, [3]), _info("c", _BOOL, [])]
    with pytest.raises(FileFormatError, match="Bar-17, Foo-17"):
        _load(_model([node], inputs, [_info("y", _FLOAT, [3])]), tmp_path)


def test_explain_says_what_became_of_each_node(tmp_path: Path) -> None:
    nodes = [
        _node("Exp", ["w"], ["e"], name="exp"),
        _node("Shape", ["x"], ["s"], name="shape"),
        _node("Mul", ["s", "two"], ["t"], name="double"),
        _node("Expand", ["x", "s"], ["b"], name="expand"),
        _node("HannWindow", ["n"], ["h"], name="window"),
        _node("Mul", ["b", "e"], ["y"], name="scale"),
        _node("Mul", ["y", "h"], ["z"], name="weigh"),
    ]
    weights = {"w": _x(1, 2, 3), "two": np.asarray([2]), "n": np.asarray(3)}
    outputs = [_info("z", _FLOAT, [3]), _info("t", _INT64, [1])]
    ours = _load(_model(nodes, [_info("x", _FLOAT, [3])], outputs, weights), tmp_path)
    assert ("scale", "Mul-14", "not run") in ours.explain()
    ours({"x": _x(1, 2, 3)})
    assert {name: fate for name, _, fate in ours.explain()} == {
        "exp": "folded",
        "window": "folded",
        "shape": "host: shape",
        "double": "host: shape arithmetic",
        "expand": "kernel",
        "scale": "kernel",
        "weigh": "kernel",
    }


def test_inputs_of_other_forms_are_checked(tmp_path: Path) -> None:
    """Sequences are lists, text is text, an optional may be left out."""
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(_FLOAT, [2]))
    maybe = helper.make_optional_type_proto(helper.make_tensor_type_proto(_FLOAT, [2]))
    inputs = [helper.make_value_info("s", sequence), helper.make_value_info("o", maybe)]
    inputs.append(_info("t", TensorProto.STRING, [None]))
    nodes = [
        _node("ConcatFromSequence", ["s"], ["y"], axis=0),
        _node("OptionalHasElement", ["o"], ["has"]),
        _node("StringConcat", ["t", "t"], ["tt"]),
    ]
    outputs = [_info("y", _FLOAT, None), _info("has", _BOOL, []), _info("tt", TensorProto.STRING, [None])]
    model = _model(nodes, inputs, outputs)
    model.opset_import[0].version, model.ir_version = 20, 9
    ours = _load(model, tmp_path)
    text = np.asarray(["a", "bc"], object)
    got = ours({"s": [_x(1, 2), _x(3, 4)], "t": text})
    np.testing.assert_array_equal(got["y"].numpy(), [1, 2, 3, 4])
    assert not got["has"].item() and got["tt"].tolist() == ["aa", "bcbc"]
    assert ours({"s": [_x(1, 2)], "o": _x(0, 0), "t": text})["has"].item()
    for bad, says in (
        ({"s": _x(1, 2), "t": text}, "input s: expected sequence, got a tensor"),
        ({"t": text}, "input s: expected sequence, got nothing"),
        ({"s": [_x(1, 2)], "t": np.asarray([1], object)}, "expected Python strings"),
        ({"s": [_x(1, 2)], "t": text, "u": text}, "'u'"),
    ):
        with pytest.raises(ArgumentError, match=says):
            ours(bad)
