"""The frozen must-pass lists: which tests a level consists of, and a digest of them for the report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files

from petaflop_conformance.plugin import SUBJECTS, Subject

__all__ = [
    "ALLOWED",
    "NOT_APPLICABLE",
    "NOT_DECLARED",
    "PASSED",
    "WAIVED",
    "digest",
    "held",
    "id_of",
    "must_pass",
]

PASSED, NOT_DECLARED, NOT_APPLICABLE, WAIVED = "passed", "not declared", "not applicable", "waived"
ALLOWED = (PASSED, NOT_DECLARED, NOT_APPLICABLE, WAIVED)  # outcomes that do not cost a level


def id_of(nodeid: str) -> str:
    """A test's name without the folder in which the suite happens to be installed."""
    path, _, name = nodeid.partition("::")
    return f"{path.replace(chr(92), '/').rpartition('/')[2].removesuffix('.py')}::{name}"


def must_pass(level: str) -> tuple[str, ...]:
    """The ids of one level, sorted."""
    text = files("petaflop_conformance").joinpath("must_pass", f"{level}.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def digest(subject: Subject = SUBJECTS["backend"]) -> str:
    """One hash over every list: two reports with the same digest asked the same."""
    hasher = hashlib.sha256()
    for level in subject.levels:
        hasher.update("\n".join((level, *must_pass(level), "")).encode())
    return hasher.hexdigest()


def held(
    outcomes: Mapping[str, str], levels: Mapping[str, str], subject: Subject = SUBJECTS["backend"]
) -> str | None:
    """The highest level for which every listed test passed, is waived or does not apply, and no other test
    of it failed."""
    result = None
    for level in subject.graded:
        ids = must_pass(level)
        listed = bool(ids) and all(outcomes.get(test) in ALLOWED for test in ids)
        others = all(outcome in ALLOWED for test, outcome in outcomes.items() if levels.get(test) == level)
        if not (listed and others):
            break
        result = level
    return result
