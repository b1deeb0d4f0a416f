"""Reductions along axes: sums, extremes, moments, softmax and running totals.

Integer sums are int32 (bool and up to 32 bits), int64 or uint64 (64 bits), integer products always 64 bits;
half floats are accumulated in float32 and rounded once.
"""

from __future__ import annotations

import math
from typing import Any, Self

from petaflop.dtype import DType, bool_, float32, int32, int64, to_dtype, uint64
from petaflop.errors import ArgumentTypeError, DTypeError, IndexRangeError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, product
from petaflop.tensor import formulas
from petaflop.tensor.base import float_dtype
from petaflop.tensor.functions import Functions
from petaflop.tensor.value import Value, where

__all__ = ["Reductions", "accumulate_dtype", "sum_dtype"]


def sum_dtype(dtype: DType) -> DType:
    """The dtype of a sum: int32 where int32 suffices, else 64 bits; floats keep theirs."""
    if dtype.is_float:
        return dtype
    return uint64 if dtype is uint64 else int64 if dtype.bits > 32 or dtype.name == "uint32" else int32


def product_dtype(dtype: DType) -> DType:
    """The dtype of a product: 64 bits, since it grows past 32 within few factors; floats keep theirs."""
    return dtype if dtype.is_float or dtype is uint64 else int64


def accumulate_dtype(dtype: DType) -> DType:
    """What a sum of this dtype is accumulated in."""
    return float32 if dtype.is_float and dtype.itemsize < 4 else dtype


