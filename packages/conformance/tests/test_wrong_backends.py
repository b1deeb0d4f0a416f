"""Tests of the tests: each wrong backend is caught, by the very test that should catch it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from petaflop_conformance.plugin import SUITE

WRONG = Path(__file__).parent / "wrong"
COMPUTE, MEMORY, REDUCE = "test_core_compute.py", "test_core_memory.py", "test_core_reduce.py"
CAUGHT_BY = {
    "max_drops_nan": (COMPUTE, "test_binary and MAX-float32"),
    "division_truncates": (COMPUTE, "test_binary and DIV-int32"),
    "flushes_denormals": (COMPUTE, "test_binary and MUL-float32"),
    "steep_functions_are_off": (COMPUTE, "test_unary and EXP2-float32"),
    "reciprocal_division": (COMPUTE, "test_division_is_correctly_rounded"),
    "half_accumulator": (REDUCE, "test_every_length and ADD and 1000"),
    "pad_is_off_by_one": ("test_core_views.py", "test_pad_is_zero"),
    "cast_wraps": ("test_core_types.py", "test_cast and float32-int8"),
    "ignores_offset": ("test_core_graphs.py", "test_softmax or test_random_graph or test_many_inputs"),
    "stale_cache_key": (COMPUTE, "test_constant_operand and unfused and ADD-float32"),
    "reuses_live_memory": (MEMORY, "test_outputs_do_not_share_memory"),
    "racy_reduction": (MEMORY, "test_same_bits_each_time"),
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like site-packages with a stranger's package of wrong backends in it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "petaflop_wrong.py").write_text((WRONG / "petaflop_wrong.py").read_text("utf-8"), "utf-8")
    info = folder / "petaflop_wrong-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: petaflop-wrong\nVersion: 1.0\n", "utf-8")
    names = ["right", "narrow", "absent", *CAUGHT_BY]
    lines = ["[petaflop.backends.v1]", *(f"{name} = petaflop_wrong" for name in names), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")
    return folder


def examine(installed: Path, where: Path, name: str, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, output and report of the suite on a backend, run from an empty folder."""
    report = where / "report.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--petaflop-backend={name}"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "PYTEST_ADDOPTS": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "",
    }
    run = subprocess.run(
        [*command, f"--petaflop-report={report}", *arguments],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return (
        run.returncode,
        run.stdout + run.stderr,
        json.loads(report.read_text("utf-8")) if report.exists() else {},
    )


def outcomes(report: dict[str, Any]) -> set[str]:
    return {test["outcome"] for test in report["tests"]}


@pytest.mark.parametrize("name", CAUGHT_BY)
def test_wrong_backend_is_caught(installed: Path, tmp_path: Path, name: str) -> None:
    file, expression = CAUGHT_BY[name]
    code, output, report = examine(installed, tmp_path, name, os.path.join(SUITE, file), "-k", expression)
    assert code == 1, output
    assert "failed" in outcomes(report), output
    assert report["level"]["held"] is None
    assert "AssertionError" in output or "assert " in output, "caught by an accident, not by a comparison"


def test_those_tests_pass_on_a_right_backend(installed: Path, tmp_path: Path) -> None:
    """What catches the faults is the fault, not the test."""
    expression = " or ".join(f"({expression})" for _, expression in CAUGHT_BY.values())
    code, output, report = examine(installed, tmp_path, "right", "-k", expression)
    assert outcomes(report) == {"passed"}, output
    assert code == 1, "a selection cannot show that a level is held"
    assert report["complete"] is False
    assert "incomplete" in output


def test_what_is_not_declared_is_counted_and_shown(installed: Path, tmp_path: Path) -> None:
    _, output, report = examine(
        installed, tmp_path, "narrow", os.path.join(SUITE, COMPUTE), "-k", "test_unary"
    )
    assert outcomes(report) == {"passed", "not declared"}
    count = sum(test["outcome"] == "not declared" for test in report["tests"])
    assert count > 20
    assert f"{count} not declared" in output
    assert "float16" in next(test for test in report["tests"] if "EXP2-float16" in test["id"])["requires"]


def test_an_absent_device_lowers_the_level_and_says_so(installed: Path, tmp_path: Path) -> None:
    code, output, report = examine(installed, tmp_path, "absent", "--petaflop-level=plugin")
    assert code == 0, output
    assert report["level"] == {"asked": "plugin", "held": "plugin"}
    assert report["device"] == {"status": "absent"}
    arguments = [os.path.join(SUITE, MEMORY), "-k", "round_trip and float32"]
    code, output, report = examine(installed, tmp_path, "absent", *arguments)
    assert code == 1
    assert "plug one in" in output
    assert "failed" in outcomes(report)


def test_a_name_that_nobody_offers(installed: Path, tmp_path: Path) -> None:
    code, output, report = examine(installed, tmp_path, "rihgt", "--petaflop-level=plugin")
    assert code == 1
    assert report["level"]["held"] is None
    assert "rihgt" in output
