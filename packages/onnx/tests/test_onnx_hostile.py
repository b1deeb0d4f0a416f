"""Hostile files: one typed one-line error that names file and field, quickly, in bounded memory. No device
needed.
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import petaflop_onnx
from petaflop import Tensor
from petaflop.cli import main
from petaflop.errors import FileFormatError
from petaflop_onnx.execute import Execution
from petaflop_onnx.graph import build
from petaflop_onnx.reading import read_model
from petaflop_onnx.values import Constant, NeedsValue, Value

_DATA = Path(__file__).parent / "data"


def _info(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(
    nodes: list[onnx.NodeProto], weights: list[TensorProto] | None = None, opset: int = 13
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [_info("x", 2, 3)], [_info("y", 2, 3)], weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _with_weight(weight: TensorProto) -> onnx.ModelProto:
    weight.name = "w"
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], [weight])


def _valid() -> onnx.ModelProto:
    return _with_weight(numpy_helper.from_array(np.ones((2, 3), np.float32)))


@contextmanager
def _quick() -> Iterator[None]:
    """One file within two seconds of computing, however busy the machine is."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 2


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def _refused(path: Path, *parts: str) -> str:
    with _quick(), pytest.raises(FileFormatError) as caught:
        petaflop_onnx.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path.name}: ") and "\n" not in message and len(message) < 1000
    for part in parts:
        assert part in message, message
    return message


def _refused_model(folder: Path, model: onnx.ModelProto, *parts: str) -> str:
    path = folder / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    return _refused(path, *parts)


# ---- not a model at all ----


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.touch()
    _refused(path, "empty")


def test_missing_folder_pipe(tmp_path: Path) -> None:
    _refused(tmp_path / "none.onnx", "file")
    _refused(tmp_path, "regular file")
    os.mkfifo(tmp_path / "pipe.onnx")
    _refused(tmp_path / "pipe.onnx", "regular file")


def test_terabyte(tmp_path: Path) -> None:
    path = tmp_path / "terabyte.onnx"
    with path.open("wb") as file:
        try:
            file.truncate(1 << 40)  # sparse: no disk is used
        except OSError:
            pytest.skip("the file system has no sparse files of a terabyte")
    _refused(path, "at most")


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "random.onnx"
    path.write_bytes(random.Random(seed).randbytes(1000 * seed + 1))
    _refused(path)


def test_other_formats(tmp_path: Path) -> None:
    for number, data in enumerate(
        (b"\x7fELF" + bytes(60), b"PK\x03\x04" + bytes(60), b"{}", b"\n" * 50, b"\x08\x08")
    ):
        path = tmp_path / f"other{number}.onnx"
        path.write_bytes(data)
        _refused(path)


def test_truncated_anywhere(tmp_path: Path) -> None:
    """Every prefix is refused, or lacks nothing that matters (metadata come last)."""
    data = _valid().SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        _refused(path)


def test_truncated_resnet(tmp_path: Path) -> None:
    data = (_DATA / "resnet50.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(1, len(data), len(data) // 40):
        path.write_bytes(data[:length])
        _refused(path)


def _load_or_refuse(path: Path) -> None:
    try:
        petaflop_onnx.load(path)
    except FileFormatError as error:
        assert str(error).startswith(f"{path.name}: ")


def test_flipped_bytes(tmp_path: Path) -> None:
    """Any one byte changed: a typed error or a model, never another exception."""
    data = bytearray(_valid().SerializeToString())
    path = tmp_path / "flipped.onnx"
    for position in range(len(data)):
        for value in (0, 0x7F, 0xFF, data[position] ^ 1):
            changed = bytes(data[:position]) + bytes([value]) + bytes(data[position + 1 :])
            path.write_bytes(changed)
            with _quick():
                _load_or_refuse(path)


_BAD_FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut in the graph": lambda data: data[: len(data) // 2],
    "cut at the end": lambda data: data[:-3],
    "random": lambda data: random.Random(3).randbytes(len(data)),
    "text": lambda data: b"not a model\n" * 20,
    "an unknown operator": lambda data: data.replace(b"Add", b"Adx"),
}


