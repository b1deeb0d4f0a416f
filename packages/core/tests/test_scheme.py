"""The contract of quantization formats: a format of a few lines, and every check of the base classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from petaflop import Tensor
from petaflop.dtype import float32, int8
from petaflop.errors import ArgumentError, DTypeError, ShapeError
from petaflop.plugins.scheme import Encoder, Plane, QuantScheme
from petaflop.profile import profile


class Rows(QuantScheme):
    """Eight-bit codes with one scale for each block of the last axis."""

    name = "rows"
    bits_per_weight = 8.0

    def __init__(self, block: tuple[int | None, ...] = (None,)) -> None:
        self.block = block

    def planes(self, shape: tuple[int, ...]) -> Mapping[str, Plane]:
        size = self.block[-1] or shape[-1]
        blocks = (*shape[:-1], shape[-1] // size)
        return {"codes": Plane(int8, (*blocks, size)), "scale": Plane(float32, (*blocks, 1))}

    def pack(self, values: np.ndarray[Any, Any]) -> Mapping[str, np.ndarray[Any, Any]]:
        blocks = self.check_values(values).reshape(self.planes(values.shape)["codes"].shape)
        scale = (abs(blocks).max(-1, keepdims=True) / 127).astype(np.float32)
        codes = np.round(blocks / np.where(scale > 0, scale, 1)).astype(np.int8)
        return {"codes": codes, "scale": scale}

    def bound(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        scale = self.pack(values)["scale"].astype(np.float64)
        return np.broadcast_to(0.5001 * scale, self.planes(values.shape)["codes"].shape).reshape(values.shape)

    def unpack(
        self, planes: Mapping[str, np.ndarray[Any, Any]], shape: tuple[int, ...]
    ) -> np.ndarray[Any, Any]:
        self.check_planes(planes, shape)
        return (planes["scale"] * planes["codes"]).reshape(shape)

    def dequantize(self, planes: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        self.check_planes(planes, shape)
        return (planes["scale"] * planes["codes"].cast("float32")).reshape(*shape)


VALUES = np.random.default_rng(7).standard_normal((3, 64))
PLANES = Rows((32,)).pack(VALUES)


@pytest.mark.parametrize("block", [(None,), (32,), (1, 16)])
def test_round_trip_on_host_and_device(block: tuple[int | None, ...]) -> None:
    scheme = Rows(block)
    planes = scheme.pack(VALUES)
    values = scheme.unpack(planes, VALUES.shape)
    assert values.dtype == np.float32 and (abs(values - VALUES) <= scheme.bound(VALUES)).all()
    assert abs(values - VALUES).max() > 0
    on_device = scheme.dequantize({name: Tensor(plane) for name, plane in planes.items()}, VALUES.shape)
    assert np.array_equal(on_device.numpy(), values)
    assert scheme.nbytes(VALUES.shape) == sum(plane.nbytes for plane in planes.values())


def test_dequantization_feeds_a_product_without_a_buffer() -> None:
    scheme = Rows((32,))
    weight = scheme.dequantize({name: Tensor(plane) for name, plane in PLANES.items()}, VALUES.shape)
    inputs = np.random.default_rng(8).standard_normal((5, 64)).astype(np.float32)
    expected = inputs.astype(np.float64) @ scheme.unpack(PLANES, VALUES.shape).astype(np.float64).T
    with profile() as record:
        found = (Tensor(inputs) @ weight.T).numpy()
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert len(record.launches) == 1  # codes and scales are read by the product itself


@pytest.mark.parametrize(
    ("block", "shape", "words"),
    [
        ((32,), (4, 40), r"rows: expected axis -1 to be a multiple of 32, got \[4, 40\]"),
        ((16, 16), (8, 64), r"expected axis -2 to be a multiple of 16, got \[8, 64\]"),
        ((2, None), (64,), r"expected 2 or more axes, got \[64\]"),
        ((32,), (), r"expected 1 or more axes, got \[\]"),
    ],
)
def test_shapes_that_do_not_fit(block: tuple[int | None, ...], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        Rows(block).pack(np.zeros(shape))


@pytest.mark.parametrize("block", [(None,), (8, 64), (None, 32), ()])
def test_shapes_that_fit(block: tuple[int | None, ...]) -> None:
    Rows(block).check_shape((8, 64))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (np.zeros((2, 32), np.int32), DTypeError),
        (np.zeros((2, 32), np.float16), DTypeError),
        (np.full((2, 32), np.nan), ArgumentError),
        (np.full((2, 32), -np.inf), ArgumentError),
    ],
)
def test_values_that_cannot_be_packed(values: np.ndarray[Any, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="rows: expected"):
        Rows((32,)).pack(values)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"scale": None}, ArgumentError, r"expected planes \['codes', 'scale'\], got \['codes'\]"),
        ({"zero": PLANES["scale"]}, ArgumentError, r"got \['codes', 'scale', 'zero'\]"),
        ({"codes": PLANES["codes"][:2]}, ShapeError, r"plane codes: expected int8\[3, 2, 32\] for \[3, 64\]"),
        ({"codes": PLANES["codes"].view(np.uint8)}, DTypeError, r"got uint8\[3, 2, 32\]"),
        ({"scale": PLANES["scale"].astype(np.float16)}, DTypeError, r"plane scale: .*, got float16"),
    ],
)
def test_planes_that_do_not_fit(change: dict[str, Any], error: type[Exception], words: str) -> None:
    planes = {name: plane for name, plane in {**PLANES, **change}.items() if plane is not None}
    tensors = {name: Tensor(plane) for name, plane in planes.items()}
    with pytest.raises(error, match=words):
        Rows((32,)).unpack(planes, VALUES.shape)
    with pytest.raises(error, match=words):
        Rows((32,)).dequantize(tensors, VALUES.shape)


def test_a_format_that_is_only_loaded() -> None:
    scheme = type("Loaded", (QuantScheme,), {"name": "loaded"})()
    assert not scheme.can_pack and Rows().can_pack
    assert not Encoder().supports(scheme) and Encoder().supports(Rows())
    with pytest.raises(ArgumentError, match="loaded: expected a format with an encoder"):
        scheme.pack(VALUES)


def test_parameters() -> None:
    scheme = Rows()
    assert scheme.with_parameters() is scheme
    with pytest.raises(ArgumentError, match="rows: expected no parameters, got group"):
        scheme.with_parameters(group=3)
