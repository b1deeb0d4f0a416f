"""Every format of GGUF against the `gguf` library: all its values, and its bytes where it quantizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from petaflop import Tensor
from petaflop.device.registry import default_device
from petaflop.profile import profile
from petaflop_quant.formats.blocks import BlockFormat
from petaflop_quant.registry import FORMATS, own_format

RANDOM = np.random.default_rng(21)
GGUF = [name for name in FORMATS if getattr(own_format(name), "gguf_type", -1) >= 0]
QUANTIZED_THERE = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "mxfp4"]
every_format = pytest.mark.parametrize("name", GGUF)


def type_of(name: str) -> GGMLQuantizationType:
    return GGMLQuantizationType[name.upper()]


def random_bytes(scheme: BlockFormat, shape: tuple[int, ...], finite: bool) -> np.ndarray:
    """Bytes of a file; with `finite` no scale is NaN, infinite or out of proportion."""
    size = scheme.nbytes(shape)
    data = RANDOM.integers(0, 256, size, dtype=np.uint8).reshape(*shape[:-1], -1)
    if finite:
        planes = {name: np.array(plane) for name, plane in scheme.from_blocks(data, shape).items()}
        for name, plane in planes.items():
            if plane.dtype == np.float16:
                planes[name] = np.where(np.isfinite(plane), plane, np.float16(0.25))
            elif name == "e":
                planes[name] = plane.clip(64, 190)
        data = scheme.to_blocks(planes)
    return data


def tensors(planes: Any, device: str | None = None) -> dict[str, Tensor]:
    made = {name: Tensor(np.ascontiguousarray(plane), device=device) for name, plane in planes.items()}
    Tensor.realize(*made.values())
    return made


@every_format
def test_sizes_are_those_of_gguf(name: str) -> None:
    from gguf import GGML_QUANT_SIZES

    scheme: Any = own_format(name)
    assert scheme.gguf_type == type_of(name)
    assert GGML_QUANT_SIZES[type_of(name)] == (scheme.size, scheme.block_bytes)
    assert scheme.bits_per_weight == 8 * scheme.block_bytes / scheme.size


@every_format
@pytest.mark.parametrize("finite", [True, False])
def test_values_are_those_of_gguf(name: str, finite: bool) -> None:
    scheme: Any = own_format(name)
    shape = (3, 64, 4 * scheme.size)
    data = random_bytes(scheme, shape, finite)
    with np.errstate(all="ignore"):
        expected = quants.dequantize(data, type_of(name))
    planes = scheme.from_blocks(data, shape)
    found = scheme.unpack(planes, shape)
    assert np.array_equal(found, expected, equal_nan=True)
    if finite:
        assert found.tobytes() == expected.tobytes()
    assert np.array_equal(scheme.to_blocks(planes), data)
    for device in ("reference", default_device()):
        on_device = scheme.dequantize(tensors(planes, device), shape).numpy()
        assert np.array_equal(on_device, expected, equal_nan=True), device
        if finite:
            assert on_device.tobytes() == expected.tobytes(), device


@every_format
def test_every_byte_in_every_place(name: str) -> None:
    """A block with one byte set in turn: no field is read from the wrong place, none is left out."""
    scheme: Any = own_format(name)
    base = random_bytes(scheme, (scheme.size,), True)
    data = np.tile(base, (scheme.block_bytes, 8, 1))
    place = np.arange(scheme.block_bytes)
    data[place, :, place] ^= (1 << np.arange(8)).astype(np.uint8)
    shape = (scheme.block_bytes, 8, scheme.size)
    with np.errstate(all="ignore"):
        expected = quants.dequantize(data, type_of(name))
        plain = quants.dequantize(base[None], type_of(name))
    found = scheme.unpack(scheme.from_blocks(data, shape), shape)
    assert np.array_equal(found, expected, equal_nan=True)
    changed = (found != plain).any(-1)
    assert changed.mean() > 0.9, "some bit means nothing"


@pytest.mark.parametrize("name", QUANTIZED_THERE)
@pytest.mark.parametrize("scale", [1.0, 1e-4, 300.0])
def test_bytes_are_those_of_gguf(name: str, scale: float) -> None:
    scheme: Any = own_format(name)
    values = (RANDOM.standard_t(4, (96, 8 * scheme.size)) * scale).astype(np.float32)
    values[0] = 0
    values[1, :32] = np.arange(32) - 15.5
    expected = quants.quantize(values, type_of(name))
    assert np.array_equal(scheme.to_blocks(scheme.pack(values)), expected)


@every_format
@pytest.mark.parametrize("rows", [1, 3, 33])
def test_a_product_is_one_kernel(name: str, rows: int) -> None:
    scheme: Any = own_format(name)
    shape = (48, 4 * scheme.size)
    data = random_bytes(scheme, shape, True)
    planes = tensors(scheme.from_blocks(data, shape))
    x = RANDOM.standard_normal((rows, shape[1])).astype(np.float32)
    left = Tensor(x).realize()
    product = left @ scheme.dequantize(planes, shape).T
    with profile() as recorded:
        product.realize()
    assert len(recorded.launches) == 1, [launch.name for launch in recorded.launches]
    weight = quants.dequantize(data, type_of(name)).astype(np.float64)
    size = abs(x.astype(np.float64)) @ abs(weight).T
    assert (abs(product.numpy() - x.astype(np.float64) @ weight.T) <= 1e-5 * size).all()
