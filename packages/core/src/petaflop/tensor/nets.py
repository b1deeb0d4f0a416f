"""Normalisation, attention and resizing: what nets are made of besides products and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from petaflop.dtype import bool_
from petaflop.errors import ArgumentError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.tensor.convolution import Convolution
from petaflop.tensor.precision import product_operands
from petaflop.tensor.reduce import accumulate_dtype

__all__ = ["Nets"]


class Nets(Convolution):
    """layernorm, batchnorm, attention, interpolate."""

    __slots__ = ()

    def layernorm(self, axis: int | Sequence[int] = -1, eps: float = 1e-5) -> Self:
        """(x − mean) / √(variance + eps) along axes, one kernel; half floats are computed in float32."""
        wide = self._float("layernorm").cast(accumulate_dtype(self.dtype))
        axes = self._axes("layernorm", axis)
        centered = wide - wide.mean(axes, keepdim=True)
        scale = ((centered * centered).mean(axes, keepdim=True) + eps).rsqrt()
        return (centered * scale).cast(self.dtype)

    def rmsnorm(self, axis: int | Sequence[int] = -1, eps: float = 1e-6) -> Self:
        """x / √(mean of squares + eps) along axes."""
        wide = self._float("rmsnorm").cast(accumulate_dtype(self.dtype))
        scale = ((wide * wide).mean(axis, keepdim=True) + eps).rsqrt()
        return (wide * scale).cast(self.dtype)

    def batchnorm(
        self, weight: Any, bias: Any, mean: Any, invstd: Any, axis: int | Sequence[int] = 1
    ) -> Self:
        """(x − mean) · invstd · weight + bias, each of these a vector along `axis`; weight and bias may be
        None."""
        axes = self._axes("batchnorm", axis)
        shape = tuple(size if k in axes else 1 for k, size in enumerate(self.shape))
        result = self - self._lift(mean).reshape(shape)
        scale = self._lift(invstd).reshape(shape)
        result = result * (scale if weight is None else scale * self._lift(weight).reshape(shape))
        return result if bias is None else result + self._lift(bias).reshape(shape)

    def scaled_dot_product_attention(
        self,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Self:
        """softmax(self @ keyᵀ · scale + mask) @ value over the last two axes, as in PyTorch.

        A bool mask says what may be seen, a float mask is added; `scale` is 1/√(size of a key) unless given.
        `enable_gqa` repeats heads (axis −3) of key and value.
        """
        if is_causal and attn_mask is not None:
            raise ArgumentError("attention: expected attn_mask or is_causal, got both")
        if min(self.ndim, key.ndim, value.ndim) < 2:
            raise ShapeError(f"attention: expected (…, tokens, size), got {self._text()}, {key._text()}")
        if enable_gqa:
            key = key.repeat_interleave(self.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(self.shape[-3] // value.shape[-3], -3)
        size = self.shape[-1]
        factor = 1 / math.sqrt(int(size)) if scale is None else scale
        query, key, value = product_operands(self, key, value)
        kind = query.dtype
        wide = accumulate_dtype(kind)
        scores = query.matmul(key.mT, dtype=wide) * factor
        if is_causal:
            attn_mask = self._wrap(graph.const(True, bool_, scores.shape[-2:])).tril()
        if attn_mask is not None:
            mask = self._lift(attn_mask)
            scores = mask.where(scores, -math.inf) if mask.dtype is bool_ else scores + mask.cast(wide)
        weights = scores.softmax(-1)
        if attn_mask is not None and self._lift(attn_mask).dtype is bool_:
            weights = weights.isnan().where(0.0, weights)  # a row that may see nothing is 0, as in PyTorch
        weights = weights.dropout(dropout_p) if dropout_p else weights
        return weights.matmul(value, dtype=wide).cast(kind)

    # ---- resizing ----

    def interpolate(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> Self:
        """Resize the spatial axes of (N, C, *spatial) to `size` or by `scale_factor`, as in PyTorch.

        `mode` is "nearest", "nearest-exact", "linear" ("bilinear", "trilinear"), "bicubic" or "area".
        """
        rank = self.ndim - 2
        known = {"nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic", "area"}
        if rank < 1 or mode not in known:
            raise ArgumentError(
                f"interpolate: expected (N, C, *spatial) and one of {sorted(known)}, got {mode!r}",
            )
        if (size is None) == (scale_factor is None):
            raise ArgumentError("interpolate: expected size or scale_factor, got both or neither")
        if align_corners is not None and mode in ("nearest", "nearest-exact", "area"):
            raise ArgumentError(
                f"interpolate: expected align_corners with linear or cubic modes, got {mode!r}"
            )
        inputs = [self._known_size(2 + k) for k in range(rank)]
        factors: list[float | None] = [None] * rank
        if scale_factor is not None:
            given = [scale_factor] * rank if isinstance(scale_factor, (int, float)) else list(scale_factor)
            outputs = [math.floor(n * f) for n, f in zip(inputs, given, strict=True)]
            factors = [float(f) for f in given]
        else:
            assert size is not None
            outputs = [size] * rank if isinstance(size, int) else [int(n) for n in size]
        if len(outputs) != rank or min(outputs) < 1:
            raise ShapeError(f"interpolate: expected {rank} sizes >= 1, got {outputs}")
        result = self
        for k, (n, m, factor) in enumerate(zip(inputs, outputs, factors, strict=True)):
            if mode == "area":
                result = result._area(2 + k, n, m)
            elif mode.startswith("nearest"):
                result = result._nearest(2 + k, n, m, factor, mode == "nearest-exact")
            else:
                taps = _taps(n, m, factor, bool(align_corners), cubic=mode == "bicubic")
                result = result._weighted(2 + k, taps)
        return result

    def _nearest(self, axis: int, n: int, m: int, factor: float | None, exact: bool) -> Self:
        if m % n == 0 and factor in (None, m // n):
            return self.repeat_interleave(m // n, axis)  # a view
        scale = np.float32(1 / factor if factor else n / m)
        position = np.arange(m, dtype=np.float32) + np.float32(0.5 if exact else 0)
        return self._picked(axis, np.minimum((position * scale).astype(np.int32), n - 1))

    def _picked(self, axis: int, positions: np.ndarray[Any, Any]) -> Self:
        """The elements of an axis at known positions."""
        index = type(self)(positions.astype(np.int32), None, self.device)
        shape = tuple(len(positions) if k == axis else size for k, size in enumerate(self.shape))
        ones = tuple(len(positions) if k == axis else 1 for k in range(self.ndim))
        return self._wrap(graph.gather(self.node, view.expand(view.reshape(index.node, ones), shape), axis))

    def _weighted(self, axis: int, taps: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> Self:
        ones = tuple(-1 if k == axis else 1 for k in range(self.ndim))
        wide = self.cast(accumulate_dtype(self.dtype))
        total: Self | None = None
        for positions, weights in taps:
            factor = type(self)(weights, wide.dtype, self.device).reshape(ones)
            part = wide._picked(axis, positions) * factor
            total = part if total is None else total + part
        assert total is not None
        return total.cast(self.dtype)

    def _area(self, axis: int, n: int, m: int) -> Self:
        """The mean of the inputs that each output covers: a product with a matrix of weights."""
        matrix = np.zeros((m, n), np.float32)
        for k in range(m):
            start, stop = k * n // m, -(-(k + 1) * n // m)
            matrix[k, start:stop] = 1 / (stop - start)
        weights = type(self)(matrix, self.dtype, self.device)
        return self.movedim(axis, -1).matmul(weights.T).movedim(-1, axis)


def _taps(
    n: int, m: int, factor: float | None, align: bool, cubic: bool
) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """(source positions, weights) of each tap of a linear or cubic resize of an axis, by PyTorch's
    conventions."""
    position = np.arange(m, dtype=np.float64)
    if align:
        source = position * ((n - 1) / (m - 1) if m > 1 else 0.0)
    else:
        source = (position + 0.5) * (1 / factor if factor else n / m) - 0.5
        source = source if cubic else np.maximum(source, 0)
    first = np.floor(source).astype(np.int64)
    t = source - first
    if not cubic:
        first = np.minimum(first, n - 1)
        return [(first, 1 - t), (np.minimum(first + 1, n - 1), t)]
    a = -0.75

    def near(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    weights = (far(t + 1), near(t), near(1 - t), far(2 - t))
    return [(np.clip(first + offset, 0, n - 1), w) for offset, w in zip(range(-1, 3), weights, strict=True)]
