"""What the scheduler hands to the driver: memory slots, and the kernels to launch on them in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from petaflop.dtype import DType
from petaflop.graph.symbolic import Dim, Expr, product
from petaflop.ir.kernel import Kernel

__all__ = ["Schedule", "Slot", "Step"]


@dataclass(frozen=True, slots=True)
class Slot:
    """Memory that steps name by its position in `Schedule.slots`.

    `node` is the position, in the walk that was scheduled, of the node whose value the slot holds: its buffer
    exists already if `given`, and is set afterwards if `kept`; everything else is temporary. A slot with a
    `base` is the memory of that slot under another dtype and shape, or overwritten in place.
    """

    dtype: DType
    shape: tuple[Dim, ...]
    node: int
    given: bool = False
    kept: bool = False
    base: int | None = None
    size: Dim = field(init=False, compare=False)  # in bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", product((*self.shape, self.dtype.itemsize)))


@dataclass(frozen=True, slots=True)
class Step:
    """One launch: the kernel, the slot of each of its arguments, and why it ends where it does."""

    kernel: Kernel
    slots: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """Launches in order. `variables` are the symbolic sizes that the launches need."""

    slots: tuple[Slot, ...]
    steps: tuple[Step, ...]
    variables: tuple[Expr, ...] = ()

    def __str__(self) -> str:
        lines = []
        for number, step in enumerate(self.steps):
            lines.append(f"# kernel {number}: {step.reason}")
            lines.append(f"# on slots {', '.join(map(str, step.slots))}")
            lines.append(str(step.kernel))
        return "\n".join(lines)
