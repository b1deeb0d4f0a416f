"""The device `c`: loops become C, C becomes a shared library, and a launch calls its functions.

Memory is the host's own. Launches run on the caller's thread, in the order of their calls.
"""

from __future__ import annotations

import ctypes
import platform
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from petaflop.plugin_api import (
    C11,
    DTYPES,
    Backend,
    Capabilities,
    DeviceMemoryError,
    Loops,
    Signature,
    Target,
    render_c,
)
from petaflop_c.compiler import Compiler

__all__ = ["CBackend"]

ALIGNMENT = 64
EMULATED = ("float16", "bfloat16", "float8_e4m3", "float8_e5m2")


class CBackend(Backend):
    """Kernels through core's lowering and its C renderer. A handle is an address."""

    name = "c"
    capabilities = Capabilities(
        dtypes={dtype: "emulated" if dtype in EMULATED else "native" for dtype in DTYPES},
        unified_memory=True,
    )

    def __init__(self) -> None:
        self._compiler = Compiler()
        self.version = f"1, {self._compiler.version}"
        self.target = Target(name=f"c-{platform.machine()}", kind="cpu", vector_bytes=16)
        self._memory: dict[int, Any] = {}

    # ---- memory ----

    def allocate(self, size: int) -> int:
        """The address of `size` bytes, aligned to 64."""
        try:
            block = np.empty(size + ALIGNMENT, np.uint8)
        except MemoryError as error:
            raise DeviceMemoryError(f"allocate: expected {size} bytes to be free, got none") from error
        address = aligned(block)
        self._memory[address] = block
        return address

    def free(self, handle: int) -> None:
        """Give back what `allocate` gave."""
        del self._memory[handle]

    def copy_in(self, handle: int, offset: int, data: memoryview) -> None:
        """Host bytes into a buffer."""
        ctypes.memmove(handle + offset, address_of(data), data.nbytes)

    def copy_out(self, data: memoryview, handle: int, offset: int) -> None:
        """A buffer's bytes to the host."""
        ctypes.memmove(address_of(data), handle + offset, data.nbytes)

    def host_view(self, handle: int, offset: int, size: int) -> memoryview:
        """The bytes themselves."""
        memory: Any = (ctypes.c_char * size).from_address(handle + offset)
        return np.frombuffer(memory, np.uint8).data

    def borrow(self, data: memoryview) -> int | None:
        """The address of contiguous host memory that is aligned to its items; None for any other."""
        address = address_of(data) if data.c_contiguous else 1
        return None if address % min(max(data.itemsize, 1), 8) else address

    # ---- render, compile, load ----

    def render(self, loops: Loops) -> str:
        """C text."""
        return render_c(loops, C11)

    def compile(self, source: str) -> bytes:
        """C text as a shared library."""
        return self._compiler.compile(source)

    def load(self, binary: bytes, signature: Signature) -> CLaunch:
        """A shared library as something to launch."""
        return CLaunch(binary, signature)


class CLaunch:
    """A loaded kernel: one function for each of its phases."""

    def __init__(self, binary: bytes, signature: Signature) -> None:
        self._signature = signature
        with tempfile.NamedTemporaryFile(prefix="petaflop-c-", suffix=".so") as file:
            file.write(binary)
            file.flush()
            self._library = ctypes.CDLL(file.name)  # stays loaded when the file goes
        self._functions = [self._library[phase.entry] for phase in signature.phases]
        for function in self._functions:
            function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2
            function.restype = None

    def __call__(self, buffers: Sequence[tuple[int, int]], variables: Sequence[int]) -> None:
        signature = self._signature
        shared, scratch = (
            np.empty(size + ALIGNMENT, np.uint8) for size in (signature.shared, signature.scratch)
        )
        addresses = [*(handle + offset for handle, offset in buffers), aligned(shared)]
        pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        values = (ctypes.c_int64 * len(variables))(*variables)
        for function, tasks in zip(self._functions, signature.tasks(variables), strict=True):
            function(pointers, values, aligned(scratch), 0, tasks)


def address_of(data: memoryview) -> int:
    """Where contiguous host bytes lie, read-only ones too."""
    return int(np.frombuffer(data, np.uint8).ctypes.data) if data.nbytes else 0


def aligned(block: Any) -> int:
    """The first aligned address in a block that is longer than needed."""
    return int(-(-block.ctypes.data // ALIGNMENT) * ALIGNMENT)
