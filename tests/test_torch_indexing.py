"""Indexing against NumPy, reads and writes, with gradients; gather, scatter and their like against torch."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from torch_pairs import agree, bools, floats, integers, refused

from petaflop import Variable
from petaflop.errors import GradientError, PetaflopError
from petaflop.tensor import Tensor, no_grad

A = np.array
MASK = bools(3)
MASK2 = bools(3, 4)
ARRAYS = re.compile(r"A\(|MASK|\[\S|np\.")

# (the shape of x, the index)
INDICES: list[tuple[tuple[int, ...], str]] = [
    ((3, 4), "0"),
    ((3, 4), "-1"),
    ((3, 4), "1, 2"),
    ((3, 4), "np.int64(1), np.uint8(3)"),
    ((3, 4), "()"),
    ((3, 4), "..."),
    ((), "..."),
    ((), "()"),
    ((), "None"),
    ((), "None, ..., None"),
    ((3, 4), "..., 0"),
    ((3, 4), "0, ..."),
    ((3, 4), "1, 2, ..."),
    ((3, 4, 2), "0, ..., 1"),
    ((7,), "1:5"),
    ((7,), ":-2"),
    ((7,), "-3:"),
    ((7,), "::2"),
    ((7,), "1::3"),
    ((7,), "1:6:2"),
    ((7,), "::-1"),
    ((7,), "::-2"),
    ((7,), "5:1:-3"),
    ((7,), "-2:-6:-2"),
    ((7,), "100:-100:-4"),
    ((7,), "-100:100"),
    ((7,), "5:2"),
    ((7,), "2:5:-1"),
    ((7,), "7:"),
    ((7,), "::100"),
    ((0, 3), ":, 1"),
    ((0, 3), "::-1, ::2"),
    ((3, 4), "::2, ::-1"),
    ((3, 4), "None, 1:, None, 2, None"),
    ((3, 4), "None, ..., 1, None"),
    ((2, 3, 4), ":, None, ::-1, 1:3"),
    ((3, 4), "[0, 2, 0]"),
    ((3, 4), "[]"),
    ((3, 4), "A([-1, 1])"),
    ((3, 4), "A([[0, 1], [2, -3]])"),
    ((3, 4), "A([0, 2], 'int8')"),
    ((3, 4), "A([0, 2], 'uint64')"),
    ((3, 4), "np.zeros((0, 2), int)"),
    ((3, 4), "A(2)"),
    ((3, 4), ":, [0, 3, 3]"),
    ((3, 4), "..., [1]"),
    ((3, 4), "[0, 1], [2, 3]"),
    ((3, 4), "A([[0], [2]]), A([1, 3])"),
    ((3, 4), "[0, 2], 1"),
    ((3, 4), "1, [0, 2]"),
    ((3, 4), "[0, 2], 1:"),
    ((3, 4), "1:, [0, 2]"),
    ((3, 4), "::-1, [0, 2]"),
    ((3, 4), "[0, 2], ::-2"),
    ((3, 4), "[0, 2], None"),
    ((3, 4), "None, [0, 2], None, 1:3"),
    ((2, 3, 4), "[0, 1], :, [1, 2]"),
    ((2, 3, 4), "0, :, [1, 2, 3]"),
    ((2, 3, 4), "[1, 0], :, 2"),
    ((2, 3, 4), ":, [1, 2], [1, 2]"),
    ((2, 3, 4), ":, 1, [0, 2]"),
    ((2, 3, 4), "[0, 1], None, [1, 2]"),
    ((2, 3, 4), "None, [0, 1], [1, 2]"),
    ((2, 3, 4, 3), ":, [[0], [1]], [1, 2], :"),
    ((2, 3, 4, 3), "[0, 1], 1:, [[3], [0]], ::-1"),
    ((2, 3, 4, 3), "1, ..., [0, 1]"),
    ((2, 3, 4, 3), "::-1, [2, 0], ::2, 1"),
    ((2, 3, 4, 3), "[0], 1, ..., 2"),
    ((5, 4, 6), ":, [0, 1, 2, 3], ..., -3"),
    ((2, 3, 4), "None, 0, ..., :, [0, 2]"),
    ((2, 4), "None, 0, ..., [0, 2]"),
    ((2, 3, 4), "[0, 1], ..., [0, 2], [1, 1]"),
    ((2, 3, 4), "0, ..., [0, 2], None, 1"),
    ((2, 3, 4), "..., [0, 1], [0, 2], [1, 1]"),
    ((2, 3, 4), "[0, 1], [0, 2], :, ..."),
    ((2, 3), "0, ..., 1"),
    ((2, 3), "None, 1, ..., None, 2"),
    ((3, 4), "MASK"),
    ((3, 4), "MASK2"),
    ((3, 4), "[True, False, True]"),
    ((3, 4), "~np.ones(3, bool)"),
    ((3, 4), "MASK, 1"),
    ((3, 4), "MASK, 1:"),
    ((3, 4), "1:, [True, False, False, True]"),
    ((3, 4), "[0, 2], [True, False, False, True]"),
    ((3, 4, 2), "MASK2"),
    ((3, 4, 2), "MASK2, 1"),
    ((2, 3, 4), ":, MASK2"),
    ((2, 3, 4), "..., MASK2, None"),
    ((3, 2, 4), "MASK, :, [0]"),
    ((3, 4), "True"),
    ((3, 4), "False"),
    ((3, 4), "..., True"),
    ((3, 4), "True, 1"),
    ((3, 4), "np.bool_(True), [0, 2]"),
    ((), "True"),
    ((), "False"),
]

CASES = [pytest.param(shape, index, id=f"{list(shape)} {index}") for shape, index in INDICES]


def parsed(index: str) -> Any:
    """The object between the brackets."""

    class Taker:
        def __getitem__(self, item: Any) -> Any:
            return item

    return eval(f"taker[{index}]", {"taker": Taker(), "np": np, "A": A, "MASK": MASK, "MASK2": MASK2})


def as_tensors(index: Any) -> Any:
    """The same index, arrays of integers and masks as tensors."""
    if isinstance(index, tuple):
        return tuple(as_tensors(item) for item in index)
    return Tensor(A(index)) if isinstance(index, np.ndarray) or (isinstance(index, list) and index) else index


def values(shape: tuple[int, ...], start: int = 0) -> Any:
    return (np.arange(int(np.prod(shape)), dtype=np.float32) + start).reshape(shape)


@pytest.mark.parametrize(("shape", "text"), CASES)
def test_read(shape: tuple[int, ...], text: str) -> None:
    index, x = parsed(text), values(shape)
    wanted = x[index]
    t = Tensor(x, requires_grad=True)
    result = t[index]
    assert result.shape == wanted.shape
    np.testing.assert_array_equal(result.numpy(), wanted)
    if ARRAYS.search(text):
        np.testing.assert_array_equal(Tensor(x)[as_tensors(index)].numpy(), wanted)
    weights = np.cos(values(wanted.shape))
    (result * Tensor(weights)).sum().backward()
    gradient = np.zeros_like(x)
    np.add.at(gradient, index, weights)
    assert t.grad is not None
    np.testing.assert_allclose(t.grad.numpy(), gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("shape", "text"), CASES)
def test_write(shape: tuple[int, ...], text: str) -> None:
    index, x = parsed(text), values(shape)
    part = x[index]
    value = values(part.shape, 100)
    t, before = Tensor(x), Tensor(x)
    kept = t[...]
    t[index] = Tensor(value)
    x[index] = value  # with equal indices the last wins in both
    np.testing.assert_array_equal(t.numpy(), x)
    np.testing.assert_array_equal(kept.numpy(), before.numpy())
    if ARRAYS.search(text):
        before[as_tensors(index)] = value
        np.testing.assert_array_equal(before.numpy(), x)
        before[as_tensors(index)] = 7  # a number, cast to float32
        x[index] = 7
        np.testing.assert_array_equal(before.numpy(), x)


def _each_once(shape: tuple[int, ...], text: str) -> bool:
    places = np.zeros(shape, np.int32)
    np.add.at(places, parsed(text), 1)
    return bool(places.max(initial=0) <= 1)


@pytest.mark.parametrize(("shape", "text"), [(s, text) for s, text in INDICES[::3] if _each_once(s, text)])
def test_a_write_is_differentiated(shape: tuple[int, ...], text: str) -> None:
    index, x = parsed(text), values(shape)
    value = values(x[index].shape, 100)
    t, v = Tensor(x, requires_grad=True), Tensor(value, requires_grad=True)
    y = t * 1
    y[index] = v
    weights = np.asarray(np.cos(values(shape)))
    (y * Tensor(weights)).sum().backward()
    # what is overwritten as a whole is no longer part of the result
    first, second = (x.zeros_like() if x.grad is None else x.grad for x in (t, v))
    np.testing.assert_allclose(second.numpy(), weights[index])
    weights[index] = 0
    np.testing.assert_allclose(first.numpy(), weights)


def test_the_gradient_of_equal_indices_goes_to_the_last() -> None:
    x, v = Tensor.zeros(4, requires_grad=True), Tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 1
    y[[1, 2, 1]] = v
    assert y.tolist() == [0, 3, 2, 0]
    (y * Tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    assert v.grad is not None and v.grad.tolist() == [0, 100, 10]
    assert x.grad is not None and x.grad.tolist() == [1, 0, 0, 1000]


# (shape, statement on x) run on a NumPy array and on a Tensor
STATEMENTS: list[tuple[tuple[int, ...], str]] = [
    ((6,), "x[1:] = x[:-1]"),
    ((6,), "x[:-1] = x[1:]"),
    ((6,), "x[::-1] = x"),
    ((6,), "x[:] = x[::-1]"),
    ((6,), "x[::2] = x[1::2]"),
    ((6,), "x[1:] = x[:-1] + x[1:]"),
    ((4, 4), "x[:, 1:] = x[:, :-1]"),
    ((4, 4), "x[...] = x.T"),
    ((4, 4), "x[1:, 1:] = x[:-1, :-1].T"),
    ((6,), "x[[0, 1, 2]] = x[[3, 4, 5]]"),
    ((6,), "x[[0, 1, 2]] = x[[1, 2, 0]]"),
    ((6,), "x[x > 2] = x[1]"),
    ((6,), "x[x > 2] = x[x > 2] * 2"),
    ((6,), "x[[1, 1, 2]] += 1"),
    ((6,), "x[1:4] *= x[2:5]"),
    ((6,), "x[2] -= 10"),
    ((3, 4), "x[0] = x[2]; x[2] = x[1]"),
    ((3, 4), "y = x[1]; x[1] = 0; x[2] = y"),
    ((3, 4), "x[1] = [1, 2, 3, 4]"),
    ((3, 4), "x[:, 1] = np.arange(3)"),
    ((3, 4), "x[:, 1:2] = np.arange(3)[:, None]"),
    ((3, 4), "x[1:] = np.ones((1, 1, 2, 4))"),
    ((3, 4), "x[:, [0, 2]] = np.arange(2)"),
    ((3, 4), "x[[0, 2]] = np.arange(8).reshape(2, 4)"),
    ((3, 4), "x[MASK] = np.arange(4)"),
    ((3, 4), "x[MASK2] = np.arange(4)"),
    ((3, 4), "x[MASK, 1:] = 5"),
    ((3, 4), "x[MASK2] = -1"),
    ((3, 4), "x[MASK, :] = 3"),
    ((3, 4), "x[0] = True"),
    ((3, 4), "x[5:] = 1"),
    ((3, 4), "x[...] = 2.5"),
    ((3, 4), "x[::-2, ::-3] = np.arange(4).reshape(2, 2)"),
    ((), "x[...] = 3"),
    ((), "x[()] = 4"),
    ((0, 4), "x[:, 1] = 3"),
]


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize(("shape", "statement"), STATEMENTS, ids=lambda value: str(value))
def test_statement(shape: tuple[int, ...], statement: str, dtype: str) -> None:
    x = values(shape).astype(dtype)
    t = Tensor(x)
    if "y = x" in statement:  # a view taken earlier does not see later writes: the documented difference
        statement_of_numpy = statement.replace("y = x[1]", "y = x[1].copy()")
    else:
        statement_of_numpy = statement
    names = {"np": np, "MASK": MASK, "MASK2": MASK2}
    exec(statement, {"x": t, **names})
    if "+= 1" in statement or statement.endswith(("= x", ".T", "[::-1]")):
        x = x.copy()
    exec(statement_of_numpy, {"x": x, **names})
    np.testing.assert_array_equal(t.numpy(), x)
    assert t.dtype.name == dtype


WRONG_READS = [
    ((3, 4), "3"),
    ((3, 4), "-4"),
    ((3, 4), "0, 4"),
    ((3, 4), "0, 0, 0"),
    ((3, 4), "..., ..."),
    ((3, 4), "[3]"),
    ((3, 4), "A([[0, -4]])"),
    ((3, 4), "[0, 1], [0, 1, 2]"),
    ((3, 4), "[0.5]"),
    ((3, 4), "1.5"),
    ((3, 4), "'a'"),
    ((3, 4), "bools(4)"),
    ((3, 4), "bools(3, 3)"),
    ((3, 4), "MASK2, 0"),
    ((), "0"),
    ((3, 4), "::0"),
    ((3, 4), "1.0:"),
    ((3, 4), "[[0, 1], [2]]"),
]


@pytest.mark.parametrize(("shape", "text"), WRONG_READS, ids=lambda value: str(value))
def test_a_wrong_index(shape: tuple[int, ...], text: str) -> None:
    index = eval(f"np.index_exp[{text}]", {"np": np, "A": A, "MASK": MASK, "MASK2": MASK2, "bools": bools})
    index = index[0] if len(index) == 1 else index
    with pytest.raises((IndexError, TypeError, ValueError)) as wanted:
        values(shape)[index]
    for act in (lambda t: t[index], lambda t: t.__setitem__(index, 0)):
        with pytest.raises(PetaflopError, match=r"^index: expected .+, got .+") as caught:
            act(Tensor(values(shape)))
        kind = wanted.type if "[2]]" not in text else IndexError
        assert isinstance(caught.value, kind), wanted.value


def test_a_wrong_write() -> None:
    t = Tensor(values((3, 4)))
    for index, value in ((0, [1.0, 2.0]), (slice(1), np.ones((2, 4))), (MASK, np.ones((2, 4)))):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            t[index] = value
        assert isinstance(caught.value, PetaflopError) and "expected" in str(caught.value)
    leaf = Tensor.ones(3, requires_grad=True)
    with pytest.raises(GradientError, match="no_grad"):
        leaf[0] = 2.0
    with no_grad():
        leaf[0] = 2.0
    assert leaf.tolist() == [2, 1, 1] and leaf.requires_grad and leaf.is_leaf


@pytest.mark.parametrize("wrong", [-5, 4, 99, -1000])
def test_an_index_out_of_range_on_the_device_reads_zero_and_writes_nothing(wrong: int) -> None:
    x = values((3, 4), 1)
    inside, far = Tensor([0, 1, 1]), Tensor([1, wrong, 2])
    assert Tensor(x)[:, far].tolist() == [[row[1], 0, row[2]] for row in x.tolist()]
    assert Tensor(x)[inside, far].tolist() == [x[0, 1], 0, x[1, 2]]
    t = Tensor(x)
    t[inside, far] = Tensor([50.0, 60.0, 70.0])
    x[[0, 1], [1, 2]] = [50, 70]
    np.testing.assert_array_equal(t.numpy(), x)


def test_a_view_does_not_see_later_writes_and_writes_persist() -> None:
    x = Tensor(values((4,)))
    view, whole = x[1:3], x
    x[1] = 50
    x[2:] = Tensor([7.0, 8.0])
    assert view.tolist() == [1, 2] and whole is x and x.tolist() == [0, 50, 7, 8]


def test_reading_in_python() -> None:
    x = Tensor(values((2, 3)))
    assert [row.tolist() for row in x] == values((2, 3)).tolist()
    assert len(x) == 2 and 4.0 in x and 9.0 not in x
    assert [int(number) for number in Tensor([3, 1])] == [3, 1]
    assert "abc"[Tensor(1)] == "b" and float(Tensor(0.5)) == 0.5 and bool(Tensor(0)) is False
    for wrong in (lambda: iter(Tensor(1)), lambda: len(Tensor(1.0)), lambda: "abc"[Tensor(1.0)]):
        with pytest.raises(TypeError) as caught:
            wrong()
        assert isinstance(caught.value, PetaflopError)


T: list[tuple[Any, ...]] = [
    ("t.gather(0, long(u))", floats(3, 4), A([[0, 2, 1, 0], [2, 2, 0, 1]], "int32")),
    ("t.gather(1, long(u))", floats(3, 4), A([[3, 0], [1, 1], [2, 0]], "int32")),
    ("t.gather(-1, long(u))", floats(3, 4), A([[3, 0, 3, 3, 1]], "int32")),
    ("t.gather(0, long(u))", floats(4), A([3, 3, 0, 1, 1], "int32")),
    ("t.gather(1, long(u))", bools(2, 3), A([[1], [2]], "int32")),
    ("t.gather(2, long(u))", integers(2, 3, 4), A([[[1, 3]], [[0, 2]]], "int32")),
    ("t.gather(0, long(u))", floats(), A(0, "int32")),
    ("t.gather(0, long(u))", floats(3, 2), np.zeros((0, 2), "int32")),
    ("t.transpose(0, 1).gather(0, long(u))", floats(3, 4), A([[0, 2, 1]], "int32")),
    ("t.take_along_dim(long(u), 1)", floats(3, 4), A([[3], [0], [1]], "int32")),
    ("t.take_along_dim(long(u), 1)", floats(3, 4), A([[3, 1]], "int32")),
    ("t.take_along_dim(long(u), 0)", floats(1, 4), A([[0, 0], [0, 0]], "int32")[:, :1]),
    ("t.take_along_dim(long(u))", floats(3, 4), A([7, 0, 11], "int32")),
    ("t.index_select(0, long(u))", floats(3, 4), A([2, 0, 2], "int32")),
    ("t.index_select(-1, long(u))", integers(3, 4), A([], "int32")),
    ("t.scatter(0, long(u), v)", floats(3, 4), A([[0, 2, 1, 0]], "int32"), floats(1, 4) + 50),
    ("t.scatter(1, long(u), v)", floats(2, 4), A([[0, 3], [1, 2]], "int32"), floats(2, 2) + 50),
    ("t.scatter(-1, long(u), 9.0)", floats(2, 4), A([[0, 3], [1, 1]], "int32")),
    ("t.scatter(0, long(u), 2)", integers(4), A([1, 2], "int32")),
    ("t.scatter(0, long(u), True)", bools(4), A([0, 2], "int32")),
    ("t.scatter(1, long(u), v)", integers(2, 4), np.zeros((0, 1), "int32"), integers(2, 2)),
    ("t.scatter(0, long(u), v)", integers(3, 4), A([[0, 2, 1]], "int32"), integers(2, 4)),
    ("t.scatter(0, long(u), v)", floats(), A(0, "int32"), floats() + 3),
    ("t.detach().scatter(0, long(u), 3.0, reduce='add')", floats(4), A([1, 1], "int32")),
    ("t.scatter_add(0, long(u), v)", floats(3, 4), A([[0, 2, 1, 0], [0, 0, 1, 1]], "int32"), floats(2, 4)),
    ("t.scatter_add(1, long(u), v)", integers(2, 4), A([[0, 0, 0]], "int32"), integers(2, 3)),
    *[
        (f"t.scatter_reduce(0, long(u), v, '{name}', include_self={own})", base, A(where, "int32"), src)
        for name in ("sum", "prod", "mean", "amax", "amin")
        for own in (True, False)
        for base, where, src in (
            (floats(4) + 0.25, [1, 1, 3, 1], floats(4) * 0.75 + 1),
            (integers(4), [0, 2, 2], integers(3)),
        )
    ],
    ("t.scatter_reduce(1, long(u), v, 'amax')", floats(2, 3), A([[0, 0], [2, 1]], "int32"), floats(2, 2)),
    ("t.scatter_reduce(0, long(u), v, 'amax')", floats(3) * 0, A([0, 0, 1], "int32"), floats(3) * 0),
    ("t.scatter_reduce(0, long(u), v, 'prod')", floats(3) * 0, A([0, 0, 1], "int32"), floats(3)),
    ("t.masked_fill(u, 9.0)", floats(3, 4), MASK2),
    ("t.masked_fill(u, 9)", floats(3, 4), bools(4)),
    ("t.masked_fill(u, v)", floats(3, 4), bools(3, 1), A(2.5, "float32")),
    ("t.masked_fill(u, float('-inf'))", floats(3), MASK),
    ("t.masked_fill(u, 2)", integers(3), MASK),
    ("t.masked_fill(u, True)", bools(3), MASK),
    ("t.masked_fill(u, 1.0)", floats(3), MASK2[:, :3]),
    ("t.masked_fill(u, 1.0)", floats(0, 3), bools(3)),
    ("t.masked_select(u)", floats(3, 4), MASK2),
    ("t.masked_select(u)", floats(3, 4), bools(4)),
    ("t.masked_select(u)", integers(4), MASK2),
    ("t.masked_select(u)", floats(), A(True)),
    ("t.masked_select(u)", floats(3), A(False)),
]

NONZERO = [
    floats(3, 4),
    integers(3, 4),
    MASK2,
    floats(),
    floats() + 1,
    floats(0, 3),
    bools(5),
    floats(1, 2, 3),
]

REFUSED: list[tuple[Any, ...]] = [
    ("t.gather(2, long(u))", floats(3, 4), A([[0]], "int32")),
    ("t.gather(0, long(u))", floats(3, 4), A([0], "int32")),
    ("t.gather(0, long(u))", floats(3, 4), A([[0] * 5], "int32")),
    ("t.gather(0, u)", floats(3, 4), floats(1, 4)),
    ("t.take_along_dim(long(u), 2)", floats(3, 4), A([[0]], "int32")),
    ("t.take_along_dim(long(u), 0)", floats(3, 4), A([0], "int32")),
    ("t.take_along_dim(long(u), 0)", floats(3, 4), A([[0, 0]], "int32")),
    ("t.index_select(2, long(u))", floats(3, 4), A([0], "int32")),
    ("t.index_select(0, long(u))", floats(3, 4), A([[0]], "int32")),
    ("t.index_select(0, u)", floats(3, 4), A([0.0], "float32")),
    ("t.scatter(2, long(u), 1.0)", floats(3, 4), A([[0]], "int32")),
    ("t.scatter(0, long(u), 1.0)", floats(3, 4), A([0], "int32")),
    ("t.scatter(0, long(u), v)", floats(3, 4), A([[0] * 5], "int32"), floats(1, 5)),
    ("t.scatter(0, long(u), v)", floats(3, 4), A([[0, 1]], "int32"), floats(1, 1)),
    ("t.scatter(0, long(u), v)", floats(3), A([0], "int32"), integers(1)),
    ("t.scatter(0, u, 1.0)", floats(3), floats(1)),
    ("t.scatter(0, long(u), 1.0, reduce='mean')", floats(3), A([0], "int32")),
    ("t.scatter_add(0, long(u), v)", floats(3), A([0], "int32"), integers(1)),
    ("t.scatter_add(0, long(u), v)", floats(3), A([0, 1], "int32"), floats(1)),
    ("t.scatter_reduce(0, long(u), v, 'median')", floats(3), A([0], "int32"), floats(1)),
    ("t.scatter_reduce(1, long(u), v, 'sum')", floats(3), A([0], "int32"), floats(1)),
    ("t.masked_fill(u, 1.0)", floats(3), integers(3)),
    ("t.masked_fill(u, 1.0)", floats(3), bools(4)),
    ("t.masked_select(u)", floats(3), integers(3)),
    ("t.masked_select(u)", floats(3), bools(4)),
]


@pytest.mark.parametrize("case", T, ids=lambda case: case[0])
def test_against_torch(case: tuple[Any, ...]) -> None:
    agree(*case, rtol=1e-6, atol=1e-6)


def test_scatter_that_folds_has_a_gradient() -> None:
    """`reduce=` of torch.scatter has no gradient for a tensor src, that of scatter_reduce has."""
    for fold, name in (("add", "sum"), ("multiply", "prod")):
        agree(
            f"t.scatter(0, long(u), v, reduce='{fold}')",
            floats(4) + 0.25,
            A([1, 1], "int32"),
            floats(2) + 5,
            torch_code=f"t.scatter_reduce(0, long(u), v, '{name}')",
        )


@pytest.mark.parametrize("array", NONZERO, ids=lambda array: f"{array.dtype}{list(array.shape)}")
def test_nonzero(array: Any) -> None:
    agree("t.nonzero()", array, dtype="int32")


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0])
def test_refused(case: tuple[Any, ...]) -> None:
    refused(*case)


# (on a tensor with a Variable n, on an array with its value)
SYMBOLIC: list[tuple[str, str]] = [
    ("t[:n]", "x[:n]"),
    ("t[n:]", "x[n:]"),
    ("t[n]", "x[n]"),
    ("t[1:n, ::-1]", "x[1:n, ::-1]"),
    ("t[:n].T", "x[:n].T"),
    ("t[:n].reshape(-1)", "x[:n].reshape(-1)"),
    ("t[:n].unsqueeze(0).expand(2, n, 3)", "np.stack([x[:n], x[:n]])"),
    ("t[:n].sum(0)", "x[:n].sum(0)"),
    ("Tensor.cat([t[:n], t])", "np.concatenate([x[:n], x])"),
    ("t[:n].pad((0, 0, 0, 6 - n))", "np.pad(x[:n], ((0, 6 - n), (0, 0)))"),
    ("t[:n][[0, 1]]", "x[:n][[0, 1]]"),
    ("Tensor.arange(n)", "np.arange(n)"),
]


@pytest.mark.parametrize(("code", "wanted"), SYMBOLIC)
def test_symbolic_sizes(code: str, wanted: str) -> None:
    n, x = Variable("n", 1, 5), values((6, 3))
    for size in (4, 2, 5):
        n.bind(size)
        result = eval(code, {"t": Tensor(x), "n": n, "Tensor": Tensor})
        np.testing.assert_array_equal(result.numpy(), eval(wanted, {"x": x, "n": size, "np": np}))


def test_symbolic_writes() -> None:
    n = Variable("n", 1, 5)
    for size in (3, 1):
        x, t = values((6, 3)), Tensor(values((6, 3)))
        n.bind(size)
        t[:n] = 0.0
        t[n] = 7.0
        x[:size], x[size] = 0, 7
        np.testing.assert_array_equal(t.numpy(), x)
