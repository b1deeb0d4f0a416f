"""Round to nearest: a format's own `pack`, as a plugin like all other encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from petaflop.plugin_api import Encoder, QuantScheme

__all__ = ["RoundToNearest"]

Array: TypeAlias = np.ndarray[Any, Any]


class RoundToNearest(Encoder):
    """What `QuantScheme.pack` does."""

    name = "rtn"

    def encode(
        self, scheme: QuantScheme, values: Array, importance: Array | None = None
    ) -> Mapping[str, Array]:
        """All inputs count alike, whatever `importance` says."""
        return scheme.pack(values)
