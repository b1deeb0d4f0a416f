"""Where the bits of codes lie in bytes: read and written in NumPy, and read as a lazy expression.

A code may be spread over several fields (low bits in one plane, high bits in another); each is one `Bits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from petaflop import Tensor

__all__ = ["Bits", "express", "looked_up", "read", "shifted", "spread", "write"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Bits:
    """`width` bits of each code, in `plane`'s bytes from `start` on.

    The bytes stand as [outer, lanes]; the codes run over [outer, part, lanes], where part p of a byte is its
    bits from p · width on. `at` is the position of these bits within the code.
    """

    plane: str
    width: int
    outer: int
    lanes: int
    at: int = 0
    start: int = 0

    @property
    def parts(self) -> int:
        """The codes that one byte has a part of."""
        return 8 // self.width

    @property
    def mask(self) -> int:
        return (1 << self.width) - 1

    @property
    def bytes(self) -> slice:
        return slice(self.start, self.start + self.outer * self.lanes)


def read(fields: Sequence[Bits], planes: Mapping[str, Array]) -> Array:
    """Codes as uint8[blocks, codes], of planes uint8[blocks, bytes]."""
    total: Any = 0
    for field in fields:
        data = planes[field.plane][:, field.bytes].reshape(-1, field.outer, 1, field.lanes)
        shifts = (np.arange(field.parts, dtype=np.uint8) * field.width).astype(np.uint8).reshape(-1, 1)
        part = (data >> shifts) & np.uint8(field.mask)
        total = total | (part.reshape(len(data), -1) << np.uint8(field.at))
    result: Array = total
    return result


def write(fields: Sequence[Bits], codes: Array, planes: Mapping[str, Array]) -> None:
    """Put codes, uint8[blocks, codes], into planes that are zero there."""
    for field in fields:
        part = (codes >> np.uint8(field.at)) & np.uint8(field.mask)
        part = part.reshape(-1, field.outer, field.parts, field.lanes)
        shifts = (np.arange(field.parts, dtype=np.uint8) * field.width).astype(np.uint8).reshape(-1, 1)
        joined = np.bitwise_or.reduce(part << shifts, axis=2)
        planes[field.plane][:, field.bytes] |= joined.reshape(len(codes), -1)


def express(fields: Sequence[Bits], planes: Mapping[str, Tensor], repeat: int = 1) -> Tensor:
    """The codes of planes uint8[rows, blocks, bytes], as a lazy uint8[rows, blocks, codes · repeat].

    The bytes are expanded before anything is computed: an expression of the size of the result is never worth
    storing to the scheduler, so all of it is computed where it is read.
    """
    total: Tensor | None = None
    for field in fields:
        plane = planes[field.plane]
        rows, blocks = plane.shape[:2]
        data = plane[:, :, field.bytes] if plane.shape[2] != field.outer * field.lanes else plane
        data = data.reshape(rows, blocks, field.outer, 1, field.lanes, 1)
        wide = data.expand(rows, blocks, field.outer, field.parts, field.lanes, repeat)
        part = Tensor.arange(field.parts, device=plane.device).reshape(-1, 1, 1)
        code = shifted(wide, part, field.parts, field.width).reshape(rows, blocks, -1)
        code = code * (1 << field.at) if field.at else code
        total = code if total is None else total + code
    assert total is not None
    return total


def shifted(wide: Tensor, part: Tensor, parts: int, width: int) -> Tensor:
    """Bits part · width and on of unsigned integers: a choice for each bit of `part`, by constant shifts."""
    step = parts // 2
    while step:
        wide = (part & step).ne(0).where(wide // (1 << (width * step)), wide)
        step //= 2
    return wide & ((1 << width) - 1)


def looked_up(levels: Sequence[float], codes: Tensor) -> Tensor:
    """Entries of a table of 2ⁿ numbers, chosen bit by bit: all lanes of a vector at once, with no gather."""
    entries: list[Any] = [float(level) for level in levels]
    bit = 1
    while len(entries) > 1:
        odd = (codes & bit).ne(0)
        entries = [odd.where(high, low) for low, high in zip(entries[::2], entries[1::2], strict=True)]
        bit *= 2
    result: Tensor = entries[0]
    return result


def spread(plane: Tensor, size: int) -> Tensor:
    """A number for each part of a block, [rows, blocks, parts], repeated to [rows, blocks, size]."""
    rows, blocks, parts = plane.shape
    wide = plane.reshape(rows, blocks, parts, 1).expand(rows, blocks, parts, size // parts)
    return wide.reshape(rows, blocks, size)
