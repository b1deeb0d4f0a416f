"""Templates of CUSTOM nodes: a kernel that a user wrote, or a value with a gradient that a user gave.

`node.arg` of a CUSTOM node is a Template. With `kernel` true the node is one kernel of its own, made of the
blocks that the template builds; otherwise it is the value of its first source, and the others matter to
gradients only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from petaflop.errors import GradientError, ShapeError
from petaflop.graph.node import Node

if TYPE_CHECKING:
    from petaflop.ir.kernel import Argument, Block

__all__ = ["GradientTemplate", "KernelTemplate", "Template"]

NodeGradient = Callable[[Node, Node], "Sequence[Node | None]"]


class Template(Protocol):
    """What the scheduler and gradient() ask of the `arg` of a CUSTOM node."""

    name: str
    kernel: bool

    def blocks(self, output: Argument, inputs: tuple[Argument, ...]) -> tuple[Block, ...]:
        """The blocks that write `output` from `inputs`, which are row-major in their logical shapes."""
        ...

    def gradient(self, node: Node, grad: Node) -> Sequence[Node | None]:
        """The gradient of each source of `node`, given that of its value."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class KernelTemplate:
    """A kernel written by the user: `build(output, inputs)` gives its blocks."""

    name: str
    build: Callable[[Argument, tuple[Argument, ...]], tuple[Block, ...]]
    adjoint: NodeGradient | None = None
    kernel: bool = field(default=True, init=False)

    def blocks(self, output: Argument, inputs: tuple[Argument, ...]) -> tuple[Block, ...]:
        """What `build` gives, once it is known to read its inputs and write its output only."""
        from petaflop.ir.kernel import Block, loads_of  # here, so that importing petaflop stays quick

        built = tuple(self.build(output, inputs))
        readable = {argument.name for argument in inputs} | {output.name}
        for block in built:
            if not isinstance(block, Block):
                raise ShapeError(f"{self.name}: expected blocks, got {type(block).__name__}")
            stored = {store.buffer for store in block.stores} - {output.name}
            loaded = {expr.arg[0] for expr in loads_of(block.exprs)} - readable
            if stored or loaded:
                raise ShapeError(
                    f"{self.name}: expected loads of {sorted(readable)} and stores to {output.name!r}, "
                    f"got {sorted(stored | loaded)}"
                )
        return built

    def gradient(self, node: Node, grad: Node) -> Sequence[Node | None]:
        """The user's own gradient; an error that says how to give one."""
        if self.adjoint is None:
            raise GradientError(f"{self.name}: expected a kernel with a gradient, got none; pass gradient=")
        return self.adjoint(node, grad)


@dataclass(frozen=True, slots=True, eq=False)
class GradientTemplate:
    """The value of the first source, with a gradient of its own for the others."""

    name: str
    adjoint: NodeGradient
    kernel: bool = field(default=False, init=False)

    def blocks(self, output: Argument, inputs: tuple[Argument, ...]) -> tuple[Block, ...]:
        """Never asked for: there is nothing to compute."""
        raise AssertionError(f"{self.name} is the value of its first source")

    def gradient(self, node: Node, grad: Node) -> Sequence[Node | None]:
        """None for the value, the user's gradient for the rest."""
        return (None, *self.adjoint(node, grad))
