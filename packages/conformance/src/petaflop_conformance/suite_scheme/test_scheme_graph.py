"""A format in the graph: the same values as in NumPy, on every device, fused and captured and stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petaflop import Tensor, jit
from petaflop.config import overrides
from petaflop.device.buffer import peak_memory
from petaflop.device.registry import get_backend
from petaflop.errors import PetaflopError
from petaflop.graph.node import Node, toposort
from petaflop.graph.ops import Op
from petaflop.plugins.scheme import QuantScheme
from petaflop.profile import profile
from petaflop.realize import to_host
from petaflop.state import safe_load, safe_save
from petaflop_conformance.oracle import Oracle, judge
from petaflop_conformance.report import policy_of
from petaflop_conformance.suite_scheme.conftest import planes_of
from petaflop_conformance.values import generator

pytestmark = pytest.mark.level("graph")

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


def tensors_of(planes: Mapping[str, Array], device: str) -> dict[str, Tensor]:
    return {name: Tensor(array, device=device).realize() for name, array in planes.items()}


def constants_of(root: Node) -> dict[Node, Array]:
    """The memory that an expression reads besides its planes, such as a table of levels."""
    leaves = toposort([root], through_realized=True)
    return {node: to_host(node) for node in leaves if node.op is Op.BUFFER}


def test_dequantize_is_unpack(scheme: QuantScheme, shapes: list[Shape], device: str) -> None:
    """Bit for bit, for every shape; and nothing is computed before somebody asks."""
    for shape in shapes:
        planes = planes_of(scheme, shape, "graph")
        lazy = scheme.dequantize(tensors_of(planes, device), shape)
        assert lazy.node.buffer is None, "expected a lazy Tensor, got one that has been computed"
        got, expected = lazy.numpy(), scheme.unpack(planes, shape)
        assert got.dtype == np.float32 and got.shape == shape
        assert got.tobytes() == expected.tobytes(), (
            f"{list(shape)}: {int((got != expected).sum())} values differ from those of unpack"
        )


def test_dequantize_unfused(scheme: QuantScheme, shapes: list[Shape], device: str) -> None:
    shape = shapes[-1]
    planes = planes_of(scheme, shape, "unfused")
    with overrides(fuse=False):
        got = scheme.dequantize(tensors_of(planes, device), shape).numpy()
    assert got.tobytes() == scheme.unpack(planes, shape).tobytes()


def test_dequantize_in_a_capture(scheme: QuantScheme, shapes: list[Shape], device: str) -> None:
    shape = shapes[-1]
    names = list(scheme.planes(shape))
    captured = jit(lambda *planes: scheme.dequantize(dict(zip(names, planes, strict=True)), shape))
    for call in range(3):
        planes = planes_of(scheme, shape, "captured", call)
        tensors = tensors_of(planes, device)
        got = captured(*(tensors[name] for name in names)).numpy()
        assert got.tobytes() == scheme.unpack(planes, shape).tobytes()


@pytest.mark.parametrize("rows", [1, 5, 32])
def test_fused_product_is_unfused(scheme: QuantScheme, shapes: list[Shape], device: str, rows: int) -> None:
    """x @ Wᵀ with W dequantized where it is read, and before: each within the oracle's bound."""
    shape = max(
        (shape for shape in shapes if len(shape) == 2), key=lambda shape: shape[0] * shape[1], default=None
    )
    if shape is None:
        pytest.skip("not applicable: no matrices")
    planes = planes_of(scheme, shape, "product")
    x = generator("x", rows, shape).standard_normal((rows, shape[1])).astype(np.float32)
    for fuse in (True, False):
        tensors, left = tensors_of(planes, device), Tensor(x, device=device).realize()
        product = left @ scheme.dequantize(tensors, shape).transpose(0, 1)
        given = {tensors[name].node: array for name, array in planes.items()} | {left.node: x}
        inputs = constants_of(product.node) | given
        expected = Oracle(inputs, policy_of(get_backend(device), "full"))(product.node)
        with overrides(fuse=fuse):
            product.realize()
        verdict = judge(to_host(product.node), expected, product.node.dtype)
        assert verdict.good, f"fuse={fuse}: {verdict.message}"
        assert verdict.compared == rows * shape[0]


