"""Functions of one element composed from the primitives, within stated ULP. Values in, values out.

`derived` gives each its own gradient, written in the same functions, so that it can be differentiated again.
float16, bfloat16 and float8 are computed in float32: excess precision on some devices must not change bit
tricks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from petaflop.dtype import DType, bool_, float32, float64, int8, int16, int32, int64
from petaflop.graph import node as graph
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.ir.custom import GradientTemplate
from petaflop.tensor.polynomials import horner, saturating
from petaflop.tensor.value import Value, where

__all__ = ["derived"]

Function = Callable[[Value], Value]
INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class Format:
    """What the bit tricks need to know of a float format."""

    bits: DType  # the integer of the same size
    mantissa: int  # stored bits
    split: int  # low bits cleared to halve a significand
    log2e_high: float  # 1/ln 2 in half a significand, so that products of halves are exact


def _halves(value: float, bits: int) -> float:
    """`value` rounded to `bits` significant bits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(mantissa, bits)), exponent - bits)


LN2 = math.log(2)
LOG2E = 1 / LN2
LOG2E_REST = 2.0355273740931033e-17  # 1/ln 2 beyond LOG2E
_FORMATS = {
    float32: Format(int32, 23, 12, _halves(LOG2E, 12)),
    float64: Format(int64, 52, 27, _halves(LOG2E, 26)),
}
_BITS = {1: int8, 2: int16, 4: int32, 8: int64}


def _flat(node: Node, grad: Node) -> list[Node]:
    """Gradients of 0: as in PyTorch, a step function has one."""
    return [graph.const(0, source.dtype, source.shape) for source in node.sources[1:]]


_STEP = GradientTemplate("step", _flat)


def stepped(value: Value, *sources: Value) -> Value:
    """A value that is constant between jumps of its sources: their gradients are 0."""
    if not any(source.node.needs_gradient for source in sources):
        return value
    nodes = (graph.detach(value.node), *(source.node for source in sources))
    return Value(graph.custom(_STEP, nodes, value.dtype, value.node.shape))


def derived(slope: Callable[[Value, Value], Value] | None) -> Callable[[Function], Function]:
    """A function of one float: computed in float32 or float64, with `slope(x, y)` as its derivative (None:
    0)."""

    def decorate(function: Function) -> Function:
        def adjoint(node: Node, grad: Node) -> tuple[Node]:
            assert slope is not None
            return ((Value(grad) * slope(Value(node.sources[1]), Value(node))).node,)

        template = GradientTemplate(function.__name__, _flat if slope is None else adjoint)

        def apply(x: Value) -> Value:
            dtype = x.dtype
            if not dtype.is_float:
                return apply(x.cast(float32))
            if dtype not in _FORMATS:
                return apply(x.cast(float32)).cast(dtype)
            value = function(x.detach())
            if not x.node.needs_gradient:
                return value
            return Value(graph.custom(template, (value.node, x.node), dtype, x.node.shape))

        apply.__name__, apply.__doc__ = function.__name__, function.__doc__
        return apply

    return decorate


def with_sign(magnitude: Value, x: Value) -> Value:
    return where(x < 0, -magnitude, magnitude)


def two_product(a: Value, b: Value) -> tuple[Value, Value]:
    """a·b as a rounded product and its error (Dekker), without a fused multiply–add."""
    form = _FORMATS[a.dtype]

    def halves(x: Value) -> tuple[Value, Value]:
        high = (x.bitcast(form.bits) & -(1 << form.split)).bitcast(x.dtype)
        return high, x - high

    (ah, al), (bh, bl) = halves(a), halves(b)
    product = a * b
    return product, ((ah * bh - product) + ah * bl + al * bh) + al * bl


# ---- rounding: |x| + 2^23 − 2^23 rounds to nearest even, and larger numbers are integers already ----


def _nearest(x: Value) -> Value:
    """|x| rounded, exact for every x; NaN and infinities stay."""
    magnitude = x.magnitude()
    limit = float(1 << _FORMATS[x.dtype].mantissa)
    return where(magnitude < limit, (magnitude + limit) - limit, magnitude)


@derived(None)
def round_(x: Value) -> Value:
    """To the nearest integer, ties to even."""
    return where(x.isnan(), x, with_sign(_nearest(x), x))


@derived(None)
def trunc(x: Value) -> Value:
    magnitude, nearest = x.magnitude(), _nearest(x)
    return where(x.isnan(), x, with_sign(where(nearest > magnitude, nearest - 1, nearest), x))


