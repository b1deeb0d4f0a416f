"""The suite's runner: cases that crash, hang or fail cost only themselves; a baseline only grows."""

from __future__ import annotations

import os
import time
from pathlib import Path

import onnx
import pytest

from petaflop_onnx.suite import __main__ as command
from petaflop_onnx.suite.cases import GROUPS, Case, cases
from petaflop_onnx.suite.report import read_baseline, table, write_baseline
from petaflop_onnx.suite.workers import Outcome, run_cases
from petaflop_onnx.table import TABLE


def _behave(name: str) -> None:
    kind = name.partition("-")[0]
    if kind == "abort":
        os.abort()
    if kind == "exit":
        os._exit(3)
    if kind == "hang":
        time.sleep(60)
    if kind == "raise":
        raise ValueError("expected better,\ngot this")
    if kind == "hungry":
        bytearray(1 << 40)


def test_what_goes_wrong_costs_one_case() -> None:
    names = ["abort", "fine-1", "hang", "raise", "fine-2", "exit", "hungry", "fine-3"]
    start = time.perf_counter()
    outcomes = run_cases(names, 2, 2.0, 8 << 30, _behave)
    assert time.perf_counter() - start < 20
    assert {name: outcome.result for name, outcome in outcomes.items()} == {
        "abort": "crashed",
        "exit": "crashed",
        "hang": "hung",
        "raise": "failed",
        "hungry": "failed",
        **dict.fromkeys(["fine-1", "fine-2", "fine-3"], "passed"),
    }
    assert outcomes["raise"].error.startswith("ValueError: expected better, got this (test_onnx_suite.py:")
    assert "MemoryError" in outcomes["hungry"].error


def test_the_table_counts_by_group_and_operator() -> None:
    known = {name: Case(name, "node", name[0].upper()) for name in ("a1", "a2", "b1")}
    outcomes = {
        "a1": Outcome("a1", "passed", 1.0),
        "a2": Outcome("a2", "crashed", 1.0),
        "b1": Outcome("b1", "passed", 1.0),
    }
    lines = [line.split() for line in table(known, outcomes).splitlines()]
    assert ["node", "2", "3", "1", "0"] in lines and ["all", "2", "3", "1", "0"] in lines
    assert lines.index(["A", "1", "2", "1", "0"]) < lines.index(["B", "1", "1", "0", "0"])


def test_baselines_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "baseline.txt"
    assert read_baseline(path) == (onnx.__version__, set())
    write_baseline(path, {"test_b", "test_a"})
    assert read_baseline(path) == (onnx.__version__, {"test_a", "test_b"})


def _run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["suite", "--match", "test_and2d", "--workers", "1", *words])
    return command.main()


def test_a_lost_case_fails_and_a_new_one_is_added_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.txt"
    write_baseline(path, set())
    assert _run(monkeypatch, f"--baseline={path}") == 0
    assert "1 cases pass that the baseline does not list" in capfd.readouterr().out
    assert read_baseline(path)[1] == set()
    assert _run(monkeypatch, f"--baseline={path}", "--update") == 0
    assert read_baseline(path)[1] == {"test_and2d"}
    write_baseline(path, {"test_and2d", "test_of_the_past"})
    assert _run(monkeypatch, f"--baseline={path}") == 1
    assert "no longer a case: test_of_the_past" in capfd.readouterr().out
    path.write_text("onnx==0.1\ntest_and2d\n")
    assert _run(monkeypatch, f"--baseline={path}") == 1


def test_a_real_case_that_stops_passing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.txt"
    write_baseline(path, {"test_and2d"})
    assert _run(monkeypatch, f"--baseline={path}", f"--report={tmp_path}") == 0
    monkeypatch.setitem(TABLE, ("", "And", 7), TABLE["", "Or", 7])  # the workers inherit it
    assert _run(monkeypatch, f"--baseline={path}") == 1
    assert "no longer passes: test_and2d: failed: " in capfd.readouterr().out
    assert "And" in (tmp_path / "suite.txt").read_text() and (tmp_path / "suite.json").exists()


def test_every_case_is_found() -> None:
    found = cases()
    assert {case.group for case in found.values()} == set(GROUPS) and len(found) > 1500
    assert found["test_and2d"].operator == "And"
    assert found["test_cast_FLOAT_to_INT4"].small and not found["test_and2d"].small
