"""What every benchmark shares: rows measured in turns with a peer, ceilings of the machine, a table, a chart.

A row's function and its peer run one after the other in one process, on equal threads, after a warm-up; the
ratio is the peer's median time over ours. Results are compared with float64 before anything is timed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from petaflop import Tensor
from petaflop.cli.ceilings import measure_ceilings
from petaflop.config import overrides

__all__ = ["Case", "Pair", "main", "pair"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pair:
    """The same values for us and for PyTorch."""

    ours: Tensor
    theirs: torch.Tensor


@dataclass(frozen=True)
class Case:
    """A row: what we run, what the peer runs, the true result, and its work for the ceilings.

    `error` is the largest error that either side may show, relative to the largest true value.
    """

    name: str
    ours: Callable[[], Tensor]
    peer: Callable[[], torch.Tensor]
    truth: Callable[[], Array]
    operations: float = 0.0
    bytes: float = 0.0
    error: float = 1e-5


@dataclass(frozen=True)
class Row:
    """What a case took: milliseconds, the ratio, and our share of the ceiling that binds."""

    name: str
    threads: int
    ours: float
    peer: float
    ratio: float
    rate: str
    ceiling: str
    error: float


def pair(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Pair:
    """Normal floats, or integers over all of int8."""
    rng = np.random.default_rng(seed)
    if dtype == "int8":
        values = rng.integers(-128, 128, shape).astype(np.int8)
        return Pair(Tensor(values).realize(), torch.from_numpy(values))
    values = rng.standard_normal(shape, dtype=np.float32)
    ours, theirs = Tensor(values), torch.from_numpy(values)
    if dtype == "bfloat16":
        ours, theirs = ours.bfloat16(), theirs.bfloat16()
    return Pair(ours.realize(), theirs)


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _measure(case: Case, threads: int, runs: int, ceilings: Any) -> Row:
    truth = case.truth()
    scale = max(float(np.abs(truth).max()), 1e-30)
    errors = []
    for result in (case.ours().float().numpy(), case.peer().float().numpy()):
        errors.append(float(np.abs(result.astype(np.float64) - truth).max()) / scale)
    if errors[0] > case.error:
        raise SystemExit(f"{case.name}: expected an error of at most {case.error:g}, got {errors[0]:g}")
    case.ours(), case.peer()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        times[0].append(_seconds(case.ours))
        times[1].append(_seconds(case.peer))
    ours, peer = (statistics.median(column) for column in times)
    rates, shares = [], []
    if case.operations:
        rates.append(f"{case.operations / ours / 1e9:.1f} GFLOP/s")
        shares.append((case.operations / ours / ceilings.operations, "arithmetic"))
    if case.bytes:
        rates.append(f"{case.bytes / ours / 1e9:.1f} GB/s")
        shares.append((case.bytes / ours / ceilings.bandwidth, "memory"))
    ceiling = f"{max(shares)[0]:.0%} {max(shares)[1]}" if shares else ""
    return Row(case.name, threads, ours * 1e3, peer * 1e3, peer / ours, ", ".join(rates), ceiling, errors[0])


def main(group: str, cases: Callable[[], Iterable[Case]]) -> None:
    """Run a group at one thread and at all; `--out FOLDER` keeps a JSON file and a chart."""
    parser = argparse.ArgumentParser(description=f"{group} against PyTorch")
    parser.add_argument("names", nargs="*", help="rows whose name has one of these words; all without any")
    parser.add_argument("--runs", type=int, default=20, help="alternating runs a row (default 20)")
    parser.add_argument("--threads", type=int, action="append", help="threads; one and all cores without it")
    parser.add_argument("--out", type=Path, help="folder for a JSON file and a chart")
    options = parser.parse_args()
    gc.collect()
    gc.freeze()  # what importing a peer leaves behind is not walked in the middle of our kernels
    console, rows = Console(width=140), []
    for threads in options.threads or sorted({1, len(os.sched_getaffinity(0))}):
        torch.set_num_threads(threads)
        table = Table(group, "threads", "petaflop ms", "PyTorch ms", "ratio", "rate", "of ceiling", "error")
        with overrides(threads=threads), torch.no_grad():
            ceilings = measure_ceilings()
            measured = []
            for case in cases():
                if options.names and not any(word in case.name for word in options.names):
                    continue
                row = _measure(case, threads, options.runs, ceilings)
                measured.append(row)
                cells = (f"{row.ours:.3f}", f"{row.peer:.3f}", f"{row.ratio:.2f}", row.rate, row.ceiling)
                table.add_row(row.name, str(threads), *cells, f"{row.error:.1e}")
        if measured:
            mean = statistics.geometric_mean(row.ratio for row in measured)
            table.add_row("geometric mean", str(threads), "", "", f"{mean:.2f}")
            console.print(table)
            console.print(f"ceilings, by our own kernels in this run: {ceilings}\n")
        rows += measured
    if options.out and rows:
        options.out.mkdir(parents=True, exist_ok=True)
        record = {"group": group, "machine": platform.processor(), "rows": [asdict(row) for row in rows]}
        (options.out / f"{group}.json").write_text(json.dumps(record, indent=1), "utf-8")
        _draw(options.out / f"{group}.png", group, rows)


def _draw(path: Path, group: str, rows: list[Row]) -> None:
    """Ratios as bars, by row and number of threads; 1 is the peer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.28 * len(rows)))
    labels = [f"{row.name} · {row.threads}" for row in rows]
    axes.barh(labels, [row.ratio for row in rows], color=["C0" if row.threads == 1 else "C1" for row in rows])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel(f"{group}: PyTorch's time / ours, on one thread (blue) and on all (orange)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
