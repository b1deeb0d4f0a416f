"""What the LLVM renderer knows of an expression that it has rendered, and of an address."""

from __future__ import annotations

from dataclasses import dataclass

from petaflop.graph.symbolic import Expr

__all__ = ["Address", "Value"]


class Value:
    """A rendered expression: its name or literal, over how many lanes it varies (1: uniform), and its loop
    level."""

    __slots__ = ("level", "name", "width")

    def __init__(self, name: str, width: int, level: int) -> None:
        self.name, self.width, self.level = name, width, level


@dataclass(slots=True)
class Address:
    """Uniform terms, a constant, the factor of the lane number, and terms that vary over the lanes in other
    ways."""

    uniform: list[tuple[Value, int]]
    constant: int
    stride: int
    varying: list[tuple[Expr, int]]
