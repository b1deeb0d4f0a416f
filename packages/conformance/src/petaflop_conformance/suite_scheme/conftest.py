"""Fixtures of the scheme suite: the examined format, tensors that fit it, devices to run it on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from petaflop.config import overrides
from petaflop.device.registry import default_device
from petaflop.errors import ShapeError
from petaflop.plugins.manager import plugin_manager
from petaflop.plugins.scheme import QuantScheme
from petaflop_conformance.examination import skip_as
from petaflop_conformance.levels import NOT_APPLICABLE
from petaflop_conformance.values import generator

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A disk cache of this run alone."""
    with overrides(cache_dir=tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="session")
def scheme_name(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("petaflop_scheme"))


@pytest.fixture(scope="session")
def scheme(scheme_name: str) -> QuantScheme:
    found: QuantScheme = plugin_manager().get("quant", scheme_name)
    return found


@pytest.fixture(scope="session")
def packing(scheme: QuantScheme) -> QuantScheme:
    """The scheme, where it turns values into bytes."""
    if not scheme.can_pack:
        skip_as(NOT_APPLICABLE, "a format that is only ever loaded")
    return scheme


@pytest.fixture(scope="session")
def shapes(scheme: QuantScheme) -> list[Shape]:
    """Small shapes that the format takes, of one axis to three."""
    last = [1 if size is None else size for size in scheme.block]
    found = []
    for front in ((), (1,), (3,), (8,), (2, 5), (16, 16)):
        for times in (1, 2, 4, 7):
            shape = (*front, *(size * times for size in last)) if last else (*front, times * 3)
            if any(size is None for size in scheme.block):
                shape = (*shape[:-1], max(shape[-1], 9 * times))
            if _fits(scheme, shape):
                found.append(shape)
    assert found, f"{scheme.name}: expected check_shape to accept some small shape"
    return found[::3] if len(found) > 9 else found


def _fits(scheme: QuantScheme, shape: Shape) -> bool:
    try:
        scheme.check_shape(shape)
    except ShapeError:
        return False
    return True


@pytest.fixture(scope="session")
def large(scheme: QuantScheme) -> Shape:
    """A shape of about a million elements."""
    last = [1024 if size is None else size * max(1, 1024 // size) for size in scheme.block] or [1024]
    shape = tuple(last) if len(last) > 1 else (1024, *last)
    scheme.check_shape(shape)
    return shape


@pytest.fixture(params=["reference", "default"])
def device(request: pytest.FixtureRequest) -> str:
    """The reference device, and the default one, which may be another."""
    return default_device() if request.param == "default" else "reference"


def planes_of(scheme: QuantScheme, shape: Shape, *key: object) -> dict[str, Array]:
    """Planes of a tensor: packed ones, or random codes under tame floats where there is no `pack`."""
    random = generator("planes", shape, *key)
    if scheme.can_pack:
        return dict(scheme.pack(random.standard_normal(shape).astype(np.float32)))
    made = {}
    for name, plane in scheme.planes(shape).items():
        if plane.dtype.is_float:
            made[name] = random.uniform(0.01, 1, plane.shape).astype(plane.dtype.numpy)
        else:
            size = int(np.prod(plane.shape)) * plane.dtype.itemsize
            bits = random.integers(0, 256, size, dtype=np.uint8)
            made[name] = bits.view(plane.dtype.numpy).reshape(plane.shape)
    return made
