"""Random numbers, by petaflop's own generator: the same from run to run only after `Tensor.manual_seed`.

A node's `seed` attribute is not followed: ONNX leaves open what numbers a seed gives.
"""

from __future__ import annotations

from typing import Any

from petaflop import Tensor
from petaflop_onnx.operators.common import onnx_dtype, shape_of
from petaflop_onnx.table import Call, operator


def _drawn(call: Call, kind: str, shape: tuple[int, ...], dtype: Any) -> Tensor:
    if kind == "normal":
        return Tensor.randn(*shape, device=call.device).cast(dtype) * call["scale"] + call["mean"]
    width = call["high"] - call["low"]
    return (Tensor.rand(*shape, device=call.device) * width + call["low"]).cast(dtype)


def _dtype(call: Call, x: Tensor) -> Any:
    return x.dtype if call.get("dtype") is None else onnx_dtype(call["dtype"])


@operator("RandomNormal", 1, 22)
def _random_normal(call: Call) -> Tensor:
    return _drawn(call, "normal", call["shape"], onnx_dtype(call["dtype"]))


@operator("RandomUniform", 1, 22)
def _random_uniform(call: Call) -> Tensor:
    return _drawn(call, "uniform", call["shape"], onnx_dtype(call["dtype"]))


@operator("RandomNormalLike", 1, 22)
def _random_normal_like(call: Call, x: Tensor) -> Tensor:
    return _drawn(call, "normal", shape_of(x), _dtype(call, x))


@operator("RandomUniformLike", 1, 22)
def _random_uniform_like(call: Call, x: Tensor) -> Tensor:
    return _drawn(call, "uniform", shape_of(x), _dtype(call, x))


@operator("Bernoulli", 15, 22)
def _bernoulli(call: Call, x: Tensor) -> Tensor:
    return (Tensor.rand(*shape_of(x), device=call.device) < x).cast(_dtype(call, x))


@operator("Multinomial", 7, 22)
def _multinomial(call: Call, x: Tensor) -> Tensor:
    """Class numbers [rows, samples] by unnormalised logarithms of their chances: the greatest of each plus
    noise."""
    rows, classes = shape_of(x)
    chance = Tensor.rand(rows, call["sample_size"], classes, device=call.device)
    noise = -(-(chance.maximum(1e-20)).log()).log()
    return (x.unsqueeze(1) + noise.cast(x.dtype)).argmax(-1).cast(onnx_dtype(call["dtype"]))
