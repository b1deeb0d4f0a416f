"""The CPU backend: loops become LLVM IR, IR becomes an object file, and a launch is one native call.

Memory is the host's own, so nothing is copied that need not be. Launches run in the order of their calls and
have finished on return.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from petaflop.plugin_api import (
    Backend,
    Capabilities,
    CompileError,
    DiskCache,
    Launch,
    Loops,
    Signature,
    Target,
    config,
    render_llvm,
)
from petaflop_cpu.jit import Compiler, Library, compiler_version
from petaflop_cpu.launch import CpuLaunch, CpuReplay
from petaflop_cpu.mathlib import SIN_HUGE, prelude, sin_huge_source
from petaflop_cpu.memory import Memory, size_class
from petaflop_cpu.runner import SYMBOLS, runner_source
from petaflop_cpu.target import host_target, named_target
from petaflop_cpu.threads import Team, available_threads

__all__ = ["CpuBackend", "compile_for"]

_INTEGERS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
_NATIVE = (*_INTEGERS, "float32", "float64")
_EMULATED = ("float16", "bfloat16", "float8_e4m3", "float8_e5m2")
_LEAST_SLOTS = 16  # working memory is mapped for so many threads at least; it costs nothing until it is used


class CpuBackend(Backend):
    """The device `cpu`."""

    name = "cpu"
    version = f"1, {compiler_version()}"
    capabilities = Capabilities(
        dtypes=dict.fromkeys(_NATIVE, "native") | dict.fromkeys(_EMULATED, "emulated"),
        unified_memory=True,
        local_memory=True,
        replay=True,
    )

    def __init__(self) -> None:
        self.target: Target = host_target()
        flushes = any(row.flushes_denormals for row in self.target.matrix_instructions)
        self.capabilities = replace(self.capabilities, denormal_products=not flushes)
        self._compiler = Compiler(self.target)
        self._prelude = functools.partial(prelude, scales="+avx512vl" in self.target.features.split(","))
        self._memory = Memory()
        self._lock = threading.RLock()
        self._runtime: Library | None = None
        self._team: Team | None = None
        self._arenas: dict[tuple[str, int], int] = {}
        self._threads = available_threads()
        self._slots = max(self._threads, _LEAST_SLOTS)

    # ---- memory: a handle is an address ----

    def allocate(self, size: int) -> int:
        """The address of `size` bytes, aligned to 64; raises DeviceMemoryError."""
        return self._memory.allocate(size)

    def free(self, handle: int) -> None:
        """Give back what `allocate` gave."""
        self._memory.free(handle)

    def copy_in(self, handle: int, offset: int, data: memoryview) -> None:
        """Host bytes into a buffer."""
        ctypes.memmove(handle + offset, _address(data), data.nbytes)

    def copy_out(self, data: memoryview, handle: int, offset: int) -> None:
        """A buffer's bytes to the host."""
        ctypes.memmove(_address(data), handle + offset, data.nbytes)

    def host_view(self, handle: int, offset: int, size: int) -> memoryview:
        """The bytes themselves, writable; valid as long as the buffer."""
        view: memoryview = _memory_view(handle + offset, size, _WRITABLE)
        return view

    def borrow(self, data: memoryview) -> int | None:
        """The address of contiguous host memory that is aligned to its items; None for any other."""
        if not data.c_contiguous:
            return None
        address = _address(data)
        return None if address % min(max(data.itemsize, 1), 8) else address

    # ---- render, compile, load ----

    def render(self, loops: Loops) -> str:
        """LLVM IR text, with the math functions that it calls."""
        return render_llvm(loops, self.target, self._prelude)

    def compile(self, source: str) -> bytes:
        """IR text as an object file, followed by the text itself for `assembly`."""
        return _pack(self._compiler.compile(source), source)

    def load(self, binary: bytes, signature: Signature) -> CpuLaunch:
        """An object file as something to launch."""
        return CpuLaunch(self, _unpack(binary)[0], signature)

    def assembly(self, binary: bytes) -> str:
        """The machine code of a compiled kernel, as text."""
        return self._compiler.assembly(zlib.decompress(_unpack(binary)[1]).decode())

    # ---- launches ----

    def capture(self, launches: Sequence[tuple[Launch, Sequence[int], Sequence[int]]]) -> CpuReplay | None:
        """Many launches as one native call; None if one of them is not of this backend."""
        ours = [(k, slots, numbers) for k, slots, numbers in launches if isinstance(k, CpuLaunch)]
        return CpuReplay(self, ours) if len(ours) == len(launches) else None

    @property
    def team(self) -> Team:
        """The threads that launches run on: as many as PETAFLOP_THREADS says now."""
        team = self._team
        threads = min(config.threads or self._threads, self._slots)
        return team if team is not None and team.threads == threads else self._new_team(threads)

    def _new_team(self, threads: int) -> Team:
        with self._lock:
            if self._team is not None:
                self._team.stop()
            self._team = Team(self.runtime, threads)
            return self._team

    @property
    def runtime(self) -> Library:
        """The native code that all kernels share; compiled by the first launch, unless it is on disk."""
        with self._lock:
            if self._runtime is None:
                source = runner_source(self.target.triple) + sin_huge_source()
                self._runtime = Library(self._cached(source), (*SYMBOLS, SIN_HUGE))
            return self._runtime

    def _cached(self, source: str) -> bytes:
        if not config.cache:
            return self._compiler.compile(source)
        cache = DiskCache(config.cache_dir)
        key = "|".join((self.name, self.version, self.target.key, source))
        found = cache.get(key)
        binary = found[0] if found else self._compiler.compile(source)
        if not found:
            cache.put(key, binary, "")
        return binary

    def working_memory(self, space: str, size: int, slots: int = 1) -> int:
        """`slots` times `size` bytes that launches take turns with; never moved and never freed. A launch may
        use one of each `space`, "scratch" and "shared"."""
        if not size:
            return 0
        with self._lock:
            block = (space, size_class(size * slots))
            if block not in self._arenas:
                self._arenas[block] = self._memory.allocate(block[1])
            return self._arenas[block]

    @property
    def slots(self) -> int:
        """The most threads that a launch may run on."""
        return self._slots


