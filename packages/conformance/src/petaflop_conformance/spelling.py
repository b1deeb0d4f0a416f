"""Graphs as calls of core's constructors: to build one again on other leaves, or to print it as a script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from petaflop.dtype import DType
from petaflop.graph import node as constructors
from petaflop.graph import view
from petaflop.graph.node import Node, toposort
from petaflop.graph.ops import COMPUTE, Op

__all__ = ["as_code", "transplant"]

Call = tuple[Callable[..., Node], tuple[Any, ...]]


def _elementwise(node: Node) -> Call:
    return constructors.compute, (node.op, *node.sources)


CALLS: dict[Op, Callable[[Node], Call]] = {
    **dict.fromkeys(COMPUTE, _elementwise),
    Op.CONST: lambda n: (constructors.const, (n.arg, n.dtype, n.shape)),
    Op.IOTA: lambda n: (constructors.iota, (n.shape, n.arg, n.dtype)),
    Op.CAST: lambda n: (constructors.cast, (*n.sources, n.dtype)),
    Op.BITCAST: lambda n: (constructors.bitcast, (*n.sources, n.dtype)),
    Op.REDUCE: lambda n: (constructors.reduce, (n.arg.op, *n.sources, n.arg.axes, n.dtype)),
    Op.SCAN: lambda n: (constructors.scan, (n.arg.op, *n.sources, n.arg.axis, n.dtype)),
    Op.RESHAPE: lambda n: (view.reshape, (*n.sources, n.shape)),
    Op.PERMUTE: lambda n: (view.permute, (*n.sources, n.arg)),
    Op.EXPAND: lambda n: (view.expand, (*n.sources, n.shape)),
    Op.PAD: lambda n: (view.pad, (*n.sources, n.arg)),
    Op.SHRINK: lambda n: (view.shrink, (*n.sources, n.arg)),
    Op.FLIP: lambda n: (view.flip, (*n.sources, n.arg)),
    Op.WINDOW: lambda n: (view.window, (*n.sources, *n.arg)),
    Op.GATHER: lambda n: (constructors.gather, (*n.sources, n.arg)),
    Op.SCATTER: lambda n: (constructors.scatter, (*n.sources, n.arg.axis, n.arg.op)),
    Op.ASSIGN: lambda n: (constructors.assign, (*n.sources, n.arg)),
    Op.REALIZE: lambda n: (constructors.realize, n.sources),
}


def transplant(roots: Iterable[Node], leaves: Mapping[Node, Node]) -> list[Node]:
    """The same graphs on other leaves, which may live on another device."""
    roots = list(roots)
    made: dict[Node, Node] = dict(leaves)
    for node in toposort(roots, through_realized=True):
        if node not in made:
            function, arguments = CALLS[node.op](node)
            made[node] = function(*(made[a] if isinstance(a, Node) else a for a in arguments))
    return [made[root] for root in roots]


def as_code(roots: Iterable[Node], names: Mapping[Node, str]) -> tuple[list[str], list[str]]:
    """Lines that build the graphs from leaves of these names, and the names of the roots."""
    roots = list(roots)
    known = dict(names)
    lines: list[str] = []
    for node in toposort(roots, through_realized=True):
        if node not in known:
            function, arguments = CALLS[node.op](node)
            known[node] = f"n{len(lines)}"
            home = "view." if function.__module__ == view.__name__ else ""
            written = ", ".join(known[a] if isinstance(a, Node) else _literal(a) for a in arguments)
            lines.append(f"{known[node]} = {home}{function.__name__}({written})")
    return lines, [known[root] for root in roots]


def _literal(value: Any) -> str:
    if isinstance(value, Op):
        return f"Op.{value.name}"
    if isinstance(value, DType):
        return f"DTYPES[{value.name!r}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)
