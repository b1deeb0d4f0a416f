"""Arithmetic, comparisons, bits, selection; and Python's operators for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from petaflop.dtype import DType, bool_, default_float
from petaflop.errors import ArgumentError, DTypeError
from petaflop.graph import node as graph
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr
from petaflop.tensor import formulas, powers
from petaflop.tensor.base import TensorBase, broadcast_shapes, float_dtype, result_dtype
from petaflop.tensor.joining import Joining
from petaflop.tensor.value import Value, where

__all__ = ["Elementwise"]

_OPERANDS = (TensorBase, bool, int, float, np.ndarray, np.generic, Expr)


def _operand(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """An operator: NotImplemented for operands that are no numbers, so that Python asks the other side."""

    def operator(self: Any, other: Any) -> Any:
        return method(self, other) if isinstance(other, _OPERANDS) else NotImplemented

    operator.__doc__ = method.__doc__
    return operator


def _reflected(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """An operator whose left operand is no tensor."""

    def operator(self: Any, other: Any) -> Any:
        return method(self._reversed(other), self) if isinstance(other, _OPERANDS) else NotImplemented

    return operator


class Elementwise(Joining):
    """Functions of each element alone. Operands broadcast and are promoted as in PyTorch; numbers never
    widen."""

    __slots__ = ()

    def _values(self, name: str, *others: Any, dtype: DType | None = None) -> tuple[Value, ...]:
        return tuple(Value(node) for node in self._together(name, *others, dtype=dtype))

    def _of(self, value: Value) -> Self:
        return self._wrap(value.node)

    def _reversed(self, number: Any) -> Self:
        """A number on the left of an operator, of the dtype that the operation will have."""
        if isinstance(number, (bool, int, float, np.generic, Expr)):
            dtype = result_dtype([self, self._lift(number)], [False, True])
            return self._lift(number, dtype)
        return self._lift(number)

    def _integers(self, name: str, *others: Any) -> tuple[Value, ...]:
        values = self._values(name, *others)
        if values[0].dtype.is_float:
            raise DTypeError(f"{name}: expected integers or bool, got {values[0].dtype}; cast them first")
        return values

    def _number(self, name: str) -> Self:
        """This tensor, which must not be bool, as in PyTorch."""
        if self.dtype is bool_:
            raise DTypeError(f"{name}: expected numbers, got bool; cast them first")
        return self

    def _floats(self, name: str, *others: Any) -> tuple[Value, ...]:
        """Operands of which at least one is a float tensor, in float32 where that is a half."""
        dtypes = [self.dtype] + [other.dtype for other in others if isinstance(other, TensorBase)]
        if not any(dtype.is_float for dtype in dtypes):
            raise DTypeError(f"{name}: expected floats, got {self.dtype}; cast them first")
        values = self._values(name, *others)
        narrow = values[0].dtype.itemsize < default_float.itemsize
        return tuple(value.cast(default_float) for value in values) if narrow else values

    # ---- arithmetic ----

    def add(self, other: Any, *, alpha: float = 1) -> Self:
        """self + alpha * other; alpha is an integer where these are."""
        a, b = self._values("add", other)
        return self._of(a + _scaled("add", b, alpha))

    def sub(self, other: Any, *, alpha: float = 1) -> Self:
        """self - alpha * other. RuntimeError for bool, as in PyTorch: use logical_xor or logical_not."""
        if bool_ in (self.dtype, getattr(other, "dtype", None)) or isinstance(other, bool):
            raise DTypeError("sub: expected numbers, got bool; use !=, ~ or cast them first")
        a, b = self._values("sub", other)
        return self._of(a - _scaled("sub", b, alpha))

    def mul(self, other: Any) -> Self:
        """self * other."""
        a, b = self._values("mul", other)
        return self._of(a * b)

    def div(self, other: Any, rounding_mode: str | None = None) -> Self:
        """self / other, float32 for integers; `rounding_mode` "floor" or "trunc" keeps integers integers."""
        a, b = self._values("div", other)
        if rounding_mode is None:
            dtype = float_dtype(a.dtype)
            if not a.dtype.is_float:
                a, b = self._values("div", other, dtype=dtype)
            return self._of(a / b)
        if rounding_mode not in ("floor", "trunc"):
            raise ArgumentError(f"div: expected rounding_mode floor, trunc or None, got {rounding_mode!r}")
        if a.dtype is bool_:
            raise DTypeError("div: expected numbers for a rounding mode, got bool")
        chosen = formulas.floor_divide if rounding_mode == "floor" else formulas.trunc_divide
        return self._of(chosen(a, b))

    def floor_divide(self, other: Any) -> Self:
        """floor(self / other)."""
        return self.div(other, rounding_mode="floor")

    def mod(self, other: Any) -> Self:
        """The remainder with the sign of the divisor: self - floor(self / other) * other, as Python's %."""
        a, b = self._values("mod", other)
        if a.dtype is bool_:
            raise DTypeError("mod: expected numbers, got bool")
        return self._of(formulas.floor_mod(a, b))

    remainder = mod

    def fmod(self, other: Any) -> Self:
        """The remainder with the sign of the dividend, as C's fmod: exact on floats."""
        a, b = self._values("fmod", other)
        if a.dtype is bool_:
            raise DTypeError("fmod: expected numbers, got bool")
        return self._of(formulas.trunc_mod(a, b))

    def pow(self, exponent: Any) -> Self:
        """self ** exponent, within 16 ULP; integers keep their dtype and want exponents >= 0."""
        if isinstance(exponent, (int, float)) and not isinstance(exponent, bool):
            base = self._values("pow", exponent)[0]
            if base.dtype.is_integer and exponent < 0:
                raise DTypeError(
                    f"pow: expected an exponent >= 0 for {self.dtype}, got {exponent}; cast to float",
                )
            if (simple := powers.power_constant(base, exponent)) is not None:
                return self._of(simple)
        a, b = self._values("pow", exponent)
        if a.dtype is bool_:
            raise DTypeError("pow: expected numbers, got bool; cast them first")
        return self._of(powers.integer_power(a, b) if a.dtype.is_integer else powers.power(a, b))

    def maximum(self, other: Any) -> Self:
        """The larger; NaN if either is."""
        a, b = self._values("maximum", other)
        return self._of(a.maximum(b))

    def minimum(self, other: Any) -> Self:
        """The smaller; NaN if either is."""
        a, b = self._values("minimum", other)
        return self._of(a.minimum(b))

    def clamp(self, min: Any = None, max: Any = None) -> Self:
        """At least `min` and at most `max`, numbers or tensors; NaN stays NaN."""
        if min is None and max is None:
            raise ArgumentError("clamp: expected min, max or both, got neither")
        bounds = [bound for bound in (min, max) if bound is not None]
        values = list(self._values("clamp", *bounds))
        if values[0].dtype is bool_:
            raise DTypeError("clamp: expected numbers, got bool; cast them first")
        result = values.pop(0)
        # by WHERE, so that the gradient at a bound goes to self, as in PyTorch
        if min is not None:
            low = values.pop(0)
            result = where((result < low) | low.isnan(), low, result)
        if max is not None:
            high = values.pop(0)
            result = where((result > high) | high.isnan(), high, result)
        return self._of(result)

    clip = clamp

    def lerp(self, end: Any, weight: Any) -> Self:
        """self + weight * (end - self)."""
        a, b, w = self._floats("lerp", end, weight)
        result = where(w.magnitude() < 0.5, a + w * (b - a), b - (b - a) * (1 - w))
        return self._rounded(result, end, weight)

    def copysign(self, other: Any) -> Self:
        """The magnitude of self with the sign of other; the sign of -0.0 and of NaN counts."""
        a, b = self._values("copysign", other)
        if not a.dtype.is_float:
            a, b = self._values("copysign", other, dtype=default_float)
        if a.node.needs_gradient:  # as that of abs, the gradient at 0 is 0
            a = where(a.eq(0), a.detach(), a)
        return self._of(where(formulas.sign_bit(a).ne(formulas.sign_bit(b)), -a, a))

    def logaddexp(self, other: Any) -> Self:
        """log(exp(self) + exp(other)) without overflow."""
        a, b = self._floats("logaddexp", other)
        smaller = a < b
        equal = a.eq(b) & ~(a.magnitude() < float("inf"))
        distance = where(equal, 0.0, where(smaller, a - b, b - a))
        total = where(smaller, b, a) + formulas.log1p(formulas.exp(distance))
        return self._rounded(total, other)

    def _rounded(self, value: Value, *others: Any) -> Self:
        """A value computed by `_floats`, in the dtype that the operands promote to."""
        weak = [not isinstance(other, TensorBase) for other in others]
        dtype = result_dtype([self, *(self._lift(other) for other in others)], [False, *weak])
        return self._of(value.cast(dtype))

    def where(self, first: Any, second: Any) -> Self:
        """`condition.where(x, y)`: x where this bool tensor holds, else y. Of another dtype:
        `x.where(condition, y)`.

        `Tensor.where(condition, x, y)` reads as `torch.where`.
        """
        if self.dtype is bool_:
            return select(self, first, second)
        return select(self._lift(first), self, second)

    def masked_fill(self, mask: Any, value: Any) -> Self:
        """`value` where the mask holds, else self; keeps this dtype."""
        chosen = self._lift(mask)
        if chosen.dtype is not bool_:
            raise DTypeError(f"masked_fill: expected a bool mask, got {chosen.dtype}")
        return select(chosen, self._lift(value).cast(self.dtype), self)

    # ---- bits ----

    def bitwise_and(self, other: Any) -> Self:
        a, b = self._integers("bitwise_and", other)
        return self._of(a & b)

    def bitwise_or(self, other: Any) -> Self:
        a, b = self._integers("bitwise_or", other)
        return self._of(a | b)

    def bitwise_xor(self, other: Any) -> Self:
        a, b = self._integers("bitwise_xor", other)
        return self._of(a ^ b)

    def bitwise_not(self) -> Self:
        """Every bit inverted; `not` on bool."""
        return self._of(~self._integers("bitwise_not")[0])

    def lshift(self, other: Any) -> Self:
        """self * 2**other; 0 for shifts of the width and more."""
        return self._shifted_bits("lshift", formulas.shift_left, other)

    def rshift(self, other: Any) -> Self:
        """floor(self / 2**other): arithmetic on signed integers; 0 or -1 for shifts of the width and more."""
        return self._shifted_bits("rshift", formulas.shift_right, other)

    def _shifted_bits(self, name: str, shift: Callable[[Value, Value], Value], other: Any) -> Self:
        a, b = self._integers(name, other)
        if a.dtype is bool_:
            raise DTypeError(f"{name}: expected integers, got bool; cast them first")
        return self._of(shift(a, b))

    # ---- truth ----

    def logical_not(self) -> Self:
        """Whether each element is 0."""
        return self._of(Value(self.node).eq(0))

    def logical_and(self, other: Any) -> Self:
        a, b = self._values("logical_and", other)
        return self._of(a.cast(bool_) & b.cast(bool_))

    def logical_or(self, other: Any) -> Self:
        a, b = self._values("logical_or", other)
        return self._of(a.cast(bool_) | b.cast(bool_))

    def logical_xor(self, other: Any) -> Self:
        a, b = self._values("logical_xor", other)
        return self._of(a.cast(bool_) ^ b.cast(bool_))

    def eq(self, other: Any) -> Self:
        a, b = self._values("eq", other)
        return self._of(a.eq(b))

    def ne(self, other: Any) -> Self:
        a, b = self._values("ne", other)
        return self._of(a.ne(b))

    def lt(self, other: Any) -> Self:
        a, b = self._values("lt", other)
        return self._of(a < b)

    def gt(self, other: Any) -> Self:
        a, b = self._values("gt", other)
        return self._of(a > b)

    def le(self, other: Any) -> Self:
        a, b = self._values("le", other)
        return self._of(a <= b)

    def ge(self, other: Any) -> Self:
        a, b = self._values("ge", other)
        return self._of(a >= b)

    def isclose(self, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Self:
        """|self - other| <= atol + rtol * |other|; equal infinities are close."""
        a, b = self._values("isclose", other)
        if not a.dtype.is_float:
            a, b = self._values("isclose", other, dtype=default_float)
        finite = (b.magnitude() < float("inf")) & (a.magnitude() < float("inf"))
        near = ((a - b).magnitude() <= b.magnitude() * rtol + atol) & finite
        close = a.eq(b) | near
        return self._of(close | (a.isnan() & b.isnan()) if equal_nan else close)

    # ---- in place ----

    def _update(self, result: TensorBase) -> Self:
        """Take a result as the new value; see `core.Tensor.assign`."""
        raise NotImplementedError

    # ---- operators ----

    __add__ = _operand(add)
    __sub__ = _operand(sub)
    __mul__ = _operand(mul)
    __truediv__ = _operand(div)
    __floordiv__ = _operand(floor_divide)
    __mod__ = _operand(mod)
    __pow__ = _operand(pow)
    __and__ = _operand(bitwise_and)
    __or__ = _operand(bitwise_or)
    __xor__ = _operand(bitwise_xor)
    __lshift__ = _operand(lshift)
    __rshift__ = _operand(rshift)
    __lt__ = _operand(lt)
    __gt__ = _operand(gt)
    __le__ = _operand(le)
    __ge__ = _operand(ge)
    __eq__ = _operand(eq)
    __ne__ = _operand(ne)
    __hash__ = object.__hash__

    __radd__ = _reflected(add)
    __rsub__ = _reflected(sub)
    __rmul__ = _reflected(mul)
    __rtruediv__ = _reflected(div)
    __rfloordiv__ = _reflected(floor_divide)
    __rmod__ = _reflected(mod)
    __rpow__ = _reflected(pow)
    __rand__ = _reflected(bitwise_and)
    __ror__ = _reflected(bitwise_or)
    __rxor__ = _reflected(bitwise_xor)
    __rlshift__ = _reflected(lshift)
    __rrshift__ = _reflected(rshift)

    def __neg__(self) -> Self:
        return self._of(-Value(self._number("neg").node))

    neg = __neg__

    def __pos__(self) -> Self:
        return self._number("positive")

    def __invert__(self) -> Self:
        return self.bitwise_not()

    def __abs__(self) -> Self:
        return self._of(formulas.absolute(Value(self._number("abs").node)))

    abs = __abs__


def _scaled(name: str, value: Value, alpha: float) -> Value:
    """alpha · value, for the second operand of a sum."""
    if isinstance(alpha, float) and not value.dtype.is_float:
        raise DTypeError(f"{name}: expected an integer alpha for {value.dtype}, got {alpha}")
    return value if alpha == 1 else value * alpha


def select(condition: Any, yes: Any, no: Any) -> Any:
    """`yes` where the condition holds, else `no`; all three broadcast, the last two are promoted."""
    if condition.dtype is not bool_:
        raise DTypeError(f"where: expected a bool condition, got {condition.dtype}; use x.ne(0)")
    yes_tensor, no_tensor = condition._lift(yes), condition._lift(no)
    weak = [isinstance(value, (bool, int, float, np.generic, Expr)) for value in (yes, no)]
    if all(weak):
        weak = [False, False]
    dtype = result_dtype([yes_tensor, no_tensor], weak)
    shape = broadcast_shapes("where", [condition, yes_tensor, no_tensor])
    nodes = [
        graph.const(value, dtype, shape)
        if isinstance(value, (bool, int, float))
        else graph.cast(tensor._expanded(shape), dtype)
        for value, tensor in ((yes, yes_tensor), (no, no_tensor))
    ]
    device = yes_tensor._device or no_tensor._device or condition._device
    return condition._from_node(graph.compute(Op.WHERE, condition._expanded(shape), *nodes), device)
