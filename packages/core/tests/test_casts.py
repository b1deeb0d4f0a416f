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
