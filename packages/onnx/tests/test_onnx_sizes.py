"""Sizes that vary from call to call: one capture serves all of them, and gives what onnxruntime gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_case import Array, feeds_for, load_filled, run_onnxruntime

import petaflop_onnx
from petaflop import Tensor, jit
from petaflop.errors import FileFormatError
from petaflop.profile import Profile, profile
from petaflop_onnx import dynamic

DATA = Path(__file__).parent / "data"
Sizes = dict[str, int]


class Case:
    """One graph in both engines."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.model, self.ours = model, petaflop_onnx.load(path)
        self.theirs = onnxruntime.InferenceSession(str(path), options)

    def check(self, seed: int = 0, **sizes: int) -> Profile:
        """What ran, once both have given the same; outputs have plain shapes."""
        feeds = feeds_for(self.model, sizes, seed)
        with profile() as seen:
            outputs = self.ours(feeds)
        for ours, theirs in zip(outputs.values(), self.theirs.run(None, feeds), strict=True):
            assert all(type(size) is int for size in ours.shape) and ours.shape == theirs.shape
            largest = np.abs(theirs).max(initial=0.0) or 1.0
            np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4 * largest, rtol=0)
        return seen


def is_replay(seen: Profile) -> bool:
    return not seen.schedules and not seen.compiles


def prompt(length: int, past: int) -> Sizes:
    return {"seq": length, "past": past, "total": length + past}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(load_filled(DATA / "llama-tiny.onnx"), tmp_path_factory.mktemp("llama"))


def test_a_decoder_has_one_capture_for_prompts_and_one_for_decoding(llama: Case) -> None:
    llama.check(**prompt(5, 0))  # as numbers: nothing says yet what varies
    made = [not is_replay(llama.check(**prompt(4, 9)))]
    for length, past in [(13, 7), (9, 0), (64, 0), (2, 1), (3, 40), (5, 0), (33, 31)]:
        made.append(not is_replay(llama.check(**prompt(length, past))))
    for past in range(14, 34):
        made.append(not is_replay(llama.check(past, **prompt(1, past))))
    assert sum(made) == 2 and made[0] and made[8]


def test_a_cache_carried_on_equals_the_whole_text_at_once(llama: Case) -> None:
    text = np.random.default_rng(1).integers(0, 32000, (1, 12))
    caches = [spec.name for spec in llama.ours.inputs if spec.name.startswith("past")]

    def step(ids: Array, past: Sequence[Array]) -> tuple[Array, list[Array]]:
        start = past[0].shape[2]
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((1, start + ids.shape[1]), np.int64),
            "position_ids": np.arange(start, start + ids.shape[1])[None],
            **dict(zip(caches, past, strict=True)),
        }
        outputs = {name: value.numpy() for name, value in llama.ours(feeds).items()}
        return outputs["logits"], [outputs[name.replace("past", "present")] for name in caches]

    empty = [np.zeros((1, 2, 0, 32), np.float32)] * len(caches)
    whole, _ = step(text, empty)
    first, past = step(text[:, :4], empty)
    parts = [first]
    for place in range(4, 12):
        logits, past = step(text[:, place : place + 1], past)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-4 * np.abs(whole).max())


def test_an_encoder_has_one_capture_for_batches_and_lengths(tmp_path: Path) -> None:
    case = Case(load_filled(DATA / "minilm-l6.onnx"), tmp_path)
    case.check(batch=2, seq=12)
    case.check(batch=3, seq=20)
    for batch, length in [(2, 30), (7, 9), (5, 128), (3, 20)]:
        assert is_replay(case.check(batch=batch, seq=length))
    case.check(batch=1, seq=11)  # a batch of one is a number
    assert is_replay(case.check(batch=1, seq=77))
    assert is_replay(case.check(batch=1, seq=512))  # the graph's own table of positions ends here


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[str | int | None]],
    outputs: dict[str, int],
    constants: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """Float inputs of these shapes, float outputs of these ranks."""
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs.items()]
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * r) for n, r in outputs.items()]
    weights = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "sizes", given, made, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


node = helper.make_node


