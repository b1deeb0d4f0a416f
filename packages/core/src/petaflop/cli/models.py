"""Model files for the command line: the importer by extension, inputs from files or made up."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petaflop.cli.files import NpyFile, existing_file
from petaflop.config import config
from petaflop.device.registry import default_device, get_backend
from petaflop.errors import ArgumentError, FileFormatError
from petaflop.plugins.importer import ImportedModel, Importer, TensorSpec, check_inputs
from petaflop.plugins.manager import plugin_manager

__all__ = [
    "add_device_argument",
    "load_model",
    "made_up_inputs",
    "open_device",
    "read_inputs",
    "shapes",
    "sizes",
]

Array = np.ndarray[Any, Any]
_MOST_ELEMENTS = 1 << 40


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """`--device`, as all commands that compute have it."""
    parser.add_argument("--device", default="", metavar="NAME", help="device to use; see `petaflop devices`")


def open_device(name: str) -> str:
    """Make the named device (or else the default) the default of this process, and open it."""
    if name:
        config.device = name
    get_backend()
    return default_device()


def load_model(path: Path, importer: str, device: str) -> ImportedModel:
    """Read a model file with the importer of that name, or else the one for the file's extension."""
    existing_file(path)
    return (_get(importer) if importer else _importer_for(path)).load(path, device)


def _get(name: str) -> Importer:
    found = plugin_manager().get("importer", name)
    assert isinstance(found, Importer)
    return found


def _importer_for(path: Path) -> Importer:
    """The importer named like the extension, or else the first that claims the extension."""
    extension = path.suffix.lower()
    names = plugin_manager().names("importer")
    if extension[1:] in names:
        return _get(extension[1:])
    importers = [_get(name) for name in names]
    for importer in importers:
        if extension in importer.extensions:
            return importer
    known = ", ".join(each for importer in importers for each in importer.extensions)
    expected = f"one of {known}" if known else "an importer to be installed"
    raise FileFormatError(f"{path}: extension: expected {expected}, got {extension or 'none'!r}")


def read_inputs(specs: Sequence[TensorSpec], words: Sequence[str], model: Path) -> dict[str, Array]:
    """The arrays of `name=file.npy` words; all are checked against the model before any is read."""
    expected = {spec.name: spec for spec in specs}
    files: dict[str, NpyFile] = {}
    for word in words:
        name, equals, path = word.rpartition("=") if "=" in word else ("", "", word)
        if not equals and len(specs) == 1:
            name = specs[0].name
        if not name or name in files:
            raise ArgumentError(f"--input: expected name=file.npy, each name once, got {word!r}")
        spec = expected.get(name)
        files[name] = NpyFile.open(Path(path), spec.dtype if spec is not None else None)
    for name, file in files.items():  # one by one first, so that the message names the file
        if name in expected:
            check_inputs([expected[name]], {name: file}, f"{file.path}")
    check_inputs(specs, files, f"{model}")
    return {name: file.read() for name, file in files.items()}


def sizes(words: list[str]) -> dict[str, int]:
    """Sizes by name from `name=n` words."""
    found = {}
    for word in words:
        name, _, number = word.partition("=")
        if not name or name in found or not (number.isdecimal() and len(number) < 20):
            raise ArgumentError(f"--size: expected name=number, each name once, got {word[:80]!r}")
        found[name] = int(number)
    return found


def shapes(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by name from `name=2x3` words; a scalar's is `name=`."""
    found = {}
    for word in words:
        name, equals, text = word.rpartition("=")
        numbers = text.split("x") if text else []
        if not (equals and name) or name in found or not all(n.isdecimal() and len(n) < 20 for n in numbers):
            raise ArgumentError(f"--shape: expected name=2x3, each name once, got {word[:80]!r}")
        found[name] = tuple(map(int, numbers))
    return found


def made_up_inputs(
    specs: Sequence[TensorSpec],
    sizes: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Array]:
    """Random inputs of the right kind; their shapes come from `shapes`, else named sizes from `sizes`, else
    are 1."""
    shapes = shapes or {}
    if unknown := sorted(set(shapes) - {spec.name for spec in specs}):
        known = ", ".join(spec.name for spec in specs)
        raise ArgumentError(f"--shape: expected names among {known}, got {', '.join(unknown)}")
    names = {size for spec in specs for size in spec.shape or () if isinstance(size, str)}
    if unknown := sorted(set(sizes) - names):
        known = ", ".join(sorted(names)) or "none, as no size of the model varies"
        raise ArgumentError(f"--size: expected names among {known}, got {', '.join(unknown)}")
    generator = np.random.default_rng(0)
    arrays = {}
    for spec in specs:
        shape = list(shapes.get(spec.name) or ())
        if spec.name not in shapes:
            shape = [n if isinstance(n, int) else sizes.get(n or "", 1) for n in spec.shape or ()]
        if math.prod(max(size, 1) for size in shape) > _MOST_ELEMENTS:
            raise ArgumentError(f"--size: expected at most 2^40 elements, got {shape} for {spec.name}")
        check_inputs([spec], {spec.name: np.broadcast_to(np.zeros((), spec.dtype.numpy), shape)}, "--shape")
        values = generator.standard_normal(shape) if spec.dtype.is_float else generator.integers(0, 2, shape)
        arrays[spec.name] = np.asarray(values).astype(spec.dtype.numpy)
    check_inputs(specs, arrays, "--shape")  # a size that two inputs share
    return arrays
