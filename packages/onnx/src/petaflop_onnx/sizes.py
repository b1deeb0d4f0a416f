"""Shape arithmetic with sizes that vary: what `host` does with numbers, done with expressions of Variables.

Arrays hold objects here, integers and `Expr`s side by side. What holds for some sizes and not for others,
such as which of two is larger, is not decided: NeedsNumber makes the model run with plain numbers instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from petaflop import Tensor
from petaflop.plugin_api import Dim, Expr, Op
from petaflop_onnx.host import FOLD, normalize_axis
from petaflop_onnx.table import Call
from petaflop_onnx.tensors import DTYPES

__all__ = [
    "FOLD_SIZES",
    "NeedsBound",
    "NeedsNumber",
    "Sizes",
    "at_most",
    "broadcast_sizes",
    "clamped",
    "plain",
    "quotient",
    "varies",
]

Array = np.ndarray[Any, Any]


class NeedsNumber(Exception):
    """What a graph does here depends on the value of a size: no capture for all sizes holds it."""


class NeedsBound(NeedsNumber):
    """The same, but for the sizes up to `maximum`, which share a capture."""

    def __init__(self, size: Expr, maximum: int) -> None:
        super().__init__(f"expected {size} <= {maximum}")
        self.size, self.maximum = size, maximum


class Sizes:
    """A small array of integers of `dtype`, some of which vary; its Tensor is made when a kernel first needs
    it."""

    __slots__ = ("_tensor", "array", "device", "dtype")

    def __init__(self, array: Array, dtype: np.dtype[Any], device: str | None) -> None:
        self.array, self.dtype, self.device = array, dtype, device
        self._tensor: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        if self._tensor is None:
            zero = Tensor.zeros(1, dtype=str(self.dtype), device=self.device)
            parts = [zero + size for size in self.array.ravel()]
            self._tensor = (parts[0].cat(*parts[1:]) if len(parts) > 1 else parts[0]).reshape(*self.shape)
        return self._tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


def plain(size: Any) -> Any:
    """A size as an int where it has but one value."""
    return size.lo if isinstance(size, Expr) and size.lo == size.hi else size


def quotient(sizes: Sequence[Dim], divisors: Sequence[Dim]) -> Any:
    """The product of sizes over that of others; what stands on both sides cancels first."""
    left, right = list(sizes), []
    for size in divisors:
        if size in left:
            left.remove(size)
        else:
            right.append(size)
    return plain(math.prod(left) // math.prod(right))


def varies(sizes: Iterable[Any]) -> bool:
    """Whether any of them is no number."""
    return any(isinstance(size, Expr) for size in sizes)


def _compared(a: Dim, b: Dim) -> tuple[int, int]:
    """The least and the greatest value of a - b."""
    difference = a - b
    return (difference.lo, difference.hi) if isinstance(difference, Expr) else (difference, difference)


def at_most(a: Dim, b: Dim) -> bool:
    """Whether a <= b for all sizes; NeedsNumber where only for some, NeedsBound where for the smaller."""
    low, high = _compared(a, b)
    if high <= 0:
        return True
    if low > 0:
        return False
    if isinstance(a, Expr) and not a.args and isinstance(b, int):
        raise NeedsBound(a, b)
    if isinstance(a, Expr) and a.op is Op.DIV and a.lo >= 0 and _compared(a.args[0], b)[1] <= 0:
        return True  # a part is no more than the whole
    raise NeedsNumber(f"{a} <= {b}")


def _equal(a: Dim, b: Dim) -> bool:
    low, high = _compared(a, b)
    if low == high == 0:
        return True
    if low > 0 or high < 0:
        return False
    raise NeedsNumber(f"{a} == {b}")


def clamped(place: Dim, size: Dim) -> Dim:
    """A start or an end of a slice as a place from 0 to `size`; negative ones are counted from the end."""
    if not at_most(0, place):
        place = place + size
        if not at_most(0, place):
            return 0
    return plain(place) if at_most(place, size) else size


def broadcast_sizes(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
    """The common shape of two, by NumPy's rules; a size that varies only meets its equal and 1."""
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b), strict=True)
    result: list[Dim] = []
    for left, right in pairs:
        if left != right and 1 not in (left, right):
            raise ValueError(f"shape: expected sizes that broadcast, got {list(a)} and {list(b)}")
        result.append(right if left == 1 else left)
    return tuple(result)


# ---- the folds ----


