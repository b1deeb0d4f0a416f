"""What petaflop takes beside its kernels: import, compile, schedule, replay. Figures without a peer, which
mean something only on a machine where nothing else runs.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from _bench import Bar, bench
from _report import Row

from petaflop import Tensor, jit
from petaflop.config import overrides
from petaflop.profile import profile

RUNS = 20


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


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Everything on one thread: none of it is work for more."""
    gc.collect()
    gc.freeze()  # what importing a peer leaves behind is not walked in the middle of our kernels
    with overrides(threads=1):
        yield Row("import petaflop", "figure", 1, import_seconds() * 1e3)
        for name, python, total in cold_kernels():
            yield Row(f"cold kernel, {name}", "figure", 1, total, rate=f"graph to text {python:.1f} ms")
        yield Row("cached schedule, per kernel", "figure", 1, cached_schedule(), unit="us")
        kernels, milliseconds = replay()
        yield Row(f"replay of {kernels} kernels", "figure", 1, milliseconds)


if __name__ == "__main__":
    bench("foundation", {"figure": Bar(None, None)}, rows)
