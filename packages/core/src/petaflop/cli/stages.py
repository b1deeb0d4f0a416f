"""Every stage of what a profile recorded, as titled text: graph, kernels, plan, loops, source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from petaflop import debug
from petaflop.graph.node import Node, toposort
from petaflop.profile import CompileRecord, Profile, ScheduleRecord

__all__ = ["Section", "Stage", "graph_text", "sections"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of one kernel (or a graph) as text."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """A graph, or one kernel with all that became of it."""

    title: str
    note: str
    level: int
    stages: tuple[Stage, ...]


def graph_text(roots: Sequence[Node]) -> str:
    """The nodes that computing `roots` visits, each on a line, sources before users."""
    names: dict[Node, str] = {}
    lines = []
    for node in toposort(roots):
        names[node] = name = f"%{len(names)}"
        if node.buffer is not None:
            text = "memory"
        else:
            arg = "" if node.arg is None else f"[{_argument(node.arg)}]"
            sources = ", ".join(names[source] for source in node.sources)
            text = f"{node.op}{arg}({sources})"
        shape = ", ".join(map(str, node.shape))
        lines.append(f"{name} = {text} : {node.dtype}[{shape}]")
    lines.append(f"return {', '.join(names[root] for root in roots)}")
    return "\n".join(lines)


def _argument(arg: Any) -> str:
    if isinstance(arg, tuple):
        return ", ".join(map(str, arg))
    return str(arg)


def sections(profile: Profile, assembly: bool = False) -> Iterator[Section]:
    """The graphs in the order in which they were first scheduled, each followed by its new kernels."""
    compiled = {record.kernel.key: record for record in profile.compiles}
    seen: set[str] = set()
    for number, (record, times) in enumerate(_first_schedules(profile.schedules), 1):
        steps = record.schedule.steps
        repeated = f"; {times - 1} more times from the cache" if times > 1 else ""
        where = f" for {record.line}" if record.line else ""
        title = f"schedule {number}: {len(steps)} kernel{'s' if len(steps) != 1 else ''}{where}"
        note = f"scheduled and compiled in {record.seconds * 1e3:.2f} ms{repeated}"
        yield Section(title, note, 1, (Stage("graph", record.graph),))
        for position, step in enumerate(steps, 1):
            made = compiled.get(step.kernel.key)
            name = made.name if made is not None else "kernel"
            title = f"kernel {position} of {len(steps)}: {name}"
            note = f"why it ends here: {step.reason}"
            if step.kernel.key in seen:
                yield Section(title, f"{note}; the same kernel as before", 2, ())
            else:
                seen.add(step.kernel.key)
                yield Section(title, note, 2, (Stage("kernel", str(step.kernel)), *_stages(made, assembly)))


def _first_schedules(records: Sequence[ScheduleRecord]) -> list[tuple[ScheduleRecord, int]]:
    groups: dict[int, list[ScheduleRecord]] = {}
    for record in records:
        groups.setdefault(id(record.schedule), []).append(record)
    return [(group[0], len(group)) for group in groups.values()]


def _stages(record: CompileRecord | None, assembly: bool) -> Iterator[Stage]:
    if record is None:
        return
    yield Stage("compile times", debug.stages(record))
    for title, content in (("plan", record.plan), ("loops", record.loops), ("source", record.source)):
        if content:
            yield Stage(title, str(content))
    if assembly and record.assembly is not None and (text := record.assembly()):
        yield Stage("assembly", text)
    if record.loops is None:
        yield Stage("loops", f"none: {record.backend} interprets kernels")
