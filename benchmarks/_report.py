"""Rows and bars of a group as a table, a JSON file and a chart; nothing is measured here."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = [
    "Bar",
    "Group",
    "Mean",
    "Row",
    "asked",
    "means",
    "number",
    "read_groups",
    "scaling",
    "show",
    "show_totals",
    "verdict",
    "write",
]

_SHOWN = ("petaflop", "torch", "onnxruntime", "tinygrad", "numpy", "llvmlite")


@dataclass(frozen=True)
class Bar:
    """What the rows of a kind are held to: each of them, and their geometric mean; None where they are
    reported only.

    What is held is the best peer's time over ours. With `of="bandwidth"` it is our share of the measured
    bandwidth instead, and rows that stream are also held to the share `stream` of it. `peers` names the
    ones that count where not all do.
    """

    row: float | None
    mean: float | None
    of: str = "peers"
    stream: float | None = None
    peers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """What a case took, in `unit`: us, and every peer. `ratio` is the best peer's over ours.

    `floor` is the least that the machine allows, `binds` what sets it. A row that failed has only `failure`.
    """

    name: str
    kind: str
    threads: int
    ours: float = 0.0
    peers: Mapping[str, float] = field(default_factory=dict)
    floor: float = 0.0
    binds: str = ""
    rate: str = ""
    error: float | None = None
    streams: bool = False
    unit: str = "ms"
    failure: str = ""

    def counted(self, bar: Bar) -> dict[str, float]:
        """What the peers took that count."""
        return {name: taken for name, taken in self.peers.items() if not bar.peers or name in bar.peers}

    def ratio(self, bar: Bar) -> float | None:
        """The best of the peers that count over ours."""
        counted = self.counted(bar).values()
        return min(counted) / self.ours if counted and self.ours else None

    @property
    def share(self) -> float | None:
        """Our part of the ceiling."""
        return self.floor / self.ours if self.floor and self.ours else None

    def score(self, bar: Bar) -> float | None:
        """The number that `bar` holds."""
        return self.share if bar.of == "bandwidth" else self.ratio(bar)

    def held(self, bar: Bar) -> bool | None:
        """Whether the row reaches its bar; None where there is none."""
        if self.failure:
            return False
        score, share = self.score(bar), self.share
        asked = [(score, bar.row)] if bar.row is not None else []
        asked += [(share, bar.stream)] if bar.stream is not None and self.streams else []
        return all(got is not None and got >= least for got, least in asked) if asked else None


@dataclass(frozen=True)
class Group:
    """All rows of one script, with the bars of their kinds and the ceilings by number of threads."""

    name: str
    bars: Mapping[str, Bar]
    rows: Sequence[Row]
    ceilings: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mean:
    """The geometric mean of a kind's scores at a number of threads."""

    kind: str
    threads: int
    value: float
    bar: float | None

    @property
    def held(self) -> bool | None:
        """Whether it reaches its bar."""
        return None if self.bar is None else self.value >= self.bar


def means(group: Group) -> list[Mean]:
    """One for each kind and number of threads that has scores."""
    found = []
    for kind, bar in group.bars.items():
        for threads in sorted({row.threads for row in group.rows}):
            rows = [row for row in group.rows if (row.kind, row.threads) == (kind, threads)]
            scores = [score for row in rows if (score := row.score(bar))]
            if scores:
                found.append(Mean(kind, threads, statistics.geometric_mean(scores), bar.mean))
    return found


def scaling(rows: Iterable[Row]) -> list[tuple[str, float]]:
    """(name, time on one thread over time on two) of the rows that arithmetic binds."""
    times = {(row.name, row.threads): row for row in rows if row.binds == "compute" and row.ours}
    pairs = [(name, row, times.get((name, 2))) for (name, threads), row in times.items() if threads == 1]
    return [(name, one.ours / two.ours) for name, one, two in pairs if two is not None]


def number(value: float | None, places: int = 2) -> str:
    """A cell, empty for None."""
    return "" if value is None else f"{value:.{places}f}"


def verdict(held: bool | None) -> str:
    """As it stands in a table."""
    return {True: "held", False: "NO", None: "-"}[held]


def asked(bar: Bar) -> str:
    """What a bar asks of a row."""
    parts = [number(bar.row)] if bar.row is not None else []
    parts += [f"{bar.stream:.2f} of memory"] if bar.stream is not None else []
    return ", ".join(parts)


