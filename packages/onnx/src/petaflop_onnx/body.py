"""What a graph is made of: steps, which are nodes bound to rows of the table, and bodies, which are the
graphs inside nodes (branches, loops) and what functions stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, TypeProto

from petaflop_onnx.formals import Formal
from petaflop_onnx.reading import fault, printable
from petaflop_onnx.table import Call, Operator
from petaflop_onnx.tensors import decode

__all__ = ["Body", "Step", "constants_of", "missing_inputs", "sort_steps"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Body:
    """A graph inside a node: `captured` are the names that it takes from the graph around."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Array]
    steps: tuple[Step, ...]
    captured: frozenset[str]


@dataclass(frozen=True, slots=True)
class Step:
    """One node, bound to its row of the table; an input named '' is absent.

    `bodies` are its graphs by attribute, or under "" what the function stands for; `expand` finds that where
    it depends on the types of the inputs.
    """

    call: Call
    row: Operator
    formals: tuple[Formal, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bodies: Mapping[str, Body] = field(default_factory=dict)
    expand: Callable[[Sequence[TypeProto]], Body] | None = None

    @property
    def where(self) -> str:
        """The node, for error messages."""
        return f"node {printable(self.call.name)!r} ({self.row.name}-{self.row.since})"

    @property
    def reads(self) -> set[str]:
        """Every name that the step needs, those that its bodies capture included."""
        names = {*self.inputs, *(name for body in self.bodies.values() for name in body.captured)}
        for attribute in self.row.named:
            given = self.call[attribute]
            names.update((given,) if isinstance(given, str) else given)
        return names - {""}


def constants_of(path: Path, graph: GraphProto, field: str = "graph") -> dict[str, Array]:
    """The initializers of a graph by name."""
    constants: dict[str, Array] = {}
    for position, tensor in enumerate(graph.initializer):
        where = f"{field}.initializer[{position}] {printable(tensor.name)!r}"
        if not tensor.name or tensor.name in constants:
            raise fault(path, where, "expected a name of its own, got none or one that is taken")
        constants[tensor.name] = decode(tensor, path, where)
    return constants


def sort_steps(path: Path, field: str, steps: list[Step], given: set[str]) -> tuple[Step, ...]:
    """Steps in an order in which every input exists; the file's own order where that is one.

    Names that no step makes are taken to exist: `missing_inputs` tells which those are.
    """
    maker: dict[str, int] = {}
    for position, step in enumerate(steps):
        for name in filter(None, step.outputs):
            if name in maker or name in given:
                raise fault(
                    path, f"{field}.node[{position}].output", f"expected new names, got {name!r} again"
                )
            maker[name] = position
    waiting: list[int] = []
    users: dict[int, list[int]] = {}
    for position, step in enumerate(steps):
        makers = {maker[name] for name in step.reads if name in maker}
        waiting.append(len(makers))
        for other in makers:
            users.setdefault(other, []).append(position)
    return _kahn(path, field, steps, waiting, users)


def _kahn(
    path: Path, field: str, steps: list[Step], waiting: list[int], users: dict[int, list[int]]
) -> tuple[Step, ...]:
    if all(other < position for other, after in users.items() for position in after):
        return tuple(steps)
    ready = [position for position, count in enumerate(waiting) if count == 0][::-1]
    order: list[Step] = []
    while ready:
        position = ready.pop()
        order.append(steps[position])
        for user in users.get(position, ()):
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    if len(order) < len(steps):
        stuck = next(position for position, count in enumerate(waiting) if count)
        where = f"{field}.node[{stuck}] {printable(steps[stuck].call.name)!r}.input"
        raise fault(path, where, "expected an order of nodes, got a cycle")
    return tuple(order)


def missing_inputs(steps: Iterable[Step], given: Iterable[str]) -> dict[str, int]:
    """Names that steps need and nothing gives, with the position of the first step that does."""
    known = {*given, *(name for step in steps for name in step.outputs)}
    missing: dict[str, int] = {}
    for position, step in enumerate(steps):
        for name in sorted(step.reads - known):
            missing.setdefault(name, position)
    return missing
