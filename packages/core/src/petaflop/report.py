"""Records as tables and as a Chrome trace."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petaflop.debug import rate
from petaflop.replacing import replacing

if TYPE_CHECKING:
    from petaflop.profile import CompileRecord, LaunchRecord, MemoryEvent

__all__ = ["Ceilings", "KernelTotal", "aligned", "kernel_table", "memory_table", "totals", "write_trace"]

_WIDEST = 72  # letters that say what built a kernel


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a machine was measured to do at best: operations and bytes per second."""

    operations: float
    bandwidth: float

    def __str__(self) -> str:
        return f"{self.operations / 1e9:.1f} GFLOP/s, {self.bandwidth / 1e9:.1f} GB/s"


@dataclass(slots=True)
class KernelTotal:
    """All launches of one kernel on one backend."""

    name: str
    backend: str
    kernel: Any
    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0
    operations: int = 0
    lines: dict[str, None] = field(default_factory=dict)  # that built it, each once, in order

    def floor(self, ceilings: Ceilings) -> tuple[float, str]:
        """The least seconds that the machine allows, and which limit that is."""
        compute, memory = self.operations / ceilings.operations, self.bytes / ceilings.bandwidth
        return (compute, "compute") if compute > memory else (memory, "memory")

    def share(self, ceilings: Ceilings) -> tuple[float, str]:
        """The least time that the machine allows over the time taken, and which limit that is."""
        floor, binds = self.floor(ceilings)
        return (floor / self.seconds if self.seconds > 0 else 0.0), binds


def totals(launches: Iterable[LaunchRecord]) -> list[KernelTotal]:
    """Launches added up by kernel and backend, the longest total first."""
    found: dict[tuple[str, str], KernelTotal] = {}
    for launch in launches:
        key = (launch.name, launch.backend)
        total = found.setdefault(key, KernelTotal(*key, launch.kernel))
        total.calls += 1
        total.seconds += launch.seconds
        total.bytes += launch.bytes
        total.operations += launch.operations
        total.lines.update(dict.fromkeys(launch.lines))
    return sorted(found.values(), key=lambda total: -total.seconds)


def kernel_table(kernels: Sequence[KernelTotal], ceilings: Ceilings | None = None) -> str:
    """One line per kernel, and their sum; with what built each where that is known."""
    heads = ["kernel", "device", "calls", "ms", "time", "us/call", "GFLOP/s", "GB/s"]
    heads += ["ceiling", "bound by"] if ceilings is not None else []
    seconds = sum(kernel.seconds for kernel in kernels)
    rows = [_kernel_row(kernel, seconds, ceilings) for kernel in kernels]
    rows.append(_sum_row(kernels, seconds, ceilings))
    named = any(kernel.lines for kernel in kernels)
    if named:
        heads.append("built at")
        rows = [[*row, text] for row, text in zip(rows, [*map(_built_at, kernels), ""], strict=True)]
    return aligned([heads, *rows], left=2, tail=int(named))


def _sum_row(kernels: Sequence[KernelTotal], seconds: float, ceilings: Ceilings | None) -> list[str]:
    """What all kernels took and moved, and the part of it that the machine needs at best."""
    row = ["in all", "", str(sum(kernel.calls for kernel in kernels)), f"{seconds * 1e3:.3f}"]
    row += ["100.0%" if seconds else "", ""]
    amounts = (sum(kernel.operations for kernel in kernels), sum(kernel.bytes for kernel in kernels))
    row += [f"{rate(amount, seconds):.2f}" for amount in amounts]
    if ceilings is not None:
        least = sum(kernel.floor(ceilings)[0] for kernel in kernels)
        row += [f"{100 * least / seconds:.0f}%" if seconds else "", ""]
    return row


def _built_at(kernel: KernelTotal) -> str:
    """The first and the last of a kernel's lines, without the folders of their files."""
    lines = [re.sub(r"^.*/([^/:]+:\d+: )", r"\1", line) for line in kernel.lines]
    ends = lines if len(lines) < 2 else [lines[0], lines[-1]]
    cut = _WIDEST // max(len(ends), 1)
    return " … ".join(line if len(line) <= cut else f"{line[: cut - 1]}…" for line in ends)


