"""Which temporaries share memory: lifetimes in, byte offsets in one arena out."""

from __future__ import annotations

from collections.abc import Mapping

from petaflop.graph.symbolic import Expr, evaluate
from petaflop.ir.schedule import Schedule

__all__ = ["plan_memory", "planned"]

_ALIGNMENT = 128


Plan = tuple[dict[int, int], int]
_MOST_PLANS = 64  # kept of one schedule, for sizes that come again


def planned(plans: dict[tuple[int, ...], Plan], schedule: Schedule, variables: Mapping[Expr, int]) -> Plan:
    """`plan_memory` for these sizes, once for each of the latest."""
    key = tuple(variables.values())
    if key not in plans:
        plans[key] = plan_memory(schedule, variables)
        if len(plans) > _MOST_PLANS:
            del plans[next(iter(plans))]
    return plans[key]


def plan_memory(schedule: Schedule, variables: Mapping[Expr, int]) -> Plan:
    """Slot → offset of every temporary, and the size of the arena; slots alive at once never overlap.

    Greedy by size: the largest temporary first, each at the lowest offset that is free for its whole life.
    """
    lives: dict[int, list[int]] = {}
    for number, step in enumerate(schedule.steps):
        for slot in step.slots:
            while (base := schedule.slots[slot].base) is not None:
                slot = base
            if not (schedule.slots[slot].given or schedule.slots[slot].kept):
                lives.setdefault(slot, [number, number])[1] = number
    sizes = {slot: _aligned(evaluate(schedule.slots[slot].size, variables)) for slot in lives}
    offsets: dict[int, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    total = 0
    for slot in sorted(lives, key=lambda s: (-sizes[s], lives[s][0], s)):
        first, last = lives[slot]
        offset = 0
        for begin, end, begins, ends in sorted(placed):
            if begins <= last and first <= ends:
                if offset + sizes[slot] <= begin:
                    break
                offset = max(offset, end)
        offsets[slot] = offset
        placed.append((offset, offset + sizes[slot], first, last))
        total = max(total, offset + sizes[slot])
    return offsets, total


def _aligned(size: int) -> int:
    return -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