def largest_matrix(shapes: list[Shape]) -> Shape:
    matrices = [shape for shape in shapes if len(shape) == 2]
    if not matrices:
        pytest.skip("not applicable: no matrices")
    return max(matrices, key=lambda shape: shape[0] * shape[1])


@pytest.mark.parametrize("rows", [1, 5, 32])
def test_a_product_is_one_kernel(scheme: QuantScheme, shapes: list[Shape], device: str, rows: int) -> None:
    """The weights are computed where they are read: no launch of their own, and no buffer."""
    shape = largest_matrix(shapes)
    planes = planes_of(scheme, shape, "kernel")
    tensors = tensors_of(planes, device)
    left = Tensor(np.ones((rows, shape[1]), np.float32), device=device).realize()
    product = left @ scheme.dequantize(tensors, shape).transpose(0, 1)
    peak_memory(reset=True)
    before = peak_memory()
    with profile() as recorded:
        product.realize()
    assert len(recorded.launches) == 1, [launch.name for launch in recorded.launches]
    assert peak_memory() - before <= 4 * rows * shape[0] + 4096


def test_any_codes_are_those_of_unpack(scheme: QuantScheme, shapes: list[Shape], device: str) -> None:
    """Every bit of the integer planes drawn at random, under floats that are tame: bit for bit."""
    for shape in shapes:
        planes = {}
        for name, plane in planes_of(scheme, shape, "codes").items():
            is_code = plane.dtype.kind in "iu"
            bits = generator("codes", shape, name).bytes(plane.nbytes)
            planes[name] = np.frombuffer(bits, plane.dtype).reshape(plane.shape) if is_code else plane
        try:
            with np.errstate(all="ignore"):
                expected = scheme.unpack(planes, shape)
        except PetaflopError:
            continue
        got = scheme.dequantize(tensors_of(planes, device), shape).numpy()
        assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))


def test_parts_of_a_tensor(scheme: QuantScheme, shapes: list[Shape], device: str) -> None:
    """Rows and columns of the lazy values are those of all of them."""
    shape = largest_matrix(shapes)
    planes = planes_of(scheme, shape, "parts")
    lazy, whole = scheme.dequantize(tensors_of(planes, device), shape), scheme.unpack(planes, shape)
    for index in ((slice(1, None), slice(None)), (0, slice(3, None, 2)), (slice(None, None, 3), slice(1, 7))):
        assert lazy[index].numpy().tobytes() == np.ascontiguousarray(whole[index]).tobytes()


def test_gradients_reach_the_inputs(scheme: QuantScheme, shapes: list[Shape], device: str) -> None:
    shape = largest_matrix(shapes)
    planes = planes_of(scheme, shape, "gradient")
    x = Tensor(np.ones((2, shape[1]), np.float32), device=device, requires_grad=True)
    (x @ scheme.dequantize(tensors_of(planes, device), shape).transpose(0, 1)).sum().backward()
    expected = scheme.unpack(planes, shape).astype(np.float64).sum(0)
    size = np.abs(scheme.unpack(planes, shape).astype(np.float64)).sum(0)
    assert x.grad is not None
    assert (np.abs(x.grad.numpy() - expected) <= 1e-5 * size + 1e-30).all()


def test_serialization(scheme: QuantScheme, shapes: list[Shape], device: str, tmp_path: Path) -> None:
    """Planes as tensors of a state file: saved, loaded, and the same values in the graph."""
    shape = shapes[-1]
    planes = planes_of(scheme, shape, "saved")
    path = tmp_path / "planes.safetensors"
    safe_save(tensors_of(planes, device), path)
    loaded = safe_load(path, device)
    for name, array in planes.items():
        assert loaded[name].numpy().tobytes() == array.tobytes()
    scheme.check_planes(loaded, shape)
    assert scheme.dequantize(loaded, shape).numpy().tobytes() == scheme.unpack(planes, shape).tobytes()


def test_wrong_planes_are_refused_in_the_graph(scheme: QuantScheme, shapes: list[Shape]) -> None:
    shape = shapes[-1]
    tensors = tensors_of(planes_of(scheme, shape), "reference")
    tensors.pop(next(iter(tensors)))
    with pytest.raises(Exception, match="plane") as caught:
        scheme.dequantize(tensors, shape)
    assert type(caught.value).__module__.startswith("petaflop"), "expected a typed error"
