"""Elementwise methods and operators against torch, over every dtype and awkward values."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch_case import FLOATS, INTEGERS, as_dtype, check, refuse

from petaflop.tensor import Tensor

NAN, INF = float("nan"), float("inf")
ANY = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, 3.7, -7.25, 1e-3, 20.5, -88.0, NAN, INF, -INF]
COUNTS = [0, 1, 2, 3, 5, 7, 100, 127]
SIGNED = [0, 1, -1, 2, -3, 7, -7, 100, -128, 127]

# names that are the same method on both sides
# fmt: off
UNARY = (
    "neg", "abs", "sign", "sqrt", "rsqrt", "square", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p",
    "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf",
    "floor", "ceil", "round", "trunc", "reciprocal", "isnan", "isinf", "isfinite", "logical_not",
    "bitwise_not", "relu", "sigmoid",
)
# fmt: on


def integers(dtype: str) -> Any:
    if dtype == "bool":
        return np.array([True, False])
    return as_dtype(COUNTS if dtype.startswith("u") else SIGNED, dtype)


@pytest.mark.parametrize("name", UNARY)
def test_unary_floats(name: str) -> None:
    method = operator.methodcaller(name)
    values = [value for value in ANY if name != "acosh" or value != -1]  # where torch's slope is +inf
    for dtype in FLOATS:
        check(method, as_dtype(values, dtype))


@pytest.mark.parametrize("name", UNARY)
def test_unary_integers(name: str) -> None:
    for dtype in (*INTEGERS, "bool"):
        check(operator.methodcaller(name), integers(dtype))


@pytest.mark.parametrize("decimals", [1, 2, -1, -2, 5])
def test_round_to_decimals(decimals: int) -> None:
    values = [1.2345, -2.5, 250.0, 0.125, -0.0, 1234.0, -350.0, 0.375, float("inf"), float("nan")]
    for dtype in ("float32", "float64"):
        check(lambda x: x.round(decimals=decimals), as_dtype(values, dtype), native=True)
    for dtype in ("float16", "bfloat16"):
        x = as_dtype(values[:-2], dtype)
        wanted = torch.tensor(x.astype(np.float32)).round(decimals=decimals)
        found = Tensor(x).round(decimals=decimals)
        assert found.dtype.name == dtype
        np.testing.assert_array_equal(found.numpy(), as_dtype(wanted.numpy(), dtype))


def test_round_beyond_the_range() -> None:
    x = Tensor([1e30, -1e-30, 2.5, float("inf")])
    for decimals in (10, 60):  # every float32 of this size is a multiple of it already
        assert x[:1].round(decimals=decimals).tolist() == x[:1].tolist()
    assert x[1:3].round(decimals=-60).tolist() == [0, 0]
    assert round(Tensor(2.678), 2).item() == np.float32(2.68)
    assert round(Tensor(2.678)).item() == 3


# ---- two operands ----

Pair = tuple[Callable[..., Any], Callable[..., Any] | None]
BINARY: dict[str, Pair] = {
    "add": (operator.add, None),
    "sub": (operator.sub, None),
    "mul": (operator.mul, None),
    "div": (operator.truediv, None),
    "floordiv": (operator.floordiv, None),
    "mod": (operator.mod, None),
    "pow": (operator.pow, None),
    "lt": (operator.lt, None),
    "le": (operator.le, None),
    "gt": (operator.gt, None),
    "ge": (operator.ge, None),
    "eq": (operator.eq, None),
    "ne": (operator.ne, None),
    "and": (operator.and_, None),
    "or": (operator.or_, None),
    "xor": (operator.xor, None),
    "lshift": (operator.lshift, None),
    "rshift": (operator.rshift, None),
    "div-floor": (lambda a, b: a.div(b, rounding_mode="floor"), None),
    "div-trunc": (lambda a, b: a.div(b, rounding_mode="trunc"), None),
    "method-mod": (lambda a, b: a.mod(b), torch.remainder),
    "fmod": (lambda a, b: a.fmod(b), None),
    "maximum": (lambda a, b: a.maximum(b), None),
    "minimum": (lambda a, b: a.minimum(b), None),
    "copysign": (lambda a, b: a.copysign(b), None),
    "logaddexp": (lambda a, b: a.logaddexp(b), None),
    "logical_and": (lambda a, b: a.logical_and(b), None),
    "logical_or": (lambda a, b: a.logical_or(b), None),
    "logical_xor": (lambda a, b: a.logical_xor(b), None),
    "isclose": (lambda a, b: a.isclose(b), None),
    "isclose-nan": (lambda a, b: a.isclose(b, 1e-2, 0.5, equal_nan=True), None),
    "add-alpha": (lambda a, b: a.add(b, alpha=3), None),
    "sub-alpha": (lambda a, b: a.sub(b, alpha=2), None),
    "where": (lambda a, b: (a < b).where(a, b), lambda a, b: torch.where(a < b, a, b)),
    "clamp": (lambda a, b: a.clamp(b, b + 1), None),
    "lerp": (lambda a, b: a.lerp(b, 0.25), None),
}
DIVIDES = ("div", "floordiv", "mod", "div-floor", "div-trunc", "method-mod", "fmod")
NO_SLOPE = ("floordiv", "clamp", "copysign", "logaddexp")  # where an operand is infinite or NaN


def pairs(left: Any, right: Any) -> list[Any]:
    """Every element of one with every element of the other."""
    return [grid.flatten() for grid in np.meshgrid(left, right, indexing="ij")]


@pytest.mark.parametrize("name", BINARY)
def test_binary_floats(name: str) -> None:
    mine, theirs = BINARY[name]
    finite = [value for value in ANY if np.isfinite(value)]
    options: dict[str, Any] = {"theirs": theirs, "native": name in DIVIDES}
    for dtype in FLOATS:
        if name in NO_SLOPE and dtype != "bfloat16":  # through which torch's NaN loses its sign
            check(mine, *pairs(as_dtype(ANY, dtype), as_dtype(ANY, dtype)), gradients=False, **options)
        if name != "floordiv":  # torch has no gradient of it
            values = as_dtype(finite if name in NO_SLOPE else ANY, dtype)
            check(mine, *pairs(values, values), **options)


@pytest.mark.parametrize("name", BINARY)
def test_binary_integers(name: str) -> None:
    mine, theirs = BINARY[name]
    for dtype in (*INTEGERS, "bool"):
        values = integers(dtype)
        divisors = values[values != 0] if name in DIVIDES else values
        check(mine, *pairs(values, divisors), theirs=theirs)


# ---- numbers, scalars and dtypes ----

NUMBERS: dict[str, Callable[[Any], Any]] = {
    "add": lambda x: (x + 1, x + 1.5, 2 + x, x + True),
    "sub": lambda x: (x - 1, 2.5 - x, 3 - x),
    "mul": lambda x: (x * 2, 0.1 * x, x * True),
    "div": lambda x: (x / 2, 3 / x, x / 0.7, 1.5 / x),
    "floordiv": lambda x: (x // 2, 7 // x, x // 0.7),
    "mod": lambda x: (x % 3, 7 % x, x % -2.5, -7 % x),
    "pow": lambda x: (x**0, x**1, x**2, x**3, x**5),
    "pow-float": lambda x: (x**0.5, x**2.5, 2.0**x, x**1.0),
    "compare": lambda x: (x < 2, x <= 2, x > 2.5, x >= 3, x == 2, x != 2, x.gt(2), x.le(2.5)),
    "maximum": lambda x: (x.clamp(min=2), x.clamp(max=2.5), x.clamp(2, 3), x.clip(3, 1), x.clip(0.5)),
    "where": lambda x: (x.where(x > 2, x + x), x.masked_fill(x > 2, 1)),
    "round": lambda x: ((x * 0.7).round(), abs(-x), +x),
}
BITS: dict[str, Callable[[Any], Any]] = {
    "and": lambda x: (x & 6, 5 & x),
    "or": lambda x: (x | 6, 5 | x),
    "xor": lambda x: (x ^ 6, 5 ^ x),
    "shift": lambda x: (x << 2, x >> 1, 1 << x, 100 >> x, x << 0),
    "invert": lambda x: (~x, ~(x > 2)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_python_numbers(name: str) -> None:
    jumps = name in ("mod", "floordiv")
    for dtype in ("float32", "float64", "int32", "int64", "uint8", *([] if jumps else ["float16"])):
        check(NUMBERS[name], as_dtype([1, 2, 3, 7, 10], dtype), native=jumps, gradients=not jumps)
        check(NUMBERS[name], as_dtype(5, dtype), native=jumps, gradients=False)


@pytest.mark.parametrize("name", BITS)
def test_bits_with_python_numbers(name: str) -> None:
    for dtype in ("int8", "int32", "int64", "uint8"):
        check(BITS[name], as_dtype([1, 2, 3, 7, 10], dtype))


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, "bool"])
def test_promotion(dtype: str) -> None:
    """Pairs of dtypes, of which each may be a scalar tensor, which only raises the kind."""

    def products(a: Any, b: Any, c: Any, d: Any) -> Any:
        return a * b, a * d, c * b, c * d, a == b, a + d

    for other in (*FLOATS, *INTEGERS, "bool"):
        left = [as_dtype(value, dtype) for value in ([1, 0, 1], 1)]
        right = [as_dtype(value, other) for value in ([1, 1, 0], 1)]
        check(lambda a, c, b, d: products(a, b, c, d), *left, *right, gradients=False)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "int64"])
def test_wide_integers_against_numpy(dtype: str) -> None:
    """What torch has few functions of: arithmetic that wraps, floor division and shifts."""
    info = np.iinfo(dtype)
    values = np.array([1, 2, 3, 12345, info.max, info.max - 1, info.max // 2], dtype)
    a, b = pairs(values, values)
    x, y = Tensor(a, device="reference"), Tensor(b, device="reference")
    few = b % info.bits
    for ours, wanted in [
        (x + y, a + b),
        (x - y, a - b),
        (x * y, a * b),
        (x // y, a // b),
        (x % y, a % b),
        (x & y, a & b),
        (x | y, a | b),
        (x ^ y, a ^ b),
        (~x, ~a),
        (x << Tensor(few, device="reference"), a << few),
        (x >> Tensor(few, device="reference"), a >> few),
        (x.maximum(y), np.maximum(a, b)),
        (x.minimum(y), np.minimum(a, b)),
        (x < y, a < b),
        (x**3, a * a * a),
    ]:
        assert ours.dtype.name == wanted.dtype.name
        np.testing.assert_array_equal(ours.numpy(), wanted)
    assert (x << 200).sum().item() == 0 and (x >> 200).sum().item() == 0


IN_PLACE = (
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "ifloordiv",
    "imod",
    "ipow",
    "iand",
    "ior",
    "ixor",
    "ilshift",
    "irshift",
)


@pytest.mark.parametrize("name", IN_PLACE)
def test_operators_in_place(name: str) -> None:
    method = getattr(operator, name)
    for dtype in ("float32", "int32", "uint8", "bool"):
        for other in (
            as_dtype([3, 2, 1], dtype),
            as_dtype([3, 2, 1], "float32"),
            2,
            2.5,
            as_dtype([[1, 1, 1]], dtype),
        ):
            number = not isinstance(other, np.ndarray)
            arguments = (as_dtype([5, 4, 7], dtype),) if number else (as_dtype([5, 4, 7], dtype), other)
            check(lambda x, y=other: method(x.clone(), y), *arguments, gradients=False)


def test_operators_in_place_keep_the_tensor() -> None:
    x = Tensor([1.0, 2.0])
    same = x
    x += 1
    x *= Tensor([2.0, 3.0])
    assert x is same and x.tolist() == [4.0, 9.0]


BROADCASTS = [((2, 1, 3), (4, 1)), ((), (2, 2)), ((0, 3), (1, 3)), ((3,), (2, 0, 3)), ((1,), ())]


@pytest.mark.parametrize("shapes", BROADCASTS, ids=str)
def test_broadcasting(shapes: Any) -> None:
    arrays = [np.random.default_rng(3).standard_normal(shape).astype(np.float32) for shape in shapes]
    check(lambda a, b: a * b + a, *arrays, atol=1e-6)


REFUSED: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "decimals-of-integers": (lambda a: a.round(decimals=1), [np.ones(3, np.int32)]),
    "shapes": (lambda a, b: a + b, [np.ones(3, np.float32), np.ones(4, np.float32)]),
    "clamp-nothing": (lambda a: a.clamp(), [np.ones(3, np.float32)]),
    "negative-power": (lambda a: a**-1, [np.ones(3, np.int32)]),
    "rounding-mode": (lambda a: a.div(2, rounding_mode="up"), [np.ones(3, np.float32)]),
    "alpha": (lambda a: a.add(a, alpha=1.5), [np.ones(3, np.int32)]),
    "sub-bool": (lambda a, b: a - b, [np.ones(3, np.int32), np.ones(3, bool)]),
    "rsub-bool": (lambda a: 1 - a, [np.ones(3, bool)]),
    "pos-bool": (lambda a: +a, [np.ones(3, bool)]),
    "mask": (lambda a: a.masked_fill(a, 1), [np.ones(3, np.int32)]),
    "condition": (lambda a: a.where(a, a), [np.ones(3, np.int32)]),
    "bits": (lambda a: a & a, [np.ones(3, np.float32)]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_those_of_torch(name: str) -> None:
    function, arrays = REFUSED[name]
    with pytest.raises(Exception) as caught:
        function(*(torch.tensor(array) for array in arrays))
    refuse(function, *arrays, kind=type(caught.value))


def test_operands_that_are_no_numbers() -> None:
    x = Tensor([1.0])
    for other in ("a", None, object(), [1.0]):
        with pytest.raises(TypeError):
            _ = x + other
        with pytest.raises(TypeError):
            _ = other - x
        with pytest.raises(TypeError):
            _ = x < other
    assert (x == None) is False and (x != "a") is True  # noqa: E711
