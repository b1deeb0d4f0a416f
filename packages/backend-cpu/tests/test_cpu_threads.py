"""The thread team: many callers, fork, exit, interrupts, idleness, and how many threads there are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kernels import Counts, load_add

from petaflop import Tensor, jit
from petaflop.config import overrides
from petaflop.device.registry import get_backend
from petaflop_cpu import threads as module
from petaflop_cpu.backend import CpuBackend

HERE = Path(__file__).parent


@pytest.fixture
def three() -> CpuBackend:
    """A backend with a team of three threads, whatever the machine has."""
    with overrides(threads=3):
        return CpuBackend()


def run_on_three(three: CpuBackend, counts: Counts, tasks: int = 64) -> None:
    with overrides(threads=3):
        load_add([tasks, 1, tasks], three)([(counts.handle, 0)], [1])


def test_many_callers_at_once(three: CpuBackend) -> None:
    launch = load_add([5, 1, 40], three)
    tables = [Counts(40, three) for _ in range(6)]

    def hammer(counts: Counts) -> None:
        for _ in range(500):
            launch([(counts.handle, 0)], [1])

    callers = [threading.Thread(target=hammer, args=(counts,)) for counts in tables]
    with overrides(threads=3):
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    for counts in tables:
        assert counts.values.tolist() == [1500] + [1000] * 4 + [500] * 35


def test_long_and_short_phases_alternate(three: CpuBackend) -> None:
    """Late wakers must not take tasks of the next job: task counts change at every launch."""
    launches = [load_add([tasks], three) for tasks in range(2, 50)]
    counts = Counts(64, three)
    with overrides(threads=3):
        for _ in range(60):
            for launch in launches:
                launch([(counts.handle, 0)], [1])
    assert counts.values.tolist() == [60 * min(48, 49 - task) if task < 49 else 0 for task in range(64)]


def test_a_stopped_team_starts_again(three: CpuBackend) -> None:
    counts = Counts(64, three)
    for _ in range(5):
        run_on_three(three, counts)
        three.team.stop()
    assert (counts.values[1:] == 10).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_a_team_of_its_own(three: CpuBackend) -> None:
    counts = Counts(64, three)
    run_on_three(three, counts)
    child = os.fork()
    if child == 0:
        run_on_three(three, counts)
        os._exit(0 if (counts.values[1:] == 4).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (counts.values[1:] == 2).all(), "the child's memory is its own"
    run_on_three(three, counts)
    assert (counts.values[1:] == 4).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_compiles_kernels_side_by_side() -> None:
    def several_kernels(size: int) -> float:
        ones = Tensor.ones(size, size, device="cpu").contiguous()
        return float((ones @ ones @ ones).sum().item())

    with overrides(cache=False):
        several_kernels(21)  # the threads that compile are there now
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # ends the child if it waits for threads that only its parent has
            os._exit(0 if several_kernels(22) == 22**4 else 1)
        assert os.waitpid(child, 0)[1] == 0


PRELUDE = """
import os, signal, threading, time
from kernels import Counts, load_add, backend
counts = Counts(1000)
launch = load_add([1000])
launch([(counts.handle, 0)], [1])
"""


def run_script(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(HERE), "PETAFLOP_THREADS": "3"} | environment
    command = [sys.executable, "-c", PRELUDE + text]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)


def test_exit_does_not_hang() -> None:
    done = run_script("print(counts.values.sum())")
    assert (done.returncode, done.stdout) == (0, "1000\n"), done.stderr


def test_exit_while_another_thread_computes() -> None:
    text = """
def forever():
    while True:
        launch([(counts.handle, 0)], [1])
threading.Thread(target=forever, daemon=True).start()
while counts.values[0] < 100:
    pass
"""
    done = run_script(text)
    assert done.returncode == 0, done.stderr


def test_an_interrupt_arrives_after_the_launch_and_leaves_the_team_usable() -> None:
    text = """
