"""Floats of 4 bits outside GGUF: NF4 of bitsandbytes, and NVFP4 as compressed-tensors packs it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from petaflop import Tensor
from petaflop.plugin_api import DTYPES, ArgumentError, Plane, QuantScheme, SchemeFile, ShapeError
from petaflop_quant.bits import looked_up
from petaflop_quant.formats.table import E2M1, nearest

__all__ = ["NF4", "NF4_LEVELS", "NVFP4_PACKED"]

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]

# Quantiles of the normal distribution between −1 and 1, with 0 among them, as bitsandbytes has them.
NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip


def _halves(packed: Tensor, high_first: bool) -> Tensor:
    """Both codes of each byte of uint8[rows, bytes], lazily: uint8[rows, 2 · bytes]."""
    rows, count = packed.shape
    wide = packed.reshape(rows, count, 1).expand(rows, count, 2)
    part = Tensor.arange(2, device=packed.device)
    upper = part.eq(0) if high_first else part.ne(0)
    return upper.where(wide // 16, wide & 15).reshape(rows, 2 * count)


class InPlanes(QuantScheme):
    """Formats whose planes are kept as they are."""

    @property
    def files(self) -> tuple[SchemeFile, ...]:  # type: ignore[override]
        """safetensors, plane by plane."""
        from petaflop_quant.files.safetensors import Planes

        return (Planes(self),)


class NF4(InPlanes):
    """Blocks of the flat tensor under the largest size of each; the first code of a byte is its high half.

    With `double` the sizes are codes of 8 bits themselves, in blocks of 256, around an offset.
    """

    name = "nf4"
    defaults: ClassVar[dict[str, int | bool]] = {"block": 64, "double": False}

    def __init__(self, **parameters: int | float | str | bool) -> None:
        self.parameters = {**self.defaults, **parameters}
        self.each, self.double = int(self.parameters["block"]), bool(self.parameters["double"])
        if set(self.parameters) != set(self.defaults) or self.each < 2 or self.each % 2:
            raise ArgumentError(f"nf4: expected an even block and double, got {parameters}")
        self.bits_per_weight = 4 + (8 + 32 / 256 if self.double else 32) / self.each

    def with_parameters(self, **parameters: int | float | str | bool) -> Self:
        """The same with others."""
        return type(self)(**{**self.parameters, **parameters})

    @property
    def can_pack(self) -> bool:
        """Without `double`."""
        return not self.double

    def check_shape(self, shape: Shape) -> None:
        """A whole number of blocks."""
        if not shape or math.prod(shape) % self.each:
            raise ShapeError(f"nf4: expected a multiple of {self.each} elements, got {list(shape)}")

    def planes(self, shape: Shape) -> Mapping[str, Plane]:
        """codes and absmax, by rows if those are whole blocks; of `double` also what absmax is coded by."""
        self.check_shape(shape)
        blocks = math.prod(shape) // self.each
        front, last = shape[:-1], shape[-1]
        halves = (*front, last // 2) if last % 2 == 0 else (math.prod(shape) // 2,)
        found = {"codes": Plane(DTYPES["uint8"], halves)}
        front = (*front, last // self.each) if last % self.each == 0 else (blocks,)
        if not self.double:
            return {**found, "absmax": Plane(DTYPES["float32"], front)}
        return {
            **found,
            "absmax": Plane(DTYPES["uint8"], front),
            "nested_absmax": Plane(DTYPES["float32"], (-(-blocks // 256),)),
            "nested_map": Plane(DTYPES["float32"], (256,)),
            "nested_offset": Plane(DTYPES["float32"], (1,)),
        }

    def pack(self, values: Array) -> Mapping[str, Array]:
        """To the nearest level, in float32 as it is kept."""
        if self.double:
            return super().pack(values)
        blocks = self.check_values(values).reshape(-1, self.each).astype(np.float32)
        absmax = abs(blocks).max(-1)
        usable = absmax >= 2.0**-120
        scaled = np.where(usable[:, None], blocks / np.where(usable, absmax, 1)[:, None], 0)
        codes = nearest(NF4_LEVELS, scaled.astype(np.float64))
        packed = codes[:, ::2] << 4 | codes[:, 1::2]
        planes = {"codes": packed, "absmax": np.where(usable, absmax, np.float32(0))}
        return {name: planes[name].reshape(plane.shape) for name, plane in self.planes(values.shape).items()}

    def bound(self, values: Array) -> Array:
        """Half of the widest gap of levels."""
        blocks = self.check_values(values).reshape(-1, self.each).astype(np.float64)
        widest = float(np.diff(NF4_LEVELS).max()) / 2
        bound = abs(blocks).max(-1, keepdims=True) * (widest + 2.0**-20) + 2.0**-120
        result: Array = np.broadcast_to(bound, blocks.shape).reshape(values.shape)
        return result

    def unpack(self, planes: Mapping[str, Array], shape: Shape) -> Array:
        """Level · absmax in float32."""
        self.check_planes(planes, shape)
        packed = planes["codes"].reshape(-1, self.each // 2)
        codes = np.stack([packed >> 4, packed & 15], -1).reshape(len(packed), -1)
        with np.errstate(all="ignore"):
            absmax = planes["absmax"].reshape(-1)
            if self.double:
                blocks = np.arange(len(absmax)) // 256
                level = planes["nested_map"].astype(np.float64)[absmax]
                nested = planes["nested_absmax"].astype(np.float64)[blocks]
                absmax = (level * nested + planes["nested_offset"]).astype(np.float32)
            result: Array = np.array(NF4_LEVELS, np.float32)[codes] * absmax[:, None]
        return result.reshape(shape)

    def dequantize(self, planes: Mapping[str, Any], shape: Shape) -> Tensor:
        """The same, lazily; nested sizes in float64, whose products are exact."""
        self.check_planes(planes, shape)
        absmax, packed = planes["absmax"], planes["codes"]
        element = Tensor.arange(math.prod(shape), device=absmax.device)
        # What runs over the end of a row is gathered: as a view, its place is nothing that plans understand.
        if shape[-1] % 2:
            wide = packed.gather(0, element // 2)
            codes = (element & 1).ne(0).where(wide & 15, wide // 16)
        else:
            codes = _halves(packed.reshape(-1, packed.shape[-1]), high_first=True)
        if shape[-1] % self.each:
            scale = absmax.gather(0, element // self.each).reshape(*codes.shape)
        else:
            scale = absmax.unsqueeze(-1).expand(*absmax.shape, self.each).reshape(*codes.shape)
        if self.double:
            level = planes["nested_map"].gather(0, scale.cast("int32").reshape(-1))
            level = level.reshape(*codes.shape).cast("float64")
            nested = planes["nested_absmax"].gather(0, element // (256 * self.each))
            nested = nested.reshape(*codes.shape).cast("float64")
            scale = (level * nested + planes["nested_offset"].cast("float64")).cast("float32")
        return (looked_up(NF4_LEVELS, codes) * scale).reshape(*shape)


class NVFP4_PACKED(InPlanes):
    """Numbers of float4_e2m1, each 16 of a row under a float8_e4m3, all over one float32; loaded only."""

    name, block, bits_per_weight = "nvfp4_packed", (16,), 4.5

    def planes(self, shape: Shape) -> Mapping[str, Plane]:
        """weight_packed, weight_scale, weight_global_scale."""
        self.check_shape(shape)
        return {
            "weight_packed": Plane(DTYPES["uint8"], (*shape[:-1], shape[-1] // 2)),
            "weight_scale": Plane(DTYPES["float8_e4m3"], (*shape[:-1], shape[-1] // 16)),
            "weight_global_scale": Plane(DTYPES["float32"], (1,)),
        }

    def unpack(self, planes: Mapping[str, Array], shape: Shape) -> Array:
        """level · (scale / global scale), in float32."""
        self.check_planes(planes, shape)
        packed = planes["weight_packed"]
        codes = np.stack([packed & 15, packed >> 4], -1).reshape(shape)
        with np.errstate(all="ignore"):
            scale = planes["weight_scale"].astype(np.float32) / planes["weight_global_scale"]
            level = np.array(E2M1, np.float32)[codes] * np.float32(0.5)
            result: Array = level * np.repeat(scale, 16, -1)
        return result

    def dequantize(self, planes: Mapping[str, Any], shape: Shape) -> Tensor:
        """The same, lazily."""
        self.check_planes(planes, shape)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        codes = _halves(planes["weight_packed"].reshape(rows, columns // 2), high_first=False)
        scale = planes["weight_scale"].reshape(rows, columns // 16, 1).expand(rows, columns // 16, 16)
        scale = scale.cast("float32") / planes["weight_global_scale"]
        return (looked_up([level / 2 for level in E2M1], codes) * scale.reshape(rows, columns)).reshape(
            *shape
        )
