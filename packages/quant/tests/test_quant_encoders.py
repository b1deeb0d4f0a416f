"""How bytes are chosen: errors against those of ggml's own quantizers, determinism, importance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from petaflop import Tensor
from petaflop.errors import ArgumentError, PluginError, ShapeError
from petaflop_quant import quantize, quantize_all
from petaflop_quant.choosing import encoder_named, format_named
from petaflop_quant.registry import ENCODERS, FORMATS

RANDOM = np.random.default_rng(9)
# ‖W − kept‖ / ‖W‖ of ggml's C quantizers on weights of Student's t with 6 degrees of freedom, 64 × 2048
GGML = {
    "q8_0": 0.00646, "q6_k": 0.0207, "q5_k": 0.0409, "q5_1": 0.0422, "q5_0": 0.0513, "q4_k": 0.0806,
    "iq4_nl": 0.0860, "iq4_xs": 0.0867, "q4_1": 0.0875, "q4_0": 0.1032, "q3_k": 0.1715, "q2_k": 0.3254,
}  # fmt: skip
SEARCHED = [*GGML, "int8_row"]


def heavy(rows: int = 64, columns: int = 2048) -> Any:
    return RANDOM.standard_t(6, (rows, columns)).astype(np.float32)


def loss(values: Any, kept: Any, weights: Any = 1.0) -> float:
    return float(
        np.sqrt(
            (weights * (kept - values.astype(np.float64)) ** 2).sum() / (values.astype(np.float64) ** 2).sum()
        )
    )


@pytest.mark.parametrize("name", GGML)
def test_search_is_no_worse_than_ggml(name: str) -> None:
    values = heavy()
    assert loss(values, quantize(values, name, "search").numpy()) <= 1.02 * GGML[name]


@pytest.mark.parametrize("name", [name for name in SEARCHED if format_named(name).can_pack])
def test_search_is_better_than_nearest(name: str) -> None:
    values = heavy(16, 512)
    assert loss(values, quantize(values, name, "search").numpy()) < loss(
        values, quantize(values, name).numpy()
    )


@pytest.mark.parametrize("name", SEARCHED)
def test_importance_moves_the_error_to_where_it_matters_less(name: str) -> None:
    values, importance = heavy(16, 512), np.exp(RANDOM.standard_normal(512) * 1.5)
    plain = quantize(values, name, "search").numpy()
    weighed = quantize(values, name, "search", importance).numpy()
    assert loss(values, weighed, importance) < loss(values, plain, importance)


@pytest.mark.parametrize("name", SEARCHED)
def test_encoders_are_deterministic_and_bear_edges(name: str) -> None:
    zeros, outlier = np.zeros((2, 512), np.float32), heavy(2, 512)
    outlier[0, 5] = 1e4
    tiny = heavy(2, 512) * np.float32(1e-30)
    for values in (zeros, outlier, tiny, np.full((2, 512), 0.1, np.float32), -abs(outlier)):
        first, again = (quantize(values, name, "search") for _ in range(2))
        for key in first.planes:
            assert first.planes[key].numpy().tobytes() == again.planes[key].numpy().tobytes()
        kept = first.numpy()
        assert np.isfinite(kept).all()
        assert np.linalg.norm(kept - values.astype(float)) <= 1.01 * np.linalg.norm(values.astype(float))
    assert not quantize(zeros, name, "search").numpy().any()


def test_codes_to_nearest_stay_when_packed_again() -> None:
    for name in ("q8_0", "q4_0", "int8_row", "mxfp4"):
        once = quantize(heavy(4, 256), name).numpy()
        assert loss(once, quantize(once, name).numpy()) < 1e-3


def test_rules_name_formats_by_pattern() -> None:
    given = {
        "blk.0.attn_v.weight": heavy(8, 512),
        "blk.0.ffn.weight": heavy(8, 512),
        "blk.0.odd.weight": heavy(8, 96),
        "blk.0.odder.weight": heavy(8, 33),
        "blk.0.norm.weight": heavy(1, 512)[0],
        "output.bias2": heavy(2, 64),
    }
    made: Any = quantize_all(given, {"*.attn_v.*": "q6_k", "*.weight": "q4_k", "*bias*": "float"})
    names = {name: getattr(getattr(each, "scheme", None), "name", "") for name, each in made.items()}
    assert names == {
        "blk.0.attn_v.weight": "q6_k",
        "blk.0.ffn.weight": "q4_k",
        "blk.0.odd.weight": "q5_0",  # 96 is no multiple of 256: the fallback
        "blk.0.odder.weight": "",
        "blk.0.norm.weight": "",
        "output.bias2": "",
    }


def test_names_and_values_that_cannot_be() -> None:
    with pytest.raises(PluginError):
        quantize(np.ones((2, 32), np.float32), "q9_9")
    with pytest.raises(PluginError):
        quantize(np.ones((2, 32), np.float32), "q8_0", "wishing")
    with pytest.raises(ShapeError, match="multiple of 32"):
        quantize(np.ones((2, 33), np.float32), "q8_0")
    for name in ("rtn", "search"):
        with pytest.raises(ArgumentError, match="finite"):
            quantize(np.full((2, 32), np.nan, np.float32), "q8_0", name)
    with pytest.raises(ArgumentError, match="importance"):
        quantize(np.ones((2, 32), np.float32), "q8_0", "search", np.ones(31))
    with pytest.raises(ArgumentError, match="q3_k"):
        quantize(np.ones((2, 256), np.float32), "q3_k", "rtn")


def test_every_name_has_a_plugin() -> None:
    from importlib.metadata import entry_points

    ours = [each for each in entry_points(group="petaflop.quant.v1") if each.value == "petaflop_quant.plugin"]
    assert sorted(each.name for each in ours) == sorted(FORMATS)
    for name in FORMATS:
        assert format_named(name).name == name
    ours = [e for e in entry_points(group="petaflop.encoders.v1") if e.value == "petaflop_quant.plugin"]
    assert sorted(each.name for each in ours) == sorted(ENCODERS)
    for name in ENCODERS:
        assert encoder_named(name).name == name


def test_tensors_and_halves_are_packed_too() -> None:
    values = heavy(2, 64)
    expected = quantize(values, "q8_0").numpy()
    assert np.array_equal(quantize(Tensor(values), "q8_0").numpy(), expected)
    half = quantize(values.astype(np.float16), "q8_0").numpy()
    assert np.allclose(half, expected, atol=0.05)
