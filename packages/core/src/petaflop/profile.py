"""Records of what ran: kernels with time, bytes and operations; compiles by stage; memory by the user's line.

`recorders` is an empty tuple unless a profile is active, so being off costs the driver one attribute check.
All threads are recorded. The record functions also do the printing that PETAFLOP_DEBUG asks for. Tables are
made by report.py, imported when one is wanted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from petaflop import debug
from petaflop.config import config
from petaflop.errors import user_line

if TYPE_CHECKING:
    from petaflop.report import Ceilings, KernelTotal

__all__ = [
    "CompileRecord",
    "LaunchRecord",
    "MemoryEvent",
    "Profile",
    "ScheduleRecord",
    "clock",
    "profile",
    "record_allocation",
    "record_compile",
    "record_free",
    "record_launch",
    "record_schedule",
    "record_tensor",
    "user_line",
]

clock = time.perf_counter


class LaunchRecord(NamedTuple):
    """One launch: `seconds` from `started`, the bytes of its arguments, and its arithmetic operations.

    `lines` built what it computes, where a profile asked for them.
    """

    name: str
    kernel: Any
    backend: str
    started: float
    seconds: float
    bytes: int
    operations: int
    thread: int
    lines: tuple[str, ...] = ()


class CompileRecord(NamedTuple):
    """One kernel made ready to launch: seconds by stage; `cached` says that its binary came from the disk.

    `plan`, `loops` and `source` are None where there are none: an interpreting backend, or a cached binary.
    """

    name: str
    kernel: Any
    backend: str
    started: float
    stages: Mapping[str, float]
    cached: bool
    plan: Any = None
    loops: Any = None
    source: str | None = None
    assembly: Callable[[], str] | None = None


class ScheduleRecord(NamedTuple):
    """One schedule, its kernels made ready; `graph` and the user's `line` if the profile asked for them."""

    graph: str
    line: str
    schedule: Any
    seconds: float
    cached: bool


class MemoryEvent(NamedTuple):
    """Memory taken (`size` > 0), given back (< 0) or named (0)."""

    at: float
    identity: int
    size: int
    text: str


@dataclass(eq=False)
class Profile:
    """What ran while the block of `with profile() as p:` was active.

    `describe` turns the roots of a schedule into text; with it, records keep plans, loops and sources too.
    With `lines`, launches say which of the user's lines, or nodes of a model, built what they compute.
    """

    describe: Callable[[Sequence[Any]], str] | None = None
    lines: bool = False
    launches: list[LaunchRecord] = field(default_factory=list)
    compiles: list[CompileRecord] = field(default_factory=list)
    schedules: list[ScheduleRecord] = field(default_factory=list)
    memory: list[MemoryEvent] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set, repr=False)

    def __enter__(self) -> Profile:
        with _lock:
            _listen((*recorders, self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with _lock:
            _listen(tuple(each for each in recorders if each is not self))

    def is_new(self, schedule: Any) -> bool:
        """Whether this is asked for the first time of a schedule, which a record then keeps alive."""
        known = len(self._seen)
        self._seen.add(id(schedule))
        return len(self._seen) > known

    def kernels(self) -> list[KernelTotal]:
        """Launches added up by kernel and backend, the longest total first."""
        from petaflop import report

        return report.totals(self.launches)

    def table(self, ceilings: Ceilings | None = None) -> str:
        """The kernels as text; with `ceilings`, the share of what the machine can do and what binds."""
        from petaflop import report

        return report.kernel_table(self.kernels(), ceilings)

    def memory_table(self) -> str:
        """The peak of memory taken meanwhile, and what was alive then, by tensor and by the user's line."""
        from petaflop import report

        return report.memory_table(self.memory)

    def save_trace(self, path: str | Path) -> None:
        """Write a Chrome trace (chrome://tracing, ui.perfetto.dev) of compiles, launches and memory."""
        from petaflop import report

        report.write_trace(Path(path), self.launches, self.compiles, self.memory)


recorders: tuple[Profile, ...] = ()
naming = False  # whether a profile asks for lines: nodes then remember where they were built
observers: list[Callable[[CompileRecord], None]] = []
_lock = threading.Lock()


def _listen(profiles: tuple[Profile, ...]) -> None:
    global recorders, naming
    recorders, naming = profiles, any(each.lines for each in profiles)


def profile() -> Profile:
    """Record what runs in a block.

    >>> with profile() as p:
    ...     (Tensor.rand(64, 64) @ Tensor.rand(64, 64)).realize()
    >>> print(p.table())
    """
    return Profile()


# ---- what the driver calls ----


def record_launch(
    name: str,
    kernel: Any,
    backend: str,
    started: float,
    seconds: float,
    bytes: int,
    operations: int,
    lines: tuple[str, ...] = (),
) -> None:
    """A finished launch, which began at `started` of `clock()`."""
    thread = threading.get_ident()
    record = LaunchRecord(name, kernel, backend, started, seconds, bytes, operations, thread, lines)
    for recorder in recorders:
        recorder.launches.append(record)
    if config.debug >= 2:
        debug.show_launch(record)


def record_compile(
    name: str,
    kernel: Any,
    backend: str,
    stages: Mapping[str, float],
    cached: bool = False,
    plan: Any = None,
    loops: Any = None,
    source: str | None = None,
    assembly: Callable[[], str] | None = None,
) -> None:
    """A kernel that became ready to launch just now; costs three checks when nobody listens."""
    if not (recorders or observers or config.debug):
        return
    started = clock() - sum(stages.values())
    brief = CompileRecord(name, kernel, backend, started, dict(stages), cached)
    record = brief._replace(plan=plan, loops=loops, source=source, assembly=assembly)
    for recorder in recorders:
        recorder.compiles.append(record if recorder.describe is not None else brief)
    for observer in observers:
        observer(record)
    if config.debug >= 1:
        debug.show_compile(record)


def record_schedule(roots: Sequence[Any], schedule: Any, seconds: float, cached: bool = False) -> None:
    """A schedule, made or found in the cache, of the nodes `roots`."""
    for recorder in recorders:
        graph = line = ""
        if recorder.describe is not None and recorder.is_new(schedule):  # new to it, in the cache or not
            graph, line = recorder.describe(roots), user_line()
        recorder.schedules.append(ScheduleRecord(graph, line, schedule, seconds, cached))


def record_allocation(identity: int, size: int) -> None:
    """`size` bytes taken, on behalf of the user's current line."""
    _remember(MemoryEvent(clock(), identity, size, user_line()))


def record_tensor(identity: int, text: str) -> None:
    """What an allocation holds, such as "float32[64, 10]"."""
    _remember(MemoryEvent(clock(), identity, 0, text))


def record_free(identity: int, size: int) -> None:
    """`size` bytes given back."""
    _remember(MemoryEvent(clock(), identity, -size, ""))


def _remember(event: MemoryEvent) -> None:
    for recorder in recorders:
        recorder.memory.append(event)
