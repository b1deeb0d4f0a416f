"""EXP2, LOG2 and SIN as LLVM IR text for any number of lanes, in float32 and float64, over their whole range.

A function is named `petaflop_{exp2|log2|sin}_v{lanes}f{32|64}`. Errors stay below 1, 1 and 2 ULP, subnormals
included. Sines beyond 2^40 are rare: one call of `petaflop_sin_huge` does those of a whole vector.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Sequence, Set

from petaflop.plugin_api import CompileError
from petaflop_cpu import coefficients

__all__ = ["SIN_HUGE", "prelude", "sin_huge_source"]

SIN_HUGE = "petaflop_sin_huge"
_LIMIT = 2.0**40  # up to here n·π is subtracted exactly enough with three parts of π

_NAME = re.compile(r"petaflop_(exp2|log2|sin)_v(\d+)f(32|64)")


def prelude(names: Set[str], scales: bool = False) -> str:
    """Definitions of the math functions of these names; raises CompileError for an unknown one.

    `scales` says that the target scales by a power of two in one instruction (AVX-512): same bits, sooner.
    """
    pieces = []
    for name in sorted(names):
        match = _NAME.fullmatch(name)
        if not match:
            raise CompileError(f"prelude: expected petaflop_exp2_v8f32 or its like, got {name}")
        function = _Function(name, int(match[2]), int(match[3]), scales)
        pieces.append(function.text(_BODIES[match[1]](function)))
    if any("_sin_" in name for name in names):
        pieces.append(f"declare void @{SIN_HUGE}(ptr, i64)\n")
    return "\n".join(pieces)


class _Function:
    """A function of `lanes` floats of `bits` under construction; values are the names of what was emitted."""

    def __init__(self, name: str, lanes: int, bits: int, scales: bool) -> None:
        self.name, self.lanes, self.bits, self.scales = name, lanes, bits, scales
        self.lines: list[str] = []
        self.count = 0
        self.mantissa = 23 if bits == 32 else 52
        self.bias = 127 if bits == 32 else 1023

    # ---- types and constants ----

    def float_type(self, bits: int = 0) -> str:
        return self._vector("double" if (bits or self.bits) == 64 else "float")

    def integer_type(self, bits: int = 0) -> str:
        return self._vector(f"i{bits or self.bits}")

    def _vector(self, scalar: str) -> str:
        return scalar if self.lanes == 1 else f"<{self.lanes} x {scalar}>"

    def number(self, value: float, bits: int = 0) -> str:
        word = struct.unpack("<Q", struct.pack("<d", value))[0]
        return self._splat("double" if (bits or self.bits) == 64 else "float", f"0x{word:016X}")

    def integer(self, value: int, bits: int = 0) -> str:
        return self._splat(f"i{bits or self.bits}", str(value))

    def _splat(self, scalar: str, text: str) -> str:
        return text if self.lanes == 1 else f"splat ({scalar} {text})"

    # ---- instructions ----

    def line(self, text: str) -> str:
        self.count += 1
        self.lines.append(f"  %v{self.count} = {text}")
        return f"%v{self.count}"

    def binary(self, operation: str, a: str, b: str, bits: int = 0) -> str:
        kind = self.float_type(bits) if operation.startswith("f") else self.integer_type(bits)
        return self.line(f"{operation} {kind} {a}, {b}")

    def call(self, name: str, *args: str, bits: int = 0) -> str:
        """An intrinsic on floats, such as fma."""
        kind = self.float_type(bits)
        short = f"f{bits or self.bits}" if self.lanes == 1 else f"v{self.lanes}f{bits or self.bits}"
        return self.line(f"call {kind} @llvm.{name}.{short}({', '.join(f'{kind} {arg}' for arg in args)})")

    def negative(self, a: str, bits: int = 0) -> str:
        return self.line(f"fneg {self.float_type(bits)} {a}")

    def compare(self, predicate: str, a: str, b: str, bits: int = 0) -> str:
        return self.line(f"fcmp {predicate} {self.float_type(bits)} {a}, {b}")

    def select(self, condition: str, a: str, b: str, bits: int = 0) -> str:
        kind = self.float_type(bits)
        return self.line(f"select {self._vector('i1')} {condition}, {kind} {a}, {kind} {b}")

    def to_bits(self, a: str, bits: int = 0) -> str:
        return self.line(f"bitcast {self.float_type(bits)} {a} to {self.integer_type(bits)}")

    def from_bits(self, a: str, bits: int = 0) -> str:
        return self.line(f"bitcast {self.integer_type(bits)} {a} to {self.float_type(bits)}")

    def scaled(self, a: str, whole: str, powers: str) -> str:
        """a · 2^powers, rounded once; `whole` is powers as a float, which is what the instruction takes."""
        floats, integers = self.float_type(), self.integer_type(32)
        size = self.lanes * self.bits
        if self.lanes > 1 and size in (128, 256, 512):
            name = f"llvm.x86.avx512.mask.scalef.{'ps' if self.bits == 32 else 'pd'}.{size}"
            mask = f"i{max(self.lanes, 8)} -1"
            rounding = ", i32 4" if size == 512 else ""
            operands = f"{floats} {a}, {floats} {whole}, {floats} zeroinitializer, {mask}{rounding}"
            return self.line(f"call {floats} @{name}({operands})")
        if self.bits == 64:
            powers = self.line(f"trunc {self.integer_type()} {powers} to {integers}")
        short = "" if self.lanes == 1 else f"v{self.lanes}"
        name = f"llvm.ldexp.{short}f{self.bits}.{short}i32"
        return self.line(f"call {floats} @{name}({floats} {a}, {integers} {powers})")

    def polynomial(self, x: str, values: Sequence[float], bits: int = 0) -> str:
        """Horner's scheme, one FMA a step; lowest power first."""
        result = self.number(values[-1], bits)
        for value in reversed(values[:-1]):
            result = self.call("fma", result, x, self.number(value, bits), bits=bits)
        return result

    def text(self, result: str) -> str:
        kind = self.float_type()
        head = f"define internal {kind} @{self.name}({kind} %x) alwaysinline nounwind {{"
        return "\n".join([head, "entry:", *self.lines, f"  ret {kind} {result}", "}", ""])


