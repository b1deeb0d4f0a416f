"""Tensor functions to ONNX: onnxruntime and our importer give what the function gives, dtype by dtype."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from export_case import Array, check, operators, run

import petaflop_onnx
from petaflop import Tensor, grad, nn
from petaflop.dtype import DTYPES
from petaflop.errors import ArgumentError, ArgumentTypeError, DTypeError, JitError, PetaflopError
from petaflop.function import custom_gradient
from petaflop.plugin_api import SPEC
from petaflop_onnx.exporter.front import parse_input
from petaflop_onnx.exporter.methods import METHODS
from petaflop_onnx.exporter.primitives import PRIMITIVES

RNG = np.random.default_rng(11)
Function = Callable[..., Any]


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def of_dtype(dtype: str, *shape: int) -> Array:
    kind = DTYPES[dtype].kind
    if kind in "biu":
        low, high = {"b": (0, 2), "u": (1, 9), "i": (-5, 6)}[kind]
        return RNG.integers(low, high, shape).astype(DTYPES[dtype].numpy)
    return RNG.standard_normal(shape).astype(DTYPES[dtype].numpy)


def test_the_table_has_every_operation() -> None:
    assert set(PRIMITIVES) == set(SPEC)


# ---- whole methods: exactly one operator each ----

_DOMAIN: dict[str, Callable[[Array], Array]] = {
    "Acosh": lambda x: abs(x) + 1,
    "Log": abs,
    "Acos": lambda x: np.clip(x / 4, -1, 1),
    "Asin": lambda x: np.clip(x / 4, -1, 1),
    "Atanh": lambda x: np.clip(x / 4, -0.9, 0.9),
    "log1p": abs,
}
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-6, 3.5, 20.0, -20.0], np.float32)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.operator)
def test_a_method_is_one_operator(method: Any) -> None:
    dtype = {"b": "bool", "i": "int32", "f": "float32"}["f" if "f" in method.kinds else method.kinds[0]]
    arrays = [of_dtype(dtype, 3, 10) for _ in range(method.arity)]
    if dtype == "float32" and method.arity == 1:
        arrays = [_DOMAIN.get(method.operator, lambda x: x)(np.stack([arrays[0][0] * 3, SPECIAL]))]
    if method.operator == "Pow":
        arrays[0] = abs(arrays[0])
    model = check(method.build, *arrays)
    if method.writes is None:
        assert operators(model) == [method.operator]


def test_numbers_next_to_zero_and_far_out() -> None:
    """Where a formula could cancel or overflow: e^x - 1, log(1 + x), the softplus and the logsigmoid."""
    x = np.array([1e-30, -1e-30, 1e-9, -1e-8, 1e-4, -0.5, 0.0, -0.0, 80.0, -80.0, 100.0], np.float32)
    for function in (Tensor.expm1, Tensor.softplus, Tensor.logsigmoid, Tensor.tanh, Tensor.sigmoid):
        check(function, x, tolerance=1e-6)
    check(Tensor.log1p, np.abs(x), tolerance=1e-6)
    (grown,) = run(petaflop_onnx.export(Tensor.log1p, inputs={"x": x}), {"x": np.full_like(x, np.inf)})
    assert np.isposinf(grown).all()


def test_what_is_not_a_number() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1.0, -1.0, 0.0], np.float32)
    y = x[::-1].copy()
    for function in (
        lambda a, b: a.maximum(b),
        lambda a, b: a.minimum(b),
        lambda a, b: a < b,
        lambda a, b: a <= b,
        lambda a, b: a != b,
        lambda a, b: a == b,
        lambda a, b: a.isnan() | b.isinf(),
        lambda a, b: (a + b).relu(),
        lambda a, b: (a > b).where(a, b),
    ):
        check(function, x, y)


# ---- values that ONNX leaves open and we do not ----


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("to", ["int8", "uint8", "int16", "int32", "int64"])
def test_casts_saturate(dtype: str, to: str) -> None:
    x = np.array(
        [
            np.nan,
            np.inf,
            -np.inf,
            1e30,
            -1e30,
            300,
            -300,
            127.9,
            -128.9,
            -0.9,
            2.5,
            65504,
            0,
            2.0**63,
            2.0**31,
            -(2.0**63),
        ]
    )
    with np.errstate(over="ignore"):
        narrow = x.astype(dtype)
    check(lambda t: t.cast(to), narrow)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integer_division_floors_and_never_traps(dtype: str) -> None:
    info = np.iinfo(dtype)
    a = np.array([7, -7, 7, -7, info.min, info.max, 0, info.min, 5], dtype)
    b = np.array([2, 2, -2, -2, 3, -5, 4, -1, -1], dtype)
    check(lambda x, y: x // y, a, b)
    check(lambda x, y: x % y, a, b)
    check(lambda x: x // -3, a)
    check(lambda x: x // 8, a)
    model = petaflop_onnx.export(lambda x, y: x // y, inputs={"x": a, "y": b})
    run(model, {"x": a, "y": np.zeros_like(b)})  # unspecified, but there is a value


def test_an_index_out_of_range_reads_zero_and_writes_nothing() -> None:
    index = np.array([[0, 7, -9], [2, 1, 4]], np.int64)

    def read(x: Tensor, i: Tensor) -> Tensor:
        from petaflop.graph.node import gather

        return x._wrap(gather(x.node, i.node, 1))

    def write(x: Tensor, i: Tensor) -> Tensor:
        from petaflop.graph.node import scatter

        return x._wrap(scatter(x.node, i.node, (x * 10)[:, :3].node, 1, None))

    check(read, normal(2, 4), index)
    check(write, normal(2, 4), index)


# ---- dtypes ----

ANY: dict[str, Function] = {
    "add": lambda a, b: a + b,
    "multiply": lambda a, b: a * b,
    "less": lambda a, b: a < b,
    "differs": lambda a, b: a != b,
    "sum": lambda a, b: a.sum(1),
    "cat": lambda a, b: a.cat(b),
    "flip": lambda a, b: a.flip(0),
    "slice": lambda a, b: a[1:, ::2].T,
    "expand": lambda a, b: a[:, :1].expand(4, 4),
    "rows": lambda a, b: a[[0, 2, -1]],
    "scatter": lambda a, b: a.scatter(1, Tensor([[0, 1], [2, 0], [1, 2], [3, 2]]), b[:, :2]),
    "product": lambda a, b: a @ b,
    "to float32": lambda a, b: a.float(),
    "to float16": lambda a, b: a.half(),
    "to bfloat16": lambda a, b: a.bfloat16(),
    "to int32": lambda a, b: a.int(),
    "to bool": lambda a, b: a.bool(),
}
FLOATS: dict[str, Function] = {
    "softmax": lambda a, b: a.softmax(1),
    "layernorm": lambda a, b: a.layernorm(),
    "divide": lambda a, b: a / b,
    "sigmoid": lambda a, b: a.sigmoid(),
    "convolution": lambda a, b: a.reshape(1, 1, 4, 4).conv2d(b[:2, :2].reshape(1, 1, 2, 2)),
    "pool": lambda a, b: a.reshape(1, 1, 4, 4).max_pool2d(2),
    "sort": lambda a, b: a.sort(1)[0],
    "root": lambda a, b: a.abs().sqrt(),
    "power": lambda a, b: a.abs() ** 0.3,
}
INTEGERS: dict[str, Function] = {
    "subtract": lambda a, b: a - b,
    "divide": lambda a, b: a // b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a, b: ~a,
    "shifts": lambda a, b: (a << 2) >> 1,
}
# What onnxruntime has kernels for, by dtype: what is left out has none, or not for all of this file.
ORT: dict[str, frozenset[str]] = {
    "float64": frozenset({*ANY, *FLOATS}),
    "float16": frozenset({*ANY, *FLOATS}),
    "bfloat16": frozenset({"slice", "flip", "sum", "softmax", "layernorm", "sigmoid", "product"})
    | {name for name in ANY if name.startswith("to ")},
    "int32": frozenset({*ANY, *INTEGERS}),
    "int64": frozenset({*ANY, *INTEGERS}),
    "int8": frozenset({*ANY, *INTEGERS}),
    "uint8": frozenset({*ANY, *INTEGERS}),
    "int16": frozenset({*ANY, *INTEGERS} - {"cat", "rows", "divide", "shifts"}),
    "uint32": frozenset({*ANY, *INTEGERS}),
    "bool": frozenset(ANY),
}


@pytest.mark.parametrize(("dtype", "name"), [(dtype, name) for dtype in ORT for name in sorted(ORT[dtype])])
def test_dtype(dtype: str, name: str) -> None:
    kind = DTYPES[dtype].kind
    function = {**ANY, **(FLOATS if kind == "f" else INTEGERS if kind in "iu" else {})}[name]
    first, second = of_dtype(dtype, 4, 4), of_dtype(dtype, 4, 4)
    if name == "divide":
        second[second == 0] = 3
    check(function, first, second)


def test_float8_keeps_its_bits() -> None:
    x = np.array([0.1, -3.0, 1000.0, np.nan, 0.0], np.float32)
    for name in ("float8_e4m3", "float8_e5m2"):
        model = petaflop_onnx.export(lambda t: t.cast(name).float(), inputs={"x": x})  # noqa: B023
        np.testing.assert_array_equal(run(model, {"x": x})[0], Tensor(x).cast(name).float().numpy())


# ---- movement, reductions, indexing, sizes that vary ----

VARYING: dict[str, Function] = {
    "reshape": lambda x: x.reshape(x.shape[0] * 2, 3),
    "flatten": lambda x: x.flatten(),
    "mean": lambda x: x.mean(0),
    "center": lambda x: x - x.mean(0),
    "variance": lambda x: x.var(1),
    "argmax": lambda x: x.argmax(0),
    "cumsum": lambda x: x.cumsum(0),
    "cat": lambda x: x.cat(x * 2),
    "flip": lambda x: x.flip(0),
    "last": lambda x: x[-1],
    "from the second": lambda x: x[1:],
    "arange": lambda x: Tensor.arange(x.shape[0]),
    "value": lambda x: x * x.shape[0],
    "gram": lambda x: x @ x.T,
    "einsum": lambda x: Tensor.einsum("ij,ik->jk", x, x),
    "triangle": lambda x: (x @ x.T).tril(),
    "ones": lambda x: Tensor.ones(x.shape[0], 2),
    "outer": lambda x: x[:, 0].reshape(-1, 1) * x[:, 1].reshape(1, -1),
    "pad": lambda x: x.pad((0, 0, 1, 2)),
    "repeat": lambda x: x.repeat(2, 1),
    "windows": lambda x: x.unfold(0, 2, 1),
    "rows": lambda x: x[Tensor([0, 1, 1])],
    "onehot": lambda x: (x[:, 0] > 0).int().one_hot(3),
    "softmax": lambda x: x.softmax(0),
    "stack": lambda x: Tensor.stack(x, x + 1),
}


@pytest.mark.parametrize("name", VARYING)
def test_a_size_that_varies(name: str) -> None:
    check(VARYING[name], normal(4, 6), dynamic=[{0: "n"}], others=[[normal(7, 6)], [normal(2, 6)]])


INDEX = [[0, 2], [1, 3], [2, 2], [5, 0]]
FIXED: dict[str, Function] = {
    "steps": lambda x: x.flip(1)[:, ::3],
    "ellipsis": lambda x: x[..., None, 1:],
    "mask": lambda x: x.masked_fill(x > 0, 5),
    "gather": lambda x: x.gather(1, (x[:, :2].abs() * 2).int().clamp(0, 5)),
    "scatter_add": lambda x: x.scatter_add(1, Tensor(INDEX), x[:, :2] * 10),
    "scatter maximum": lambda x: x.scatter_reduce(1, Tensor(INDEX), x[:, :2] * 10, "amax"),
    "scatter product": lambda x: x.scatter_reduce(1, Tensor(INDEX), x[:, :2] * 10, "prod"),
    "topk": lambda x: list(x.topk(3)),
    "roll": lambda x: x.roll(1, 1),
    "reflect": lambda x: x.pad((1, 2), mode="reflect"),
    "pad with 3": lambda x: x.pad((1, 2), value=3.0),
    "unfold": lambda x: x.unfold(1, 3, 2),
    "diagonal": lambda x: x.diagonal(),
    "nearest": lambda x: x.reshape(1, 1, 4, 6).interpolate((8, 9)),
    "linear": lambda x: x.reshape(1, 1, 4, 6).interpolate((8, 9), mode="linear"),
    "pool with places": lambda x: list(x.reshape(1, 1, 4, 6).max_pool2d(2, return_indices=True)),
    "attention": lambda x: x.reshape(1, 2, 2, 6).scaled_dot_product_attention(
        x.reshape(1, 2, 2, 6), x.reshape(1, 2, 2, 6), is_causal=True
    ),
    "qr": lambda x: list(x.qr()),
    "entropy": lambda x: x.cross_entropy(Tensor([1, 2, 3, 0])),
    "floor division": lambda x: x // 0.7,
    "remainder": lambda x: x % -0.7,
    "power of two numbers": lambda x: 2 ** x + x.abs() ** 1.7 + x**-2,
    "all": lambda x: (x > -9).all(),
    "min and max": lambda x: [x.min(), x.amax(0), x.prod(1)],
    "any dict": lambda x: {"a": x + 1, "b": x.sum()},
    "the argument twice": lambda x: [x, x, x + 1, x + 1],
    "a constant": lambda x: Tensor([1.0, 2.0]),
    "gradient": grad(lambda x: (x.tanh() * x.softmax(1)).sum()),
    "gradient of a gradient": lambda x: grad(lambda y: grad(lambda z: (z**3).sum())(y).sum())(x),
}  # fmt: skip


@pytest.mark.parametrize("name", FIXED)
def test_function(name: str) -> None:
    check(FIXED[name], normal(4, 6), tolerance=1e-4 if name == "qr" else None)


@pytest.mark.parametrize("name", ["cumprod", "cummax", "cummin", "logcumsumexp"])
def test_running(name: str) -> None:
    """ONNX's Scan, along either axis."""
    for axis in (0, 1):
        function = lambda x, axis=axis: getattr(x, name)(axis)  # noqa: E731
        check(function, normal(4, 6), dynamic=[{0: "n"}], others=[[normal(3, 6)]])


