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
    "waived",
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
    """The highest level at which something passed and nothing failed, like all levels below it.

    A level is stepped over, and not held itself, where the suite says of what is declared that it does not
    apply; one of which everything is waived or not declared ends the climb, since it shows nothing.
    """
    result = None
    for level in subject.graded:
        listed = {outcomes.get(test) for test in must_pass(level)}
        others = {outcome for test, outcome in outcomes.items() if levels.get(test) == level}
        if not (listed | others) <= set(ALLOWED):
            break
        if PASSED in listed:
            result = level
        elif NOT_APPLICABLE not in listed or WAIVED in listed:
            break
    return result


def waived(
    level: str | None,
    outcomes: Mapping[str, str],
    levels: Mapping[str, str],
    subject: Subject = SUBJECTS["backend"],
) -> int:
    """How many waived tests a held level, with those below it, rests on."""
    below = subject.levels[: subject.levels.index(level) + 1] if level else ()
    return sum(outcome == WAIVED and levels[test] in below for test, outcome in outcomes.items())