def compile_for(target: str | Target, source: str) -> bytes:
    """An object file for another CPU, by the name of a row of `petaflop_cpu.target.TARGETS` or by its Target.

    Raises KeyError for an unknown name and CompileError for text that LLVM refuses.

    >>> compile_for("aarch64", "define void @nothing() { ret void }")[:4]
    b'\\x7fELF'
    """
    return Compiler(named_target(target) if isinstance(target, str) else target).compile(source)


# ---- a binary: magic, length of the object, object, compressed source ----

_MAGIC = b"pfcpu1\0\0"


def _pack(binary: bytes, source: str) -> bytes:
    return _MAGIC + struct.pack("<q", len(binary)) + binary + zlib.compress(source.encode(), 1)


def _unpack(packed: bytes) -> tuple[bytes, bytes]:
    """The object file and the compressed source."""
    start = len(_MAGIC) + 8
    if packed[: len(_MAGIC)] != _MAGIC or len(packed) < start:
        raise CompileError(f"load: expected a binary of this backend, got {packed[:16]!r}")
    (size,) = struct.unpack_from("<q", packed, len(_MAGIC))
    if not 0 < size <= len(packed) - start:
        raise CompileError(f"load: expected {size} bytes of object file, got {len(packed) - start}")
    return packed[start : start + size], packed[start + size :]


# ---- host memory ----

_WRITABLE = 0x200
_PROTOTYPE = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_memory_view = _PROTOTYPE(("PyMemoryView_FromMemory", ctypes.pythonapi))


def _address(data: memoryview) -> int:
    """Where contiguous host bytes lie, read-only ones too."""
    return int(np.frombuffer(data, np.uint8).ctypes.data) if data.nbytes else 0
