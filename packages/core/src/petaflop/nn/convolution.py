"""Convolutions over one, two or three axes, and their transposes; weights as in PyTorch."""

from __future__ import annotations

import math
from typing import Any

from petaflop.errors import ArgumentError
from petaflop.nn import initial
from petaflop.nn.module import Module
from petaflop.tensor import Tensor

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d"]

Sizes = int | tuple[int, ...]


def _tuple(name: str, value: Sizes, count: int) -> tuple[int, ...]:
    sizes = (value,) * count if isinstance(value, int) else tuple(value)
    if len(sizes) != count:
        raise ArgumentError(f"{name}: expected an int or {count} ints, got {value}")
    return sizes


class _Convolution(Module):
    bias: Tensor | None
    axes: int
    method: str
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        name = type(self).__name__
        if in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"{name}: expected channels divisible by {groups} groups, got {in_channels}, {out_channels}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = _tuple(name, kernel_size, self.axes)
        self.stride = _tuple(name, stride, self.axes)
        self.dilation = _tuple(name, dilation, self.axes)
        self.padding = self._padding(name, padding)
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        fan_in = second // groups * math.prod(self.kernel_size)
        self.weight = initial.uniform((first, second // groups, *self.kernel_size), fan_in)
        self.register_parameter("bias", initial.uniform((out_channels,), fan_in) if bias else None)

    def _padding(self, name: str, padding: Sizes | str) -> Any:
        """Per axis one number, or for an uneven "same" the (before, after) of each axis from the last on."""
        if padding == "valid":
            return (0,) * self.axes
        if padding != "same":
            if isinstance(padding, str):
                raise ArgumentError(f'{name}: expected padding "same", "valid" or sizes, got {padding!r}')
            return _tuple(name, padding, self.axes)
        if any(stride != 1 for stride in self.stride):
            raise ArgumentError(f'{name}: expected stride 1 with padding "same", got {self.stride}')
        totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        return tuple(side for total in reversed(totals) for side in (total // 2, total - total // 2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, …) to (N, out_channels, …)."""
        convolve = getattr(x, self.method)
        return convolve(
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}"
        )


class Conv1d(_Convolution):
    """Over (N, C, L); weight (out_channels, in_channels/groups, k).

    >>> Conv1d(2, 3, 5, padding=2)(Tensor.zeros(1, 2, 7)).shape
    (1, 3, 7)
    """

    axes, method = 1, "conv1d"


class Conv2d(_Convolution):
    """Over (N, C, H, W); weight (out_channels, in_channels/groups, kh, kw).

    >>> Conv2d(1, 8, 3, stride=2, padding=1)(Tensor.zeros(1, 1, 8, 8)).shape
    (1, 8, 4, 4)
    """

    axes, method = 2, "conv2d"


class Conv3d(_Convolution):
    """Over (N, C, D, H, W); weight (out_channels, in_channels/groups, kd, kh, kw)."""

    axes, method = 3, "conv3d"


class _Transposed(_Convolution):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.output_padding = _tuple(type(self).__name__, output_padding, self.axes)

    def _lifted(self, x: Tensor, axes: int) -> Tensor:
        """`conv_transpose2d` with leading axes of size 1 for those that are missing."""
        missing = 2 - axes
        one, zero = (1,) * missing, (0,) * missing
        for _ in range(missing):
            x = x.unsqueeze(2)
        weight = self.weight if not missing else self.weight.unsqueeze(2)
        result = x.conv_transpose2d(
            weight,
            self.bias,
            stride=one + self.stride,
            padding=zero + self.padding,
            output_padding=zero + self.output_padding,
            dilation=one + self.dilation,
            groups=self.groups,
        )
        return result if not missing else result.squeeze(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, …) to (N, out_channels, …)."""
        return self._lifted(x, self.axes)


class ConvTranspose1d(_Transposed):
    """The adjoint of Conv1d; weight (in_channels, out_channels/groups, k)."""

    axes = 1


class ConvTranspose2d(_Transposed):
    """The adjoint of Conv2d; weight (in_channels, out_channels/groups, kh, kw).

    >>> ConvTranspose2d(4, 2, 2, stride=2)(Tensor.zeros(1, 4, 3, 3)).shape
    (1, 2, 6, 6)
    """

    axes = 2
