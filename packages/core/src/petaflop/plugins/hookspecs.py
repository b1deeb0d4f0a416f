"""The hooks that a plugin may implement, and the table of plugin kinds; `docs/plugins.md` lists both.

Hooks are doors, objects are rooms: a hook hands over a Backend, a format or an importer, and everything else
is an attribute of that object. No hook runs per launch, and none changes generated code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pluggy

from petaflop.config import Config
from petaflop.device.backend import Backend, DeviceInfo

if TYPE_CHECKING:
    from petaflop.plugins.command import Command
    from petaflop.plugins.importer import Importer
    from petaflop.plugins.scheme import Encoder, QuantScheme
    from petaflop.profile import CompileRecord

__all__ = ["API_VERSION", "KINDS", "OLDEST_API_VERSION", "Kind", "hookimpl", "hookspec"]

# Core speaks every version in this range; a plugin's entry-point group says which one it speaks.
OLDEST_API_VERSION = 1
API_VERSION = 1

hookspec = pluggy.HookspecMarker("petaflop")
hookimpl = pluggy.HookimplMarker("petaflop")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of plugin: its entry-point group, the hook that hands it over, its noun in messages."""

    name: str
    group: str
    hook: str | None
    noun: str


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("backend", "petaflop.backends", "petaflop_backend", "device"),
        Kind("quant", "petaflop.quant", "petaflop_quant_scheme", "quantization format"),
        Kind("encoder", "petaflop.encoders", "petaflop_encoder", "encoder"),
        Kind("importer", "petaflop.importers", "petaflop_importer", "importer"),
        Kind("command", "petaflop.commands", "petaflop_command", "command"),
        Kind("tool", "petaflop.tools", None, "tool"),
    )
}


@hookspec(historic=True)
def petaflop_configure(config: Config) -> None:
    """Called once for each plugin, right after it is imported, however late that is."""


@hookspec(firstresult=True)
def petaflop_backend(name: str) -> Backend | None:
    """The backend of a device name; DeviceError, saying what to install, where the device is missing."""


@hookspec(firstresult=True)
def petaflop_offline_backend(name: str) -> Backend | None:
    """The backend of a device name on a machine without the device: it renders and compiles, never
    launches."""


@hookspec
def petaflop_probe() -> Sequence[DeviceInfo]:  # type: ignore[empty-body]
    """The devices that this plugin sees; `petaflop devices` and `--probe` ask, in a process of its own."""


@hookspec(firstresult=True)
def petaflop_quant_scheme(name: str) -> QuantScheme | None:
    """The quantization format of that name, or None."""


@hookspec(firstresult=True)
def petaflop_encoder(name: str) -> Encoder | None:
    """The encoder of that name, or None."""


@hookspec(firstresult=True)
def petaflop_importer(name: str) -> Importer | None:
    """The importer of that name, or None."""


@hookspec(firstresult=True)
def petaflop_command(name: str) -> Command | None:
    """The subcommand of `petaflop` of that name, or None."""


@hookspec
def petaflop_kernel_compiled(record: CompileRecord) -> None:
    """Observes a compiled kernel; asked are plugins that PETAFLOP_TOOLS names, their errors are logged."""