def _table(name: str, bits: int) -> tuple[float, ...]:
    values: tuple[float, ...] = getattr(coefficients, f"{name}_F{bits}")
    return values


def _exp2(f: _Function) -> str:
    """2^x = 2^n · 2^r, n the nearest integer; 2^n in two factors, so a subnormal result is rounded once.

    What is 0 is chosen, not computed: a result that underflows takes some CPUs ten times as long.
    """
    lowest, highest = (-150.0, 129.0) if f.bits == 32 else (-1075.0, 1025.0)
    low = f.compare("olt", "%x", f.number(lowest))
    x = f.select(low, f.number(0.0), "%x")
    high = f.compare("ogt", x, f.number(highest))
    x = f.select(high, f.number(highest), x)
    magic = 1.5 * 2.0**f.mantissa  # adding it rounds to an integer, which then stands in the lowest bits
    shifted = f.binary("fadd", x, f.number(magic))
    whole = f.binary("fsub", shifted, f.number(magic))
    r = f.binary("fsub", x, whole)
    p = f.call("fma", f.polynomial(r, _table("EXP2", f.bits)), r, f.number(1.0))
    magic_bits = struct.unpack("<i", struct.pack("<f", magic)) if f.bits == 32 else (0x4338000000000000,)
    n = f.binary("sub", f.to_bits(shifted), f.integer(magic_bits[0]))
    if f.scales:
        return f.select(low, f.number(0.0), f.scaled(p, whole, n))
    half = f.binary("ashr", n, f.integer(1))
    for power in (half, f.binary("sub", n, half)):
        biased = f.binary("add", power, f.integer(f.bias))
        factor = f.from_bits(f.binary("shl", biased, f.integer(f.mantissa)))
        p = f.binary("fmul", p, factor)
    return f.select(low, f.number(0.0), p)


