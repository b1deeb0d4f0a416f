"""Operators that draw random numbers: their moments, which is all that ONNX promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_case import Array, feeds_of, node_model, run_petaflop

from petaflop import Tensor

_COUNT = 40_000


@pytest.fixture(autouse=True)
def _seeded() -> None:
    Tensor.manual_seed(3)


def _draw(folder: Path, op: str, *inputs: Array, opset: int = 22, **attributes: Any) -> Array:
    model = node_model(op, opset, inputs, **attributes)
    (result,) = run_petaflop(model, feeds_of(inputs), folder)
    return result


@pytest.mark.parametrize("opset", [15, 22])
def test_moments(tmp_path: Path, opset: int) -> None:
    like = np.zeros(_COUNT, np.float64)
    normal = {"mean": 3.0, "scale": 2.0}
    uniform = {"low": -1.0, "high": 3.0}
    for op, inputs, attributes, dtype in (
        ("RandomNormal", (), {"shape": [_COUNT], **normal}, np.float32),
        ("RandomNormalLike", (like,), normal, np.float64),
        ("RandomUniform", (), {"shape": [_COUNT], **uniform}, np.float32),
        ("RandomUniformLike", (like,), {"dtype": 1, **uniform}, np.float32),
    ):
        drawn = _draw(tmp_path, op, *inputs, opset=opset, **attributes)
        mean, spread = (3, 2) if "Normal" in op else (1, 4 / 12**0.5)
        assert drawn.shape == (_COUNT,) and drawn.dtype == dtype
        assert abs(drawn.mean() - mean) < 0.05 and abs(drawn.std() - spread) < 0.05


def test_bernoulli(tmp_path: Path) -> None:
    chance = np.repeat(np.asarray([0.0, 0.2, 0.9, 1.0], np.float32), _COUNT).reshape(4, _COUNT)
    drawn = _draw(tmp_path, "Bernoulli", chance, dtype=6)
    assert drawn.dtype == np.int32 and set(np.unique(drawn)) == {0, 1}
    np.testing.assert_allclose(drawn.mean(1), [0, 0.2, 0.9, 1], atol=0.02)
    assert drawn[0].max() == 0 and drawn[3].min() == 1


def test_multinomial(tmp_path: Path) -> None:
    chances = np.asarray([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    drawn = _draw(tmp_path, "Multinomial", np.log(chances).astype(np.float32), sample_size=_COUNT)
    assert drawn.dtype == np.int32 and drawn.shape == (2, _COUNT)
    for row, expected in zip(drawn, chances, strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=3) / _COUNT, expected, atol=0.02)


def test_dropout_in_training(tmp_path: Path) -> None:
    x = np.ones(_COUNT, np.float32)
    inputs = [x, np.asarray(0.25, np.float32), np.asarray(True)]
    model = node_model("Dropout", 13, inputs, 2, constant=(1, 2))
    y, mask = run_petaflop(model, {"x0": x}, tmp_path)
    np.testing.assert_allclose(y, np.where(mask, 1 / 0.75, 0), rtol=1e-6)
    assert abs(mask.mean() - 0.75) < 0.02
