"""Tables: coloured and folded to the width of a terminal; plain aligned text where the output is none."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from petaflop.report import aligned

__all__ = ["print_table", "printable"]

_STYLES = {
    "ok": "green",
    "loaded": "green",
    "broken": "red",
    "conflict": "red",
    "incompatible": "yellow",
    "disabled": "dim",
    "no-device": "yellow",
}


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One line per row; cells that are a plugin's status are coloured."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        print(aligned([heads, *rows], left=len(heads)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(_styled(cell) for cell in row))
    Console(highlight=False).print(table)


def printable(text: str) -> str:
    """Text of a plugin without what would steer a terminal; lines stay apart."""
    return "\n".join(
        "".join(letter if letter.isprintable() else "?" for letter in line.replace("\t", "    "))
        for line in text.splitlines()
    )


def _styled(cell: str) -> str:
    escaped = cell.replace("[", r"\[")
    style = _STYLES.get(cell)
    return f"[{style}]{escaped}[/]" if style else escaped
