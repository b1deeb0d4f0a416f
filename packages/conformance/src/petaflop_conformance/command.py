"""`petaflop conformance NAME`: the installed suite on a backend, a scheme, an encoder or an importer."""

from __future__ import annotations

import argparse
import sys
from types import ModuleType

from petaflop.plugins.hookspecs import hookimpl
from petaflop_conformance.plugin import LEVELS, PROFILES, SUBJECTS

__all__ = ["configure", "run", "summary"]

_PASSED_ON = ("level", "profile", "report", "samples", "waivers")
_BAD_INPUT = 65  # as every command of petaflop says it

summary = "examine a backend, a quantization scheme, an encoder or an importer"


@hookimpl
def petaflop_command(name: str) -> ModuleType | None:
    """This module is the command."""
    return sys.modules[__name__] if name == "conformance" else None


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", help="the plugin to examine")
    parser.add_argument("--kind", choices=SUBJECTS, default="backend", help="what it is (default: backend)")
    parser.add_argument("--samples", metavar="FOLDER", help="model files that the importer must load")
    parser.add_argument("--level", choices=LEVELS, help="the highest level to ask for")
    parser.add_argument("--profile", choices=PROFILES, default="quick", help="how many random examples")
    parser.add_argument("--report", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--waivers", metavar="FILE", help="a TOML file of known faults, with reasons")


def run(options: argparse.Namespace) -> int:
    """0: the level is held; 1: it is not; 65: what is asked for cannot be."""
    import pytest

    from petaflop_conformance.asked import check

    check(options.kind, options.name, options.level, options.samples, options.report)
    arguments = ["-q", "-p", "no:cacheprovider", f"--petaflop-{options.kind}={options.name}"]
    given = ((name, getattr(options, name)) for name in _PASSED_ON)
    arguments += [f"--petaflop-{name}={value}" for name, value in given if value is not None]
    code = pytest.main(arguments)
    return _BAD_INPUT if code == pytest.ExitCode.USAGE_ERROR else int(code)
