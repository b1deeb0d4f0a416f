"""What every benchmark shares: cases made of the same values for us and the peers, and their measurement.

A case is checked against float64 on every side. Then the sides take turns in one process, on equal threads;
what counts is the median of each side's turns. Freed memory stays with every side alike: a result that is
made anew costs no page faults, neither ours, which come from a pool, nor a peer's (see `_keep_memory`).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _ceilings import Ceilings, measure_ceilings, need_compiler
from _report import Bar, Group, Row, show, show_totals, write
from rich.console import Console
from threadpoolctl import ThreadpoolController

from petaflop import Tensor, jit
from petaflop.config import overrides

__all__ = [
    "Bar",
    "Case",
    "Pair",
    "arrays",
    "bench",
    "compare",
    "compiled",
    "console",
    "main",
    "options",
    "pair",
    "same",
    "worst_error",
]

Array = np.ndarray[Any, Any]
Call = Callable[[], Any]
console = Console(width=180)

_TURN = 1e-3  # seconds that a turn of a short call lasts
_LONG = 20e-3  # seconds from which on a call does not notice how its threads begin
_PAUSE = 3e-3  # seconds after which the threads of the side before no longer spin


def _keep_memory() -> None:
    """Let malloc keep what is freed, and PyTorch ask for huge pages, as our pool does both."""
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # read at PyTorch's first allocation
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not (mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1)):
        raise SystemExit(
            "benchmarks: expected glibc's mallopt, so that all sides keep their memory, got none"
        )


_keep_memory()


@dataclass(frozen=True)
class Pair:
    """The same values for us and for PyTorch."""

    ours: Tensor
    theirs: torch.Tensor


@dataclass(frozen=True)
class Case:
    """A row: what we run, what the peers run, the true results, and the work for the ceilings.

    `error` is the largest that any side may show, relative to the largest true value. A side with a state is
    checked over its first `steps` calls, whose results the truth gives in order. `portable` is the function
    on its inputs, for frameworks that spell tensors as we do.
    """

    name: str
    kind: str
    ours: Call
    peers: Mapping[str, Call]
    truth: Call
    operations: float = 0.0
    reads: float = 0.0
    writes: float = 0.0
    dtype: str = "float32"
    error: float = 1e-5
    streams: bool = False
    steps: int = 1
    note: str = ""
    portable: tuple[Callable[..., Any], Sequence[Pair]] | None = field(default=None, repr=False)


def pair(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Pair:
    """Normal floats, or integers over all of int8."""
    rng = np.random.default_rng(seed)
    if dtype == "int8":
        return same(rng.integers(-128, 128, shape).astype(np.int8))
    made = same(rng.standard_normal(shape, dtype=np.float32))
    if dtype == "bfloat16":
        return Pair(made.ours.bfloat16().realize(), made.theirs.bfloat16())
    return made


def same(values: Array) -> Pair:
    """An array as a tensor of both."""
    return Pair(Tensor(values).realize(), torch.from_numpy(values))


def compiled(function: Callable[..., Any], whole: bool = True) -> Callable[..., Any]:
    """`torch.compile` for exactly these shapes and this number of threads; an error where it cannot."""
    need_compiler()
    torch._inductor.config.cpp.threads = torch.get_num_threads()  # also a part of the key of its cache
    made: Callable[..., Any] = torch.compile(function, fullgraph=whole, dynamic=False)
    return made


def compare(
    name: str,
    kind: str,
    inputs: Sequence[Pair],
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    compile: bool = False,
    **work: Any,
) -> Case:
    """A case of a pure function: ours replayed by `jit`; theirs eagerly, and compiled if asked for.

    The truth is what theirs gives on float64. `work` is what else a Case takes.
    """
    replayed = jit(ours)
    mine, other = [each.ours for each in inputs], [each.theirs for each in inputs]
    peers: dict[str, Call] = {"eager": lambda: theirs(*other)}
    if compile:
        torch._dynamo.reset()  # cases of one function count as its recompiles, of which there may be few
        made = compiled(theirs)
        peers["compile"] = lambda: made(*other)
    truth = work.pop("truth", lambda: theirs(*(value.double() for value in other)))
    peers |= work.pop("peers", {})
    return Case(name, kind, lambda: replayed(*mine), peers, truth, portable=(ours, inputs), **work)


def arrays(result: Any) -> list[Array]:
    """A result of any side as float64 arrays."""
    if isinstance(result, (list, tuple)):
        return [array for each in result for array in arrays(each)]
    if isinstance(result, torch.Tensor):
        return [result.detach().double().numpy()]
    values = result if isinstance(result, np.ndarray) else np.asarray(result.numpy())
    return [values.astype(np.float64)]


def worst_error(name: str, case: Case, run: Call, truth: Sequence[Array]) -> float:
    """The worst over the results of the first calls."""
    got = [array for _ in range(case.steps) for array in arrays(run())]
    if [array.shape for array in got] != [array.shape for array in truth]:
        raise ValueError(f"{name}: expected {[a.shape for a in truth]}, got {[a.shape for a in got]}")
    scales = [max(float(np.abs(array).max(initial=0.0)), 1e-30) for array in truth]
    pairs = zip(got, truth, scales, strict=True)
    errors = [float(np.abs(mine - true).max(initial=0.0)) / scale for mine, true, scale in pairs]
    if not max(errors) <= case.error:  # a NaN is no small error
        raise ValueError(f"{name}: expected an error of at most {case.error:g}, got {max(errors):g}")
    return max(errors)


def _seconds(function: Call, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - started) / calls


def _turn(function: Call, usual: float) -> float:
    """Seconds of a call, once the side before has gone to sleep and this one has woken up."""
    if usual >= _LONG:
        return _seconds(function, 1)
    time.sleep(_PAUSE)
    function()
    return _seconds(function, min(max(int(_TURN / usual), 1), 100))


def take_turns(sides: Mapping[str, Call], turns: int) -> dict[str, float]:
    """The median seconds of each side over its turns."""
    usual = {}
    for name, function in sides.items():
        function(), function()
        usual[name] = _seconds(function, 1)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, function in sides.items():
            times[name].append(_turn(function, usual[name]))
    return {name: statistics.median(column) for name, column in times.items()}


def measure(case: Case, threads: int, turns: int, ceilings: Ceilings) -> Row:
    """Check all sides, then time them."""
    truth = arrays(case.truth())
    sides = {"petaflop": case.ours, **case.peers}
    errors = {name: worst_error(name, case, run, truth) for name, run in sides.items()}
    del truth
    taken = take_turns(sides, turns)
    ours = taken.pop("petaflop")
    floors = {
        "compute": case.operations / ceilings.peak(case.dtype),
        "memory": ceilings.memory_seconds(case.reads, case.writes),
    }
    binds = max(floors, key=lambda name: floors[name])
    rates = [f"{case.operations / ours / 1e9:.1f} GFLOP/s"] if case.operations else []
    rates += [case.note] if case.note else []
    rates += [f"{(case.reads + case.writes) / ours / 1e9:.1f} GB/s"] if case.reads else []
    return Row(
        case.name,
        case.kind,
        threads,
        ours * 1e3,
        {name: seconds * 1e3 for name, seconds in taken.items()},
        floors[binds] * 1e3,
        binds if floors[binds] else "",
        ", ".join(rates),
        errors["petaflop"],
        case.streams,
    )


def options(description: str) -> argparse.Namespace:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", help="rows whose name has one of these words; all without any")
    parser.add_argument("--runs", type=int, default=20, help="turns of each side in a row (default 20)")
    parser.add_argument("--threads", type=int, action="append", help="threads; one and all cores without it")
    parser.add_argument("--out", type=Path, help="folder for a JSON file and a chart")
    given = parser.parse_args()
    given.threads = given.threads or sorted({1, len(os.sched_getaffinity(0))})
    return given


@dataclass
class _Rows:
    """Rows as they come, printed at once: a crash of a peer leaves what was measured."""

    group: str
    bars: Mapping[str, Bar]
    found: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.found.append(row)
        peers = ", ".join(f"{name} {taken:.3f}" for name, taken in row.peers.items())
        score = row.score(self.bars[row.kind])
        text = row.failure or f"{row.ours:.3f} {row.unit}; {peers}" + (f"; {score:.2f}" if score else "")
        console.print(f"{self.group}: {row.name}, {row.threads} threads: {text}", highlight=False)


def _made(cases: Iterable[Case], kept: _Rows, kind: str, threads: int) -> Iterator[Case]:
    """The cases; one that cannot be made ends them as a failed row, and leaves the rows before."""
    try:
        yield from cases
    except Exception as error:  # noqa: BLE001 – whatever a side raises when it is set up
        kept.add(failed("a row that could not be set up, and those after", kind, threads, error))


def failed(name: str, kind: str, threads: int, error: BaseException) -> Row:
    """A row that says what went wrong; the script goes on, and ends with exit code 1."""
    traceback.print_exception(error, file=sys.stderr)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return Row(name, kind, threads, failure=f"{type(error).__name__}: {lines[0][:120]}")


def bench(group: str, bars: Mapping[str, Bar], rows: Callable[[argparse.Namespace], Iterator[Row]]) -> None:
    """Show and keep the rows of a script that measures in a way of its own."""
    given = options(f"{group} against peers")
    finish(Group(group, bars, _all(group, bars, rows(given))), given)


def _all(group: str, bars: Mapping[str, Bar], rows: Iterable[Row]) -> list[Row]:
    kept = _Rows(group, bars)
    for row in rows:
        kept.add(row)
    return kept.found


def finish(group: Group, given: argparse.Namespace) -> None:
    """The tables, the files, and exit code 1 if a row failed."""
    for threads in sorted({row.threads for row in group.rows}):
        show(group, [row for row in group.rows if row.threads == threads], console)
    show_totals(group, console)
    if given.out:
        write(given.out, group)
    if any(row.failure for row in group.rows):
        raise SystemExit(1)


def main(
    group: str, cases: Callable[[], Iterable[Case]], bars: Mapping[str, Bar], gradients: bool = False
) -> None:
    """Run a group at one thread and at all; `--out FOLDER` keeps a JSON file and a chart."""
    given = options(f"{group} against peers")
    gc.collect()
    gc.freeze()  # what importing a peer leaves behind is not walked in the middle of our kernels
    kept, ceilings = _Rows(group, bars), {}
    numpy_threads = ThreadpoolController().select(internal_api="openblas")
    for threads in given.threads:
        torch.set_num_threads(threads)
        numpys = numpy_threads.limit(limits=threads)
        with overrides(threads=threads), numpys, torch.set_grad_enabled(gradients):
            limits = measure_ceilings(threads)
            ceilings[threads] = str(limits)
            for case in _made(cases(), kept, next(iter(bars)), threads):
                if given.names and not any(word in case.name for word in given.names):
                    continue
                try:
                    kept.add(measure(case, threads, given.runs, limits))
                except Exception as error:  # noqa: BLE001 – whatever a side raises fails its row
                    kept.add(failed(case.name, case.kind, threads, error))
    finish(Group(group, bars, kept.found, ceilings), given)
