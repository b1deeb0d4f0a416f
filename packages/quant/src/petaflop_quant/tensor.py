"""Tensors that stay packed: their planes are in memory, their values an expression in whatever reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from petaflop import Tensor, nn
from petaflop.dtype import DType, float32
from petaflop.errors import ArgumentError, ArgumentTypeError, ShapeError
from petaflop.plugin_api import QuantScheme
from petaflop_quant.rounding import int8_rows

__all__ = ["ACTIVATIONS", "Linear", "QuantTensor"]

Array: TypeAlias = np.ndarray[Any, Any]
ACTIVATIONS = ("exact", "int8")


class QuantTensor:
    """A tensor in a quantization format: planes of packed bytes, a shape, and float32 values.

    `tensor()` and `T` are lazy Tensors that fuse into the product that reads them: no buffer of values.

    >>> import numpy as np
    >>> weight = quantize(np.eye(32, dtype=np.float32), "q8_0")
    >>> (Tensor.ones(1, 32) @ weight.T).shape
    (1, 32)
    """

    def __init__(
        self,
        scheme: QuantScheme,
        planes: Mapping[str, Any],
        shape: tuple[int, ...],
        factors: Any = None,
    ) -> None:
        """`planes` are Tensors or arrays; ShapeError, DTypeError or ArgumentError if they do not fit.

        `factors`, float32[K], are what the values were multiplied by before they were packed, if they were
        (`Encoder.factors`): the values of this tensor are those of the planes divided by them.
        """
        scheme.check_planes(planes, shape)
        self.scheme, self.shape = scheme, tuple(shape)
        self.planes: dict[str, Tensor] = {
            name: plane if isinstance(plane, Tensor) else Tensor.from_numpy(plane)
            for name, plane in planes.items()
        }
        self.factors: Tensor | None = None
        if factors is not None:
            self.factors = factors if isinstance(factors, Tensor) else Tensor.from_numpy(factors)
            if self.factors.dtype is not float32 or tuple(self.factors.shape) != self.shape[-1:]:
                got = f"{self.factors.dtype}{list(self.factors.shape)}"
                raise ShapeError(f"factors: expected float32{list(self.shape[-1:])}, got {got}")

    @property
    def dtype(self) -> DType:
        """float32, the dtype of the values."""
        return float32

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all planes, and of the factors."""
        factors = 0 if self.factors is None else 4 * self.shape[-1]
        return self.scheme.nbytes(self.shape) + factors

    @property
    def device(self) -> str:
        """Where the planes are."""
        return next(iter(self.planes.values())).device

    def to(self, device: str) -> QuantTensor:
        """The same on another device."""
        planes = {name: plane.to(device) for name, plane in self.planes.items()}
        factors = None if self.factors is None else self.factors.to(device)
        return QuantTensor(self.scheme, planes, self.shape, factors)

    def tensor(self) -> Tensor:
        """The values, lazily."""
        values: Tensor = self.scheme.dequantize(self.planes, self.shape)
        return values if self.factors is None else values / self.factors

    @property
    def T(self) -> Tensor:
        """The values with the last two axes exchanged, lazily: `x @ weight.T`."""
        if self.ndim < 2:
            raise ShapeError(f"T: expected 2 or more axes, got {list(self.shape)}")
        return self.tensor().transpose(-2, -1)

    def __getitem__(self, index: Any) -> Tensor:
        """Values at an index, lazily: rows of an embedding."""
        return self.tensor()[index]

    def numpy(self) -> Array:
        """The values, by the format's own definition in NumPy."""
        planes = {name: plane.numpy() for name, plane in self.planes.items()}
        values = self.scheme.unpack(planes, self.shape)
        return values if self.factors is None else values / self.factors.numpy()

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        return f"<QuantTensor {self.scheme.name}[{sizes}], {self.nbytes} bytes>"


class Linear(nn.Module):
    """x·Wᵀ + b over the last axis, for a quantized weight (out_features, in_features).

    activations  "exact" computes with x as it is; "int8" rounds each row of x to 8 bits first, which changes
                 results by about 1 % and lets integer units do the work

    >>> import numpy as np
    >>> layer = Linear(quantize(np.ones((8, 32), np.float32), "q8_0"))
    >>> layer(Tensor.ones(2, 32)).shape
    (2, 8)
    """

    bias: Tensor | None
    weight_factors: Tensor | None

    def __init__(self, weight: QuantTensor, bias: Tensor | None = None, activations: str = "exact") -> None:
        if not isinstance(weight, QuantTensor):
            raise ArgumentTypeError(f"Linear: expected a QuantTensor, got {type(weight).__name__}")
        if weight.ndim != 2:
            raise ShapeError(f"Linear: expected a weight of 2 axes, got {list(weight.shape)}")
        if activations not in ACTIVATIONS:
            raise ArgumentError(f"Linear: expected activations of {ACTIVATIONS}, got {activations!r}")
        self.scheme, self.shape, self.activations = weight.scheme, weight.shape, activations
        self.plane_names = tuple(weight.planes)
        for name, plane in weight.planes.items():
            self.register_buffer(f"weight_{name}", plane)
        self.register_buffer("weight_factors", weight.factors)
        self.register_buffer("bias", bias)

    @property
    def weight(self) -> QuantTensor:
        """The weight, of the planes in the state."""
        planes = {name: getattr(self, f"weight_{name}") for name in self.plane_names}
        return QuantTensor(self.scheme, planes, self.shape, self.weight_factors)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) to (…, out_features)."""
        product = self._exact(x) if self.activations == "exact" else self._rounded(x)
        return product if self.bias is None else product + self.bias

    def _exact(self, x: Tensor) -> Tensor:
        return x.matmul(self.weight.T)

    def _rounded(self, x: Tensor) -> Tensor:
        """Rows of 8 bits, divided by the factors first: that is what the factors are for."""
        factors: Tensor | None = self.weight_factors
        codes, scale = int8_rows(x if factors is None else x / factors)
        planes = {name: getattr(self, f"weight_{name}") for name in self.plane_names}
        if self.scheme.name == "int8_row":  # sums of integers, exact in int32, then both scales
            whole = codes.cast("int32").matmul(planes["codes"].cast("int32").transpose(0, 1))
            return whole.cast("float32") * scale * planes["scale"].reshape(-1)
        values: Tensor = self.scheme.dequantize(planes, self.shape)
        return (codes.cast("float32") * scale).matmul(values.transpose(0, 1))

    def extra_repr(self) -> str:
        return f"{self.shape[1]}, {self.shape[0]}, {self.scheme.name}, activations={self.activations}"
