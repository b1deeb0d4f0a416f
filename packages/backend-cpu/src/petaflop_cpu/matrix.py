"""The matrix instructions of CPUs as data: dot products in vector registers, and AMX, whose tiles are a part
of a process's state that Linux hands out when asked.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import struct
from collections.abc import Collection
from dataclasses import replace

from petaflop.plugin_api import MatrixInstruction, TileRegisters

__all__ = ["TILE_FEATURE", "rows_for", "tiles_allowed"]

TILE_FEATURE = "amx-tile"


def _dot_product(
    name: str,
    lanes: int,
    depth: int,
    dtypes: tuple[str, str, str],
    spelling: str,
    operand_type: str,
    signs: str = "ss",
    flushes_denormals: bool = False,
    operands: tuple[str, ...] = ("c", "a", "b"),
    cycles: float = 0.5,
    roundings: int = 1,
) -> MatrixInstruction:
    """C[0, lane] += sum over `depth` of A[0, k] * B[k, lane]: A is broadcast, B has `depth` values a lane."""
    pairs = [(lane, k) for lane in range(lanes) for k in range(depth)]
    return MatrixInstruction(
        name, 1, lanes, depth, *dtypes, spelling,
        a_map=tuple((0, k) for _, k in pairs),
        b_map=tuple((k, lane) for lane, k in pairs),
        c_map=tuple((0, lane) for lane in range(lanes)),
        signs=signs,
        flushes_denormals=flushes_denormals,
        operands=operands,
        operand_type=operand_type,
        cycles=cycles,
        roundings=roundings,
    )  # fmt: skip


def _configuration() -> bytes:
    """Palette 1 with 8 tiles of 16 rows of 64 bytes."""
    return struct.pack("<BB14x8H16x8B8x", 1, 0, *[64] * 8, *[16] * 8)


_TILES = TileRegisters(
    8,
    load="llvm.x86.tileloadd64",
    store="llvm.x86.tilestored64",
    zero="llvm.x86.tilezero",
    begin="llvm.x86.ldtilecfg",
    end="llvm.x86.tilerelease",
    configuration=_configuration(),
)


def _tile_product(
    name: str, dtypes: tuple[str, str, str], group: int, signs: str = "ss", flushes_denormals: bool = False
) -> MatrixInstruction:
    """16 rows of 64 bytes each: A row by row, B with `group` values of k side by side."""
    rows = range(16)
    return MatrixInstruction(
        name, 16, 16, 16 * group, *dtypes, f"llvm.x86.{name}",
        a_map=tuple((m, k) for m in rows for k in range(16 * group)),
        b_map=tuple((row * group + k, n) for row in rows for n in rows for k in range(group)),
        c_map=tuple((m, n) for m in rows for n in rows),
        signs=signs,
        flushes_denormals=flushes_denormals,
        tiles=_TILES,
        cycles=16.0,
    )  # fmt: skip


_BF16 = ("bfloat16", "bfloat16", "float32")
_U8S8 = ("uint8", "int8", "int32")
_S8U8 = ("int8", "uint8", "int32")
_S8S8 = ("int8", "int8", "int32")
_U8U8 = ("uint8", "uint8", "int32")
_NEON = "llvm.aarch64.neon"
_SWAPPED = ("c", "b", "a")
_BF16_PAIRS = "vdpbf16ps.512"
_512, _256 = "<16 x i32>", "<8 x i32>"
_VPDPBUSD = "llvm.x86.avx512.vpdpbusd"

# feature that has it -> the instruction, widest first
_ROWS: tuple[tuple[str, MatrixInstruction], ...] = (
    ("amx-bf16", _tile_product("tdpbf16ps", _BF16, 2, flushes_denormals=True)),
    ("amx-int8", _tile_product("tdpbssd", _S8S8, 4)),
    ("amx-int8", _tile_product("tdpbsud", _S8U8, 4, "su")),
    ("amx-int8", _tile_product("tdpbusd", _U8S8, 4, "us")),
    ("amx-int8", _tile_product("tdpbuud", _U8U8, 4, "uu")),
    ("avx512bf16", _dot_product(_BF16_PAIRS, 16, 2, _BF16, "llvm.x86.avx512bf16.dpbf16ps.512",
                                "<32 x bfloat>", flushes_denormals=True, roundings=2)),
    ("avx512vnni", _dot_product("vpdpbusd.512", 16, 4, _U8S8, f"{_VPDPBUSD}.512", _512, "us")),
    ("avx512vnni", _dot_product("vpdpbusd.512.su", 16, 4, _S8U8, f"{_VPDPBUSD}.512", _512, "su",
                                operands=_SWAPPED)),
    ("avxvnni", _dot_product("vpdpbusd.256", 8, 4, _U8S8, f"{_VPDPBUSD}.256", _256, "us")),
    ("avxvnni", _dot_product("vpdpbusd.256.su", 8, 4, _S8U8, f"{_VPDPBUSD}.256", _256, "su",
                             operands=_SWAPPED)),
    ("dotprod", _dot_product("sdot", 4, 4, _S8S8, f"{_NEON}.sdot.v4i32.v16i8", "<16 x i8>")),
    ("dotprod", _dot_product("udot", 4, 4, _U8U8, f"{_NEON}.udot.v4i32.v16i8", "<16 x i8>", "uu")),
    ("bf16", _dot_product("bfdot", 4, 2, _BF16, f"{_NEON}.bfdot.v4f32.v8bf16", "<8 x bfloat>",
                          flushes_denormals=True, roundings=2)),
)  # fmt: skip


def rows_for(features: Collection[str]) -> tuple[MatrixInstruction, ...]:
    """The matrix instructions of a CPU with these features."""
    rows = tuple(row for feature, row in _ROWS if feature in features)
    # Intel's cores take four times as long for two products of bfloat16 as for one of float32
    slow = () if "sse4a" in features else (_BF16_PAIRS,)
    return tuple(replace(row, cycles=2.0) if row.name in slow else row for row in rows)


_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@functools.cache
def tiles_allowed() -> bool:
    """Ask Linux for the tiles of AMX, once and for every thread of this process; False where it refuses."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    return int(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)) == 0
