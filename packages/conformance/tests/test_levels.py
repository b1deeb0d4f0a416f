"""The frozen lists, the verdict on them, the report, and that the plugin stays out of everybody else's
way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from petaflop_conformance.levels import (
    NOT_APPLICABLE,
    NOT_DECLARED,
    PASSED,
    WAIVED,
    digest,
    held,
    id_of,
    must_pass,
    waived,
)
from petaflop_conformance.plugin import LEVELS, SUBJECTS

LEVEL_OF = {test: level for level in LEVELS for test in must_pass(level)}
GRADED = SUBJECTS["backend"].graded


def all_passed(*levels: str) -> dict[str, str]:
    return {test: PASSED for level in levels for test in must_pass(level)}


def run(*command: str, where: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTHONPATH": ""}
    return subprocess.run(
        [sys.executable, *command], cwd=where, env=environment, capture_output=True, text=True, timeout=300
    )


def test_lists_are_what_the_suite_has(tmp_path: Path) -> None:
    """A test that was added, renamed or lost: freeze the lists again, as a decision."""
    code = (
        "import json\nfrom petaflop_conformance.freeze import collect\nprint('\\n' + json.dumps(collect()))"
    )
    found = json.loads(run("-c", code, where=tmp_path).stdout.splitlines()[-1])
    for level in LEVELS:
        assert found[level] == list(must_pass(level)), "run `python -m petaflop_conformance.freeze`"
        assert found[level]


def test_ids_name_no_folder() -> None:
    assert id_of("../../site/petaflop_conformance/suite/test_x.py::test_y[a/b]") == "test_x::test_y[a/b]"
    assert all("/" not in test.partition("::")[0] for level in LEVELS for test in must_pass(level))


def test_held() -> None:
    for count, level in enumerate(GRADED, 1):
        assert held(all_passed(*GRADED[:count]), LEVEL_OF) == level
    assert held(all_passed(*GRADED[1:]), LEVEL_OF) is None, "a level is held only together with those below"
    assert held({}, LEVEL_OF) is None


@pytest.mark.parametrize("outcome", ["failed", "skipped", None])
def test_one_test_decides(outcome: str | None) -> None:
    outcomes = all_passed(*GRADED)
    test = must_pass("core")[100]
    if outcome is None:
        del outcomes[test]
    else:
        outcomes[test] = outcome
    assert held(outcomes, LEVEL_OF) == GRADED[GRADED.index("core") - 1]


def test_not_declared_does_not_fail_and_an_unlisted_failure_does() -> None:
    outcomes = {**all_passed(*GRADED), must_pass("core")[3]: NOT_DECLARED}
    assert held(outcomes, LEVEL_OF) == GRADED[-1]
    levels = {**LEVEL_OF, "test_new::test": GRADED[-1]}
    assert held({**outcomes, "test_new::test": "failed"}, levels) == GRADED[-2]


def test_a_level_at_which_nothing_passed_is_not_held() -> None:
    """Waivers and declarations cannot make one; a level that does not apply is stepped over."""
    for outcome in (NOT_DECLARED, WAIVED):
        outcomes = {**all_passed(*GRADED), **dict.fromkeys(must_pass("core"), outcome)}
        assert held(outcomes, LEVEL_OF) == "render"
    assert held(dict.fromkeys(LEVEL_OF, WAIVED), LEVEL_OF) is None
    assert held(dict.fromkeys(LEVEL_OF, NOT_APPLICABLE), LEVEL_OF) is None
    interpreted = {**all_passed(*GRADED), **dict.fromkeys(must_pass("render"), NOT_APPLICABLE)}
    assert held(interpreted, LEVEL_OF) == GRADED[-1]
    assert held({**interpreted, must_pass("render")[0]: NOT_DECLARED}, LEVEL_OF) == GRADED[-1]
    assert held({**interpreted, must_pass("core")[0]: "failed"}, LEVEL_OF) == "plugin"
    assert held({**interpreted, must_pass("render")[0]: WAIVED}, LEVEL_OF) == "plugin"


def test_what_a_held_level_rests_on() -> None:
    outcomes = all_passed(*GRADED)
    outcomes |= {must_pass("core")[0]: WAIVED, must_pass("core")[1]: WAIVED, must_pass("full")[0]: WAIVED}
    assert waived("full", outcomes, LEVEL_OF) == 3
    assert waived("core", outcomes, LEVEL_OF) == 2
    assert waived("plugin", outcomes, LEVEL_OF) == waived(None, outcomes, LEVEL_OF) == 0


def test_digest_is_stable_and_long() -> None:
    assert digest() == digest() and len(digest()) == 64


def test_report_of_a_whole_level(tmp_path: Path) -> None:
    """From an empty folder, without a path: the installed suite runs, and the report says what was asked of
    whom."""
    done = run("-m", "pytest", "-q", "--petaflop-backend=reference", "--petaflop-level=plugin",
               "--petaflop-report=report.json", where=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["level"] == {"asked": "plugin", "held": "plugin", "waived": 0}
    assert report["complete"] is True and report["missing"] == []
    assert report["suite"]["must_pass"] == digest()
    assert report["backend"]["name"] == "reference" and report["backend"]["package"] == "petaflop"
    assert report["capabilities"]["dtypes"]["float32"] == "native"
    assert {test["id"] for test in report["tests"]} == set(must_pass("plugin"))
    assert all(test["level"] == "plugin" and test["seconds"] >= 0 for test in report["tests"])
    assert "level held: plugin" in done.stdout


def test_plugin_imports_nothing_but_pytest(tmp_path: Path) -> None:
    code = """
import sys
import petaflop_conformance.plugin
heavy = {"petaflop", "numpy", "hypothesis"} & set(sys.modules)
assert not heavy, heavy
"""
    done = run("-c", code, where=tmp_path)
    assert done.returncode == 0, done.stderr


def test_without_a_backend_the_plugin_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_mine():\n    pass\n", "utf-8")
    done = run("-m", "pytest", "-q", where=tmp_path)
    assert done.returncode == 0
    assert "1 passed" in done.stdout and "petaflop" not in done.stdout


def test_a_path_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_mine():\n    pass\n", "utf-8")
    done = run("-m", "pytest", "-q", "--petaflop-backend=reference", "test_mine.py", where=tmp_path)
    assert "1 passed" in done.stdout and "incomplete" in done.stdout
    assert done.returncode == 1, "nothing of the asked level ran"


def test_workers_give_the_same_report(tmp_path: Path) -> None:
    """Outcomes, levels, measurements and waivers reach the one process that judges."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.petaflop.waivers]\n"test_core_views::test_view[fused-pad*" = "known"\n', "utf-8"
    )
    asked = (
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--petaflop-backend=reference",
        "-k",
        "test_view",
    )
    reports = []
    for spread in ((), ("-n", "2")):
        done = run(*asked, *spread, "--petaflop-report=report.json", where=tmp_path)
        report = json.loads((tmp_path / "report.json").read_text("utf-8"))
        for test in report["tests"]:
            del test["seconds"]
        reports.append((done.returncode, done.stdout.count("petaflop conformance"), report))
    assert reports[0] == reports[1]
    assert reports[0][0] == 1 and reports[0][2]["missing"] and reports[0][2]["tests"]
    assert any(test["outcome"] == "waived" for test in reports[0][2]["tests"])
    assert reports[0][2]["waivers"][0]["waived"]