def masked() -> onnx.ModelProto:
    """x + y, where y is as long as x and z together: no graph for three free sizes."""
    nodes = [node("Concat", ["x", "z"], ["both"], axis=0), node("Add", ["both", "y"], ["out"])]
    return graph_of(nodes, {"x": ["a", 3], "z": ["b", 3], "y": ["c", 3]}, {"out": 2})


def test_a_relation_between_sizes_is_found_and_guarded(tmp_path: Path) -> None:
    case = Case(masked(), tmp_path)
    case.check(a=2, b=3, c=5)
    assert not is_replay(case.check(a=4, b=9, c=13))
    for a, b in [(7, 2), (2, 7), (30, 40), (4, 9)]:
        assert is_replay(case.check(a=a, b=b, c=a + b))
    case.check(a=3, b=5, c=1)  # broadcast, not added up: another capture
    assert is_replay(case.check(a=3, b=5, c=1))
    assert is_replay(case.check(a=6, b=2, c=8))
    with pytest.raises(FileFormatError, match="broadcast"):
        case.check(a=3, b=5, c=7)
    assert is_replay(case.check(a=5, b=5, c=10))
    assert not is_replay(case.check(a=5000, b=5, c=5005))  # past the bound: by the same relation
    assert is_replay(case.check(a=4800, b=300, c=5100))


def test_a_coincidence_is_no_relation(tmp_path: Path) -> None:
    """The sizes are equal in two calls and not in the third."""
    model = graph_of([node("MatMul", ["x", "y"], ["out"])], {"x": ["a", 4], "y": [4, "b"]}, {"out": 2})
    case = Case(model, tmp_path)
    case.check(a=3, b=3)
    case.check(a=5, b=5)
    assert is_replay(case.check(a=6, b=9))


def shapes(*inputs: str) -> dict[str, Sequence[str | int | None]]:
    return {name: ["n", "m"] for name in inputs}


