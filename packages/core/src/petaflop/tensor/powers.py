"""x ** y: within 16 ULP for floats, by a logarithm of double precision; by squaring for integers."""

from __future__ import annotations

from petaflop.dtype import float32
from petaflop.graph import node as graph
from petaflop.graph.node import Node
from petaflop.ir.custom import GradientTemplate
from petaflop.tensor.formulas import (
    _FORMATS,
    INFINITY,
    LN2,
    LOG2E,
    LOG2E_REST,
    _halves,
    floor,
    horner,
    log,
    rsqrt,
    sqrt,
    two_product,
)
from petaflop.tensor.value import Value, where

__all__ = ["integer_power", "power", "power_constant"]

_MOST_MULTIPLIES = 16  # x**16 by squaring is still within 16 ULP


def power_constant(x: Value, exponent: float) -> Value | None:
    """x ** exponent for the exponents that have a shorter way; None for others."""
    if exponent == 0:
        return x.constant(1)
    if exponent == 0.5 and x.dtype.is_float:
        return sqrt(x)
    if exponent == -0.5 and x.dtype.is_float:
        return rsqrt(x)
    if exponent != int(exponent) if abs(exponent) < INFINITY else True:
        return None
    if (exponent > _MOST_MULTIPLIES and x.dtype.is_float) or exponent < -8:
        return None
    # the inverse first: x ** 3 may overflow where x ** -3 is a number
    return _by_squaring(1 / x if exponent < 0 else x, abs(int(exponent)))


def _by_squaring(x: Value, exponent: int) -> Value:
    result: Value | None = None
    while True:
        if exponent & 1:
            result = x if result is None else result * x
        exponent >>= 1
        if not exponent:
            assert result is not None
            return result
        x = x * x


def integer_power(x: Value, y: Value) -> Value:
    """Wrapping x ** y; a negative y gives 0 but for x = 1 and x = −1."""
    result, base = x.constant(1), x
    bits = y.dtype.bits - y.dtype.is_signed
    for bit in range(bits):
        result = result * where((y & (1 << bit)).ne(0), base, 1)
        base = base * base
    if not y.dtype.is_signed:
        return result
    odd = (y & 1).ne(0)
    inverse = where(x.eq(1), x.constant(1), where(x.eq(-1), where(odd, x.constant(-1), 1), 0))
    return where(y < 0, inverse, result)


def power(x: Value, y: Value) -> Value:
    """x ** y of one float dtype, with C's special cases: 0**0 = 1, a negative base wants an integer
    exponent."""
    if x.dtype not in _FORMATS:
        return power(x.cast(float32), y.cast(float32)).cast(x.dtype)
    value = _power(x.detach(), y.detach())
    if not (x.node.needs_gradient or y.node.needs_gradient):
        return value
    return Value(graph.custom(_TEMPLATE, (value.node, x.node, y.node), x.dtype, x.node.shape))


def _adjoint(node: Node, grad: Node) -> tuple[Node, Node]:
    x, y, g = Value(node.sources[1]), Value(node.sources[2]), Value(grad)
    to_x = where(y.eq(0), 0.0, g * y * power(x, y - 1))
    to_y = where(x.eq(0) & (y >= 0), 0.0, g * Value(node) * log(x))
    return to_x.node, to_y.node


_TEMPLATE = GradientTemplate("pow", _adjoint)


def _power(x: Value, y: Value) -> Value:
    size = x.magnitude()
    high, low = _log2_pair(size)
    product, error = two_product(y, high)
    error = error + y * low
    error = where(error.magnitude() < 1.0, error, 0.0)
    value = product.exp2() * (error * LN2 + 1)
    ordinary = (product.magnitude() < INFINITY) & size.ne(0) & (size < INFINITY)
    value = where(ordinary, value, (size.log2() * y).exp2())
    whole = floor(y).eq(y)
    odd = whole & floor(y * 0.5).ne(y * 0.5)
    negative = (x < 0) | (x.eq(0) & ((1 / x) < 0))
    value = where(negative & odd, -value, value)
    value = where((x < 0) & ~whole & (size < INFINITY), float("nan"), value)
    value = where(y.eq(0) | x.eq(1) | (x.eq(-1) & y.magnitude().eq(INFINITY)), 1.0, value)
    return where(x.isnan() & y.ne(0), x, value)


def _log2_pair(x: Value) -> tuple[Value, Value]:
    """log2 of x > 0 as a sum of two: exponent + 2/ln 2 · atanh((m − 1)/(m + 1)) with √½ ≤ m < √2."""
    form = _FORMATS[x.dtype]
    least = 2.0 ** (-126 if x.dtype is float32 else -1022)
    tiny = x < least
    scale = 2.0 ** (form.mantissa + 1)
    bits = where(tiny, x * scale, x).bitcast(form.bits)
    root = _SQRT_HALF_BITS[form.mantissa]
    exponent = (bits - root) / (1 << form.mantissa)
    m = (bits - exponent * (1 << form.mantissa)).bitcast(x.dtype)
    whole = exponent.cast(x.dtype) - where(tiny, x.constant(form.mantissa + 1), 0.0)
    above, below = m - 1, m + 1
    lost = (1 - below) + m  # what m + 1 rounded away
    s = above / below
    product, error = two_product(s, below)
    rest = ((above - product) - error - s * lost) / below
    z = s * s
    factor = 2 * LOG2E
    first = _halves(factor, form.mantissa + 1)
    main, lower = two_product(s, s.constant(first))
    lower = lower + s * (factor - first + 2 * LOG2E_REST) + rest * factor + s * z * horner("log2", z) * factor
    total = whole + main
    carry = where(whole.eq(0), 0.0, (whole - total) + main)
    rest = carry + lower
    high = total + rest
    return high, (total - high) + rest


_SQRT_HALF_BITS = {23: 0x3F3504F3, 52: 0x3FE6A09E667F3BCD}
