"""What the entry point `c` names: the hooks. Importing this looks for nothing and loads nothing."""

from __future__ import annotations

from collections.abc import Sequence

from petaflop.plugin_api import Backend, DeviceError, DeviceInfo, hookimpl

__all__ = ["petaflop_backend", "petaflop_probe"]


@hookimpl
def petaflop_backend(name: str) -> Backend | None:
    """The backend for `c`; raises DeviceError where there is no C compiler."""
    if name != "c":
        return None
    from petaflop_c.backend import CBackend

    return CBackend()


@hookimpl
def petaflop_probe() -> Sequence[DeviceInfo]:
    """One line of `petaflop devices`."""
    from petaflop_c.compiler import Compiler

    try:
        return [DeviceInfo("c", Compiler().version)]
    except DeviceError as error:
        return [DeviceInfo("c", str(error), "no-device")]
