"""Matrix products against torch.matmul: float32, bfloat16 and int8, squares, odd sizes, transpositions,
batches, and matrix times vector over more matrices than the caches hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import torch
from _bench import Case, Pair, main, pair

from petaflop import Tensor, jit

SIZES = [(256,) * 3, (512,) * 3, (1024,) * 3, (2048,) * 3, (1000, 777, 333), (4096, 64, 4096)]
SIZES += [(64, 4096, 4096), (64, 4096, 64)]
TURNED: dict[str, Callable[[Any, Any], Any]] = {
    "nt": lambda a, b: a @ b.T,
    "tn": lambda a, b: a.T @ b,
    "tt": lambda a, b: a.T @ b.T,
}


def product(name: str, a: Pair, b: Pair, multiply: Callable[[Any, Any], Any], error: float = 1e-5) -> Case:
    replayed = jit(multiply)
    m, n = a.theirs.shape, b.theirs.shape
    operations = 2.0 * a.theirs.numel() * b.theirs.numel() / min(m[-1], n[-2])
    if len(m) > 2:
        operations /= m[0]
    return Case(
        name,
        lambda: replayed(a.ours, b.ours),
        lambda: multiply(a.theirs, b.theirs),
        lambda: np.asarray(multiply(a.theirs.double().numpy(), b.theirs.double().numpy())),
        operations,
        error=error,
    )


def integers(m: int, k: int, n: int) -> Case:
    """int8 times int8 into int32, as torch._int_mm does it."""
    a, b = pair((m, k), "int8"), pair((k, n), "int8", 1)
    replayed = jit(lambda x, y: x.int() @ y.int())
    return Case(
        f"int8 {m}x{k}x{n}",
        lambda: replayed(a.ours, b.ours),
        lambda: torch._int_mm(a.theirs, b.theirs),
        lambda: (a.theirs.double() @ b.theirs.double()).numpy(),
        2.0 * m * k * n,
        error=0.0,
    )


def vectors(dtype: str) -> Case:
    """4096 × 4096 times a vector, another matrix each time: 256 MB in all."""
    count = 4 if dtype == "float32" else 8
    matrices = [pair((4096, 4096), dtype, seed) for seed in range(count)]
    vector = pair((4096,), dtype, 99)
    ours, theirs = cycle(matrices), cycle(matrices)
    replayed = jit(lambda m, v: m @ v)
    last: list[Pair] = []

    def run() -> Tensor:
        last[:] = [next(ours)]
        return replayed(last[0].ours, vector.ours)

    return Case(
        f"matrix × vector {dtype}",
        run,
        lambda: next(theirs).theirs @ vector.theirs,
        lambda: (matrices[0].theirs.double() @ vector.theirs.double()).numpy(),
        2.0 * 4096**2,
        4096.0**2 * matrices[0].theirs.element_size(),
        error=1e-2 if dtype == "bfloat16" else 1e-5,
    )


def cases() -> Iterator[Case]:
    for dtype, error in (("float32", 1e-5), ("bfloat16", 1e-2)):
        for m, k, n in SIZES:
            a, b = pair((m, k), dtype), pair((k, n), dtype, 1)
            yield product(f"{dtype} {m}x{k}x{n}", a, b, lambda x, y: x @ y, error)
    for dtype, error in (("float32", 1e-5), ("bfloat16", 1e-2)):
        a, b = pair((1024, 1024), dtype), pair((1024, 1024), dtype, 1)
        for name, multiply in TURNED.items():
            yield product(f"{dtype} 1024 {name}", a, b, multiply, error)
    rows, weight = pair((24, 2048), "bfloat16"), pair((2048, 2048), "bfloat16", 1)
    yield product("bfloat16 24x2048 @ 2048x2048 nt", rows, weight, TURNED["nt"], 1e-2)
    for dtype, error in (("float32", 1e-5), ("bfloat16", 1e-2)):
        for shapes in (((12, 512, 64), (12, 64, 512)), ((12, 512, 512), (12, 512, 64))):
            a, b = pair(shapes[0], dtype), pair(shapes[1], dtype, 1)
            name = f"{dtype} 12x512x{shapes[0][2]} @ {shapes[0][2]}x{shapes[1][2]}"
            yield product(name, a, b, lambda x, y: x @ y, error)
    for size in (256, 512, 1024):
        yield integers(size, size, size)
    for dtype in ("float32", "bfloat16"):
        yield vectors(dtype)


if __name__ == "__main__":
    main("matmul", cases)
