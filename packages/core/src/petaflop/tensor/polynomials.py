"""Polynomials and quotients of them at a value, by the names of their rows in coefficients.py."""

from __future__ import annotations

from collections.abc import Sequence

from petaflop.tensor.coefficients import polynomial, rational
from petaflop.tensor.value import Value, where

__all__ = ["horner", "saturating"]


def horner(name: str, z: Value) -> Value:
    """The polynomial `name` at z."""
    return _horner(polynomial(name, z.dtype), z)


def _horner(coefficients: Sequence[float], z: Value) -> Value:
    first, second, *rest = coefficients
    result = z * first + second
    for coefficient in rest:
        result = result * z + coefficient
    return result


def saturating(name: str, x: Value) -> Value:
    """An odd function that reaches ±1, as one quotient of polynomials: in float32 that is accurate enough."""
    end, above, below = rational(name)
    x = _within(end, x)
    z = x * x
    return _within(1.0, x * _horner(above, z) / _horner(below, z))


def _within(end: float, x: Value) -> Value:
    """x between -end and end; NaN stays."""
    x = where(x < -end, -end, x)
    return where(x > end, end, x)
