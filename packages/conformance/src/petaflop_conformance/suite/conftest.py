"""Fixtures of the suite: the examined backend, a case on it, and fusion switched on and off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from petaflop.config import overrides
from petaflop.device.registry import get_backend
from petaflop.errors import DeviceError, PetaflopError
from petaflop_conformance.case import Case
from petaflop_conformance.examination import MEASURED, cannot, level_of, offline_backend, skip_as
from petaflop_conformance.levels import NOT_APPLICABLE
from petaflop_conformance.report import policy_of


@pytest.fixture(scope="session")
def backend_name(request: pytest.FixtureRequest) -> str:
    """The name under examination."""
    return str(request.config.getoption("petaflop_backend"))


@pytest.fixture(scope="session")
def backend(backend_name: str) -> Any:
    """The opened backend; without a device, every test that needs one fails in these words."""
    try:
        return get_backend(backend_name)
    except PetaflopError as error:
        raise cannot(error) from None


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A disk cache of this run alone: what an older compiler left behind proves nothing."""
    with overrides(cache_dir=tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="session")
def profile(request: pytest.FixtureRequest) -> str:
    """quick, full or soak."""
    return str(request.config.getoption("petaflop_profile"))


@pytest.fixture(scope="session")
def count(profile: str) -> Callable[[int], int]:
    """How many random examples to take where `quick` takes so many."""
    times = {"quick": 1, "full": 5, "soak": 50}[profile]
    return lambda quick: quick * times


@pytest.fixture(params=[True, False], ids=["fused", "unfused"])
def fusion(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Every test of a file that uses this runs with fusion on, and again with one kernel per operation."""
    with overrides(fuse=request.param):
        yield request.param


@pytest.fixture
def case(backend: Any, backend_name: str, request: pytest.FixtureRequest) -> Case:
    """A fresh case on the examined backend, whose measurements go into the report."""

    def record(op: str, dtype: str, ratio: float, ulps: float) -> None:
        request.node.user_properties.append((MEASURED, [op, dtype, ratio, ulps]))

    level = "full" if level_of(request.node) == "full" else "core"
    return Case(backend_name, policy_of(backend, level), record)


@pytest.fixture(scope="session")
def renderer(backend_name: str) -> Any:
    """The backend as something that renders and compiles, with or without its device."""
    try:
        found = get_backend(backend_name)
    except DeviceError as error:
        found = offline_backend(backend_name)
        if found is None:
            skip_as(NOT_APPLICABLE, f"no device, and no petaflop_offline_backend: {error}")
    except PetaflopError as error:
        raise cannot(error) from None
    if found.target is None:
        skip_as(NOT_APPLICABLE, "kernels are interpreted, so there is nothing to render")
    return found


@pytest.fixture
def device(backend: Any, backend_name: str) -> str:
    """The name of the examined backend, which has been opened."""
    return backend_name
