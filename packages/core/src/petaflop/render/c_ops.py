"""How each primitive operation is spelled in C: one function per row, chosen by tables.

A spelling is (dialect, expression, operand texts) -> text; texts are atoms, calls or in parentheses, so that
they may stand in any place. Integers are computed in unsigned types, where overflow wraps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from petaflop.dtype import DTYPES, DType, bool_, float32, float64
from petaflop.errors import CompileError
from petaflop.graph.ops import Native, Op
from petaflop.graph.symbolic import Expr, is_constant
from petaflop.render.c_dialect import CDialect, CNumber

__all__ = ["OPERATIONS", "literal", "number_of"]

Operation = Callable[[CDialect, Expr, Sequence[str]], str]


def number_of(dialect: CDialect, dtype: DType) -> CNumber:
    """How the dialect spells a dtype; `index` is one of its integers."""
    found = dialect.numbers.get(_computed_name(dialect, dtype))
    if found is None:
        raise CompileError(f"render_c: expected a dtype of {', '.join(dialect.numbers)}, got {dtype}")
    return found


def _computed_name(dialect: CDialect, dtype: DType) -> str:
    return dtype.name if dtype.name in DTYPES else dialect.index


def literal(dialect: CDialect, value: Any, dtype: DType) -> str:
    """A constant of `dtype`."""
    number = number_of(dialect, dtype)
    if dtype.kind != "f":
        return _integer_literal(number, value, DTYPES[_computed_name(dialect, dtype)])
    rounded = float(dtype.numpy.type(value))
    if math.isnan(rounded):
        return dialect.nan
    shortest = str(np.dtype(number.computed).type(abs(rounded)))
    text = dialect.infinity if math.isinf(rounded) else number.literal.format(value=shortest)
    return f"(-{text})" if math.copysign(1.0, rounded) < 0 else text


def _integer_literal(number: CNumber, value: Any, dtype: DType) -> str:
    if dtype is bool_:
        return str(int(bool(value)))
    wrapped = int(value) & ((1 << dtype.bits) - 1)
    signed = wrapped - (1 << dtype.bits) if dtype.kind == "i" and wrapped >> (dtype.bits - 1) else wrapped
    if dtype.kind == "i" and signed == dtype.min:  # C has no literal for the least integer
        return f"({signed + 1} - 1)"
    text = number.literal.format(value=abs(signed))
    return f"(-{text})" if signed < 0 else text


# ---- arithmetic ----


def _wrapped(dialect: CDialect, dtype: DType, symbol: str, texts: Sequence[str]) -> str:
    """`a symbol b` on unsigned integers that are wide enough not to be promoted to int."""
    number = number_of(dialect, dtype)
    if dtype.name not in DTYPES:  # an index never overflows
        less = symbol == "+" and re.fullmatch(r"\(-(\d+)\)", texts[1])
        return f"({texts[0]} - {less[1]})" if less else f"({texts[0]} {symbol} {texts[1]})"
    wide = dialect.numbers["uint64" if dtype.bits == 64 else "uint32"].register
    if number.register == wide:
        return f"({texts[0]} {symbol} {texts[1]})"
    return f"({number.register})(({wide}){texts[0]} {symbol} ({wide}){texts[1]})"


def _arithmetic(symbol: str, on_bool: str) -> Operation:
    def operation(dialect: CDialect, expr: Expr, texts: Sequence[str]) -> str:
        dtype = expr.dtype
        if dtype is bool_:
            return f"({texts[0]} {on_bool} {texts[1]})"
        if dtype.kind != "f":
            return _wrapped(dialect, dtype, symbol, texts)
        return number_of(dialect, dtype).round.format(value=f"({texts[0]} {symbol} {texts[1]})")

    return operation


def _bitwise(symbol: str) -> Operation:
    def operation(dialect: CDialect, expr: Expr, texts: Sequence[str]) -> str:
        return f"({texts[0]} {symbol} {texts[1]})"

    return operation


def _plain_division(expr: Expr) -> bool:
    """Whether C's own division floors, and never sees a zero."""
    dividend, divisor = expr.args
    known = is_constant(divisor) and divisor.arg > 0
    return known and (expr.dtype.kind == "u" or dividend.lo >= 0)