class Reductions(Functions):
    """What folds axes away; `axis` is an integer, several, or None for all (`dim` means the same)."""

    __slots__ = ()

    def _fold(self, op: Op, axes: tuple[int, ...], keepdim: bool, dtype: DType | None = None) -> Self:
        node = graph.reduce(op, self.node, axes, dtype)
        if not keepdim:
            node = view.reshape(node, tuple(size for axis, size in enumerate(node.shape) if axis not in axes))
        return self._wrap(node)

    def _total(self, op: Op, axes: tuple[int, ...], keepdim: bool, wanted: DType) -> Self:
        source = self if self.dtype.is_float == wanted.is_float else self.cast(wanted)
        return source._fold(op, axes, keepdim, accumulate_dtype(wanted)).cast(wanted)

    def sum(self, axis: Any = None, keepdim: bool = False, *, dtype: Any = None, dim: Any = None) -> Self:
        """The sum along axes; int32 for bool and integers up to 32 bits, else 64 bits.

        >>> Tensor([[1, 2], [3, 4]]).sum(0).tolist()
        [4, 6]
        """
        wanted = sum_dtype(self.dtype) if dtype is None else to_dtype(dtype)
        return self._total(Op.ADD, self._axes("sum", dim if axis is None else axis), keepdim, wanted)

    def prod(self, axis: Any = None, keepdim: bool = False, *, dtype: Any = None, dim: Any = None) -> Self:
        """The product along axes; int64 for bool and integers (uint64 for uint64).

        >>> Tensor([70000, 70000]).prod().item()
        4900000000
        """
        wanted = product_dtype(self.dtype) if dtype is None else to_dtype(dtype)
        return self._total(Op.MUL, self._axes("prod", dim if axis is None else axis), keepdim, wanted)

    def _not_empty(self, name: str, axes: tuple[int, ...]) -> None:
        if any(self.shape[axis] == 0 for axis in axes):
            raise IndexRangeError(f"{name}: expected at least one element along {axes}, got {self._text()}")

    def _extreme_axes(self, name: str, axis: Any) -> tuple[int, ...]:
        """The axes of max or min: RuntimeError for an empty tensor, IndexError for an empty axis."""
        if axis is None and self.numel() == 0:
            raise ShapeError(f"{name}: expected at least one element, got {self._text()}")
        axes = self._axes(name, axis)
        self._not_empty(name, axes)
        return axes

    def max(self, axis: Any = None, keepdim: bool = False, *, dim: Any = None) -> Self:
        """The largest element along axes; NaN if there is one. Gradients are shared among equal maxima."""
        axes = self._extreme_axes("max", dim if axis is None else axis)
        return self._fold(Op.MAX, axes, keepdim)

    amax = max

    def min(self, axis: Any = None, keepdim: bool = False, *, dim: Any = None) -> Self:
        """The smallest element along axes; NaN if there is one."""
        axes = self._extreme_axes("min", dim if axis is None else axis)
        return self._mirrored()._fold(Op.MAX, axes, keepdim)._mirrored()

    amin = min

    def _mirrored(self) -> Self:
        """An order-reversing map that is its own inverse: −x, ~x on integers (−x overflows)."""
        return -self if self.dtype.is_float else ~self

    def _float(self, name: str) -> Self:
        if not self.dtype.is_float:
            raise DTypeError(f"{name}: expected a float tensor, got {self.dtype}; cast it first")
        return self

    def _count(self, axes: tuple[int, ...]) -> Dim:
        return product([self.shape[axis] for axis in axes])

    def _over(self, count: Dim) -> Self:
        """Divided by a count that may be symbolic."""
        if isinstance(count, int):
            return self / float(count) if count else self * float("nan")
        return self / self._wrap(graph.cast(graph.variable(count), self.dtype))

    def mean(self, axis: Any = None, keepdim: bool = False, *, dtype: Any = None, dim: Any = None) -> Self:
        """The average along axes. RuntimeError for integers unless `dtype` says a float, as in PyTorch."""
        source = self._float("mean") if dtype is None else self.cast(dtype)
        axes = source._axes("mean", dim if axis is None else axis)
        wide = source._fold(Op.ADD, axes, keepdim, accumulate_dtype(source.dtype))
        return wide._over(source._count(axes)).cast(source.dtype)

    def var_mean(
        self,
        axis: Any = None,
        correction: float | None = None,
        keepdim: bool = False,
        *,
        dim: Any = None,
        unbiased: bool | None = None,
    ) -> tuple[Self, Self]:
        """(variance, mean) along axes; the sum of squares is divided by count − correction.

        The correction is 1 unless told; `unbiased=False` is the older way to say 0. A bool in place of the
        axes, as PyTorch takes it, is that too.
        """
        if isinstance(axis, bool):
            axis, unbiased = None, axis
        if unbiased is not None and correction is not None:
            raise ArgumentTypeError(f"var: expected correction or unbiased, got {correction} and {unbiased}")
        if correction is None:
            correction = 0 if unbiased is False else 1
        source = self._float("var")
        axes = source._axes("var", dim if axis is None else axis)
        wide = source.cast(accumulate_dtype(source.dtype))
        mean = wide.mean(axes, keepdim=True)
        centered = wide - mean
        total = (centered * centered).sum(axes, keepdim=True)
        count = source._count(axes)
        if isinstance(count, int):
            variance = total / max(count - correction, 0.0)  # by 0 it is infinite or NaN, as in PyTorch
        else:
            divisor = self._wrap(graph.cast(graph.variable(count), total.dtype)) - correction
            variance = total / divisor.maximum(0.0)
        results = tuple(
            t.cast(source.dtype) if keepdim else t.cast(source.dtype)._drop(axes) for t in (variance, mean)
        )
        return results[0], results[1]

    def _drop(self, axes: tuple[int, ...]) -> Self:
        """Without axes of size 1."""
        return self.reshape(tuple(size for axis, size in enumerate(self.shape) if axis not in axes))

    def var(
        self,
        axis: Any = None,
        correction: float | None = None,
        keepdim: bool = False,
        *,
        dim: Any = None,
        unbiased: bool | None = None,
    ) -> Self:
        """The variance along axes; see var_mean().

        >>> Tensor([1.0, 2.0, 3.0]).var().item(), Tensor([1.0, 3.0]).var(unbiased=False).item()
        (1.0, 1.0)
        """
        return self.var_mean(axis, correction, keepdim, dim=dim, unbiased=unbiased)[0]

    def std(
        self,
        axis: Any = None,
        correction: float | None = None,
        keepdim: bool = False,
        *,
        dim: Any = None,
        unbiased: bool | None = None,
    ) -> Self:
        """The standard deviation along axes; see var_mean()."""
        return self.var(axis, correction, keepdim, dim=dim, unbiased=unbiased)._root()

    def std_mean(
        self,
        axis: Any = None,
        correction: float | None = None,
        keepdim: bool = False,
        *,
        dim: Any = None,
        unbiased: bool | None = None,
    ) -> tuple[Self, Self]:
        """(standard deviation, mean) along axes; see var_mean()."""
        variance, mean = self.var_mean(axis, correction, keepdim, dim=dim, unbiased=unbiased)
        return variance._root(), mean

    def _root(self) -> Self:
        """The square root of a sum of squares, with a gradient of 0 where that is 0, as in PyTorch."""
        return self._apply(formulas.root)

    def any(self, axis: Any = None, keepdim: bool = False, *, dim: Any = None) -> Self:
        """Whether any element along axes is not 0."""
        return self.cast(bool_)._fold(Op.MAX, self._axes("any", dim if axis is None else axis), keepdim)

    def all(self, axis: Any = None, keepdim: bool = False, *, dim: Any = None) -> Self:
        """Whether no element along axes is 0."""
        return self.cast(bool_)._fold(Op.MUL, self._axes("all", dim if axis is None else axis), keepdim)

    def allclose(self, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
        """Whether all elements are close to those of `other`; computes."""
        return bool(self.isclose(other, rtol, atol, equal_nan).all())

    # ---- where the extremes are ----

    def argmax(self, axis: int | None = None, keepdim: bool = False, *, dim: int | None = None) -> Self:
        """The int32 index of the first maximum along an axis, or in the flat tensor; NaN is the largest."""
        return self._arg("argmax", dim if axis is None else axis, keepdim, largest=True)

    def argmin(self, axis: int | None = None, keepdim: bool = False, *, dim: int | None = None) -> Self:
        """The int32 index of the first minimum along an axis, or in the flat tensor; NaN is the smallest."""
        return self._arg("argmin", dim if axis is None else axis, keepdim, largest=False)

    def _arg(self, name: str, axis: int | None, keepdim: bool, largest: bool) -> Self:
        if axis is None:
            flat = self.flatten()._arg(name, 0, False, largest)
            return flat.reshape((1,) * self.ndim) if keepdim else flat
        number = self._axis(name, axis)
        if not self.shape:
            return self._wrap(graph.const(0, int32))
        self._not_empty(name, (number,))
        ordered = self.detach() if largest else self.detach()._mirrored()
        best = ordered._fold(Op.MAX, (number,), True).expand(self.shape)
        hit = ordered.eq(best)
        if self.dtype.is_float:
            hit = hit | (ordered.isnan() & best.isnan())
        # the first hit: the largest distance from the end
        size = self.shape[number]
        backwards = graph.iota(self.shape, number)
        distance = where(Value(hit.node), Value(backwards) * -1, -(1 << 31))
        first = self._wrap(distance.node)._fold(Op.MAX, (number,), keepdim)
        assert size != 0
        return -first

    # ---- softmax and its like ----

    def logsumexp(self, axis: Any = None, keepdim: bool = False, *, dim: Any = None) -> Self:
        """log Σ exp along axes, without overflow."""
        axes = self._axes("logsumexp", dim if axis is None else axis)
        source = self.cast(float_dtype(self.dtype))
        high = source.detach()._fold(Op.MAX, axes, True)
        high = high.isfinite().where(high, 0.0)
        total = (source - high).exp().sum(axes, keepdim=True).log() + high
        return total if keepdim else total._drop(axes)

    def softmax(self, axis: int = -1, dtype: Any = None, *, dim: int | None = None) -> Self:
        """exp(x) / Σ exp(x) along an axis, one kernel; half floats are computed in float32."""
        exponents, number, kind = self._shifted("softmax", axis if dim is None else dim, dtype)
        powers = exponents.exp()
        return (powers / powers._fold(Op.ADD, number, True)).cast(kind)

    def _shifted(self, name: str, axis: int, dtype: Any) -> tuple[Self, tuple[int, ...], DType]:
        """x − max(x) along an axis, in the dtype to compute in; the axis; the dtype of the result."""
        source = self.cast(float_dtype(self.dtype) if dtype is None else dtype)
        kind = source.dtype
        number = (source._axis(name, axis),) if self.shape else source._axes(name, axis)
        wide = source.cast(accumulate_dtype(kind))
        return wide - wide.detach()._fold(Op.MAX, number, True), number, kind

    def log_softmax(self, axis: int = -1, dtype: Any = None, *, dim: int | None = None) -> Self:
        """log of softmax, without cancellation."""
        shifted, number, kind = self._shifted("log_softmax", axis if dim is None else dim, dtype)
        return (shifted - shifted.exp()._fold(Op.ADD, number, True).log()).cast(kind)

    def softmin(self, axis: int = -1, dtype: Any = None, *, dim: int | None = None) -> Self:
        """softmax of −x."""
        return (-self).softmax(axis if dim is None else dim, dtype)

    def norm(self, p: float = 2.0, axis: Any = None, keepdim: bool = False, *, dim: Any = None) -> Self:
        """The p-norm along axes: (Σ |x|ᵖ)^(1/p); p may be ±inf and 0."""
        axes = self._float("norm")._axes("norm", dim if axis is None else axis)
        if p == math.inf:
            return abs(self).max(axes, keepdim)  # type: ignore[return-value]
        if p == -math.inf:
            return abs(self).min(axes, keepdim)  # type: ignore[return-value]
        if p == 0:
            return self.ne(0).cast(self.dtype).sum(axes, keepdim)
        if p == 1:
            return abs(self).sum(axes, keepdim)  # type: ignore[return-value]
        if p == 2:
            return (self * self).sum(axes, keepdim)._root()
        total = (abs(self) ** p).sum(axes, keepdim)
        zero = total.eq(0)  # where the gradient is 0
        return zero.where(0.0, zero.where(1.0, total) ** (1 / p))

    def normalize(self, p: float = 2.0, axis: int = 1, eps: float = 1e-12, *, dim: int | None = None) -> Self:
        """x / max(norm(x), eps) along an axis."""
        return self / self.norm(p, axis if dim is None else dim, keepdim=True).clamp(min=eps)

    # ---- running ----

    def _scan(self, op: Op, axis: int, dtype: DType | None = None) -> Self:
        if not self.shape:
            return self if dtype is None else self.cast(dtype)
        return self._wrap(graph.scan(op, self.node, axis, dtype))

    def cumsum(self, axis: int = 0, dtype: Any = None, *, dim: int | None = None) -> Self:
        """The running sum along an axis; the dtype is that of sum()."""
        wanted = sum_dtype(self.dtype) if dtype is None else to_dtype(dtype)
        return self._running("cumsum", Op.ADD, axis if dim is None else dim, wanted)

    def cumprod(self, axis: int = 0, dtype: Any = None, *, dim: int | None = None) -> Self:
        """The running product along an axis; the dtype is that of prod()."""
        wanted = product_dtype(self.dtype) if dtype is None else to_dtype(dtype)
        return self._running("cumprod", Op.MUL, axis if dim is None else dim, wanted)

    def _running(self, name: str, op: Op, axis: int, wanted: DType) -> Self:
        number = self._axis(name, axis)
        source = self if self.dtype.is_float == wanted.is_float else self.cast(wanted)
        return source._scan(op, number, accumulate_dtype(wanted)).cast(wanted)

    def cummax(self, axis: int = 0, *, dim: int | None = None) -> tuple[Self, Self]:
        """(running maximum, int32 index of its last occurrence) along an axis; NaN is the largest."""
        return self._extreme("cummax", axis if dim is None else dim, largest=True)

    def cummin(self, axis: int = 0, *, dim: int | None = None) -> tuple[Self, Self]:
        """(running minimum, int32 index of its last occurrence) along an axis; NaN is the smallest."""
        return self._extreme("cummin", axis if dim is None else dim, largest=False)

    def _extreme(self, name: str, axis: int, largest: bool) -> tuple[Self, Self]:
        number = self._axis(name, axis)
        if not self.shape:
            return self, self._wrap(graph.const(0, int32))
        ordered = self.detach() if largest else self.detach()._mirrored()
        running = ordered._scan(Op.MAX, number)
        hit = ordered.eq(running)
        if self.dtype.is_float:
            hit = hit | ordered.isnan()
        positions = where(Value(hit.node), Value(graph.iota(self.shape, number)), 0)
        indices = self._wrap(positions.node)._scan(Op.MAX, number)
        return self._wrap(graph.gather(self.node, indices.node, number)), indices

    def logcumsumexp(self, axis: int = 0, *, dim: int | None = None) -> Self:
        """log of the running Σ exp along an axis, relative to the running maximum."""
        number = self._axis("logcumsumexp", axis if dim is None else dim)
        source = self.cast(float_dtype(self.dtype))
        return source.cast(accumulate_dtype(source.dtype))._log_of_running(number).cast(source.dtype)

    def _log_of_running(self, number: int) -> Self:
        if not self.shape:
            return self
        size = self.shape[number]
        # row i of a square holds exp(x[j] − max(x[..i])) for j <= i
        high = self.detach()._scan(Op.MAX, number)
        high = high.isfinite().where(high, 0.0)
        rows, columns = self.unsqueeze(number), high.unsqueeze(number + 1)
        shape = (*self.shape[:number], size, size, *self.shape[number + 1 :])
        later = graph.compute(Op.LT, graph.iota(shape, number), graph.iota(shape, number + 1))
        powers = self._wrap(later).where(0.0, (rows - columns).exp())
        return powers._fold(Op.ADD, (number + 1,), False).log() + high
