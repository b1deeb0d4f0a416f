"""EXP2, LOG2 and SIN: the largest error in ULP over the whole range, special values, and every width."""

from __future__ import annotations

import ctypes
import functools
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from kernels import backend

from petaflop import Tensor
from petaflop.errors import CompileError
from petaflop_cpu.jit import Compiler, Library
from petaflop_cpu.mathlib import SIN_HUGE, prelude
from petaflop_cpu.target import TARGETS

Array = np.ndarray
ULP = {"exp2": 2, "log2": 2, "sin": 3}
CASES = [(name, bits) for name in ULP for bits in (32, 64)]
TRUTH: dict[str, Callable[[Array], Array]] = {"exp2": np.exp2, "log2": np.log2, "sin": np.sin}


def source(name: str, lanes: int, bits: int, scales: bool = False) -> str:
    """A function that applies a math function to `count` values."""
    scalar = "float" if bits == 32 else "double"
    vector = scalar if lanes == 1 else f"<{lanes} x {scalar}>"
    function = f"petaflop_{name}_v{lanes}f{bits}"
    return (
        prelude({function}, scales)
        + f"""
define void @apply(ptr %from, ptr %to, i64 %count) {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
  %at = getelementptr {scalar}, ptr %from, i64 %i
  %x = load {vector}, ptr %at, align {bits // 8}
  %y = call {vector} @{function}({vector} %x)
  %out = getelementptr {scalar}, ptr %to, i64 %i
  store {vector} %y, ptr %out, align {bits // 8}
  %next = add i64 %i, {lanes}
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %leave
leave:
  ret void
}}
"""
    )


