"""Casts by name, against NumPy."""

import numpy as np
import pytest

from petaflop import Tensor


@pytest.mark.parametrize(
    ("name", "numpy"),
    [
        ("half", np.float16),
        ("float", np.float32),
        ("double", np.float64),
        ("short", np.int16),
        ("int", np.int32),
        ("long", np.int64),
        ("bool", np.bool_),
    ],
)
def test_a_cast_by_name(name: str, numpy: type) -> None:
    values = np.array([1.5, -2.7, 0.0, 100.25], np.float32)
    result = getattr(Tensor(values), name)().numpy()
    assert result.dtype == numpy
    np.testing.assert_array_equal(result, values.astype(numpy))


def test_bfloat16_rounds_to_nearest_even() -> None:
    assert Tensor([1.00390625, 1.01171875]).bfloat16().float().tolist() == [1.0, 1.015625]


def test_what_is_too_large_for_float8() -> None:
    """float8_e4m3 ends at 448 and rounds up to 464 to it; float8_e5m2 ends at 57344."""
    x = Tensor([448.0, 464.0, 464.25, 500.0, -500.0, np.inf, np.nan])
    nan = np.nan
    np.testing.assert_array_equal(
        x.cast("float8_e4m3").float().numpy(), np.float32([448, 448, nan, nan, nan, nan, nan])
    )
    clamped = x.clamp(-448, 448).cast("float8_e4m3").float().numpy()
    np.testing.assert_array_equal(clamped, np.float32([448, 448, 448, 448, -448, 448, nan]))
    y = Tensor([57344.0, 61439.0, 61440.0, -70000.0, np.inf, np.nan])
    np.testing.assert_array_equal(
        y.cast("float8_e5m2").float().numpy(), np.float32([57344, 57344, np.inf, -np.inf, np.inf, nan])
    )


def rounded(number: int, bits: int) -> int:
    """`number` to nearest even in so many significant bits, in integers alone."""
    drop = max(abs(number).bit_length() - bits, 0)
    half = (1 << drop) >> 1
    kept, rest = abs(number) >> drop, abs(number) & ((1 << drop) - 1)
    kept += rest > half or (rest == half and half > 0 and kept & 1)
    return (kept << drop) * (1 if number >= 0 else -1)


@pytest.mark.parametrize("width", [32, 64])
def test_integers_reach_bfloat16_with_one_rounding(width: int) -> None:
    """Just above and below a tie of 8 bits, whose side a stop at float32 or float64 would lose."""
    places = range(9, width - 1)
    ties = [(1 << n) + (1 << (n - 8)) for n in places]
    numbers = [sign * (tie + near) for tie in ties for near in (-1, 0, 1) for sign in (1, -1)]
    values = np.array(numbers, f"int{width}")
    got = Tensor(values).bfloat16().double().tolist()
    assert [int(each) for each in got] == [rounded(number, 8) for number in numbers]
