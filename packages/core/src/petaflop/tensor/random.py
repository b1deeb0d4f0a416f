"""Random tensors: Threefry over a counter that lives on the device and advances with each draw.

Bits and uniform draws are equal on every device, normals within ULP. Because the counter is a tensor that is
assigned to, a captured function draws new numbers at each replay. Outside of captures the tensor stays as it
is, and the host counts what has been drawn since: a draw computes nothing.
"""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple, Self

import numpy as np

from petaflop import realize as runtime
from petaflop.device.registry import default_device
from petaflop.dtype import DType, default_float, float32, float64, int32, int64, to_dtype, uint32, uint64
from petaflop.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr, product
from petaflop.tensor import formulas
from petaflop.tensor.creation import checked_shape
from petaflop.tensor.linalg import LinearAlgebra
from petaflop.tensor.mode import no_grad
from petaflop.tensor.threefry import threefry
from petaflop.tensor.value import Value, where

__all__ = ["Random"]

_lock = threading.RLock()
_states: dict[str, Any] = {}  # device → tensor uint32[4]: key, then the next counter, low word first
_seed = [0]


class _Drawn(NamedTuple):
    """`total` numbers drawn since the state was `base`; `now` is what its tensor holds, not computed."""

    base: Node
    total: int
    now: Node


_drawn: dict[str, _Drawn] = {}


