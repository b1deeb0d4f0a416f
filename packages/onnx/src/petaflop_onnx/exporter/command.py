"""`petaflop export MODULE:NAME --input x=float32[n?,3,8,8] -o out.onnx`: a function or a model as a file."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from petaflop.plugin_api import ArgumentError, hookimpl

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["configure", "run", "summary"]

summary = "write a function of tensors, or a model, as an ONNX file"


@hookimpl
def petaflop_command(name: str) -> ModuleType | None:
    """This module is the command."""
    return sys.modules[__name__] if name == "export" else None


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "target",
        metavar="MODULE:NAME",
        help="a function, an nn model or its class: package.module:model.forward, or file.py:Model",
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=DTYPE[SIZES]",
        help="an input, such as x=float32[n?,3,8,8]; a size with a question mark varies",
    )
    parser.add_argument(
        "--name", action="append", default=[], metavar="OUTPUT", help="a name for each output, in order"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE.safetensors", help="the state dict that the model is to have"
    )
    parser.add_argument("--opset", type=int, help="the version of ONNX's operators (default: 20)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.onnx", help="where the model goes"
    )


def run(options: argparse.Namespace) -> int:
    """Nothing is written unless all went well."""
    from petaflop.cli.files import check_writable, existing_file
    from petaflop_onnx.exporter.front import export, parse_input

    inputs = dict(_input(word) for word in options.input)
    if len(inputs) < len(options.input) or not inputs:
        raise ArgumentError(
            "--input: expected NAME=DTYPE[SIZES] once for each input, such as x=float32[n?,3]"
        )
    for text in inputs.values():
        parse_input(text)
    if options.output.suffix != ".onnx":
        raise ArgumentError(f"--output: expected a file that ends in .onnx, got {str(options.output)!r}")
    check_writable(options.output, "--output")
    if options.weights is not None:
        existing_file(options.weights)
    target = load_target(options.target)
    if options.weights is not None:
        _load_weights(target, options.weights)
    chosen = {} if options.opset is None else {"opset": options.opset}
    model = export(target, options.output, inputs=inputs, outputs=options.name, **chosen)
    print(_summary(model, options.output))
    return 0


def _input(word: str) -> tuple[str, str]:
    name, equals, text = word.partition("=")
    if not (equals and name):
        raise ArgumentError(f"--input: expected NAME=DTYPE[SIZES], such as x=float32[n?,3], got {word!r}")
    return name, text


def load_target(words: str) -> Any:
    """What `MODULE:NAME` names; a class is called without arguments.

    ArgumentError for a module that cannot be found or a name that it lacks; what the module itself raises
    passes unchanged.
    """
    place, _, name = words.rpartition(":")
    if not place or not all(part.isidentifier() for part in name.split(".")):
        raise ArgumentError(f"export: expected MODULE:NAME, such as file.py:Model, got {words!r}")
    found: Any = _module(place)
    for part in name.split("."):
        if isinstance(found, type):
            found = _made(found)
        if not hasattr(found, part):
            raise ArgumentError(f"export: expected a name in {place}, got {name!r}, which it does not have")
        found = getattr(found, part)
    found = _made(found) if isinstance(found, type) else found
    if not callable(found):
        raise ArgumentError(
            f"export: expected a function or a model as {name}, "
            f"got {type(found).__name__}; name what is called"
        )
    return found


def _made(kind: type) -> Any:
    try:
        return kind()
    except TypeError as error:
        raise ArgumentError(
            f"export: expected a class that is made without arguments, got {kind.__name__} ({error}); "
            "name a function or an object"
        ) from error


def _module(place: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: the user's own modules
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise  # one that the module itself wanted
            raise ArgumentError(f"export: expected a module that exists, got {place!r}") from None
    path = Path(place)
    if not path.is_file():
        raise ArgumentError(f"export: expected a file that exists, got {place!r}")
    sys.path.insert(0, str(path.resolve().parent))  # as for a script that is run
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _load_weights(target: Any, path: Path) -> None:
    from petaflop import nn
    from petaflop.state import load_state_dict, safe_load

    owner = target if isinstance(target, nn.Module) else getattr(target, "__self__", None)
    if not isinstance(owner, nn.Module):
        raise ArgumentError(
            f"--weights: expected a model, got {type(target).__name__}, which has no state dict"
        )
    load_state_dict(owner, safe_load(path))


def _summary(model: ModelProto, path: Path) -> str:
    """One line on what has been written."""
    from petaflop_onnx.exporter.front import described

    size = sum(each.stat().st_size for each in (path, path.with_name(f"{path.name}.data")) if each.exists())
    sides = (", ".join(map(described, side)) for side in (model.graph.input, model.graph.output))
    counts = f"{len(model.graph.node)} nodes, {len(model.graph.initializer)} tensors, {size} bytes"
    return f"{path}: ({') → ('.join(sides)}); opset {model.opset_import[0].version}, {counts}"
