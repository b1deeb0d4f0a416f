"""`petaflop plugins`: every plugin, its status and why; imports nothing unless `--probe` is given."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any

from petaflop.cli.tables import print_table, printable
from petaflop.config import config
from petaflop.errors import PluginError
from petaflop.plugins.discovery import Plugin, normalized
from petaflop.plugins.hookspecs import KINDS
from petaflop.plugins.manager import plugin_manager

__all__ = ["configure", "run"]

_UNUSABLE = ("disabled", "incompatible", "conflict")


@dataclass(slots=True)
class _Row:
    """One plugin as listed: what the manager knows, then what a probe found."""

    plugin: Plugin
    status: str
    why: str
    load_ms: float | None = None
    traceback: str = ""

    def as_data(self) -> dict[str, Any]:
        plugin = self.plugin
        return {
            "kind": plugin.kind,
            "name": plugin.name,
            "status": self.status,
            "package": plugin.package,
            "version": plugin.version,
            "api": plugin.api,
            "why": self.why,
            "entry": plugin.entry.value if plugin.entry is not None else None,
            "path": plugin.path,
            "load_ms": self.load_ms,
            "traceback": self.traceback,
        }


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="list only plugins or packages of these names"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="add load time, module, folder, traceback"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 if a plugin is broken or in conflict"
    )
    parser.add_argument("--probe", action="store_true", help="try each plugin in a process of its own")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="time limit of one probe"
    )


def run(options: argparse.Namespace) -> int:
    """Print the list."""
    plugins = plugin_manager().plugins()
    for name in options.names:
        if not any(_is_meant(plugin, name) for plugin in plugins):
            raise PluginError(f"plugins: expected names of plugins or packages, got {name!r}")
    rows = [_Row(p, p.status, p.why, p.load_ms) for p in plugins if _wanted(p, options.names)]
    if options.probe:
        _probe(rows, options.timeout)
    dead, tools = plugin_manager().dead_words(), plugin_manager().dead_tools()
    if options.json:
        found = {"plugins": [row.as_data() for row in rows], "unmatched": dead, "unmatched_tools": tools}
        print(json.dumps(found, indent=2))
    else:
        _print(rows, options.verbose)
        for word in dead:
            print(f"PETAFLOP_DISABLE_PLUGINS: {word!r} matches no plugin and no package", file=sys.stderr)
        for word in tools:
            print(f"PETAFLOP_TOOLS: {word!r} matches no tool", file=sys.stderr)
    failed = any(row.status in ("broken", "conflict") for row in rows)
    return 1 if options.strict and failed else 0


def _wanted(plugin: Plugin, names: list[str]) -> bool:
    return not names or any(_is_meant(plugin, name) for name in names)


def _is_meant(plugin: Plugin, name: str) -> bool:
    return name == plugin.name or normalized(name) == normalized(plugin.package)


def _probe(rows: list[_Row], seconds: float) -> None:
    from petaflop.cli.probing import probe_all

    usable = [row for row in rows if row.plugin.kind in KINDS and row.status not in _UNUSABLE]
    outcomes = probe_all([(row.plugin.kind, row.plugin.name) for row in usable], seconds)
    for row, outcome in zip(usable, outcomes, strict=True):
        row.status, row.why = outcome.status, outcome.why
        row.load_ms, row.traceback = outcome.load_ms, outcome.traceback


def _print(rows: list[_Row], verbose: bool) -> None:
    heads = ["KIND", "NAME", "STATUS", "PACKAGE", "API", "WHY"]
    cells = [
        [
            row.plugin.kind,
            row.plugin.name,
            row.status,
            row.plugin.source,
            f"v{row.plugin.api}" if row.plugin.api is not None else "",
            row.why,
        ]
        for row in rows
    ]
    if verbose:
        heads[5:5] = ["LOADED IN", "MODULE", "FOLDER"]
        for cell, row in zip(cells, rows, strict=True):
            module = row.plugin.entry.value if row.plugin.entry is not None else "(built in)"
            loaded = f"{row.load_ms:.0f} ms" if row.load_ms is not None else ""
            cell[5:5] = [loaded, module, row.plugin.path]
    print_table(heads, cells)
    if verbose:
        for row in rows:
            if row.traceback:
                print(printable(f"\n{row.plugin.kind} {row.plugin.name}:\n{row.traceback.rstrip()}"))
    if config.disable_plugins:
        print(f"PETAFLOP_DISABLE_PLUGINS={','.join(config.disable_plugins)}", file=sys.stderr)
