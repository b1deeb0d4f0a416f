"""CPUs as data: the host that this process runs on, and named ones to cross-compile for.

Reads the CPU's name and features from LLVM, cache sizes from the system; measures nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import llvmlite.binding as llvm

from petaflop.plugin_api import MatrixInstruction, Native, Target
from petaflop_cpu.threads import available_threads

__all__ = ["TARGETS", "host_target", "named_target"]

# What LLVM has one instruction (or two) for; everything else is derived.
_DERIVED = (Native.RECIP,)
_NATIVE_OPS = tuple(op.value for op in Native if op not in _DERIVED)


def _dot_product(
    name: str,
    lanes: int,
    depth: int,
    dtypes: tuple[str, str, str],
    spelling: str,
    signs: str = "ss",
    flushes_denormals: bool = False,
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
    )  # fmt: skip


_BF16 = ("bfloat16", "bfloat16", "float32")
_U8S8 = ("uint8", "int8", "int32")
_S8S8 = ("int8", "int8", "int32")
_U8U8 = ("uint8", "uint8", "uint32")
_NEON = "llvm.aarch64.neon"

# feature that has it -> the instruction, widest first
_MATRIX_INSTRUCTIONS: tuple[tuple[str, MatrixInstruction], ...] = (
    ("avx512bf16", _dot_product("vdpbf16ps.512", 16, 2, _BF16, "llvm.x86.avx512bf16.dpbf16ps.512",
                                flushes_denormals=True)),
    ("avx512vnni", _dot_product("vpdpbusd.512", 16, 4, _U8S8, "llvm.x86.avx512.vpdpbusd.512", "us")),
    ("avxvnni", _dot_product("vpdpbusd.256", 8, 4, _U8S8, "llvm.x86.avx512.vpdpbusd.256", "us")),
    ("dotprod", _dot_product("sdot", 4, 4, _S8S8, f"{_NEON}.sdot.v4i32.v16i8")),
    ("dotprod", _dot_product("udot", 4, 4, _U8U8, f"{_NEON}.udot.v4i32.v16i8", "uu")),
    ("bf16", _dot_product("bfdot", 4, 2, _BF16, f"{_NEON}.bfdot.v4f32.v8bf16", flushes_denormals=True)),
)  # fmt: skip

# feature -> (vector bytes, vector registers), widest first
_VECTORS: tuple[tuple[str, int, int], ...] = (
    ("avx512vl", 64, 32),
    ("avx2", 32, 16),
    ("avx", 32, 16),
    ("neon", 16, 32),
    ("sse2", 16, 16),
)


def _target(name: str, triple: str, cpu: str, features: Mapping[str, bool], threads: int,
            caches: Mapping[str, int] | None = None) -> Target:  # fmt: skip
    has = {feature for feature, present in features.items() if present}
    vector_bytes, registers = next(((b, r) for feature, b, r in _VECTORS if feature in has), (16, 16))
    sizes = caches or {}
    flags = [f"{'+' if present else '-'}{feature}" for feature, present in sorted(features.items())]
    return Target(
        name=name,
        kind="cpu",
        triple=triple,
        cpu=cpu,
        features=",".join(flags),
        vector_bytes=vector_bytes,
        vector_registers=registers,
        has_fma=not has.isdisjoint(("fma", "neon")),
        has_masked_access="avx512vl" in has,  # AVX2 has such stores too, but they take tens of cycles
        threads=threads,
        native_ops=_NATIVE_OPS,
        matrix_instructions=tuple(row for feature, row in _MATRIX_INSTRUCTIONS if feature in has),
        l1_bytes=sizes.get("l1_bytes", 32 << 10),
        l2_bytes=sizes.get("l2_bytes", 512 << 10),
        l3_bytes=sizes.get("l3_bytes", 0),
    )


@functools.cache
def host_target() -> Target:
    """The CPU of this process, with every feature that it has.

    >>> host_target().kind
    'cpu'
    """
    features = dict(llvm.get_host_cpu_features())
    cpu = llvm.get_host_cpu_name()
    triple, threads = llvm.get_process_triple(), available_threads()
    return _target(f"cpu-{cpu}", triple, cpu, features, threads, _host_caches())


_CACHE_FIELDS = {1: "l1_bytes", 2: "l2_bytes", 3: "l3_bytes"}
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _host_caches(root: str = "/sys/devices/system/cpu/cpu0/cache") -> dict[str, int]:
    """Sizes of the data caches that one core sees; nothing where the system does not tell."""
    sizes = {}
    for folder in sorted(Path(root).glob("index[0-9]*")):
        try:
            level = int((folder / "level").read_text())
            kind = (folder / "type").read_text().strip()
            text = (folder / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        unit = _UNITS.get(text[-1:])
        number = text[:-1] if unit else text
        if kind != "Instruction" and level in _CACHE_FIELDS and number.isdigit():
            sizes[_CACHE_FIELDS[level]] = int(number) * (unit or 1)
    return sizes


_LINUX = "unknown-linux-gnu"
_V3 = ("avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt", "sse2", "sse4.1", "sse4.2")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_SPR = (*_V4, "avx512bf16", "avx512vnni", "avxvnni")

# Named targets: what tests and `compile_for` cross-compile to.
TARGETS: dict[str, Target] = {
    name: _target(name, triple, cpu, dict.fromkeys(features, True), 1)
    for name, triple, cpu, features in (
        ("x86-64-v3", f"x86_64-{_LINUX}", "x86-64-v3", _V3),
        ("x86-64-v4", f"x86_64-{_LINUX}", "x86-64-v4", _V4),
        ("sapphirerapids", f"x86_64-{_LINUX}", "sapphirerapids", _SPR),
        ("aarch64", f"aarch64-{_LINUX}", "generic", ("neon",)),
        ("aarch64-dot", f"aarch64-{_LINUX}", "neoverse-n2", ("neon", "dotprod", "bf16")),
    )
}


def named_target(name: str) -> Target:
    """A row of `TARGETS`, or the host for "host"; raises KeyError with the names that exist."""
    if name == "host":
        return host_target()
    if name not in TARGETS:
        raise KeyError(f"target: expected host, {', '.join(TARGETS)}, got {name!r}")
    return TARGETS[name]