LARGE = 1 << 62
# name -> a model of x [n, m] that reads its shape, by each operator of shape arithmetic that exporters use
ARITHMETIC: dict[str, Callable[[], onnx.ModelProto]] = {
    "reshape to a product": lambda: graph_of(
        [
            node("Shape", ["x"], ["s"]),
            node("ReduceProd", ["s"], ["p"], keepdims=0),
            node("Unsqueeze", ["p", "zero"], ["t"]),
            node("Reshape", ["x", "t"], ["out"]),
        ],
        shapes("x"),
        {"out": 1},
        {"zero": np.asarray([0])},
    ),
    "reshape to one unknown": lambda: graph_of(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "one"], ["m"]),
            node("Concat", ["minus", "m", "two"], ["t"], axis=0),
            node("Concat", ["x", "x"], ["double"], axis=0),
            node("Reshape", ["double", "t"], ["out"]),
        ],
        shapes("x"),
        {"out": 3},
        {"one": np.asarray([1]), "two": np.asarray([2]), "minus": np.asarray([-1])},
    ),
    "slice off the ends": lambda: graph_of(
        [node("Slice", ["x", "start", "stop", "axes"], ["out"])],
        shapes("x"),
        {"out": 2},
        {"start": np.asarray([1, -2]), "stop": np.asarray([LARGE, -1]), "axes": np.asarray([0, 1])},
    ),
    "slice to half": lambda: graph_of(
        [
            node("Shape", ["x"], ["s"], start=0, end=1),
            node("Div", ["s", "two"], ["half"]),
            node("Slice", ["x", "half", "s", "zero"], ["out"]),
        ],
        shapes("x"),
        {"out": 2},
        {"two": np.asarray([2]), "zero": np.asarray([0])},
    ),
    "expand and range": lambda: graph_of(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "one"], ["m"]),
            node("Range", ["zero", "m", "one"], ["r"]),
            node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
            node("Expand", ["f", "s"], ["e"]),
            node("Mul", ["e", "x"], ["out"]),
        ],
        shapes("x"),
        {"out": 2},
        {"one": np.asarray(1), "zero": np.asarray(0)},
    ),
    "a size as a value": lambda: graph_of(
        [
            node("Size", ["x"], ["s"]),
            node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
            node("ReduceSum", ["x"], ["t"], keepdims=0),
            node("Div", ["t", "f"], ["out"]),
        ],
        shapes("x"),
        {"out": 0},
    ),
    "constant of shape": lambda: graph_of(
        [
            node("Shape", ["x"], ["s"]),
            node("Add", ["s", "more"], ["t"]),
            node("ConstantOfShape", ["t"], ["out"]),
        ],
        shapes("x"),
        {"out": 2},
        {"more": np.asarray([1, 3])},
    ),
    "where and equal": lambda: graph_of(
        [
            node("Shape", ["x"], ["s"]),
            node("Equal", ["wanted", "minus"], ["free"]),
            node("Where", ["free", "s", "wanted"], ["t"]),
            node("Max", ["t", "least"], ["u"]),
            node("Expand", ["y", "u"], ["out"]),
        ],
        {"x": ["n", "m"], "y": [1, 1]},
        {"out": 2},
        {"wanted": np.asarray([-1, 7]), "minus": np.asarray([-1, -1]), "least": np.asarray([1, 2])},
    ),
    "triangle, tile and split": lambda: graph_of(
        [
            node("Tile", ["x", "repeats"], ["t"]),
            node("Trilu", ["t"], ["u"], upper=0),
            node("Split", ["u"], ["out", "other"], axis=1, num_outputs=2),
        ],
        {"x": ["n", 3]},
        {"out": 2, "other": 2},
        {"repeats": np.asarray([1, 2])},
    ),
    "the last row": lambda: graph_of(
        [node("Gather", ["x", "last"], ["out"], axis=0)], shapes("x"), {"out": 1}, {"last": np.asarray(-1)}
    ),
    "a bound of the graph's own": lambda: graph_of(
        [node("Shape", ["x"], ["s"], end=1), node("Slice", ["table", "zero", "s", "zero"], ["out"])],
        shapes("x"),
        {"out": 2},
        {"table": np.arange(60, dtype=np.float32).reshape(30, 2), "zero": np.asarray([0])},
    ),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_shape_arithmetic_carries_sizes_that_vary(name: str, tmp_path: Path) -> None:
    case = Case(ARITHMETIC[name](), tmp_path)
    case.check(n=4, m=6)
    case.check(n=7, m=5)
    for n, m in [(2, 9), (12, 2), (7, 5), (30, 11)]:
        assert is_replay(case.check(n=n, m=m)), name
    for n, m in [(1, 5), (1, 8), (50, 2), (3, 1)]:
        case.check(n=n, m=m)


def on(
    op: str, *others: str, shape: Sequence[str | int] = ("n", "m"), **attributes: Any
) -> Callable[..., Any]:
    """A model of one operator on x, whose other inputs are the constants of these names."""
    constants = {
        "axis": np.asarray([1]),
        "place": np.asarray(1),
        "i": np.asarray([1, 0, -1]),
        "two": np.asarray([2]),
        "pads": np.asarray([0, 1, 2, 0]),
        "many": np.asarray([2, 1, 3, 4]),
        "w": np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5),
        "scale": np.linspace(1, 2, 4, dtype=np.float32),
        "row": np.asarray([[1, 0, 1, 1]]),
        "values": np.ones((1, 4), np.float32),
    }
    used = {name: constants[name] for name in others if name in constants}
    names = ["x", *others]
    count = attributes.pop("outputs", 1)
    outputs = ["out", *[f"out{k}" for k in range(1, count)]]
    kinds = attributes.pop("kinds", (TensorProto.FLOAT,) * count)

    def make() -> onnx.ModelProto:
        model = graph_of(
            [node(op, names, outputs, **attributes)], {"x": shape}, dict.fromkeys(outputs, 0), used
        )
        for info, kind in zip(model.graph.output, kinds, strict=True):
            info.CopyFrom(helper.make_tensor_value_info(info.name, kind, None))
        return model

    return make