class Random(LinearAlgebra):
    """Draws. `shape` is given as for zeros(); all take `dtype` (a float), `device` and `requires_grad`."""

    __slots__ = ()

    @staticmethod
    def manual_seed(seed: int = 0) -> None:
        """Start all devices' random numbers anew from a 64-bit seed.

        >>> Tensor.manual_seed(1)
        """
        if not isinstance(seed, (int, np.integer)):
            raise ArgumentTypeError(f"manual_seed: expected an integer, got {type(seed).__name__}")
        seed = int(seed)
        if not -(1 << 63) <= seed < 1 << 64:
            raise ArgumentError(f"manual_seed: expected a 64-bit integer, got {seed}")
        with _lock:
            _seed[0] = seed % (1 << 64)
            for state in _states.values():  # the tensors stay: captured functions hold them
                state._replace(_state_node(state.device))

    @classmethod
    def _state(cls, device: str) -> Any:
        """The key and the counter of a device, made at first sight; a capture needs them to be there
        before."""
        with _lock:
            if (state := _states.get(device)) is None:
                state = _states[device] = cls._from_node(_state_node(device), device)
            return state

    @staticmethod
    def _is_state(tensor: Any) -> bool:
        """Whether a tensor is the state of some device."""
        return any(tensor is state for state in _states.values())

    @classmethod
    def _bits(cls, count: Dim, device: str | None) -> tuple[Value, Value]:
        """Two uint32 words for each of `count` counters; the state moves on by as many."""
        name = device or default_device()
        with _lock, no_grad():
            state = cls._state(name)
            if isinstance(count, int) and not runtime.is_deferred():
                now, state_after = _counted(name, state, count)
                state._replace(state_after)
            else:
                now = _state_words(state._node)
                state._take(_joined(_moved(now, (_as_uint32(count), None))))
        shape = (count,)
        position = Value(graph.iota(shape, 0, uint32))
        key_low, key_high, low, high = (Value(view.expand(word.node, shape)) for word in now)
        first = low + position
        second = high + (first < low).cast(uint32)
        return threefry((key_low, key_high), (first, second))

    @classmethod
    def _words(cls, shape: tuple[Dim, ...], device: str | None) -> Value:
        """One uint32 word for each element."""
        count = product(shape)
        half = (count + 1) // 2
        if isinstance(half, Expr) and half.op is Op.CONST:
            half = int(half.arg)
        pair = [view.reshape(word.node, (1, half)) for word in cls._bits(half, device)]
        both = _stacked(pair, half)
        flat = view.shrink(view.reshape(both, (half * 2,)), ((0, count),))
        return Value(view.reshape(flat, shape))

    @classmethod
    def _uniform(cls, shape: tuple[Dim, ...], dtype: DType, device: str | None) -> Value:
        """[0, 1): 24 bits for float32 and below (8 in bfloat16, 11 in float16), 53 for float64."""
        if dtype is float64:
            high, low = (Value(view.reshape(word.node, shape)) for word in cls._bits(product(shape), device))
            bits = (high.cast(uint64) * (1 << 21)) + (low / (1 << 11)).cast(uint64)
            return bits.cast(float64) * 2.0**-53
        kept = min(24, dtype.mantissa + 1)
        return (cls._words(shape, device) / (1 << (32 - kept))).cast(float32) * 2.0**-kept

    @classmethod
    def _drawn(cls, value: Value, dtype: DType, device: str | None, requires_grad: bool) -> Self:
        tensor = cls._from_node(value.cast(dtype).node, device or default_device())
        return tensor.requires_grad_() if requires_grad else tensor

    @classmethod
    def rand(
        cls, *shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False
    ) -> Self:
        """Uniform in [0, 1), 24 bits of it.

        >>> bool((Tensor.rand(100) < 1).all())
        True
        """
        kind = _float("rand", dtype)
        return cls._drawn(
            cls._uniform(checked_shape("rand", shape), kind, device), kind, device, requires_grad
        )

    @classmethod
    def randn(
        cls, *shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False
    ) -> Self:
        """Normal with mean 0 and variance 1, by Box and Muller."""
        kind = _float("randn", dtype)
        sizes = checked_shape("randn", shape)
        wide = float64 if kind is float64 else float32
        first, second = cls._uniform((2, *sizes), wide, device), None
        first, second = (Value(_row(first.node, row, sizes)) for row in range(2))
        radius = (formulas.log(1 - first) * -2).sqrt()
        return cls._drawn(radius * formulas.cos(second * (2 * math.pi)), kind, device, requires_grad)

    def rand_like(self, dtype: Any = None, requires_grad: bool = False) -> Self:
        """rand with this tensor's shape, dtype and device."""
        kind = dtype or (self.dtype if self.dtype.is_float else default_float)
        return self.rand(*self.shape, dtype=kind, device=self.device, requires_grad=requires_grad)

    def randn_like(self, dtype: Any = None, requires_grad: bool = False) -> Self:
        """randn with this tensor's shape, dtype and device."""
        kind = dtype or (self.dtype if self.dtype.is_float else default_float)
        return self.randn(*self.shape, dtype=kind, device=self.device, requires_grad=requires_grad)

    @classmethod
    def randint(
        cls,
        *shape: Any,
        low: int = 0,
        high: int = 10,
        dtype: Any = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:
        """Integers low <= i < high, int32 unless told; `randint(low, high, (2, 3))` as in PyTorch works
        too."""
        if shape and isinstance(shape[-1], (tuple, list)) and len(shape) > 1:
            *bounds, sizes_ = shape
            low, high = (0, bounds[0]) if len(bounds) == 1 else (bounds[0], bounds[1])
            shape = (sizes_,)
        sizes = checked_shape("randint", shape)
        kind = int32 if dtype is None else to_dtype(dtype)
        if not low < high:
            raise ArgumentError(f"randint: expected low < high, got {low} and {high}")
        span = high - low
        if span > 1 << 32:
            raise ArgumentError(f"randint: expected a range of at most 2**32, got {span}")
        # ⌊word · span / 2^32⌋ by 64-bit multiplication: a bias below span / 2^32
        scaled = (cls._words(sizes, device).cast(uint64) * span) / (1 << 32)
        return cls._drawn(scaled.cast(int64) + low, kind, device, requires_grad)

    @classmethod
    def uniform(
        cls,
        *shape: Any,
        low: float = 0.0,
        high: float = 1.0,
        dtype: Any = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:
        """Uniform in [low, high)."""
        kind = _float("uniform", dtype)
        value = cls._uniform(checked_shape("uniform", shape), kind, device)
        scaled = value * (high - low)
        rounded = where(scaled.isnan(), scaled, scaled + low)  # read twice, so on no device one multiply-add
        drawn = rounded.cast(kind)
        if low < high:  # rounding may reach the bound
            greatest = np.nextafter(kind.numpy.type(high), kind.numpy.type(low))
            drawn = drawn.minimum(float(greatest))
        return cls._drawn(drawn, kind, device, requires_grad)

    @classmethod
    def normal(
        cls,
        *shape: Any,
        mean: float = 0.0,
        std: float = 1.0,
        dtype: Any = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:
        """Normal with this mean and standard deviation."""
        drawn = cls.randn(*shape, dtype=dtype, device=device) * std + mean
        return drawn.requires_grad_() if requires_grad else drawn

    @classmethod
    def scaled_uniform(cls, *shape: Any, **options: Any) -> Self:
        """Uniform in ±1/√(number of elements)."""
        bound = 1 / math.sqrt(_known("scaled_uniform", checked_shape("scaled_uniform", shape)))
        return cls.uniform(*shape, low=-bound, high=bound, **options)

    @classmethod
    def glorot_uniform(cls, *shape: Any, **options: Any) -> Self:
        """Uniform in ±√(6 / (fan in + fan out)) (Glorot and Bengio)."""
        sizes = checked_shape("glorot_uniform", shape)
        bound = math.sqrt(6 / (sizes[0] + _known("glorot_uniform", sizes[1:])))
        return cls.uniform(*sizes, low=-bound, high=bound, **options)

    xavier_uniform = glorot_uniform

    @classmethod
    def kaiming_uniform(cls, *shape: Any, a: float = 0.01, **options: Any) -> Self:
        """Uniform in ±√3 · gain / √(fan in), gain for leaky_relu of slope a (He et al.)."""
        sizes = checked_shape("kaiming_uniform", shape)
        bound = math.sqrt(3.0) * math.sqrt(2.0 / (1 + a**2)) / math.sqrt(_known("kaiming_uniform", sizes[1:]))
        return cls.uniform(*sizes, low=-bound, high=bound, **options)

    @classmethod
    def kaiming_normal(cls, *shape: Any, a: float = 0.01, **options: Any) -> Self:
        """Normal of standard deviation gain / √(fan in) (He et al.)."""
        sizes = checked_shape("kaiming_normal", shape)
        std = math.sqrt(2.0 / (1 + a**2)) / math.sqrt(_known("kaiming_normal", sizes[1:]))
        return cls.normal(*sizes, mean=0.0, std=std, **options)

    def dropout(self, p: float = 0.5, training: bool = True) -> Self:
        """Each element 0 with probability p, the others divided by 1 − p; the input itself when not
        training."""
        if not 0 <= p <= 1:
            raise ArgumentError(f"dropout: expected 0 <= p <= 1, got {p}")
        if not training or p == 0:
            return self
        if p == 1:
            return self * 0.0
        kept = self.rand(*self.shape, device=self.device) >= p
        return kept.where(self * (1 / (1 - p)), 0.0)


def _float(name: str, dtype: Any) -> DType:
    kind = default_float if dtype is None else to_dtype(dtype)
    if not kind.is_float:
        raise DTypeError(f"{name}: expected a float dtype, got {kind}; use randint for integers")
    return kind


def _known(name: str, sizes: tuple[Any, ...]) -> int:
    total = product(sizes)
    if not isinstance(total, int) or total < 1:
        raise ShapeError(f"{name}: expected known sizes above 0, got {list(sizes)}")
    return total


def _state_node(device: str) -> Node:
    words = np.array([_seed[0] & 0xFFFFFFFF, _seed[0] >> 32, 0, 0], np.uint32)
    return runtime.from_host(words, device)


def _counted(device: str, state: Any, count: int) -> tuple[list[Value], Node]:
    """The words before a draw of known size, and the state after it, counted on the host.

    The count is data, not a constant of the kernel: every draw of one size has the same kernel.
    """
    drawn = _drawn.get(device)
    if drawn is None or drawn.now is not state._node or state._node.is_realized:
        state.realize()  # there already, but for what a draw of symbolic size left
        drawn = _Drawn(state._node, 0, state._node)
    words = _state_words(drawn.base)
    total = drawn.total + count
    after = _joined(_moved(words, _host_count(total, device)))
    _drawn[device] = _Drawn(drawn.base, total, after)
    return _moved(words, _host_count(drawn.total, device)), after


def _host_count(count: int, device: str) -> tuple[Value, Value]:
    data = runtime.from_host(np.array([count & 0xFFFFFFFF, count >> 32], np.uint32), device)
    low, high = (Value(view.shrink(data, ((number, number + 1),))) for number in range(2))
    return low, high


def _state_words(state: Node) -> list[Value]:
    """The four words of the state, each a vector of length 1."""
    return [Value(view.shrink(state, ((number, number + 1),))) for number in range(4)]


def _moved(words: list[Value], step: tuple[Value, Value | None]) -> list[Value]:
    """The words of the state with a counter that is `step` (low and high word) further."""
    key_low, key_high, low, high = words
    moved = low + step[0]
    carried = high + (moved < low).cast(uint32)
    return [key_low, key_high, moved, carried if step[1] is None else carried + step[1]]


def _row(node: Node, row: int, shape: tuple[Dim, ...]) -> Node:
    ranges = ((row, row + 1), *((0, size) for size in shape))
    return view.reshape(view.shrink(node, ranges), shape)


def _stacked(pair: list[Node], size: Dim) -> Node:
    """Two rows as one tensor, chosen by the row's number: both words of a counter are used."""
    shape = (2, size)
    first = Value(graph.iota(shape, 0)) < 1
    return where(first, *(Value(view.expand(row, shape)) for row in pair)).node


def _joined(words: list[Value]) -> Node:
    """Four vectors of length 1 as one of length 4."""
    position = Value(graph.iota((4,), 0))
    result = Value(view.expand(words[-1].node, (4,)))
    for number in reversed(range(len(words) - 1)):
        result = where(position < number + 1, Value(view.expand(words[number].node, (4,))), result)
    return result.node


def _as_uint32(count: Dim) -> Value:
    if isinstance(count, int):
        return Value(graph.const(count, uint32, (1,)))
    return Value(graph.cast(view.reshape(graph.variable(count), (1,)), uint32))
