"""The thread team: native threads that share the tasks of a launch, and sleep when there are none.

Threads are started by the first launch, never by import, and live in native code: they hold no lock of Python
and no Python state. A forked child makes a team of its own; an exiting process stops its team first.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

from petaflop.plugin_api import DeviceError, config
from petaflop_cpu.jit import Library
from petaflop_cpu.memory import PRIVATE
from petaflop_cpu.runner import FIELDS, TEAM_BYTES

__all__ = ["Team", "available_threads"]

_SPIN_SECONDS = 30e-6
_CHUNKS_PER_WORKER = 16


def available_threads() -> int:
    """PETAFLOP_THREADS, else the cores that this process may run on, by its affinity and its cgroup."""
    if config.threads > 0:
        return config.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_cores()))


def _cgroup_cores(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that the cgroup's quota allows (versions 1 and 2), rounded up; many where there is none."""
    folders = [root, root / "cpu"]
    try:
        for line in own.read_text().splitlines():
            path = line.split(":", 2)[2].strip("/")
            folders += [root / path, root / "cpu" / path]
    except (OSError, IndexError):
        pass  # not Linux, or a container that hides it
    return min((_quota(folder) for folder in folders), default=sys.maxsize)


def _quota(folder: Path) -> int:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text().strip() for name in names).split()
            if quota not in ("max", "-1"):
                return max(1, math.ceil(int(quota) / int(period)))
        except (OSError, ValueError):
            continue
    return sys.maxsize


class Team:
    """`run(records, count)` executes launches on up to `threads` threads, the calling one included."""

    def __init__(self, runner: Library, threads: int) -> None:
        self.threads = threads
        self._runner = runner
        self._run = _RUN(runner["petaflop_run"])
        self._replay = _REPLAY(runner["petaflop_replay"])
        self._reset()
        _teams.add(self)

    def run(self, records: bytes, count: int) -> None:
        """Run `count` records (see runner.py); returns when all of them have finished."""
        with self._lock:
            if not self._started:
                self._start()
            self._run(self._address, records, count)

    def replay(self, control: bytes) -> None:
        """Run the records that control words (see runner.py) name, after filling them in from its table."""
        with self._lock:
            if not self._started:
                self._start()
            self._replay(self._address, control)

    def stop(self) -> None:
        """End the threads; the next `run` starts them anew."""
        with self._lock:
            self._end()
            self._reset(self._lock)

    def __del__(self) -> None:
        self._end()  # before the memory and the code of its threads go

    def _end(self) -> None:
        if self._handles:
            self._words[FIELDS["stop"] // 8] = 1
            _pthread("pthread_mutex_lock")(self._address + FIELDS["mutex"])
            _pthread("pthread_cond_broadcast")(self._address + FIELDS["work_ready"])
            _pthread("pthread_mutex_unlock")(self._address + FIELDS["mutex"])
            for handle in self._handles:
                _pthread("pthread_join")(handle, None)
            self._handles.clear()

    def _reset(self, lock: threading.RLock | None = None) -> None:
        """Fresh memory without threads: at the start, after `stop`, and in a forked child, which has none."""
        self._lock = lock or threading.RLock()  # a signal handler may launch
        self._memory = mmap.mmap(-1, max(mmap.PAGESIZE, TEAM_BYTES + 16 * self.threads), **PRIVATE)
        self._words = (ctypes.c_int64 * (len(self._memory) // 8)).from_buffer(self._memory)
        self._address = ctypes.addressof(self._words)
        self._handles: list[ctypes.c_void_p] = []
        self._started = False

    def _start(self) -> None:
        self._started = True
        self._words[FIELDS["workers"] // 8] = 1
        if self.threads == 1 or os.name != "posix":
            return
        for field, name in _FUNCTIONS.items():
            self._words[FIELDS[field] // 8] = ctypes.cast(_pthread(name), ctypes.c_void_p).value or 0
        _pthread("pthread_mutex_init")(self._address + FIELDS["mutex"], None)
        for condition in ("work_ready", "work_done"):
            _pthread("pthread_cond_init")(self._address + FIELDS[condition], None)
        self._words[FIELDS["spins"] // 8] = _spins(self._runner)
        self._words[FIELDS["spread"] // 8] = _CHUNKS_PER_WORKER * self.threads
        try:
            with _signals_blocked():
                for number in range(1, self.threads):
                    self._handles.append(self._start_one(number))
        except DeviceError:
            self.stop()
            raise
        self._words[FIELDS["workers"] // 8] = self.threads

    def _start_one(self, number: int) -> ctypes.c_void_p:
        argument = TEAM_BYTES + 16 * number - 16
        self._words[argument // 8] = self._address
        self._words[argument // 8 + 1] = number
        handle = ctypes.c_void_p()
        create = _pthread("pthread_create")
        worker = ctypes.c_void_p(self._runner["petaflop_worker"])
        status = create(ctypes.byref(handle), None, worker, self._address + argument)
        if status:
            raise DeviceError(
                f"threads: expected {self.threads} threads, got {os.strerror(status)} at number {number}; "
                f"set PETAFLOP_THREADS={number}"
            )
        return handle


_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_RUN = ctypes.CFUNCTYPE(None, _POINTER, ctypes.c_char_p, _COUNT)
_REPLAY = ctypes.CFUNCTYPE(None, _POINTER, ctypes.c_char_p)

_FUNCTIONS = {
    "lock": "pthread_mutex_lock",
    "unlock": "pthread_mutex_unlock",
    "wait": "pthread_cond_wait",
    "broadcast": "pthread_cond_broadcast",
}
_ARGUMENTS = {
    "pthread_create": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
    "pthread_join": (ctypes.c_void_p, ctypes.c_void_p),
    "pthread_mutex_init": (ctypes.c_void_p, ctypes.c_void_p),
    "pthread_cond_init": (ctypes.c_void_p, ctypes.c_void_p),
}


def _pthread(name: str) -> Any:
    function: Any = getattr(ctypes.CDLL(None), name)
    function.argtypes = _ARGUMENTS.get(name, (ctypes.c_void_p,))
    return function


def _spins(runner: Library) -> int:
    """Pauses that take about `_SPIN_SECONDS` on this machine."""
    spin = ctypes.CFUNCTYPE(None, ctypes.c_int64)(runner["petaflop_spin"])
    trial = 500
    start = time.perf_counter()
    spin(trial)
    return max(10, min(100_000, int(trial * _SPIN_SECONDS / max(time.perf_counter() - start, 1e-7))))


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Threads started within leave every signal to Python's own threads."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_teams: WeakSet[Team] = WeakSet()


def _stop_all() -> None:
    for team in list(_teams):
        team.stop()


def _reset_all() -> None:
    for team in list(_teams):
        team._reset()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
