"""Sections of an explanation as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from petaflop.cli.stages import Section

__all__ = ["page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #1c2733; background: #fff; }
h2 { margin-top: 2.5rem; border-top: 2px solid #d5dde5; padding-top: 1rem; font-size: 1.25rem; }
h3 { font-size: 1.05rem; margin-bottom: 0; font-family: ui-monospace, monospace; }
p { margin: .2rem 0 .6rem; color: #51616f; }
details { margin: .3rem 0; border-left: 3px solid #9fb6cb; padding-left: .8rem; }
summary { cursor: pointer; font-weight: 600; }
pre { background: #f4f7fa; padding: .8rem; overflow-x: auto; font: 13px/1.4 ui-monospace, monospace; }
@media (prefers-color-scheme: dark) {
  body { background: #14191f; color: #d8e0e8; } p { color: #9aa9b7; } pre { background: #1d252d; }
}
"""
_OPEN = ("graph", "kernel")


def page(title: str, table: str, sections: Iterable[Section]) -> str:
    """The whole page; `table` is the table of kernels and their times."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<pre>{escape(table)}</pre>",
    ]
    for section in sections:
        heading = f"h{section.level + 1}"
        parts.append(f"<{heading}>{escape(section.title)}</{heading}>")
        parts.append(f"<p>{escape(section.note)}</p>")
        for stage in section.stages:
            state = " open" if stage.title in _OPEN else ""
            parts.append(f"<details{state}><summary>{escape(stage.title)}</summary>")
            parts.append(f"<pre>{escape(stage.text)}</pre></details>")
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"
