"""MatMulNBits against onnxruntime, whose operator it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_case import run_onnxruntime, run_petaflop

import petaflop_onnx
from petaflop.errors import PetaflopError
from petaflop.profile import profile

RANDOM = np.random.default_rng(17)


def weights(
    size: int, outputs: int, bits: int, block: int, zeros: str = "", dtype: Any = np.float32
) -> list[Any]:
    """B, scales, zero_points (packed, as floats, or none)."""
    count = -(-size // block)
    b = RANDOM.integers(0, 256, (outputs, count, block * bits // 8), dtype=np.uint8)
    scales = (RANDOM.random((outputs, count)) * 0.1 + 0.01).astype(dtype)
    packed = RANDOM.integers(0, 256, (outputs, -(-count * bits // 8)), dtype=np.uint8)
    floats = (RANDOM.random((outputs, count)) * 15).astype(dtype)
    return [b, scales, {"packed": packed, "floats": floats}.get(zeros)]


def model(
    size: int, outputs: int, bits: int, block: int, arrays: list[Any], x: Any, **more: Any
) -> onnx.ModelProto:
    names = ["x", *(f"w{k}" if array is not None else "" for k, array in enumerate(arrays))]
    given = {"K": size, "N": outputs, "bits": bits, "block_size": block, **more}
    node = helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", **given)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    held = [numpy_helper.from_array(a, f"w{k}") for k, a in enumerate(arrays) if a is not None]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", kind, ["n", size] if x.ndim == 2 else x.shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        held,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def inputs(*shape: int, dtype: Any = np.float32) -> Any:
    return RANDOM.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", ["", "packed", "floats"])
@pytest.mark.parametrize(("size", "block"), [(128, 32), (96, 64), (100, 16), (64, 128)])
def test_as_onnxruntime(tmp_path: Path, size: int, block: int, zeros: str, bits: int) -> None:
    if bits == 8 and zeros == "floats":
        pytest.skip("onnxruntime has no 8 bits with zeros of floats")
    arrays, x = weights(size, 24, bits, block, zeros), inputs(5, size)
    made = model(size, 24, bits, block, arrays, x)
    (found,), (expected,) = run_petaflop(made, {"x": x}, tmp_path), run_onnxruntime(made, {"x": x})
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * abs(expected).max())


def by_definition(size: int, bits: int, block: int, arrays: list[Any], x: Any) -> Any:
    """In float64, bit by bit."""
    b, scales, zeros = arrays[:3]
    planes = np.unpackbits(b.reshape(len(b), -1), axis=-1, bitorder="little")
    codes = planes.reshape(len(b), -1, bits) @ (1 << np.arange(bits))
    middle = np.full(scales.shape, 1 << (bits - 1))
    if zeros is not None:
        planes = np.unpackbits(zeros, axis=-1, bitorder="little")
        middle = (planes.reshape(len(b), -1, bits) @ (1 << np.arange(bits)))[:, : scales.shape[1]]
    wide = [np.repeat(each.astype(np.float64), block, 1) for each in (middle, scales)]
    return x.astype(np.float64) @ ((codes - wide[0]) * wide[1])[:, :size].T


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_as_defined(tmp_path: Path, bits: int) -> None:
    arrays, x = weights(80, 9, bits, 32, "packed"), inputs(3, 80)
    (found,) = run_petaflop(model(80, 9, bits, 32, arrays, x), {"x": x}, tmp_path)
    expected = by_definition(80, bits, 32, arrays, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("bias", [False, True])
def test_more_axes_a_bias_and_halves(tmp_path: Path, bias: bool) -> None:
    for dtype, tolerance in ((np.float32, 2e-5), (np.float16, 2e-3)):
        arrays, x = weights(64, 8, 4, 32, "packed", dtype), inputs(2, 3, 64, dtype=dtype)
        arrays += [None, inputs(8, dtype=dtype)] if bias else []
        made = model(64, 8, 4, 32, arrays, x)
        (found,), (expected,) = run_petaflop(made, {"x": x}, tmp_path), run_onnxruntime(made, {"x": x})
        assert found.dtype == dtype
        scale = abs(expected.astype(np.float64)).max()
        assert (abs(found.astype(np.float64) - expected) <= tolerance * scale).all()


@pytest.mark.parametrize("zeros", ["", "floats"])
def test_groups_in_an_order_of_their_own(tmp_path: Path, zeros: str) -> None:
    """onnxruntime reads packed zeros in another way here, which its own definition does not have."""
    arrays, x = weights(64, 8, 4, 16, zeros), inputs(4, 64)
    groups = RANDOM.permutation(np.arange(64) // 16).astype(np.int32)
    made = model(64, 8, 4, 16, [*arrays, groups], x)
    (found,), (expected,) = run_petaflop(made, {"x": x}, tmp_path), run_onnxruntime(made, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * abs(expected).max())


@pytest.mark.parametrize("zeros", ["", "packed"])
def test_weights_stay_packed_and_the_product_is_one_kernel(tmp_path: Path, zeros: str) -> None:
    arrays, x = weights(256, 32, 4, 32, zeros), inputs(4, 256)
    path = tmp_path / "model.onnx"
    path.write_bytes(model(256, 32, 4, 32, arrays, x).SerializeToString())
    loaded = petaflop_onnx.load(path)
    loaded({"x": x})["y"].realize()
    with profile() as recorded:
        loaded({"x": x})["y"].realize()
    assert len(recorded.launches) == 1, [launch.name for launch in recorded.launches]


@pytest.mark.parametrize(
    "change",
    [
        {"K": 65}, {"N": 9}, {"bits": 3}, {"bits": 8}, {"block_size": 64}, {"block_size": 0},
        {"block_size": 24}, {"K": -64}, {"K": 1 << 62}, {"weight_prepacked": 1},
    ],
)  # fmt: skip
def test_facts_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    arrays, x = weights(64, 8, 4, 16), inputs(4, 64)
    given = {"K": 64, "N": 8, "bits": 4, "block_size": 16, **change}
    more = {name: value for name, value in given.items() if name == "weight_prepacked"}
    made = model(given["K"], given["N"], given["bits"], given["block_size"], arrays, x, **more)
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64]))
    with pytest.raises(PetaflopError) as caught:
        run_petaflop(made, {"x": x}, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("rows", [1, 5])
def test_blocks_of_dequantize_linear_are_read_packed(tmp_path: Path, dtype: Any, rows: int) -> None:
    """Weights in blocks are not unfolded when the model is loaded, but by the kernel that multiplies."""
    low = np.iinfo(dtype).min
    w = RANDOM.integers(low, low + 256, (256, 32)).astype(dtype)
    scales = (RANDOM.random((8, 32)) * 0.1 + 0.01).astype(np.float32)
    zeros = RANDOM.integers(low, low + 256, (8, 32)).astype(dtype)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    held = [numpy_helper.from_array(array, name) for array, name in ((w, "w"), (scales, "s"), (zeros, "z"))]
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])]
    graph = helper.make_graph(
        nodes, "blocks", info, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], held
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = inputs(rows, 256)
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    loaded = petaflop_onnx.load(path)
    loaded({"x": x})["y"].realize()
    with profile() as recorded:
        (found,) = loaded({"x": x}).values()
        found.realize()
    assert len(recorded.launches) == 1, [launch.name for launch in recorded.launches]
    read = {argument.dtype.name for argument in recorded.launches[0].kernel.arguments}
    assert np.dtype(dtype).name in read
    wide = [np.repeat(each.astype(np.float64), 32, 0) for each in (zeros, scales)]
    expected = x.astype(np.float64) @ ((w - wide[0]) * wide[1])  # onnxruntime rounds x to 8 bits here
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=2e-5 * abs(expected).max())