@derived(None)
def floor(x: Value) -> Value:
    nearest = with_sign(_nearest(x), x)
    return where(nearest > x, nearest - 1, nearest)


@derived(None)
def ceil(x: Value) -> Value:
    nearest = with_sign(_nearest(x), x)
    return where(nearest < x, nearest + 1, nearest)


# ---- exponentials and logarithms ----


@derived(lambda x, y: y)
def exp(x: Value) -> Value:
    """eˣ within 4 ULP: EXP2 of x/ln 2, whose rounding error is kept and put back as a factor 1 + low·ln 2."""
    return _exp(x, 0)


def _exp(x: Value, halvings: int) -> Value:
    """eˣ / 2^halvings, which overflows later than eˣ."""
    form = _FORMATS[x.dtype]
    scaled = x * LOG2E
    high = (x.bitcast(form.bits) & -(1 << form.split)).bitcast(x.dtype)
    rest = x - high
    first = form.log2e_high
    low = ((high * first - scaled) + rest * first) + x * (LOG2E - first + LOG2E_REST)
    low = where(low.magnitude() < 1.0, low, 0.0)  # where x is infinite or near overflow
    power = scaled - halvings if halvings else scaled
    return power.exp2() * (low * LN2 + 1)


@derived(lambda x, y: 1 / x)
def log(x: Value) -> Value:
    return x.log2() * LN2


@derived(lambda x, y: LOG2E / x)
def log2(x: Value) -> Value:
    return x.log2()


@derived(lambda x, y: (LOG2E * math.log10(2)) / x)
def log10(x: Value) -> Value:
    return x.log2() * math.log10(2)


@derived(lambda x, y: y * LN2)
def exp2(x: Value) -> Value:
    return x.exp2()


@derived(lambda x, y: 1 / (x + 1))
def log1p(x: Value) -> Value:
    """log(1 + x) within 4 ULP: the rounding error of 1 + x, divided by it, is added back."""
    one = x + 1
    error = (x - (one - 1)) / one
    return log(one) + where(error.magnitude() < 1.0, error, 0.0)


@derived(lambda x, y: y + 1)
def expm1(x: Value) -> Value:
    """eˣ − 1 within 4 ULP: a polynomial near 0, where the difference would cancel."""
    return where(x.magnitude() < 0.5, x + x * x * horner("expm1", x), exp(x) - 1)


# ---- hyperbolic and related ----


@derived(lambda x, y: y * (1 - y))
def sigmoid(x: Value) -> Value:
    """1/(1 + e⁻ˣ) within 6 ULP: e of a negative number only, so nothing overflows."""
    e = exp(where(x < 0, x, -x))
    return where(x < 0, e, 1.0) / (e + 1)


@derived(lambda x, y: 1 - y * y)
def tanh(x: Value) -> Value:
    """Within 6 ULP; in float64 within 4: a polynomial below 0.625, 1 − 2/(e²ˣ + 1) above."""
    if x.dtype is float32:
        return saturating("tanh", x)
    z = x * x
    magnitude = x.magnitude()
    large = 1 - 2 / (exp(magnitude * 2) + 1)
    return where(magnitude < 0.625, x + x * z * horner("tanh", z), with_sign(large, x))


@derived(lambda x, y: cosh(x))
def sinh(x: Value) -> Value:
    """Within 6 ULP, up to where sinh itself overflows."""
    a = x.magnitude()
    e = expm1(a)
    return with_sign(where(a < 20.0, (e + e / (e + 1)) * 0.5, _exp(a, 1)), x)


@derived(lambda x, y: sinh(x))
def cosh(x: Value) -> Value:
    """Within 6 ULP, up to where cosh itself overflows."""
    return _exp(x, 1) + _exp(-x, 1)


@derived(lambda x, y: 1 / (x * x + 1).sqrt())
def asinh(x: Value) -> Value:
    a = x.magnitude()
    small = log1p(a + a * a / ((a * a + 1).sqrt() + 1))
    return with_sign(where(a > 1e9, log(a) + LN2, small), x)


@derived(lambda x, y: 1 / ((x - 1) * (x + 1)).sqrt())
def acosh(x: Value) -> Value:
    """Within 6 ULP; NaN below 1, also where its square overflows."""
    t = x - 1
    value = where(x > 1e9, log(x) + LN2, log1p(t + (t * (x + 1)).sqrt()))
    return where(x < 1.0, float("nan"), value)


@derived(lambda x, y: 1 / ((1 - x) * (x + 1)))
def atanh(x: Value) -> Value:
    a = x.magnitude()
    return with_sign(log1p(a * 2 / (1 - a)) * 0.5, x)


