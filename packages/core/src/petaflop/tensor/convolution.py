"""Convolutions and pools of any number of spatial axes: pad, slide windows, multiply, reduce.

Windows are views, so a convolution reaches the kernel as affine loads, `h*stride + kh*dilation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

from petaflop.dtype import DType, to_dtype
from petaflop.errors import ArgumentError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.gradient import gradient
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim
from petaflop.tensor.base import common_dtype
from petaflop.tensor.precision import product_operands
from petaflop.tensor.reduce import accumulate_dtype
from petaflop.tensor.sort import Sorting

__all__ = ["Convolution", "Sizes"]

Sizes = int | Sequence[int]


def per_axis(name: str, value: Any, rank: int, least: int = 1) -> tuple[int, ...]:
    """One integer for each spatial axis, from one or from several."""
    sizes = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(sizes) == 1:
        sizes = sizes * rank
    if len(sizes) != rank or any(not isinstance(n, int) or n < least for n in sizes):
        raise ArgumentError(f"{name}: expected {rank} integers >= {least}, got {value!r}")
    return sizes


class Convolution(Sorting):
    """conv, conv_transpose and pools."""

    __slots__ = ()

    # ---- convolutions ----

    def conv2d(
        self,
        weight: Any,
        bias: Any = None,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        dtype: Any = None,
    ) -> Self:
        """Correlate (N, C, *spatial) with a weight (out, C / groups, *kernel), as PyTorch's convNd.

        The number of spatial axes is that of the weight. `padding` is a size, one per axis, a (left, right,
        top, bottom, …) list, "same" or "valid"; `dtype` is what is accumulated in and given out.

        >>> Tensor.ones(1, 1, 3, 3).conv2d(Tensor.ones(1, 1, 2, 2)).tolist()
        [[[[4.0, 4.0], [4.0, 4.0]]]]
        """
        kernel = self._lift(weight)
        rank = kernel.ndim - 2
        if rank < 1 or self.ndim not in (rank + 1, rank + 2):
            raise ShapeError(
                f"conv: expected an input (N, C, *spatial) and a weight (out, C, *kernel), "
                f"got {self._text()} and {kernel._text()}",
            )
        if self.ndim == rank + 1:
            return self.unsqueeze(0).conv2d(kernel, bias, stride, padding, dilation, groups, dtype).squeeze(0)
        outputs, inner = kernel.shape[:2]
        if self.shape[1] != inner * groups or outputs % groups:
            raise ShapeError(
                f"conv: expected {inner} * {groups} groups input channels and outputs that divide, "
                f"got {self._text()} and {kernel._text()}",
            )
        strides, dilations = per_axis("conv stride", stride, rank), per_axis("conv dilation", dilation, rank)
        taps = tuple(int(n) for n in kernel.shape[2:])
        widths = _conv_widths(padding, rank, taps, dilations, strides)
        image, kernel = product_operands(self, kernel) if dtype is None else (self, kernel)
        kind = common_dtype([image, kernel]) if dtype is None else to_dtype(dtype)
        source = image._pad_constant([(0, 0), (0, 0), *widths])
        node = _correlate(
            source._windows("conv", taps, strides, dilations).node,
            kernel.node,
            rank,
            groups,
            accumulate_dtype(kind),
        )
        result = self._wrap(graph.cast(node, kind))
        if bias is None:
            return result
        return result + product_operands(self._lift(bias))[0].reshape((-1,) + (1,) * rank)

    def _windows(
        self, name: str, taps: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
    ) -> Self:
        """(N, C, *positions, *taps) of an input (N, C, *spatial)."""
        for number, (size, dilation) in enumerate(zip(taps, dilations, strict=True)):
            length, span = self.shape[number + 2], dilation * (size - 1) + 1
            if isinstance(length, int) and length < span:
                raise ShapeError(
                    f"{name}: expected a padded input of at least {span} along axis {number + 2} for a "
                    f"kernel of {size}, got {self._text()}",
                )
        return self._wrap(_windows(self.node, taps, strides, dilations))

    def conv1d(
        self,
        weight: Any,
        bias: Any = None,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
    ) -> Self:
        """conv2d over one spatial axis: (N, C, L) with (out, C / groups, K)."""
        return self._checked_conv("conv1d", 1, weight).conv2d(weight, bias, stride, padding, dilation, groups)

    def conv3d(
        self,
        weight: Any,
        bias: Any = None,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
    ) -> Self:
        """conv2d over three spatial axes."""
        return self._checked_conv("conv3d", 3, weight).conv2d(weight, bias, stride, padding, dilation, groups)

    def _checked_conv(self, name: str, rank: int, weight: Any) -> Self:
        if self._lift(weight).ndim != rank + 2:
            raise ShapeError(
                f"{name}: expected a weight of {rank + 2} axes, got {self._lift(weight)._text()}"
            )
        return self

    def conv_transpose2d(
        self,
        weight: Any,
        bias: Any = None,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        dilation: Sizes = 1,
    ) -> Self:
        """The adjoint of conv2d: (N, C, *spatial) with a weight (C, out / groups, *kernel), as PyTorch's
        conv_transposeNd.

        It is built as the gradient of a convolution: gathers over stride phases, no zeros inserted.
        """
        kernel = self._lift(weight)
        rank = kernel.ndim - 2
        if rank < 1 or self.ndim not in (rank + 1, rank + 2):
            raise ShapeError(
                f"conv_transpose: expected an input (N, C, *spatial) and a weight (C, out, *kernel), "
                f"got {self._text()} and {kernel._text()}",
            )
        if self.ndim == rank + 1:
            batched = self.unsqueeze(0)
            return batched.conv_transpose2d(
                kernel, bias, stride, padding, output_padding, groups, dilation
            ).squeeze(0)
        if self.shape[1] != kernel.shape[0] or kernel.shape[0] % groups:
            raise ShapeError(
                f"conv_transpose: expected {kernel.shape[0]} input channels in {groups} groups, "
                f"got {self._text()} and {kernel._text()}",
            )
        strides, dilations = per_axis("stride", stride, rank), per_axis("dilation", dilation, rank)
        pads, extras = (
            per_axis("padding", padding, rank, 0),
            per_axis("output_padding", output_padding, rank, 0),
        )
        taps = tuple(int(n) for n in kernel.shape[2:])
        sizes = tuple(
            (size - 1) * s - 2 * p + d * (k - 1) + 1 + extra
            for size, s, p, d, k, extra in zip(
                self.shape[2:], strides, pads, dilations, taps, extras, strict=True
            )
        )
        if any(e >= max(s, d) for e, s, d in zip(extras, strides, dilations, strict=True)):
            raise ArgumentError(
                f"conv_transpose: expected output_padding below stride, got {extras}, {strides}",
            )
        if any(isinstance(size, int) and size < 1 for size in sizes):
            raise ShapeError(f"conv_transpose: expected an output of at least 1, got {list(sizes)}")
        source, kernel = product_operands(self, kernel)
        kind = common_dtype([source, kernel])
        wide = accumulate_dtype(kind)
        shape = (self.shape[0], kernel.shape[1] * groups, *sizes)
        image = graph.own_leaf(graph.const(0, wide, shape))
        padded = view.pad(image, ((0, 0), (0, 0), *((p, p) for p in pads)))
        windows = _windows(padded, taps, strides, dilations)
        forward = _correlate(windows, kernel.node, rank, groups, wide)
        seed = graph.cast(source.node, wide)
        # output_padding may add rows that no window reaches: the forward pass then has positions to spare
        extra_positions = tuple((0, n - m) for n, m in zip(forward.shape, seed.shape, strict=True))
        (result,) = gradient((forward,), (view.pad(seed, extra_positions),), (image,))
        assert result is not None
        out = self._wrap(graph.cast(result, kind))
        if bias is None:
            return out
        return out + product_operands(self._lift(bias))[0].reshape((-1,) + (1,) * rank)

    # ---- pools ----

    def _pooled(
        self,
        name: str,
        kernel: Sizes,
        stride: Sizes | None,
        padding: Sizes,
        dilation: Sizes,
        ceil: bool,
        fill: float,
    ) -> tuple[Self, _Pool]:
        """(N, C, *positions, *taps) of a padded input, and how it was made."""
        rank = self.ndim - 2
        if rank < 1:
            raise ShapeError(f"{name}: expected (N, C, *spatial), got {self._text()}")
        pool = _Pool(name, self.shape[2:], kernel, stride, padding, dilation, ceil)
        source = self._pad_constant([(0, 0), (0, 0), *pool.widths], fill)
        return source._windows(name, pool.taps, pool.strides, pool.dilations), pool

    def avg_pool2d(
        self,
        kernel_size: Sizes = 2,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        dilation: Sizes = 1,
    ) -> Self:
        """The mean of each window of (N, C, *spatial)."""
        taps, pool = self._pooled("avg_pool", kernel_size, stride, padding, dilation, ceil_mode, 0)
        axes = tuple(range(2 + pool.rank, 2 + 2 * pool.rank))
        total = taps.cast(accumulate_dtype(self.dtype))._fold(Op.ADD, axes, False)
        if count_include_pad and not pool.ragged:
            return (total / float(math.prod(pool.taps))).cast(self.dtype)
        inside = self.ones_like()[:1, :1]
        if count_include_pad:  # the padding counts, what ceil_mode added does not
            inside = inside._pad_constant([(0, 0), (0, 0), *((p, p) for p in pool.padding)], 1)
            extra = [(0, after - p) for (_, after), p in zip(pool.widths, pool.padding, strict=True)]
            inside = inside._pad_constant([(0, 0), (0, 0), *extra])
        else:
            inside = inside._pad_constant([(0, 0), (0, 0), *pool.widths])
        count = inside._windows("avg_pool", pool.taps, pool.strides, pool.dilations)._fold(
            Op.ADD, axes, False
        )
        return (total / count.cast(total.dtype)).cast(self.dtype)

    def max_pool2d(
        self,
        kernel_size: Sizes = 2,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        """The largest element of each window of (N, C, *spatial); with its int32 place in the flat image, if
        asked."""
        taps, pool = self._pooled(
            "max_pool", kernel_size, stride, padding, dilation, ceil_mode, self.dtype.min
        )
        axes = tuple(range(2 + pool.rank, 2 + 2 * pool.rank))
        result = taps._fold(Op.MAX, axes, False)
        if not return_indices:
            return result
        best = taps.detach().flatten(2 + pool.rank).argmax(-1)
        place, rest = best.zeros_like(), best
        for number in range(pool.rank):
            inner = math.prod(pool.taps[number + 1 :])
            tap = rest // inner
            rest = rest - tap * inner
            position = best._wrap(graph.iota(best.shape, 2 + number))
            before = pool.widths[number][0]
            along = position * pool.strides[number] + tap * pool.dilations[number] - before
            place = place * self._known_size(2 + number) + along
        return result, place

    def _known_size(self, axis: int) -> int:
        size = self.shape[axis]
        if not isinstance(size, int):
            raise ShapeError(f"pool: expected a known size along axis {axis}, got {size}")
        return size

    def max_unpool2d(
        self,
        indices: Any,
        kernel_size: Sizes = 2,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        output_size: Sequence[int] | None = None,
    ) -> Self:
        """Zeros, with each element put back where max_pool2d(return_indices=True) found it."""
        rank = self.ndim - 2
        taps = per_axis("max_unpool kernel_size", kernel_size, rank)
        strides = taps if stride is None else per_axis("max_unpool stride", stride, rank)
        pads = per_axis("max_unpool padding", padding, rank, 0)
        if output_size is None:
            output_size = [
                (self._known_size(2 + k) - 1) * strides[k] - 2 * pads[k] + taps[k] for k in range(rank)
            ]
        sizes = tuple(output_size)[-rank:]
        image = self.zeros((*self.shape[:2], math.prod(sizes)), dtype=self.dtype, device=self.device)
        flat = image.scatter(-1, self._lift(indices).flatten(2), self.flatten(2))
        return flat.reshape(*self.shape[:2], *sizes)


class _Pool:
    """The geometry of a pool: padding, and what ceil_mode adds on the right."""

    def __init__(
        self,
        name: str,
        sizes: tuple[Dim, ...],
        kernel: Sizes,
        stride: Sizes | None,
        padding: Sizes,
        dilation: Sizes,
        ceil: bool,
    ) -> None:
        self.rank = rank = len(sizes)
        self.taps = per_axis(f"{name} kernel_size", kernel, rank)
        self.strides = self.taps if stride is None else per_axis(f"{name} stride", stride, rank)
        self.dilations = per_axis(f"{name} dilation", dilation, rank)
        self.padding = per_axis(f"{name} padding", padding, rank, 0)
        if any(2 * p > k for p, k in zip(self.padding, self.taps, strict=True)):
            raise ArgumentError(
                f"{name}: expected padding of at most half the kernel, got {padding} for {kernel}",
            )
        self.widths = []
        for size, k, s, d, p in zip(
            sizes, self.taps, self.strides, self.dilations, self.padding, strict=True
        ):
            extra = 0
            if ceil and isinstance(size, int):
                rest = size + 2 * p - d * (k - 1) - 1
                positions = -(-rest // s) + 1
                if (
                    positions - 1
                ) * s >= size + p:  # a window must start inside the input or its left padding
                    positions -= 1
                extra = max((positions - 1) * s - rest, 0)
            self.widths.append((p, p + extra))
        self.ragged = any(after != p for (_, after), p in zip(self.widths, self.padding, strict=True))


def _conv_widths(
    padding: Any, rank: int, taps: Sequence[int], dilations: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    if padding == "valid":
        return [(0, 0)] * rank
    if padding == "same":
        if any(s != 1 for s in strides):
            raise ArgumentError(f'conv: expected stride 1 with padding "same", got {tuple(strides)}')
        spans = [d * (k - 1) for d, k in zip(dilations, taps, strict=True)]
        return [(span // 2, span - span // 2) for span in spans]
    if isinstance(padding, str):
        raise ArgumentError(f'conv: expected padding "same", "valid" or sizes, got {padding!r}')
    if not isinstance(padding, int) and len(padding) == 2 * rank and rank > 1:
        flat = list(padding)
        return list(zip(flat[::2], flat[1::2], strict=True))[::-1]
    return [(p, p) for p in per_axis("conv padding", padding, rank, 0)]


def _windows(node: Node, taps: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Node:
    for number, (size, stride, dilation) in enumerate(zip(taps, strides, dilations, strict=True)):
        node = view.window(node, number + 2, size, stride, dilation)
    return node


def _correlate(windows: Node, weight: Node, rank: int, groups: int, wide: DType) -> Node:
    """(N, C, *positions, *taps) with (out, C / groups, *taps): multiply, and sum over channels and taps."""
    batch, channels = windows.shape[:2]
    positions, taps = windows.shape[2 : 2 + rank], windows.shape[2 + rank :]
    outputs, inner = weight.shape[0] // groups, channels // groups
    x = view.reshape(graph.cast(windows, wide), (batch, groups, inner, *positions, *taps))
    order = (0, 1, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank))
    x = view.permute(x, order)
    x = view.reshape(x, (batch, groups, 1, *positions, inner, *taps))
    w = view.reshape(graph.cast(weight, wide), (1, groups, outputs, *(1,) * rank, inner, *taps))
    full = (batch, groups, outputs, *positions, inner, *taps)
    products = graph.compute(Op.MUL, view.expand(x, full), view.expand(w, full))
    total = graph.reduce(Op.ADD, products, range(3 + rank, len(full)), wide)
    return view.reshape(total, (batch, groups * outputs, *positions))
