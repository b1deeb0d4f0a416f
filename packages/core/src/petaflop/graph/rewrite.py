"""Rebuild a part of a graph on other sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from petaflop.graph.node import Node, rebuilt, toposort

__all__ = ["substitute"]


def substitute(roots: Sequence[Node], mapping: Mapping[Node, Node]) -> list[Node]:
    """`roots` with nodes replaced and all that depends on them rebuilt, realized or not."""
    done: dict[Node, Node] = dict(mapping)
    for node in toposort(roots, through_realized=True):
        if node not in done:
            sources = tuple(done[source] for source in node.sources)
            done[node] = node if sources == node.sources else rebuilt(node, sources)
    return [done[root] for root in roots]