def _numbers(array: Array) -> Array:
    if varies(array.ravel()):
        raise NeedsNumber(f"{array.tolist()}")
    return array.astype(np.int64)


def _divide(_: Call, a: Array, b: Array) -> Array:
    """Towards zero, which is downwards for sizes."""

    def one(x: Dim, y: Dim) -> Dim:
        if not (at_most(0, x) and at_most(1, y)):
            raise NeedsNumber(f"{x} / {y}")
        return x // y

    return _pairwise(one)(_, a, b)


def _pairwise(function: Callable[[Any, Any], Any]) -> Callable[..., Array]:
    ufunc = np.frompyfunc(function, 2, 1)

    def fold(_: Call, *operands: Array) -> Array:
        result = operands[0]
        for operand in operands[1:]:
            result = ufunc(result, operand)
        return np.asarray(result, object)

    return fold


def _one_by_one(function: Callable[[Any], Any]) -> Callable[..., Array]:
    ufunc = np.frompyfunc(function, 1, 1)

    def fold(_: Call, x: Array) -> Array:
        return np.asarray(ufunc(x), object)

    return fold


def _absolute(x: Dim) -> Dim:
    return x if at_most(0, x) else -x


def _modulo(a: Dim, b: Dim) -> Dim:
    if not (at_most(0, a) and at_most(1, b)):
        raise NeedsNumber(f"{a} % {b}")
    return a % b


def _cast(call: Call, x: Array) -> Array | None:
    return x if np.dtype(DTYPES.get(call["to"], object)).kind in "iu" else None


def _gather(call: Call, x: Array, index: Array) -> Array:
    return np.asarray(np.take(x, _numbers(index), axis=normalize_axis(call["axis"], x.ndim)), object)


def _reshape(call: Call, x: Array, shape: Array) -> Array:
    return np.asarray(FOLD["Reshape"](call, x, _numbers(shape)), object)


def _product(call: Call, x: Array, axes: Array | None = None) -> Array | None:
    return np.asarray(math.prod(x.ravel()), object).reshape(()) if _over_all(call, x, axes) else None


def _sum(call: Call, x: Array, axes: Array | None = None) -> Array | None:
    return np.asarray(sum(x.ravel()), object).reshape(()) if _over_all(call, x, axes) else None


def _over_all(call: Call, x: Array, axes: Array | None) -> bool:
    """Whether a reduction leaves one number without axes: all that shape arithmetic asks for."""
    given = axes is not None or call.get("axes") is not None
    return x.ndim == 1 and not call["keepdims"] and not (given is False and call.get("noop_with_empty_axes"))


def _moved(name: str) -> Callable[..., Any]:
    """The fold of numbers, where it only moves elements."""

    def fold(call: Call, x: Array, *others: Array | None) -> Any:
        return FOLD[name](call, x, *[other if other is None else _numbers(other) for other in others])

    return fold


# Each takes and gives arrays of objects; None where kernels must do it. Comparisons give bools.
FOLD_SIZES: Mapping[str, Callable[..., Any]] = {
    "Abs": _one_by_one(_absolute),
    "Add": _pairwise(lambda a, b: a + b),
    "Cast": _cast,
    "Concat": FOLD["Concat"],
    "Div": _divide,
    "Equal": _pairwise(_equal),
    "Flatten": FOLD["Flatten"],
    "Gather": _gather,
    "Greater": _pairwise(lambda a, b: not at_most(a, b)),
    "GreaterOrEqual": _pairwise(lambda a, b: at_most(b, a)),
    "Identity": _one_by_one(lambda x: x),
    "Less": _pairwise(lambda a, b: not at_most(b, a)),
    "LessOrEqual": _pairwise(at_most),
    "Max": _pairwise(lambda a, b: b if at_most(a, b) else a),
    "Min": _pairwise(lambda a, b: a if at_most(a, b) else b),
    "Mod": _pairwise(_modulo),
    "Mul": _pairwise(lambda a, b: a * b),
    "Neg": _one_by_one(lambda x: -x),
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "Reshape": _reshape,
    "Slice": _moved("Slice"),
    "Split": _moved("Split"),
    "Squeeze": _moved("Squeeze"),
    "Sub": _pairwise(lambda a, b: a - b),
    "Tile": _moved("Tile"),
    "Transpose": FOLD["Transpose"],
    "Unsqueeze": _moved("Unsqueeze"),
    "Where": lambda _, condition, a, b: np.where(condition.astype(bool), a, b),
}
