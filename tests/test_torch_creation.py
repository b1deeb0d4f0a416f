"""Creation, casts, copies and what a tensor says about itself, against torch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch_pairs import agree, bools, floats, integers, refused

from petaflop import profile
from petaflop.errors import GradientError, PetaflopError
from petaflop.tensor import Tensor, no_grad

# (code, our dtype where it is documented to differ: Python integers give int32)
MADE: list[tuple[str, str | None]] = [
    ("lib.zeros(2, 3)", None),
    ("lib.zeros((2, 3))", None),
    ("lib.zeros([0, 3])", None),
    ("lib.zeros(())", None),
    ("lib.zeros(2, dtype=kind('int64'))", None),
    ("lib.ones(3)", None),
    ("lib.ones(2, 2, dtype=kind('bool'))", None),
    ("lib.ones(2, dtype=kind('float16'))", None),
    ("lib.ones(2, dtype=kind('bfloat16'))", None),
    ("lib.full((2, 3), 1.5)", None),
    ("lib.full((2,), 7)", "int32"),
    ("lib.full((2,), True)", None),
    ("lib.full((), 3.0)", None),
    ("lib.full([2], 2**40)", None),
    ("lib.full((2,), 3, dtype=kind('float64'))", None),
    ("lib.full((2,), 2.7, dtype=kind('int32'))", None),
    ("lib.full((2,), -1, dtype=kind('uint8'))", None),
    ("lib.full((2,), float('nan'))", None),
    ("lib.full((2,), float('-inf'), dtype=kind('float16'))", None),
    ("lib.eye(3)", None),
    ("lib.eye(2, 4)", None),
    ("lib.eye(4, 2, dtype=kind('int16'))", None),
    ("lib.eye(0)", None),
    ("lib.eye(3, 0)", None),
    ("lib.arange(5)", "int32"),
    ("lib.arange(0)", "int32"),
    ("lib.arange(2, 9, 3)", "int32"),
    ("lib.arange(9, 2, -3)", "int32"),
    ("lib.arange(3, 3)", "int32"),
    ("lib.arange(-4, 3)", "int32"),
    ("lib.arange(2**40, 2**40 + 3)", None),
    ("lib.arange(-2**40, -2**40 + 9, 4)", None),
    ("lib.arange(5.0)", None),
    ("lib.arange(0, 1, 0.1)", None),
    ("lib.arange(1, 0, -0.25)", None),
    ("lib.arange(0.5, 2.5)", None),
    ("lib.arange(0, 300.0, 0.7)", None),
    ("lib.arange(5, dtype=kind('float32'))", None),
    ("lib.arange(1, 7, 2, dtype=kind('uint8'))", None),
    ("lib.arange(0, 2, 0.3, dtype=kind('float64'))", None),
    ("lib.arange(1, 6, dtype=kind('bfloat16'))", None),
    ("lib.arange(3, dtype=kind('int64'))", None),
    ("lib.linspace(0, 1, 5)", None),
    ("lib.linspace(0, 1, 1)", None),
    ("lib.linspace(3, 7, 0)", None),
    ("lib.linspace(5, -3, 7)", None),
    ("lib.linspace(-1.5, 2.25, 100)", None),
    ("lib.linspace(0, 10, 4, dtype=kind('float64'))", None),
    ("lib.linspace(2, 2, 3)", None),
    ("lib.linspace(0, 10, 5, dtype=kind('int32'))", None),
    ("lib.linspace(start=0, end=1, steps=3)", None),
]

FROM: list[tuple[Any, ...]] = [
    ("lib.zeros_like(t)", floats(2, 3)),
    ("lib.zeros_like(t)", integers(2, 0, dtype="int8")),
    ("lib.ones_like(t)", floats(dtype="float64")),
    ("lib.ones_like(t, dtype=kind('bool'))", floats(2)),
    ("lib.full_like(t, 5)", floats(2)),
    ("lib.full_like(t, 2.5)", floats(2, dtype="float16")),
    ("lib.full_like(t, 3)", integers(2, dtype="uint8")),
    ("lib.full_like(t, 3, dtype=kind('float32'))", bools(2)),
    ("lib.empty(2, 3).shape[1]",),
    ("lib.empty(2, dtype=kind('int8')).ndim",),
    ("lib.where(t, u, v)", bools(2, 3), floats(3), floats(2, 1)),
    ("t.float()", integers(3)),
    ("t.half()", floats(3)),
    ("t.double()", floats(3)),
    ("t.bfloat16()", floats(3)),
    ("t.int()", floats(5) * 1.3),
    ("t.long()", floats(5) * 1.3),
    ("t.short()", integers(5, dtype="int64") * 70000),
    ("t.bool()", floats(5)),
    ("t.bool()", np.array([np.nan, np.inf, -0.0, 0.0, 1e-30], "float32")),
    ("t.to(kind('float64'))", floats(3)),
    ("t.to(kind('float16'))", np.array([1e-8, 65504, 65520, -1e9, 2049], "float32")),
    ("t.to(kind('bfloat16'))", np.array([1.00390625, 1.01171875, 3.4e38, -np.inf], "float32")),
    ("t.to(kind('uint8'))", integers(5)),
    ("t.to(kind('int8'))", np.array([300, -129, 127], "int64")),
    ("t.to(t.device)", floats(2)),
    ("t.to(u)", floats(2), integers(1) * 1.5),
    ("t.to(dtype=kind('float64'))", floats(2)),
    ("t.to(t.device, kind('float64'))", floats(2)),
    ("t.to(t.dtype)", floats(2)),
    ("t.clone()", floats(2, 3)),
    ("t.contiguous()", floats(2, 3)),
    ("t.transpose(0, 1).contiguous() * 2", floats(2, 3)),
    ("t.detach()", floats(2)),
    ("t * t.detach()", floats(2)),
    ("(t * 2).detach() + t", floats(2)),
    ("t.view(kind('int32'))", np.array([1.0, -0.0, np.inf], "float32")),
    ("t.detach().view(kind('uint8'))", floats(2, 3)),
    ("t.view(kind('float32'))", integers(2, 8, dtype="uint8")),
    ("t.view(kind('int16'))", integers(4, 2, dtype="int64")),
    ("t.view(kind('int8'))", bools(5)),
    ("t.detach().view(kind('int64'))", floats(2, 4)),
    ("t.detach().view(kind('int16'))", floats(3, dtype="float16")),
    ("t.numel()", floats(2, 3)),
    ("t.numel()", floats()),
    ("t.dim()", floats(2, 3)),
    ("t.ndim", floats()),
    ("t.size(1)", floats(2, 3)),
    ("t.size(-1)", floats(2, 3)),
    ("t.element_size()", floats(2, dtype="float16")),
    ("t.is_floating_point()", integers(1)),
    ("t.requires_grad", floats(2)),
    ("(t * 2).is_leaf", floats(2)),
    ("t.is_leaf", floats(2)),
    ("t.detach().requires_grad", floats(2)),
    ("t.item()", floats()),
    ("t.item()", integers(1, 1, 1)),
    ("t.item()", bools(1)),
    ("t.tolist()", floats(2, 3)),
    ("t.tolist()", integers(0, 3)),
    ("t.tolist()", bools(3)),
    ("t.tolist()", floats()),
    ("len(t)", floats(3, 2)),
    ("bool(t)", floats(1)),
    ("float(t)", integers(1)),
    ("int(t)", floats(1) + 2.7),
    ("long(t) is t", integers(2, dtype="int64")),
]

ASSIGNED: list[tuple[str, ...]] = [
    ("t.assign(u)", "t.copy_(u)"),
    ("t.assign(u[0])", "t.copy_(u[0])"),
    ("t.copy_(u.double())",),
    ("t.copy_(u > 0)",),
    ("t.zero_()",),
    ("t.fill_(3)",),
    ("t.fill_(-0.5)",),
]

REFUSED: list[tuple[Any, ...]] = [
    ("lib.zeros(-1)",),
    ("lib.zeros(2, -3)",),
    ("lib.zeros(2.5)",),
    ("lib.zeros('a')",),
    ("lib.zeros(2, dtype='f128')",),
    ("lib.ones((2, None))",),
    ("lib.full((-1,), 0)",),
    ("lib.full((2,), 'a')",),
    ("lib.full((2,), 300, dtype=kind('int8'))",),
    ("lib.full((2,), -256, dtype=kind('uint8'))",),
    ("lib.eye(-1)",),
    ("lib.eye(2, -1)",),
    ("lib.arange(0, 3, 0)",),
    ("lib.arange(3, 0)",),
    ("lib.arange(0, 3, -1)",),
    ("lib.arange(0.0, -1.0)",),
    ("lib.arange('a')",),
    ("lib.arange(0, float('inf'))",),
    ("lib.arange(0, float('nan'))",),
    ("lib.linspace(0, 1, -1)",),
    ("lib.linspace(0, 1, 2.5)",),
    ("t.item()", floats(2)),
    ("t.item()", floats(0)),
    ("bool(t)", floats(2)),
    ("bool(t)", floats(0)),
    ("float(t)", floats(2)),
    ("int(t)", floats(2, 2)),
    ("len(t)", floats()),
    ("t.size(2)", floats(2, 3)),
    ("t.size(0)", floats()),
    ("t.view(kind('float64'))", floats(3)),
    ("t.detach().view(kind('int8'))", floats()),
    ("t.requires_grad_()", integers(2)),
    ("(t * 2).requires_grad_(False)", floats(2)),
    ("t.backward()", floats(2)),
    ("t.backward()", integers(1)),
    ("(t * 2).backward(u)", floats(2), floats(3)),
    ("t.zero_()", floats(2)),
    ("t.copy_(u)", integers(2), integers(3)),
    ("t.__iadd__(u)", integers(2), integers(3, 2)),
    ("t.__iadd__(1.5)", integers(2)),
    ("t.__itruediv__(2)", integers(2)),
    ("t.__iadd__(1)", bools(2)),
]

NOT_DATA: list[Any] = [
    "a",
    ["a"],
    np.array(["a"]),
    np.array([object()]),
    np.array(["2020-01-01"], "datetime64[D]"),
]


@pytest.mark.parametrize(("code", "dtype"), MADE, ids=lambda value: str(value))
def test_made(code: str, dtype: str | None) -> None:
    agree(code, dtype=dtype, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("case", FROM, ids=lambda case: case[0])
def test_from_another(case: tuple[Any, ...]) -> None:
    agree(*case)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0])
def test_refused(case: tuple[Any, ...]) -> None:
    if "requires_grad" not in case[0] and "backward" not in case[0] and "zero_" not in case[0]:
        refused(*case)
        return
    first, second = [Tensor(a) for a in case[1:]], [torch.tensor(a) for a in case[1:]]
    for x, y in zip(first, second, strict=True):
        if x.dtype.is_float:
            x.requires_grad_()
            y.requires_grad_()
    with pytest.raises(RuntimeError):
        eval(case[0], dict(zip("tu", second)))
    with pytest.raises(RuntimeError, match=r"expected .+, got .+") as caught:
        eval(case[0], dict(zip("tu", first)))
    assert isinstance(caught.value, PetaflopError)


@pytest.mark.parametrize("classes", [4, 7, -1])
@pytest.mark.parametrize("shape", [(3,), (2, 2), (0, 2), ()], ids=str)
def test_one_hot(shape: tuple[int, ...], classes: int) -> None:
    if shape == (0, 2) and classes == -1:
        with pytest.raises(RuntimeError):  # torch as well
            Tensor(np.zeros(shape, np.int32)).one_hot()
        return
    labels = (np.arange(int(np.prod(shape))) % 4).reshape(shape)
    result = Tensor(labels).one_hot(classes)
    wanted = torch.nn.functional.one_hot(torch.tensor(labels), classes)
    assert result.dtype.name == "int32" and result.shape == tuple(wanted.shape)
    np.testing.assert_array_equal(result.numpy(), wanted.numpy())
    for wrong in (lambda: Tensor(labels).one_hot(-2), lambda: Tensor(labels * 0.5).one_hot(3)):
        with pytest.raises(RuntimeError, match=r"one_hot: expected .+, got .+"):
            wrong()


DATA: list[Any] = [
    1.5,
    True,
    7,
    [1, 2],
    [1, 2.5],
    [True, False],
    [True, 2],
    [[1], [2]],
    (1.0, 2.0),
    [],
    [[], []],
    range(4),
    [(1, 2), [3, 4]],
    [2**40, 1],
    2**40,
    -(2**31) - 1,
    [np.float64(1.5)],
    np.float16(1.5),
    np.int64(3),
    np.array(3, np.int8),
    np.arange(6).reshape(2, 3).T,
    np.arange(6.0)[::-2],
    np.arange(3, dtype=">i4"),
    np.arange(3, dtype=">f8"),
    np.zeros((2, 0, 3), np.float32),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.array([1, 0], bool),
]


@pytest.mark.parametrize("data", DATA, ids=lambda data: str(data).replace("\n", ""))
def test_data(data: Any) -> None:
    result = Tensor(data)
    native = data.astype(data.dtype.newbyteorder("=")) if isinstance(data, np.ndarray) else data
    wanted = torch.tensor(np.ascontiguousarray(native).reshape(native.shape) if native is not data else data)
    name = str(wanted.dtype).removeprefix("torch.")
    if name == "int64" and not isinstance(data, (np.ndarray, np.generic)) and abs(wanted).max() < 2**31:
        name = "int32"  # Python integers
    assert result.dtype.name == name and result.shape == tuple(wanted.shape)
    np.testing.assert_array_equal(result.numpy(), wanted.numpy())


@pytest.mark.parametrize("data", NOT_DATA, ids=lambda data: repr(data).split("<")[0])
def test_what_is_no_data(data: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        torch.tensor(data)
    with pytest.raises(TypeError, match=r"^Tensor: expected .+, got .+") as caught:
        Tensor(data)
    assert isinstance(caught.value, PetaflopError)


def test_data_with_a_dtype() -> None:
    assert Tensor([1.9, -1.9], dtype="int32").tolist() == [1, -1]
    assert Tensor([1e20, -1e20, float("nan")], dtype="int16").tolist() == [32767, -32768, 0]  # as CAST does
    assert Tensor(np.array([300, -1]), dtype="uint8").tolist() == [44, 255]  # an array wraps, as CAST does
    for wrong in (
        lambda: Tensor([300], dtype="uint8"),
        lambda: Tensor(300, dtype="int8"),
        lambda: Tensor(2**64),
        lambda: Tensor.full((2,), 2**70),
    ):
        with pytest.raises(RuntimeError, match=r"expected a(n integer| value)"):
            wrong()
    with pytest.raises(ValueError, match="expected rows of one length") as caught:
        Tensor([[1], [2, 3]])
    assert isinstance(caught.value, PetaflopError)
    assert Tensor(Tensor([1, 2]), dtype="float16").dtype.name == "float16"
    assert Tensor([Tensor(1.0), Tensor(2.0)]).tolist() == [1.0, 2.0]
    assert Tensor(b"\x01\x02").tolist() == [1, 2] and Tensor(b"").shape == (0,)
    leaf = Tensor([1.0], requires_grad=True)
    assert not Tensor(leaf).requires_grad and Tensor(leaf, requires_grad=True).is_leaf


@pytest.mark.parametrize("case", ASSIGNED, ids=lambda case: case[0])
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool", "float16"])
def test_assigned(case: tuple[str, ...], dtype: str) -> None:
    before, value = integers(2, 3).astype(dtype), floats(2, 3) * 1.7
    t, other = Tensor(before), torch.tensor(before)
    kept = t + 0 if dtype != "bool" else t.logical_or(False)
    result = eval(case[0], {"t": t, "u": Tensor(value)})
    eval(case[-1], {"t": other, "u": torch.tensor(value)})
    assert result is t and t.dtype.name == dtype
    np.testing.assert_array_equal(t.numpy(), other.numpy())
    np.testing.assert_array_equal(kept.numpy(), before)


def test_to_in_place_and_replace() -> None:
    t = Tensor([1.0, 2.0], requires_grad=True)
    same = t.to_("float64")
    assert same is t and t.dtype.name == "float64" and t.requires_grad and t.is_leaf
    (t * t).sum().backward()
    assert t.grad is not None and t.grad.tolist() == [2, 4]
    assert t.to_("reference").device == "reference" and t.tolist() == [1, 2]
    a, b = Tensor([1, 2]), Tensor([3, 4])
    assert a.replace(b) is a and a.tolist() == [3, 4]
    a[0] = 9
    assert a.tolist() == [9, 4] and b.tolist() == [3, 4]
    for wrong in (Tensor([1]), Tensor([1.0, 2.0])):
        with pytest.raises(RuntimeError, match="replace: expected"):
            a.replace(wrong)
    for act in (a.to, a.to_, lambda name: Tensor(1, device=name), lambda name: Tensor.zeros(2, device=name)):
        with pytest.raises(RuntimeError, match="nonsense") as caught:
            act("nonsense")
        assert isinstance(caught.value, PetaflopError)


def test_gradients_flow_through_devices() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x.to("reference") * 3).to(x.device)
    assert y.device == x.device
    (y * y).sum().backward()
    assert x.grad is not None and x.grad.device == x.device and x.grad.tolist() == [18, 36]


def test_equal_values_without_a_device_have_memory_on_each() -> None:
    """They are one node of the graph: its memory on one device must not be read on another."""
    makers: list[Any] = [
        lambda device: Tensor.full((2,), 3.0, device=device),
        lambda device: Tensor.arange(2, device=device),
        lambda device: Tensor.arange(1, 5, 2, device=device),
        lambda device: Tensor.eye(2, device=device),
        lambda device: Tensor.linspace(0, 1, 2, device=device),
    ]
    for make in makers:
        first, second = make(None), make("reference")
        values = first.numpy()
        np.testing.assert_array_equal(first.realize().numpy(), values)
        assert (second + Tensor([0.0, 0.0], device="reference")).tolist() == values.tolist()
        assert second.realize().device == "reference"
        assert (second * Tensor([2.0, 2.0], device="reference")).tolist() == (values * 2).tolist()


def test_a_clone_is_independent() -> None:
    t = Tensor([1.0, 2.0, 3.0])
    for copied in (t.clone(), copy.copy(t), copy.deepcopy(t), t.contiguous(), t.detach(), Tensor(t)):
        copied[0] = 50.0
        assert copied.tolist() == [50, 2, 3] and t.tolist() == [1, 2, 3]
        t[1] = 2.0
        copied[2] = 7.0
        assert copied.tolist() == [50, 2, 7] and t.tolist() == [1, 2, 3]


def test_deepcopy_as_in_torch() -> None:
    t, other = Tensor([1.0, 2.0], requires_grad=True), torch.tensor([1.0, 2.0], requires_grad=True)
    for x in (t, other):
        (x * x).sum().backward()
        twin = copy.deepcopy({"a": x, "b": [x]})
        assert twin["a"] is twin["b"][0] and twin["a"] is not x
        assert twin["a"].requires_grad and twin["a"].is_leaf and twin["a"].grad.tolist() == [2, 4]
        (twin["a"] * 3).sum().backward()
        assert twin["a"].grad.tolist() == [5, 7] and x.grad.tolist() == [2, 4]
        with pytest.raises(RuntimeError):
            copy.deepcopy(x * 2)
    with no_grad():
        copy.deepcopy(t).assign([5.0, 5.0])
    assert t.tolist() == [1, 2]


def test_a_repr_computes_nothing() -> None:
    with profile.Profile() as seen:
        x = Tensor(floats(3, 4), requires_grad=True)
        y = (x * 2).sum(0)
        texts = [repr(x), repr(y), str(y), f"{y}"]
        assert len(y.shape) == 1 and y.dtype.name == "float32" and y.numel() == 4
    assert not seen.launches
    assert "lazy" in texts[1] and "float32[4]" in texts[1] and "requires_grad" in texts[1]
    assert "lazy" not in repr(y.realize())


def test_realize_takes_many_in_one_schedule() -> None:
    a, b, c = Tensor.ones(3) + 1, Tensor.ones(4) * 5, Tensor.zeros(2)
    assert Tensor.realize(a, b, c) is a
    assert [x.node.is_realized for x in (a, b, c)] == [True] * 3
    assert a.tolist() + b.tolist() + c.tolist() == [2] * 3 + [5] * 4 + [0] * 2


def test_grad_modes() -> None:
    x = Tensor([2.0], requires_grad=True)
    with no_grad():
        assert not (x * 2).requires_grad and (x * 2).is_leaf
    assert (x * 2).requires_grad
    with pytest.raises(GradientError, match="assign"):
        x.assign([3.0])
    (x * x * x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [12]
    x.requires_grad_(False)
    assert not (x * 2).requires_grad
