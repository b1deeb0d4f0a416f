"""The oracle's own proof: `python -m petaflop_conformance.experiment [--graphs 1000]`.

Random graphs run on simulated devices, right ones and ones with a planted fault; the table says how many each
rule of judgement flags: the oracle, and the fixed tolerances that others use.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from petaflop.dtype import DType, bfloat16, float16, float32
from petaflop.graph.node import Node, toposort
from petaflop.graph.ops import SPEC, Op
from petaflop.realize import from_host
from petaflop_conformance.bounded import Bounded, Policy, exact
from petaflop_conformance.graphs import Grower
from petaflop_conformance.oracle import RULES, judge
from petaflop_conformance.weaving import chooser

__all__ = ["DEVICES", "TOLERANCES", "Device", "Row", "main", "random_graphs", "run", "simulate"]

Array = np.ndarray[Any, Any]
Fault = Callable[[Node, Array], Array]

STEEP = (Op.EXP2, Op.LOG2, Op.SIN, Op.SQRT)
TOLERANCES = {"1e-3/1e-6": (1e-3, 1e-6), "5e-3/1e-5": (5e-3, 1e-5), "0.25/1": (0.25, 1.0)}
_SHAPE = (4, 8)


# ---- simulated devices ----


def simulate(root: Node, inputs: Mapping[Node, Array], fault: Fault | None = None) -> Array:
    """What a device that computes every operation in its own dtype would give."""
    done: dict[Node, Array] = dict(inputs)
    with np.errstate(all="ignore"):
        for node in toposort([root], through_realized=True):
            if node not in done:
                array = _computed(node, [done[source] for source in node.sources])
                done[node] = fault(node, array) if fault is not None else array
    return done[root]


def _computed(node: Node, sources: Sequence[Array]) -> Array:
    operator = SPEC[node.op].numpy
    if operator is not None:
        array = _narrow(operator, sources) if node.dtype.itemsize < 4 else operator(*sources)
    elif node.op is Op.REDUCE:
        array = _reduced(node, sources[0])
    elif node.op is Op.CAST:
        array = sources[0].astype(node.dtype.numpy)
    else:  # views: what they do to positions is exact, so the rules themselves will do
        array = RULES[node.op](node, Policy(), *map(exact, sources)).value
    return np.asarray(array).astype(node.dtype.numpy)


def _narrow(operator: Callable[..., Any], sources: Sequence[Array]) -> Array:
    """Narrow floats are computed in float32 and rounded once, as devices do."""
    wide = [
        s.astype(np.float32) if s.dtype.itemsize < 4 and s.dtype.kind not in "biu" else s for s in sources
    ]
    return np.asarray(operator(*wide))


def _reduced(node: Node, source: Array) -> Array:
    if node.arg.op is Op.MAX:
        return np.asarray(np.maximum.reduce(source, axis=node.arg.axes, keepdims=True))
    wide = source.astype(node.dtype.numpy)
    return np.asarray(wide.sum(axis=node.arg.axes, keepdims=True, dtype=node.dtype.numpy))


def _off_by_relative(node: Node, array: Array) -> Array:
    return array * np.float32(1 + 2.0**-12) if node.op in STEEP else array


def _is_sum(node: Node) -> bool:
    return node.op is Op.REDUCE and node.arg.op is Op.ADD


def _narrow_sums(node: Node, array: Array) -> Array:
    return array.astype(np.float16).astype(array.dtype) if _is_sum(node) else array


def _shifted(node: Node, array: Array) -> Array:
    return np.roll(array, 1) if node.op is Op.DIV else array


@dataclass(frozen=True, slots=True)
class Device:
    """A simulated device: its dtype, its fault, and which operations the fault is in."""

    name: str
    dtype: DType
    fault: Fault | None = None
    at_fault: Callable[[Node], bool] = lambda node: False


DEVICES = (
    Device("float32, correct", float32),
    Device("float16, correct", float16),
    Device("bfloat16, correct", bfloat16),
    Device("EXP2, LOG2, SIN, SQRT off by 2⁻¹²", float32, _off_by_relative, lambda node: node.op in STEEP),
    Device("sums kept in float16", float32, _narrow_sums, _is_sum),
    Device("DIV shifted by an element", float32, _shifted, lambda node: node.op is Op.DIV),
)


# ---- graphs ----


def random_graphs(
    dtype: DType, count: int, uses: Callable[[Node], bool] | None = None
) -> Iterator[tuple[Node, dict[Node, Array], Bounded]]:
    """Graphs of 8 operations, their inputs and what the oracle says; only those that use some operation."""
    found, seed = 0, 0
    while found < count:
        random = np.random.default_rng([dtype.bits, dtype.mantissa, seed])
        seed += 1
        inputs = {}
        for _ in range(3):
            array = random.uniform(-4, 4, _SHAPE).astype(dtype.numpy)
            inputs[from_host(array, "reference")] = array
        grower = Grower(chooser(random), inputs)
        root = grower.grow(8)
        if uses is None or any(uses(node) for node in toposort([root], through_realized=True)):
            found += 1
            yield root, inputs, grower.oracle(root)


# ---- the table ----


@dataclass(slots=True)
class Row:
    """How many graphs each judgement flagged, of how many."""

    device: Device
    graphs: int = 0
    oracle: int = 0
    fixed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOLERANCES, 0))
    compared: int = 0
    elements: int = 0


def run(device: Device, count: int) -> Row:
    """One row: all judgements see the same graphs, and the same elements of them."""
    row = Row(device)
    uses = device.at_fault if device.fault is not None else None
    for root, inputs, expected in random_graphs(device.dtype, count, uses):
        got = simulate(root, inputs, device.fault)
        verdict = judge(got, expected, root.dtype)
        row.graphs += 1
        row.oracle += verdict.wrong > 0
        row.compared, row.elements = row.compared + verdict.compared, row.elements + expected.value.size
        cared = ~expected.free
        wanted, actual = expected.value[cared].astype(np.float64), got[cared].astype(np.float64)
        for name, (rtol, atol) in TOLERANCES.items():
            row.fixed[name] += not np.allclose(actual, wanted, rtol=rtol, atol=atol, equal_nan=True)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 where the oracle raised a false alarm, or missed more than a tenth of a fault."""
    parser = argparse.ArgumentParser(prog="python -m petaflop_conformance.experiment", description=__doc__)
    parser.add_argument("--graphs", type=int, default=1000, help="graphs per row (default 1000)")
    count = parser.parse_args(arguments).graphs
    print(
        f"{'flagged, of ' + str(count) + ' graphs':<38}{'oracle':>8}"
        + "".join(f"{t:>12}" for t in TOLERANCES)
    )
    failed = False
    for device in DEVICES:
        row = run(device, count)
        cells = "".join(f"{flagged:>12}" for flagged in row.fixed.values())
        print(
            f"{device.name:<38}{row.oracle:>8}{cells}   {row.compared / row.elements:.0%} compared",
            flush=True,
        )
        failed |= row.oracle > 0 if device.fault is None else row.oracle < 0.9 * row.graphs
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
