"""The soak: `python -m petaflop_conformance.soak --backend cpu --against reference --graphs N --counts FILE`.

Goes on where FILE says that the last run ended, until N graphs have been compared. Stretches run in processes
of their own, so that a backend that crashes is a finding and compiled code does not pile up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import petaflop
import petaflop_conformance
from petaflop.errors import ArgumentError, PetaflopError
from petaflop.plugins.manager import plugin_manager

__all__ = ["main", "read_counts", "write_counts"]

SCHEMA = 1
_PATIENCE = 60.0  # seconds that one graph may take before its process is taken to hang


def read_counts(path: Path, backend: str, against: str) -> dict[str, Any]:
    """What has been compared so far; nothing where there is no file."""
    if not path.exists():
        return {
            "schema": SCHEMA,
            "backend": backend,
            "against": against,
            "next_seed": 0,
            "graphs": 0,
            "compared": 0,
            "elements": 0,
            "seconds": 0.0,
            "versions": {},
            "operations": {},
            "findings": [],
        }
    try:
        counts: dict[str, Any] = json.loads(path.read_text("utf-8"))
        pair = (counts["schema"], counts["backend"], counts["against"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentError(f"{path}: expected the counts of a soak: {error!r}") from error
    if pair != (SCHEMA, backend, against):
        raise ArgumentError(f"{path}: expected counts of {backend} against {against}, got {pair}")
    return counts


def write_counts(path: Path, counts: dict[str, Any]) -> None:
    """All of it or nothing, whenever we are stopped."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8"
    ) as file:
        json.dump(counts, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: no fault found; 1: faults; 65: wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m petaflop_conformance.soak", description=__doc__)
    parser.add_argument("--backend", required=True, help="the backend to examine")
    parser.add_argument("--against", default="reference", help="the other device (default: reference)")
    parser.add_argument("--graphs", type=int, required=True, help="how many graphs the counts shall reach")
    parser.add_argument("--counts", type=Path, required=True, metavar="FILE", help="the counts, as JSON")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--stretch", type=int, default=200, help="graphs per process (default 200)")
    parser.add_argument("--batch", type=int, default=4, help="graphs realized together (default 4)")
    options = parser.parse_args(arguments)
    try:
        counts = read_counts(options.counts, options.backend, options.against)
        version = _versions(options.backend)
        _go_on(options, counts, version)
    except PetaflopError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 65
    print(_line(counts))
    return int(bool(counts["findings"]))


def _versions(backend: str) -> str:
    rows = plugin_manager().plugins()
    row = next((row for row in rows if row.kind == "backend" and row.name == backend), None)
    if row is None:
        raise ArgumentError(f"--backend: expected an installed backend, got {backend!r}")
    parts = (f"petaflop {petaflop.__version__}", row.source, f"suite {petaflop_conformance.__version__}")
    return ", ".join(parts)


def _go_on(options: argparse.Namespace, counts: dict[str, Any], version: str) -> None:
    """Keep `jobs` stretches running; each is counted when it and all before it have ended."""
    started, before = time.monotonic(), counts["seconds"]
    first, left = counts["next_seed"], options.graphs - counts["graphs"]
    with (
        tempfile.TemporaryDirectory(prefix="petaflop-soak-") as folder,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        running: dict[Future[dict[str, Any]], int] = {}
        done: dict[int, dict[str, Any]] = {}
        while left > 0 or running:
            while left > 0 and len(running) < options.jobs:
                count = min(options.stretch, left)
                task = pool.submit(_stretch, options, first, count, Path(folder) / f"{first}.json")
                running[task] = first
                first, left = first + count, left - count
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                done[running.pop(task)] = task.result()
            while counts["next_seed"] in done:
                _add(counts, done.pop(counts["next_seed"]), version, options.counts)
                counts["seconds"] = round(before + time.monotonic() - started, 1)
                write_counts(options.counts, counts)
                print(_line(counts), flush=True)


def _stretch(options: argparse.Namespace, first: int, count: int, result: Path) -> dict[str, Any]:
    """One process; what it found, or that it died and where."""
    numbers = (str(first), str(count), str(options.batch))
    command = [sys.executable, "-m", "petaflop_conformance.soaking", options.backend, options.against]
    try:
        run = subprocess.run(
            [*command, *numbers, str(result)], capture_output=True, text=True, timeout=_PATIENCE * count
        )
        if run.returncode == 0:
            return {**json.loads(result.read_text("utf-8")), "seeds": count}
        how = f"crashed (exit code {run.returncode}): {run.stderr.strip()[-2000:]}"
    except subprocess.TimeoutExpired:
        how = "gave no answer"
    note = result.with_suffix(".note")
    seed, batch = note.read_text("utf-8").split() if note.exists() else (str(first), str(options.batch))
    alone = " ".join(["python", *command[1:], seed, batch, batch, "result.json"])
    finding = {"seed": int(seed), "device": options.backend, "message": how, "script": f"# {alone}\n"}
    return {
        "graphs": 0,
        "seeds": count,
        "compared": 0,
        "elements": 0,
        "operations": {},
        "findings": [finding],
    }


def _add(counts: dict[str, Any], tally: dict[str, Any], version: str, path: Path) -> None:
    for name in ("graphs", "compared", "elements"):
        counts[name] += tally[name]
    counts["next_seed"] += tally["seeds"]
    counts["operations"] = dict(
        sorted((Counter(counts["operations"]) + Counter(tally["operations"])).items())
    )
    counts["versions"][version] = counts["versions"].get(version, 0) + tally["graphs"]
    for finding in tally["findings"]:
        file = path.with_name(f"{path.stem}-{finding['device']}-{finding['seed']}.py")
        file.write_text(finding["script"], "utf-8")
        counts["findings"].append(
            {key: finding[key] for key in ("seed", "device", "message")} | {"file": file.name}
        )
        print(
            f"seed {finding['seed']}: {finding['device']} is wrong: {finding['message']}\n"
            f"reproduce: python {file}"
        )
        print(finding["script"], flush=True)


def _line(counts: dict[str, Any]) -> str:
    share = counts["compared"] / max(counts["elements"], 1)
    return (
        f"{counts['graphs']} graphs on {counts['backend']} and {counts['against']}: "
        f"{len(counts['findings'])} mismatches; {counts['compared']} elements compared ({share:.0%}); "
        f"{sum(counts['operations'].values())} operations; {counts['seconds']:.0f} s"
    )


if __name__ == "__main__":
    raise SystemExit(main())