def _log2(f: _Function) -> str:
    """log2 x = e + log2(1 + f) with 1/√2 <= 1 + f < √2, in two parts so that e's rounding error is kept."""
    tiny = f.compare("olt", "%x", f.number(2.0 ** (1 - f.bias)))
    scaled = f.binary("fmul", "%x", f.number(2.0**f.mantissa))
    bits = f.to_bits(f.select(tiny, scaled, "%x"))
    root = 0x3F3504F3 if f.bits == 32 else 0x3FE6A09E667F3BCD
    exponent = f.binary("ashr", f.binary("sub", bits, f.integer(root)), f.integer(f.mantissa))
    power = f.binary("shl", exponent, f.integer(f.mantissa))
    m = f.from_bits(f.binary("sub", bits, power))
    e = f.line(f"sitofp {f.integer_type()} {exponent} to {f.float_type()}")
    e = f.select(tiny, f.binary("fsub", e, f.number(float(f.mantissa))), e)
    rest = f.binary("fsub", m, f.number(1.0))
    high, low = _log2_of(f, rest)
    total = f.binary("fadd", e, high)
    lost = f.binary("fsub", high, f.binary("fsub", total, e))
    result = f.binary("fadd", total, f.binary("fadd", lost, low))
    infinity = float("inf")
    result = f.select(f.compare("olt", "%x", f.number(infinity)), result, "%x")  # inf and NaN give themselves
    result = f.select(f.compare("oeq", "%x", f.number(0.0)), f.number(-infinity), result)
    nan = f.number(float("nan"))
    return f.select(f.compare("olt", "%x", f.number(0.0)), nan, result)


def _log2_of(f: _Function, rest: str) -> tuple[str, str]:
    """log2(1 + rest) as a high and a low part."""
    log2_e = _table("LOG2_E", f.bits)
    if f.bits == 32:
        high = f.binary("fmul", rest, f.number(log2_e[0]))
        low = f.call("fma", rest, f.number(log2_e[0]), f.negative(high))
        low = f.call("fma", rest, f.number(log2_e[1]), low)
        square = f.binary("fmul", rest, rest)
        return high, f.call("fma", square, f.polynomial(rest, _table("LOG2", 32)), low)
    # ln(1 + f) = f − f²/2 + s·(f²/2 + R(s²)) with s = f/(2 + f), as in Sun's fdlibm
    s = f.binary("fdiv", rest, f.binary("fadd", rest, f.number(2.0)))
    z = f.binary("fmul", s, s)
    r = f.binary("fmul", z, f.polynomial(z, _table("LOG2", 64)))
    square = f.binary("fmul", f.binary("fmul", rest, f.number(0.5)), rest)
    top = f.binary("fsub", rest, square)
    bottom = f.binary("fsub", f.binary("fsub", rest, top), square)
    bottom = f.call("fma", s, f.binary("fadd", square, r), bottom)
    high = f.binary("fmul", top, f.number(log2_e[0]))
    low = f.call("fma", top, f.number(log2_e[0]), f.negative(high))
    low = f.call("fma", top, f.number(log2_e[1]), low)
    return high, f.call("fma", bottom, f.number(log2_e[0]), low)


def _sin(f: _Function) -> str:
    """sin |x| = ±sin r with r = |x| − n·π, in float64; the sign of x comes last, so −0 stays −0."""
    size = f.call("fabs", "%x")
    wide = size if f.bits == 64 else f.line(f"fpext {f.float_type(32)} {size} to {f.float_type(64)}")
    value = _sin_near(f, wide)
    value = _or_huge(f, wide, value)
    if f.bits == 32:
        value = f.line(f"fptrunc {f.float_type(64)} {value} to {f.float_type(32)}")
    sign = f.binary("and", f.to_bits("%x"), f.integer(-(1 << (f.bits - 1))))
    return f.from_bits(f.binary("xor", f.to_bits(value), sign))


