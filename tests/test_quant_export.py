"""Layers of quantized weights as ONNX: the file holds packed bytes, and onnxruntime computes what we do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import petaflop_onnx
from petaflop import Tensor
from petaflop_quant import Linear, quantize

FORMATS = (
    "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "iq4_nl", "nf4", "int8_row", "fp8_e4m3",
)  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_quantized_layer_as_onnx(name: str, tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    layer = Linear(quantize(random.standard_normal((64, 1024)).astype(np.float32), name))
    x = random.standard_normal((5, 1024)).astype(np.float32)
    path = tmp_path / "layer.onnx"
    petaflop_onnx.export(layer, path, inputs={"x": "float32[n?,1024]"})
    assert path.stat().st_size < 1.05 * layer.weight.nbytes + 8192
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    wide = layer.weight.numpy().astype(np.float64)
    size = abs(x.astype(np.float64)) @ abs(wide).T
    assert (abs(found - x.astype(np.float64) @ wide.T) <= 1e-6 * size + 1e-5).all()
    assert (abs(found - layer(Tensor(x)).numpy()) <= 1e-6 * size + 1e-5).all()
