"""Which nodes get memory of their own ("stages"), by a cost model of bytes moved and work done again.

Everything else is computed where it is used. The result maps each stage to the reason it is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from petaflop.graph.node import Node, read_sources
from petaflop.graph.ops import VIEWS, Op
from petaflop.graph.symbolic import Dim, product
from petaflop.graph.view import is_alias

__all__ = ["LEAVES", "choose_stages", "domain", "is_kernel", "size_hint"]

LEAVES = frozenset((Op.CONST, Op.IOTA, Op.VAR))
_ALWAYS = {
    Op.REDUCE: "a reduction",
    Op.SCAN: "a scan",
    Op.SCATTER: "a scatter",
    Op.REALIZE: "asked for by contiguous() or a gradient leaf",
}
_PASSING = (Op.DETACH, Op.CUSTOM)
_WEIGHT = {Op.DIV: 5, Op.SQRT: 5, Op.EXP2: 12, Op.LOG2: 12, Op.SIN: 16, Op.GATHER: 4}
_MAX_OPERATIONS = 160
_MAX_INPUTS = 24
_MAX_REPEATED = 1024  # operations that the kernels may hold once more: as many as fill a kernel
_LAUNCH_BYTES = 32 << 10  # a launch costs about as much as moving this many bytes


def size_hint(size: Dim) -> int:
    """A number for cost models: the size, or the largest that a symbolic one can be."""
    return size if isinstance(size, int) else size.hi


def domain(node: Node) -> int:
    """Points that computing a node visits."""
    shape = node.sources[0].shape if node.op is Op.REDUCE else node.shape
    return size_hint(product(shape))


def is_kernel(node: Node) -> bool:
    """A CUSTOM that is a kernel of the user's; the others pass their first source on, for a gradient of their
    own."""
    return node.op is Op.CUSTOM and bool(node.arg.kernel)


@dataclass(slots=True)
class _Inline:
    """What computing a node in place of a load would take: the operations and the memory below it."""

    operations: set[Node]
    inputs: set[Node]

    @property
    def weight(self) -> int:
        return sum(_WEIGHT.get(n.op, 1) for n in self.operations)

    @property
    def bytes(self) -> int:
        return sum(size_hint(n.size) * n.dtype.itemsize for n in self.inputs)


def _users(order: Sequence[Node], fixed: Set[Node]) -> dict[Node, frozenset[Node]]:
    """The stages known from the start that read each node, directly or through what they compute in place."""
    users: dict[Node, frozenset[Node]] = {node: frozenset() for node in order}
    for node in reversed(order):
        mine = frozenset((node,)) if node in fixed else users[node]
        if node.buffer is None:
            for source in read_sources(node):
                before = users[source]
                users[source] = mine if not before else (before if mine <= before else before | mine)
    return users


def choose_stages(
    order: Sequence[Node], roots: Set[Node], in_place: Set[Node], fuse: bool = True
) -> dict[Node, str]:
    """Node → why it is materialized, for the nodes of `order` (sources before users) that are."""
    fixed: dict[Node, str] = {}
    for node in order:
        if node.buffer is not None or node.op is Op.BUFFER:
            continue
        if node in roots:
            fixed[node] = "an output"
        elif node in in_place:
            fixed[node] = "written in place"
        elif node.op in _ALWAYS:
            fixed[node] = _ALWAYS[node.op]
        elif is_kernel(node):
            fixed[node] = "a kernel written by the user"
        if is_alias(node) or is_kernel(node):
            for source in node.sources:
                if source.buffer is None and not is_alias(source):
                    fixed.setdefault(
                        source, "read under another dtype" if is_alias(node) else "read by a user's kernel"
                    )
    users = _users(order, fixed.keys())
    stages: dict[Node, str] = {}
    below: dict[Node, _Inline] = {}
    consumers = _consumer_counts(order)
    edges = _edges(order, users, fixed.keys())
    for node in order:
        if node.buffer is not None or node.op is Op.BUFFER or is_alias(node):
            below[node] = _Inline(set(), {node})
            continue
        inline = _merge(node, below, consumers)
        reason = fixed.get(node)
        if reason is None and node.op not in LEAVES and node.op not in VIEWS and node.op not in _PASSING:
            inline.operations.add(node)
            if not fuse:
                reason = "fusion is off"
            else:
                reason = _too_large(inline)
                if reason is None and node in edges:
                    reason = _worth_storing(node, inline, users[node])
        if reason is not None:
            stages[node] = reason
            below[node] = _Inline(set(), {node})
        else:
            below[node] = inline
    return stages


def _consumer_counts(order: Sequence[Node]) -> dict[Node, int]:
    counts = dict.fromkeys(order, 0)
    for node in order:
        if node.buffer is None:
            for source in set(read_sources(node)):
                counts[source] += 1
    return counts


def _edges(order: Sequence[Node], users: Mapping[Node, frozenset[Node]], fixed: Set[Node]) -> set[Node]:
    """Nodes past which their users part, or whose domain grows: storing any node before these would store
    less."""
    edges: set[Node] = set()
    for node in order:
        if node.buffer is None:
            parted = node in fixed or node.op in VIEWS
            edges.update(s for s in read_sources(node) if parted or users[s] != users[node])
    return edges


def _merge(node: Node, below: dict[Node, _Inline], consumers: dict[Node, int]) -> _Inline:
    """The union over the sources; a source that nobody else reads gives its sets away instead of copying
    them."""
    sources = list(dict.fromkeys(read_sources(node)))
    if not sources:
        return _Inline(set(), set())
    first = max(sources, key=lambda s: len(below[s].operations))
    base = below[first]
    if consumers[first] > 1:
        base = _Inline(set(base.operations), set(base.inputs))
    for source in sources:
        if source is not first:
            base.operations |= below[source].operations
            base.inputs |= below[source].inputs
    return base


def _too_large(inline: _Inline) -> str | None:
    if len(inline.operations) > _MAX_OPERATIONS:
        return f"more than {_MAX_OPERATIONS} operations in one expression"
    if len(inline.inputs) > _MAX_INPUTS:
        return f"more than {_MAX_INPUTS} inputs"
    return None


def _worth_storing(node: Node, inline: _Inline, users: frozenset[Node]) -> str | None:
    points = size_hint(node.size)
    growth = max([domain(user) // max(points, 1) for user in users], default=1)
    if len(users) < 2 and growth < 4:
        return None
    weight = inline.weight
    stored = points * node.dtype.itemsize
    again = (len(users) - 1) * (inline.bytes + weight * points)
    if len(users) > 1 and again > stored * (1 + len(users)) + _LAUNCH_BYTES:
        return f"read by {len(users)} kernels, and cheaper to store than to compute again"
    if (len(users) - 1) * len(inline.operations) > _MAX_REPEATED and stored <= inline.bytes:
        return f"read by {len(users)} kernels, too many to hold its operations each"
    repeated = (growth - 1) * points * weight
    if weight >= 4 and inline.bytes >= stored and repeated > 2 * stored + _LAUNCH_BYTES:
        return f"repeated {growth} times where it is read"
    return None
