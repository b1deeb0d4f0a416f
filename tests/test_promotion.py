"""The dtype of a result: every pair of dtypes, tensors with axes, scalar tensors and numbers, against torch.

What differs, and is documented: Python integers are int32 (torch: int64), and an unsigned with a signed
integer has a common type where torch refuses one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from petaflop.dtype import DTYPES, promote, to_dtype
from petaflop.errors import PetaflopError
from petaflop.tensor import Tensor

NAMES = [name for name in DTYPES if not name.startswith("float8")]
SHAPES = {"axes": (2,), "scalar": ()}
NUMBERS: list[Any] = [True, 3, 2.5]
CONDITION = Tensor([True, False])


def ours(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor.ones(shape, dtype=name)


def theirs(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.ones(shape, dtype=getattr(torch, name))


def wanted(first: Any, second: Any) -> str | None:
    """torch's name of the result's dtype; None where it has none."""
    try:
        return str(torch.result_type(first, second)).removeprefix("torch.")
    except RuntimeError:
        return None


@pytest.mark.parametrize("second_shape", SHAPES)
@pytest.mark.parametrize("first_shape", SHAPES)
@pytest.mark.parametrize("first", NAMES)
def test_two_tensors(first: str, first_shape: str, second_shape: str) -> None:
    for second in NAMES:
        a, b = ours(first, SHAPES[first_shape]), ours(second, SHAPES[second_shape])
        name = wanted(theirs(first, SHAPES[first_shape]), theirs(second, SHAPES[second_shape]))
        if name is None:  # torch refuses: the least signed integer that holds both, int64 at most
            assert any(name in ("uint16", "uint32", "uint64") for name in (first, second)), (first, second)
            name = np.promote_types(first, second).name
            name = "int64" if name == "float64" else name
        for result in (a + b, b + a, a * b, CONDITION.where(a, b)):
            assert result.dtype.name == name, (first, second)
        assert (a < b).dtype.name == "bool"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_and_a_number(name: str, shape: str) -> None:
    for number in NUMBERS:
        t = ours(name, SHAPES[shape])
        expected = wanted(theirs(name, SHAPES[shape]), number)
        if name == "bool" and type(number) is int:
            assert expected == "int64"
            expected = "int32"  # a Python integer is int32
        for result in (t + number, number + t, t * number, t.maximum(number)):
            assert result.dtype.name == expected, (name, number)
        for result in (CONDITION.where(t, number), Tensor.where(t > 0, number, t)):
            assert result.dtype.name == expected, (name, number)
        assert (t == number).dtype.name == "bool"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_division_and_powers(name: str, shape: str) -> None:
    t, other = ours(name, SHAPES[shape]), theirs(name, SHAPES[shape])
    assert (t / t).dtype.name == str((other / other).dtype)[6:]
    assert (t / 2).dtype.name == str((other / 2).dtype)[6:]
    assert (1 / t).dtype.name == str((1 / other).dtype)[6:]
    if name != "bool":
        assert (t // 2).dtype.name == name and (t % 2).dtype.name == name and (t**2).dtype.name == name
        assert (t**0.5).dtype.name == (name if to_dtype(name).is_float else "float32")


def test_three_kinds_of_operands() -> None:
    """Tensors with axes, then scalar tensors, then numbers: a later group only raises the kind."""
    condition, other = Tensor([True, False]), torch.tensor([True, False])
    for first in NAMES:
        for second in ("int64", "float16", "float64", "bool"):
            mine = Tensor.where(condition, ours(first, (2,)), ours(second, ()))
            try:
                expected = torch.where(other, theirs(first, (2,)), theirs(second, ()))
            except RuntimeError:
                continue  # torch has no common type
            assert mine.dtype.name == str(expected.dtype)[6:], (first, second)


@pytest.mark.parametrize("first", NAMES)
def test_what_an_augmented_assignment_takes(first: str) -> None:
    for second in NAMES:
        a, b = ours(first, (2,)), theirs(first, (2,))
        try:
            b += theirs(second, (2,))
        except RuntimeError as error:
            if "Promotion" in str(error) or "not implemented" in str(error):
                continue  # torch has no common type, or cannot add this one
            with pytest.raises(RuntimeError, match=r"^\+=: expected .+, got .+") as caught:
                a += ours(second, (2,))
            assert isinstance(caught.value, PetaflopError)
        else:
            a += ours(second, (2,))
            assert a.dtype.name == first


@pytest.mark.parametrize("first", NAMES)
def test_joined_tensors(first: str) -> None:
    for second in NAMES:
        try:
            expected = torch.cat([theirs(first, (2,)), theirs(second, (3,))])
        except (RuntimeError, NotImplementedError):
            continue  # torch has no common type
        name = str(expected.dtype)[6:]
        assert Tensor.cat([ours(first, (2,)), ours(second, (3,))]).dtype.name == name
        assert Tensor.stack([ours(first, (2,)), ours(second, (2,))]).dtype.name == name


def test_numpy_operands() -> None:
    t = Tensor(np.ones(2, np.float32))
    assert (
        (t + np.float64(1)).dtype.name == (np.float64(1) + t).dtype.name == "float32"
    )  # a number, as in torch
    assert (t + np.ones(2)).dtype.name == (np.ones(2) + t).dtype.name == "float64"
    assert (np.arange(2) * t).tolist() == [0, 1] and isinstance(np.arange(2) * t, Tensor)
    assert (np.ones(2) < t * 2).tolist() == [True, True]
    assert (t + np.int64(3)).dtype.name == "float32"
    assert (Tensor([1, 2]) + np.int64(2)).dtype.name == "int32"


def test_the_values_of_a_promotion() -> None:
    rows = [
        (np.array([250, 3], "uint8"), np.array([-10, 3], "int8")),
        (np.array([250, 3], "uint8"), np.array([300, -70000], "int32")),
        (np.array([True, False]), np.array([5, -5], "int64")),
        (np.array([2**53 + 1, 7], "int64"), np.array([0.5, 1.5], "float32")),
        (np.array([1.0, 2049.0], "float16"), np.array([0.25, 1e5], "float32")),
    ]
    for first, second in rows:
        result, expected = Tensor(first) + Tensor(second), torch.tensor(first) + torch.tensor(second)
        np.testing.assert_array_equal(result.numpy(), expected.numpy())
    assert (Tensor([1], dtype="float64") * 0.1).tolist() == [0.1]  # the number keeps its bits


def test_promotion_is_a_lattice() -> None:
    """Commutative, idempotent; bool is below all. Not associative: float16 with bfloat16 is float32."""
    for a in DTYPES.values():
        assert promote(a, a) is a and promote(a, to_dtype("bool")) is a
        for b in DTYPES.values():
            assert promote(a, b) is promote(b, a)


def test_names_of_dtypes() -> None:
    for name in NAMES:
        for spelled in (name, f"torch.{name}", DTYPES[name], DTYPES[name].numpy, str(DTYPES[name])):
            assert to_dtype(spelled) is DTYPES[name]
    assert (
        to_dtype(int).name == "int32" and to_dtype(float).name == "float32" and to_dtype(bool).name == "bool"
    )
    assert to_dtype(np.float64).name == "float64" and to_dtype("half").name == "float16"
    for wrong in ("float7", object, "complex64", 3):
        with pytest.raises(TypeError, match="dtype: expected") as caught:
            to_dtype(wrong)  # type: ignore[arg-type]
        assert isinstance(caught.value, PetaflopError)
