"""`petaflop devices`: every device that an installed backend sees, each asked in a process of its own."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from petaflop.cli.probing import Outcome, probe_all
from petaflop.cli.tables import print_table
from petaflop.device.registry import default_device
from petaflop.plugins.discovery import Plugin
from petaflop.plugins.manager import plugin_manager

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="time limit of one probe"
    )


def run(options: argparse.Namespace) -> int:
    """Print the devices; a backend without any is a line that says why."""
    plugins = [plugin for plugin in plugin_manager().plugins() if plugin.kind == "backend"]

    unusable = ("disabled", "incompatible", "conflict")
    asked = [plugin for plugin in plugins if plugin.status not in unusable]
    answers = iter(probe_all([("backend", plugin.name) for plugin in asked], options.timeout))
    outcomes = [
        next(answers) if plugin in asked else Outcome(plugin.status, plugin.why) for plugin in plugins
    ]
    rows = [row for plugin, outcome in zip(plugins, outcomes, strict=True) for row in _rows(plugin, outcome)]
    if default_device() not in {plugin.name for plugin in plugins}:
        print(f"the default device {default_device()!r} is provided by no plugin", file=sys.stderr)
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    heads = ["NAME", "STATUS", "DEFAULT", "DESCRIPTION"]
    print_table(
        heads, [[r["name"], r["status"], "*" if r["default"] else "", r["description"]] for r in rows]
    )
    return 0


def _rows(plugin: Plugin, outcome: Outcome) -> list[dict[str, Any]]:
    default = plugin.name == default_device()
    if not outcome.devices:
        return [
            {"name": plugin.name, "status": outcome.status, "default": default, "description": outcome.why}
        ]
    return [
        dict(device) | {"default": default and device["name"] == plugin.name} for device in outcome.devices
    ]
