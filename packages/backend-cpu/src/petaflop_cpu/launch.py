"""Launches and captures: what a loaded kernel needs at run time, packed as records for the native runner.

A launch costs one `struct.pack` and one native call. A capture is the records of many launches, made once; a
replay packs addresses, values and task counts into one table, which native code spreads over the records.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from petaflop.plugin_api import Signature
from petaflop_cpu.jit import Library
from petaflop_cpu.mathlib import SIN_HUGE
from petaflop_cpu.memory import size_class
from petaflop_cpu.runner import CONTROL_WORDS, HEADER_WORDS

if TYPE_CHECKING:
    from petaflop_cpu.backend import CpuBackend

__all__ = ["CpuLaunch", "CpuReplay"]

Locations = Sequence[tuple[int, int]]  # an address and an offset for each buffer


class CpuLaunch:
    """A loaded kernel. A call packs one record (see runner.py) and hands it to the team."""

    __slots__ = ("_backend", "_functions", "_library", "_pack", "_prefix", "shared", "signature")

    def __init__(self, backend: CpuBackend, binary: bytes, signature: Signature) -> None:
        entries = [phase.entry for phase in signature.phases]
        imports = {SIN_HUGE: backend.runtime[SIN_HUGE]} if SIN_HUGE.encode() in binary else {}
        self._backend = backend
        self._library = Library(binary, entries, imports)
        self._functions = [self._library[entry] for entry in entries]
        self.signature = signature
        self.shared = (backend.working_memory("shared", signature.shared),) if signature.shared else ()
        words = len(signature.arguments) + len(self.shared) + len(signature.variables)
        self._pack = struct.Struct(f"{words}q").pack
        self._prefix = b"" if self.sized else struct.pack(f"{self.buffers_place}q", *self.head(()))

    def __call__(self, buffers: Locations, variables: Sequence[int]) -> None:
        prefix = self._prefix or struct.pack(f"{self.buffers_place}q", *self.head(variables))
        addresses = [handle + offset for handle, offset in buffers]
        self._backend.team.run(prefix + self._pack(*addresses, *self.shared, *variables), 1)

    @property
    def sized(self) -> bool:
        """Whether the number of tasks depends on the variables."""
        return not all(isinstance(phase.tasks, int) for phase in self.signature.phases)

    @property
    def buffers_place(self) -> int:
        """Where in the record the buffers begin."""
        return HEADER_WORDS + 2 * len(self._functions)

    def head(self, variables: Sequence[int]) -> list[int]:
        """The record up to the buffers."""
        signature = self.signature
        stride = size_class(signature.scratch) if signature.scratch else 0
        scratch = self._backend.working_memory("scratch", stride, self._backend.slots)
        buffers = len(signature.arguments) + len(self.shared)
        head = [len(self._functions), buffers, len(signature.variables), scratch, stride]
        tasks = signature.tasks(variables) if self.sized else [phase.tasks for phase in signature.phases]
        for pair in zip(self._functions, tasks, strict=True):
            head += pair
        return head


class CpuReplay:
    """`replay(buffers, variables)` runs all captured launches in one native call.

    Each launch comes with the positions of its buffers and variables in the lists that every replay gives.
    The table that a replay packs is those two lists, then the numbers of tasks that depend on variables.
    """

    __slots__ = ("_backend", "_launches", "_layout", "_sized", "_tasks", "_words")

    def __init__(
        self, backend: CpuBackend, launches: Sequence[tuple[CpuLaunch, Sequence[int], Sequence[int]]]
    ) -> None:
        self._backend = backend
        self._launches = tuple(launches)
        self._sized = [(launch, variables) for launch, _, variables in launches if launch.sized]
        self._tasks: tuple[tuple[int, ...], list[int]] = ((), [])
        self._layout: _Layout | None = None
        words: list[int] = []
        for launch, slots, variables in launches:
            words += launch.head([1] * len(variables))
            words += [0] * len(slots) + list(launch.shared) + [0] * len(variables)
        self._words = (ctypes.c_int64 * len(words))(*words)

    def __call__(self, buffers: Locations, variables: Sequence[int]) -> None:
        layout = self._layout
        if layout is None or layout.buffers != len(buffers) or layout.variables != len(variables):
            layout = self._layout = self._lay_out(len(buffers), len(variables))
        table = [handle + offset for handle, offset in buffers]
        if variables:
            table += variables
        if self._sized:
            table += self._count(tuple(variables))
        self._backend.team.replay(layout.pack(*table))

    def _count(self, values: tuple[int, ...]) -> list[int]:
        """Tasks of the phases of all sized launches; remembered for the values of the last replay."""
        known, tasks = self._tasks
        if known != values:
            tasks = []
            for launch, variables in self._sized:
                tasks += launch.signature.tasks([values[number] for number in variables])
            self._tasks = (values, tasks)
        return tasks

    def _lay_out(self, buffers: int, variables: int) -> _Layout:
        """How to pack the table, and (word of the records, entry of the table) for each word to fill in."""
        places: list[int] = []
        start, next_task = 0, buffers + variables
        for launch, slots, numbers in self._launches:
            if launch.sized:
                for phase in range(len(launch.signature.phases)):
                    places += (start + HEADER_WORDS + 2 * phase + 1, next_task)
                    next_task += 1
            start += launch.buffers_place
            for slot in slots:
                places += (start, slot)
                start += 1
            start += len(launch.shared)
            for number in numbers:
                places += (start, buffers + number)
                start += 1
        words = (ctypes.c_int64 * len(places))(*places)
        head = (ctypes.addressof(self._words), len(self._launches), ctypes.addressof(words), len(places) // 2)
        assert len(head) == CONTROL_WORDS
        pack = struct.Struct(f"{CONTROL_WORDS + next_task}q").pack
        return _Layout(buffers, variables, functools.partial(pack, *head), words)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a replay of so many buffers and variables hands its table over; `keep` holds what is pointed at.

    Each call packs bytes of its own: a signal handler may replay the same launches just before they run.
    """

    buffers: int
    variables: int
    pack: Callable[..., bytes]
    keep: Any
