"""Aligned host memory that is kept for the next request of its size, so that a steady state maps nothing.

Sizes are rounded up to classes at most 1/8 apart. Small blocks are cut from slabs; a large one is a mapping
of its own, aligned to huge pages where it holds some. A handle is the address, as an int.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
from typing import TypeVar

from petaflop.plugin_api import DeviceError, DeviceMemoryError

__all__ = ["PRIVATE", "Memory"]

T = TypeVar("T")

_ALIGNMENT = 64
_LARGE = 1 << 18
_SLAB = 1 << 22
_HUGE_PAGE = 2 << 20
_KEEP = 1 << 28  # free large blocks beyond this, or beyond a quarter of what is in use, go back to the system

# a shared mapping would be one memory for a parent and its forked children
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}


@functools.lru_cache(4096)
def size_class(size: int) -> int:
    """The least multiple of 64, or of 1/8 of the power of two below `size`, that holds `size`."""
    step = max(_ALIGNMENT, (1 << (max(size, 1) - 1).bit_length()) >> 4)
    return -(-max(size, 1) // step) * step


class Memory:
    """`allocate` and `free` by address; thread-safe.

    There is no lock: the garbage collector and signal handlers come in the middle of anything, and a handler
    that waits for another thread would keep a lock from it. What two may want is popped from a list or dict,
    which gives it to one of them.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}  # address in use -> its class
        self._free: dict[int, list[int]] = {}  # class -> addresses
        self._mappings: dict[int, mmap.mmap] = {}  # address of a large block -> what keeps it mapped
        self._slabs: list[mmap.mmap] = []
        self._rests: list[tuple[int, int]] = []  # of slabs: next address, bytes left
        self._busy = self._kept = 0  # bytes in use and waiting; about right, as threads may count at once

    def allocate(self, size: int) -> int:
        """The address of at least `size` bytes, aligned to 64; raises DeviceMemoryError."""
        block = size_class(size)
        address = _popped(self._free.get(block))
        if address is None:
            address = self._new(block, size)
        elif block >= _LARGE:
            self._kept -= block
        self._sizes[address] = block
        self._busy += block
        return address

    def free(self, address: int) -> None:
        """Keep the block for the next request; raises DeviceError if it is not in use."""
        block = self._sizes.pop(address, 0)
        if not block:
            raise DeviceError(f"free: expected a handle of allocate, not yet freed, got {address:#x}")
        self._busy -= block
        self._free.setdefault(block, []).append(address)
        if block >= _LARGE:
            self._kept += block
            if self._kept > max(_KEEP, self._busy // 4):
                self._release()

    @property
    def in_use(self) -> int:
        """Bytes that are handed out now."""
        return sum(self._sizes.copy().values())

    def _new(self, block: int, size: int) -> int:
        try:
            return self._map(block) if block >= _LARGE else self._cut(block)
        except (OSError, OverflowError, ValueError):
            self._release()
        try:
            return self._map(block) if block >= _LARGE else self._cut(block)
        except (OSError, OverflowError, ValueError) as error:
            raise DeviceMemoryError(
                f"allocate: expected {size:,} bytes of memory, got {error} with {self.in_use:,} bytes in use"
            ) from error

    def _map(self, block: int) -> int:
        if block > _physical_memory():
            raise OSError("fewer in the whole machine")
        spare = _HUGE_PAGE if block >= _HUGE_PAGE else 0
        mapping = mmap.mmap(-1, block + spare, **PRIVATE)
        if spare and hasattr(mmap, "MADV_HUGEPAGE"):
            mapping.madvise(mmap.MADV_HUGEPAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        if spare:
            address = -(-address // _HUGE_PAGE) * _HUGE_PAGE
        self._mappings[address] = mapping
        return address

    def _cut(self, block: int) -> int:
        address, left = _popped(self._rests) or (0, 0)
        if left < block:
            slab = mmap.mmap(-1, _SLAB, **PRIVATE)
            self._slabs.append(slab)
            address, left = ctypes.addressof(ctypes.c_char.from_buffer(slab)), _SLAB
        self._rests.append((address + block, left - block))
        return address

    def _release(self) -> None:
        """Give every large block that nobody uses back to the system."""
        self._kept = 0
        for block in list(self._free):
            while block >= _LARGE and (address := _popped(self._free[block])) is not None:
                self._mappings.pop(address).close()


def _popped(items: list[T] | None) -> T | None:
    """The last item, which nobody else gets then; None where there is none."""
    try:
        return items.pop() if items else None
    except IndexError:  # somebody else got it just now
        return None


def _physical_memory() -> int:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 1 << 62
