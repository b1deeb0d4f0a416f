"""petaflop's CPU backend: kernels as LLVM IR, compiled for the host by llvmlite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petaflop_cpu.backend import CpuBackend, compile_for

__all__ = ["CpuBackend", "compile_for"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """LLVM is loaded by the first use, not by the import."""
    if name in __all__:
        from petaflop_cpu import backend

        return getattr(backend, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
