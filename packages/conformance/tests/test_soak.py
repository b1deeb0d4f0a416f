"""The soak: it finds every kind of planted fault, raises no alarm, goes on where it stopped, and what it
prints runs alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from petaflop.device import registry
from petaflop.device.reference import ReferenceBackend
from petaflop.dtype import DTYPES
from petaflop.errors import ArgumentError
from petaflop.graph.ops import Op
from petaflop_conformance import soak as command
from petaflop_conformance.soak import read_counts, write_counts
from petaflop_conformance.soaking import Tally, soak

WRONG = Path(__file__).parent / "wrong"
sys.path.insert(0, str(WRONG))
from petaflop_wrong import BACKENDS  # noqa: E402

# graphs of a main dtype in which the fault has something to break
FAULTS = {
    "max_drops_nan": ("float32", 60),
    "division_truncates": ("int32", 40),
    "flushes_denormals": ("float32", 60),
    "steep_functions_are_off": ("float32", 40),
    "reciprocal_division": ("float32", 40),
    "half_accumulator": ("float32", 40),
    "pad_is_off_by_one": ("int32", 40),
    "cast_wraps": ("float32", 60),
    "ignores_offset": ("float32", 80),
    "stale_cache_key": ("float32", 60),
    "reuses_live_memory": ("float32", 20),
    "racy_reduction": ("float32", 40),
    "negative_index": ("int32", 60),
    "wrong_broadcast_stride": ("float32", 40),
    "wrong_shift": ("uint32", 60),
    "missing_synchronisation": ("float32", 20),
}


@pytest.fixture
def planted(request: pytest.FixtureRequest) -> Iterator[str]:
    """A wrong backend, opened under its own name."""
    name = str(request.param)
    registry.register(BACKENDS[name](name))
    yield name
    registry.clear()


@pytest.mark.parametrize("planted", FAULTS, indirect=True)
def test_every_kind_of_planted_fault_is_found(planted: str) -> None:
    dtype, count = FAULTS[planted]
    for first in range(0, count, 4):
        tally = soak(planted, planted, range(first, first + 4), main=DTYPES[dtype])
        if tally.findings:
            assert tally.findings[0].device == planted
            assert tally.findings[0].message
            return
    pytest.fail(f"{count} graphs, and nothing was found")


def test_no_alarm_on_the_reference_device() -> None:
    tally = soak("reference", "reference", range(24))
    assert tally.findings == [] and tally.graphs == 24
    assert tally.compared > 0.9 * tally.elements
    covered = {name.partition(" ")[0] for name in tally.operations}
    assert covered >= {op.name for op in (Op.ADD, Op.MUL, Op.REDUCE, Op.SCAN, Op.GATHER, Op.CAST, Op.ASSIGN)}


def test_a_seed_is_a_graph() -> None:
    """What a seed gives depends on nothing else."""
    assert _operations(range(5, 8)) == _operations(range(5, 8)) != _operations(range(6, 9))


def _operations(seeds: range) -> dict[str, int]:
    return soak("reference", "reference", seeds).operations


class OffByOne(ReferenceBackend):
    """Wrong in a way that a script in another process sees too: its answers are one too large."""

    name = "off_by_one"

    def copy_out(self, data: memoryview, handle: Any, offset: int) -> None:
        super().copy_out(data, handle, offset)
        data[:1] = bytes([(data[0] + 1) % 256])


def test_a_reproducer_runs_alone(tmp_path: Path) -> None:
    """It finds the fault again in a process of its own, and nothing on a device that is right."""
    registry.register(OffByOne())
    try:
        tally: Tally = soak("off_by_one", "off_by_one", range(2), main=DTYPES["int32"])
    finally:
        registry.clear()
    text = tally.findings[0].script
    assert "petaflop_conformance" not in text, "it is to run where only petaflop and the backend are"
    path = tmp_path / "reproducer.py"
    path.write_text(text, "utf-8")
    right = subprocess.run(
        [sys.executable, str(path), "reference"], capture_output=True, text=True, timeout=100
    )
    assert right.returncode == 0 and "reference is right" in right.stdout, right.stderr
    head = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv[:] = sys.argv[1:]\n"
        "from petaflop.device import registry\nfrom test_soak import OffByOne\n"
        "registry.register(OffByOne())\n"
        "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", head, str(Path(__file__).parent), str(path), "off_by_one"]
    wrong = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert wrong.returncode == 1 and "are wrong on off_by_one" in wrong.stdout, wrong.stdout + wrong.stderr


# ---- the command ----


def test_counts_go_on_where_they_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "counts.json"
    arguments = ["--backend", "reference", "--counts", str(path), "--stretch", "4", "--jobs", "2"]
    assert command.main([*arguments, "--graphs", "8"]) == 0
    first = json.loads(path.read_text("utf-8"))
    assert (first["graphs"], first["next_seed"], first["findings"]) == (8, 8, [])
    assert command.main([*arguments, "--graphs", "8"]) == 0, "all of them have been compared: nothing runs"
    assert json.loads(path.read_text("utf-8"))["operations"] == first["operations"]
    assert command.main([*arguments, "--graphs", "10"]) == 0
    second = json.loads(path.read_text("utf-8"))
    assert (second["graphs"], second["next_seed"]) == (10, 10)
    assert sum(second["versions"].values()) == 10
    assert "10 graphs on reference and reference: 0 mismatches" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path], "nothing is left behind"


def test_counts_of_another_pair_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    write_counts(path, read_counts(path, "cpu", "reference"))
    with pytest.raises(ArgumentError, match="expected counts of mychip against reference"):
        read_counts(path, "mychip", "reference")
    path.write_text("{", "utf-8")
    with pytest.raises(ArgumentError, match="expected the counts of a soak"):
        read_counts(path, "cpu", "reference")


def test_a_backend_that_nobody_offers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backend", "rihgt", "--graphs", "1", "--counts", str(tmp_path / "counts.json")]
    assert command.main(arguments) == 65
    assert "rihgt" in capsys.readouterr().err


def test_a_process_that_dies_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: Any, **options: Any) -> Any:
        return subprocess.CompletedProcess(args, -11, "", "Segmentation fault")

    monkeypatch.setattr(command.subprocess, "run", crash)
    path = tmp_path / "counts.json"
    arguments = ["--backend", "reference", "--counts", str(path), "--graphs", "4", "--jobs", "1"]
    assert command.main(arguments) == 1
    counts = json.loads(path.read_text("utf-8"))
    assert "crashed" in counts["findings"][0]["message"] and counts["graphs"] == 0
