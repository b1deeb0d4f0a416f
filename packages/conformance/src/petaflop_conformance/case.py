"""One test case on one backend: inputs go in, graphs are realized, the oracle judges what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from petaflop.dtype import DType
from petaflop.graph.node import Node, toposort
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr
from petaflop.realize import from_host, realize_nodes, to_host
from petaflop_conformance.bounded import Policy
from petaflop_conformance.oracle import Oracle, judge

__all__ = ["Case", "listing"]

Array = np.ndarray[Any, Any]
Record = Callable[[str, str, float, float], None]


class Case:
    """`leaf` puts arrays on the device, `check` realizes nodes there and holds them to the oracle."""

    def __init__(self, device: str, policy: Policy, record: Record) -> None:
        self.device, self.policy, self._record = device, policy, record
        self.oracle = Oracle({}, policy)

    def leaf(self, array: Array) -> Node:
        """A BUFFER on the device with the contents of `array`."""
        node = from_host(array, self.device)
        self.oracle.add(node, array.copy())
        return node

    @property
    def inputs(self) -> dict[Node, Array]:
        """Every leaf with its array."""
        return self.oracle.inputs

    def leaf_unknown(self, array: Array) -> Node:
        """A BUFFER that the oracle is not told of; a test that reads it says itself what is right."""
        return from_host(array, self.device)

    def measure(self, what: str, dtype: str, ratio: float) -> None:
        """An error over its bound, for the report."""
        self._record(what, dtype, ratio, 0.0)

    def bind(self, variable: Expr, value: int) -> None:
        """Give a Variable a value for what is realized, and expected, from now on."""
        variable.bind(value)
        self.oracle.forget()

    def run(self, *nodes: Node) -> list[Array]:
        """The arrays that the device gives, all realized together."""
        realize_nodes(list(nodes), self.device)
        return [to_host(node) for node in nodes]

    def check(self, *nodes: Node, measures: str | None = None) -> list[Array]:
        """Realize `nodes` together and compare each with the oracle; `measures` names the row of the
        summary."""
        expected = [self.oracle(node) for node in nodes]
        arrays = self.run(*nodes)
        for node, array, bounded in zip(nodes, arrays, expected, strict=True):
            verdict = judge(array, bounded, node.dtype)
            self._record(measures or "", _measured_dtype(node).name, verdict.ratio, verdict.ulps)
            assert verdict.good, f"{verdict.message}\n{listing(node)}"
        return arrays

    def same(self, node: Node, array: Array) -> None:
        """Realize `node` and compare it with `array` bit for bit."""
        (got,) = self.run(node)
        assert got.dtype == array.dtype and got.shape == array.shape, (
            f"{got.dtype}{got.shape} is not {array.dtype}{array.shape}"
        )
        assert got.tobytes() == array.tobytes(), (
            f"expected the bits of {array!r}, got {got!r}\n{listing(node)}"
        )


def _measured_dtype(node: Node) -> DType:
    """Comparisons are listed under what they compare."""
    return node.sources[0].dtype if node.op in (Op.LT, Op.NE) else node.dtype


def listing(root: Node) -> str:
    """A graph as numbered lines, for the message of a failure."""
    numbers: dict[Node, int] = {}
    lines = []
    for node in toposort([root], through_realized=True):
        numbers[node] = len(numbers)
        sources = " ".join(f"%{numbers[source]}" for source in node.sources)
        lines.append(f"  %{numbers[node]} = {node} {sources}".rstrip())
    return "\n".join(lines)
