"""How far the functions of mathematics are from exact, in units in the last place, over wide ranges.

The truth is NumPy in extended precision (float64 on inputs of float32); a bound is what the docstrings state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch_case import units

from petaflop.tensor import Tensor

RNG = np.random.default_rng(11)
COUNT = 4000


def everywhere(dtype: str) -> Any:
    """Finite numbers of every exponent, and special ones."""
    word = np.uint32 if dtype == "float32" else np.uint64
    bits = RNG.integers(0, np.iinfo(word).max, COUNT, word, endpoint=True)
    values = bits.view(dtype)
    special = np.array([0.0, -0.0, 1, -1, 0.5, 2, np.inf, -np.inf, np.nan], dtype)
    info = np.finfo(dtype)
    ends = np.array([info.max, info.min, info.tiny, info.smallest_subnormal], dtype)
    return np.concatenate([values[np.isfinite(values)], special, ends])


def between(low: float, high: float) -> Callable[[str], Any]:
    return lambda dtype: RNG.uniform(low, high, COUNT).astype(dtype)


def near(center: float) -> Callable[[str], Any]:
    """Numbers close to one, and closer."""
    return lambda dtype: (center + RNG.uniform(-1, 1, COUNT) * 10.0 ** RNG.uniform(-8, 0, COUNT)).astype(
        dtype
    )


def exact_erf(x: Any) -> Any:
    return torch.erf(torch.tensor(x.astype(np.float64))).numpy()


def exact_sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


# name: (the truth, the bound, inputs besides those of every exponent)
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], float, Any]] = {
    "exp": (np.exp, 4, between(-110, 90)),
    "exp2": (np.exp2, 4, between(-150, 128)),
    "expm1": (np.expm1, 4, near(0)),
    "log": (np.log, 4, near(1)),
    "log2": (np.log2, 4, near(1)),
    "log10": (np.log10, 4, near(1)),
    "log1p": (np.log1p, 4, near(0)),
    "sinh": (np.sinh, 6, between(-90, 90)),
    "cosh": (np.cosh, 6, between(-90, 90)),
    "tanh": (np.tanh, 6, between(-10, 10)),
    "asinh": (np.arcsinh, 6, between(-4, 4)),
    "acosh": (np.arccosh, 6, near(1)),
    "atanh": (np.arctanh, 6, between(-1, 1)),
    "asin": (np.arcsin, 4, between(-1, 1)),
    "acos": (np.arccos, 4, between(-1, 1)),
    "atan": (np.arctan, 4, between(-4, 4)),
    "sqrt": (np.sqrt, 0.5, between(0, 4)),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2, between(0, 4)),
    "reciprocal": (lambda x: 1 / x, 0.5, between(-4, 4)),
    "sigmoid": (exact_sigmoid, 6, between(-90, 90)),
    "erf": (exact_erf, 8, between(-6, 6)),
    "sin": (np.sin, 4, between(-20, 20)),
}


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_units_in_the_last_place(name: str, device: str) -> None:
    truth, bound, inputs = FUNCTIONS[name]
    for dtype in ("float32", "float64"):
        x = np.concatenate([everywhere(dtype), inputs(dtype)])
        with np.errstate(all="ignore"):
            exact = truth(x.astype(np.longdouble))
        values = getattr(Tensor(x, device=device), name)().numpy()
        distance = units(values, exact, dtype)
        worst = int(np.argmax(distance))
        assert distance[worst] <= bound, (dtype, x[worst], values[worst], exact[worst], distance[worst])


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("name", ["erf", "tanh"])
def test_functions_that_reach_one_stay_there(name: str, device: str) -> None:
    x = np.concatenate([np.linspace(0, 12, 200_001), [1e10, np.inf]]).astype(np.float32)
    for sign in (1, -1):
        values = sign * getattr(Tensor(sign * x, device=device), name)().numpy()
        assert values.max() == 1.0
        assert (values[x > 9.5] == 1.0).all()
        assert (values >= 0).all()


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_cos_and_tan_are_as_exact_as_stated(device: str) -> None:
    """cos within 4 units of 1, tan within 8 of 1 + tan²: near their zeros and poles, that is."""
    for dtype in ("float32", "float64"):
        x = np.concatenate([everywhere(dtype), between(-20, 20)(dtype)])
        x = x[np.isfinite(x)]
        wide, unit = x.astype(np.longdouble), np.finfo(dtype).eps
        cos = np.abs(Tensor(x, device=device).cos().numpy() - np.cos(wide))
        assert cos.max() <= 4 * unit
        tan = np.abs(Tensor(x, device=device).tan().numpy() - np.tan(wide))
        assert (tan / (1 + np.tan(wide) ** 2)).max() <= 8 * unit


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_pow_is_within_16_units(device: str) -> None:
    for dtype in ("float32", "float64"):
        base = np.concatenate([everywhere(dtype), between(0.9, 1.1)(dtype), between(-40, 40)(dtype)])
        exponent = RNG.permutation(
            np.concatenate([everywhere(dtype), between(-60, 60)(dtype), near(0)(dtype)])
        )
        size = min(len(base), len(exponent))
        base, exponent = base[:size], exponent[:size]
        whole = RNG.random(size) < 0.3
        exponent = np.where(whole, np.trunc(exponent), exponent)
        with np.errstate(all="ignore"):
            exact = np.power(base.astype(np.longdouble), exponent.astype(np.longdouble))
        values = Tensor(base, device=device).pow(Tensor(exponent, device=device)).numpy()
        distance = units(values, exact, dtype)
        worst = int(np.argmax(distance))
        assert distance[worst] <= 16, (base[worst], exponent[worst], values[worst], exact[worst])


def test_powers_of_a_number_are_within_16_units() -> None:
    every = np.concatenate([everywhere("float32"), between(0.5, 2)("float32")])
    for exponent in (2, 3, 7, 16, 17, -1, -3, -8, 0.5, -0.5, 1.5, 0.1, 100):
        x = abs(every) if abs(exponent) == 0.5 else every  # these are sqrt and rsqrt, as in torch
        with np.errstate(all="ignore"):
            exact = np.power(x.astype(np.longdouble), exponent)
        values = Tensor(x, device="reference").pow(exponent).numpy()
        distance = units(values, exact, "float32")
        worst = int(np.argmax(distance))
        assert distance[worst] <= 16, (x[worst], exponent, values[worst], exact[worst])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_remainders_are_exact(dtype: str) -> None:
    """fmod and % have no rounding error of their own."""
    a = np.concatenate([between(-1000, 1000)(dtype), near(0)(dtype)])
    b = RNG.permutation(np.concatenate([between(-3, 3)(dtype), between(0.001, 1)(dtype)]))
    x, y = Tensor(a, device="cpu"), Tensor(b, device="cpu")
    np.testing.assert_array_equal(x.fmod(y).numpy(), np.fmod(a, b))
    np.testing.assert_array_equal((x % y).numpy(), np.remainder(a, b))
    np.testing.assert_array_equal((x // y).numpy(), np.floor_divide(a, b))