def _sin_near(f: _Function, x: str) -> str:
    """Cody and Waite's reduction and the polynomial; float32 needs no low part of r."""
    magic = f.number(1.5 * 2.0**52, 64)
    pi = [f.number(part, 64) for part in coefficients.PI]
    shifted = f.call("fma", x, f.number(coefficients.INVERSE_PI[0], 64), magic, bits=64)
    n = f.binary("fsub", shifted, magic, 64)
    minus_n = f.negative(n, 64)
    first = f.call("fma", minus_n, pi[0], x, bits=64)
    odd = f.binary("shl", f.to_bits(shifted, 64), f.integer(63, 64), 64)
    if f.bits == 32:
        r = f.call("fma", minus_n, pi[1], first, bits=64)
        z = f.binary("fmul", r, r, 64)
        tail = f.polynomial(z, _table("SIN", 32), 64)
        value = f.call("fma", f.binary("fmul", r, z, 64), tail, r, bits=64)
    else:
        product = f.binary("fmul", n, pi[1])
        r = f.binary("fsub", first, product)
        low = f.binary("fsub", f.binary("fsub", first, r), product)
        low = f.binary("fsub", low, f.call("fma", n, pi[1], f.negative(product)))
        low = f.call("fma", minus_n, pi[2], low)
        value = _sin_of(f, r, low)
    return f.from_bits(f.binary("xor", f.to_bits(value, 64), odd, 64), 64)


def _sin_of(f: _Function, r: str, low: str) -> str:
    """sin(r + low) for |r| <= π/2: r + (r³·P(r²) + low·(1 − r²/2))."""
    z = f.binary("fmul", r, r, 64)
    tail = f.polynomial(z, _table("SIN", 64), 64)
    cosine = f.call("fma", z, f.number(-0.5, 64), f.number(1.0, 64), bits=64)
    small = f.binary("fmul", low, cosine, 64)
    return f.binary("fadd", r, f.call("fma", f.binary("fmul", r, z, 64), tail, small, bits=64), 64)


def _or_huge(f: _Function, x: str, value: str) -> str:
    """`value`, or the slow sine in the lanes where x is beyond the limit."""
    kind, lanes = f.float_type(64), f.lanes
    f.lines.insert(0, f"  %many = alloca {kind}, align 64")
    beyond = f.compare("ogt", x, f.number(_LIMIT, 64), 64)
    some = beyond
    if lanes > 1:
        mask = f.line(f"bitcast <{lanes} x i1> {beyond} to i{lanes}")
        some = f.line(f"icmp ne i{lanes} {mask}, 0")
    f.lines += [
        "  br label %decide",
        "decide:",
        f"  br i1 {some}, label %huge, label %done",
        "huge:",
        f"  store {kind} {x}, ptr %many, align 64",
        f"  call void @{SIN_HUGE}(ptr %many, i64 {lanes})",
        f"  %slow = load {kind}, ptr %many, align 64",
        f"  %mixed = select {f._vector('i1')} {beyond}, {kind} %slow, {kind} {value}",
        "  br label %done",
        "done:",
    ]
    return f.line(f"phi {kind} [{value}, %decide], [%mixed, %huge]")


_BODIES: dict[str, Callable[[_Function], str]] = {"exp2": _exp2, "log2": _log2, "sin": _sin}


# ---- sines of huge arguments ----


def sin_huge_source() -> str:
    """`petaflop_sin_huge(values, count)`: sines, in place, of those values that are beyond the limit.

    Payne and Hanek: x = m·2^e with an integer m, and m times 192 bits of 1/π from the bit that weighs 2^-e on
    gives x/π mod 2 with 138 bits after the point; no float64 is nearer to a multiple of π than about 2^-62.
    """
    f = _Function("", 1, 64, False)
    pi_high, pi_low = (f.number(part) for part in coefficients.PI[:2])
    result = _sin_of(f, "%r", "%low")
    words = coefficients.INVERSE_PI_WORDS
    return _fill(
        _SIN_HUGE_SOURCE,
        name=SIN_HUGE,
        count=str(len(words)),
        words=_words(words),
        limit=f.number(_LIMIT),
        infinity=f.number(float("inf")),
        pi_high=pi_high,
        pi_low=pi_low,
        sine="\n".join(f.lines),
        result=result,
    )


def _words(words: Iterable[int]) -> str:
    return ", ".join(f"i64 {word - (1 << 64) if word >> 63 else word}" for word in words)


def _fill(template: str, **values: str) -> str:
    for name, value in values.items():
        template = template.replace(f"<{name}>", value)
    return template