before = counts.values.copy()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True:
        launch([(counts.handle, 0)], [1])
except KeyboardInterrupt:
    done = counts.values - before
    assert (done == done[0]).all(), "a launch is whole or not there"
    launch([(counts.handle, 0)], [1])
    assert (counts.values - before == done[0] + 1).all()
    print("interrupted")
"""
    done = run_script(text)
    assert done.stdout == "interrupted\n", done.stderr


def test_an_idle_team_uses_no_processor(three: CpuBackend) -> None:
    run_on_three(three, Counts(64, three))
    start, spent = time.monotonic(), time.process_time()
    threading.Event().wait(0.3)
    assert time.process_time() - spent < 0.25 * (time.monotonic() - start)


def test_workers_leave_signals_to_python(three: CpuBackend) -> None:
    run_on_three(three, Counts(64, three))
    masks = []
    for task in Path("/proc/self/task").glob("*/status"):
        blocked = next(line for line in task.read_text().splitlines() if line.startswith("SigBlk"))
        masks.append(int(blocked.split()[1], 16) >> (signal.SIGINT - 1) & 1)
    assert sum(masks) >= 2
    assert 0 in masks


def test_a_signal_handler_may_replay_what_is_about_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler comes at the worst place: the call's table is packed, and its launches have not begun."""
    first, second, third = (Tensor.full((64,), number, device="cpu").realize() for number in (1.0, 2.0, 3.0))
    doubled = jit(lambda x: x * 2)
    for _ in range(3):
        doubled(third)  # what memory that is used again would hold
    team = get_backend("cpu").team
    run, inside = team._replay, []

    def interrupted(*arguments: object) -> None:
        monkeypatch.setattr(team, "_replay", run)
        inside.append(doubled(second))
        run(*arguments)

    monkeypatch.setattr(team, "_replay", interrupted)
    assert doubled(first).tolist() == [2.0] * 64
    assert inside[0].tolist() == [4.0] * 64


def test_no_thread_before_the_first_launch() -> None:
    done = run_script("", PETAFLOP_THREADS="1")
    assert done.returncode == 0, done.stderr
    text = "import petaflop_cpu.backend as b, os; b.CpuBackend(); print(len(os.listdir('/proc/self/task')))"
    made = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    bare = "import numpy, os; print(len(os.listdir('/proc/self/task')))"  # NumPy's own library has threads
    numpy = subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True, timeout=60)
    assert made.stdout == numpy.stdout, made.stderr


# ---- how many ----


def test_the_variable_decides() -> None:
    with overrides(threads=7):
        assert module.available_threads() == 7
    with overrides(threads=0):
        assert 1 <= module.available_threads() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_is_respected() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        with overrides(threads=0):
            assert module.available_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


Files = Callable[[Path], None]


def version_2(folder: Path, quota: str) -> None:
    (folder / "cpu.max").write_text(quota)


def version_1(folder: Path, quota: str) -> None:
    number, period = quota.split()
    (folder / "cpu.cfs_quota_us").write_text(number + "\n")
    (folder / "cpu.cfs_period_us").write_text(period + "\n")


@pytest.mark.parametrize(
    ("write", "quota", "cores"),
    [
        (version_2, "max 100000", sys.maxsize),
        (version_2, "150000 100000", 2),
        (version_2, "10000 100000", 1),
        (version_2, "damaged", sys.maxsize),
        (version_1, "-1 100000", sys.maxsize),
        (version_1, "400000 100000", 4),
    ],
)
def test_cgroup_quotas(tmp_path: Path, write: Callable[[Path, str], None], quota: str, cores: int) -> None:
    for inside in ("", "job/inner"):
        root = tmp_path / (inside or "top")
        (root / inside).mkdir(parents=True)
        own = tmp_path / "own"
        own.write_text(f"0::/{inside}\n")
        write(root / inside, quota)
        assert module._cgroup_cores(root, own) == cores
