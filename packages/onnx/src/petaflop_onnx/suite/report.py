"""The suite's outcomes as a table by group and operator, as JSON, and against a baseline that only grows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import onnx

from petaflop.report import aligned
from petaflop_onnx.suite.cases import GROUPS, Case
from petaflop_onnx.suite.workers import Outcome

__all__ = ["read_baseline", "table", "write_baseline", "write_json"]


def table(known: Mapping[str, Case], outcomes: Mapping[str, Outcome]) -> str:
    """Passed and all cases by group, then by operator, with the operators that lack most first."""
    heads = ["", "passed", "of", "crashed", "hung"]
    groups = [_row(group, [o for o in outcomes.values() if known[o.name].group == group]) for group in GROUPS]
    rows = [heads, *(row for row in groups if row[2] != "0"), _row("all", list(outcomes.values()))]
    by_operator: dict[str, list[Outcome]] = {}
    for outcome in outcomes.values():
        by_operator.setdefault(known[outcome.name].operator, []).append(outcome)
    lines = [_row(name, found) for name, found in by_operator.items()]
    lines.sort(key=lambda row: (int(row[1]) - int(row[2]), row[0]))
    return aligned(rows, left=1) + "\n\n" + aligned([["operator", *heads[1:]], *lines], left=1)


def _row(name: str, found: list[Outcome]) -> list[str]:
    counts = [sum(o.result == kind for o in found) for kind in ("passed", "crashed", "hung")]
    return [name, str(counts[0]), str(len(found)), str(counts[1]), str(counts[2])]


def write_json(path: Path, known: Mapping[str, Case], outcomes: Mapping[str, Outcome]) -> None:
    """One entry per case, sorted by name."""
    entries = [
        {**asdict(outcomes[name]), "group": known[name].group, "operator": known[name].operator}
        for name in sorted(outcomes)
    ]
    path.write_text(json.dumps({"onnx": onnx.__version__, "cases": entries}, indent=1) + "\n", "utf-8")


def read_baseline(path: Path) -> tuple[str, set[str]]:
    """The version of onnx that a baseline is about, and the cases that pass; nothing if there is no file."""
    if not path.exists():
        return onnx.__version__, set()
    lines = path.read_text("utf-8").split()
    return lines[0].removeprefix("onnx=="), set(lines[1:])


def write_baseline(path: Path, passing: set[str]) -> None:
    """A line with onnx's version, then a case a line."""
    path.write_text("\n".join([f"onnx=={onnx.__version__}", *sorted(passing)]) + "\n", "utf-8")
