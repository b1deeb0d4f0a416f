"""How long whole models take from nothing to their first result, and their peak memory, against
onnxruntime; each side in processes of its own, which take turns.

Cold is the first process on a machine, warm a later one, which finds its kernels in the disk cache. The
models are the demo's, which is where MAGIKA_MODEL says (`nox -s bench` sets it), and the graphs of models.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _bench import Bar, bench
from _models import batches, feeds, feeds_for, graph_names, model
from _report import Row

BARS = {  # of onnxruntime a session and its first run count, of ours the imports too
    "cold": Bar(None, None, peers=("without import",)),
    "warm": Bar(0.5, None, peers=("without import",)),  # at most twice its time
    "memory": Bar(1 / 1.2, None),  # at most 1.2 times its peak
}
CHILD = Path(__file__).with_name("_start.py")
MOST_COLD = 5  # starts with an empty cache: seconds of compiling each
DEMO = "demo"


def launch(side: str, path: Path, arrays: Path, threads: int, cache: Path) -> dict[str, Any]:
    """What a process of that side reports."""
    environment = {**os.environ, "PETAFLOP_CACHE_DIR": str(cache)}
    command = [sys.executable, str(CHILD), side, str(path), str(arrays), str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side}: {done.stderr.strip()[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def _phases(reports: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds of each phase: the medians."""
    return {
        name: statistics.median(report["seconds"][name] for report in reports) * 1e3
        for name in reports[0]["seconds"]
    }


def _rate(phases: dict[str, float]) -> str:
    return ", ".join(f"{name} {taken:.0f}" for name, taken in phases.items() if name != "all")


def started(name: str, path: Path, arrays: Path, threads: int, runs: int) -> Iterator[Row]:
    """Cold and warm starts, and memory, of a model."""
    with tempfile.TemporaryDirectory(prefix="petaflop-") as folder:
        colds = [
            launch("petaflop", path, arrays, threads, Path(folder) / f"{number}")
            for number in range(min(runs, MOST_COLD))
        ]
        warms, peers = [], []
        for _ in range(runs):
            warms.append(launch("petaflop", path, arrays, threads, Path(folder) / "0"))
            peers.append(launch("onnxruntime", path, arrays, threads, Path(folder) / "0"))
    theirs = _phases(peers)
    others = {"onnxruntime": theirs["all"], "without import": theirs["all"] - theirs["import"]}
    for kind, reports in (("cold", colds), ("warm", warms)):
        phases = _phases(reports)
        yield Row(f"{name}, {kind}", kind, threads, phases["all"], others, rate=_rate(phases))
    megabytes = [statistics.median(r["megabytes"] for r in reports) for reports in (warms, peers, colds)]
    ours, other, cold = megabytes
    text = f"{ours / other:.2f} of onnxruntime's; {cold:.0f} MB when cold"
    yield Row(f"{name}, peak", "memory", threads, ours, {"onnxruntime": other}, rate=text, unit="MB")


def graphs() -> Iterator[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    """(name, model, inputs) of what is started."""
    demo = os.environ.get("MAGIKA_MODEL")
    if demo is None:
        raise SystemExit("MAGIKA_MODEL: expected the demo's model.onnx, got nothing (`nox -s bench` sets it)")
    loaded = onnx.load(demo)
    names = [dim.dim_param for info in loaded.graph.input for dim in info.type.tensor_type.shape.dim]
    yield DEMO, loaded, feeds_for(loaded, {name: 1 for name in names if name})
    for name in graph_names():
        for batch in batches(name):
            yield f"{name}, batch {batch}", model(name), feeds(name, batch)


def rows(given: argparse.Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="petaflop-") as folder:
        path, arrays = Path(folder) / "model.onnx", Path(folder) / "feeds.npz"
        for name, made, inputs in graphs():
            if given.names and not any(word in name for word in given.names):
                continue
            path.write_bytes(made.SerializeToString())
            np.savez(arrays, **inputs)
            for threads in given.threads:
                yield from started(name, path, arrays, threads, given.runs)


if __name__ == "__main__":
    bench("startup", BARS, rows)