@pytest.mark.parametrize("case", _BAD_FILES)
def test_the_command_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """Exit code 65, one line that names the file, nothing written."""
    monkeypatch.chdir(tmp_path)
    Path("bad.onnx").write_bytes(_BAD_FILES[case](_valid().SerializeToString()))
    np.save("x.npy", np.ones((2, 3), np.float32))
    before = sorted(tmp_path.iterdir())
    with _quick():
        assert main(["run", "bad.onnx", "--input", "x=x.npy", "--output", "out.npz"]) == 65
    captured = capsys.readouterr()
    assert captured.err.startswith("petaflop: FileFormatError: bad.onnx: ") and captured.err.count("\n") == 1
    assert captured.out == "" and sorted(tmp_path.iterdir()) == before


def test_the_command_runs_what_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.onnx").write_bytes(_valid().SerializeToString())
    np.save("x.npy", np.ones((2, 3), np.float32))
    assert main(["run", "good.onnx", "--input", "x=x.npy", "--output", "out.npz"]) == 0
    with np.load("out.npz") as outputs:
        np.testing.assert_array_equal(outputs["y"], np.full((2, 3), 2, np.float32))


# ---- tensors ----


def _weight(**fields: object) -> TensorProto:
    tensor = TensorProto(data_type=TensorProto.FLOAT)
    for name, value in fields.items():
        field = getattr(tensor, name)
        if isinstance(value, (list, tuple)):
            field.extend(value)
        else:
            setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize(
    ("weight", "parts"),
    [
        (_weight(dims=[1 << 31, 1 << 31], raw_data=b"1234"), ["initializer[0] 'w'", "dims"]),
        (_weight(dims=[1 << 38], raw_data=b"1234"), ["raw_data", "got 4"]),
        (_weight(dims=[1 << 62, 1 << 62, 0]), ["dims"]),
        (_weight(dims=[-1], raw_data=b"1234"), ["dims", "[-1]"]),
        (_weight(dims=[1] * 1000, raw_data=b"1234"), ["dims"]),
        (_weight(dims=[2], raw_data=b"1234"), ["expected 8 bytes", "got 4"]),
        (_weight(dims=[1], raw_data=b"1234", float_data=[1.0]), ["one kind of data"]),
        (_weight(dims=[1], int32_data=[1]), ["float_data"]),
        (_weight(dims=[3], float_data=[1.0]), ["expected 3 values"]),
        (_weight(dims=[2]), ["got 0"]),
        (_weight(dims=[1], data_type=99, raw_data=b"1234"), ["data_type"]),
        (_weight(dims=[1], data_type=TensorProto.STRING), ["string_data", "got 0"]),
        (_weight(dims=[-1, -1], data_type=TensorProto.STRING, string_data=[b"a"]), ["string_data"]),
        (_weight(dims=[1], data_type=TensorProto.STRING, raw_data=b"a"), ["string_data"]),
    ],
)
def test_bad_weights(tmp_path: Path, weight: TensorProto, parts: list[str]) -> None:
    _refused_model(tmp_path, _with_weight(weight), *parts)


def _external(location: str, size: int = 24, **entries: str) -> TensorProto:
    tensor = _weight(dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "length": str(size), **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_external_data(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(bytes(8) + np.full(6, 2, np.float32).tobytes())
    model = _with_weight(_external("weights/w.bin", offset="8"))
    path = tmp_path / "good.onnx"
    path.write_bytes(model.SerializeToString())
    np.testing.assert_array_equal(
        petaflop_onnx.load(path)({"x": np.ones((2, 3), np.float32)})["y"].numpy(), 3
    )


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "/etc/passwd",
        "a/../../w.bin",
        "w\0.bin",
        "",
        "./w.bin",
        "link.bin",
        "/dev/zero",
        "none.bin",
        "pipe",
    ],
)
def test_external_paths(tmp_path: Path, location: str) -> None:
    outside = tmp_path / "w.bin"
    outside.write_bytes(bytes(24))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    _refused_model(folder, _with_weight(_external(location)), "external_data.location")


@pytest.mark.parametrize(
    "entries", [{"offset": "1"}, {"offset": "-8"}, {"length": "1" * 30}, {"length": "8"}, {"x": "1"}]
)
def test_external_sizes(tmp_path: Path, entries: dict[str, str]) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(24))
    _refused_model(tmp_path, _with_weight(_external("w.bin", **entries)), "external_data")


# ---- graphs ----


def _relu(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [source], [target])


def _field(number: int, data: bytes) -> bytes:
    """One length-delimited field of a protobuf message."""
    size, prefix = len(data), bytearray([number << 3 | 2])
    while size > 127:
        prefix.append(size & 127 | 128)
        size >>= 7
    return bytes(prefix) + bytes([size]) + data


