"""What the entry point `cpu` names: the hooks. Importing this loads no LLVM."""

from __future__ import annotations

from collections.abc import Sequence

from petaflop.plugin_api import Backend, DeviceInfo, hookimpl

__all__ = ["petaflop_backend", "petaflop_probe"]


@hookimpl
def petaflop_backend(name: str) -> Backend | None:
    """The CPU backend for `cpu`."""
    if name != "cpu":
        return None
    from petaflop_cpu.backend import CpuBackend

    return CpuBackend()


@hookimpl
def petaflop_probe() -> Sequence[DeviceInfo]:
    """This machine's CPU."""
    from petaflop_cpu.target import host_target

    target = host_target()
    details = {
        "threads": str(target.threads),
        "vector": f"{target.vector_bytes * 8} bits",
        "matrix": ", ".join(row.name for row in target.matrix_instructions) or "none",
        "L2": f"{target.l2_bytes >> 10} KB",
        "L3": f"{target.l3_bytes >> 20} MB",
    }
    return [DeviceInfo("cpu", f"{target.cpu} through LLVM", details=details)]
