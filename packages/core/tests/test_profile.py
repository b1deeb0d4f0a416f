"""Profiles: what is recorded, what it adds up to, how it is shown, and what PETAFLOP_DEBUG prints."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from petaflop import profile as profiling
from petaflop import realize
from petaflop.config import overrides
from petaflop.device.registry import get_backend
from petaflop.errors import ShapeError
from petaflop.graph import node as graph
from petaflop.graph.ops import Op
from petaflop.profile import CompileRecord, Profile, profile
from petaflop.report import Ceilings, KernelTotal, totals
from petaflop.tensor import Tensor


def squares(count: int = 6) -> graph.Node:
    """The sum of the squares of `count` numbers, on the reference device."""
    x = realize.from_host(np.arange(count, dtype=np.float32), "reference")
    return graph.reduce(Op.ADD, graph.compute(Op.MUL, x, x), (0,))


@pytest.fixture
def observed() -> Iterator[list[CompileRecord]]:
    """Every compile while the test runs."""
    records: list[CompileRecord] = []
    profiling.observers.append(records.append)
    yield records
    profiling.observers.remove(records.append)


def test_launches_compiles_and_schedules(observed: list[CompileRecord]) -> None:
    with profile() as p:
        assert realize.to_host(squares(6)).item() == 55
        assert realize.to_host(squares(6)).item() == 55  # the second time from the cache
    assert [launch.backend for launch in p.launches] == ["reference"] * 2
    launch = p.launches[0]
    assert launch.seconds > 0 and launch.operations == 12 and launch.bytes == 6 * 4 + 4
    assert launch.thread == threading.get_ident()
    assert [schedule.cached for schedule in p.schedules] == [False, True]
    assert all(record.name == launch.name for record in observed)
    assert p.kernels()[0].calls == 2 and p.kernels()[0].operations == 24
    assert launch.name in p.table() and "GFLOP/s" in p.table()


def test_graphs_are_described_once_each_even_from_the_cache() -> None:
    realize.to_host(squares(8))
    with Profile(describe=lambda roots: f"{len(roots)} root") as p:
        for _ in range(2):
            assert realize.to_host(squares(8)).item() == 140
    assert [record.graph for record in p.schedules] == ["1 root", ""]
    assert all(record.cached for record in p.schedules)


def test_nothing_is_recorded_outside() -> None:
    with profile() as p:
        pass
    realize.to_host(squares(7))
    assert profiling.recorders == ()
    assert not (p.launches or p.compiles or p.schedules or p.memory)


def test_profiles_nest_and_end_on_errors() -> None:
    with profile() as outer:
        with pytest.raises(ZeroDivisionError), profile() as inner:
            realize.to_host(squares(8))
            raise ZeroDivisionError
        realize.to_host(squares(8))
    assert (len(outer.launches), len(inner.launches)) == (2, 1)


def test_other_threads_are_recorded() -> None:
    with profile() as p:
        thread = threading.Thread(target=lambda: realize.to_host(squares(9)))
        thread.start()
        thread.join()
    assert [launch.thread for launch in p.launches] == [thread.ident]


def test_stages_are_kept_only_where_asked() -> None:
    def compiled(recorder: Profile, count: int) -> CompileRecord:
        with recorder:
            profiling.record_compile(
                f"k{count}", "kernel", "d", {"plan": 0.5}, plan="p", loops="l", source="s"
            )
        return recorder.compiles[0]

    assert compiled(Profile(), 1).source is None
    record = compiled(Profile(describe=str), 2)
    assert (record.plan, record.loops, record.source, dict(record.stages)) == ("p", "l", "s", {"plan": 0.5})


# ---- tables ----


def launch(name: str, seconds: float, operations: int, moved: int) -> None:
    profiling.record_launch(name, "text", "d", profiling.clock(), seconds, moved, operations)


def test_table_adds_up_and_names_the_limit() -> None:
    with profile() as p:
        launch("product", 2e-3, 2_000_000_000, 8_000)
        launch("copy", 1e-3, 0, 4_000_000)
        launch("copy", 1e-3, 0, 4_000_000)
    ceilings = Ceilings(operations=4e12, bandwidth=16e9)
    product, copy = sorted(p.kernels(), key=lambda total: total.name, reverse=True)
    for total, limit in ((product, "compute"), (copy, "memory")):
        share, binds = total.share(ceilings)
        assert share == pytest.approx(0.25) and binds == limit
    lines = [line.split() for line in p.table(ceilings).splitlines()]
    assert lines[0][:3] == ["kernel", "device", "calls"] and lines[0][-3:] == ["ceiling", "bound", "by"]
    row = next(line for line in lines if line[0] == "copy")
    assert row == ["copy", "d", "2", "2.000", "50.0%", "1000.0", "0.00", "4.00", "25%", "memory"]
    assert lines[-1] == ["in", "all", "3", "4.000", "100.0%", "500.00", "2.00", "25%"]


def test_table_of_nothing_and_of_no_time() -> None:
    assert Profile().table().splitlines()[-1].split() == ["in", "all", "0", "0.000", "0.00", "0.00"]
    total = KernelTotal("k", "d", "text", 1, 0.0, 1, 1)
    assert total.share(Ceilings(1, 1))[0] == 0
    assert totals([]) == []


def test_memory_by_tensor_and_line() -> None:
    backend = get_backend("reference")
    with profile() as p:
        kept = realize.from_host(np.zeros(1000, np.float32), "reference")
        total = squares(3000)
        realize.realize_nodes((total,), backend.name)
        del total
        gc.collect()
        small = realize.from_host(np.zeros(10, np.float32), "reference")
    table = p.memory_table()
    assert table.startswith("peak memory 16 KB")  # 1000, 3000 and one float32
    lines = table.splitlines()
    assert "test_profile.py" in lines[2] and "12 KB" in lines[2] and "4 KB" in lines[3]
    assert any("float32[1]" in line for line in lines)
    del kept, small


def test_memory_of_tensors_by_the_line_that_made_them() -> None:
    with profile() as p:
        x = Tensor(np.ones((100, 100), np.float32))  # given
        y = (x + 1).realize()  # computed
    rows = [line for line in p.memory_table().splitlines() if "float32[100, 100]" in line]
    assert p.memory_table().startswith("peak memory 80 KB") and len(rows) == 2
    assert any("# given" in row for row in rows) and any("# computed" in row for row in rows)
    del y


def test_memory_given_back_that_was_taken_before() -> None:
    with profile() as p:
        profiling.record_free(1, 100)
        profiling.record_allocation(2, 50)
        profiling.record_tensor(2, "float32[12]")
        profiling.record_free(2, 50)
        profiling.record_allocation(2, 30)  # the identity is used again
    assert p.memory_table().splitlines()[0] == "peak memory 50 B"
    assert "float32[12]" in p.memory_table()


# ---- traces ----


def test_trace_is_what_chrome_reads(tmp_path: Path) -> None:
    with profile() as p:
        realize.to_host(squares(11))
    p.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"X", "C"}
    for event in events:
        assert {"name", "ts", "pid", "tid"} <= set(event)
        assert event["ph"] != "X" or event["dur"] >= 0
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


# ---- PETAFLOP_DEBUG ----


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, ()),
        (1, ("KERNEL",)),
        (2, ("KERNEL", "ms in all", "2.00 GFLOP/s, 1.00 GB/s")),
        (3, ("KERNEL", "ms in all", "GB/s", "PLAN", "LOOPS")),
        (4, ("KERNEL", "ms in all", "GB/s", "PLAN", "LOOPS", "SOURCE")),
        (5, ("KERNEL", "ms in all", "GB/s", "PLAN", "LOOPS", "SOURCE", "ASSEMBLY")),
    ],
)
def test_debug_levels(capsys: pytest.CaptureFixture[str], level: int, expected: tuple[str, ...]) -> None:
    everything = ("KERNEL", "ms in all", "GB/s", "PLAN", "LOOPS", "SOURCE", "ASSEMBLY")
    with overrides(debug=level):
        profiling.record_compile(
            "k1", "KERNEL", "d", {"plan": 0.001}, False, "PLAN", "LOOPS", "SOURCE", lambda: "ASSEMBLY"
        )
        profiling.record_launch("k1", "KERNEL", "d", 0.0, 1e-3, 1_000_000, 2_000_000)
    captured = capsys.readouterr()
    assert captured.out == ""
    for each in everything:
        assert (each in captured.err) == any(each in part for part in expected)
    assert (captured.err == "") == (level == 0)
    assert captured.err.count("KERNEL") == (level > 0)


def test_debug_says_why_a_cached_kernel_has_no_loops(capsys: pytest.CaptureFixture[str]) -> None:
    with overrides(debug=3):
        profiling.record_compile("k1", "KERNEL", "d", {"load": 0.001}, cached=True)
    assert "PETAFLOP_CACHE=0" in capsys.readouterr().err


def test_assembly_is_not_made_unless_asked() -> None:
    def fail() -> str:
        raise AssertionError("asked for")

    with overrides(debug=4), profile():
        profiling.record_compile("k1", "KERNEL", "d", {}, assembly=fail)


# ---- whose line ----


def test_user_line_skips_petaflop() -> None:
    source = "def call(function): return function()"
    inside: dict[str, Callable[[Callable[[], str]], str]] = {"__name__": "petaflop_cpu.backend"}  # type: ignore[dict-item]
    exec(source, inside)
    assert "test_profile.py" in inside["call"](profiling.user_line)


def test_an_error_names_the_users_line_and_not_a_plugins() -> None:
    inside: dict[str, Any] = {"__name__": "petaflop_importer.operators"}
    exec("def add(a, b): return a + b", inside)
    with pytest.raises(ShapeError) as caught:
        inside["add"](Tensor.ones(2), Tensor.ones(3))  # this line
    (note,) = caught.value.__notes__
    assert "test_profile.py:" in note and "# this line" in note


def test_record_functions_take_any_kernel() -> None:
    with profile() as p:
        profiling.record_schedule([], SimpleNamespace(steps=()), 0.1, False)
    assert p.schedules[0].graph == "" and p.schedules[0].seconds == 0.1
