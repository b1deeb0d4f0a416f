"""Hand-written kernels and a backend for the tests of this package."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from petaflop.ir.loops import PhaseSignature, Signature
from petaflop_cpu.backend import CpuBackend
from petaflop_cpu.launch import CpuLaunch

# buffers[0][task] += variables[0], as a 64-bit integer, for each task of the range
ADD = """
define void @add(ptr %buffers, ptr %variables, ptr %scratch, i64 %first, i64 %last) {
entry:
  %counts = load ptr, ptr %buffers
  %step = load i64, ptr %variables
  br label %head
head:
  %task = phi i64 [%first, %entry], [%next, %body]
  %more = icmp slt i64 %task, %last
  br i1 %more, label %body, label %leave
body:
  %at = getelementptr i64, ptr %counts, i64 %task
  %old = atomicrmw add ptr %at, i64 %step monotonic
  %next = add i64 %task, 1
  br label %head
leave:
  ret void
}
"""


@functools.cache
def backend() -> CpuBackend:
    return CpuBackend()


def load_add(tasks: Sequence[Any] = (1,), on: CpuBackend | None = None, **memory: int) -> CpuLaunch:
    """The kernel above with one phase for each number of tasks."""
    on = on or backend()
    phases = tuple(PhaseSignature("add", count) for count in tasks)
    return on.load(on.compile(ADD), Signature("add", phases, ("counts",), ("step",), **memory))


class Counts:
    """A buffer of zeros, 64-bit integers."""

    def __init__(self, length: int, on: CpuBackend | None = None) -> None:
        self.backend = on or backend()
        self.handle = self.backend.allocate(8 * length)
        self.values = np.frombuffer(self.backend.host_view(self.handle, 0, 8 * length), np.int64)
        self.values[:] = 0

    def __del__(self) -> None:
        self.backend.free(self.handle)
