"""Runs a user's script, or a model file once on made-up inputs, under a profile."""

from __future__ import annotations

import argparse
import runpy
import sys
import traceback
from pathlib import Path

from petaflop.cli.files import existing_file
from petaflop.cli.models import load_model, made_up_inputs, sizes
from petaflop.errors import FileFormatError
from petaflop.profile import Profile

__all__ = ["add_target_arguments", "run_target"]


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and what a script or a model takes."""
    parser.add_argument("file", type=Path, help="a Python script, or a model file")
    parser.add_argument(
        "arguments", nargs="*", help="what the script gets in sys.argv; write -- before options"
    )
    parser.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="NAME=N",
        help="a dynamic size of a model's inputs; 1 if not given",
    )
    parser.add_argument(
        "--importer", default="", metavar="NAME", help="importer to use, whatever the extension"
    )


def run_target(options: argparse.Namespace, device: str, profile: Profile) -> int:
    """Run the file; a script's own failure is printed, and is exit code 1."""
    existing_file(options.file)
    if options.file.suffix == ".py":
        return _run_script(options.file, options.arguments, profile)
    model = load_model(options.file, options.importer, device)
    inputs = made_up_inputs(model.inputs, sizes(options.size))
    with profile:
        for output in model(inputs).values():
            output.realize()
    return 0


def _run_script(path: Path, arguments: list[str], profile: Profile) -> int:
    try:
        code = compile(path.read_bytes(), str(path), "exec")
        del code
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # NUL bytes, or too deep
        line = getattr(error, "lineno", None) or 0
        reason = error.args[0] if error.args else "expressions that are nested too deep"
        raise FileFormatError(f"{path}: line {line}: expected Python, got {reason}") from error
    argv, first = sys.argv, sys.path[0]
    sys.argv, sys.path[0] = [str(path), *arguments], str(path.resolve().parent)
    try:
        with profile:
            runpy.run_path(str(path), run_name="__main__")
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:  # noqa: BLE001 – the script's fault, not ours
        traceback.print_exception(error)
        return 1
    finally:
        sys.argv, sys.path[0] = argv, first
    return 0
