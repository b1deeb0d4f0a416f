"""A device as data: what the planner needs to know to choose loops, and nothing about how to reach it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["MatrixInstruction", "Target", "TileRegisters"]


@dataclass(frozen=True, slots=True)
class TileRegisters:
    """Numbered registers that hold nothing but tiles, and the intrinsics that fill and empty them.

    `load` and `store` take (number, address, bytes from row to row), `zero` takes a number. A function that
    uses tiles calls `begin` first, with the address of `configuration`, and `end` last.
    """

    count: int
    load: str
    store: str
    zero: str
    begin: str
    end: str
    configuration: bytes


@dataclass(frozen=True, slots=True)
class MatrixInstruction:
    """One instruction that multiplies tiles: C[m, n] += A[m, k] * B[k, n].

    `a_map`, `b_map` and `c_map` give, for each lane and register element in row-major (lane, element) order,
    the (row, column) of the tile that it holds; a dot product such as `vpdpbusd` has one lane per result.
    `spelling` is the intrinsic, which takes tiles in the order of `operands`, those of A and B as the type
    `operand_type`; `signs` is the signedness of A and B ("us" is unsigned times signed), and
    `flushes_denormals` is true where inputs lose their denormals (`vdpbf16ps`). Tiles live in vector
    registers, or in `tiles`. `cycles` is the time from one instruction to the next, and `roundings` how often
    one rounds an element of C.
    """

    name: str
    m: int
    n: int
    k: int
    a_dtype: str
    b_dtype: str
    c_dtype: str
    spelling: str
    a_map: tuple[tuple[int, int], ...] = ()
    b_map: tuple[tuple[int, int], ...] = ()
    c_map: tuple[tuple[int, int], ...] = ()
    signs: str = "ss"
    flushes_denormals: bool = False
    operands: tuple[str, ...] = ("c", "a", "b")
    operand_type: str = ""
    tiles: TileRegisters | None = None
    cycles: float = 0.5
    roundings: int = 1

    @property
    def group(self) -> int:
        """How many values of k stand side by side in B, as one column's part of a row.

        >>> MatrixInstruction(
        ...     "dot", 1, 2, 2, "int8", "int8", "int32", "", b_map=((0, 0), (1, 0), (0, 1), (1, 1))
        ... ).group
        2
        """
        columns = [column for _, column in self.b_map]
        return next((place for place, column in enumerate(columns) if column != columns[0]), len(columns))


@dataclass(frozen=True, slots=True)
class Target:
    """Sizes in bytes, rates in bytes or operations per second; 0 means unknown.

    `kind` is "cpu" (threads of SIMD units) or "gpu" (workgroups of waves). `triple`, `cpu` and `features` are
    what a compiler is told. `has_masked_access` is true where a load or store of some lanes costs about what
    one of all lanes does: ragged edges then run under a mask instead of one by one.
    """

    name: str
    kind: str
    triple: str = ""
    cpu: str = ""
    features: str = ""
    vector_bytes: int = 16
    vector_registers: int = 16
    has_fma: bool = False
    has_masked_access: bool = False
    threads: int = 1
    wave_size: int = 1
    max_workgroup: int = 1
    local_memory: int = 0
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    l3_bytes: int = 0
    cache_line: int = 64
    bandwidth: float = 0.0
    peak: Mapping[str, float] = field(default_factory=dict)
    native_dtypes: tuple[str, ...] = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
    "uint64",
                                      "float32", "float64")  # fmt: skip
    native_ops: tuple[str, ...] = ()
    matrix_instructions: tuple[MatrixInstruction, ...] = ()
    image_limits: tuple[int, int] = (0, 0)
    index_bits: int = 64

    def vector_width(self, itemsize: int) -> int:
        """Lanes of one vector register for elements of `itemsize` bytes."""
        return max(1, self.vector_bytes // itemsize)

    @property
    def key(self) -> str:
        """What generated code depends on, for cache keys."""
        matrix = ",".join(row.name for row in self.matrix_instructions)
        device = f"{self.name}|{self.triple}|{self.cpu}|{self.features}|{matrix}"
        return f"{device}|{self.vector_bytes}|{self.threads}"
