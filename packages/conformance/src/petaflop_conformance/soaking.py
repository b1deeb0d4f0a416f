"""One stretch of the soak: random graphs, a few realized together, on two devices, each held to the oracle.

A backend must also give the same bits the second time, and keep what it gave while others come and go. What
is wrong is cut down to the smallest part that still is, and becomes a script.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from petaflop.config import overrides
from petaflop.device.registry import get_backend
from petaflop.dtype import DType
from petaflop.graph.node import Node, toposort
from petaflop.realize import from_host, realize_nodes, to_host
from petaflop_conformance.bounded import Bounded, Policy
from petaflop_conformance.oracle import Oracle, judge
from petaflop_conformance.report import policy_of
from petaflop_conformance.reproducer import script
from petaflop_conformance.spelling import transplant
from petaflop_conformance.steps import steps_for
from petaflop_conformance.weaving import Weaver, chooser

__all__ = ["Finding", "Tally", "soak"]

Array = np.ndarray[Any, Any]
_MOST = 60  # operations of the longest graph
_UNFUSED_EVERY = 8  # of so many batches, one runs with a kernel for each operation


@dataclass(slots=True)
class Finding:
    """One fault: the seed of a graph that shows it, the device at fault, and a script that runs alone."""

    seed: int
    device: str
    message: str
    script: str


@dataclass(slots=True)
class Tally:
    """What has been compared."""

    graphs: int = 0
    compared: int = 0
    elements: int = 0
    operations: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Graph:
    """One random graph, its inputs, and what the oracle says of it for a policy."""

    seed: int
    roots: list[Node]
    oracle: Oracle
    inputs: dict[Node, Array]

    def expected(self, roots: Sequence[Node], policy: Policy) -> list[Bounded]:
        oracle = self.oracle if policy == self.oracle.policy else Oracle(self.inputs, policy)
        return [oracle(root) for root in roots]


def soak(
    backend: str,
    against: str,
    seeds: Sequence[int],
    batch: int = 4,
    note: Path | None = None,
    main: DType | None = None,
) -> Tally:
    """Run the graphs of these seeds, most of whose inputs have the dtype `main` if there is one.

    `note` is told which are next, in case the backend takes us down.
    """
    opened = [get_backend(name) for name in (against, backend)]
    dtypes = [name for name in opened[0].capabilities.dtypes if name in opened[1].capabilities.dtypes]
    policies = {each.name: policy_of(each, "full") for each in opened}
    tally = Tally()
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        if note is not None:
            note.write_text(f"{part[0]} {len(part)}", "utf-8")
        fuse = (part[0] // batch) % _UNFUSED_EVERY != _UNFUSED_EVERY - 1
        graphs = [_grown(seed, dtypes, policies[backend], tally, main) for seed in part]
        with overrides(fuse=fuse, cache=False):
            for device in policies:
                finding = _examined(graphs, device, policies[device], fuse, tally)
                tally.findings += [finding] if finding is not None else []
        tally.graphs += len(part)
    return tally


def _grown(seed: int, dtypes: Sequence[str], policy: Policy, tally: Tally, main: DType | None) -> _Graph:
    random = np.random.default_rng(seed)
    weaver = Weaver(chooser(random), lambda array: from_host(array, "reference"), dtypes, policy)
    roots = [weaver.grow(int(random.integers(5, _MOST + 1)), steps_for, main)]
    middle = [node for node in weaver.pool if node not in weaver.inputs and node not in roots]
    if middle and seed % 2:  # a second result, which other kernels read as well
        roots.append(weaver.choose(middle))
    roots += [node for node in weaver.shown[:1] if node not in roots]
    for name in weaver.used:
        tally.operations[name] = tally.operations.get(name, 0) + 1
    for known in map(weaver.oracle, roots):
        tally.compared += int((~known.free).sum())
        tally.elements += known.value.size
    return _Graph(seed, roots, weaver.oracle, weaver.inputs)


def _examined(
    graphs: Sequence[_Graph], device: str, policy: Policy, fuse: bool, tally: Tally
) -> Finding | None:
    inputs = {node: array for graph in graphs for node, array in graph.inputs.items()}
    owners = [graph for graph in graphs for _ in graph.roots]
    roots = [root for graph in graphs for root in graph.roots]
    expected = [wanted for graph in graphs for wanted in graph.expected(graph.roots, policy)]
    fault = _fault(roots, inputs, expected, device)
    if fault is None:
        return None
    culprit, message = owners[fault[0]], fault[1]
    for node in [n for n in toposort(culprit.roots, through_realized=True) if n not in culprit.inputs]:
        wanted = culprit.expected([node], policy)
        if (smaller := _fault([node], culprit.inputs, wanted, device)) is not None:
            roots, expected, message = [node], wanted, smaller[1]
            break
    title = f"A graph on which {device} is wrong (seed {culprit.seed}): {message.splitlines()[0]}"
    text = script(title.replace('"""', "'''").replace("\\", "/"), device, fuse, roots, inputs, expected)
    return Finding(culprit.seed, device, message, text)


def _fault(
    roots: Sequence[Node], inputs: Mapping[Node, Array], expected: Sequence[Bounded], device: str
) -> tuple[int, str] | None:
    """Which root is wrong on the device, if one is, and how."""
    try:
        first, arrays = _run(roots, inputs, device)
        _, again = _run(roots, inputs, device)
        kept = [to_host(node) for node in first]
    except Exception as error:  # noqa: BLE001 – whatever a backend raises on a legal graph is a fault
        return len(roots) - 1, f"{type(error).__name__}: {error}"
    for number, (root, got, wanted) in enumerate(zip(roots, arrays, expected, strict=True)):
        verdict = judge(got, wanted, root.dtype)
        if not verdict.good:
            return number, verdict.message
        if got.tobytes() != again[number].tobytes():
            return number, "other bits the second time"
        if got.tobytes() != kept[number].tobytes():
            return number, "what it held was overwritten"
    return None


def _run(roots: Sequence[Node], inputs: Mapping[Node, Array], device: str) -> tuple[list[Node], list[Array]]:
    leaves = {node: from_host(array, device) for node, array in inputs.items()}
    nodes = transplant(roots, leaves)
    realize_nodes(nodes, device)
    return nodes, [to_host(node) for node in nodes]


def _main() -> None:
    backend, against, first, count, batch, result = sys.argv[1:]
    path = Path(result)
    seeds = range(int(first), int(first) + int(count))
    tally = soak(backend, against, seeds, int(batch), path.with_suffix(".note"))
    path.write_text(json.dumps(asdict(tally)), "utf-8")


if __name__ == "__main__":
    _main()
