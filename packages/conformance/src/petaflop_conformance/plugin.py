"""The pytest plugin: `pytest --petaflop-backend=NAME` adds the installed suite and asks which level NAME
holds; `--petaflop-scheme` and `--petaflop-importer` ask the same of quantization schemes and importers.

It loads in every pytest run of an environment that has it, so it imports nothing but pytest until it is asked
for.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest

PROFILES = ("quick", "full", "soak")
UNGRADED = "perf"  # measured and reported, held by nobody
NEEDS_SAMPLES = "model"  # can only be asked for with --petaflop-samples


class Subject(NamedTuple):
    """What can be examined: the kind of plugin, its levels from the lowest up, the folder of its suite."""

    kind: str
    levels: tuple[str, ...]
    suite: str

    @property
    def graded(self) -> tuple[str, ...]:
        return tuple(level for level in self.levels if level != UNGRADED)


def _folder(name: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), name)


SUBJECTS = {
    "backend": Subject("backend", ("plugin", "render", "core", "full", UNGRADED), _folder("suite")),
    "scheme": Subject("quant", ("format", "graph"), _folder("suite_scheme")),
    "encoder": Subject("encoder", ("choice",), _folder("suite_encoder")),
    "importer": Subject("importer", ("hostile", "model"), _folder("suite_importer")),
}
LEVELS = tuple(level for subject in SUBJECTS.values() for level in subject.levels)
SUITE = SUBJECTS["backend"].suite


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("petaflop", "petaflop conformance")
    group.addoption("--petaflop-backend", metavar="NAME", help="the backend to examine, by its device name")
    group.addoption("--petaflop-scheme", metavar="NAME", help="the quantization scheme to examine")
    group.addoption("--petaflop-encoder", metavar="NAME", help="the encoder of quantized weights to examine")
    group.addoption("--petaflop-importer", metavar="NAME", help="the importer to examine")
    group.addoption(
        "--petaflop-samples",
        metavar="FOLDER",
        help="model files that the importer must load; its level `model` is not asked for without them",
    )
    group.addoption(
        "--petaflop-level",
        choices=LEVELS,
        help="the highest level to ask for (by default the highest that can be held): "
        + "; ".join(f"{name}: {', '.join(subject.levels)}" for name, subject in SUBJECTS.items()),
    )
    group.addoption(
        "--petaflop-profile",
        choices=PROFILES,
        default="quick",
        help="how many random examples, and how large the largest inputs: quick (10, the same each time), "
        "full (50), soak (500, new ones each time)",
    )
    group.addoption("--petaflop-report", metavar="FILE", help="write the report as JSON")
    group.addoption(
        "--petaflop-waivers",
        metavar="FILE",
        help="a TOML file with a table [tool.petaflop.waivers] of known faults, test = reason; "
        "by default pyproject.toml in the current folder",
    )


def examined(options: object) -> tuple[str, str] | None:
    """(subject, name) of what a run examines; None for a run that has nothing to do with petaflop."""
    asked = [(each, getattr(options, f"petaflop_{each}", None)) for each in SUBJECTS]
    named = [(subject, name) for subject, name in asked if name is not None]
    if len(named) > 1:
        words = " and ".join(f"--petaflop-{subject}={name}" for subject, name in named)
        raise pytest.UsageError(f"expected one plugin to examine, got {words}")
    return named[0] if named else None


def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Without a path, the suite that is installed with this plugin is what runs."""
    known = early_config.known_args_namespace
    found = examined(known)
    if found is not None and not known.file_or_dir:
        args.append(SUBJECTS[found[0]].suite)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "level(name): the conformance level that a test belongs to")
    config.addinivalue_line(
        "markers", "requires(*names): dtypes and capabilities without which a test does not apply"
    )
    if (found := examined(config.option)) is not None:
        from petaflop_conformance.examination import Examination

        config.pluginmanager.register(Examination(config, *found), "petaflop-examination")
