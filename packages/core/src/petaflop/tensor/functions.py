"""The functions of mathematics as methods: each one line over `formulas`, where the accuracy is stated.

Integers and bool give float32; NaN goes through.
"""

from __future__ import annotations

from typing import Self

from petaflop.dtype import bool_, float32, float64
from petaflop.errors import DTypeError
from petaflop.graph import node as graph
from petaflop.tensor import formulas
from petaflop.tensor.elementwise import Elementwise
from petaflop.tensor.formulas import Function
from petaflop.tensor.value import Value

__all__ = ["Functions"]


class Functions(Elementwise):
    """exp, log, sin and their like."""

    __slots__ = ()

    def _apply(self, function: Function) -> Self:
        return self._wrap(function(Value(self.node)).node)

    def _round(self, name: str, function: Function) -> Self:
        return self._apply(function) if self.dtype.is_float else self._number(name)

    def sign(self) -> Self:
        """−1, 0 or 1, of this dtype; 0 for NaN."""
        return self._apply(formulas.sign)

    def square(self) -> Self:
        """self · self, of the dtype of self ** 2."""
        return self.pow(2)

    def sqrt(self) -> Self:
        """√x, correctly rounded; NaN below 0."""
        return self._apply(formulas.sqrt)

    def rsqrt(self) -> Self:
        """1/√x."""
        return self._apply(formulas.rsqrt)

    def reciprocal(self) -> Self:
        """1/x, correctly rounded."""
        return 1 / self

    def exp(self) -> Self:
        """eˣ within 4 ULP."""
        return self._apply(formulas.exp)

    def exp2(self) -> Self:
        """2ˣ."""
        return self._apply(formulas.exp2)

    def expm1(self) -> Self:
        """eˣ − 1, accurate near 0."""
        return self._apply(formulas.expm1)

    def log(self) -> Self:
        """The natural logarithm within 4 ULP; −inf at 0, NaN below."""
        return self._apply(formulas.log)

    def log2(self) -> Self:
        """The logarithm to base 2."""
        return self._apply(formulas.log2)

    def log10(self) -> Self:
        """The logarithm to base 10."""
        return self._apply(formulas.log10)

    def log1p(self) -> Self:
        """log(1 + x), accurate near 0."""
        return self._apply(formulas.log1p)

    def sin(self) -> Self:
        """The sine of radians, over the whole range."""
        return self._apply(formulas.sin)

    def cos(self) -> Self:
        """The cosine of radians: 1 − 2·sin²(x/2)."""
        return self._apply(formulas.cos)

    def tan(self) -> Self:
        """The tangent of radians."""
        return self._apply(formulas.tan)

    def asin(self) -> Self:
        """The inverse of sin; NaN outside [−1, 1]."""
        return self._apply(formulas.asin)

    def acos(self) -> Self:
        """The inverse of cos; NaN outside [−1, 1]."""
        return self._apply(formulas.acos)

    def atan(self) -> Self:
        """The inverse of tan."""
        return self._apply(formulas.atan)

    def sinh(self) -> Self:
        """The hyperbolic sine."""
        return self._apply(formulas.sinh)

    def cosh(self) -> Self:
        """The hyperbolic cosine."""
        return self._apply(formulas.cosh)

    def tanh(self) -> Self:
        """The hyperbolic tangent within 4 ULP."""
        return self._apply(formulas.tanh)

    def asinh(self) -> Self:
        """The inverse of sinh."""
        return self._apply(formulas.asinh)

    def acosh(self) -> Self:
        """The inverse of cosh; NaN below 1."""
        return self._apply(formulas.acosh)

    def atanh(self) -> Self:
        """The inverse of tanh; infinite at ±1, NaN outside."""
        return self._apply(formulas.atanh)

    def erf(self) -> Self:
        """The error function within 6 ULP."""
        return self._apply(formulas.erf)

    def sigmoid(self) -> Self:
        """1/(1 + e⁻ˣ) within 6 ULP, without overflow."""
        return self._apply(formulas.sigmoid)

    def floor(self) -> Self:
        """The largest integer that is not above x; integers stay."""
        return self._round("floor", formulas.floor)

    def ceil(self) -> Self:
        """The smallest integer that is not below x."""
        return self._round("ceil", formulas.ceil)

    def round(self, *, decimals: int = 0) -> Self:
        """The nearest integer, ties to even; or the nearest multiple of 10 to the power of −`decimals`.

        As in PyTorch, x·10ᵈ is rounded and divided again, so ties are those of the product. DTypeError for
        integers unless `decimals` is 0.

        >>> Tensor([1.25, 1250.0]).round(decimals=-2).tolist(), Tensor(0.126).round(decimals=2).item() < 0.131
        ([0.0, 1200.0], True)
        """
        if not decimals:
            return self._round("round", formulas.round_)
        if not self.dtype.is_float:
            raise DTypeError(
                f"round: expected a float tensor for {decimals=}, got {self.dtype}; cast it first"
            )
        wide = self if self.dtype.bits > 16 else self.cast(float32)
        limit = 308 if wide.dtype is float64 else 38
        scale = 10.0 ** min(abs(decimals), limit)
        if decimals > 0:
            scaled = wide * scale
            rounded = scaled.isfinite().where(
                scaled.round() / scale, wide.detach()
            )  # too large for a fraction
        else:
            rounded = (wide / scale).round() * scale
        return rounded.cast(self.dtype)

    def trunc(self) -> Self:
        """The integer part, towards 0."""
        return self._round("trunc", formulas.trunc)

    def isnan(self) -> Self:
        """Whether each element is NaN."""
        return self.ne(self) if self.dtype.is_float else self._falses()

    def isinf(self) -> Self:
        """Whether each element is infinite."""
        return (
            self._apply(lambda x: x.magnitude().eq(float("inf"))) if self.dtype.is_float else self._falses()
        )

    def isfinite(self) -> Self:
        """Whether each element is neither NaN nor infinite."""
        if not self.dtype.is_float:
            return self._falses().logical_not()
        return self._apply(lambda x: x.magnitude() < float("inf"))

    def _falses(self) -> Self:
        return self._wrap(graph.const(False, bool_, self.shape))
