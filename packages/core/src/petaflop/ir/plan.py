"""How a kernel becomes loops, as data: a Plan never changes what is computed.

A plan groups the kernel's blocks into nests; the directives of a nest say how its axes are joined, cut into levels
and bound. Axes are named as in the kernel; a directive holds for every block of the nest that has the axis.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["BINDS", "Fuse", "Nest", "Plan", "Split", "SplitReduce", "Stage"]

BINDS = ("thread", "serial", "block", "unroll", "vector")


@dataclass(frozen=True, slots=True)
class Fuse:
    """Neighbouring axes become one axis `into` of the product's size, the first of them outermost."""

    axes: tuple[str, ...]
    into: str

    def __str__(self) -> str:
        return f"fuse {' * '.join(self.axes)} -> {self.into}"


@dataclass(frozen=True, slots=True)
class Split:
    """Cut `axis` into levels, outermost first; `levels` are (bind, size of one step of that level).

    "thread" steps are tasks; "serial" steps are a loop; a "block" step of a reduce axis folds into a partial result of
    its own, which bounds the rounding error; "unroll" and "vector" steps stand innermost, below every reduce loop, and
    keep their results in registers. `edge` says what happens to a last step that is not full: "peel" runs it one by
    one, "mask" runs it in full with what lies outside switched off.
    """

    axis: str
    levels: tuple[tuple[str, int], ...]
    edge: str = "peel"

    def __str__(self) -> str:
        return f"split {self.axis}: {', '.join(f'{bind} {size}' for bind, size in self.levels)}; {self.edge}"


@dataclass(frozen=True, slots=True)
class SplitReduce:
    """Cut a reduce axis of `block` into runs of `size`, folded apart and then merged, in another phase."""

    block: int
    axis: str
    size: int

    def __str__(self) -> str:
        return f"split_reduce block {self.block}: {self.axis} by {self.size}"


@dataclass(frozen=True, slots=True)
class Stage:
    """Copy an operand of a contraction into packed panels: `operand` 0 or 1 of the product of `block`."""

    block: int
    operand: int

    def __str__(self) -> str:
        return f"stage operand {self.operand} of block {self.block}"


@dataclass(frozen=True, slots=True)
class Nest:
    """Blocks (by number) that share their common outer loops, and how those loops run.

    `order` names the outer loops as "axis.level" from the outside in; what is not named keeps the kernel's order.
    """

    blocks: tuple[int, ...]
    fuse: tuple[Fuse, ...] = ()
    split: tuple[Split, ...] = ()
    order: tuple[str, ...] = ()
    stage: tuple[Stage, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a whole kernel; `split_reduce` comes first, and block numbers elsewhere count its result."""

    name: str
    nests: tuple[Nest, ...]
    split_reduce: tuple[SplitReduce, ...] = ()

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(_data(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote."""
        plan = _object(json.loads(text))
        assert isinstance(plan, cls)
        return plan

    def __str__(self) -> str:
        lines = [f"PLAN {self.name}", *(f"  {split}" for split in self.split_reduce)]
        for nest in self.nests:
            lines.append(f"  nest {', '.join(map(str, nest.blocks))}:")
            lines += [f"    {directive}" for directive in (*nest.fuse, *nest.split, *nest.stage)]
            lines += [f"    order {', '.join(nest.order)}"] if nest.order else []
        return "\n".join(lines)


_TYPES = {kind.__name__: kind for kind in (Fuse, Split, SplitReduce, Stage, Nest, Plan)}


def _data(value: Any) -> Any:
    if type(value).__name__ in _TYPES:
        return {"is": type(value).__name__, **{f.name: _data(getattr(value, f.name)) for f in fields(value)}}
    return [_data(item) for item in value] if isinstance(value, tuple) else value


def _object(data: Any) -> Any:
    if isinstance(data, list):
        return tuple(_object(item) for item in data)
    if isinstance(data, dict):
        return _TYPES[data["is"]](**{name: _object(item) for name, item in data.items() if name != "is"})
    return data
