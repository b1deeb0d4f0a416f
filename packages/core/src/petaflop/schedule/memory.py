"""Which temporaries share memory: lifetimes in, byte offsets in one arena out."""

from __future__ import annotations

from collections.abc import Mapping

from petaflop.config import config
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr, evaluate, is_constant
from petaflop.ir.schedule import Schedule

__all__ = ["Plans", "plan_memory"]

_ALIGNMENT = 128


Plan = tuple[dict[int, int], int]
_MOST_PLANS = 64  # kept of one schedule, for sizes that come again


class Plans:
    """The memory plans of a schedule for the sizes that came lately."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._plans: dict[tuple[int, ...], Plan] = {}
        temporary = (slot.size for slot in schedule.slots if not slot.given and not slot.kept)
        self._elastic = all(_grows(size) for size in temporary)

    def room(self, variables: Mapping[Expr, int]) -> Mapping[Expr, int]:
        """The sizes to make room for: somewhat larger ones, so that temporaries stay where they are while a
        size grows step by step; the same where a temporary would be smaller then, or a check reads it all."""
        if config.check or not self._elastic:
            return variables
        return {variable: _rounded_up(size) for variable, size in variables.items()}

    def __call__(self, room: Mapping[Expr, int]) -> Plan:
        key = tuple(room.values())
        if key not in self._plans:
            self._plans[key] = plan_memory(self._schedule, room)
            if len(self._plans) > _MOST_PLANS:
                del self._plans[next(iter(self._plans))]
        return self._plans[key]


def _grows(size: Dim) -> bool:
    """Whether a size never falls where a Variable rises."""
    if isinstance(size, int) or size.op in (Op.CONST, Op.VAR):
        return True
    if size.op is Op.MUL and is_constant(size.args[1]):
        return size.args[1].arg >= 0 and _grows(size.args[0])
    divided = size.op is Op.DIV and is_constant(size.args[1])
    multiplied = size.op is Op.MUL and min(arg.lo for arg in size.args) >= 0
    return (size.op is Op.ADD or divided or multiplied) and all(map(_grows, size.args))


def _rounded_up(size: int) -> int:
    """By less than a quarter."""
    step = max(1, (1 << size.bit_length()) >> 3)
    return -(-size // step) * step


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
