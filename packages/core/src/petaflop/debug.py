"""What PETAFLOP_DEBUG prints, on stderr: 1 kernels, 2 timings, 3 plan and loops, 4 source, 5 assembly."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from petaflop.config import config

if TYPE_CHECKING:
    from petaflop.profile import CompileRecord, LaunchRecord

__all__ = ["rate", "show_compile", "show_launch", "stages"]


def show_compile(record: CompileRecord) -> None:
    """The kernel, and as many of its later stages as the level asks for."""
    origin = " (binary from the disk cache)" if record.cached else ""
    lines = [f"# {record.name} on {record.backend}{origin}", str(record.kernel)]
    if config.debug >= 2:
        lines.append(f"# compiled: {stages(record)}")
    for level, title, content in (
        (3, "plan", record.plan),
        (3, "loops", record.loops),
        (4, "source", record.source),
        (5, "assembly", record.assembly() if config.debug >= 5 and record.assembly is not None else None),
    ):
        if config.debug >= level and content:
            lines += [f"# {title} of {record.name}", str(content)]
    if config.debug >= 3 and record.cached and record.loops is None:
        lines.append("# its plan, loops and source were not made again; PETAFLOP_CACHE=0 shows them")
    _print("\n".join(lines))


def show_launch(record: LaunchRecord) -> None:
    """One line: time and rates."""
    gflops, gigabytes = rate(record.operations, record.seconds), rate(record.bytes, record.seconds)
    _print(
        f"# {record.name} on {record.backend}: {record.seconds * 1e6:.1f} us, "
        f"{gflops:.2f} GFLOP/s, {gigabytes:.2f} GB/s"
    )


def stages(record: CompileRecord) -> str:
    """Milliseconds by stage, and in all."""
    total = sum(record.stages.values()) * 1e3
    parts = ", ".join(f"{name} {seconds * 1e3:.2f}" for name, seconds in record.stages.items())
    return f"{parts}; {total:.2f} ms in all" if parts else "0.00 ms in all"


def rate(amount: float, seconds: float) -> float:
    """Thousand millions per second."""
    return amount / seconds / 1e9 if seconds > 0 else 0.0


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