def _whole(name: str, symbol: str) -> Operation:
    """Floor division and its rest."""

    def operation(dialect: CDialect, expr: Expr, texts: Sequence[str]) -> str:
        if expr.dtype.kind == "f":
            return _arithmetic(symbol, symbol)(dialect, expr, texts)
        if _plain_division(expr):
            return f"({texts[0]} {symbol} {texts[1]})"
        return f"petaflop_{name}_{number_of(dialect, expr.dtype).computed}({texts[0]}, {texts[1]})"

    return operation


def _extreme(name: str, on_bool: str) -> Operation:
    def operation(dialect: CDialect, expr: Expr, texts: Sequence[str]) -> str:
        if expr.dtype is bool_:
            return f"({texts[0]} {on_bool} {texts[1]})"
        return f"petaflop_{name}_{number_of(dialect, expr.dtype).computed}({texts[0]}, {texts[1]})"

    return operation


def _where(dialect: CDialect, expr: Expr, texts: Sequence[str]) -> str:
    return f"({texts[0]} ? {texts[1]} : {texts[2]})"


def _negative(dialect: CDialect, expr: Expr, texts: Sequence[str]) -> str:
    if expr.dtype.kind == "f":
        return f"(-{texts[0]})"
    return _wrapped(dialect, expr.dtype, "-", ["0", texts[0]])


def _function(dialect: CDialect, expr: Expr, texts: Sequence[str]) -> str:
    number = number_of(dialect, expr.dtype)
    return number.round.format(value=f"{dialect.functions[expr.op, number.computed]}({', '.join(texts)})")


# ---- types ----


def _cast(dialect: CDialect, expr: Expr, texts: Sequence[str]) -> str:
    """Value conversion as the op spec says."""
    source, target = expr.args[0].dtype, expr.dtype
    if target is source:
        return texts[0]
    if target is bool_:
        return f"({texts[0]} != 0)"
    if target.kind == "f":
        return _to_float(dialect, source, target, texts[0])
    number = number_of(dialect, target)
    if source.kind == "f":
        return f"petaflop_{number.computed}_of_{number_of(dialect, source).computed}({texts[0]})"
    return f"({number.register}){texts[0]}"


def _to_float(dialect: CDialect, source: DType, target: DType, text: str) -> str:
    """Rounded once: what float32 cannot hold exactly reaches a narrower float through rounding to odd."""
    number = number_of(dialect, target)
    if number.computed == target.name:
        return f"({number.register}){text}"
    computed = DTYPES[number_of(dialect, source).computed]
    if computed.is_integer and computed.bits == 64:
        text = f"petaflop_odd(petaflop_sticky_{computed}({text}))"
    elif computed is float64 or (computed.is_integer and computed.bits > float32.mantissa):
        text = f"petaflop_odd({text})"
    elif source.kind != "f":
        text = f"({number.register}){text}"
    return number.round.format(value=text)


def _bitcast(dialect: CDialect, expr: Expr, texts: Sequence[str]) -> str:
    bits = number_of(dialect, expr.args[0].dtype).bits.format(value=texts[0])
    return number_of(dialect, expr.dtype).from_bits.format(value=bits)


OPERATIONS: dict[Any, Operation] = {
    Op.ADD: _arithmetic("+", "|"),
    Op.MUL: _arithmetic("*", "&"),
    Native.SUB: _arithmetic("-", "^"),
    Op.DIV: _whole("divide", "/"),
    Native.MOD: _whole("modulo", "%"),
    Op.MAX: _extreme("max", "|"),
    Native.MIN: _extreme("min", "&"),
    Op.LT: _bitwise("<"),
    Op.NE: _bitwise("!="),
    Op.AND: _bitwise("&"),
    Native.OR: _bitwise("|"),
    Native.XOR: _bitwise("^"),
    Op.WHERE: _where,
    Op.SQRT: _function,
    Op.EXP2: _function,
    Op.LOG2: _function,
    Op.SIN: _function,
    Native.FMA: _function,
    Native.NEG: _negative,
    Op.CAST: _cast,
    Op.BITCAST: _bitcast,
}
