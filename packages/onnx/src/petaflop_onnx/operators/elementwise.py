"""Elementwise operators: arithmetic, comparison, logic, bits, types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import TensorProto

from petaflop import Tensor
from petaflop.dtype import DType, bool_, float8_e4m3, float8_e5m2, float32, to_dtype
from petaflop_onnx.host import as_text
from petaflop_onnx.narrow import Format, decoded, encoded
from petaflop_onnx.operators.common import Array, legacy, onnx_dtype, onnx_type, shape_of
from petaflop_onnx.table import Call, operator
from petaflop_onnx.values import Value, to_narrow, to_tensor

__all__ = ["converted"]

_LARGEST = {float8_e4m3: 448.0, float8_e5m2: 57344.0}
_UNARY: dict[str, tuple[int, ...]] = {
    "Abs": (1, 6, 13),
    "Acos": (7, 22),
    "Acosh": (9, 22),
    "Asin": (7, 22),
    "Asinh": (9, 22),
    "Atan": (7, 22),
    "Atanh": (9, 22),
    "Ceil": (1, 6, 13),
    "Cos": (7, 22),
    "Cosh": (9, 22),
    "Erf": (9, 13),
    "Exp": (1, 6, 13),
    "Floor": (1, 6, 13),
    "IsNaN": (9, 13, 20),
    "Log": (1, 6, 13),
    "Neg": (1, 6, 13),
    "Reciprocal": (1, 6, 13),
    "Round": (11, 22),
    "Sign": (9, 13),
    "Sin": (7, 22),
    "Sinh": (9, 22),
    "Sqrt": (1, 6, 13),
    "Tan": (7, 22),
    "Tanh": (1, 6, 13),
}


def _unary(name: str) -> Callable[..., Tensor]:
    """The handler that calls the Tensor method of that name."""

    def handler(_: Call, x: Tensor) -> Tensor:
        return getattr(x, name)()

    return handler


for _name, _since in _UNARY.items():
    operator(_name, *_since)(_unary(_name.lower()))


@operator("Not", 1)
def _not(_: Call, x: Tensor) -> Tensor:
    return x.logical_not()


@operator("BitwiseNot", 18)
def _bitwise_not(_: Call, x: Tensor) -> Tensor:
    return x.bitwise_not()


@operator("IsInf", 10, 20)
def _isinf(call: Call, x: Tensor) -> Tensor:
    signs = {(1, 1): x.isinf(), (1, 0): x == float("inf"), (0, 1): x == float("-inf"), (0, 0): x != x}
    wanted = call["detect_positive"], call["detect_negative"]
    return signs[wanted] if any(wanted) else signs[wanted].logical_and(False)


@operator("Dropout", 1, 6)
@operator("Dropout", 7, 10)
def _dropout(call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    if call.version < 7 and not call["is_test"]:
        raise ValueError("is_test: expected 1, as models are run and not trained, got 0")
    return x, x.ones_like(dtype=bool_)


@operator("Dropout", 12, 13, 22, host=(1, 2))
def _dropout_training(_: Call, x: Tensor, ratio: Array | None = None, training: Array | None = None) -> Any:
    """Training mode drops by petaflop's own random numbers, whatever the seed."""
    chance = 0.5 if ratio is None else float(ratio.item())
    if training is None or not training.item() or chance == 0:
        return x, x.ones_like(dtype=bool_)
    kept = Tensor.rand(*shape_of(x), device=x.device) >= chance
    return kept.where(x / (1 - chance), 0).cast(x.dtype), kept


# ---- arithmetic ----


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """True division on floats, division towards zero on integers."""
    return a / b if a.dtype.is_float else a.div(b, rounding_mode="trunc")


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
}
_COMPARE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "And": lambda a, b: a & b,
    "Or": lambda a, b: a | b,
    "Xor": lambda a, b: a ^ b,
    "Equal": lambda a, b: a == b,
    "Greater": lambda a, b: a > b,
    "Less": lambda a, b: a < b,
}
_SINCE = {
    "And": (7,),
    "Or": (7,),
    "Xor": (7,),
    "Equal": (7, 11, 13, 19),
    "Greater": (7, 9, 13),
    "Less": (7, 9, 13),
}


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def handler(_: Call, a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)

    return handler


