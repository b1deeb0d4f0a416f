"""Normalisations. Statistics of float16 and bfloat16 inputs are computed in float32."""

from __future__ import annotations

import weakref

import numpy as np

from petaflop.dtype import float32
from petaflop.errors import ArgumentError, ShapeError
from petaflop.nn import initial
from petaflop.nn.module import Module
from petaflop.tensor import Tensor, no_grad

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "RMSNorm",
    "pending_statistics",
]


def _wide(x: Tensor) -> Tensor:
    return x.cast(float32) if x.dtype.is_float and x.dtype.itemsize < 4 else x


def _standardized(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centered = x - x.mean(axes, keepdim=True)
    return centered * ((centered * centered).mean(axes, keepdim=True) + eps).rsqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    if weight is not None:
        x = x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


class LayerNorm(Module):
    """Over the last axes, whose sizes are `normalized_shape`.

    >>> LayerNorm(4)(Tensor.rand(2, 3, 4)).shape
    (2, 3, 4)
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = sizes, eps
        self.register_parameter("weight", initial.ones(sizes) if elementwise_affine else None)
        self.register_parameter("bias", initial.zeros(sizes) if elementwise_affine and bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Any leading axes, then `normalized_shape`."""
        count = len(self.normalized_shape)
        if tuple(x.shape[-count:]) != self.normalized_shape:
            raise ShapeError(f"LayerNorm: expected (…, {self.normalized_shape}), got {list(x.shape)}")
        normal = _standardized(_wide(x), tuple(range(-count, 0)), self.eps)
        return _affine(normal, self.weight, self.bias, self.normalized_shape).cast(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class RMSNorm(Module):
    """x / √(mean x² + eps) over the last axes; eps None is the dtype's machine epsilon."""

    weight: Tensor | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
    ) -> None:
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = sizes, eps
        self.register_parameter("weight", initial.ones(sizes) if elementwise_affine else None)

    def forward(self, x: Tensor) -> Tensor:
        """Any leading axes, then `normalized_shape`."""
        count = len(self.normalized_shape)
        if tuple(x.shape[-count:]) != self.normalized_shape:
            raise ShapeError(f"RMSNorm: expected (…, {self.normalized_shape}), got {list(x.shape)}")
        wide = _wide(x)
        eps = 2.0**-x.dtype.mantissa if self.eps is None else self.eps
        normal = wide * ((wide * wide).mean(tuple(range(-count, 0)), keepdim=True) + eps).rsqrt()
        return _affine(normal, self.weight, None, self.normalized_shape).cast(x.dtype)


class GroupNorm(Module):
    """Over groups of channels of (N, C, …)."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        if num_channels % num_groups:
            raise ArgumentError(f"GroupNorm: expected channels divisible by {num_groups}, got {num_channels}")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.register_parameter("weight", initial.ones((num_channels,)) if affine else None)
        self.register_parameter("bias", initial.zeros((num_channels,)) if affine else None)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) to the same."""
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ShapeError(f"GroupNorm: expected (N, {self.num_channels}, …), got {list(x.shape)}")
        grouped = _wide(x).reshape(
            x.shape[0], self.num_groups, self.num_channels // self.num_groups, *x.shape[2:]
        )
        normal = _standardized(grouped, tuple(range(2, grouped.ndim)), self.eps).reshape(x.shape)
        shape = (self.num_channels, *(1,) * (x.ndim - 2))
        return _affine(normal, self.weight, self.bias, shape).cast(x.dtype)


_pending: weakref.WeakSet[_Statistics] = weakref.WeakSet()


def pending_statistics() -> list[Tensor]:
    """Running statistics that wait to be computed; an optimizer's step computes them with everything else."""
    waiting = [tensor for module in list(_pending) for tensor in module.buffers()]
    _pending.clear()
    return waiting


class _Statistics(Module):
    """Normalisation over the batch and the positions, with running statistics for evaluation."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    ranks: tuple[int, ...]
    per_instance = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.track_running_stats = track_running_stats
        self.register_parameter("weight", initial.ones((num_features,)) if affine else None)
        self.register_parameter("bias", initial.zeros((num_features,)) if affine else None)
        if track_running_stats:
            self.register_buffer("running_mean", Tensor(np.zeros(num_features, np.float32)))
            self.register_buffer("running_var", Tensor(np.ones(num_features, np.float32)))
            self.register_buffer("num_batches_tracked", Tensor(np.zeros((), np.int64)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) to the same; updates the running statistics in training mode."""
        if x.ndim not in self.ranks or x.shape[1] != self.num_features:
            name = type(self).__name__
            ranks = " or ".join(map(str, self.ranks))
            raise ShapeError(
                f"{name}: expected {ranks} axes with C = {self.num_features}, got {list(x.shape)}"
            )
        wide = _wide(x)
        shape = (self.num_features, *(1,) * (x.ndim - 2))
        if self.training or not self.track_running_stats:
            axes = tuple(range(2, x.ndim)) if self.per_instance else (0, *range(2, x.ndim))
            mean = wide.mean(axes, keepdim=True)
            centered = wide - mean
            variance = (centered * centered).mean(axes, keepdim=True)
            if self.training and self.track_running_stats:
                self._track(mean, variance, int(x.numel()) // int(mean.numel()))
        else:
            centered = wide - self.running_mean.reshape(shape)
            variance = self.running_var.reshape(shape)
        normal = centered * (variance + self.eps).rsqrt()
        return _affine(normal, self.weight, self.bias, shape).cast(x.dtype)

    @no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards those of the batch, its variance unbiased."""
        if self in _pending:
            Tensor.realize(*self.buffers())  # nobody has asked for the last update: keep the chain short
        if count < 2:
            raise ShapeError(f"{type(self).__name__}: expected more than one value per channel, got {count}")
        if not self.per_instance:  # PyTorch leaves the count of instance norms at 0
            self.num_batches_tracked.assign(self.num_batches_tracked + 1)
        weight = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked.cast(float32)
        unbiased = variance * (count / (count - 1))
        for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
            batch = batch.mean(0) if self.per_instance else batch
            batch = batch.reshape(self.num_features).cast(running.dtype)
            running.assign(running * (1 - weight) + batch * weight)
        _pending.add(self)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(_Statistics):
    """Over N (and L) of (N, C) or (N, C, L)."""

    ranks = (2, 3)


class BatchNorm2d(_Statistics):
    """Over N, H and W of (N, C, H, W).

    >>> BatchNorm2d(3).eval()(Tensor.zeros(1, 3, 2, 2)).shape
    (1, 3, 2, 2)
    """

    ranks = (4,)


class BatchNorm3d(_Statistics):
    """Over N, D, H and W of (N, C, D, H, W)."""

    ranks = (5,)


class _Instance(_Statistics):
    per_instance = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)


class InstanceNorm1d(_Instance):
    """Over L of each instance and channel of (N, C, L)."""

    ranks = (3,)


class InstanceNorm2d(_Instance):
    """Over H and W of each instance and channel of (N, C, H, W)."""

    ranks = (4,)


class InstanceNorm3d(_Instance):
    """Over D, H and W of each instance and channel of (N, C, D, H, W)."""

    ranks = (5,)
