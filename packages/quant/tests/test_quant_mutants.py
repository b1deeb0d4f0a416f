"""Formats that are wrong on purpose: each must differ from the `gguf` library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from petaflop_quant.bits import Bits
from petaflop_quant.formats.blocks import Array, BlockFormat, Field
from petaflop_quant.formats.plain import Q4_0, Q5_1
from petaflop_quant.formats.table import IQ4_NL, MXFP4
from petaflop_quant.formats.two_level import Q4_K, Q6_K

RANDOM = np.random.default_rng(6)


class SwappedNibbles(Q4_0):
    def read_codes(self, flat: Mapping[str, Array]) -> Array:
        return super().read_codes({**flat, "qs": flat["qs"] << 4 | flat["qs"] >> 4})


class NeighbouringNibbles(Q4_0):
    codes = (Bits("qs", 4, outer=16, lanes=1),)


class WrongZero(Q4_0):
    levels = 7


class ShiftedScales(Q4_K):
    def small(self, flat: Mapping[str, Array]) -> tuple[Array, Array]:
        scales, minimums = super().small(flat)
        return np.roll(scales, 1, -1), minimums


class MinimumsAdded(Q4_K):
    def scales(self, flat: Mapping[str, Array]) -> tuple[Array, Array | None]:
        step, offset = super().scales(flat)
        return step, None if offset is None else -offset


class UnsignedScales(Q6_K):
    fields = tuple(Field(f.name, "uint8", f.count) if f.name == "scales" else f for f in Q6_K.fields)


class HighBitsElsewhere(Q6_K):
    codes = (Q6_K.codes[0], Bits("qh", 2, outer=1, lanes=64, at=4))


class FieldsExchanged(Q5_1):
    fields = (Q5_1.fields[1], Q5_1.fields[0], *Q5_1.fields[2:])


class OneLevelOff(IQ4_NL):
    levels = (*IQ4_NL.levels[:-1], 112.0)


class WholePower(MXFP4):
    def scales(self, flat: Mapping[str, Array]) -> tuple[Array, Array | None]:
        scale, offset = super().scales(flat)
        return scale * 2, offset


MUTANTS = (
    SwappedNibbles, NeighbouringNibbles, WrongZero, ShiftedScales, MinimumsAdded, UnsignedScales,
    HighBitsElsewhere, FieldsExchanged, OneLevelOff, WholePower,
)  # fmt: skip


def differs(scheme: Any, kind: GGMLQuantizationType) -> bool:
    shape = (4, 2 * scheme.size)
    data = RANDOM.integers(0, 256, (4, 2 * scheme.block_bytes), dtype=np.uint8)
    data[:, 1::2] &= 0x3F  # no float16 is NaN or infinite
    with np.errstate(all="ignore"):
        expected = quants.dequantize(data, kind)
    return not np.array_equal(scheme.unpack(scheme.from_blocks(data, shape), shape), expected, equal_nan=True)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda kind: kind.__name__)
def test_a_wrong_format_is_found(mutant: type[BlockFormat]) -> None:
    kind = GGMLQuantizationType(mutant.gguf_type)
    assert differs(mutant(), kind)
    assert not differs(mutant.__mro__[1](), kind)
