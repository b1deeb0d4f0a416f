"""Which plan a kernel gets: rules over the Kernel and the Target, never over the name of a device or a model."""

from __future__ import annotations

from petaflop.ir.kernel import Kernel
from petaflop.ir.plan import Nest, Plan
from petaflop.ir.target import Target

__all__ = ["default_plan", "naive_plan"]


def naive_plan(kernel: Kernel) -> Plan:
    """The kernel as it is written, one task, one element at a time: always right, and the check of every other plan."""
    nests = []
    number = 0
    for blocks in kernel.nests:
        nests.append(Nest(tuple(range(number, number + len(blocks)))))
        number += len(blocks)
    return Plan("naive", tuple(nests))


def default_plan(kernel: Kernel, target: Target) -> Plan:
    """The plan that the cost model chooses for `target`."""
    return naive_plan(kernel)
