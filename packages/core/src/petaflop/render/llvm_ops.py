"""How each primitive operation is spelled in LLVM IR: one function per row, chosen by tables.

Floats narrower than 32 bits live in registers as float32 and are rounded after every operation. bool is i1 in
registers and i8 in memory. No fast-math flags; only an explicit FMA contracts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Protocol

from petaflop.dtype import DType, bfloat16, bool_, float8_e4m3, float8_e5m2, float16, float32, float64
from petaflop.graph.ops import Native, Op
from petaflop.graph.symbolic import Expr

__all__ = [
    "OPERATIONS",
    "Emit",
    "cast",
    "decode",
    "encode",
    "literal",
    "memory_type",
    "register_type",
    "vector",
]


class Emit(Protocol):
    """What the functions below need of the renderer."""

    def line(self, text: str) -> str:
        """Append `%new = text`; returns the new name."""

    def call(self, name: str, result: str, *operands: str) -> str:
        """Call an intrinsic with typed operands."""

    def math(self, name: str) -> str:
        """Note that a function of the prelude is used."""


def scalar_type(dtype: DType) -> str:
    if dtype.kind == "f":
        return "double" if dtype is float64 else "float"
    return "i1" if dtype is bool_ else f"i{dtype.bits}"


def vector(scalar: str, width: int) -> str:
    """`scalar`, or `width` lanes of it."""
    return scalar if width == 1 else f"<{width} x {scalar}>"


def register_type(dtype: DType, width: int = 1) -> str:
    """The type that holds a value of `dtype` while it is computed with."""
    return vector(scalar_type(dtype), width)


def memory_type(dtype: DType, width: int = 1) -> str:
    """The type that a value of `dtype` has in memory."""
    if dtype.kind == "f" and dtype.itemsize < 4:
        return vector("half" if dtype is float16 else f"i{dtype.bits}", width)
    return vector("i8" if dtype is bool_ else scalar_type(dtype), width)


def splat(text: str, scalar: str, width: int) -> str:
    """A constant in every lane."""
    return text if width == 1 else f"splat ({scalar} {text})"


def literal(value: Any, dtype: DType, width: int = 1) -> str:
    """A constant of `dtype`."""
    if dtype.kind == "f":
        rounded = float(dtype.numpy.type(value))
        text = f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"
    elif dtype is bool_:
        text = "true" if value else "false"
    else:
        bits = dtype.bits
        wrapped = int(value) & ((1 << bits) - 1)
        text = str(wrapped - (1 << bits) if wrapped >> (bits - 1) else wrapped)
    return splat(text, scalar_type(dtype), width)


def _suffix(scalar: str, width: int) -> str:
    short = {"float": "f32", "double": "f64", "half": "f16"}.get(scalar, scalar)
    return short if width == 1 else f"v{width}{short}"


# ---- narrow floats ----


def _integer(number: int, width: int, bits: int = 32) -> str:
    return splat(str(number), f"i{bits}", width)


def decode(emit: Emit, raw: str, dtype: DType, width: int) -> str:
    """The register value of what was read from memory."""
    if dtype is bool_:
        return emit.line(f"icmp ne {vector('i8', width)} {raw}, {_zero(width)}")
    if dtype.kind != "f" or dtype.itemsize >= 4:
        return raw
    single, word, half = vector("float", width), vector("i32", width), vector("half", width)
    if dtype is float16:
        return emit.line(f"fpext {half} {raw} to {single}")
    if dtype is bfloat16:
        wide = emit.line(f"zext {vector('i16', width)} {raw} to {word}")
        shifted = emit.line(f"shl {word} {wide}, {_integer(16, width)}")
        return emit.line(f"bitcast {word} {shifted} to {single}")
    if dtype is float8_e5m2:
        short = vector("i16", width)
        wide = emit.line(f"zext {vector('i8', width)} {raw} to {short}")
        shifted = emit.line(f"shl {short} {wide}, {_integer(8, width, 16)}")
        as_half = emit.line(f"bitcast {short} {shifted} to {half}")
        return emit.line(f"fpext {half} {as_half} to {single}")
    wide = emit.line(f"zext {vector('i8', width)} {raw} to {word}")
    magnitude = emit.line(f"and {word} {wide}, {_integer(0x7F, width)}")
    sign = emit.line(
        f"shl {word} {emit.line(f'and {word} {wide}, {_integer(0x80, width)}')}, {_integer(24, width)}"
    )
    bits = emit.line(f"shl {word} {magnitude}, {_integer(20, width)}")
    tiny = emit.line(
        f"bitcast {word} {bits} to {single}"
    )  # exponent 120 too small: a multiplication puts it right
    scaled = emit.line(f"fmul {single} {tiny}, {literal(2.0**120, float32, width)}")
    nan = emit.line(f"icmp eq {word} {magnitude}, {_integer(0x7F, width)}")
    finite = emit.line(f"bitcast {single} {scaled} to {word}")
    chosen = emit.line(
        f"select {vector('i1', width)} {nan}, {word} {_integer(0x7FC00000, width)}, {word} {finite}"
    )
    signed = emit.line(f"or {word} {chosen}, {sign}")
    return emit.line(f"bitcast {word} {signed} to {single}")


def _zero(width: int) -> str:
    return "0" if width == 1 else "zeroinitializer"


def encode(emit: Emit, name: str, dtype: DType, width: int) -> str:
    """What is written to memory for a register value that is already rounded to `dtype`."""
    if dtype is bool_:
        return emit.line(f"zext {vector('i1', width)} {name} to {vector('i8', width)}")
    if dtype.kind != "f" or dtype.itemsize >= 4:
        return name
    single, word = vector("float", width), vector("i32", width)
    if dtype is float16:
        return emit.line(f"fptrunc {single} {name} to {vector('half', width)}")
    if dtype is float8_e5m2:
        as_half = emit.line(f"fptrunc {single} {name} to {vector('half', width)}")
        short = emit.line(f"bitcast {vector('half', width)} {as_half} to {vector('i16', width)}")
        upper = emit.line(f"lshr {vector('i16', width)} {short}, {_integer(8, width, 16)}")
        return emit.line(f"trunc {vector('i16', width)} {upper} to {vector('i8', width)}")
    bits = emit.line(f"bitcast {single} {name} to {word}")
    if dtype is bfloat16:
        upper = emit.line(f"lshr {word} {bits}, {_integer(16, width)}")
        return emit.line(f"trunc {word} {upper} to {vector('i16', width)}")
    sign = emit.line(f"lshr {word} {bits}, {_integer(24, width)}")
    sign = emit.line(f"and {word} {sign}, {_integer(0x80, width)}")
    small = emit.line(
        f"fmul {single} {name}, {literal(2.0**-120, float32, width)}"
    )  # exact: the result is subnormal
    low = emit.line(f"bitcast {single} {small} to {word}")
    low = emit.line(f"lshr {word} {low}, {_integer(20, width)}")
    low = emit.line(f"and {word} {low}, {_integer(0x7F, width)}")
    nan = emit.line(f"fcmp uno {single} {name}, {name}")
    low = emit.line(f"select {vector('i1', width)} {nan}, {word} {_integer(0x7F, width)}, {word} {low}")
    both = emit.line(f"or {word} {low}, {sign}")
    return emit.line(f"trunc {word} {both} to {vector('i8', width)}")


# bits of the significand, least normal exponent, greatest finite value, the bits of what lies beyond it
_NARROW = {
    bfloat16: (7, -126, 3.3895313892515355e38, 0x7F800000),
    float8_e4m3: (3, -6, 448.0, 0x7FC00000),
    float8_e5m2: (2, -14, 57344.0, 0x7F800000),
}


def round_narrow(emit: Emit, name: str, dtype: DType, width: int) -> str:
    """Round a float32 register to what `dtype` can hold, to nearest even."""
    single, word, flag = vector("float", width), vector("i32", width), vector("i1", width)
    if dtype is float16:
        half = emit.line(f"fptrunc {single} {name} to {vector('half', width)}")
        return emit.line(f"fpext {vector('half', width)} {half} to {single}")
    if dtype not in _NARROW:
        return name
    mantissa, least, greatest, beyond_bits = _NARROW[dtype]
    drop = 23 - mantissa
    bits = emit.line(f"bitcast {single} {name} to {word}")
    odd = emit.line(f"lshr {word} {bits}, {_integer(drop, width)}")
    odd = emit.line(f"and {word} {odd}, {_integer(1, width)}")
    up = emit.line(f"add {word} {odd}, {_integer((1 << (drop - 1)) - 1, width)}")
    rounded = emit.line(f"add {word} {bits}, {up}")
    rounded = emit.line(f"and {word} {rounded}, {_integer(-(1 << drop), width)}")
    if dtype is not bfloat16:  # its exponents are those of float32
        magnitude = emit.call(f"llvm.fabs.{_suffix('float', width)}", single, f"{single} {name}")
        magic = literal(2.0 ** (23 - mantissa + least), float32, width)  # its last bit is the least subnormal
        shifted = emit.line(f"fadd {single} {magnitude}, {magic}")
        tiny = emit.line(f"fsub {single} {shifted}, {magic}")
        tiny = emit.call(
            f"llvm.copysign.{_suffix('float', width)}", single, f"{single} {tiny}", f"{single} {name}"
        )
        tiny = emit.line(f"bitcast {single} {tiny} to {word}")
        is_tiny = emit.line(f"fcmp olt {single} {magnitude}, {literal(2.0**least, float32, width)}")
        rounded = emit.line(f"select {flag} {is_tiny}, {word} {tiny}, {word} {rounded}")
        size = emit.line(f"and {word} {rounded}, {_integer(0x7FFFFFFF, width)}")
        limit = struct.unpack("<i", struct.pack("<f", greatest))[0]
        beyond = emit.line(f"icmp ugt {word} {size}, {_integer(limit, width)}")
        sign = emit.line(f"and {word} {bits}, {_integer(-(1 << 31), width)}")
        over = emit.line(f"or {word} {sign}, {_integer(beyond_bits, width)}")
        rounded = emit.line(f"select {flag} {beyond}, {word} {over}, {word} {rounded}")
    nan = emit.line(f"fcmp uno {single} {name}, {name}")
    quiet = emit.line(f"or {word} {bits}, {_integer(0x7FC00000, width)}")
    rounded = emit.line(f"select {flag} {nan}, {word} {quiet}, {word} {rounded}")
    if dtype is bfloat16:
        rounded = emit.line(f"and {word} {rounded}, {_integer(-(1 << 16), width)}")
    return emit.line(f"bitcast {word} {rounded} to {single}")


# ---- casts ----


def cast(emit: Emit, name: str, source: DType, target: DType, width: int) -> str:
    """Value conversion as the op spec says."""
    a, b = register_type(source, width), register_type(target, width)
    if target is bool_:
        if source is bool_:
            return name
        if source.kind == "f":
            return emit.line(f"fcmp une {a} {name}, {literal(0.0, source, width)}")
        return emit.line(f"icmp ne {a} {name}, {_zero(width)}")
    if target.kind == "f":
        return _to_float(emit, name, source, target, width, a, b)
    if source.kind == "f":
        way = "fptosi" if target.kind == "i" else "fptoui"
        result = f"{_suffix(scalar_type(target), width)}.{_suffix(scalar_type(source), width)}"
        return emit.call(f"llvm.{way}.sat.{result}", b, f"{a} {name}")
    if a == b:
        return name
    if source is not bool_ and target.bits < source.bits:
        return emit.line(f"trunc {a} {name} to {b}")
    return emit.line(f"{'sext' if source.kind == 'i' else 'zext'} {a} {name} to {b}")


def _to_float(emit: Emit, name: str, source: DType, target: DType, width: int, a: str, b: str) -> str:
    if source.kind != "f":
        way = "sitofp" if source.kind == "i" else "uitofp"
        if source.bits >= 32 and target in _NARROW:
            wide = emit.line(f"{way} {a} {name} to {vector('double', width)}")
            if source.bits == 64:
                wide = _sticky(emit, name, wide, way, width)
            return round_narrow(emit, _round_to_odd(emit, wide, width), target, width)
        return round_narrow(emit, emit.line(f"{way} {a} {name} to {b}"), target, width)
    if source is float64 and target is not float64:
        if target is float32:
            return emit.line(f"fptrunc {a} {name} to {b}")
        return round_narrow(emit, _round_to_odd(emit, name, width), target, width)
    if target is float64:
        return name if source is float64 else emit.line(f"fpext {a} {name} to {b}")
    exact = target is float32 or source is target
    return name if exact else round_narrow(emit, name, target, width)


def _sticky(emit: Emit, name: str, wide: str, way: str, width: int) -> str:
    """A 64-bit integer as float64 rounded to odd, where it has more bits than that holds."""
    word, double, flag = vector("i64", width), vector("double", width), vector("i1", width)
    low = emit.line(f"and {word} {name}, {_integer(2047, width, 64)}")
    inexact = emit.line(f"icmp ne {word} {low}, {_zero(width)}")
    last = emit.line(f"select {flag} {inexact}, {word} {_integer(2048, width, 64)}, {word} {_zero(width)}")
    high = emit.line(f"and {word} {name}, {_integer(-2048, width, 64)}")
    odd = emit.line(f"{way} {word} {emit.line(f'or {word} {high}, {last}')} to {double}")
    size = emit.call(f"llvm.fabs.{_suffix('double', width)}", double, f"{double} {wide}")
    small = emit.line(f"fcmp olt {double} {size}, {literal(2.0**53, float64, width)}")
    return emit.line(f"select {flag} {small}, {double} {wide}, {double} {odd}")


def _round_to_odd(emit: Emit, name: str, width: int) -> str:
    """float64 to float32 so that a second rounding to fewer bits gives what one rounding would."""
    single, double, word = vector("float", width), vector("double", width), vector("i32", width)
    near = emit.line(f"fptrunc {double} {name} to {single}")
    back = emit.line(f"fpext {single} {near} to {double}")
    far = emit.call(f"llvm.fabs.{_suffix('double', width)}", double, f"{double} {back}")
    true = emit.call(f"llvm.fabs.{_suffix('double', width)}", double, f"{double} {name}")
    above = emit.line(f"fcmp ogt {double} {far}, {true}")
    bits = emit.line(f"bitcast {single} {near} to {word}")
    above = emit.line(f"zext {vector('i1', width)} {above} to {word}")
    down = emit.line(f"sub {word} {bits}, {above}")
    inexact = emit.line(f"fcmp une {double} {back}, {name}")
    inexact = emit.line(f"zext {vector('i1', width)} {inexact} to {word}")
    sticky = emit.line(f"or {word} {down}, {inexact}")
    return emit.line(f"bitcast {word} {sticky} to {single}")


# ---- operations: (emit, expr, operand names, width) -> name; operands have one dtype unless said ----

Operation = Callable[[Emit, Expr, list[str], int], str]


def _arithmetic(on_float: str, on_integer: str, on_bool: str) -> Operation:
    def operation(emit: Emit, expr: Expr, names: list[str], width: int) -> str:
        dtype = expr.dtype
        name = on_float if dtype.kind == "f" else on_bool if dtype is bool_ else on_integer
        result = emit.line(f"{name} {register_type(dtype, width)} {names[0]}, {names[1]}")
        return round_narrow(emit, result, dtype, width) if dtype.kind == "f" else result

    return operation


def _divide(emit: Emit, expr: Expr, names: list[str], width: int) -> str:
    dtype, (a, b) = expr.dtype, names
    kind = register_type(dtype, width)
    if dtype.kind == "f":
        return round_narrow(emit, emit.line(f"fdiv {kind} {a}, {b}"), dtype, width)
    flag = vector("i1", width)
    one, zero, minus = literal(1, dtype, width), literal(0, dtype, width), literal(-1, dtype, width)
    divisor = expr.args[1]
    known = divisor.op is Op.CONST and divisor.arg > 0
    if dtype.kind == "u" or (known and expr.args[0].lo >= 0):
        if known:
            return emit.line(f"udiv {kind} {a}, {b}")
        by_zero = emit.line(f"icmp eq {kind} {b}, {zero}")
        safe = emit.line(f"select {flag} {by_zero}, {kind} {one}, {kind} {b}")
        quotient = emit.line(f"udiv {kind} {a}, {safe}")
        return emit.line(f"select {flag} {by_zero}, {kind} {zero}, {kind} {quotient}")
    safe = b
    if not known:
        by_zero = emit.line(f"icmp eq {kind} {b}, {zero}")
        by_minus = emit.line(f"icmp eq {kind} {b}, {minus}")
        special = emit.line(f"or {flag} {by_zero}, {by_minus}")
        safe = emit.line(f"select {flag} {special}, {kind} {one}, {kind} {b}")
    quotient = emit.line(f"sdiv {kind} {a}, {safe}")
    rest = emit.line(f"sub {kind} {a}, {emit.line(f'mul {kind} {quotient}, {safe}')}")
    signs = emit.line(f"icmp slt {kind} {emit.line(f'xor {kind} {rest}, {safe}')}, {zero}")
    inexact = emit.line(f"icmp ne {kind} {rest}, {zero}")
    adjust = emit.line(f"and {flag} {signs}, {inexact}")
    floored = emit.line(f"add {kind} {quotient}, {emit.line(f'sext {flag} {adjust} to {kind}')}")
    if known:
        return floored
    negated = emit.line(f"sub {kind} {zero}, {a}")
    floored = emit.line(f"select {flag} {by_minus}, {kind} {negated}, {kind} {floored}")
    return emit.line(f"select {flag} {by_zero}, {kind} {zero}, {kind} {floored}")


def _modulo(emit: Emit, expr: Expr, names: list[str], width: int) -> str:
    kind = register_type(expr.dtype, width)
    if expr.args[0].lo >= 0:
        return emit.line(f"urem {kind} {names[0]}, {names[1]}")
    quotient = _divide(emit, expr, names, width)
    return emit.line(f"sub {kind} {names[0]}, {emit.line(f'mul {kind} {quotient}, {names[1]}')}")


def _extreme(test: str) -> Operation:
    """The larger ("gt") or the smaller ("lt")."""

    def operation(emit: Emit, expr: Expr, names: list[str], width: int) -> str:
        dtype, (a, b) = expr.dtype, names
        kind, flag = register_type(dtype, width), vector("i1", width)
        if dtype is bool_:
            return emit.line(f"{'or' if test == 'gt' else 'and'} {flag} {a}, {b}")
        if dtype.kind != "f":
            chosen = emit.line(f"icmp {'s' if dtype.kind == 'i' else 'u'}{test} {kind} {a}, {b}")
            return emit.line(f"select {flag} {chosen}, {kind} {a}, {kind} {b}")
        if _is_number(expr.args[1]):
            a, b = b, a
        if _is_number(limit := expr.args[0]) or _is_number(limit := expr.args[1]):  # b where b is NaN
            at_zero = f"{test[0]}e" if limit.arg == 0.0 else test  # of two zeros the constant one
            chosen = emit.line(f"fcmp o{at_zero} {kind} {a}, {b}")
            return emit.line(f"select {flag} {chosen}, {kind} {a}, {kind} {b}")
        name = f"llvm.{'maximum' if test == 'gt' else 'minimum'}.{_suffix(scalar_type(dtype), width)}"
        return emit.line(f"call nsz {kind} @{name}({kind} {a}, {kind} {b})")  # NaN where either is

    return operation


def _is_number(expr: Expr) -> bool:
    return expr.op is Op.CONST and expr.arg == expr.arg


def _compare(on_float: str, on_signed: str, on_unsigned: str) -> Operation:
    def operation(emit: Emit, expr: Expr, names: list[str], width: int) -> str:
        dtype = expr.args[0].dtype
        test = {"f": f"fcmp {on_float}", "i": f"icmp {on_signed}"}.get(dtype.kind, f"icmp {on_unsigned}")
        return emit.line(f"{test} {register_type(dtype, width)} {names[0]}, {names[1]}")

    return operation


def _where(emit: Emit, expr: Expr, names: list[str], width: int) -> str:
    kind = register_type(expr.dtype, width)
    return emit.line(f"select {vector('i1', width)} {names[0]}, {kind} {names[1]}, {kind} {names[2]}")


def _intrinsic(name: str) -> Operation:
    def operation(emit: Emit, expr: Expr, names: list[str], width: int) -> str:
        kind = register_type(expr.dtype, width)
        function = f"llvm.{name}.{_suffix(scalar_type(expr.dtype), width)}"
        result = emit.call(function, kind, *(f"{kind} {operand}" for operand in names))
        return round_narrow(emit, result, expr.dtype, width)

    return operation


def _function(name: str) -> Operation:
    def operation(emit: Emit, expr: Expr, names: list[str], width: int) -> str:
        kind = register_type(expr.dtype, width)
        function = emit.math(f"petaflop_{name}_v{width}{'f64' if expr.dtype is float64 else 'f32'}")
        result = emit.line(f"call {kind} @{function}({kind} {names[0]})")
        return round_narrow(emit, result, expr.dtype, width)

    return operation


def _negate(emit: Emit, expr: Expr, names: list[str], width: int) -> str:
    kind = register_type(expr.dtype, width)
    if expr.dtype.kind == "f":
        return emit.line(f"fneg {kind} {names[0]}")
    return emit.line(f"sub {kind} {_zero(width)}, {names[0]}")


def _cast(emit: Emit, expr: Expr, names: list[str], width: int) -> str:
    return cast(emit, names[0], expr.args[0].dtype, expr.dtype, width)


def _bitcast(emit: Emit, expr: Expr, names: list[str], width: int) -> str:
    source, target = expr.args[0].dtype, expr.dtype
    raw = encode(emit, names[0], source, width)
    a, b = memory_type(source, width), memory_type(target, width)
    if a != b:
        raw = emit.line(f"bitcast {a} {raw} to {b}")
    return decode(emit, raw, target, width)


OPERATIONS: dict[Any, Operation] = {
    Op.ADD: _arithmetic("fadd", "add", "or"),
    Op.MUL: _arithmetic("fmul", "mul", "and"),
    Native.SUB: _arithmetic("fsub", "sub", "xor"),
    Op.DIV: _divide,
    Native.MOD: _modulo,
    Op.MAX: _extreme("gt"),
    Native.MIN: _extreme("lt"),
    Op.LT: _compare("olt", "slt", "ult"),
    Op.NE: _compare("une", "ne", "ne"),
    Op.AND: _arithmetic("and", "and", "and"),
    Native.OR: _arithmetic("or", "or", "or"),
    Native.XOR: _arithmetic("xor", "xor", "xor"),
    Op.WHERE: _where,
    Op.SQRT: _intrinsic("sqrt"),
    Native.FMA: _intrinsic("fma"),
    Native.NEG: _negate,
    Op.EXP2: _function("exp2"),
    Op.LOG2: _function("log2"),
    Op.SIN: _function("sin"),
    Op.CAST: _cast,
    Op.BITCAST: _bitcast,
}
