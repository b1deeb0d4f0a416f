"""What the entry point `minimal` names: the hooks."""

from __future__ import annotations

from collections.abc import Sequence

from petaflop.plugin_api import Backend, DeviceInfo, hookimpl

__all__ = ["petaflop_backend", "petaflop_probe"]


@hookimpl
def petaflop_backend(name: str) -> Backend | None:
    """The backend for `minimal`."""
    from petaflop_minimal.backend import MinimalBackend

    return MinimalBackend() if name == "minimal" else None


@hookimpl
def petaflop_probe() -> Sequence[DeviceInfo]:
    """One line of `petaflop devices`."""
    return [DeviceInfo("minimal", "kernels interpreted with NumPy")]
