"""Formats whose last axis is cut into blocks, each a fixed sequence of fields, as in GGUF.

A value is scale · level(code) + offset, where the scales of a block's parts are numbers that the format finds
in its fields. Every product is exact in float32, so that a fused multiply-add changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from petaflop import Tensor
from petaflop.plugin_api import DTYPES, Plane, QuantScheme, SchemeFile, ShapeError
from petaflop_quant.bits import Bits, express, looked_up, read, write

__all__ = ["HALF_LIMIT", "BlockFormat", "Field", "half_error"]

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]

HALF_LIMIT = 65519.0  # what float16 still rounds to its largest number, 65504


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a block: a name, a dtype, and how many of it stand there."""

    name: str
    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        return DTYPES[self.dtype].itemsize * self.count


class BlockFormat(QuantScheme):
    """Override `fields`, `codes`, `levels`, `scales`, `express_scales`; to pack also `encode` and `allowed`.

    fields     of a block of `block[0]` elements, in the order of the file
    codes      where the bits of the codes are
    levels     what a code stands for: code − levels, or levels[code]
    gguf_type  the number that GGUF files have for it
    """

    fields: ClassVar[tuple[Field, ...]] = ()
    codes: ClassVar[tuple[Bits, ...]] = ()
    levels: ClassVar[int | tuple[float, ...]] = 0
    gguf_type: ClassVar[int] = -1

    @property
    def files(self) -> tuple[SchemeFile, ...]:  # type: ignore[override]
        """GGUF, where it has the format."""
        from petaflop_quant.files.gguf import GGUF

        return (GGUF(self),) if self.gguf_type >= 0 else ()

    @property
    def size(self) -> int:
        """Elements of a block."""
        (size,) = self.block
        assert size is not None
        return size

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return sum(field.nbytes for field in self.fields)

    def planes(self, shape: Shape) -> Mapping[str, Plane]:
        """A plane for each field: its numbers for each block."""
        self.check_shape(shape)
        blocks = (*shape[:-1], shape[-1] // self.size)
        return {each.name: Plane(DTYPES[each.dtype], (*blocks, each.count)) for each in self.fields}

    # ---- bytes of a file ----

    def from_blocks(self, data: Array, shape: Shape) -> Mapping[str, Array]:
        """Planes as views of a file's bytes."""
        blocks = data.reshape(*shape[:-1], shape[-1] // self.size, self.block_bytes)
        planes, start = {}, 0
        for field in self.fields:
            part = blocks[..., start : start + field.nbytes]
            planes[field.name] = part.view(DTYPES[field.dtype].numpy)
            start += field.nbytes
        return planes

    def to_blocks(self, planes: Mapping[str, Array]) -> Array:
        """The bytes of a file: uint8[..., bytes of a row]."""
        parts = [np.ascontiguousarray(planes[field.name]).view(np.uint8) for field in self.fields]
        blocks = np.concatenate(parts, -1)
        return blocks.reshape(*blocks.shape[:-2], -1)

    # ---- values ----

    def unpack(self, planes: Mapping[str, Array], shape: Shape) -> Array:
        """The values by NumPy."""
        self.check_planes(planes, shape)
        flat = {field.name: planes[field.name].reshape(-1, field.count) for field in self.fields}
        codes = self.read_codes(flat)
        level = self.level_of(codes)
        with np.errstate(all="ignore"):  # a file's scales may be NaN or infinite
            scale, offset = self.scales(flat)
            parts = level.reshape(len(level), scale.shape[1], -1)
            values = scale[:, :, None] * parts
            if offset is not None:
                values = values + offset[:, :, None]
        result: Array = values.astype(np.float32).reshape(shape)
        return result

    def dequantize(self, planes: Mapping[str, Any], shape: Shape) -> Tensor:
        """The values as a lazy expression."""
        self.check_planes(planes, shape)
        rows, blocks = math.prod(shape[:-1]), shape[-1] // self.size
        flat = {field.name: planes[field.name].reshape(rows, blocks, field.count) for field in self.fields}
        scale, offset = self.express_scales(flat)
        values = scale * self.express_level(self.express_codes(flat))
        values = values if offset is None else values + offset
        return values.reshape(*shape)

    def read_codes(self, flat: Mapping[str, Array]) -> Array:
        """The codes of planes [blocks, count]: [blocks, size]."""
        return read(self.codes, flat)

    def express_codes(self, flat: Mapping[str, Tensor]) -> Tensor:
        """The codes of planes [rows, blocks, count]: [rows, blocks, size]."""
        return express(self.codes, flat)

    def level_of(self, codes: Array) -> Array:
        """What codes stand for, in float32."""
        if isinstance(self.levels, tuple):
            return np.array(self.levels, np.float32)[codes]
        return codes.astype(np.float32) - np.float32(self.levels)

    def express_level(self, codes: Tensor) -> Tensor:
        """The same, lazily."""
        if isinstance(self.levels, tuple):
            return looked_up(self.levels, codes)
        return codes.cast("float32") - float(self.levels) if self.levels else codes.cast("float32")

    def scales(self, flat: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """The scales and offsets of a block's parts: float32[blocks, parts]."""
        raise NotImplementedError(f"{self.name}: scales")

    def express_scales(self, flat: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The same, lazily, for every element: [rows, blocks, size]."""
        raise NotImplementedError(f"{self.name}: express_scales")

    # ---- packing ----

    @property
    def can_pack(self) -> bool:
        """Whether `encode` is there."""
        return type(self).encode is not BlockFormat.encode

    def pack(self, values: Array) -> Mapping[str, Array]:
        """Codes to nearest; values are cut off where no scale of the format reaches them."""
        if not self.can_pack:
            return super().pack(values)
        blocks = self.blocks_of(values).astype(np.float32)
        return self.shaped(self.encode(blocks), values.shape)

    def bound(self, values: Array) -> Array:
        """What `pack` may be off by."""
        blocks = self.blocks_of(values).astype(np.float64)
        result: Array = self.allowed(blocks).reshape(values.shape)
        return result

    def encode(self, blocks: Array) -> Mapping[str, Array]:
        """Planes [blocks, count] of float32 values [blocks, size]."""
        raise NotImplementedError(f"{self.name}: encode")

    def allowed(self, blocks: Array) -> Array:
        """The bound of float64 values [blocks, size]."""
        raise NotImplementedError(f"{self.name}: allowed")

    def joined(self, codes: Array, **planes: Array) -> dict[str, Array]:
        """Planes of codes and of other fields, [blocks, count] each."""
        made = {
            field.name: planes[field.name].astype(DTYPES[field.dtype].numpy).reshape(-1, field.count)
            if field.name in planes
            else np.zeros((len(codes), field.count), DTYPES[field.dtype].numpy)
            for field in self.fields
        }
        write(self.codes, codes, made)
        return made

    def blocks_of(self, values: Array) -> Array:
        """Checked values as [blocks, size]."""
        if values.ndim == 0:
            raise ShapeError(f"{self.name}: expected 1 or more axes, got []")
        return np.ascontiguousarray(self.check_values(values)).reshape(-1, self.size)

    def shaped(self, flat: Mapping[str, Array], shape: Shape) -> Mapping[str, Array]:
        """Planes [blocks, count] in the shapes that a tensor's have."""
        return {name: flat[name].reshape(plane.shape) for name, plane in self.planes(shape).items()}


def half_error(scale: Array) -> Array:
    """How far a float16 may be from a number."""
    size = np.abs(scale)
    result: Array = np.maximum(size * 2.0**-11, np.minimum(size, 2.0**-25))
    return result