def cells(row: Row, bar: Bar, peers: Sequence[str]) -> list[str]:
    """The row of a table with a column for each of `peers`."""
    taken = [number(row.peers.get(name), 3) for name in peers]
    share = f"{row.share:.0%} {row.binds}" if row.share is not None else ""
    error = row.failure or ("" if row.error is None else f"{row.error:.0e}")
    ours = [row.name, str(row.threads), row.unit, number(row.ours, 3) if row.ours else ""]
    return [*ours, *taken, number(row.score(bar)), asked(bar), verdict(row.held(bar)), row.rate, share, error]


def columns(peers: Sequence[str]) -> list[str]:
    """The heads that belong to `cells`."""
    return [
        "row",
        "threads",
        "unit",
        "petaflop",
        *peers,
        "score",
        "bar",
        "held",
        "rate",
        "of ceiling",
        "error",
    ]


def peers_of(rows: Iterable[Row]) -> list[str]:
    """The names of all peers, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row.peers))


def show(group: Group, rows: Sequence[Row], console: Console) -> None:
    """Print these rows of a group, and what they come to."""
    names = peers_of(rows)
    table = Table(*columns(names), title=group.name)
    for row in rows:
        table.add_row(*cells(row, group.bars[row.kind], names))
    console.print(table)


def show_totals(group: Group, console: Console) -> None:
    """Print the geometric means, the scaling and the ceilings of a group."""
    table = Table("kind", "threads", "geometric mean", "bar", "held", title=f"{group.name}, all in all")
    for mean in means(group):
        cell = (number(mean.value), number(mean.bar), verdict(mean.held))
        table.add_row(mean.kind, str(mean.threads), *cell)
    console.print(table)
    scaled = scaling(group.rows)
    if scaled:
        name, least = min(scaled, key=lambda pair: pair[1])
        mean_ = statistics.geometric_mean(value for _, value in scaled)
        console.print(f"from one thread to two: {mean_:.2f}x, least {least:.2f}x ({name}); asked: 1.8x")
    for threads, text in group.ceilings.items():
        console.print(f"ceilings on {threads} thread{'s' if threads > 1 else ''}, {text}")


def machine() -> dict[str, Any]:
    """What the figures were measured on, and with which versions."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
    versions = {}
    for name in _SHOWN:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    processor = found[1] if found else platform.processor()
    return {"processor": processor, "cores": len(os.sched_getaffinity(0)), "versions": versions}


def write(folder: Path, group: Group) -> None:
    """`NAME.json` and `NAME.png` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"group": group.name, "machine": machine(), "ceilings": group.ceilings}
    record["bars"] = {kind: asdict(bar) for kind, bar in group.bars.items()}
    record["rows"] = [asdict(row) for row in group.rows]
    (folder / f"{group.name}.json").write_text(json.dumps(record, indent=1), "utf-8")
    draw(folder / f"{group.name}.png", group)


def read_groups(folder: Path) -> list[Group]:
    """What `write` left there."""
    groups = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        if "bars" not in record:
            continue
        bars = {kind: Bar(**bar | {"peers": tuple(bar["peers"])}) for kind, bar in record["bars"].items()}
        ceilings = {int(threads): text for threads, text in record["ceilings"].items()}
        groups.append(Group(record["group"], bars, [Row(**row) for row in record["rows"]], ceilings))
    return groups


def draw(path: Path, group: Group) -> None:
    """Speeds as multiples of the best peer's: ours and each peer's as bars, the ceiling as a mark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in group.rows if row.ours and row.peers]
    if not rows:
        return
    sides = ["petaflop", *peers_of(rows)]
    high = 0.8 / len(sides)
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.16 * len(rows) * (len(sides) + 1)))
    for number, side in enumerate(sides):
        places = [place + high * number for place in range(len(rows))]
        speeds = [_speed(row, row.ours if side == "petaflop" else row.peers.get(side)) for row in rows]
        axes.barh(places, speeds, height=high, label=side)
    marks = [(place + 0.4 - high / 2, _speed(row, row.floor)) for place, row in enumerate(rows) if row.floor]
    if marks:
        axes.plot(
            [at for _, at in marks], [place for place, _ in marks], "k|", markersize=12, label="ceiling"
        )
    axes.set_yticks([place + 0.4 - high / 2 for place in range(len(rows))])
    axes.set_yticklabels([f"{row.name} · {row.threads}" for row in rows], fontsize=7)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(y=0.005)
    axes.invert_yaxis()
    axes.legend(loc="lower right", fontsize=7)
    axes.set_xlabel(f"{group.name}: speed, the best peer being 1; row · threads")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _speed(row: Row, taken: float | None) -> float:
    return min(row.peers.values()) / taken if taken else 0.0
