"""Fixtures of the importer suite: the examined importer, and the sample files that it must load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from petaflop.config import overrides
from petaflop.plugins.importer import Importer
from petaflop.plugins.manager import plugin_manager


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A disk cache of this run alone."""
    with overrides(cache_dir=tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="session")
def importer_name(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("petaflop_importer"))


@pytest.fixture(scope="session")
def importer(importer_name: str) -> Importer:
    found: Importer = plugin_manager().get("importer", importer_name)
    return found


@pytest.fixture(scope="session")
def samples(request: pytest.FixtureRequest, importer: Importer) -> list[Path]:
    """Files with one of the importer's extensions in the folder of --petaflop-samples."""
    folder = str(request.config.getoption("petaflop_samples"))
    found = sorted(path for path in Path(folder).iterdir() if path.suffix in importer.extensions)
    assert found, f"{folder}: expected files that end in {', '.join(importer.extensions)}, got none"
    return found