def test_if_nested_60_deep(tmp_path: Path) -> None:
    """Written byte by byte, since protobuf itself refuses to build it."""
    graph = b""
    for _ in range(60):
        attribute = _field(1, b"then_branch") + _field(6, graph) + b"\xa0\x01\x05"
        graph = _field(1, _field(1, b"c") + _field(2, b"y") + _field(4, b"If") + _field(5, attribute))
    path = tmp_path / "deep.onnx"
    path.write_bytes(b"\x08\x08" + _field(7, graph) + _field(8, _field(1, b"") + b"\x10\x0d"))
    _refused(path)


def _nested_if(depth: int) -> onnx.NodeProto:
    node = _relu("x", "y")
    other = helper.make_graph([node], "b", [], [_info("y", 2, 3)])
    for _ in range(depth):
        branch = helper.make_graph([node], "b", [], [_info("y", 2, 3)])
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other)
    return node


_GRAPHS: dict[str, tuple[Callable[[], onnx.ModelProto], list[str]]] = {
    "cycle": (lambda: _model([_relu("b", "a"), _relu("a", "b"), _relu("b", "y")]), ["cycle"]),
    "itself": (lambda: _model([_relu("y", "y")]), ["cycle"]),
    "missing input": (lambda: _model([_relu("nowhere", "y")]), ["node[0]", "'nowhere'"]),
    "no input": (lambda: _model([_relu("", "y")]), ["node[0]", "input"]),
    "two inputs": (lambda: _model([helper.make_node("Relu", ["x", "x"], ["y"])]), ["expected 1 to 1"]),
    "no output": (lambda: _model([_relu("x", "z")]), ["graph.output[0]", "'y'"]),
    "defined twice": (lambda: _model([_relu("x", "y"), _relu("x", "y")]), ["node[1]", "'y' again"]),
    "redefined input": (lambda: _model([_relu("y", "x"), _relu("x", "y")]), ["'x' again"]),
    "new opset": (lambda: _model([_relu("x", "y")], opset=9999), ["opset_import", "9999"]),
    "opset 0": (lambda: _model([_relu("x", "y")], opset=0), ["opset_import"]),
    "unknown domain": (
        lambda: _model([helper.make_node("Relu", ["x"], ["y"], domain="com.example")]),
        ["com.example::Relu", "not in opset_import"],
    ),
    "unknown operators": (
        lambda: _model([helper.make_node("Foo", ["x"], ["a"]), helper.make_node("Bar", ["a"], ["y"])]),
        ["Foo-13", "Bar-13"],
    ),
    "unknown attribute": (
        lambda: _model([helper.make_node("Relu", ["x"], ["y"], slope=1)]),
        ["attribute 'slope'"],
    ),
    "attribute type": (
        lambda: _model([helper.make_node("Softmax", ["x"], ["y"], axis=0.5)]),
        ["attribute 'axis'", "expected INT, got FLOAT"],
    ),
    "missing attribute": (lambda: _model([helper.make_node("Cast", ["x"], ["y"])]), ["attribute to"]),
    "nested If": (lambda: _model([_nested_if(3)]), ["If"]),
}


@pytest.mark.parametrize("case", _GRAPHS)
def test_bad_graphs(tmp_path: Path, case: str) -> None:
    make, parts = _GRAPHS[case]
    _refused_model(tmp_path, make(), *parts)


def test_old_versions_are_named_in_the_error(tmp_path: Path) -> None:
    node = helper.make_node("Upsample", ["x", "s"], ["y"])
    scales = numpy_helper.from_array(np.ones(2, np.float32), "s")
    _refused_model(tmp_path, _model([node], [scales], opset=10), "Upsample-10")


def test_a_bomb_is_refused_before_it_is_computed(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.asarray([1 << 20, 1 << 20, 1 << 10, 2, 3], np.int64), "s")
    model = _model([helper.make_node("Expand", ["x", "s"], ["z"]), _relu("z", "y")], [shape])
    path = tmp_path / "bomb.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="bytes for one value"):
        petaflop_onnx.load(path)({"x": np.ones((2, 3), np.float32)})