@functools.cache
def compiled(name: str, lanes: int, bits: int, scales: bool = False) -> Callable[[Array], Array]:
    imports = {SIN_HUGE: backend().runtime[SIN_HUGE]}
    binary = Compiler(backend().target).compile(source(name, lanes, bits, scales))
    library = Library(binary, ["apply"], imports)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(library["apply"])

    def apply(values: Array) -> Array:
        assert library
        given = np.ascontiguousarray(np.resize(values, -(-values.size // lanes) * lanes), f"f{bits // 8}")
        result = np.empty_like(given)
        function(given.ctypes.data, result.ctypes.data, given.size)
        return result[: values.size]

    return apply


def worst(name: str, values: Array) -> tuple[float, float]:
    """The largest error in ULP and where it is; infinite where a NaN, an infinity or a zero is wrong."""
    bits = values.dtype.itemsize * 8
    wide = np.float64 if bits == 32 else np.longdouble
    least, digits = (-149, 24) if bits == 32 else (-1074, 53)
    result = compiled(name, 8 if bits == 32 else 4, bits)(values)
    with np.errstate(all="ignore"):
        truth = TRUTH[name](values.astype(wide))
        rounded = truth.astype(values.dtype)
        ulp = np.ldexp(wide(1), np.maximum(np.frexp(truth)[1] - digits, least))
        errors = np.abs(result.astype(wide) - truth) / ulp
    same = (result == rounded) | (np.isnan(result) & np.isnan(rounded))
    errors = np.where(same & ~np.isfinite(rounded), 0, np.where(np.isnan(errors), np.inf, errors))
    at = int(np.argmax(errors))
    return float(errors[at]), float(values[at])


needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="float64 cannot be checked here: long double is no wider"
)


def everywhere(bits: int, count: int) -> Array:
    """Bit patterns evenly over all floats, NaNs and both signs included, each with random low bits."""
    step = 2**bits // count
    random = np.random.default_rng(0).integers(0, step, count, dtype=np.uint64)
    patterns = np.arange(count, dtype=np.uint64) * np.uint64(step) + random
    return patterns.astype(f"u{bits // 8}").view(f"f{bits // 8}")


@pytest.mark.parametrize("name", ULP)
def test_float32_over_all_exponents(name: str) -> None:
    error, at = worst(name, everywhere(32, 1 << 22))
    print(f"{name} float32: {error:.3f} ULP at {at!r}")
    assert error <= ULP[name], at


@pytest.mark.parametrize(("lanes", "bits"), [(1, 32), (5, 32), (8, 32), (16, 32), (1, 64), (8, 64)])
def test_exp2_has_the_same_bits_with_an_instruction_that_scales(lanes: int, bits: int) -> None:
    with np.errstate(invalid="ignore"):  # patterns that are signalling NaNs
        values = np.concatenate([everywhere(bits, 1 << 18), *INTERESTING["exp2"]]).astype(f"f{bits // 8}")
    integer = f"u{bits // 8}"
    scaled, plain = (compiled("exp2", lanes, bits, scales)(values) for scales in (True, False))
    nan = np.isnan(scaled) & np.isnan(plain)
    np.testing.assert_array_equal(scaled.view(integer)[~nan], plain.view(integer)[~nan])


@needs_long_double
@pytest.mark.parametrize("name", ULP)
def test_float64_over_all_exponents(name: str) -> None:
    error, at = worst(name, everywhere(64, 1 << 16))
    print(f"{name} float64: {error:.3f} ULP at {at!r}")
    assert error <= ULP[name], at


RANDOM = np.random.default_rng(1)
uniform = RANDOM.uniform
INTERESTING = {
    "exp2": [uniform(-1080, 1030, 50_000), uniform(-151, -125, 20_000), uniform(-1, 1, 20_000)],
    "log2": [uniform(0.4, 2.5, 50_000), 1 + uniform(-1, 1, 20_000) * 2.0 ** uniform(-50, 0, 20_000)],
    "sin": [
        uniform(-10, 10, 50_000),
        np.arange(1, 20_001) * np.pi,  # where the result is all that rounding left
        np.arange(1, 20_001) * (np.pi / 2),
        uniform(-1, 1, 20_000) * 2.0 ** uniform(30, 70, 20_000),  # about the limit of Cody and Waite
        np.array([6381956970095103.0 * 2.0**797, 1e22, 2.0**40]),  # the nearest to a multiple of π
    ],
}


@needs_long_double
@pytest.mark.parametrize(("name", "bits"), CASES)
def test_where_it_is_hard(name: str, bits: int) -> None:
    with np.errstate(over="ignore"):
        values = np.concatenate(INTERESTING[name]).astype(f"f{bits // 8}")
    error, at = worst(name, values[np.isfinite(values)])
    print(f"{name} float{bits}: {error:.3f} ULP at {at!r}")
    assert error <= ULP[name], at


INF, NAN = float("inf"), float("nan")
SPECIAL = {
    "exp2": [
        (0, 1),
        (-0.0, 1),
        (1, 2),
        (-1, 0.5),
        (INF, INF),
        (-INF, 0),
        (NAN, NAN),
        (5000, INF),
        (-5000, 0),
    ],
    "log2": [
        (1, 0),
        (8, 3),
        (0.25, -2),
        (0, -INF),
        (-0.0, -INF),
        (-1, NAN),
        (INF, INF),
        (-INF, NAN),
        (NAN, NAN),
    ],
    "sin": [(0, 0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (NAN, NAN)],
}


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_special_values(name: str, bits: int) -> None:
    given, expected = (np.array(column, f"f{bits // 8}") for column in zip(*SPECIAL[name], strict=True))
    result = compiled(name, 4, bits)(given)
    np.testing.assert_array_equal(result, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(result[numbers]), np.signbit(expected[numbers]))


@pytest.mark.parametrize("bits", [32, 64])
def test_powers_of_two_are_exact(bits: int) -> None:
    powers = np.arange(-149, 128) if bits == 32 else np.arange(-1074, 1024)
    values = np.ldexp(1.0, powers).astype(f"f{bits // 8}")
    np.testing.assert_array_equal(compiled("exp2", 8, bits)(powers.astype(values.dtype)), values)
    np.testing.assert_array_equal(compiled("log2", 8, bits)(values), powers.astype(values.dtype))


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_every_width_gives_the_same_bits(name: str, bits: int) -> None:
    values = everywhere(bits, 1 << 12)
    expected = compiled(name, 1, bits)(values)
    for lanes in (2, 4, 8, 16):
        np.testing.assert_array_equal(compiled(name, lanes, bits)(values), expected, err_msg=f"{lanes} lanes")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ULP)
def test_other_cpus_get_vector_code(name: str, target: str) -> None:
    row = TARGETS[target]
    text = Compiler(row).assembly(source(name, row.vector_width(4), 32))
    fused = r"\bfmla|\bfmls" if target.startswith("aarch64") else r"\bvfn?m(add|sub)\d+ps|\bvfn?madd\d+pd"
    assert re.search(fused, text)
    assert not re.search(r"\b(call|callq|bl)\s+(fmaf?|exp2f?|log2f?|sinf?)\b", text)


def test_an_unknown_function_is_an_error() -> None:
    with pytest.raises(CompileError, match="prelude: expected petaflop_exp2_v8f32 or its like"):
        prelude({"petaflop_cosh_v8f32"})


def test_lanes_over_one_number_are_rounded_as_a_division() -> None:
    """Quotients by a reciprocal and corrections, against NumPy's division, to the bit."""
    rng = np.random.default_rng(4)
    edges = [
        0.0,
        1e-45,
        1e-38,
        2.0**-101,
        2.0**-100,
        1e-31,
        1.0,
        2.0**100,
        2.0**101,
        3.4e38,
        math.inf,
        math.nan,
    ]
    special = np.array([*edges, *(-x for x in edges)], np.float32)
    mantissas = (np.arange(1 << 14, dtype=np.uint32) * 511 + 0x3F800000).view(np.float32)
    scattered = np.exp2(rng.uniform(-110, 110, 1 << 14)).astype(np.float32)
    dividends = np.concatenate([np.resize(special, 64 * len(special)), mantissas, scattered, -scattered])
    near = [
        3.0,
        7.0,
        np.nextafter(np.float32(2), np.float32(1)),
        1.0000001,
        2.0**20,
        2.0**-20,
        1e-6,
        123456.7,
    ]
    for divisor in (*special, *np.float32(near), *np.exp2(rng.uniform(-22, 22, 40)).astype(np.float32)):
        with np.errstate(all="ignore"):
            expected = dividends / divisor
        found = (Tensor(dividends) / Tensor(np.array([divisor], np.float32))).numpy()
        same = (found.view(np.int32) == expected.view(np.int32)) | (np.isnan(found) & np.isnan(expected))
        assert same.all(), (dividends[~same][:3], divisor, found[~same][:3], expected[~same][:3])
