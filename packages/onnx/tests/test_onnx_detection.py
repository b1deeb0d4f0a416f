"""What the official suite holds only on small examples, on larger random data: detection heads, sampling,
signal, places of maxima and quantized products against onnxruntime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_case import Array, assert_close, feeds_of, node_model, run_onnxruntime, run_petaflop

_random = np.random.default_rng(11)


def f(*shape: int) -> Array:
    return _random.standard_normal(shape).astype(np.float32)


def n(*values: int) -> Array:
    return np.asarray(values, np.int64)


def _agree(
    folder: Path,
    op: str,
    opset: int,
    *inputs: Array | None,
    outputs: int = 1,
    constant: tuple[int, ...] = (),
    tolerance: float = 2e-5,
    **attributes: Any,
) -> list[Array]:
    model = node_model(op, opset, inputs, outputs, constant, **attributes)
    feeds = feeds_of(inputs, constant)
    got = run_petaflop(model, feeds, folder)
    assert_close(got, run_onnxruntime(model, feeds), tolerance)
    return got


def _boxes(batch: int, count: int, centred: bool) -> Array:
    low = _random.uniform(0, 8, (batch, count, 2))
    size = _random.uniform(0.5, 4, (batch, count, 2))
    other = size if centred else low + size
    return np.concatenate([low, other], 2).astype(np.float32)


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.7])
def test_suppression_of_many_boxes(tmp_path: Path, centred: int, overlap: float) -> None:
    scores = _random.uniform(0, 1, (2, 3, 60)).astype(np.float32)
    limits = [n(20), np.asarray([overlap], np.float32), np.asarray([0.2], np.float32)]
    boxes = _boxes(2, 60, bool(centred))
    (found,) = _agree(tmp_path, "NonMaxSuppression", 11, boxes, scores, *limits, center_point_box=centred)
    assert 6 < len(found) <= 120


def test_suppression_of_nothing(tmp_path: Path) -> None:
    scores = np.zeros((1, 1, 4), np.float32)
    limits = [n(3), np.asarray([0.5], np.float32), np.asarray([0.9], np.float32)]
    _agree(tmp_path, "NonMaxSuppression", 11, _boxes(1, 4, False), scores, *limits)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("way", ["half_pixel", "output_half_pixel"])
def test_regions_of_many_sizes(tmp_path: Path, mode: str, ratio: int, way: str) -> None:
    low = _random.uniform(-2, 10, (7, 2))
    regions = np.concatenate([low, low + _random.uniform(0.5, 12, (7, 2))], 1).astype(np.float32)
    shape = {"output_height": 3, "output_width": 2, "spatial_scale": 0.8}
    batches = n(0, 1, 1, 0, 0, 1, 0)
    x = np.abs(f(2, 3, 12, 10))
    more = {"sampling_ratio": ratio, "coordinate_transformation_mode": way, "mode": mode}
    _agree(tmp_path, "RoiAlign", 16, x, regions, batches, **more, **shape)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
def test_sampling_far_outside(tmp_path: Path, mode: str, padding: str, corners: int) -> None:
    grid = _random.uniform(-2.5, 2.5, (2, 5, 4, 2)).astype(np.float32)
    more = {"mode": mode, "padding_mode": padding, "align_corners": corners}
    _agree(tmp_path, "GridSample", 16, f(2, 3, 6, 7), grid, tolerance=1e-4, **more)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_sampling_in_three_axes(tmp_path: Path, mode: str) -> None:
    grid = _random.uniform(-1.5, 1.5, (1, 2, 3, 4, 3)).astype(np.float32)
    _agree(tmp_path, "GridSample", 20, f(1, 2, 4, 5, 6), grid, tolerance=1e-4, mode=mode)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("dilations", [[1, 1], [2, 1]])
def test_places_of_maxima_and_back(tmp_path: Path, order: int, dilations: list[int]) -> None:
    window = {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [1, 0, 1, 2]}
    x = f(2, 3, 9, 8)
    more = {"storage_order": order, "dilations": dilations}
    _agree(tmp_path, "MaxPool", 12, x, outputs=2, **window, **more)


def test_unpooling(tmp_path: Path) -> None:
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    model = node_model("MaxPool", 12, [f(2, 3, 6, 8)], 2, **window)
    values, places = run_onnxruntime(model, {"x0": f(2, 3, 6, 8)})
    _agree(tmp_path, "MaxUnpool", 11, values, places, **window)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("ordered", [0, 1])
def test_unique_rows(tmp_path: Path, axis: int | None, ordered: int) -> None:
    x = _random.integers(0, 3, (9, 3)).astype(np.float32)
    more = {} if axis is None else {"axis": axis}
    _agree(tmp_path, "Unique", 11, x, outputs=4, sorted=ordered, **more)


# ---- signal ----


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("length", [8, 12, 5])
def test_transforms_of_other_lengths(tmp_path: Path, onesided: int, length: int) -> None:
    x = f(2, 8, 1)
    model = node_model("DFT", 17, [x, np.asarray(length)], constant=(1,), axis=1, onesided=onesided)
    (got,) = run_petaflop(model, {"x0": x}, tmp_path)
    transform = np.fft.rfft if onesided else np.fft.fft
    expected = transform(x[:, :, 0].astype(np.float64), length)
    np.testing.assert_allclose(got[..., 0] + 1j * got[..., 1], expected, atol=1e-5)


@pytest.mark.parametrize("length", [8, 9])
def test_a_transform_and_back(tmp_path: Path, length: int) -> None:
    """Half a spectrum gives the real values again, whether their number is even or odd."""
    x = f(3, length)
    half = np.fft.rfft(x.astype(np.float64))
    spectrum = np.stack([half.real, half.imag], -1).astype(np.float32)
    inputs = [spectrum, np.asarray(length), np.asarray(1)]
    model = node_model("DFT", 20, inputs, constant=(1, 2), onesided=1, inverse=1)
    (got,) = run_petaflop(model, {"x0": spectrum}, tmp_path)
    np.testing.assert_allclose(got[..., 0], x, atol=1e-5)


def test_a_spectrogram(tmp_path: Path) -> None:
    window = np.hanning(16).astype(np.float32)
    _agree(tmp_path, "STFT", 17, f(2, 64, 1), np.asarray(5), window, np.asarray(16), constant=(1, 3))


# ---- quantized products ----


def _bytes(*shape: int, low: int = 0) -> Array:
    kind = np.int8 if low else np.uint8
    return _random.integers(low, low + 256, shape).astype(kind)


def test_a_quantized_product(tmp_path: Path) -> None:
    scale = np.float32(0.02)
    inputs = [
        _bytes(5, 9),
        scale,
        np.uint8(120),
        _bytes(9, 4),
        scale,
        np.uint8(131),
        np.float32(0.1),
        np.uint8(90),
    ]
    arrays = [np.asarray(each) for each in inputs]
    model = node_model("QLinearMatMul", 10, arrays)
    (got,) = run_petaflop(model, feeds_of(arrays), tmp_path)
    (expected,) = run_onnxruntime(model, feeds_of(arrays))
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1


def test_a_quantized_convolution_by_channel(tmp_path: Path) -> None:
    inputs = [
        _bytes(1, 3, 7, 6),
        np.float32(0.02),
        np.uint8(110),
        _bytes(4, 3, 3, 3, low=-128),
        _random.uniform(0.01, 0.03, 4).astype(np.float32),
        np.zeros(4, np.int8),
        np.float32(0.15),
        np.uint8(100),
        _random.integers(-900, 900, 4).astype(np.int32),
    ]
    arrays = [np.asarray(each) for each in inputs]
    constant = tuple(range(1, 9))
    model = node_model("QLinearConv", 10, arrays, constant=constant, pads=[1, 1, 1, 1], strides=[1, 2])
    (got,) = run_petaflop(model, feeds_of(arrays, constant), tmp_path)
    (expected,) = run_onnxruntime(model, feeds_of(arrays, constant))
    assert got.dtype == np.uint8 and np.abs(got.astype(int) - expected.astype(int)).max() <= 1


def test_determinants(tmp_path: Path) -> None:
    x = f(6, 5, 5)
    x[1, 2] = x[1, 3]  # singular
    x[2, 0, 0] = 0  # needs a pivot
    (got,) = run_petaflop(node_model("Det", 11, [x]), {"x0": x}, tmp_path)
    np.testing.assert_allclose(got, np.linalg.det(x.astype(np.float64)), rtol=1e-4, atol=1e-5)


def test_columns_into_an_image(tmp_path: Path) -> None:
    more = {"pads": [1, 0, 1, 0], "strides": [2, 1], "dilations": [1, 2]}
    shape = [n(6, 7), n(2, 3)]
    _agree(tmp_path, "Col2Im", 18, f(2, 3 * 6, 4 * 3), *shape, constant=(1, 2), **more)
