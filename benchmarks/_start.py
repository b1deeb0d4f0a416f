"""One process that starts a model and runs it once, ours or onnxruntime's: `_start.py petaflop|onnxruntime
MODEL FEEDS.npz THREADS`. Prints a line of JSON: seconds by phase, and the most memory that was resident.
"""

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

WARM_RUNS = 3  # before the memory is read: what a process holds when it serves


def ours(path: str, feeds: Mapping[str, Any], threads: int) -> dict[str, float]:
    """Import, load, and a first run with its schedule and its compiles."""
    import petaflop_onnx
    from petaflop.config import overrides
    from petaflop.profile import profile

    imported = time.perf_counter()
    with overrides(threads=threads):
        model = petaflop_onnx.load(path)
        loaded = time.perf_counter()
        with profile() as record:
            run(lambda: [value.numpy() for value in model(feeds).values()], 1)
        done = time.perf_counter()
        run(lambda: [value.numpy() for value in model(feeds).values()], WARM_RUNS)
    native = sum(sum(compiled.stages.values()) for compiled in record.compiles)
    phases = {"import": imported - STARTED, "load": loaded - imported, "first run": done - loaded}
    return phases | {"of it compiling, all threads": native, "all": done - STARTED}


def theirs(path: str, feeds: Mapping[str, Any], threads: int) -> dict[str, float]:
    """Import, a session, and a first run."""
    import onnxruntime

    imported = time.perf_counter()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    loaded = time.perf_counter()
    run(lambda: session.run(None, feeds), 1)
    done = time.perf_counter()
    run(lambda: session.run(None, feeds), WARM_RUNS)
    phases = {"import": imported - STARTED, "load": loaded - imported, "first run": done - loaded}
    return phases | {"all": done - STARTED}


def run(call: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        call()


def resident() -> float:
    """The most megabytes that this process had resident since it began; Linux."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def start() -> None:
    side, path, feeds, threads = sys.argv[1:]
    with np.load(feeds) as file:
        arrays = dict(file)
    seconds = {"petaflop": ours, "onnxruntime": theirs}[side](path, arrays, int(threads))
    print(json.dumps({"seconds": seconds, "megabytes": resident()}))


if __name__ == "__main__":
    start()
