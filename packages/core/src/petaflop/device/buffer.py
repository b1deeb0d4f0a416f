"""Buffers: memory of one device with a lifetime, possibly a part of a larger buffer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from petaflop import profile
from petaflop.device.backend import Backend
from petaflop.errors import DeviceError

__all__ = ["Buffer", "SharedMemory", "memory_in_use", "peak_memory"]

_usage = {"bytes": 0, "peak": 0}


class Buffer:
    """`size` bytes on a backend. Freed with its last reference; a `base` is kept alive by its parts.

    `variables` holds the values that symbolic sizes had when the contents were written; `version` counts the
    times that they were replaced in place; `replayed` says that a jitted function returned them.
    """

    __slots__ = (
        "__weakref__",
        "_owned",
        "backend",
        "base",
        "handle",
        "keep",
        "offset",
        "overwritten",
        "replayed",
        "size",
        "variables",
        "version",
    )

    def __init__(self, backend: Backend, size: int, handle: Any = None, keep: Any = None) -> None:
        self._owned = False  # until there is something to free
        self.backend, self.size, self.offset = backend, size, 0
        self.base: Buffer | None = None
        self.keep = keep
        self.variables: Mapping[Any, int] = {}
        self.version = 0
        self.overwritten, self.replayed = "", False
        if handle is None:
            self.handle = backend.allocate(max(size, 1))
            self._owned = True
            _usage["bytes"] += size
            _usage["peak"] = max(_usage["peak"], _usage["bytes"])
            if profile.recorders:
                profile.record_allocation(id(self), size)
        else:
            self.handle = handle

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self._owned and not finalizing():  # the end of the process frees everything
            _usage["bytes"] -= self.size
            if profile.recorders:
                profile.record_free(id(self), self.size)
            self.backend.free(self.handle)

    def part(self, offset: int, size: int) -> Buffer:
        """`size` bytes of this buffer from `offset` on."""
        result = Buffer(self.backend, size, self.handle)
        result.base, result.offset = self.base or self, self.offset + offset
        return result

    @property
    def location(self) -> tuple[Any, int]:
        """What a launch takes: the backend's handle and a byte offset."""
        return (self.handle, self.offset)

    def overwrite(self, where: str) -> None:
        """Say that an assignment, on the user's line `where`, has replaced the contents."""
        self.version += 1
        self.overwritten = where

    def write(self, data: memoryview) -> None:
        """Fill the buffer from host bytes."""
        if data.nbytes != self.size:
            raise DeviceError(f"write: expected {self.size} bytes, got {data.nbytes}")
        if self.size:
            self.backend.copy_in(self.handle, self.offset, data)

    def read(self, data: memoryview) -> None:
        """Copy the contents to host bytes."""
        if data.nbytes != self.size:
            raise DeviceError(f"read: expected {self.size} bytes, got {data.nbytes}")
        if self.size:
            self.backend.copy_out(data, self.handle, self.offset)

    def host_view(self) -> memoryview | None:
        """The memory itself where the host can see it."""
        return self.backend.host_view(self.handle, self.offset, self.size)


class SharedMemory:
    """Keeps a buffer alive below the read-only NumPy array that looks into it."""

    def __init__(self, buffer: Buffer, view: memoryview) -> None:
        self._buffer, self._view = buffer, view
        interface = dict(np.frombuffer(view, np.uint8).__array_interface__)
        interface["data"] = (interface["data"][0], True)
        self.__array_interface__ = interface

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The bytes, as an array whose base is this object."""
        return np.asarray(self)


def memory_in_use() -> int:
    """Bytes that buffers hold now, over all devices."""
    return _usage["bytes"]


def peak_memory(reset: bool = False) -> int:
    """The most bytes that buffers have held at once; `reset` starts counting anew from now."""
    peak = _usage["peak"]
    if reset:
        _usage["peak"] = _usage["bytes"]
    return peak