WIDE = ("n", 4)
INTEGER = (TensorProto.INT64,)
# Whether or not a capture holds them for all sizes, they give what onnxruntime gives.
OPERATORS: dict[str, Callable[[], onnx.ModelProto]] = {
    "softmax": on("Softmax", axis=0),
    "log softmax": on("LogSoftmax", axis=1),
    "hardmax": on("Hardmax", axis=0),
    "argmax": on("ArgMax", axis=0, keepdims=0, kinds=INTEGER),
    "argmin": on("ArgMin", axis=1, kinds=INTEGER),
    "top": on("TopK", "two", axis=0, outputs=2, kinds=(TensorProto.FLOAT, TensorProto.INT64)),
    "cumsum": on("CumSum", "place", reverse=1),
    "mean": on("ReduceMean", "axis"),
    "max": on("ReduceMax", "axis"),
    "prod": on("ReduceProd"),
    "logsumexp": on("ReduceLogSumExp", "axis", keepdims=0),
    "l2": on("LpNormalization", axis=0),
    "layer norm": on("LayerNormalization", "scale", shape=WIDE),
    "gather": on("Gather", "i", axis=0),
    "pad": on("Pad", "pads"),
    "pad edge": on("Pad", "pads", mode="edge"),
    "pad reflect": on("Pad", "pads", mode="reflect"),
    "matmul": on("MatMul", "w", shape=WIDE),
    "matmul of rows": on("MatMul", "w", shape=("n", "m", 4)),
    "einsum": on("Einsum", "x", equation="ij,kj->ik"),
    "flatten": on("Flatten", axis=2, shape=("n", "m", 3)),
    "squeeze": on("Squeeze", shape=("n", 1, "m")),
    "transpose": on("Transpose", perm=[1, 0]),
    "eye": on("EyeLike", k=1),
    "triangle": on("Trilu", upper=1),
    "nonzero": on("NonZero", kinds=INTEGER),
    "depth to space": on("DepthToSpace", blocksize=2, shape=("n", 4, "m", 3)),
    "space to depth": on("SpaceToDepth", blocksize=2, shape=("n", 2, 4, "m")),
    "elements": on("GatherElements", "row", axis=0, shape=WIDE),
    "scattered": on("ScatterElements", "row", "values", axis=0, shape=WIDE),
    "tile": on("Tile", "many", shape=("n", "m", 2, 1)),
    "tile nothing": on("Tile", "pads", shape=("n", "m", 2, 1)),
    "dropout": on("Dropout"),
    "shape": on("Shape", kinds=INTEGER),
    "size": on("Size", kinds=INTEGER),
    "celu": on("Celu"),
    "mean variance": on("MeanVarianceNormalization", axes=[0], shape=("n", "m")),
    "group norm": on("InstanceNormalization", "scale", "scale", shape=("n", 4, "m")),
}


NO_SINGLE_ROWS = {"top", "gather", "pad reflect", "space to depth", "elements", "scattered", "mean variance"}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_is_right_at_every_size(name: str, tmp_path: Path) -> None:
    case = Case(OPERATORS[name](), tmp_path)
    for n, m in [(4, 6), (6, 4), (8, 10), (4, 12), (16, 4), (64, 8)]:
        case.check(n=n, m=m)
    for n, m in [] if name in NO_SINGLE_ROWS else [(1, 6), (1, 8), (4, 1), (2, 3)]:
        case.check(n=n, m=m)


