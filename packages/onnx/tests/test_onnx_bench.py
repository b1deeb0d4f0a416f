"""`petaflop bench` on ONNX files: kernels are named by the nodes that they compute, whatever the sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from petaflop.cli import main


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """relu(x · w + b), then a softmax: x is float32[rows, 6]."""
    rng = np.random.default_rng(0)
    weights = [("w", rng.standard_normal((6, 5))), ("b", rng.standard_normal(5))]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["sums"], name="dense"),
        helper.make_node("Relu", ["sums"], ["positive"], name="bend"),
        helper.make_node("Softmax", ["positive"], ["y"], name="choose"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("rows", 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("rows", 5))],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(made, tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


def benched(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """What the command says in JSON."""
    assert main(["bench", *map(str, words), "--runs", "2", "--json"]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_kernels_are_named_by_nodes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = benched(capsys, model, "--size", "rows=4")
    named = [line for kernel in data["kernels"] for line in kernel["built_at"]]
    for node in ("'dense' (Gemm", "'bend' (Relu", "'choose' (Softmax"):
        assert any(node in line for line in named), named
    assert data["total"]["calls"] == sum(kernel["calls"] for kernel in data["kernels"]) > 0


def test_more_rows_are_more_work(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    works = []
    for rows in (4, 64):
        total = benched(capsys, model, "--shape", f"x={rows}x6")["total"]
        works.append(total["gflops"] * total["ms"] * 1e6)
    assert works[1] == pytest.approx(16 * works[0], rel=1e-6)


def test_a_run_that_is_benched_after_it(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(model.with_name("x.npy"), np.ones((3, 6), np.float32))
    assert main(["run", str(model), "--input", f"x={model.with_name('x.npy')}", "--bench"]) == 0
    output = capsys.readouterr().out
    assert "y: float32[3, 5]" in output and "in all" in output and "median" in output