def test_a_constant_bomb_is_refused_when_loaded(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.asarray([1 << 31, 1 << 31], np.int64), "s")
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["z"]), helper.make_node("Add", ["x", "z"], ["y"])]
    _refused_model(tmp_path, _model(nodes, [shape]), "bytes for one value")


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap", "constant"])
def test_a_bomb_of_pads_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "bomb.onnx"
    model = _two_inputs("Pad", np.asarray([0, 0, 0, 1 << 46], np.int64), mode=mode)
    path.write_bytes(model.SerializeToString())
    with _quick(), pytest.raises(FileFormatError, match=r"bomb\.onnx: node 'one'.*at most"):
        petaflop_onnx.load(path)({"x": np.ones((2, 3), np.float32)})


def test_bad_values_name_the_node(tmp_path: Path) -> None:
    node = helper.make_node("Transpose", ["x"], ["y"], name="turn", perm=[0, 7])
    path = tmp_path / "bad.onnx"
    path.write_bytes(_model([node]).SerializeToString())
    with pytest.raises(FileFormatError, match=r"bad.onnx: node 'turn' \(Transpose-13\): .*float32\[2, 3\]"):
        petaflop_onnx.load(path)({"x": np.ones((2, 3), np.float32)})


def _two_inputs(op: str, second: np.ndarray, **attributes: object) -> onnx.ModelProto:
    """One node on x and a constant."""
    node = helper.make_node(op, ["x", "w"], ["y"], name="one", **attributes)
    return _model([node], [numpy_helper.from_array(second, "w")], opset=19 if op == "Pad" else 13)


_DTYPES: dict[str, tuple[onnx.ModelProto, str]] = {
    "sizes that are no integers": (
        _two_inputs("Pad", np.asarray([0, 0, np.nan, 1], np.float16)),
        "pads: expected a tensor of int64, got float16",
    ),
    "a shape of bools": (_two_inputs("Reshape", np.ones(2, np.bool_)), "shape: expected a tensor of int64"),
    "operands that differ": (
        _two_inputs("Add", np.ones((2, 3), np.float64)),
        "B: expected float32 as in A, got float64",
    ),
    "parts that differ": (
        _two_inputs("Concat", np.ones((2, 3), np.int32), axis=0),
        "inputs: expected float32 as in inputs, got int32",
    ),
    "a type that it never takes": (
        _two_inputs("And", np.ones((2, 3), np.bool_)),
        "A: expected a tensor of bool",
    ),
}


@pytest.mark.parametrize("case", _DTYPES)
def test_wrong_dtypes_name_the_input(tmp_path: Path, case: str) -> None:
    model, says = _DTYPES[case]
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match=r"bad\.onnx: node 'one'") as caught:
        petaflop_onnx.load(path)({"x": np.ones((2, 3), np.float32)})
    assert says in str(caught.value)


def test_a_gap_among_repeated_inputs(tmp_path: Path) -> None:
    node = helper.make_node("Concat", ["x", "", "x"], ["y"], axis=0)
    _refused_model(tmp_path, _model([node]), "node[0]", "expected Concat's input inputs, got none")


