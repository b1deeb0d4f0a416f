"""The entry point `petaflop.importers.v1`: `onnx`. Nothing heavy is imported before a file is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petaflop.plugin_api import hookimpl

__all__ = ["OnnxImporter", "petaflop_importer"]


class OnnxImporter:
    """Reads ONNX files for `petaflop run`."""

    name = "onnx"
    extensions = (".onnx",)

    def load(self, path: Path, device: str | None = None) -> Any:
        from petaflop_onnx.model import load

        return load(path, device)


@hookimpl
def petaflop_importer(name: str) -> OnnxImporter | None:
    return OnnxImporter() if name == "onnx" else None
