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
INDEXED = "test_core_indexed.py"
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
    "negative_index": (INDEXED, "test_gather_out_of_range_reads_zero and int32"),
    "wrong_broadcast_stride": ("test_core_views.py", "test_broadcast"),
    "wrong_shift": (COMPUTE, "test_constant_operand and DIV-uint32"),
    "missing_synchronisation": (MEMORY, "test_there_and_back"),
    "sums_in_a_row": ("test_full_reduce.py", "test_long_sum[equal-all]"),
    "sine_of_small_angles": (COMPUTE, "test_unary and SIN-float32"),
    "sine_is_off_far_away": (COMPUTE, "test_unary and SIN-float64"),
    "rounds_twice": ("test_core_types.py", "test_cast and int32-bfloat16"),
    "positions_are_cut": (INDEXED, "test_gather_out_of_range_reads_zero and uint32"),
    "reads_the_next_row": (INDEXED, "test_gather_beyond_an_axis_reads_zero"),
    "maximum_starts_high": (REDUCE, "test_ends_of_the_range and MAX-int32"),
    "sum_through_float64": (REDUCE, "test_ends_of_the_range and ADD-int64"),
    "accumulator_of_half_the_bits": (REDUCE, "test_wide_accumulator and int32-int64"),
    "loses_the_tail": (REDUCE, "test_long_fold and 5003-MAX"),
    "first_of_a_line_wins": (INDEXED, "test_scatter_of_another_rank and float32-set"),
    "scattered_maximum_drops_nan": (INDEXED, "test_scatter_of_special_values and float32-max"),
    "scattered_sum_saturates": (INDEXED, "test_long_scatter and add"),
    "later_half_first": (INDEXED, "test_long_scatter and set"),
    "one_thread_only": ("test_full_memory.py", "test_threads_with_graphs_of_their_own"),
    "stale_replay": ("test_full_replay.py", "test_replay_is_eager and elementwise"),
    "first_size_only": ("test_full_graphs.py", "test_symbolic_is_concrete and 1"),
    "refuses_half": ("test_render.py", "test_operations_compile and float16 and not bfloat16"),
    "renders_anew": ("test_render.py", "test_source_depends_on_the_kernel_alone"),
}
# faults that other tests, which look as if they would do, do not see
HOLDS = {
    "sums_in_a_row": (REDUCE, "test_every_length"),
    "maximum_starts_high": (REDUCE, "test_every_axis or test_maximum"),
    "later_half_first": (INDEXED, "test_scatter"),
}
EVERY_CATCH = " or ".join(f"({expression})" for _, expression in CAUGHT_BY.values())
EXAMINATIONS: list[list[str]] = [
    *([name, name, os.path.join(SUITE, file), "-k", catch] for name, (file, catch) in CAUGHT_BY.items()),
    ["right", "right", "-k", EVERY_CATCH],
    *(
        [f"{name}-below", name, os.path.join(SUITE, file), "-k", holds]
        for name, (file, holds) in HOLDS.items()
    ),
    ["text_only", "text_only", "--petaflop-level=render", "-k", "test_layer_compiles or test_plugin"],
    ["narrow", "narrow", os.path.join(SUITE, COMPUTE), "-k", "test_unary"],
    ["absent", "absent", "--petaflop-level=plugin"],
    ["absent-core", "absent", os.path.join(SUITE, MEMORY), "-k", "round_trip and float32"],
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like site-packages with a stranger's package of wrong backends in it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "petaflop_wrong.py").write_text((WRONG / "petaflop_wrong.py").read_text("utf-8"), "utf-8")
    info = folder / "petaflop_wrong-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: petaflop-wrong\nVersion: 1.0\n", "utf-8")
    names = ["right", "narrow", "absent", "text_only", *CAUGHT_BY]
    lines = ["[petaflop.backends.v1]", *(f"{name} = petaflop_wrong" for name in names), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")
    return folder


Answer = tuple[int, str, dict[str, Any]]


@pytest.fixture(scope="module")
def answers(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Exit code, output and report of every examination of this file, run from an empty folder."""
    folder = tmp_path_factory.mktemp("answers")
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, str(WRONG / "examine.py"), str(folder), *map(json.dumps, EXAMINATIONS)]
    empty = tmp_path_factory.mktemp("empty")
    run = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return {name: _answer(folder, name) for name, *_ in EXAMINATIONS}


def _answer(folder: Path, name: str) -> Answer:
    texts = [(folder / f"{name}.{kind}").read_text("utf-8") for kind in ("code", "txt", "json")]
    return int(texts[0]), texts[1], json.loads(texts[2])


def outcomes(report: dict[str, Any]) -> set[str]:
    return {test["outcome"] for test in report["tests"]}


@pytest.mark.parametrize("name", CAUGHT_BY)
def test_wrong_backend_is_caught(answers: dict[str, Answer], name: str) -> None:
    code, output, report = answers[name]
    assert code == 1, output
    assert "failed" in outcomes(report), output
    assert report["level"]["held"] is None
    expected = "CompileError" if name == "refuses_half" else "AssertionError"
    assert expected in output or "assert " in output, "caught by an accident, not by a comparison"


def test_those_tests_pass_on_a_right_backend(answers: dict[str, Answer]) -> None:
    """What catches the faults is the fault, not the test."""
    code, output, report = answers["right"]
    assert outcomes(report) == {"passed", "not applicable"}, output
    assert code == 1, "a selection cannot show that a level is held"
    assert report["complete"] is False
    assert "incomplete" in output


@pytest.mark.parametrize("name", HOLDS)
def test_a_fault_that_only_one_test_sees(answers: dict[str, Answer], name: str) -> None:
    assert outcomes(answers[f"{name}-below"][2]) == {"passed"}


def test_rendering_needs_no_device(answers: dict[str, Answer]) -> None:
    """A backend without its device holds `render` through petaflop_offline_backend."""
    _, output, report = answers["text_only"]
    assert report["device"] == {"status": "absent"}
    rendered = [test for test in report["tests"] if test["level"] == "render"]
    assert len(rendered) > 20 and {test["outcome"] for test in rendered} == {"passed"}, output
    assert "failed" not in outcomes(report), output


def test_what_is_not_declared_is_counted_and_shown(answers: dict[str, Answer]) -> None:
    _, output, report = answers["narrow"]
    assert outcomes(report) == {"passed", "not declared"}
    count = sum(test["outcome"] == "not declared" for test in report["tests"])
    assert count > 20
    assert f"{count} not declared" in output
    assert "float16" in next(test for test in report["tests"] if "EXP2-float16" in test["id"])["requires"]


def test_an_absent_device_lowers_the_level_and_says_so(answers: dict[str, Answer]) -> None:
    code, output, report = answers["absent"]
    assert code == 0, output
    assert report["level"] == {"asked": "plugin", "held": "plugin", "waived": 0}
    assert report["device"] == {"status": "absent"}
    code, output, report = answers["absent-core"]
    assert code == 1
    assert "plug one in" in output
    assert "failed" in outcomes(report)
