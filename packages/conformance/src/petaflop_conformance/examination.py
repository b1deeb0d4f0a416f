"""One examination of one backend: selects the level, keeps every outcome, decides what is held, reports
it.

What it knows of a test it learns from the test's report, which pytest-xdist carries over from its workers: so
`-n` works, and the process that the user started gives the verdict.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from petaflop.cli.files import write_atomically
from petaflop.errors import ArgumentError, PetaflopError, PluginError
from petaflop_conformance import report
from petaflop_conformance.asked import check
from petaflop_conformance.levels import NOT_APPLICABLE, NOT_DECLARED, WAIVED, held, id_of, must_pass, waived
from petaflop_conformance.plugin import LEVELS, SUBJECTS
from petaflop_conformance.waivers import Waiver, read_waivers, unused

__all__ = ["MEASURED", "PERF", "Examination", "cannot", "declared", "level_of", "skip_as"]

LISTED = "petaflop listed"  # name of the user property with [level, names that the test requires]
MEASURED = "petaflop measured"  # name of the user property with [op, dtype, error over bound, ulp]
PERF = "petaflop perf"  # name of the user property with [what, value, unit]
_LETTERS = {NOT_DECLARED: "n", NOT_APPLICABLE: "a", WAIVED: "w"}


def skip_as(outcome: str, why: str) -> None:
    """End a test with one of the outcomes that are no failure, and say why."""
    pytest.skip(f"{outcome}: {why}")


def cannot(error: PetaflopError) -> BaseException:
    """What a test fails with where the backend cannot be had: in one line, as thousands will say it."""
    return pytest.fail.Exception(str(error), pytrace=False)


def level_of(item: pytest.Item) -> str:
    """The level that a test of the suite belongs to."""
    marker = item.get_closest_marker("level")
    if marker is None or marker.args[0] not in LEVELS:
        raise pytest.UsageError(f"{item.nodeid}: expected a mark level({'|'.join(LEVELS)}), got {marker}")
    return str(marker.args[0])


def declared(capabilities: Any, name: str) -> bool:
    """Whether a backend declares a capability, or a dtype, by that name."""
    from petaflop.dtype import DTYPES

    if name in DTYPES:
        return name in capabilities.dtypes
    return bool(getattr(capabilities, name))


def offline_backend(name: str) -> Any:
    """What the plugin hands over for a machine without its device; None if it has nothing like it."""
    from petaflop.plugins.manager import plugin_manager

    return plugin_manager().offline("backend", name)


def _capabilities(name: str) -> Any:
    """What is declared, on a machine without the device as well."""
    from petaflop.device.registry import get_backend
    from petaflop.errors import DeviceError

    try:
        return get_backend(name).capabilities
    except DeviceError:
        backend = offline_backend(name)
        if backend is None:
            raise
        return backend.capabilities


class Examination:
    """The plugin object of a run that examines a backend, a scheme or an importer."""

    def __init__(self, config: pytest.Config, subject: str, name: str) -> None:
        self.config = config
        self.subject, self.name = SUBJECTS[subject], name
        given = [config.getoption(f"petaflop_{each}") for each in ("level", "samples", "report")]
        _, self.samples, self.path = given
        try:
            self.level = check(subject, name, *given)
            self.waivers = _waivers(config)
        except (ArgumentError, PluginError) as error:
            raise pytest.UsageError(str(error)) from error
        self.profile: str = config.getoption("petaflop_profile")
        self.outcomes: dict[str, str] = {}
        self.levels: dict[str, str] = {}
        self.requires: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self.measured: dict[str, list[list[Any]]] = {}
        self.figures: list[list[Any]] = []
        self.unwritten = ""  # why there is no report
        self.worker = hasattr(config, "workerinput")  # of pytest-xdist: runs tests, and judges nothing
        _settings(self.profile)

    # ---- selection ----

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        levels = self._asked_levels
        ours = {item: level_of(item) for item in items if str(item.path).startswith(self.subject.suite)}
        items.sort(key=lambda item: LEVELS.index(ours[item]) if item in ours else len(LEVELS))
        for item, level in ours.items():
            item.user_properties.append((LISTED, [level, sorted(_required(item))]))
        beyond = [item for item, level in ours.items() if level not in levels]
        if beyond:
            config.hook.pytest_deselected(items=beyond)
            items[:] = [item for item in items if item not in beyond]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        names = _required(item)
        if self.subject.kind == "backend" and names:
            try:
                capabilities = _capabilities(self.name)
            except PetaflopError as error:
                raise cannot(error) from None
            if missing := [name for name in names if not declared(capabilities, name)]:
                skip_as(NOT_DECLARED, ", ".join(missing))
        listed = any(name == LISTED for name, _ in item.user_properties)
        for waiver in self.waivers if listed else []:
            if waiver.matches(id_of(item.nodeid)):
                skip_as(WAIVED, waiver.reason)

    # ---- outcomes ----

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        listed: Any = next((value for name, value in report.user_properties if name == LISTED), None)
        if listed is None:
            return
        test = id_of(report.nodeid)
        self.levels[test], self.requires[test] = listed
        self.seconds[test] = self.seconds.get(test, 0.0) + report.duration
        if report.when == "call":
            found: list[Any] = [value for name, value in report.user_properties if name == MEASURED]
            self.measured[test] = found
            figures: list[Any] = [value for name, value in report.user_properties if name == PERF]
            self.figures += figures
        if report.failed:
            self.outcomes[test] = "failed"
        elif report.skipped:
            self.outcomes[test] = _skipped_as(report) or "skipped"
            if self.outcomes[test] == WAIVED:
                for waiver in self.waivers:
                    waiver.tests += [test] if waiver.matches(test) else []
        elif report.when == "call":
            self.outcomes.setdefault(test, report.outcome)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        if report.skipped and (outcome := _skipped_as(report)):
            return outcome, _LETTERS[outcome], outcome.upper()
        return None

    # ---- verdict ----

    @property
    def _asked_levels(self) -> tuple[str, ...]:
        return self.subject.levels[: self.subject.levels.index(self.level) + 1]

    @property
    def asked(self) -> list[str]:
        """Every test that the asked level, and those below it, consist of."""
        return [test for level in self._asked_levels for test in must_pass(level)]

    @property
    def goal(self) -> str:
        """The highest graded level that was asked for."""
        return next(level for level in reversed(self._asked_levels) if level in self.subject.graded)

    @property
    def unused_waivers(self) -> list[Waiver]:
        """Waivers of nothing."""
        listed = [test for level in self.subject.levels for test in must_pass(level)]
        return unused(self.waivers, self.outcomes, listed)

    @property
    def missing(self) -> list[str]:
        """Listed tests that did not run."""
        return [test for test in self.asked if self.outcomes.get(test, "skipped") == "skipped"]

    @property
    def held(self) -> str | None:
        """The highest level held, at most the asked one."""
        return held(self.outcomes, self.levels, self.subject)

    @property
    def waived(self) -> int:
        """How many waived tests the held level rests on."""
        return waived(self.held, self.outcomes, self.levels, self.subject)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        yield
        if session.config.option.collectonly or self.worker:
            return
        if session.exitstatus == pytest.ExitCode.OK and (self.held != self.goal or self.unused_waivers):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.path is not None:
            text = json.dumps(report.as_json(self), indent=1) + "\n"
            try:
                write_atomically(Path(self.path), text.encode())
            except OSError as error:  # the verdict on the screen, minutes of work, is not lost as well
                self.unwritten = f"report: {error}"
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.config.option.collectonly:
            terminalreporter.ensure_newline()
            for line in report.summary(self):
                terminalreporter.write_line(line)


def _required(item: pytest.Item) -> list[str]:
    return list(dict.fromkeys(name for marker in item.iter_markers("requires") for name in marker.args))


def _skipped_as(report: pytest.TestReport) -> str | None:
    """Which of the outcomes of `skip_as` a report is of."""
    reason: Iterable[Any] = report.longrepr if isinstance(report.longrepr, tuple) else ()
    text = str(next(reversed(tuple(reason)), "")).removeprefix("Skipped: ")
    return next((outcome for outcome in _LETTERS if text.startswith(f"{outcome}: ")), None)


def _waivers(config: pytest.Config) -> list[Waiver]:
    """Those of --petaflop-waivers, else of pyproject.toml in the folder where pytest was started."""
    given = config.getoption("petaflop_waivers")
    path = Path(config.invocation_params.dir) / (given or "pyproject.toml")
    return read_waivers(path) if given or path.exists() else []


def _settings(profile: str) -> None:
    """Hypothesis as the profile says: no deadline, since an example may compile; a database only for soak."""
    from hypothesis import HealthCheck, Phase, settings

    examples = {"quick": 10, "full": 50, "soak": 500}[profile]
    random = profile == "soak"
    settings.register_profile(
        "petaflop",
        max_examples=examples,
        derandomize=not random,
        deadline=None,
        database=settings.default.database if random and settings.default else None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[phase for phase in Phase if phase is not Phase.explain],
    )
    settings.load_profile("petaflop")
