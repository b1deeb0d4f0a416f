"""docs/plugins.md lists every hook with its exact signature, every kind, status and exit code."""

import inspect
from pathlib import Path

from petaflop.cli import EXIT_CODES
from petaflop.plugins import hookspecs
from petaflop.plugins.manager import STATUSES

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "plugins.md").read_text(encoding="utf-8")
ROWS = [line.split(" | ")[0].removeprefix("| ") for line in TEXT.splitlines() if line.startswith("| ")]


def test_every_hook_is_listed_with_its_signature() -> None:
    hooks = {name: function for name, function in vars(hookspecs).items() if name.startswith("petaflop_")}
    for name, function in hooks.items():
        signature = str(inspect.signature(function)).replace("'", "").replace("|", r"\|")
        assert f"| `{name}{signature}` |" in TEXT
    listed = {row.strip("`").partition("(")[0] for row in ROWS if row.startswith("`petaflop_")}
    assert listed == set(hooks)


def test_every_kind_is_listed() -> None:
    for kind in hookspecs.KINDS.values():
        hook = f"`{kind.hook}`" if kind.hook is not None else "none: it observes"
        assert f"| `{kind.name}` | `{kind.group}.v{hookspecs.API_VERSION}` | {hook} |" in TEXT


def test_every_status_is_listed() -> None:
    assert [row.strip("`") for row in ROWS if row.strip("`") in STATUSES] == list(STATUSES)


def test_every_exit_code_is_listed() -> None:
    for _, code in EXIT_CODES:
        assert f"| {code} | " in TEXT
