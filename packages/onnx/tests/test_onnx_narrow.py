"""Types that no kernel has (int4, uint4, int2, uint2, float4, float8 fnuz, e8m0) against ml_dtypes and
onnxruntime.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_case import assert_close, run_onnxruntime

import petaflop_onnx
from petaflop import Tensor
from petaflop.errors import FileFormatError
from petaflop_onnx.narrow import FORMATS, decoded, encoded, storage
from petaflop_onnx.tensors import NARROW

_NUMBERS = {dtype.name: number for number, dtype in NARROW.items()}
_FLOATS = [name for name, form in FORMATS.items() if form.is_float and form.mantissa > 0]
_INTEGERS = [name for name, form in FORMATS.items() if not form.is_float]


def _all_codes(name: str) -> np.ndarray:
    form = FORMATS[name]
    if form.is_float:
        return np.arange(1 << form.bits, dtype=np.uint8).view(form.dtype)
    return np.arange(form.low, form.high + 1).astype(form.dtype)


@pytest.mark.parametrize("name", FORMATS)
def test_every_code_is_decoded(name: str) -> None:
    codes = _all_codes(name)
    np.testing.assert_array_equal(decoded(storage(codes, None)).numpy(), codes.astype(np.float32))


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint8)


@pytest.mark.parametrize("name", _FLOATS)
def test_floats_round_as_in_ml_dtypes(name: str) -> None:
    """Every float16, and float32 numbers around every tie."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    codes = _all_codes(name).astype(np.float32)
    codes = np.unique(codes[np.isfinite(codes)])
    ties = (codes[1:] + codes[:-1]) / 2
    near = [np.nextafter(ties, np.float32(way), dtype=np.float32) for way in (-np.inf, np.inf)]
    x = np.concatenate([halves, ties, *near]).astype(np.float32)
    form, largest = FORMATS[name], float(codes.max())
    got = encoded(Tensor(x), form, saturate=False).numpy()
    with np.errstate(invalid="ignore"):
        expected = x.astype(form.dtype)
        clipped = x.clip(-largest, largest).astype(form.dtype).astype(np.float32)
    kept = ~np.isnan(x) if name.startswith("float4") else np.ones(len(x), bool)
    np.testing.assert_array_equal(_bits(got)[kept], _bits(expected)[kept])
    saturated = encoded(Tensor(x), form).numpy().astype(np.float32)
    inside = ~np.isnan(x)
    np.testing.assert_array_equal(saturated[inside], clipped[inside])


@pytest.mark.parametrize("name", _INTEGERS)
def test_integers_keep_their_low_bits(name: str) -> None:
    x = np.arange(-40, 40, dtype=np.int32)
    got = encoded(Tensor(x), FORMATS[name]).numpy().astype(np.int32)
    size = 1 << FORMATS[name].bits
    np.testing.assert_array_equal(got, (x - FORMATS[name].low) % size + FORMATS[name].low)


def _powers_model(mode: str) -> onnx.ModelProto:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E8M0, round_mode=mode)
    return _model([node], [_info("x", TensorProto.FLOAT)], [_info("y", TensorProto.FLOAT8E8M0)])


@pytest.mark.parametrize(
    ("mode", "expected"), [("up", [2, 4, 8]), ("down", [2, 2, 4]), ("nearest", [2, 4, 4])]
)
def test_powers_of_two(mode: str, expected: list[float], tmp_path: Path) -> None:
    got = _run(_powers_model(mode), {"x": np.asarray([2, 3, 5], np.float32)}, tmp_path)
    assert got.dtype == ml_dtypes.float8_e8m0fnu
    np.testing.assert_array_equal(got.astype(np.float32), expected)


# ---- files ----


def _info(name: str, kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[TensorProto] | None = None,
    opset: int = 25,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    (value,) = petaflop_onnx.load(path)(feeds).values()
    return value if isinstance(value, np.ndarray) else value.numpy()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("length", [1, 5, 8])
def test_initializers_are_unpacked(name: str, length: int, tmp_path: Path) -> None:
    values = np.resize(_all_codes(name), length)
    weight = numpy_helper.from_array(values, "w")
    listed = TensorProto(
        name="w", data_type=weight.data_type, dims=[length], int32_data=list(weight.raw_data)
    )
    node = helper.make_node("Identity", ["w"], ["y"])
    for one in (weight, listed):
        got = _run(_model([node], [], [_info("y", _NUMBERS[name])], [one]), {}, tmp_path)
        assert got.dtype == values.dtype
        np.testing.assert_array_equal(got, values)


def test_cut_weights_are_refused(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros(9, ml_dtypes.int4), "w")
    weight.raw_data = weight.raw_data[:-1]
    model = _model([helper.make_node("Identity", ["w"], ["y"])], [], [_info("y", TensorProto.INT4)], [weight])
    with pytest.raises(FileFormatError, match=r"'w'.raw_data: expected 5 bytes .* got 4"):
        _run(model, {}, tmp_path)


@pytest.mark.parametrize("name", ["int4", "uint4"])
def test_weights_of_4_bits_in_blocks(name: str, tmp_path: Path) -> None:
    """Turned, dequantized and multiplied, as in models with quantized weights. onnxruntime rounds x to 8 bits
    in that product, so that float64 is the judge of it."""
    random = np.random.default_rng(0)
    form = FORMATS[name]
    values = random.integers(form.low, form.high + 1, (6, 32)).astype(form.dtype)
    zeros = random.integers(form.low, form.high + 1, (2, 6)).astype(form.dtype)
    scales = random.uniform(0.1, 1, (2, 6)).astype(np.float32)
    arrays = {"w": values, "scale": scales, "zero": zeros}
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("DequantizeLinear", ["t", "scale", "zero"], ["d"], axis=0, block_size=16),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    info, x = _info("x", TensorProto.FLOAT), random.standard_normal((3, 32)).astype(np.float32)
    model = _model(nodes, [info], [_info("y", TensorProto.FLOAT)], weights, 21)
    wide = [np.repeat(part.astype(np.float64), 16, 0) for part in (zeros, scales)]
    expected = x.astype(np.float64) @ ((values.T.astype(np.float64) - wide[0]) * wide[1])
    assert_close([_run(model, {"x": x}, tmp_path)], [expected.astype(np.float32)])
    alone = _model(nodes[:2], [], [_info("d", TensorProto.FLOAT)], weights, 21)
    alone.ir_version = 10
    assert_close([_run(alone, {}, tmp_path)], run_onnxruntime(alone, {}))


def test_arithmetic_on_them_is_refused(tmp_path: Path) -> None:
    """ONNX has none; the error names node, input and type."""
    nodes = [helper.make_node("Add", ["w", "w"], ["y"], name="sum")]
    weight = numpy_helper.from_array(np.zeros(4, ml_dtypes.int4), "w")
    with pytest.raises(FileFormatError, match=r"node 'sum' \(Add-14\): A: expected a tensor of .*, got int4"):
        _run(_model(nodes, [], [_info("y", TensorProto.INT4)], [weight]), {}, tmp_path)