@derived(lambda x, y: exp(-(x * x)) * (2 / math.sqrt(math.pi)))
def erf(x: Value) -> Value:
    """Within 8 ULP; in float64 within 6: a polynomial up to 1, 1 − exp(−x²)·erfcx(x) above."""
    if x.dtype is float32:
        return saturating("erf", x)
    a = x.magnitude()
    clipped = where(a < 6.0, a, 6.0)
    tail = 1 - exp(-(clipped * clipped)) * horner("erfcx", 1 / (clipped * 0.5 + 1))
    value = where(a < 1.0, x * horner("erf", x * x), with_sign(tail, x))
    return where(x.isnan(), x, value)


# ---- trigonometric ----


@derived(lambda x, y: cos(x))
def sin(x: Value) -> Value:
    return x.sin()


@derived(lambda x, y: -sin(x))
def cos(x: Value) -> Value:
    """1 − 2·sin²(x/2): accurate to 4 ULP of 1 over the whole range."""
    half = (x * 0.5).sin()
    return 1 - half * half * 2


@derived(lambda x, y: y * y + 1)
def tan(x: Value) -> Value:
    """Within 8 ULP of 1 + tan²: near its poles it is as wrong as cos is near 0."""
    return x.sin() / cos(x)


@derived(lambda x, y: 1 / (x * x + 1))
def atan(x: Value) -> Value:
    """Within 4 ULP: reduced to |t| ≤ tan(π/8), then a polynomial."""
    a = x.magnitude()
    large, middle = a > 1 + math.sqrt(2), a > math.sqrt(2) - 1
    t = where(large, -1 / a, where(middle, (a - 1) / (a + 1), a))
    base = where(large, a.constant(math.pi / 2), where(middle, a.constant(math.pi / 4), 0.0))
    z = t * t
    return with_sign(base + (t + t * z * horner("atan", z)), x)


@derived(lambda x, y: 1 / (1 - x * x).sqrt())
def asin(x: Value) -> Value:
    """Within 4 ULP: a polynomial up to 1/2, π/2 − 2·asin(√((1 − |x|)/2)) above."""
    return with_sign(_asin_parts(x, math.pi / 2, -2.0), x)


def _asin_parts(x: Value, base: float, factor: float) -> Value:
    a = x.magnitude()
    large = a > 0.5
    t = where(large, ((1 - a) * 0.5).sqrt(), a)
    z = t * t
    value = t + t * z * horner("asin", z)
    return where(large, value * factor + base, value)


@derived(lambda x, y: -1 / (1 - x * x).sqrt())
def acos(x: Value) -> Value:
    """Within 4 ULP also near 1, where π/2 − asin(x) would cancel."""
    a = x.magnitude()
    t = ((1 - a) * 0.5).sqrt()
    near = (t + t * (t * t) * horner("asin", t * t)) * 2
    return where(a > 0.5, where(x < 0, math.pi - near, near), math.pi / 2 - asin(x))


# ---- roots ----


@derived(lambda x, y: 0.5 / y)
def sqrt(x: Value) -> Value:
    return x.sqrt()


@derived(lambda x, y: where(y.eq(0), 0.0, 0.5 / y))
def root(x: Value) -> Value:
    """√x of a sum of squares: the gradient at 0 is 0, one of those that a norm has there."""
    return x.sqrt()


@derived(lambda x, y: y * y * y * -0.5)
def rsqrt(x: Value) -> Value:
    return 1 / x.sqrt()


# ---- signs and bits ----


def absolute(x: Value) -> Value:
    """|x|; the gradient at 0 is 0."""
    return x.maximum(-x) if x.dtype.is_signed else x


def sign(x: Value) -> Value:
    """−1, 0 or 1; 0 for NaN."""
    if x.dtype is bool_:
        return x
    if not x.dtype.is_signed:
        return where(x > 0, x.constant(1), 0)
    return stepped(where(x > 0, x.constant(1), where(x < 0, x.constant(-1), 0)), x)


def sign_bit(x: Value) -> Value:
    """Whether the sign bit is set: also of −0.0 and of NaN."""
    return x.detach().bitcast(_BITS[x.dtype.itemsize]) < 0


def shift_left(a: Value, b: Value) -> Value:
    """a·2ᵇ, wrapping; 0 for b outside 0 ≤ b < width."""
    inside = _inside(b, a.dtype.bits)
    return where(inside, a * _power_of_two(where(inside, b, 0)), 0)


