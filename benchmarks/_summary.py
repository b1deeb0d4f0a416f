"""One table of all groups that were measured: `_summary.py FOLDER` reads the JSON files there, prints every
row with its bar and whether it is held, and the geometric means, and writes summary.md and summary.json.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from _report import Group, asked, means, number, read_groups, scaling, verdict
from rich.console import Console
from rich.table import Table

ROWS = ("group", "row", "threads", "petaflop", "best peer", "score", "bar", "held", "of ceiling", "error")
MEANS = ("group", "kind", "threads", "geometric mean", "bar", "held")
SCALES = ("group", "from one thread to two", "least", "asked", "held")
ASKED_SCALE = 1.8


def rows_of(groups: Sequence[Group]) -> Iterator[list[str]]:
    """A line for each row of each group."""
    for group in groups:
        for row in group.rows:
            bar = group.bars[row.kind]
            best = min(row.counted(bar).items(), key=lambda item: item[1], default=None)
            peer = f"{best[1]:.3f} {best[0]}" if best else ""
            share = f"{row.share:.0%} {row.binds}" if row.share is not None else ""
            ours = f"{row.ours:.3f} {row.unit}" if row.ours else ""
            error = row.failure or ("" if row.error is None else f"{row.error:.0e}")
            start = [group.name, row.name, str(row.threads), ours, peer]
            yield [*start, number(row.score(bar)), asked(bar), verdict(row.held(bar)), share, error]


def means_of(groups: Sequence[Group]) -> Iterator[list[str]]:
    """A line for each geometric mean."""
    for group in groups:
        for mean in means(group):
            cells = [number(mean.value), number(mean.bar), verdict(mean.held)]
            yield [group.name, mean.kind, str(mean.threads), *cells]


def scales_of(groups: Sequence[Group]) -> Iterator[list[str]]:
    """A line for each group with rows that arithmetic binds."""
    for group in groups:
        found = scaling(group.rows)
        if found:
            name, least = min(found, key=lambda pair: pair[1])
            mean = statistics.geometric_mean(value for _, value in found)
            held = verdict(least >= ASKED_SCALE)
            yield [group.name, f"{mean:.2f}", f"{least:.2f} ({name})", f"{ASKED_SCALE}", held]


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |\n" for row in rows)


def main() -> None:
    folder = Path(sys.argv[1])
    groups = read_groups(folder)
    if not groups:
        raise SystemExit(f"{folder}: expected JSON files of benchmarks, got none")
    tables = {
        "Rows": (ROWS, list(rows_of(groups))),
        "Geometric means": (MEANS, list(means_of(groups))),
        "Scaling of the rows that arithmetic binds": (SCALES, list(scales_of(groups))),
    }
    console, text = Console(width=180), ""
    for title, (heads, lines) in tables.items():
        table = Table(*heads, title=title)
        for line in lines:
            table.add_row(*line)
        console.print(table)
        text += f"## {title}\n\n{markdown(heads, lines)}\n"
    counts = {word: sum(line[7] == word for line in tables["Rows"][1]) for word in ("held", "NO")}
    console.print(f"rows: {counts['held']} held, {counts['NO']} not")
    (folder / "summary.md").write_text(text, "utf-8")
    record = {
        title: [dict(zip(heads, line, strict=True)) for line in lines]
        for title, (heads, lines) in tables.items()
    }
    (folder / "summary.json").write_text(json.dumps(record, indent=1), "utf-8")


if __name__ == "__main__":
    main()
