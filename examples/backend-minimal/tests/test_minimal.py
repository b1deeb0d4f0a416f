"""The backend against NumPy in float64, on one program of each kind that a kernel can be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import petaflop_minimal.backend as backend
from petaflop import Tensor

Array = Any
rng = np.random.default_rng(3)
X, Y = rng.standard_normal((7, 33)), rng.standard_normal((33, 5))
N = rng.integers(-3, 7, 12)


def soft(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


PROGRAMS: dict[str, tuple[Callable[..., Tensor], Callable[..., Array], tuple[Array, ...]]] = {
    "elementwise": (lambda x: (x * 2 + 1).relu(), lambda x: np.maximum(x * 2 + 1, 0), (X,)),
    "matmul": (lambda x, y: x @ y, lambda x, y: x @ y, (X, Y)),
    "softmax": (lambda x: x.softmax(-1), soft, (X,)),
    "running sum": (lambda x: x.cumsum(1), lambda x: x.cumsum(1), (X,)),
    "argmax": (lambda x: x.argmax(1), lambda x: x.argmax(1), (X,)),
    "gather": (lambda x, n: x[n], lambda x, n: x[n], (X, N)),
    "padding": (lambda x: x.pad(((1, 2), (0, 3))), lambda x: np.pad(x, ((1, 2), (0, 3))), (X,)),
    "floor division": (lambda n: n // 2, lambda n: n // 2, (N,)),
    "saturating cast": (
        lambda x: (x * 1e12).cast("int32"),
        lambda x: np.clip(np.trunc(x * 1e12), -(2**31), 2**31 - 1),
        (X,),
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    ours, numpy, arrays = PROGRAMS[name]
    leaves = [
        Tensor(a.astype(np.float32 if a.dtype.kind == "f" else np.int32), device="minimal") for a in arrays
    ]
    got = ours(*leaves).numpy()
    expected = numpy(
        *(
            leaf.numpy().astype(np.float64 if a.dtype.kind == "f" else np.int64)
            for leaf, a in zip(leaves, arrays, strict=True)
        )
    )
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_large_block_is_walked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (Tensor(X, device="minimal") @ Tensor(Y, device="minimal")).numpy()
    monkeypatch.setattr(backend, "MANY", 100)
    parts = (Tensor(X, device="minimal") @ Tensor(Y, device="minimal")).numpy()
    np.testing.assert_array_equal(parts, whole)


def test_it_is_listed() -> None:
    command = [sys.executable, "-m", "petaflop", "devices"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "kernels interpreted with NumPy" in listed


def test_only_the_plugin_api_is_imported() -> None:
    for path in Path(backend.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "petaflop":
                assert node.module == "petaflop.plugin_api" or [each.name for each in node.names] == [
                    "plugin_api"
                ]
            if isinstance(node, ast.Import):
                assert not any(each.name.split(".")[0] == "petaflop" for each in node.names)
