"""Fused chains of elementwise operations and reductions against PyTorch's eager kernels, at 256 KB, 8 MB and
256 MB.

PEER=compile in the environment makes torch.compile the peer; it needs g++, and fails without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _bench import Case, Pair, main, pair
from torch.nn import functional as F

from petaflop import Tensor, jit

ROWS = {"256 KB": 64, "8 MB": 2048, "256 MB": 65536}  # of 1024 float32
Arrays = tuple[np.ndarray[Any, Any], ...]


def chain(
    name: str,
    inputs: list[Pair],
    ours: Callable[..., Tensor],
    theirs: Callable[..., torch.Tensor],
    moved: float,
) -> Case:
    replayed = jit(ours)
    peer = torch.compile(theirs) if os.environ.get("PEER") == "compile" else theirs
    return Case(
        name,
        lambda: replayed(*(each.ours for each in inputs)),
        lambda: peer(*(each.theirs for each in inputs)),
        lambda: theirs(*(each.theirs.double() for each in inputs)).numpy(),
        bytes=moved * 4,
    )


def cases() -> Iterator[Case]:
    for label, rows in ROWS.items():
        x, y, z = (pair((rows, 1024), seed=seed) for seed in range(3))
        w, b = pair((1024,), seed=3), pair((1024,), seed=4)
        n = rows * 1024
        yield chain(
            f"a*b+c {label}",
            [x, y, z],
            lambda a, b, c: a * b + c,
            lambda a, b, c: torch.addcmul(c, a, b),
            4 * n,
        )
        yield chain(
            f"bias + gelu {label}", [x, b], lambda x, b: (x + b).gelu(), lambda x, b: F.gelu(x + b), 2 * n
        )
        yield chain(
            f"residual + layer norm {label}",
            [x, y, w, b],
            lambda x, y, w, b: (x + y).layernorm() * w + b,
            lambda x, y, w, b: F.layer_norm(x + y, (1024,), w, b),
            3 * n,
        )
        yield chain(f"softmax {label}", [x], lambda x: x.softmax(-1), lambda x: x.softmax(-1), 2 * n)
        yield chain(f"logsumexp {label}", [x], lambda x: x.logsumexp(-1), lambda x: x.logsumexp(-1), n)
        for axis in (0, 1):
            yield chain(
                f"mean, axis {axis} {label}", [x], lambda x, a=axis: x.mean(a), lambda x, a=axis: x.mean(a), n
            )
            yield chain(
                f"var, axis {axis} {label}", [x], lambda x, a=axis: x.var(a), lambda x, a=axis: x.var(a), n
            )
    for shape in ((16384, 128), (64, 32000)):
        x = pair(shape)
        yield chain(
            f"softmax {shape[0]}x{shape[1]}",
            [x],
            lambda x: x.softmax(-1),
            lambda x: x.softmax(-1),
            2 * shape[0] * shape[1],
        )


if __name__ == "__main__":
    main("chains", cases)
