"""Activation functions, by the names and the definitions of PyTorch."""

from __future__ import annotations

import math
from typing import Any, Self

from petaflop.errors import ArgumentError
from petaflop.tensor import formulas
from petaflop.tensor.base import float_dtype
from petaflop.tensor.reduce import Reductions, accumulate_dtype
from petaflop.tensor.value import Value, where

__all__ = ["Activations"]


class Activations(Reductions):
    """Each is one fused kernel with what comes before it; integers give float32, but for relu and its kin."""

    __slots__ = ()

    def _value(self) -> Value:
        """This tensor in the dtype to compute in: float32 for halves, so that they are rounded once."""
        return Value(self.cast(accumulate_dtype(float_dtype(self.dtype))).node)

    def _rounded_once(self, value: Value) -> Self:
        return self._of(value.cast(float_dtype(self.dtype)))

    def relu(self) -> Self:
        """max(x, 0); the gradient at 0 is 0, NaN stays NaN."""
        x = Value(self._number("relu").node)
        cut = x.detach().maximum(0)
        return self._of(where(cut.ne(0), x, cut) if x.node.needs_gradient else cut)

    def relu6(self) -> Self:
        """min(max(x, 0), 6)."""
        return self.hardtanh(0, 6)

    def hardtanh(self, min_val: float = -1, max_val: float = 1) -> Self:
        """x cut at both ends, where the gradient is 0."""
        x = Value(self.node)
        inside = (x > min_val) & (x < max_val)
        cut = x.detach().maximum(min_val).minimum(max_val)
        return self._of(where(inside, x, cut))

    def silu(self) -> Self:
        """x · sigmoid(x)."""
        x = self._value()
        return self._rounded_once(x * formulas.sigmoid(x))

    swish = silu

    def gelu(self, approximate: str = "none") -> Self:
        """x · Φ(x) by erf, or its "tanh" approximation."""
        x = self._value()
        if approximate == "none":
            return self._rounded_once(x * ((formulas.erf(x * math.sqrt(0.5)) + 1) * 0.5))
        if approximate != "tanh":
            raise ArgumentError(f"gelu: expected approximate none or tanh, got {approximate!r}")
        twice = (x + x * x * x * 0.044715) * math.sqrt(8 / math.pi)
        return self._rounded_once(x * formulas.sigmoid(twice))  # (1 + tanh u)/2, and exact where it is small

    def quick_gelu(self) -> Self:
        """x · sigmoid(1.702 x)."""
        x = self._value()
        return self._rounded_once(x * formulas.sigmoid(x * 1.702))

    def elu(self, alpha: float = 1.0) -> Self:
        """x above 0, alpha · (eˣ − 1) below."""
        x = self._value()
        return self._rounded_once(where(x > 0, x, formulas.expm1(where(x > 0, 0.0, x)) * alpha))

    def celu(self, alpha: float = 1.0) -> Self:
        """x above 0, alpha · (e^(x/alpha) − 1) below."""
        if alpha == 0:
            raise ArgumentError("celu: expected alpha other than 0, got 0")
        x = self._value()
        return self._rounded_once(where(x > 0, x, formulas.expm1(where(x > 0, 0.0, x) / alpha) * alpha))

    def selu(self) -> Self:
        """elu with the scale and alpha that keep mean 0 and variance 1."""
        x = self._of(self._value()).elu(1.6732632423543772)
        return self._rounded_once(Value(x.node) * 1.0507009873554805)

    def softplus(self, beta: float = 1.0, threshold: float = 20.0) -> Self:
        """log(1 + e^(beta·x)) / beta; x itself where beta·x > threshold."""
        x = self._value()
        scaled = x * beta
        large = scaled > threshold
        return self._rounded_once(
            where(large, x, formulas.log1p(formulas.exp(where(large, 0.0, scaled))) / beta)
        )

    def logsigmoid(self) -> Self:
        """log(sigmoid(x)) without overflow."""
        x = self._value()
        magnitude = where(x < 0, x, -x)
        return self._rounded_once(where(x < 0, x, 0.0) - formulas.log1p(formulas.exp(magnitude)))

    def mish(self) -> Self:
        """x · tanh(softplus(x))."""
        x = self._value()
        return self._rounded_once(x * Value(self._of(x).softplus().tanh().node))

    def softsign(self) -> Self:
        """x / (1 + |x|)."""
        x = self._value()
        return self._rounded_once(x / (x.magnitude() + 1))

    def leaky_relu(self, negative_slope: float = 0.01) -> Self:
        """x above 0, negative_slope · x below."""
        x = self._value()
        return self._rounded_once(where(x > 0, x, x * negative_slope))

    def prelu(self, weight: Any) -> Self:
        """leaky_relu with a slope for each channel (axis 1)."""
        slope = self._lift(weight)
        if slope.numel() != 1 and self.ndim > 1:
            slope = slope.reshape((1, -1) + (1,) * (self.ndim - 2))
        return (self > 0).where(self, self * slope)

    def hardsigmoid(self) -> Self:
        """x/6 + 1/2, cut to [0, 1]."""
        return self._rounded_once(self._hard_gate() / 6.0)

    def _hard_gate(self) -> Value:
        return Value((self._of(self._value()) + 3.0).hardtanh(0, 6).node)

    def hardswish(self) -> Self:
        """x · hardsigmoid(x)."""
        return self._rounded_once(self._value() * self._hard_gate() / 6.0)
