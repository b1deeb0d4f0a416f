"""The oracle: a graph evaluated primitive by primitive in float64, with the error that a correct device may
show.

`Oracle` gives (value, allowed error, don't-care mask) of a node; `judge` compares a device's answer with
that. The bound of a fused graph follows from one rule per operation, so no test states a tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from petaflop.dtype import DType
from petaflop.graph.node import Node
from petaflop.graph.ops import VIEWS, Op
from petaflop_conformance.bounded import Bounded, Policy, exact
from petaflop_conformance.folds import FOLDS
from petaflop_conformance.moves import MOVES
from petaflop_conformance.rounding import ulp
from petaflop_conformance.rules import ELEMENTWISE, Rule

__all__ = ["RULES", "Bounded", "Oracle", "Policy", "Verdict", "judge"]

Array = np.ndarray[Any, Any]

RULES: dict[Op, Rule] = {**ELEMENTWISE, **FOLDS, **MOVES}


class Oracle:
    """What nodes should be, given the host array behind every BUFFER leaf; remembers what it has worked out.

    >>> from petaflop.dtype import float32
    >>> from petaflop.graph.node import compute, const
    >>> Oracle({})(compute(Op.SQRT, const(2, float32, (1,)))).value
    array([1.41421356])
    """

    def __init__(self, inputs: Mapping[Node, Array], policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.inputs: dict[Node, Array] = {}
        self._done: dict[Node, Bounded] = {}
        for node, array in inputs.items():
            self.add(node, array)

    def add(self, leaf: Node, array: Array) -> None:
        """One more leaf, with its array."""
        with np.errstate(invalid="ignore"):  # a signalling NaN
            number = array if array.dtype.kind in "biu" else array.astype(np.float64)
        self.inputs[leaf], self._done[leaf] = array, exact(number)

    def forget(self) -> None:
        """Work everything out anew: a Variable has got another value."""
        self._done = {}
        for leaf, array in self.inputs.items():
            self.add(leaf, array)

    def __call__(self, root: Node) -> Bounded:
        with np.errstate(all="ignore"):
            stack = [root]
            while stack:
                node = stack.pop()
                if node in self._done:
                    continue
                if missing := [source for source in node.sources if source not in self._done]:
                    stack += [node, *missing]
                else:
                    sources = (self._done[source] for source in node.sources)
                    self._done[node] = RULES[node.op](node, _policy_for(node, self.policy), *sources)
        return self._done[root]


def _policy_for(node: Node, policy: Policy) -> Policy:
    """What is allowed at a node: where a device multiplies narrow floats by an instruction of its own, these
    products and their sums may take denormals for zero."""
    if policy.denormal_products:
        return policy
    product = node.sources[0] if node.op is Op.REDUCE and node.arg.op is Op.ADD else node
    if product.op is Op.MUL and product.dtype.is_float and all(map(_was_narrow, product.sources)):
        return replace(policy, denormals=False)
    return policy


def _was_narrow(node: Node) -> bool:
    """Whether every value of a node was cast from a float of less than 32 bits, or is 0."""
    if node.op is Op.CAST:
        source = node.sources[0].dtype
        return (source.is_float and source.itemsize < 4) or _was_narrow(node.sources[0])
    if node.op is Op.CONST:
        return not node.arg
    if node.op is Op.WHERE:
        return all(map(_was_narrow, node.sources[1:]))
    return node.op in VIEWS and _was_narrow(node.sources[0])


@dataclass(frozen=True, slots=True)
class Verdict:
    """Worst error over bound (at most 1 where all is well), worst error in ulp, and the first wrong element
    in words."""

    ratio: float
    ulps: float
    compared: int
    wrong: int
    message: str

    @property
    def good(self) -> bool:
        return not self.wrong


def judge(got: Array, expected: Bounded, dtype: DType) -> Verdict:
    """Compare a device's array with what the oracle allows."""
    if tuple(got.shape) != expected.shape or got.dtype != dtype.numpy:
        wanted = f"{dtype}{list(expected.shape)}"
        return Verdict(np.inf, np.inf, 0, 1, f"expected {wanted}, got {got.dtype}{list(got.shape)}")
    judged = _judge_float if dtype.is_float else _judge_exact
    with np.errstate(all="ignore"):
        return judged(got, expected, dtype)


def _judge_exact(got: Array, expected: Bounded, dtype: DType) -> Verdict:
    bad = (got != expected.value) & ~expected.free
    ratio = float("inf") if bad.any() else 0.0
    return Verdict(ratio, 0.0, int((~expected.free).sum()), int(bad.sum()), _first(bad, got, expected))


def _judge_float(got: Array, expected: Bounded, dtype: DType) -> Verdict:
    actual, value = got.astype(np.float64), expected.value
    cared = ~expected.free
    finite = np.isfinite(value)
    distance = np.abs(actual - value)
    same = (actual == value) | (np.isnan(actual) & np.isnan(value))
    bad = cared & ~np.where(finite, distance <= expected.error, same)
    bad |= cared & (value == 0) & (expected.error == 0) & (np.signbit(actual) != np.signbit(value))
    measured = cared & finite & np.isfinite(actual) & (expected.error > 0)
    ratio = float(np.max(distance / expected.error, where=measured & (distance > 0), initial=0.0))
    ulps = float(np.max(distance / ulp(value, dtype), where=measured, initial=0.0))
    ratio = float("inf") if bad.any() and ratio <= 1 else ratio
    return Verdict(ratio, ulps, int(cared.sum()), int(bad.sum()), _first(bad, got, expected))


def _first(bad: Array, got: Array, expected: Bounded) -> str:
    if not bad.any():
        return ""
    where = tuple(int(axis[0]) for axis in np.nonzero(bad))
    bound = expected.error[where]
    return (
        f"{int(bad.sum())} of {bad.size} elements are wrong, the first at {list(where)}: expected "
        f"{expected.value[where]!r} within {bound:.3g}, got {got[where]!r}"
    )