@pytest.mark.parametrize("depth", [0, 3])
def test_index_tuples_that_fit_no_axis(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(_two_inputs("GatherND", np.zeros((1, depth), np.int64)).SerializeToString())
    with pytest.raises(FileFormatError, match=f"indices: expected tuples .* got {depth} numbers"):
        petaflop_onnx.load(path)({"x": np.ones((2, 3), np.float32)})


def _changed(model: onnx.ModelProto, chance: random.Random) -> bytes:
    """The model with one attribute, constant, name or operator changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    node, weight = chance.choice(list(graph.node)), chance.choice(list(graph.initializer))
    number = chance.choice([0, 1, -1, 7, -3, 1 << 31, 1 << 62, -(1 << 63)])
    names = [tensor.name for tensor in graph.initializer] + [each for n in graph.node for each in n.output]
    kind = chance.randrange(6)
    if kind == 0 and node.attribute:
        attribute = chance.choice(list(node.attribute))
        attribute.i = number
        if attribute.ints:
            attribute.ints[chance.randrange(len(attribute.ints))] = number
    elif kind == 1:
        array = numpy_helper.to_array(weight).copy()
        array.reshape(-1)[: chance.randrange(3)] = 0 if array.dtype == np.bool_ else number
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    elif kind == 2:
        dtype = chance.choice([np.int32, np.int64, np.float16, np.float64, np.bool_])
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(dtype), weight.name))
    elif kind == 3:
        array = numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(array.reshape(-1)[: chance.randrange(9)], weight.name))
    elif kind == 4:
        node.input[chance.randrange(len(node.input))] = chance.choice(["", "x", *names])
    else:
        node.op_type = chance.choice([other.op_type for other in graph.node])
    return copy.SerializeToString()


def _rich() -> onnx.ModelProto:
    """Sizes as inputs, attributes and results, in a row."""
    arrays = {
        "kernel": np.ones((2, 1, 2, 2), np.float32),
        "pads": np.asarray([0, 1, 0, 1], np.int64),
        "last": np.asarray([-1], np.int64),
        "starts": np.asarray([0], np.int64),
        "ends": np.asarray([6], np.int64),
        "order": np.asarray([[0, 1], [1, 0]], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Pad", ["x", "pads"], ["a"], mode="constant"),
        node("Unsqueeze", ["a", "starts"], ["b"]),
        node("Unsqueeze", ["b", "starts"], ["c"]),
        node("Conv", ["c", "kernel"], ["d"], strides=[1, 1], pads=[0, 0, 1, 0], dilations=[1, 1]),
        node("Shape", ["d"], ["e"]),
        node("Slice", ["e", "starts", "last"], ["f"]),
        node("Concat", ["f", "last"], ["g"], axis=0),
        node("Reshape", ["d", "g"], ["h"]),
        node("Slice", ["h", "starts", "ends", "last"], ["i"]),
        node("Squeeze", ["i", "starts"], ["j"]),
        node("Transpose", ["j"], ["k"], perm=[1, 0, 2]),
        node("GatherND", ["k", "order"], ["l"]),
        node("ReduceSum", ["l", "last"], ["m"], keepdims=1),
        node("Softmax", ["m"], ["y"], axis=0),
    ]
    return _model(nodes, [numpy_helper.from_array(array, name) for name, array in arrays.items()])


def _try(path: Path) -> str:
    """Load a model of one input x and trace it, without kernels being compiled: "ran" or "refused"."""
    try:
        graph = build(path, read_model(path))
        values: dict[str, Value | None] = {
            name: Constant(array, "reference") for name, array in graph.constants.items()
        }
        x = Tensor(np.ones((2, 3), np.float32), device="reference")
        values.update((spec.name, x) for spec in graph.inputs)
        Execution(path, "reference").run(graph.steps, values)
    except NeedsValue:
        return "ran"
    except FileFormatError as error:
        assert str(error).startswith(f"{path.name}: ") and "\n" not in str(error)
        return "refused"
    return "ran"


def test_changed_models_run_or_are_refused(tmp_path: Path) -> None:
    """Any one thing changed: a result or a typed error, at load or at the first call; never another."""
    model, chance, outcomes = _rich(), random.Random(5), {"ran": 0, "refused": 0}
    path = tmp_path / "changed.onnx"
    for _ in range(150):
        path.write_bytes(_changed(model, chance))
        with _quick():
            outcomes[_try(path)] += 1
    assert min(outcomes.values()) > 10, outcomes


def _nested() -> onnx.ModelProto:
    """Branches, loops, a function, a sequence, text and 4-bit weights."""
    node, info = helper.make_node, _info
    weight = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    then = [node("Mul", ["x", "w"], ["t"])]
    branches = {
        "then_branch": helper.make_graph(then, "a", [], [info("t", 2, 3)], [weight]),
        "else_branch": helper.make_graph([node("Neg", ["x"], ["e"])], "b", [], [info("e", 2, 3)]),
    }
    round_ = [node("Add", ["v", "x"], ["u"]), node("Identity", ["go"], ["on"])]
    given = [info("i", kind=TensorProto.INT64), info("go", kind=TensorProto.BOOL), info("v", 2, 3)]
    loop = helper.make_graph(round_, "l", given, [info("on", kind=TensorProto.BOOL), info("u", 2, 3)])
    row = helper.make_graph(
        [node("Add", ["s", "r"], ["q"])], "s", [info("s", 3), info("r", 3)], [info("q", 3)]
    )
    opsets = [helper.make_opsetid("", 25), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])], opsets)
    nodes = [
        node("If", ["c"], ["y0"], **branches),
        node("Loop", ["n", "", "y0"], ["y1"], body=loop),
        node("Scan", ["z", "y1"], ["last"], body=row, num_scan_inputs=1),
        node("SequenceConstruct", ["y1", "x"], ["both"]),
        node("SequenceAt", ["both", "one"], ["y2"]),
        node("F", ["y2"], ["y3"], domain="local"),
        node("DequantizeLinear", ["small", "scale"], ["d"]),
        node("Add", ["y3", "d"], ["y4"]),
        node("StringSplit", ["text"], ["parts", "count"], delimiter="."),
        node("Cast", ["count"], ["counts"], to=TensorProto.FLOAT),
        node("ReduceSum", ["counts"], ["total"], keepdims=0),
        node("Add", ["y4", "total"], ["y5"]),
        node("HannWindow", ["three"], ["window"]),
        node("Mul", ["y5", "window"], ["y"]),
    ]
    arrays = {
        "c": np.asarray(True),
        "n": np.asarray(3),
        "z": np.zeros(3, np.float32),
        "one": np.asarray(1),
        "small": np.asarray([[1, -2, 3], [4, 5, -6]], ml_dtypes.int4),
        "scale": np.asarray(0.5, np.float32),
        "text": np.asarray(["a.b", "c"], object),
        "three": np.asarray(3),
    }
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    outputs = [info("y", 2, 3), info("last", 3)]
    graph = helper.make_graph(nodes, "g", [info("x", 2, 3)], outputs, weights)
    return helper.make_model(graph, opset_imports=opsets, ir_version=11, functions=[function])


@pytest.mark.parametrize("seed", range(4))
def test_bytes_changed_in_a_nested_model(tmp_path: Path, seed: int) -> None:
    """Any byte changed: a result or a typed error, never another."""
    data, chance, outcomes = _nested().SerializeToString(), random.Random(seed), {"ran": 0, "refused": 0}
    path = tmp_path / "changed.onnx"
    path.write_bytes(data)
    assert _try(path) == "ran"
    for _ in range(150):
        changed = bytearray(data)
        place = chance.randrange(len(data))
        changed[place] = chance.choice(
            [0, 1, 0x7F, 0xFF, data[place] ^ 1, data[place] ^ 0x80, chance.randrange(256)]
        )
        path.write_bytes(bytes(changed))
        with _quick():
            outcomes[_try(path)] += 1
    assert min(outcomes.values()) > 5, outcomes


_BOMBS: dict[str, tuple[str, int, list[np.ndarray], dict[str, object]]] = {
    "determinant": ("Det", 11, [np.zeros((1 << 10, 1 << 10), np.float32)], {}),
    "n-grams": (
        "TfIdfVectorizer",
        9,
        [np.zeros(2, np.int64)],
        {
            "ngram_counts": [0],
            "ngram_indexes": [1 << 40],
            "pool_int64s": [1],
            "mode": "TF",
            "max_gram_length": 1,
            "min_gram_length": 1,
            "max_skip_count": 0,
        },
    ),
    "regions": (
        "RoiAlign",
        16,
        [
            np.zeros((1, 1, 4, 4), np.float32),
            np.asarray([[0, 0, 1e9, 1e9]], np.float32),
            np.zeros(1, np.int64),
        ],
        {},
    ),
    "random numbers": ("RandomNormal", 1, [], {"shape": [1 << 20, 1 << 20, 1 << 10]}),
    "an image": ("ImageDecoder", 20, [np.frombuffer(b"P6 99999 99999 255 ", np.uint8)], {}),
}


@pytest.mark.parametrize("case", _BOMBS)
def test_bombs_of_one_operator(tmp_path: Path, case: str) -> None:
    op, opset, arrays, attributes = _BOMBS[case]
    names = [f"w{k}" for k in range(len(arrays))]
    node = helper.make_node(op, names, ["y"], name="one", **attributes)
    weights = [numpy_helper.from_array(array, name) for name, array in zip(names, arrays, strict=True)]
    graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="y")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    _refused_model(tmp_path, model, "node 'one'")


def test_an_unsorted_graph_runs(tmp_path: Path) -> None:
    path = tmp_path / "unsorted.onnx"
    path.write_bytes(_model([_relu("b", "y"), _relu("a", "b"), _relu("x", "a")]).SerializeToString())
    x = np.asarray([[-1, 0, 1], [2, -3, 4]], np.float32)
    np.testing.assert_array_equal(petaflop_onnx.load(path)({"x": x})["y"].numpy(), x.clip(0))
