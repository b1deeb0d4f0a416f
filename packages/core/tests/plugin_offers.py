"""Throw-away distributions: metadata and modules in a folder on `sys.path`, as pip would have left them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["GOOD", "Offers", "offers"]

GOOD = """
from petaflop.device.backend import Backend
from petaflop.plugins.hookspecs import hookimpl

class Chip(Backend):
    name = "{name}"

@hookimpl
def petaflop_backend(name):
    return Chip() if name == "{name}" else None
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
    yield Offers(tmp_path)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
