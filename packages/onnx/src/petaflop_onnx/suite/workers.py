"""A process per core runs cases one by one; one that crashes, hangs or runs out of memory costs its own case.

The parent loads the suite once and forks, so that a new worker is ready in milliseconds where the system can
fork; elsewhere each worker loads the suite itself.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from petaflop_onnx.suite.cases import load_suite, run_case

__all__ = ["Outcome", "run_cases"]

_FORK = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
_CONTEXT: Any = multiprocessing.get_context("fork" if _FORK else "spawn")
_STARTING = 120.0  # seconds that a worker which must load the suite may take before its first case counts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case: `passed`, `failed`, `crashed` or `hung`, and the error's first line."""

    name: str
    result: str
    seconds: float
    error: str = ""


def _serve(pipe: Connection, memory: int, run: Callable[[str], None]) -> None:
    """A worker: names in, outcomes out, until the pipe closes."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)  # some cases print
        os.dup2(nothing.fileno(), 2)
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        start = time.perf_counter()
        try:
            run(name)
        except Exception as error:  # noqa: BLE001 - whatever it is, the case failed
            last = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({os.path.basename(last.filename)}:{last.lineno})"
            pipe.send(Outcome(name, "failed", time.perf_counter() - start, " ".join(text.split())[:600]))
        else:
            pipe.send(Outcome(name, "passed", time.perf_counter() - start))


@dataclass
class _Worker:
    memory: int
    run: Callable[[str], None]
    pipe: Any = None
    process: Any = None
    name: str = ""
    deadline: float = 0.0
    started: float = 0.0

    def give(self, name: str, limit: float) -> None:
        """Start on a case; a fresh process is made where there is none."""
        extra = 0.0
        if self.process is None:
            self.pipe, theirs = _CONTEXT.Pipe()
            self.process = _CONTEXT.Process(target=_serve, args=(theirs, self.memory, self.run), daemon=True)
            self.process.start()
            theirs.close()
            extra = 0.0 if _FORK else _STARTING
        self.name, self.started = name, time.perf_counter()
        self.deadline = self.started + limit + extra
        self.pipe.send(name)

    def end(self) -> int | None:
        """Stop the process, and say how it ended."""
        if self.process is None:
            return None
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        self.pipe.close()
        self.process = None
        return int(code) if code is not None else None

    def receive(self) -> Outcome:
        """The outcome of the case; a pipe that closed is a crash."""
        try:
            outcome: Outcome = self.pipe.recv()
            return outcome
        except (EOFError, ConnectionError):
            spent = time.perf_counter() - self.started
            self.process.join()
            code = self.process.exitcode
            self.end()
            return Outcome(self.name, "crashed", spent, f"the process ended with {code}")


def run_cases(
    names: Iterable[str],
    workers: int,
    limit: float,
    memory: int,
    run: Callable[[str], None] = run_case,
) -> dict[str, Outcome]:
    """Run the cases by `run`; each may take `limit` seconds, and a worker `memory` bytes of addresses."""
    waiting = deque(names)
    if _FORK and run is run_case:
        load_suite()
    pool = [_Worker(memory, run) for _ in range(max(1, min(workers, len(waiting))))]
    outcomes: dict[str, Outcome] = {}
    try:
        for worker in pool:
            if waiting:
                worker.give(waiting.popleft(), limit)
        while busy := [worker for worker in pool if worker.name]:
            first = min(worker.deadline for worker in busy)
            ready = wait([worker.pipe for worker in busy], max(0.0, first - time.perf_counter()))
            for worker in busy:
                if worker.pipe in ready:
                    outcome = worker.receive()
                elif time.perf_counter() >= worker.deadline:
                    outcome = Outcome(worker.name, "hung", limit, f"took more than {limit:g} s")
                    worker.end()
                else:
                    continue
                outcomes[outcome.name], worker.name = outcome, ""
                if waiting:
                    worker.give(waiting.popleft(), limit)
    finally:
        for worker in pool:
            worker.end()
    return outcomes
