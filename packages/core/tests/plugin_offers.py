"""Throw-away distributions: metadata and modules in a folder on `sys.path`, as pip would have left them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from petaflop.errors import PluginError
from petaflop.plugins.discovery import Plugin
from petaflop.plugins.manager import STATUSES, PluginManager, plugin_manager

__all__ = ["ENCODER", "FORMAT", "GOOD", "HEAD", "Offers", "fails", "offers", "row"]

GOOD = """
from petaflop.device.backend import Backend, Capabilities
from petaflop.plugins.hookspecs import hookimpl

class Chip(Backend):
    name = "{name}"
    capabilities = Capabilities(dtypes=dict.fromkeys(("float32", "int32", "bool"), "native"))

    def allocate(self, size):
        return bytearray(size)

    def copy_in(self, handle, offset, data):
        handle[offset:offset + data.nbytes] = data.cast("B")

    def copy_out(self, data, handle, offset):
        data.cast("B")[:] = handle[offset:offset + data.nbytes]

    def interpret(self, kernel):
        return lambda buffers, variables: None

@hookimpl
def petaflop_backend(name):
    return Chip() if name == "{name}" else None
"""


HEAD = "from petaflop.plugins.hookspecs import hookimpl\n"
FORMAT = """
from petaflop.plugins.hookspecs import hookimpl
from petaflop.plugins.scheme import QuantScheme

class Format(QuantScheme):
    block, bits_per_weight = (32,), 8.0
    def __init__(self, name): self.name = name
    def planes(self, shape): return {}
    def pack(self, values): return {}
    def bound(self, values): return values
    def unpack(self, planes, shape): return planes
    def dequantize(self, planes, shape): return planes

@hookimpl
def petaflop_quant_scheme(name):
    return Format(name)
"""
ENCODER = """
from petaflop.plugins.hookspecs import hookimpl
from petaflop.plugins.scheme import Encoder

class Careful(Encoder):
    name, importance = "careful", "squares"
    def encode(self, scheme, values, importance=None): return scheme.pack(values)

@hookimpl
def petaflop_encoder(name):
    return Careful()
"""


@dataclass
class Offers:
    """A folder of distributions."""

    folder: Path

    def add(
        self,
        package: str,
        module: str = "",
        *,
        name: str = "chip",
        group: str = "petaflop.backends.v1",
        version: str = "1.0",
        entries: str = "",
    ) -> None:
        """A package that offers `name`; `module` is the source of what the entry point names."""
        stem = package.replace("-", "_")
        info = self.folder / f"{stem}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n\nText\n"
        )
        (info / "entry_points.txt").write_text(entries or f"[{group}]\n{name} = {stem}_plugin\n")
        (self.folder / f"{stem}_plugin.py").write_text(module or GOOD.format(name=name))


@pytest.fixture
def offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Offers]:
    """An empty folder of distributions, first on `sys.path`; what was imported from it is then forgotten."""
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin_manager.cache_clear()
    yield Offers(tmp_path)
    plugin_manager.cache_clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def row(manager: PluginManager, name: str = "chip", package: str = "") -> Plugin:
    """The one row of that name (and package)."""
    rows = [p for p in manager.plugins() if p.name == name and package in ("", p.package)]
    assert len(rows) == 1, rows
    assert rows[0].status in STATUSES
    return rows[0]


def fails(
    manager: PluginManager, *words: str, kind: str = "backend", name: str = "chip"
) -> BaseException | None:
    """Using the plugin fails twice with the same one-line message, which has `words`; gives the cause."""
    messages, causes = set(), set()
    for _ in range(2):
        with pytest.raises(PluginError) as caught:
            manager.get(kind, name)
        messages.add(str(caught.value))
        causes.add(caught.value.__cause__)
    assert len(messages) == 1 and len(causes) == 1
    message = messages.pop()
    assert "\n" not in message
    for word in words:
        assert word in message, f"{word!r} not in {message!r}"
    return causes.pop()
