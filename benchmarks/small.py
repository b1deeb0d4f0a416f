"""A thousand small kernels, replayed by `jit` as one call, against torch.compile: products of 8x8 to 64x64
matrices, each of which needs the one before, so that no side can fuse them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from _bench import Bar, Case, Pair, compare, main, same

BARS = {"small": Bar(None, 2.0, peers=("compile",))}
KERNELS, WEIGHTS = 1000, 10


def chained(x: Any, *weights: Any) -> Any:
    """x times the weights in turn, its sign changed each time."""
    for number in range(KERNELS):
        x = -(x @ weights[number % WEIGHTS])
    return x


def rotation(side: int, seed: int) -> Pair:
    """An orthogonal matrix: a product of a thousand stays of the size of the first."""
    values = np.linalg.qr(np.random.default_rng(seed).standard_normal((side, side)))[0]
    return same(values.astype(np.float32))


def cases() -> Iterator[Case]:
    for side in (8, 16, 32, 64):
        yield compare(
            f"{KERNELS} products of {side}x{side}",
            "small",
            [rotation(side, seed) for seed in range(WEIGHTS + 1)],
            chained,
            chained,
            compile=True,
            error=1e-4,
            operations=2.0 * KERNELS * side**3,
        )


if __name__ == "__main__":
    main("small", cases, BARS)
