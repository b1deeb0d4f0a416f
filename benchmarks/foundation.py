"""The figures that the foundation is held to: import, compile, schedule, replay, and matmul against PyTorch.

`nox -s bench`, or `python benchmarks/foundation.py`, on a machine where nothing else runs. Ratios come from
runs that alternate between petaflop and its peer in this process.
"""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from petaflop import Tensor, jit
from petaflop.config import overrides
from petaflop.profile import profile

RUNS = 20
SIZES = (256, 512, 1024, 2048)


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def import_seconds() -> float:
    """The median of fresh processes, less an interpreter that imports nothing."""

    def median(code: str) -> float:
        command = [sys.executable, "-c", code]
        return statistics.median(seconds(lambda: subprocess.run(command, check=True)) for _ in range(7))

    return median("import petaflop") - median("pass")


def cold_kernels() -> list[tuple[str, float, float]]:
    """(kernel, ms from graph to text, ms with LLVM and loading) of kernels that no cache holds: the median of
    several sizes, each a kernel of its own, after one that warms the process up."""
    works: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "elementwise": lambda x, w: x * 3 + 1,
        "(x*2+1).relu().sum(-1)": lambda x, w: (x * 2 + 1).relu().sum(-1),
        "gelu": lambda x, w: x.gelu(),
        "softmax": lambda x, w: x.softmax(-1),
        "layer norm": lambda x, w: x.layernorm(),
        "matmul + bias + relu": lambda x, w: (x @ w + 1).relu(),
    }
    rows = []
    with overrides(cache=False):
        for name, work in works.items():
            times = [_cold(work, 256 + 32 * number) for number in range(10)][1:]
            python, total = (statistics.median(column) for column in zip(*times, strict=True))
            rows.append((name, python, total))
    return rows


def _cold(work: Callable[[Tensor, Tensor], Tensor], size: int) -> tuple[float, float]:
    x, w = Tensor.rand(128, size).realize(), Tensor.rand(size, 256).realize()
    with profile() as record:
        work(x, w).realize()
    native = sum(c.stages["compile"] + c.stages["load"] for c in record.compiles)
    total = sum(s.seconds for s in record.schedules)
    kernels = len(record.compiles)
    return (total - native) / kernels * 1e3, total / kernels * 1e3


def cached_schedule() -> float:
    """Microseconds per kernel to find the schedule of a graph that is built again."""
    x, w = Tensor.rand(64, 64).realize(), Tensor.rand(64, 64).realize()

    def build() -> Tensor:
        value = x
        for _ in range(10):
            value = ((value @ w) + 1).relu()
        return value

    build().realize()
    with profile() as record:
        for _ in range(RUNS):
            build().realize()
    return statistics.median(s.seconds / len(s.schedule.steps) for s in record.schedules) * 1e6


def replay() -> tuple[int, float]:
    """(kernels, ms) of a replay of small kernels that cannot be fused."""
    weights = [Tensor.rand(32, 32).realize() for _ in range(100)]

    @jit
    def chain(value: Tensor) -> Tensor:
        for weight in weights:
            value = (value @ weight) * 0.1
        return value

    start = Tensor.rand(32, 32).realize()
    for _ in range(3):
        chain(start)
    ((capture, _),) = next(iter(chain.captures.values()))
    return len(capture.prepared.programs), statistics.median(
        seconds(lambda: chain(start)) for _ in range(99)
    ) * 1e3


def matmul(size: int) -> tuple[float, float, float]:
    """(GFLOP/s ours, GFLOP/s PyTorch, worst relative error against float64)."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    ours, theirs = (Tensor(a).realize(), Tensor(b).realize()), (torch.from_numpy(a), torch.from_numpy(b))
    result = (ours[0] @ ours[1]).realize()
    exact = a.astype(np.float64) @ b
    error = float(np.abs(result.numpy() - exact).max() / np.abs(exact).max())
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        times[0].append(seconds(lambda: (ours[0] @ ours[1]).realize()))
        times[1].append(seconds(lambda: theirs[0] @ theirs[1]))
    work = 2e-9 * size**3
    return work / statistics.median(times[0]), work / statistics.median(times[1]), error


def main() -> None:
    console = Console(width=110)
    gc.collect()
    gc.freeze()  # what importing a peer leaves behind is not walked in the middle of our kernels
    console.print(f"import petaflop: {import_seconds():.2f} s")
    table = Table("cold kernel", "graph to text, ms", "all in all, ms")
    for name, python, total in cold_kernels():
        table.add_row(name, f"{python:.1f}", f"{total:.1f}")
    console.print(table)
    console.print(f"cached schedule: {cached_schedule():.0f} µs per kernel")
    kernels, milliseconds = replay()
    console.print(f"replay of {kernels} kernels: {milliseconds:.3f} ms")
    table = Table(
        "matmul, float32", "threads", "petaflop GFLOP/s", "torch GFLOP/s", "ratio", "relative error"
    )
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        with overrides(threads=threads):
            for size in SIZES:
                mine, peer, error = matmul(size)
                cells = (f"{mine:.1f}", f"{peer:.1f}", f"{mine / peer:.2f}", f"{error:.1e}")
                table.add_row(f"{size}³", str(threads), *cells)
    console.print(table)


if __name__ == "__main__":
    main()
