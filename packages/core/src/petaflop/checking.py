"""What PETAFLOP_CHECK asks for: `nan` looks at what each kernel wrote, `index` at indices before their use.

A kernel that was given a NaN may carry it and is passed over. Both checks say on which lines of the user's
code the operations were built, if that was while the variable was set.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from petaflop import profile
from petaflop.device.buffer import Buffer
from petaflop.dtype import DType
from petaflop.errors import IndexRangeError, NumericsError, user_line
from petaflop.graph.node import Node, origins, read_sources, toposort
from petaflop.graph.symbolic import Dim, evaluate

if TYPE_CHECKING:
    from petaflop.compiler import Program
    from petaflop.ir.schedule import Schedule

__all__ = [
    "Expected",
    "expect_indices",
    "holds_nan",
    "lines_of",
    "refuse_indices",
    "refuse_nan",
    "taken_indices",
]

_MOST_LINES = 4


# ---- nan ----


def _count_nan(dtype: DType, buffer: Buffer) -> int:
    data = np.empty(buffer.size // dtype.itemsize, dtype.numpy)
    buffer.read(data.view(np.uint8).data)
    return int(np.isnan(data).sum())


def holds_nan(program: Program, buffers: Sequence[Buffer], filled: Sequence[bool]) -> bool:
    """Whether a kernel is about to be given a NaN; what it writes counts where that memory is `filled`."""
    return any(
        argument.dtype.is_float and (full or not argument.written) and _count_nan(argument.dtype, buffer) > 0
        for argument, buffer, full in zip(program.kernel.arguments, buffers, filled, strict=True)
    )


def refuse_nan(program: Program, buffers: Sequence[Buffer], lines: Sequence[str]) -> None:
    """NumericsError if a kernel that was given no NaN has written one."""
    for argument, buffer in zip(program.kernel.arguments, buffers, strict=True):
        count = _count_nan(argument.dtype, buffer) if argument.written and argument.dtype.is_float else 0
        if count:
            built = f"; built at {'; '.join(lines)}" if lines else ""
            raise NumericsError(
                f"kernel {program.name}: expected no NaN in {argument.name} {list(argument.shape)}, "
                f"got {count} of {buffer.size // argument.dtype.itemsize}{built}; "
                f"asked for at {profile.user_line()}\n{program.kernel}"
            )


def lines_of(schedule: Schedule, order: Sequence[Node]) -> list[tuple[str, ...]]:
    """For each step the lines that built what it computes, earliest first; `order` is what was scheduled."""
    written = [
        [
            schedule.slots[slot].node
            for argument, slot in zip(step.kernel.arguments, step.slots, strict=True)
            if argument.written
        ]
        for step in schedule.steps
    ]
    stored = {order[node] for nodes in written for node in nodes}
    return [_lines([order[node] for node in nodes], stored) for nodes in written]


def _lines(roots: Sequence[Node], stored: set[Node]) -> tuple[str, ...]:
    """The lines of `roots` and of all below them that no other step has stored."""
    lines: list[str] = []
    seen: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node in seen or node.buffer is not None or (node in stored and node not in roots):
            continue
        seen.add(node)
        if (line := origins.get(node)) and line not in lines and node.sources:
            lines.append(line)
        stack.extend(read_sources(node))
    more = [f"{len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    return (*lines[:_MOST_LINES][::-1], *more)


# ---- index ----


class Expected(NamedTuple):
    """What an operation expects of an index tensor, and the line that built it."""

    name: str
    least: int
    size: Dim
    besides: int | None
    line: str


_expected: weakref.WeakKeyDictionary[Node, list[Expected]] = weakref.WeakKeyDictionary()


def expect_indices(name: str, index: Node, least: int, size: Dim, besides: int | None = None) -> None:
    """From the next computation with `index` on: IndexRangeError for a value that is neither `besides` nor in
    least..size-1."""
    _expected.setdefault(index, []).append(Expected(name, least, size, besides, user_line()))


def taken_indices(roots: Iterable[Node]) -> list[tuple[Node, list[Expected]]]:
    """The index tensors below `roots` with what is expected of them, each once, sources first."""
    return [(node, _expected.pop(node)) for node in toposort(list(roots)) if node in _expected]


def refuse_indices(values: np.ndarray[Any, Any], expectations: Iterable[Expected]) -> None:
    """IndexRangeError for the first value of an index tensor that is out of range."""
    for expected in expectations:
        size = evaluate(expected.size)
        wrong = (values < expected.least) | (values >= size)
        if expected.besides is not None:
            wrong &= values != expected.besides
        if wrong.any():
            place = [int(number) for number in np.argwhere(wrong)[0]]
            raise IndexRangeError(
                f"{expected.name}: expected {expected.least} <= index < {size}, "
                f"got {values[tuple(place)]} at {place}; built at {expected.line or 'an unknown line'}"
            )