def shift_right(a: Value, b: Value) -> Value:
    """⌊a / 2ᵇ⌋; all sign bits for b ≥ width − 1 of a signed integer."""
    width = a.dtype.bits - a.dtype.is_signed
    inside = _inside(b, width)
    shifted = a / _power_of_two(where(inside, b, 0))
    beyond = where(a < 0, a.constant(-1), 0) if a.dtype.is_signed else a.constant(0)
    return where(inside, shifted, beyond)


def _inside(b: Value, width: int) -> Value:
    return ~((b < 0) | (b > width - 1)) if b.dtype.is_signed else ~(b > width - 1)


def _power_of_two(b: Value) -> Value:
    """2ᵇ for 0 ≤ b < width: the product over b's bits, or a constant."""
    if b.node.op is Op.CONST:
        return b.constant(1 << int(b.node.arg))
    result = b.constant(1)
    for bit in range((b.dtype.bits - 1).bit_length()):
        result = result * where((b & (1 << bit)).ne(0), b.constant(1 << (1 << bit)), 1)
    return result


# ---- division with a remainder ----


def floor_divide(a: Value, b: Value) -> Value:
    """⌊a / b⌋, by the exact remainder on floats, as Python does."""
    if a.dtype.is_integer:
        return a / b
    if a.dtype not in _FORMATS:
        return floor_divide(a.cast(float32), b.cast(float32)).cast(a.dtype)
    x, y = a.detach(), b.detach()
    quotient = (x - floor_mod(x, y)) / y
    nearest = where(quotient.magnitude() < INFINITY, round_(quotient), floor(quotient))
    below = where(x.ne(0) & (x < 0).ne(y < 0), x.constant(-1), 0.0)
    finite = where(y.magnitude().eq(INFINITY) & (x.magnitude() < INFINITY), below, nearest)
    return stepped(where(y.eq(0), x / y, finite), a, b)


def trunc_divide(a: Value, b: Value) -> Value:
    if a.dtype.is_float:
        return stepped(trunc(a.detach() / b.detach()), a, b)
    quotient = a / b
    if not a.dtype.is_signed:
        return quotient
    above = (quotient * b).ne(a) & (a < 0).ne(b < 0)  # |a| / |b| would overflow at the least integer
    return where(above, quotient + 1, quotient)


def floor_mod(a: Value, b: Value) -> Value:
    """a − ⌊a / b⌋·b: the sign of b."""
    if a.dtype.is_integer:
        return a - (a / b) * b
    if a.dtype not in _FORMATS:
        return floor_mod(a.cast(float32), b.cast(float32)).cast(a.dtype)
    x, y = a.detach(), b.detach()
    rest = _exact_remainder(x, y)
    return _remainder("mod", where(rest.ne(0) & (rest < 0).ne(y < 0), rest + y, rest), a, b)


def trunc_mod(a: Value, b: Value) -> Value:
    """a − trunc(a / b)·b: the sign of a. Exact on floats while |a / b| < 2⁴⁰ (2⁹⁰ in float64)."""
    if a.dtype.is_integer:
        return a - trunc_divide(a, b) * b
    if a.dtype not in _FORMATS:
        return trunc_mod(a.cast(float32), b.cast(float32)).cast(a.dtype)
    return _remainder("fmod", _exact_remainder(a.detach(), b.detach()), a, b)


def _remainder(name: str, value: Value, a: Value, b: Value) -> Value:
    if not (a.node.needs_gradient or b.node.needs_gradient):
        return value
    return Value(graph.custom(_REMAINDERS[name], (value.node, a.node, b.node), a.dtype, a.node.shape))


def _remainder_template(name: str, divide: Callable[[Value, Value], Value]) -> GradientTemplate:
    def adjoint(node: Node, grad: Node) -> tuple[Node, Node]:
        a, b = Value(node.sources[1]), Value(node.sources[2])
        return grad, (-(Value(grad) * divide(a, b))).node

    return GradientTemplate(name, adjoint)


_REMAINDERS = {
    "mod": _remainder_template("mod", floor_divide),
    "fmod": _remainder_template("fmod", trunc_divide),
}


def _exact_remainder(a: Value, b: Value) -> Value:
    size, divisor = a.magnitude(), b.magnitude()
    rest = size
    for _ in range(2):  # each pass takes off about as many bits as a significand has
        quotient = trunc(rest / divisor)
        high, low = two_product(quotient, divisor)
        rest = (rest - high) - low
        rest = where(rest < 0, rest + divisor, rest)
        rest = where(rest >= divisor, rest - divisor, rest)
    rest = where(size < divisor, size, rest)  # also where b is infinite
    return with_sign(rest, a)