# What depends on the value of a size, so that no capture holds it for all of them.
NUMBERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "a step in the slice": lambda: graph_of(
        [node("Slice", ["x", "zero", "stop", "zero", "two"], ["out"])],
        shapes("x"),
        {"out": 2},
        {"zero": np.asarray([0]), "stop": np.asarray([LARGE]), "two": np.asarray([2])},
    ),
    "uneven parts": lambda: graph_of(
        [node("Split", ["x"], ["out", "other"], axis=0, num_outputs=2)], shapes("x"), {"out": 2, "other": 2}
    ),
    "the smaller of two sizes": lambda: graph_of(
        [
            node("Shape", ["x"], ["s"]),
            node("ReduceMin", ["s"], ["least"], keepdims=1),
            node("ConstantOfShape", ["least"], ["out"]),
        ],
        shapes("x"),
        {"out": 1},
    ),
    "as many copies as columns": lambda: graph_of(
        [
            node("Shape", ["x"], ["s"]),
            node("Concat", ["one", "one"], ["ones"], axis=0),
            node("Where", ["flag", "s", "ones"], ["t"]),
            node("Tile", ["x", "t"], ["out"]),
        ],
        shapes("x"),
        {"out": 2},
        {"one": np.asarray([1]), "flag": np.asarray([False, True])},
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_graph_that_needs_numbers_has_a_capture_for_each_shape(name: str, tmp_path: Path) -> None:
    case = Case(NUMBERS[name](), tmp_path)
    for n, m in [(4, 6), (7, 5), (9, 3), (2, 8)]:
        assert not is_replay(case.check(n=n, m=m))
        assert is_replay(case.check(n=n, m=m))


def test_an_image_model_keeps_a_capture_for_each_shape(tmp_path: Path) -> None:
    model = graph_of(
        [node("Conv", ["x", "w"], ["out"], kernel_shape=[3, 3])],
        {"x": ["batch", 2, "height", "width"]},
        {"out": 4},
        {"w": np.ones((2, 2, 3, 3), np.float32)},
    )
    case = Case(model, tmp_path)
    for batch, height in [(1, 8), (2, 9), (3, 10)]:
        assert not is_replay(case.check(batch=batch, height=height, width=8))


def test_sizes_past_the_bound_of_a_capture_make_another(tmp_path: Path) -> None:
    model = graph_of([node("ReduceSum", ["x", "axis"], ["out"])], shapes("x"), {"out": 2}, {"axis": [1]})
    case = Case(model, tmp_path)
    for n, m in [(3, 4), (5, 6), (3, 5000), (4, 9000), (2, 30)]:
        case.check(n=n, m=m)
    assert is_replay(case.check(n=6, m=10000)) and is_replay(case.check(n=2, m=40))


def test_sizes_without_a_name_vary_as_well(tmp_path: Path) -> None:
    model = graph_of([node("Relu", ["x"], ["out"])], {"x": [None, 3]}, {"out": 2})
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    ours = petaflop_onnx.load(path)
    made = []
    for n in (2, 5, 9, 4):
        x = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)
        with profile() as seen:
            np.testing.assert_array_equal(ours({"x": x})["out"].numpy(), run_onnxruntime(model, {"x": x})[0])
        made.append(not is_replay(seen))
    assert made == [True, True, False, False]


def test_two_threads_never_mix_their_sizes(tmp_path: Path) -> None:
    case = Case(masked(), tmp_path)
    case.check(a=2, b=3, c=5)
    case.check(a=4, b=9, c=13)
    wrong: list[str] = []

    def work(first: int) -> None:
        for k in range(60):
            a, b = 2 + (k * first) % 17, 2 + (k + first) % 13
            feeds = feeds_for(case.model, {"a": a, "b": b, "c": a + b}, k)
            got = case.ours(feeds)["out"].numpy()
            expected = np.concatenate([feeds["x"], feeds["z"]]) + feeds["y"]
            if got.shape != expected.shape or not np.array_equal(got, expected):
                wrong.append(f"{a}, {b}")

    threads = [threading.Thread(target=work, args=(first,)) for first in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_model_inside_a_jitted_function_is_part_of_it(tmp_path: Path) -> None:
    case = Case(masked(), tmp_path)
    case.check(a=2, b=3, c=5)
    case.check(a=4, b=9, c=13)
    twice = jit(lambda x, z, y: case.ours({"x": x, "z": z, "y": y})["out"] * 2)
    for _ in range(2):
        feeds = feeds_for(case.model, {"a": 3, "b": 4, "c": 7})
        got = twice(*(Tensor(feeds[name]) for name in "xzy"))
        expected = 2 * (np.concatenate([feeds["x"], feeds["z"]]) + feeds["y"])
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


def test_a_fault_in_a_capture_for_all_sizes_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The model still runs, with a capture for each set of sizes; nothing is hidden."""

    def faulty(*_: object) -> list[Tensor]:
        raise AttributeError("no such thing")

    monkeypatch.setattr(dynamic._Form, "run", faulty)
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"])] for name in ("x", "y")
    )
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "graph", inputs, outputs)
    case = Case(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path)
    case.check(rows=3)
    with pytest.warns(RuntimeWarning, match="got AttributeError: no such thing; the model runs"):
        case.check(rows=4)
