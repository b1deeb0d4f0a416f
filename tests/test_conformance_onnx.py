"""The ONNX importer holds the importer suite's highest level, on models made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save(path: Path, nodes: list[onnx.NodeProto], inputs: list, outputs: list, weights: dict) -> None:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


def test_the_onnx_importer_holds_its_suite(tmp_path: Path) -> None:
    samples, value = tmp_path / "samples", helper.make_tensor_value_info
    samples.mkdir()
    random = np.random.default_rng(0)
    save(
        samples / "dense.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["y"])],
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
        {"w": random.standard_normal((4, 3)).astype(np.float32)},
    )
    save(
        samples / "embedding.onnx",
        [helper.make_node("Gather", ["table", "ids"], ["rows"]), helper.make_node("Relu", ["rows"], ["y"])],
        [value("ids", TensorProto.INT64, [2, "length"])],
        [value("y", TensorProto.FLOAT, [2, "length", 5])],
        {"table": random.standard_normal((7, 5)).astype(np.float32)},
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--petaflop-importer=onnx"]
    done = subprocess.run(
        [*command, f"--petaflop-samples={samples}", "--petaflop-report=report.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["level"] == {"asked": "model", "held": "model", "waived": 0}
    assert {test["outcome"] for test in report["tests"]} == {"passed"}
