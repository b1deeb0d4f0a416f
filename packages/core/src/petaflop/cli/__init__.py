"""The `petaflop` command: its subcommands by name, and the exit code of every kind of failure.

A subcommand is a module with `configure(parser)` and `run(options) -> int`, imported when it is used.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from petaflop.errors import CompileError, DeviceMemoryError, NumericsError, PetaflopError

__all__ = ["COMMANDS", "EXIT_CODES", "main"]

COMMANDS = {
    "run": "run a model file on arrays",
    "explain": "print every stage of a script's kernels",
    "bench": "time the kernels of a script or model against what the machine can do",
    "plugins": "list plugins and their states",
    "devices": "list devices",
    "new": "write the skeleton of a backend or of a quantization scheme",
}

# The first match counts. By sysexits 65 is bad data, 70 a bug, 71 the system's fault and 74 input or output.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (KeyboardInterrupt, 130),
    (BrokenPipeError, 141),
    (CompileError, 70),
    (NumericsError, 70),
    (DeviceMemoryError, 71),
    (PetaflopError, 65),
    (MemoryError, 71),
    (OSError, 74),
    (Exception, 70),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the result is the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal lacks is no bug
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        return _report(error)


def _dispatch(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="petaflop", description="Deep learning on any chip.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == chosen:
            module = import_module(f"petaflop.cli.{name}")
            module.configure(command)
    options = parser.parse_args(arguments)
    if options.version:
        print(_version())
        return 0
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    result = int(import_module(f"petaflop.cli.{options.command}").run(options))
    sys.stdout.flush()  # here, so that a closed pipe is this command's and not the interpreter's trouble
    return result


def _version() -> str:
    import numpy

    from petaflop import __version__

    return f"petaflop {__version__} (Python {sys.version.split()[0]}, NumPy {numpy.__version__})"


def _report(error: BaseException) -> int:
    code = next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 70)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif isinstance(error, KeyboardInterrupt):
        print("petaflop: interrupted", file=sys.stderr)
    elif code == 70:
        traceback.print_exception(error)
        print(f"petaflop: this is a bug: {type(error).__name__}: {_one_line(error)}", file=sys.stderr)
    else:
        print(f"petaflop: {type(error).__name__}: {_one_line(error)}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    """The message without line breaks, and without what a terminal would obey."""
    text = " ".join(str(error).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)
