"""Q8_0 against the `gguf` library, byte for byte and value for value; and on a device against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from petaflop import Tensor
from petaflop.plugin_api import FileFormatError, Packed, ShapeError
from petaflop.plugins.manager import plugin_manager

Q8_0 = GGMLQuantizationType.Q8_0
SCHEME = plugin_manager().get("quant", "example_q8")
RANDOM = np.random.default_rng(8)
VALUES = (RANDOM.standard_normal((64, 256)) * np.logspace(-8, 4, 64)[:, None]).astype(np.float32)


def bytes_of(planes: dict[str, Any]) -> np.ndarray:
    return np.concatenate([planes["scale"].view(np.uint8), planes["codes"].view(np.uint8)], -1)


HALVES = np.append(np.arange(-15.5, 15.5, dtype=np.float32), np.float32(127))  # where ways of rounding differ


@pytest.mark.parametrize(
    "values",
    [VALUES, HALVES[None], np.zeros((2, 64), np.float32), np.full((1, 32), 1e-41, np.float32), -VALUES[::-1]],
)
def test_bytes_are_those_of_gguf(values: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        expected = quants.quantize(values, Q8_0)
    with np.errstate(invalid="raise", over="raise", divide="raise"):
        planes = SCHEME.pack(values)
    assert np.array_equal(bytes_of(planes).reshape(expected.shape), expected)


def test_every_scale_with_every_code_is_that_of_gguf() -> None:
    scale = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 1, 1).repeat(8, 1)
    codes = np.broadcast_to(np.arange(256, dtype=np.uint8).view(np.int8).reshape(8, 32), (1 << 16, 8, 32))
    planes = {"scale": scale, "codes": np.ascontiguousarray(codes)}
    with np.errstate(all="ignore"):
        found = SCHEME.unpack(planes, (1 << 16, 256))
        expected = quants.dequantize(bytes_of(planes).reshape(1 << 16, -1), Q8_0)
        device = SCHEME.dequantize({name: Tensor(plane) for name, plane in planes.items()}, (1 << 16, 256))
        assert np.array_equal(found, expected, equal_nan=True)
        assert np.array_equal(device.numpy(), expected, equal_nan=True)


# float16 keeps the scale, has none for it, cuts the values off, and cuts off all but nothing
@pytest.mark.parametrize("factor", [1.0, 1e-30, 1e12, 1e290])
def test_bound_holds_and_is_not_idle(factor: float) -> None:
    values = VALUES.astype(np.float64) * factor
    error, bound = abs(SCHEME.unpack(SCHEME.pack(values), values.shape) - values), SCHEME.bound(values)
    assert (error <= bound).all() and (error / bound).max() > 0.8


@pytest.mark.parametrize("shape", [(), (31,), (2, 33)])
def test_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="example_q8: expected"):
        SCHEME.pack(np.zeros(shape))


def test_product_needs_no_dequantized_buffer() -> None:
    packed = {name: Tensor(plane) for name, plane in SCHEME.pack(VALUES).items()}
    x = RANDOM.standard_normal((3, 256)).astype(np.float32)
    weight = SCHEME.unpack(SCHEME.pack(VALUES), VALUES.shape).astype(np.float64)
    found = (Tensor(x) @ SCHEME.dequantize(packed, VALUES.shape).T).numpy()
    assert np.allclose(found, x.astype(np.float64) @ weight.T, rtol=1e-4, atol=1e-4 * abs(weight).max())


def test_file_is_read_by_the_library(tmp_path: Path) -> None:
    (file,), path = SCHEME.files, tmp_path / "weights.gguf"
    tensors = {name: Packed(SCHEME.pack(v), v.shape) for name, v in (("a", VALUES), ("b", VALUES[:3, :64]))}
    file.write(path, tensors)
    for name, (planes, shape) in file.read(path).items():
        assert np.array_equal(bytes_of(planes), bytes_of(tensors[name].planes))
        assert np.array_equal(file.read_with_library(path)[name], SCHEME.unpack(planes, shape))
    assert [each.name for each in tmp_path.iterdir()] == ["weights.gguf"]
    assert gguf.GGUFReader(path).tensors[0].tensor_type == Q8_0


def test_files_that_are_cut_off(tmp_path: Path) -> None:
    (file,), path, part = SCHEME.files, tmp_path / "whole.gguf", tmp_path / "part.gguf"
    file.write(path, {"a": Packed(SCHEME.pack(VALUES[:4, :32]), (4, 32))})
    tensor = gguf.GGUFReader(path).tensors[0]
    for length in range(tensor.data_offset + tensor.n_bytes):  # what follows is padding
        part.write_bytes(path.read_bytes()[:length])
        with pytest.raises(FileFormatError):
            file.read(part)
