"""Waivers: known faults are skipped, counted and shown; those without a reason, or of nothing, are errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from petaflop.errors import ArgumentError
from petaflop_conformance.levels import NOT_DECLARED, PASSED, WAIVED, held, must_pass
from petaflop_conformance.waivers import Waiver, read_waivers, unused

HEAD = "[tool.petaflop.waivers]\n"


def examine(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--petaflop-backend=reference",
        "--petaflop-level=plugin",
    ]
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTHONPATH": ""}
    return subprocess.run(
        [*command, "--petaflop-report=report.json", *arguments],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_waived_test_is_skipped_counted_and_shown(tmp_path: Path) -> None:
    reason = "the probe hangs on Sundays, https://example.org/1"
    (tmp_path / "pyproject.toml").write_text(f'{HEAD}"test_plugin::test_probe" = "{reason}"\n', "utf-8")
    done = examine(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 waived" in done.stdout and reason in done.stdout
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["waivers"] == [
        {"test": "test_plugin::test_probe", "reason": reason, "waived": ["test_plugin::test_probe"]}
    ]
    outcomes = {test["id"]: test["outcome"] for test in report["tests"]}
    assert outcomes.pop("test_plugin::test_probe") == WAIVED
    assert set(outcomes.values()) == {PASSED}
    assert report["level"] == {"asked": "plugin", "held": "plugin", "waived": 1}
    assert "level held: plugin, with 1 waived (asked" in done.stdout
    assert report["complete"] is True


def test_waivers_of_everything_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f'{HEAD}"*" = "everything"\n', "utf-8")
    done = examine(tmp_path)
    assert done.returncode == 1 and "level held: none (asked" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["level"] == {"asked": "plugin", "held": None, "waived": 0}


def test_an_unused_waiver_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "known.toml").write_text(f'{HEAD}"test_plugin::test_gone[*]" = "it was here once"\n', "utf-8")
    done = examine(tmp_path, "--petaflop-waivers=known.toml")
    assert done.returncode == 1, done.stdout
    assert "unused waiver: test_plugin::test_gone[*]" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["unused_waivers"] == ["test_plugin::test_gone[*]"]
    assert report["level"]["held"] == "plugin", "the backend is right; the list is not"


@pytest.mark.parametrize("reason", ['""', '"  "', "1", "true"])
def test_a_waiver_without_a_reason_is_an_error(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "waivers.toml"
    path.write_text(f'{HEAD}"test_plugin::test_probe" = {reason}\n', "utf-8")
    with pytest.raises(ArgumentError, match="expected a reason"):
        read_waivers(path)


def test_the_error_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f'{HEAD}"test_plugin::test_probe" = ""\n', "utf-8")
    done = examine(tmp_path, "--collect-only")
    assert done.returncode == 4
    assert "expected a reason" in done.stderr + done.stdout


@pytest.mark.parametrize("text", ["not toml", "[tool.petaflop]\nwaivers = 3\n"])
def test_a_file_that_holds_no_waivers(tmp_path: Path, text: str) -> None:
    path = tmp_path / "waivers.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ArgumentError, match=r"waivers\.toml: expected"):
        read_waivers(path)


def test_files_without_the_table_have_none(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text("[project]\nname = 'mine'\n", "utf-8")
    assert read_waivers(path) == []


def test_patterns() -> None:
    """Brackets mean themselves; the file may be left out."""
    test = "test_core_views::test_pad[fused-float16]"
    for pattern in (test, "test_pad[fused-float16]", "test_pad[*-float16]", "*float16]"):
        assert Waiver(pattern, "why").matches(test), pattern
    for pattern in ("test_pad", "test_pad[fused-float1?]", "est_pad[*", "test_core_views::test_pad"):
        assert not Waiver(pattern, "why").matches(test), pattern


def test_which_waivers_are_unused() -> None:
    outcomes = {"test_x::a": PASSED, "test_x::b": NOT_DECLARED, "test_x::c": WAIVED}
    waivers = [
        Waiver("c", "why", ["test_x::c"]),
        Waiver("b", "why"),
        Waiver("gone", "why"),
        Waiver("d", "why"),
    ]
    left = unused(waivers, outcomes, listed=("test_x::a", "test_x::b", "test_x::c", "test_x::d"))
    assert [waiver.pattern for waiver in left] == ["b", "gone"], "d did not run, so it may be needed"


def test_a_waived_test_costs_no_level() -> None:
    tests = must_pass("plugin")
    outcomes = {**dict.fromkeys(tests, PASSED), tests[0]: WAIVED}
    assert held(outcomes, dict.fromkeys(tests, "plugin")) == "plugin"
