"""The pytest plugin: `pytest --petaflop-backend=NAME` adds the installed suite and asks which level NAME
holds.

It loads in every pytest run of an environment that has it, so it imports nothing but pytest until it is asked
for.
"""

from __future__ import annotations

import os

import pytest

LEVELS = ("plugin", "core")
PROFILES = ("quick", "full", "soak")
SUITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("petaflop", "petaflop conformance")
    group.addoption("--petaflop-backend", metavar="NAME", help="the backend to examine, by its device name")
    group.addoption(
        "--petaflop-level",
        choices=LEVELS,
        default=LEVELS[-1],
        help=f"the highest level to ask for: {', '.join(LEVELS)} (default %(default)s)",
    )
    group.addoption(
        "--petaflop-profile",
        choices=PROFILES,
        default="quick",
        help="how many random examples: quick (10, the same each time), full (50), "
        "soak (500, new ones each time)",
    )
    group.addoption("--petaflop-report", metavar="FILE", help="write the report as JSON")


def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Without a path, the suite that is installed with this plugin is what runs."""
    known = early_config.known_args_namespace
    if known.petaflop_backend and not known.file_or_dir:
        args.append(SUITE)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "level(name): the conformance level that a test belongs to")
    config.addinivalue_line(
        "markers", "requires(*names): dtypes and capabilities without which a test does not apply"
    )
    if config.getoption("petaflop_backend", None):
        from petaflop_conformance.examination import Examination

        config.pluginmanager.register(Examination(config), "petaflop-examination")
