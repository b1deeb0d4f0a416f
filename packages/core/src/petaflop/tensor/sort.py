"""Sorting: stable, by counting for each element how many come before it; by a bitonic network for long axes.

Both are branch-free and run as fused kernels. NaN sorts as the largest, as in PyTorch and NumPy.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from petaflop.dtype import float32, int32, uint32
from petaflop.errors import ArgumentError, DTypeError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.tensor.gathering import Gathering
from petaflop.tensor.value import Value, where

__all__ = ["Sorting"]

_MAX_COUNTED = 1024  # up to here n² comparisons are one kernel; beyond, a network of log² n stages


class Sorting(Gathering):
    """sort, argsort, topk, and what draws by weight."""

    __slots__ = ()

    def sort(self, dim: int = -1, descending: bool = False, stable: bool = True) -> tuple[Self, Self]:
        """(values in order, their int32 indices) along an axis; equal elements keep their order.

        >>> [t.tolist() for t in Tensor([3, 1, 2]).sort()]
        [[1, 2, 3], [1, 2, 0]]
        """
        order = self.argsort(dim, descending, stable)
        if not self.shape:
            return self, order
        return self.gather(dim, order), order

    def argsort(self, dim: int = -1, descending: bool = False, stable: bool = True) -> Self:
        """The int32 indices that sort along an axis; equal elements keep their order."""
        axis = self._axis("argsort", dim)
        if not self.shape:
            return self._wrap(graph.const(0, int32))
        size = self.shape[axis]
        if not isinstance(size, int):
            raise ShapeError(f"sort: expected a known size along axis {axis}, got {size}")
        last = self.detach().movedim(axis, -1)
        found = last._counted_order(descending) if size <= _MAX_COUNTED else last._network_order(descending)
        return found.movedim(-1, axis)

    def _counted_order(self, descending: bool) -> Self:
        """Rank = how many come before; then the inverse permutation: the index whose rank is i."""
        size = self.shape[-1]
        shape = (*self.shape, size)
        mine = Value(self.unsqueeze(-1).expand(shape).node)
        other = Value(self.unsqueeze(-2).expand(shape).node)
        row, column = Value(graph.iota(shape, self.ndim - 1)), Value(graph.iota(shape, self.ndim))
        before = _comes_before(other, mine, descending) | (_ties(other, mine) & (column < row))
        rank = self._wrap(before.cast(int32).node)._fold(Op.ADD, (self.ndim,), False)
        hit = Value(rank.unsqueeze(-2).expand(shape).node).eq(row)
        return self._wrap(where(hit, column, 0).node)._fold(Op.MAX, (self.ndim,), False)

    def _network_order(self, descending: bool) -> Self:
        """A bitonic network over a power of two; what pads it sorts last."""
        size = int(self.shape[-1])
        stages = (size - 1).bit_length()
        full = 1 << stages
        widths = ((0, 0),) * (self.ndim - 1) + ((0, full - size),)
        keys = graph.realize(view.pad(self.node, widths))
        order = graph.iota(keys.shape, self.ndim - 1)
        order = graph.realize(order)
        powers = [self._power_of_two(bit, keys.shape) for bit in range(stages + 1)]
        for stage in range(1, stages + 1):
            for step in range(stage - 1, -1, -1):
                keys, order = _exchange(keys, order, powers[step], powers[stage], size, descending)
                # stored after each step: what reads two elements that read two elements … grows as fast as 2ⁿ
                keys, order = graph.realize(keys), graph.realize(order)
        return self._wrap(order)._part(self.ndim - 1, 0, size)

    def _power_of_two(self, bit: int, shape: Any) -> Value:
        """2^bit as data: so every step of a network is the same kernel."""
        number = type(self)(np.array(1 << bit, np.int32), device=self.device)
        return Value(number.expand(shape).node)

    def topk(self, k: int, dim: int = -1, largest: bool = True, sorted_: bool = True) -> tuple[Self, Self]:
        """(the k largest, their int32 indices) along an axis, in order; the smallest with `largest=False`."""
        axis = self._axis("topk", dim)
        size = self.shape[axis] if self.shape else 1
        if not 0 <= k <= size:
            raise ShapeError(f"topk: expected 0 <= k <= {size}, got {k} for {self._text()}")
        values, order = self.sort(dim, descending=largest)
        if not self.shape:
            return values, order
        return values._part(axis, 0, k), order._part(axis, 0, k)

    def kthvalue(self, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Self, Self]:
        """(the k-th smallest, its index) along an axis; k counts from 1."""
        axis = self._axis("kthvalue", dim)
        if not 1 <= k <= self.shape[axis]:
            raise ArgumentError(f"kthvalue: expected 1 <= k <= {self.shape[axis]}, got {k}")
        parts = tuple(part._part(axis, k - 1, k) for part in self.sort(dim))
        return (parts[0], parts[1]) if keepdim else (parts[0].squeeze(axis), parts[1].squeeze(axis))

    # ---- draws ----

    def multinomial(self, num_samples: int = 1, replacement: bool = False) -> Self:
        """int32 indices of the last axis, drawn by weights >= 0 that need not add up to 1.

        Without replacement the k largest of log(weight) + Gumbel noise: a draw without replacement of just
        these probabilities.
        """
        if self.ndim not in (1, 2) or num_samples < 1:
            raise ArgumentError(f"multinomial: expected 1 or 2 axes and samples > 0, got {self._text()}")
        if not self.dtype.is_float:
            raise DTypeError(f"multinomial: expected float weights, got {self.dtype}")
        weights = self.detach().cast(float32)
        if replacement:
            running = weights.cumsum(-1)
            total = running._part(self.ndim - 1, self.shape[-1] - 1, self.shape[-1])
            drawn = self.rand(*self.shape[:-1], num_samples, device=self.device) * total
            below = running.unsqueeze(-2) <= drawn.unsqueeze(-1)
            return below.cast(int32).sum(-1).clamp(max=self.shape[-1] - 1)
        if isinstance(self.shape[-1], int) and num_samples > self.shape[-1]:
            raise ShapeError(f"multinomial: expected at most {self.shape[-1]} samples, got {num_samples}")
        uniform = 1 - self.rand(*self.shape, device=self.device)  # (0, 1]
        return (-(uniform.log()) / weights).topk(num_samples, largest=False)[1]

    @classmethod
    def randperm(cls, n: int, dtype: Any = None, device: str | None = None) -> Self:
        """A random order of 0 … n − 1, int32 unless told."""
        if n < 0:
            raise ShapeError(f"randperm: expected n >= 0, got {n}")
        if n == 0:
            return cls.zeros(0, dtype=dtype or int32, device=device)
        drawn = cls._drawn(cls._words((n,), device), uint32, device, False)
        return drawn.argsort().cast(dtype or int32)


def _comes_before(a: Value, b: Value, descending: bool) -> Value:
    """Whether a sorts strictly before b; NaN is the largest."""
    smaller, larger = (b, a) if descending else (a, b)
    result = smaller < larger
    if a.dtype.is_float:
        result = result | (larger.isnan() & ~smaller.isnan())
    return result


def _ties(a: Value, b: Value) -> Value:
    return a.eq(b) | (a.isnan() & b.isnan()) if a.dtype.is_float else a.eq(b)


def _exchange(
    keys: Node, order: Node, distance: Value, span: Value, size: int, descending: bool
) -> tuple[Node, Node]:
    """One step of the network: each element against its partner `distance` away, up or down by `span`."""
    axis = len(keys.shape) - 1
    position = Value(graph.iota(keys.shape, axis))
    partner = (position ^ distance).node
    mine, mine_order = Value(keys), Value(order)
    other, other_order = Value(graph.gather(keys, partner, axis)), Value(graph.gather(order, partner, axis))
    upper, falling = (position & distance).ne(0), (position & span).ne(0)
    other_pad, mine_pad = other_order > size - 1, mine_order > size - 1
    known = _comes_before(other, mine, descending) | (_ties(other, mine) & (other_order < mine_order))
    before = where(mine_pad.ne(other_pad), mine_pad, where(mine_pad, other_order < mine_order, known))
    # the lower of a rising pair takes what comes before; the upper, or either of a falling pair, the opposite
    take = before.ne(upper.ne(falling))
    return where(take, other, mine).node, where(take, other_order, mine_order).node
