"""What users meet: every example of a docstring and of the README runs; what is packed comes back."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import petaflop_quant
from petaflop import Tensor
from petaflop_quant import quantize
from petaflop_quant.choosing import format_named
from petaflop_quant.registry import FORMATS, own_format

MODULES = ("choosing", "importance", "loading", "mixing", "rounding", "tensor")
PACKING = sorted(name for name in FORMATS if own_format(name).can_pack)
BITS = ("q2_k", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0")


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    module = import_module(f"petaflop_quant.{name}")
    public = {each: getattr(petaflop_quant, each) for each in petaflop_quant.__all__}
    result = doctest.testmod(module, extraglobs={"np": np, "Tensor": Tensor, **public})
    assert result.attempted and not result.failed


def test_the_example_of_the_readme(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["output"].shape == (1, 64)


def test_the_readme_lists_every_format_and_encoder() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    from petaflop_quant.registry import ENCODERS

    assert all(f"`{name}`" in text for name in [*FORMATS, *ENCODERS])


@st.composite
def values_of(draw: st.DrawFn, columns: int) -> Any:
    """Rows of floats of very different sizes, zeros and equal numbers among them."""
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    rows = draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["normal", "sparse", "equal", "steep", "one-sided"]))
    made = random.standard_normal((rows, columns))
    if kind == "sparse":
        made *= random.random(made.shape) < 0.1
    elif kind == "equal":
        made[:] = made[:, :1]
    elif kind == "steep":
        made *= np.exp(random.uniform(-12, 6, made.shape))
    elif kind == "one-sided":
        made = abs(made) + 2
    return (made * 2.0 ** draw(st.integers(-30, 12))).astype(np.float32)


@pytest.mark.parametrize("name", PACKING)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trips(name: str, data: st.DataObject) -> None:
    """Within the bound; planes survive a file's bytes; what was a code's own value stays where it is."""
    scheme: Any = format_named(name)
    values = data.draw(values_of(512))
    planes = scheme.pack(values)
    kept = scheme.unpack(planes, values.shape)
    assert (abs(kept.astype(np.float64) - values) <= scheme.bound(values)).all()
    if hasattr(scheme, "to_blocks"):
        again = scheme.from_blocks(scheme.to_blocks(planes), values.shape)
        assert all(np.array_equal(again[key], plane) for key, plane in planes.items())
    twice = scheme.unpack(scheme.pack(kept), kept.shape)
    assert (abs(twice.astype(np.float64) - kept) <= scheme.bound(kept)).all()


def test_more_bits_are_better() -> None:
    values = np.random.default_rng(2).standard_normal((16, 1024)).astype(np.float32)
    errors = [np.linalg.norm(quantize(values, name, "search").numpy() - values) for name in BITS]
    assert errors == sorted(errors, reverse=True)
