"""The contract of quantization: a format says what bytes mean, an encoder chooses the bytes.

A plugin subclasses `QuantScheme` or `Encoder`; core stores, fuses and converts formats without knowing any. A
tensor of some shape is kept as named *planes*, arrays of fixed dtypes and shapes: codes, scales, zero points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy as np

from petaflop.dtype import DType, float32, float64, to_dtype
from petaflop.errors import ArgumentError, DTypeError, ShapeError

__all__ = ["Encoder", "Packed", "Plane", "QuantScheme", "SchemeFile"]

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plane:
    """One array of a packed tensor: its dtype and, for the shape that was asked about, its shape."""

    dtype: DType
    shape: Shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


class Packed(NamedTuple):
    """A packed tensor: its planes by name, and the shape of what they stand for."""

    planes: Mapping[str, Array]
    shape: Shape


class SchemeFile:
    """A kind of file that holds tensors of a format, such as GGUF or safetensors.

    extension  with its dot, as the user types it: ".gguf"
    library    the package that owns the file format, "" if it has none; an extra, never a dependency
    """

    extension: ClassVar[str] = ""
    library: ClassVar[str] = ""

    def write(self, path: Path, tensors: Mapping[str, Packed]) -> None:
        """Write all of them, to a temporary name first: a failure leaves nothing under `path`."""
        raise NotImplementedError(f"{type(self).__name__}: write")

    def read(self, path: Path) -> Mapping[str, Packed]:
        """What `write` wrote, byte for byte; FileFormatError for any other file, before memory is taken."""
        raise NotImplementedError(f"{type(self).__name__}: read")

    def read_with_library(self, path: Path) -> Mapping[str, Array]:
        """The float32 values that `library` itself finds in the file: the judge of `write` and `unpack`.

        Uses no code of the format; raises ImportError where the library is not installed.
        """
        raise NotImplementedError(f"{type(self).__name__}: read_with_library")


class QuantScheme:
    """A quantization format. Override `planes`, `unpack` and `dequantize`; also `pack` and `bound`, unless
    the format is only ever loaded.

    name             what the user types: "q8_0"
    version          of the meaning of the bytes; kept in files and cache keys
    block            elements of the last axes that share their scales: (32,), (128, 128); None is a whole
                     axis, as in (None,) for a scale per row; () where no axis has to divide
    bits_per_weight  all planes of a large tensor, scales included, over its elements
    parameters       what `with_parameters` set, where one name covers many: {"bits": 4, "group": 128}
    fallback         the format for tensors whose shape does not fit, "" if they stay floats
    files            the kinds of file that hold this format

    A format has no state: equal bytes give equal values, in every process and on every device.
    """

    name: str = ""
    version: int = 1
    block: tuple[int | None, ...] = ()
    bits_per_weight: float = 0.0
    parameters: Mapping[str, int | float | str | bool] = {}
    fallback: str = ""
    files: Sequence[SchemeFile] = ()

    def with_parameters(self, **parameters: int | float | str | bool) -> Self:
        """The format with other parameters, as GPTQ's group or ONNX's block size; else ArgumentError."""
        if parameters:
            raise ArgumentError(f"{self.name}: expected no parameters, got {', '.join(sorted(parameters))}")
        return self

    # ---- bytes ----

    def planes(self, shape: Shape) -> Mapping[str, Plane]:
        """Names, dtypes and shapes of the planes for a tensor of that shape; allocates nothing.

        Planes keep the order that the format's files have. A plane of integers may hold several codes.
        """
        raise NotImplementedError(f"{self.name}: planes")

    def nbytes(self, shape: Shape) -> int:
        """Bytes of all planes for a tensor of that shape."""
        return sum(plane.nbytes for plane in self.planes(shape).values())

    # ---- values to bytes: optional ----

    @property
    def can_pack(self) -> bool:
        """Whether the format turns values into bytes, or is only ever loaded."""
        return type(self).pack is not QuantScheme.pack

    def pack(self, values: Array) -> Mapping[str, Array]:
        """Planes of float32 or float64 values, rounded to nearest: the plain encoder of every format.

        Deterministic, and never NaN for finite values; raises what `check_values` raises.
        """
        raise ArgumentError(f"{self.name}: expected a format with an encoder, got one that is only loaded")

    def bound(self, values: Array) -> Array:
        """The |unpack(pack(values)) − values| allowed for each element, in float64."""
        raise NotImplementedError(f"{self.name}: bound")

    # ---- bytes to values ----

    def unpack(self, planes: Mapping[str, Array], shape: Shape) -> Array:
        """The float32 values of the planes, in NumPy: the definition of the format."""
        raise NotImplementedError(f"{self.name}: unpack")

    def dequantize(self, planes: Mapping[str, Any], shape: Shape) -> Any:
        """The same values as a lazy float32 Tensor of Tensors, bit for bit, on every device.

        Only Tensor functions, so that the expression fuses into what reads it; nothing is realized here. A
        multiplication and an addition may become one FMA: keep products exact, or round them by a cast.
        """
        raise NotImplementedError(f"{self.name}: dequantize")

    # ---- checks, each the first line of a method above ----

    def check_shape(self, shape: Shape) -> None:
        """Raise ShapeError unless every axis that `block` speaks of is a multiple of it.

        Override it where blocks run across axes, as those of flat formats do.
        """
        if len(shape) < len(self.block):
            raise ShapeError(f"{self.name}: expected {len(self.block)} or more axes, got {list(shape)}")
        for size, axis in zip(reversed(self.block), range(-1, -len(self.block) - 1, -1), strict=True):
            if size is not None and shape[axis] % size:
                raise ShapeError(
                    f"{self.name}: expected axis {axis} to be a multiple of {size}, got {list(shape)}"
                )

    def check_values(self, values: Array) -> Array:
        """The values, if they can be packed: ShapeError, DTypeError; ArgumentError for NaN and infinity."""
        if to_dtype(values.dtype) not in (float32, float64):
            raise DTypeError(f"{self.name}: expected float32 or float64 values, got {values.dtype}")
        self.check_shape(values.shape)
        if not np.isfinite(values).all():
            raise ArgumentError(f"{self.name}: expected finite values, got NaN or infinity")
        return values

    def check_planes(self, planes: Mapping[str, Any], shape: Shape) -> None:
        """Raise unless these arrays or Tensors are the planes of a tensor of that shape."""
        self.check_shape(shape)
        expected = self.planes(shape)
        if set(planes) != set(expected):
            raise ArgumentError(f"{self.name}: expected planes {sorted(expected)}, got {sorted(planes)}")
        for name, plane in expected.items():
            found = Plane(to_dtype(planes[name].dtype), tuple(planes[name].shape))
            if found.shape != plane.shape:
                raise ShapeError(
                    f"{self.name}: plane {name}: expected {plane} for {list(shape)}, got {found}"
                )
            if found.dtype is not plane.dtype:
                raise DTypeError(f"{self.name}: plane {name}: expected {plane}, got {found}")


class Encoder:
    """A way to choose bytes that is better, for some use, than a format's own `pack`. Override `encode`.

    name        what the user types: "imatrix"
    version     changed when the bytes that it chooses change; kept in the file with its verdict
    importance  what it wants to know of the inputs x that the tensor's last axis will meet: "" for nothing,
                "squares" for the mean of each x², [K], "largest" for the largest of each |x|, [K],
                "hessian" for the mean of x xᵀ, [K, K]
    """

    name: str = ""
    version: int = 1
    importance: str = ""

    def supports(self, scheme: QuantScheme) -> bool:
        """Whether it can choose bytes of that format."""
        return scheme.can_pack

    def factors(self, scheme: QuantScheme, values: Array, importance: Array | None = None) -> Array | None:
        """float32 factors > 0, [K], or None for none: what the values are multiplied by before `encode` gets
        them, with the importance of inputs that are divided by them; who reads the planes divides likewise.
        """
        return None

    def encode(
        self, scheme: QuantScheme, values: Array, importance: Array | None = None
    ) -> Mapping[str, Array]:
        """Planes that pass `scheme.check_planes`; the same ones for the same arguments, every time.

        Without `importance` all inputs count alike; ArgumentError where that makes no sense.
        """
        raise NotImplementedError(f"{self.name}: encode")
