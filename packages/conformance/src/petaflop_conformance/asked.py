"""What a run asks for, looked at before it starts: names that nobody offers and files that cannot be are one
line, not thousands of failures.

A backend that is installed but broken, incompatible or without its device passes: that is what is examined.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from petaflop.cli.files import check_writable
from petaflop.errors import ArgumentError, PluginError
from petaflop.plugins.hookspecs import KINDS
from petaflop.plugins.manager import plugin_manager
from petaflop_conformance.plugin import NEEDS_SAMPLES, SUBJECTS

__all__ = ["check"]


def check(subject: str, name: str, level: str | None, samples: str | None, report: str | None) -> str:
    """The level to ask for; PluginError or ArgumentError where what is asked for cannot be."""
    _check_name(subject, name)
    _check_samples(subject, samples)
    if report is not None:
        check_writable(Path(report), "report")
    return _level_of(subject, level, samples)


def _check_name(subject: str, name: str) -> None:
    """PluginError unless a plugin of the subject's kind offers `name`; it says what does, or what is near."""
    kind = SUBJECTS[subject].kind
    plugins = plugin_manager().plugins()
    rows = [plugin for plugin in plugins if (plugin.kind, plugin.name) == (kind, name)]
    if any(plugin.status != "disabled" for plugin in rows):
        return
    others = [plugin.kind for plugin in plugins if plugin.name == name and plugin.kind in KINDS]
    if not rows and others:
        raise PluginError(f"expected {_a(kind)}, got {name!r}, {_which_is(others[0], name)}")
    try:
        plugin_manager().find(kind, name)
    except PluginError as error:
        raise PluginError(f"{error}{'' if rows else _near(subject, name)}") from error


def _which_is(kind: str, name: str) -> str:
    subject = next((each for each, found in SUBJECTS.items() if found.kind == kind), None)
    advice = f": {_option(subject, name)}" if subject else ", which no suite examines"
    return f"which is {_a(kind)}{advice}"


def _a(kind: str) -> str:
    noun = KINDS[kind].noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _option(subject: str, name: str) -> str:
    return f"--petaflop-{subject}={name}, or petaflop conformance {name} --kind {subject}"


def _near(subject: str, name: str) -> str:
    """A name of another subject that is close; those of the subject itself are in core's own message."""
    for other in SUBJECTS:
        close = difflib.get_close_matches(name, plugin_manager().names(SUBJECTS[other].kind), 1, 0.7)
        if close and other != subject:
            return f" Near it is the {other} {close[0]!r}: {_option(other, close[0])}"
    return ""


def _check_samples(subject: str, folder: str | None) -> None:
    """ArgumentError unless `folder` is one, and something that takes samples is examined."""
    if folder is None:
        return
    if subject != "importer":
        raise ArgumentError(f"samples: expected an importer to examine with them, got a {subject}")
    if not Path(folder).is_dir():
        raise ArgumentError(f"samples: expected a folder of model files, got {folder!r}")
    try:
        empty = not any(path.is_file() for path in Path(folder).iterdir())
    except OSError as error:
        raise ArgumentError(
            f"samples: expected a folder to read, got {folder!r}: {error.strerror}"
        ) from error
    if empty:
        raise ArgumentError(f"samples: expected a folder with model files, got {folder!r} without any")


def _level_of(subject: str, level: str | None, samples: str | None) -> str:
    """The level to ask for: the one given, or else the highest that can be examined; ArgumentError if none
    is."""
    levels = SUBJECTS[subject].levels
    if level is not None and level not in levels:
        raise ArgumentError(f"level: expected {', '.join(levels)} for a {subject}, got {level}")
    if level == NEEDS_SAMPLES and samples is None:
        raise ArgumentError(f"level {level}: expected a folder of model files (--petaflop-samples), got none")
    possible = [each for each in SUBJECTS[subject].graded if each != NEEDS_SAMPLES or samples is not None]
    return level or possible[-1]
