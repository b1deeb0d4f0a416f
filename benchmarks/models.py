"""Whole ONNX models, replayed, against onnxruntime on equal threads: `python benchmarks/models.py [NAME...]`.

The graphs are the importer's test data: eight architectures whose weights are made up, the same everywhere.
Runs alternate in one process; times are medians, after a warm-up, from NumPy arrays to NumPy arrays.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

import petaflop_onnx
from petaflop.config import overrides

TESTS = Path(__file__).resolve().parents[1] / "packages" / "onnx" / "tests"
sys.path.insert(0, str(TESTS))
from onnx_case import GRAPHS, feeds_for, load_filled  # noqa: E402

RUNS = 20


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure(name: str, threads: int, folder: Path) -> tuple[float, ...]:
    """(ms ours, ms onnxruntime, relative error, seconds to load and to run first)."""
    model = load_filled(TESTS / "data" / f"{name}.onnx")
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    feeds = feeds_for(model, GRAPHS[name])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    with overrides(threads=threads):
        started = time.perf_counter()
        ours = petaflop_onnx.load(path)
        first = [value.numpy() for value in ours(feeds).values()]
        cold = time.perf_counter() - started

        def run() -> object:
            return [value.numpy() for value in ours(feeds).values()]

        run(), session.run(None, feeds)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(RUNS):
            times[0].append(seconds(run))
            times[1].append(seconds(lambda: session.run(None, feeds)))
    error = max(
        float(np.abs(got.astype(np.float64) - want).max() / max(np.abs(want).max(), 1e-30))
        for got, want in zip(first, expected, strict=True)
    )
    mine, peer = (statistics.median(column) * 1e3 for column in times)
    return mine, peer, error, cold


def main() -> None:
    console = Console(width=110)
    names = sys.argv[1:] or list(GRAPHS)
    with tempfile.TemporaryDirectory(prefix="petaflop-") as folder:
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            table = Table(
                "model", "threads", "petaflop ms", "onnxruntime ms", "ratio", "error", "load + first run, s"
            )
            ratios = []
            for name in names:
                mine, peer, error, cold = measure(name, threads, Path(folder))
                ratios.append(peer / mine)
                cells = (f"{mine:.2f}", f"{peer:.2f}", f"{peer / mine:.2f}", f"{error:.1e}", f"{cold:.2f}")
                table.add_row(name, str(threads), *cells)
            table.add_row("geometric mean", str(threads), "", "", f"{statistics.geometric_mean(ratios):.2f}")
            console.print(table)


if __name__ == "__main__":
    main()
