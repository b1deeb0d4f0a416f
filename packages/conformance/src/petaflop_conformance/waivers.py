"""Waivers: known faults, each with its reason, from `[tool.petaflop.waivers]` of a TOML file.

A waived test is skipped and counted. A waiver that waives nothing must go, so that the list stays true.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petaflop.errors import ArgumentError

__all__ = ["Waiver", "read_waivers", "unused"]

_EXAMPLE = '"test_core_views::test_view[fused-pad]" = "reason, link"'


@dataclass(slots=True)
class Waiver:
    """A test's id, with or without its file, where `*` stands for anything; `tests` are those it waived."""

    pattern: str
    reason: str
    tests: list[str] = field(default_factory=list)

    def matches(self, test: str) -> bool:
        """Whether the waiver speaks of a test."""
        expression = ".*".join(map(re.escape, self.pattern.split("*")))
        names = (test, test.partition("::")[2])
        return any(re.fullmatch(expression, name) for name in names)


def read_waivers(path: Path) -> list[Waiver]:
    """The waivers of a file; ArgumentError where one has no reason."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{path}: expected a TOML file with waivers: {error}") from error
    table: Any = document
    for key in ("tool", "petaflop", "waivers"):
        table = table.get(key, {}) if isinstance(table, dict) else {}
    if not isinstance(table, dict):
        raise ArgumentError(f"{path}: expected a table [tool.petaflop.waivers] of {_EXAMPLE}, got {table!r}")
    for test, reason in table.items():
        if not (isinstance(reason, str) and reason.strip()):
            raise ArgumentError(f"{path}: waiver of {test!r}: expected a reason ({_EXAMPLE}), got {reason!r}")
    return [Waiver(test, reason.strip()) for test, reason in table.items()]


def unused(waivers: Iterable[Waiver], outcomes: Mapping[str, str], listed: Iterable[str]) -> list[Waiver]:
    """Waivers that waived nothing and whose tests, if there are any, all ran or do not apply.

    One whose test this run left out (`-k`, a lower level) may be needed by the next.
    """
    known = set(listed) | set(outcomes)
    idle = [waiver for waiver in waivers if not waiver.tests]
    return [w for w in idle if all(outcomes.get(test) for test in known if w.matches(test))]
