"""Random graphs of every operation over every declared dtype, in shapes that change as they go.

Each step looks at the oracle's values, so that nothing overflows for long and most elements stay comparable.
Choices come from a function, so that hypothesis can shrink them and a seed can replay them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from petaflop.dtype import DTYPES, DType, bool_, int32
from petaflop.graph import view
from petaflop.graph.node import Node, compute, const
from petaflop.graph.ops import Op
from petaflop_conformance.bounded import Policy
from petaflop_conformance.oracle import Oracle
from petaflop_conformance.rounding import format_of
from petaflop_conformance.values import awkward

__all__ = ["MAX_SIZE", "Step", "StepsFor", "Weaver", "chooser", "shape_of"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Choose = Callable[[Sequence[Any]], Any]
Step = tuple[str, Callable[["Weaver", Node], Node]]
StepsFor = Callable[[Node], Sequence[Step]]

MAX_SIZE = 400  # elements of one value: small, since what is tested is code, and each shape is a compile
_LEAST_SIZE = 12
_MOST_FREE = 0.1  # of a value's elements, those that nobody knows
_SHAPES: tuple[Shape, ...] = ((7,), (33,), (64,), (4, 8), (3, 5), (1, 9), (16, 17), (2, 3, 4), (5, 1, 6))


def chooser(random: np.random.Generator) -> Choose:
    """Choices of a seeded generator."""
    return lambda options: options[int(random.integers(len(options)))]


class Weaver:
    """Grows one graph; `leaf` puts an array on a device, `dtypes` are those that may appear."""

    def __init__(
        self,
        choose: Choose,
        leaf: Callable[[Array], Node],
        dtypes: Sequence[str],
        policy: Policy | None = None,
    ) -> None:
        self.choose, self._leaf = choose, leaf
        self.dtypes = [DTYPES[name] for name in dtypes]
        self.numbers = [dtype for dtype in self.dtypes if dtype is not bool_]
        self.oracle = Oracle({}, policy or Policy())
        self.inputs: dict[Node, Array] = {}
        self.pool: list[Node] = []
        self.awkward = True  # whether an input may hold NaN, infinities and denormals
        self.used: list[str] = []
        self.shown: list[Node] = []  # values that are worth a look of their own

    # ---- growing ----

    def grow(
        self, count: int, steps_for: StepsFor, main: DType | None = None, inputs: int | None = None
    ) -> Node:
        """`count` steps; each uses the value before it, so that the last one depends on all."""
        shape = self.choose(_SHAPES)
        main = main or self.choose(self.numbers)
        for _ in range(self.choose((1, 2, 2, 3)) if inputs is None else inputs):
            self.leaf(main if self.choose((True, True, False)) else self.choose(self.numbers), shape)
        for _ in range(count):
            last = self.pool[-1]
            if math.prod(shape_of(last)) < _LEAST_SIZE:  # after reductions: what one element says is little
                last = self.fit(last, shape)
            self.pool.append(self._step(last, steps_for))
        return self.pool[-1]

    def _step(self, last: Node, steps_for: StepsFor) -> Node:
        """One more operation; most of those after which anything would be right are passed over."""
        for _ in range(4):
            name, step = self.choose(steps_for(last))
            node = self.tamed(step(self, last))
            if self.oracle(node).free.mean() <= max(_MOST_FREE, self.oracle(last).free.mean()):
                break
        self.used.append(name)
        return node

    def leaf(self, dtype: DType, shape: Shape, low: int = -100, high: int = 100) -> Node:
        """An input of random values; now and then one that holds awkward ones."""
        random = np.random.default_rng(self.choose(range(1 << 16)))
        if dtype is bool_:
            array = random.random(shape) < 0.5
        elif dtype.is_integer:
            limits = max(int(dtype.min), low), min(int(dtype.max), high)
            array = random.integers(*limits, shape, endpoint=True).astype(dtype.numpy)
        else:
            array = random.uniform(-4, 4, shape).astype(dtype.numpy)
        if self.awkward and low == -100 and self.choose(range(8)) == 0:
            flat = array.reshape(-1)
            flat[: flat.size // 3] = random.choice(awkward(dtype), flat.size // 3)
        return self.add(array)

    def add(self, array: Array) -> Node:
        """One more input."""
        node = self._leaf(array)
        self.oracle.add(node, array)
        self.inputs[node] = array
        self.pool.append(node)
        return node

    # ---- what steps ask for ----

    def other(self, like: Node) -> Node:
        """Some value of the dtype and shape of `like`; often an input, since those are exact."""
        same = [node for node in self.pool if node.dtype is like.dtype]
        fits = [node for node in same if node.shape == like.shape]
        kind = self.choose(("input", "input", "fits", "fits", "any", "constant"))
        if kind == "constant":
            return self.constant(like)
        if kind == "input" or not same:
            exact = [node for node in fits if node in self.inputs]
            return self.choose(exact) if exact else self._kept(self.leaf(like.dtype, shape_of(like)))
        return self.choose(fits) if fits and kind == "fits" else self.fit(self.choose(same), shape_of(like))

    def _kept(self, node: Node) -> Node:
        """A new input is not the value that the next step goes on with."""
        self.pool.insert(0, self.pool.pop())
        return node

    def constant(self, like: Node) -> Node:
        """A number that invites a compiler to be clever."""
        if like.dtype is bool_:
            return const(self.choose((True, False)), bool_, like.shape)
        small = (0, 1, 2, 3, 7, 8, 41) + ((-1, -2, -5) if like.dtype.is_signed else ())
        return const(
            self.choose(small + ((0.5, -0.0, 1.7) if like.dtype.is_float else ())), like.dtype, like.shape
        )

    def fit(self, node: Node, shape: Shape) -> Node:
        """`node` in another shape: repeated, cut or filled up with zeros."""
        size, wanted = math.prod(shape_of(node)), math.prod(shape)
        flat = view.reshape(node, (size,))
        if size == 1:
            return view.expand(view.reshape(node, (1,) * len(shape)), shape)
        if size > wanted:
            start = self.choose((0, size - wanted))
            flat = view.shrink(flat, ((start, start + wanted),))
        elif size < wanted:
            before = self.choose((0, wanted - size))
            flat = view.pad(flat, ((before, wanted - size - before),))
        return view.reshape(flat, shape)

    def index(self, shape: Shape, length: int) -> Node:
        """Positions along an axis of that length, a few of them outside."""
        return self._kept(self.leaf(self._integer(), shape, -2, length + 1))

    def _integer(self) -> DType:
        wide = [dtype for dtype in self.numbers if dtype.is_integer and dtype.itemsize >= 2]
        return self.choose(wide) if wide else int32

    def bounds(self, node: Node) -> tuple[float, float]:
        """Least and greatest finite value that a correct device may hold."""
        known = self.oracle(node)
        with np.errstate(invalid="ignore"):
            low, high = known.value - known.error, known.value + known.error
        sure = np.isfinite(low) & np.isfinite(high) & ~known.free
        if not sure.any():
            return 0.0, 0.0
        return float(low[sure].min()), float(high[sure].max())

    def positive(self, node: Node) -> Node:
        """`node`, or something made of it that is well above zero."""
        if self.bounds(node)[0] >= 0.05:
            return node
        return compute(Op.ADD, compute(Op.MUL, node, node), const(0.5, node.dtype, node.shape))

    def small(self, node: Node, limit: float) -> Node:
        """`node`, or a fraction of it with magnitudes up to `limit`."""
        low, high = self.bounds(node)
        size = max(-low, high)
        if size <= limit:
            return node
        scale = 2.0 ** math.floor(math.log2(limit / size))
        if scale < format_of(node.dtype).smallest:
            return compute(Op.SIN, node)
        return compute(Op.MUL, node, const(scale, node.dtype, node.shape))

    def tamed(self, node: Node) -> Node:
        """`node`, brought back to a size that most operations bear."""
        if not node.dtype.is_float:
            return node
        return self.small(node, min(60.0, format_of(node.dtype).largest ** 0.5 / 2))


def shape_of(node: Node) -> Shape:
    """The shape of a node without symbols."""
    return tuple(int(size) for size in node.shape)
