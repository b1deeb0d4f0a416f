"""Graphs as PyTorch's older exporter writes them, over its operator sets, and quantized ones by
onnxruntime's tools, against onnxruntime.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_case import Array, assert_close, run_onnxruntime
from torch import nn
from torch.nn import functional

import petaflop_onnx
from petaflop.profile import profile


class _Call(nn.Module):
    """A function of tensors as a module, with the modules that it uses."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*self.parts, *tensors)


def _recurrent(net: nn.Module, x: torch.Tensor) -> Any:
    y, _ = net(x)
    return y


def _pyramid(x: torch.Tensor) -> torch.Tensor:
    small = functional.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    back = functional.interpolate(small, size=x.shape[2:], mode="nearest")
    return torch.cat([x, back], 1)


def _attention(x: torch.Tensor) -> torch.Tensor:
    batch, length, width = x.shape
    heads = x.reshape(batch, length, 4, width // 4).transpose(1, 2)
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    scores = (heads @ heads.transpose(-1, -2) / 2).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ heads).transpose(1, 2).reshape(batch, length, width)


def _best(x: torch.Tensor) -> Any:
    values, places = x.sigmoid().topk(3, 1)
    return values, places, torch.gather(x, 1, places)


def _warp(x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return functional.grid_sample(x, grid.tanh(), align_corners=True, padding_mode="border")


def _padded(x: torch.Tensor) -> torch.Tensor:
    return functional.pad(x, (1, 2, 0, 3), mode="reflect")[:, :, 1::2]


def _spread(x: torch.Tensor) -> torch.Tensor:
    return x.std(1, keepdim=True) + x.norm(dim=-1, keepdim=True) + x.logsumexp(1, keepdim=True)


def _doubled(x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    for _ in range(int(count)):
        if bool(x.sum() < 100):
            x = x + x
        else:
            x = x - 1
    return x


_doubled_script = torch.jit.script(_doubled)
_vision = nn.Sequential(
    nn.Conv2d(3, 8, 3, 2, 1),
    nn.BatchNorm2d(8),
    nn.SiLU(),
    nn.ConvTranspose2d(8, 4, 4, 2, 1),
    nn.GroupNorm(2, 4),
)
_layers = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 16))
_CASES: dict[str, tuple[nn.Module, list[tuple[int, ...]], list[int]]] = {
    "vision": (_vision, [(2, 3, 16, 12)], [11, 13, 17, 20]),
    "layers": (_layers, [(2, 5, 16)], [11, 13, 17, 20]),
    "lstm": (
        _Call(_recurrent, nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True)),
        [(2, 7, 6)],
        [11, 14, 20],
    ),
    "gru": (_Call(_recurrent, nn.GRU(6, 8)), [(7, 2, 6)], [11, 14, 20]),
    "pyramid": (_Call(_pyramid), [(1, 2, 8, 6)], [11, 13, 18]),
    "attention": (_Call(_attention), [(2, 5, 16)], [14, 18]),
    "best": (_Call(_best), [(3, 9)], [11, 18]),
    "warp": (_Call(_warp), [(2, 3, 6, 5), (2, 4, 4, 2)], [16, 20]),
    "padded": (_Call(_padded), [(1, 2, 6, 7)], [11, 18]),
    "spread": (_Call(_spread), [(3, 6, 4)], [11, 13, 18]),
}


def _export(module: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, opset: int) -> onnx.ModelProto:
    names = [f"x{k}" for k in range(len(inputs))]
    axes = {name: {0: f"n{k}"} for k, name in enumerate(names)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            str(path),
            opset_version=opset,
            input_names=names,
            dynamic_axes=axes if inputs[0].ndim > 1 else None,
            dynamo=False,
        )
    return onnx.load(path)


def _agree(model: onnx.ModelProto, path: Path, feeds: dict[str, Array]) -> None:
    ours = petaflop_onnx.load(path)
    assert_close([value.numpy() for value in ours(feeds).values()], run_onnxruntime(model, feeds), 1e-4)
    with profile() as seen:
        ours(feeds)
    assert not seen.schedules


@pytest.mark.parametrize(
    ("name", "opset"), [(name, o) for name, (_, _, opsets) in _CASES.items() for o in opsets]
)
def test_an_exported_module(name: str, opset: int, tmp_path: Path) -> None:
    module, shapes, _ = _CASES[name]
    generator = torch.Generator().manual_seed(opset)
    inputs = tuple(torch.randn(*shape, generator=generator) for shape in shapes)
    path = tmp_path / f"{name}.onnx"
    with torch.no_grad():
        model = _export(module, inputs, path, opset)
    _agree(model, path, {f"x{k}": x.numpy() for k, x in enumerate(inputs)})


def test_a_scripted_loop_with_branches(tmp_path: Path) -> None:
    path = tmp_path / "script.onnx"
    model = _export(_Call(_doubled_script), (torch.ones(3), torch.tensor(4)), path, 16)
    assert "Loop" in {node.op_type for node in model.graph.node}
    for count in (0, 4, 9):
        feeds = {"x0": np.asarray([1, 2, 3], np.float32), "x1": np.asarray(count)}
        _agree(model, path, feeds)


# ---- quantized ----


def _float_model(folder: Path) -> Path:
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    path = folder / "float.onnx"
    with torch.no_grad():
        _export(net, (torch.randn(2, 3, 6, 6),), path, 13)
    return path


class _Samples:
    """What the calibration of static quantization reads."""

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        self.rows = iter([{"x0": random.standard_normal((2, 3, 6, 6)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.rows, None)


@pytest.mark.parametrize("way", ["dynamic", "QDQ", "QOperator"])
def test_a_quantized_model(way: str, tmp_path: Path) -> None:
    """The integers agree but where a float lies between two: at most one step of the output's scale."""
    from onnxruntime import quantization

    source, path = _float_model(tmp_path), tmp_path / "quantized.onnx"
    if way == "dynamic":
        quantization.quantize_dynamic(source, path, weight_type=quantization.QuantType.QInt8)
    else:
        form = quantization.QuantFormat[way]
        kinds = ["Conv"] if way == "QOperator" else None  # for Gemm it uses an operator of its own domain
        quantization.quantize_static(
            source, path, _Samples(), quant_format=form, per_channel=True, op_types_to_quantize=kinds
        )
    model = onnx.load(path)
    used = {node.op_type for node in model.graph.node}
    assert used & {"MatMulInteger", "DequantizeLinear", "QLinearConv"}
    x = np.random.default_rng(2).standard_normal((2, 3, 6, 6)).astype(np.float32)
    (expected,) = run_onnxruntime(model, {"x0": x})
    (got,) = [value.numpy() for value in petaflop_onnx.load(path)({"x0": x}).values()]
    (exact,) = run_onnxruntime(onnx.load(source), {"x0": x})
    step = np.abs(exact).max() / 127
    assert np.abs(got - expected).max() <= 1.01 * step
    assert np.abs(got - exact).max() < 8 * step