def _kernel_row(kernel: KernelTotal, seconds: float, ceilings: Ceilings | None) -> list[str]:
    row = [
        kernel.name,
        kernel.backend,
        str(kernel.calls),
        f"{kernel.seconds * 1e3:.3f}",
        f"{100 * kernel.seconds / seconds if seconds else 0:.1f}%",
        f"{kernel.seconds * 1e6 / kernel.calls:.1f}",
        f"{rate(kernel.operations, kernel.seconds):.2f}",
        f"{rate(kernel.bytes, kernel.seconds):.2f}",
    ]
    if ceilings is not None:
        share, binds = kernel.share(ceilings)
        row += [f"{100 * share:.0f}%", binds]
    return row


def memory_table(events: Sequence[MemoryEvent]) -> str:
    """The peak over `events`, and what was alive at it, the largest first."""
    peak, alive = _peak(events)
    groups: dict[tuple[str, str], tuple[int, int]] = {}
    for text, line, size in alive:
        count, total = groups.get((text, line), (0, 0))
        groups[text, line] = (count + 1, total + size)
    rows = [["memory", "tensors", "tensor", "line"]]
    for (text, line), (count, total) in sorted(groups.items(), key=lambda item: -item[1][1]):
        rows.append([_bytes(total), str(count), text or "(unnamed)", line])
    return f"peak memory {_bytes(peak)}\n" + aligned(rows, left=0, tail=2)


def _bytes(count: float) -> str:
    """A size for people."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"


def _peak(events: Sequence[MemoryEvent]) -> tuple[int, list[tuple[str, str, int]]]:
    """The most bytes alive at once, and the (text, line, size) of each allocation alive then."""
    peak = used = 0
    best = -1
    sizes: dict[int, int] = {}
    for position, event in enumerate(events):
        if event.size > 0:
            sizes[event.identity] = event.size
            used += event.size
        elif event.size < 0:
            used -= sizes.pop(event.identity, 0)  # 0: taken before the profile began
        if used > peak:
            peak, best = used, position
    alive: dict[int, tuple[str, str, int]] = {}
    for event in events[: best + 1]:
        if event.size > 0:
            alive[event.identity] = ("", event.text, event.size)
        elif event.size < 0:
            alive.pop(event.identity, None)
    for event in events:  # names may come after the peak
        if event.size == 0 and event.identity in alive and not alive[event.identity][0]:
            _, line, size = alive[event.identity]
            alive[event.identity] = (event.text, line, size)
    return peak, list(alive.values())


def aligned(rows: Sequence[Sequence[str]], left: int, tail: int = 0) -> str:
    """Columns: the first `left` and last `tail` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if position < left or position >= len(row) - tail else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def write_trace(
    path: Path,
    launches: Sequence[LaunchRecord],
    compiles: Sequence[CompileRecord],
    memory: Sequence[MemoryEvent],
) -> None:
    """Chrome's trace format: microseconds, events by thread, memory as a counter; written atomically."""
    events: list[dict[str, Any]] = [_launch_event(launch) for launch in launches]
    for compiled in compiles:
        events += _compile_events(compiled)
    used = 0
    for event in memory:
        used = max(used + event.size, 0)
        if event.size:
            events.append(_event("memory", "C", event.at, args={"bytes": used}))
    text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
    with replacing(path) as partial:
        partial.write_text(text)


def _event(name: str, phase: str, at: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "ph": phase, "ts": at * 1e6, "pid": os.getpid(), "tid": 0} | more


def _launch_event(launch: LaunchRecord) -> dict[str, Any]:
    args = {"kernel": str(launch.kernel), "bytes": launch.bytes, "operations": launch.operations}
    duration = launch.seconds * 1e6
    return _event(
        launch.name, "X", launch.started, dur=duration, cat=launch.backend, tid=launch.thread, args=args
    )


def _compile_events(record: CompileRecord) -> list[dict[str, Any]]:
    events, at = [], record.started
    for stage, seconds in record.stages.items():
        name = f"{stage} {record.name}"
        events.append(_event(name, "X", at, dur=seconds * 1e6, cat="compile", tid=1))
        at += seconds
    return events
