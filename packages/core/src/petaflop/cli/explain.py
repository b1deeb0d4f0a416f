"""`petaflop explain FILE`: what a script's kernels are at every stage, and why each ends where it does."""

from __future__ import annotations

import argparse
from pathlib import Path

from petaflop.cli.files import check_writable, write_atomically
from petaflop.cli.models import add_device_argument, open_device
from petaflop.cli.page import page
from petaflop.cli.script import add_target_arguments, run_target
from petaflop.cli.stages import Section, graph_text, sections
from petaflop.config import overrides
from petaflop.profile import Profile

__all__ = ["configure", "run", "section_text"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_target_arguments(parser)
    parser.add_argument("--html", type=Path, metavar="FILE.html", help="write a self-contained page")
    parser.add_argument("--assembly", action="store_true", help="print machine code as well")
    parser.add_argument("--trace", type=Path, metavar="FILE.json", help="write a Chrome trace")
    add_device_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Run the file with the disk cache off, so that every stage is made, and print the stages."""
    for option, path in (("--html", options.html), ("--trace", options.trace)):
        if path is not None:
            check_writable(path, option)
    device = open_device(options.device)
    profile = Profile(describe=graph_text)
    with overrides(cache=False):
        code = run_target(options, device, profile)
    found = list(sections(profile, options.assembly))
    table = f"{profile.table()}\n\n{profile.memory_table()}"
    if options.html is not None:
        text = page(f"{options.file.name} on {device}", table, found)
        write_atomically(options.html, text.encode())
        print(f"wrote {options.html}")
    else:
        for section in found:
            print(section_text(section))
        print(table)
    if options.trace is not None:
        profile.save_trace(options.trace)
    return code


def section_text(section: Section) -> str:
    """A section as `petaflop explain` prints it."""
    bar = "=" if section.level == 1 else "-"
    lines = [f"{bar * 4} {section.title} {bar * max(4, 90 - len(section.title))}", section.note, ""]
    for stage in section.stages:
        lines.append(f"[{stage.title}]")
        lines += [f"  {line}".rstrip() for line in stage.text.splitlines()]
        lines.append("")
    return "\n".join(lines)
