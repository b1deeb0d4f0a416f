"""Launches and captures: task counts, phases, offsets, working memory, rebinding, and what a call costs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from kernels import ADD, Counts, backend, load_add

from petaflop.errors import CompileError
from petaflop.ir.loops import PhaseSignature, Signature
from petaflop_cpu.launch import CpuReplay

HALF_OF_N = ["DIV", ["ADD", "step", 1], 2]  # (n + 1) / 2 tasks, as ir/loops.py writes it


@pytest.mark.parametrize("tasks", [0, 1, 2, 3, 31, 32, 33, 1000, 4097])
def test_every_task_runs_once(tasks: int) -> None:
    counts = Counts(5000)
    load_add([tasks])([(counts.handle, 0)], [7])
    assert (counts.values[:tasks] == 7).all()
    assert not counts.values[tasks:].any()


def test_phases_run_in_turn_and_offsets_hold() -> None:
    counts = Counts(100)
    load_add([1, 64, 0, 3])([(counts.handle, 80)], [1])
    assert counts.values.tolist() == [0] * 10 + [3, 2, 2] + [1] * 61 + [0] * 26


def test_shared_memory_is_one_more_buffer_and_scratch_is_private() -> None:
    source = """
    define void @write(ptr %buffers, ptr %variables, ptr %scratch, i64 %first, i64 %last) {
      %out = load ptr, ptr %buffers
      %shared_at = getelementptr ptr, ptr %buffers, i64 1
      %shared = load ptr, ptr %shared_at
      %at = getelementptr ptr, ptr %out, i64 0
      store ptr %shared, ptr %at
      %next = getelementptr ptr, ptr %out, i64 1
      store ptr %scratch, ptr %next
      %end = getelementptr i8, ptr %scratch, i64 99999
      store i8 1, ptr %end
      ret void
    }
    """
    signature = Signature("write", (PhaseSignature("write", 1),), ("out",), (), scratch=100_000, shared=1000)
    launch = backend().load(backend().compile(source), signature)
    counts = Counts(2)
    launch([(counts.handle, 0)], [])
    assert (counts.values % 64 == 0).all()
    assert counts.values.all()
    assert counts.values[0] != counts.values[1]


def captured() -> CpuReplay:
    launches = [
        (load_add([2, 1]), [0], [1]),
        (load_add([HALF_OF_N]), [1], [0]),
        (load_add([1]), [2], [1]),
    ]
    replay = backend().capture(launches)
    assert replay is not None
    return replay


def test_a_replay_takes_new_buffers_and_values() -> None:
    replay = captured()
    a, b, c = Counts(8), Counts(8), Counts(8)
    replay([(a.handle, 0), (b.handle, 0), (c.handle, 0)], [5, 1])
    assert a.values.tolist() == [2, 1, 0, 0, 0, 0, 0, 0]
    assert b.values.tolist() == [5, 5, 5, 0, 0, 0, 0, 0]
    assert c.values.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    replay([(c.handle, 8), (a.handle, 32), (b.handle, 56)], [3, 10])
    assert c.values.tolist() == [1, 20, 10, 0, 0, 0, 0, 0]
    assert a.values.tolist() == [2, 1, 0, 0, 3, 3, 0, 0]
    assert b.values.tolist() == [5, 5, 5, 0, 0, 0, 0, 10]


def test_a_replay_takes_lists_of_another_length() -> None:
    replay = captured()
    a = Counts(8)
    replay([(a.handle, 0)] * 3, [1, 1])
    replay([(a.handle, 0)] * 5, [1, 1, 9])
    assert a.values.tolist() == [8, 2, 0, 0, 0, 0, 0, 0]


def test_shared_memory_stays_in_place_in_a_replay() -> None:
    launches = [(load_add([1], shared=shared), [n], [n]) for n, shared in enumerate([64, 0, 5000])]
    replay = backend().capture(launches)
    assert replay is not None
    counts = [Counts(1) for _ in range(3)]
    replay([(each.handle, 0) for each in counts], [3, 4, 5])
    assert [int(each.values[0]) for each in counts] == [3, 4, 5]


def test_a_foreign_launch_is_not_captured() -> None:
    assert backend().capture([(lambda buffers, variables: None, [0], [0])]) is None


def test_a_capture_keeps_its_code_loaded() -> None:
    replay = backend().capture([(load_add([1]), [0], [0]) for _ in range(50)])
    assert replay is not None
    for _ in range(20):
        load_add([1])  # loaded and unloaded, where the code would be if it were gone
    counts = Counts(1)
    replay([(counts.handle, 0)], [2])
    assert counts.values[0] == 100


@pytest.mark.parametrize(
    "damage", [lambda b: b[:10], lambda b: b"", lambda b: b"x" + b[1:], lambda b: b[:300]]
)
def test_a_damaged_binary_is_refused(damage: object) -> None:

    whole = backend().compile(ADD)
    signature = Signature("add", (PhaseSignature("add", 1),), ("counts",), ("step",))
    with pytest.raises(CompileError, match="load: expected"):
        backend().load(damage(whole), signature)  # type: ignore[operator]


def test_assembly_of_a_binary_is_readable() -> None:

    assert "add:" in backend().assembly(backend().compile(ADD))


def best(function: object, repeats: int) -> float:
    """Seconds of the fastest of several batches, per call."""
    results = []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(repeats):
            function()  # type: ignore[operator]
        results.append((time.perf_counter() - start) / repeats)
    return min(results)


def test_a_launch_and_a_replay_cost_next_to_nothing() -> None:
    counts = Counts(8)
    launch, place = load_add([1]), [(counts.handle, 0)]
    replay = backend().capture([(launch, [n], [0]) for n in range(100)])
    assert replay is not None
    places = place * 100
    assert best(lambda: launch(place, (1,)), 500) < 25e-6  # measured 2 µs
    assert best(lambda: replay(places, (1,)), 100) < 250e-6  # measured 17 µs; the bar is 500 µs


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    from petaflop.config import overrides

    results = []
    for threads in (1, 2, 5):
        with overrides(threads=threads):
            counts = Counts(777)
            load_add([777])([(counts.handle, 0)], [threads])
            assert backend().team.threads == threads
            results.append(counts.values // threads)
    assert all(np.array_equal(results[0], other) for other in results)