def _binary_legacy(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def handler(call: Call, a: Tensor, b: Tensor) -> Tensor:
        return function(a, legacy(call, a, b))

    return handler


for _name, _function in _BINARY.items():
    operator(_name, 7, 13, 14)(_binary(_function))
    operator(_name, 1, 6)(_binary_legacy(_function))
for _name, _function in _COMPARE.items():
    operator(_name, *_SINCE[_name])(_binary(_function))
    operator(_name, 1)(_binary_legacy(_function))


@operator("GreaterOrEqual", 12, 16)
def _greater_or_equal(_: Call, a: Tensor, b: Tensor) -> Tensor:
    return a >= b


@operator("LessOrEqual", 12, 16)
def _less_or_equal(_: Call, a: Tensor, b: Tensor) -> Tensor:
    return a <= b


@operator("BitwiseAnd", 18)
def _bitwise_and(_: Call, a: Tensor, b: Tensor) -> Tensor:
    return a & b


@operator("BitwiseOr", 18)
def _bitwise_or(_: Call, a: Tensor, b: Tensor) -> Tensor:
    return a | b


@operator("BitwiseXor", 18)
def _bitwise_xor(_: Call, a: Tensor, b: Tensor) -> Tensor:
    return a ^ b


@operator("BitShift", 11, 28)
def _bit_shift(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return a.lshift(b) if call["direction"] == "LEFT" else a.rshift(b)


@operator("Mod", 10, 13, 28)
def _mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return a.fmod(b) if call["fmod"] else a.mod(b)


@operator("Pow", 7, 12, 13, 15, either=(1,))
def _pow(_: Call, x: Tensor, exponent: Tensor | Array) -> Tensor:
    """x ** exponent, of x's dtype; a constant exponent such as 2 or 0.5 becomes cheap arithmetic."""
    if isinstance(exponent, Tensor):
        return x.pow(exponent).cast(x.dtype)
    power = exponent.item() if exponent.size == 1 else None
    if power == 2:
        return x * x
    if power == 3:
        return x * x * x
    if power == 0.5 and x.dtype.is_float:
        return x.sqrt()
    return x.pow(Tensor(exponent, device=x.device)).cast(x.dtype)


@operator("Pow", 1)
def _pow_legacy(call: Call, x: Tensor, exponent: Tensor) -> Tensor:
    return x.pow(legacy(call, x, exponent))


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def handler(_: Call, *parts: Tensor) -> Tensor:
        total = parts[0]
        for part in parts[1:]:
            total = function(total, part)
        return total

    return handler


operator("Max", 1, 6, 8, 12, 13)(_fold(lambda a, b: a.maximum(b)))
operator("Min", 1, 6, 8, 12, 13)(_fold(lambda a, b: a.minimum(b)))
operator("Sum", 1, 6, 8, 13)(_fold(lambda a, b: a + b))


@operator("Mean", 1, 6, 8, 13)
def _mean(call: Call, *parts: Tensor) -> Tensor:
    return _fold(lambda a, b: a + b)(call, *parts) / len(parts)


@operator("Where", 9, 16)
def _where(_: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return condition.where(a, b)


# ---- limits and types ----


@operator("Clip", 1, 6)
def _clip_attributes(call: Call, x: Tensor) -> Tensor:
    return x.clip(call.get("min"), call.get("max"))


@operator("Clip", 11, 12, 13)
def _clip(_: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else x.maximum(low)
    return x if high is None else x.minimum(high)


@operator("Cast", 6, 9, 13, 19, 21, 23, 24, 25, 28, raw=True)
def _cast(call: Call, x: Value) -> Any:
    if call["to"] == TensorProto.STRING:
        return as_text(call.read(x))
    return converted(call, x, onnx_type(call["to"]))


def converted(call: Call, x: Value, to: DType | Format) -> Value:
    """x as another type; numbers too large for a float of 8 bits saturate, unless the node says otherwise."""
    narrow, saturate = to_narrow(x), bool(call.get("saturate", 1))
    number = to_tensor(x) if narrow is None else decoded(narrow)
    if isinstance(to, Format):
        return encoded(number, to, saturate, call.get("round_mode") or "up")
    if to in _LARGEST and saturate:
        number = number.cast(float32).clip(-_LARGEST[to], _LARGEST[to])
    return number.cast(to)


@operator("Cast", 1)
def _cast_by_name(call: Call, x: Tensor) -> Tensor:
    return x.cast(to_dtype(call["to"].lower()))


@operator("BitCast", 26)
def _bit_cast(call: Call, x: Tensor) -> Tensor:
    return x.bitcast(onnx_dtype(call["to"]))


@operator("CastLike", 15, 19, 21, 23, 24, 25, raw=True)
def _cast_like(call: Call, x: Value, like: Value) -> Value:
    narrow = to_narrow(like)
    return converted(call, x, to_tensor(like).dtype if narrow is None else narrow.format)
