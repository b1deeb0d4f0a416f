"""Each test draws the same data, whichever tests ran before it and in whichever worker."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

_starts: dict[tuple[str, str], Any] = {}  # (module, name) -> a generator as it was after the import


@pytest.fixture(autouse=True)
def same_data(request: pytest.FixtureRequest) -> None:
    """Set the generators of the test's module, and petaflop's own, back to their start."""
    from petaflop import Tensor

    for name, value in vars(request.module).items():
        if isinstance(value, np.random.Generator):
            state = value.bit_generator.state
            start = _starts.setdefault((request.module.__name__, name), copy.deepcopy(state))
            value.bit_generator.state = copy.deepcopy(start)
    Tensor.manual_seed(0)
