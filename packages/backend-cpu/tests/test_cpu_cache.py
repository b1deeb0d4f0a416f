"""The disk cache across processes: a second one compiles nothing, whatever the folder has been through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_PROGRAM = """
import json, sys
import numpy as np
from petaflop import Tensor
from petaflop.device.registry import get_backend

backend = get_backend("cpu")
compiled = []
compile = backend.compile
backend.compile = lambda source: (compiled.append(1), compile(source))[1]
if "full" in sys.argv:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))  # a write of more fails, as on a full disk
x = Tensor(np.arange(48, dtype=np.float32).reshape(6, 8) / 10)
results = [x.softmax(-1), x @ x.T, (x + 1).log().sum(0)]
values = [result.tolist() for result in results]
print(json.dumps([values, len(compiled)]))
"""


def start(folder: Path | str, *arguments: str) -> subprocess.Popen[str]:
    environment = dict(os.environ, PETAFLOP_CACHE_DIR=str(folder), PETAFLOP_DEVICE="cpu", PETAFLOP_CACHE="1")
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The number of compiles, and what was said on stderr; the results are checked against NumPy."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    results, compiles = json.loads(out)
    x = np.arange(48).reshape(6, 8) / 10
    e = np.exp(x)
    expected: list[Any] = [e / e.sum(-1, keepdims=True), x @ x.T, np.log(x + 1).sum(0)]
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, right, rtol=1e-5)
    return compiles, err


def run(folder: Path | str, *arguments: str) -> tuple[int, str]:
    return finish(start(folder, *arguments))


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    assert run(tmp_path) == (3, "")
    assert run(tmp_path) == (0, "")


def test_damaged_entries_are_compiled_and_written_anew(tmp_path: Path) -> None:
    run(tmp_path)
    damages = (lambda data: data[:-7], lambda data: b"", lambda data: bytes(b ^ 255 for b in data))
    for number, path in enumerate(entries(tmp_path)):
        path.write_bytes(damages[number % 3](path.read_bytes()))
    assert run(tmp_path) == (3, "")
    assert run(tmp_path) == (0, "")


def test_processes_that_start_together(tmp_path: Path) -> None:
    running = [start(tmp_path) for _ in range(3)]
    for process in running:
        compiles, err = finish(process)
        assert compiles <= 3 and err == ""
    assert len(entries(tmp_path)) == len({path.name for path in entries(tmp_path)}) == 4  # and the runner
    assert run(tmp_path) == (0, "")


def test_a_full_disk(tmp_path: Path) -> None:
    compiles, err = run(tmp_path, "full")
    assert compiles == 3
    assert err.count("RuntimeWarning") == 1 and "PETAFLOP_CACHE_DIR" in err
    assert entries(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is Linux's read-only folder")
def test_a_read_only_folder() -> None:
    compiles, err = run("/proc/petaflop")
    assert compiles == 3
    assert err.count("RuntimeWarning") == 1 and "PETAFLOP_CACHE_DIR" in err
