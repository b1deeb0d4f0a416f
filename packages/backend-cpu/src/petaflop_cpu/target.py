"""CPUs as data: the host that this process runs on, and named ones to cross-compile for.

Reads the CPU's name and features from LLVM, cache sizes from the system; measures nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import llvmlite.binding as llvm

from petaflop.plugin_api import Native, Target
from petaflop_cpu.matrix import TILE_FEATURE, rows_for, tiles_allowed
from petaflop_cpu.threads import available_threads

__all__ = ["TARGETS", "host_target", "named_target"]

# What LLVM has one instruction (or two) for; everything else is derived.
_DERIVED = (Native.RECIP,)
_NATIVE_OPS = tuple(op.value for op in Native if op not in _DERIVED)


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
        matrix_instructions=rows_for(has),
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
    if features.get(TILE_FEATURE) and not tiles_allowed():
        features |= dict.fromkeys((f for f in features if f.startswith("amx")), False)
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
_DOT = (*_V4, "avx512bf16", "avx512vnni", "avxvnni")
_AMX = (*_DOT, "amx-tile", "amx-bf16", "amx-int8")

# Named targets: what tests and `compile_for` cross-compile to.
TARGETS: dict[str, Target] = {
    name: _target(name, triple, cpu, dict.fromkeys(features, True), 1)
    for name, triple, cpu, features in (
        ("x86-64-v3", f"x86_64-{_LINUX}", "x86-64-v3", _V3),
        ("x86-64-v4", f"x86_64-{_LINUX}", "x86-64-v4", _V4),
        ("x86-64-vnni", f"x86_64-{_LINUX}", "alderlake", (*_V3, "avxvnni")),
        ("zen4", f"x86_64-{_LINUX}", "znver4", (*_DOT, "sse4a")),
        ("sapphirerapids", f"x86_64-{_LINUX}", "sapphirerapids", _AMX),
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
