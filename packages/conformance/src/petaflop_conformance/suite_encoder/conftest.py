"""Fixtures of the encoder suite: the examined encoder, and the installed formats that it supports."""

from __future__ import annotations

import pytest

from petaflop.errors import PetaflopError
from petaflop.plugins.manager import plugin_manager
from petaflop.plugins.scheme import Encoder, QuantScheme

Shape = tuple[int, ...]


@pytest.fixture(scope="session")
def encoder_name(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("petaflop_encoder"))


@pytest.fixture(scope="session")
def encoder(encoder_name: str) -> Encoder:
    found: Encoder = plugin_manager().get("encoder", encoder_name)
    return found


@pytest.fixture(scope="session")
def installed() -> list[QuantScheme]:
    """Every format that can be had here; one that is broken is not this suite's business."""
    found = []
    for name in plugin_manager().names("quant"):
        try:
            found.append(plugin_manager().get("quant", name))
        except PetaflopError:
            continue
    return found


@pytest.fixture(scope="session")
def formats(encoder: Encoder, installed: list[QuantScheme]) -> list[QuantScheme]:
    """Those that the encoder supports."""
    found = [scheme for scheme in installed if encoder.supports(scheme)]
    if not found:
        pytest.skip("not applicable: no format is installed that it supports")
    return found


def shape_for(scheme: QuantScheme, rows: int = 6, least: int = 64) -> Shape:
    """A matrix that the format takes, of few rows, multiples of its blocks."""
    sizes = [1 if size is None else size for size in scheme.block[-2:]]
    sizes = [1] * (2 - len(sizes)) + sizes
    return (-(-rows // sizes[0]) * sizes[0], -(-least // sizes[1]) * sizes[1])