def test_an_assignment_to_what_the_function_made() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.clone()
        y[1:3, 0:6:2] = 7
        y[0] = y[1] * 2
        y[:, -1] += 1
        return y

    check(function, normal(4, 6))
    check(lambda x: function(x.T).T, normal(6, 4))


def test_a_custom_gradient_is_its_value() -> None:
    @custom_gradient
    def clipped(x: Tensor) -> Any:
        return x * 2, lambda g: g.clamp(-1, 1)

    weight = nn.Parameter(Tensor(normal(3)))
    assert operators(check(lambda x: clipped(x * weight), normal(2, 3))) == ["Mul", "Mul"]


def test_tensors_of_others_are_constants() -> None:
    lazy = Tensor(normal(3)).exp() + 1  # computed before it is written, once
    model = check(lambda x: x * lazy, normal(2, 3))
    assert operators(model) == ["Mul"] and len(model.graph.initializer) == 1


# ---- the front ----


def test_inputs_by_name_or_in_order() -> None:
    def subtract(a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
        return (a - b) * scale

    x, y = normal(2), normal(2)
    by_name = petaflop_onnx.export(subtract, inputs={"b": x, "a": y})
    in_order = petaflop_onnx.export(subtract, inputs={"p": Tensor(x), "q": "float32[2]"}, outputs=["r"])
    np.testing.assert_array_equal(run(by_name, {"a": y, "b": x})[0], y - x)
    np.testing.assert_array_equal(run(in_order, {"p": x, "q": y})[0], x - y)
    assert in_order.graph.output[0].name == "r"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("float32", "expected an input such as float32"),
        ("float99[2]", "float99"),
        ("float32[n]", "or n? for one that varies, got 'n'"),
        ("float32[-1]", "got '-1'"),
        ("float32[2,,3]", "got ''"),
    ],
)
def test_inputs_that_are_not_understood(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        parse_input(text)


def test_a_scalar_and_spaces_are_understood() -> None:
    assert parse_input(" int64[] ")[1] == () and parse_input("float32[2, n?]")[1][0] == 2


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + Tensor.rand(3)


class Counter(nn.Module):
    def __init__(self) -> None:
        self.register_buffer("count", Tensor([0.0]))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x + self.count


weight = Tensor(np.ones(3, np.float32), requires_grad=True)


def trains(x: Tensor) -> Tensor:
    loss = (x * weight).sum()
    loss.backward()
    return loss


REFUSED: dict[str, tuple[Function, type[PetaflopError], str]] = {
    "random": (Noisy(), JitError, "draws random numbers; make them an argument"),
    "assignment": (Counter(), JitError, "assigns to <Tensor float32[1]"),
    "backward": (trains, JitError, "use petaflop.grad"),
    "value": (lambda x: x * x.sum().item(), JitError, "return the tensor and read it outside"),
    "size": (lambda x: x * int(x.shape[0]), ArgumentError, "write a number for n? in the inputs"),
    "bitcast": (lambda x: x.bitcast("int32"), DTypeError, "a bitcast from float32 to int32 (opset 26"),
    "no tensor": (lambda x: 3, ArgumentTypeError, "output output: expected a Tensor, got int"),
    "nothing": (lambda x: (), ArgumentError, "got nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported(name: str) -> None:
    function, kind, message = REFUSED[name]
    with pytest.raises(kind, match=re.escape(message)) as caught:
        petaflop_onnx.export(function, inputs={"x": "float32[n?]" if name == "size" else "float32[3]"})
    assert "\n" not in str(caught.value)
    if isinstance(function, Counter):
        assert function.count.tolist() == [0.0]  # as it was
    assert weight.grad is None


def test_bad_arguments() -> None:
    for arguments, message in (
        ({"opset": 17}, "an opset from 18"),
        ({"outputs": ["a", "b"]}, "1 names of outputs"),
        ({"outputs": ["x"]}, "each input and output name once"),
        ({"inputs": {"x": 3}}, "a Tensor or an array, got int"),
    ):
        with pytest.raises(PetaflopError, match=message):
            petaflop_onnx.export(lambda x: x + 1, **({"inputs": {"x": "float32[2]"}} | arguments))


def test_a_bitcast_has_an_operator_from_opset_26() -> None:
    if onnx.defs.onnx_opset_version() < 26:
        pytest.skip("this onnx has no opset 26")
    model = petaflop_onnx.export(lambda x: x.bitcast("int32") + 1, inputs={"x": "float32[3]"}, opset=26)
    assert operators(model) == ["BitCast", "Add"]


def test_bfloat16_arrays_are_examples_too() -> None:
    x = np.ones(3, ml_dtypes.bfloat16)
    model = petaflop_onnx.export(lambda t: t.reshape(3, 1), inputs={"x": x})
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16