_SIN_HUGE_SOURCE = """\
@inverse_pi = private constant [<count> x i64] [<words>]

; 64 bits of 1/pi, from `bit` on
define internal i64 @inverse_pi_bits(i64 %bit) {
  %word = lshr i64 %bit, 6
  %shift = and i64 %bit, 63
  %first_at = getelementptr i64, ptr @inverse_pi, i64 %word
  %first = load i64, ptr %first_at, align 8
  %second_at = getelementptr i64, ptr %first_at, i64 1
  %second = load i64, ptr %second_at, align 8
  %bits = call i64 @llvm.fshl.i64(i64 %first, i64 %second, i64 %shift)
  ret i64 %bits
}

define void @<name>(ptr %values, i64 %count) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i_next, %next]
  %any = icmp slt i64 %i, %count
  br i1 %any, label %look, label %leave
look:
  %at = getelementptr double, ptr %values, i64 %i
  %x = load double, ptr %at, align 8
  %huge = fcmp ogt double %x, <limit>
  br i1 %huge, label %finite_or_not, label %next
finite_or_not:
  %infinite = fcmp oeq double %x, <infinity>
  br i1 %infinite, label %nan, label %reduce
nan:
  %undefined = fsub double %x, %x
  store double %undefined, ptr %at, align 8
  br label %next
reduce:
  %bits = bitcast double %x to i64
  %biased = lshr i64 %bits, 52
  %fraction = and i64 %bits, 4503599627370495
  %mantissa = or i64 %fraction, 4503599627370496
  %start = sub i64 %biased, 1012
  %a2 = call i64 @inverse_pi_bits(i64 %start)
  %start1 = add i64 %start, 64
  %a1 = call i64 @inverse_pi_bits(i64 %start1)
  %start0 = add i64 %start, 128
  %a0 = call i64 @inverse_pi_bits(i64 %start0)
  %m = zext i64 %mantissa to i128
  %wide0 = zext i64 %a0 to i128
  %wide1 = zext i64 %a1 to i128
  %p0 = mul i128 %m, %wide0
  %carry = lshr i128 %p0, 64
  %p1 = mul i128 %m, %wide1
  %middle = add i128 %p1, %carry
  %p2 = mul i64 %mantissa, %a2
  %top = zext i64 %p2 to i128
  %top_high = shl i128 %top, 64
  %turns = add i128 %middle, %top_high
  %signed = shl i128 %turns, 1
  %negative = icmp slt i128 %signed, 0
  %opposite = sub i128 0, %signed
  %size = select i1 %negative, i128 %opposite, i128 %signed  ; its sign is the change of parity by rounding up
  %zeros = call i128 @llvm.ctlz.i128(i128 %size, i1 false)
  %normal = shl i128 %size, %zeros
  %h_wide = lshr i128 %normal, 75
  %h_bits = trunc i128 %h_wide to i64
  %h = uitofp i64 %h_bits to double
  %l_wide = lshr i128 %normal, 11
  %l_bits = trunc i128 %l_wide to i64
  %l = uitofp i64 %l_bits to double
  %z = trunc i128 %zeros to i64
  %h_power = sub i64 970, %z
  %h_shift = shl i64 %h_power, 52
  %h_scale = bitcast i64 %h_shift to double
  %l_power = sub i64 906, %z
  %l_shift = shl i64 %l_power, 52
  %l_scale = bitcast i64 %l_shift to double
  %high = fmul double %h, %h_scale
  %rest = fmul double %l, %l_scale
  %r = fmul double %high, <pi_high>
  %minus_r = fneg double %r
  %low0 = call double @llvm.fma.f64(double %high, double <pi_high>, double %minus_r)
  %low1 = call double @llvm.fma.f64(double %high, double <pi_low>, double %low0)
  %low = call double @llvm.fma.f64(double %rest, double <pi_high>, double %low1)
<sine>
  %odd = lshr i128 %turns, 127
  %odd_bit = trunc i128 %odd to i1
  %minus = fneg double <result>
  %sine = select i1 %odd_bit, double %minus, double <result>
  store double %sine, ptr %at, align 8
  br label %next
next:
  %i_next = add i64 %i, 1
  br label %loop
leave:
  ret void
}
"""
