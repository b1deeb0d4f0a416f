"""Figures that are reported and never graded: compile time, launch time, copies as a share of the host's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petaflop import profile
from petaflop.config import overrides
from petaflop.dtype import float32
from petaflop.graph.node import Node, compute, const
from petaflop.graph.ops import Op
from petaflop.realize import from_host, realize_nodes, to_host
from petaflop_conformance.examination import PERF
from petaflop_conformance.layers import matmul, softmax
from petaflop_conformance.values import generator

pytestmark = [pytest.mark.level("perf"), pytest.mark.requires("float32")]

MEGABYTES = 64


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str, float, str], None]:
    """Keep a figure for the report."""
    return lambda what, value, unit: request.node.user_properties.append((PERF, [what, value, unit]))


def timed(work: Callable[[], object], times: int = 5) -> float:
    """The median of a few, in seconds; the first is not counted."""
    work()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def values(*shape: int) -> np.ndarray[Any, Any]:
    return generator("perf", shape).uniform(-1, 1, shape).astype(np.float32)


def test_compile(device: str, report: Callable[[str, float, str], None]) -> None:
    """New kernels of three kinds, from the graph to something to launch."""
    seconds: list[float] = []
    observer = lambda record: seconds.append(sum(record.stages.values()))  # noqa: E731
    profile.observers.append(observer)
    try:
        with overrides(cache=False):
            for number in range(4):
                x = from_host(values(61 + number, 67), device)
                product = matmul(x, from_host(values(67, 71), device))
                realize_nodes([softmax(product, 1), compute(Op.SIN, x)], device)
    finally:
        profile.observers.remove(observer)
    report("compile, median of new kernels", statistics.median(seconds) * 1e3, "ms")


def test_launch(device: str, backend: Any, report: Callable[[str, float, str], None]) -> None:
    """A kernel over eight numbers, a hundred times: what a launch costs, driver included."""
    x = from_host(values(8), device)

    def hundred() -> None:
        node: Node = x
        for _ in range(100):
            node = compute(Op.ADD, node, const(1.0, float32, (8,)))
            realize_nodes([node], device)
        backend.synchronize()

    report("launch and driver, per kernel", timed(hundred) / 100 * 1e6, "µs")


def test_copies(device: str, backend: Any, report: Callable[[str, float, str], None]) -> None:
    """To the device, back, and on it, against a copy between two arrays of the host."""
    array = values(MEGABYTES << 18)
    target = np.empty_like(array)
    host = array.nbytes / timed(lambda: np.copyto(target, array))
    node = from_host(array, device)

    def on_device() -> None:
        copied = compute(Op.MUL, node, const(1.5, float32, node.shape))
        realize_nodes([copied], device)
        backend.synchronize()

    rates = {
        "host to device": array.nbytes / timed(lambda: from_host(array, device)),
        "device to host": array.nbytes / timed(lambda: to_host(node)),
        "on the device, read and write": array.nbytes / timed(on_device),
    }
    report("copy on the host", host / 1e9, "GB/s")
    for what, rate in rates.items():
        report(f"copy {what}", 100 * rate / host, "% of the host's copy")
