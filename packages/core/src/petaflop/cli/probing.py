"""Tries a plugin in a process of its own, under a time limit, so that a driver may crash or hang.

`python -m petaflop.cli.probing KIND NAME RESULT` is that process: it writes what it found to the file RESULT.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petaflop.device.backend import Backend, DeviceInfo
from petaflop.device.registry import get_backend
from petaflop.errors import DeviceError, PetaflopError
from petaflop.plugins.discovery import one_line
from petaflop.plugins.manager import plugin_manager

__all__ = ["Outcome", "probe", "probe_all"]

_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a probe: a status, why, the traceback if there was one, and the devices seen."""

    status: str
    why: str = ""
    load_ms: float | None = None
    traceback: str = ""
    devices: Sequence[Mapping[str, Any]] = field(default_factory=list)


def probe(kind: str, name: str, seconds: float = 30.0) -> Outcome:
    """Load the plugin, and ask a backend for its devices, in a process that may die."""
    with tempfile.TemporaryDirectory(prefix="petaflop-probe-") as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-P", "-X", "faulthandler", "-m", "petaflop.cli.probing"]
        process = subprocess.Popen(
            [*command, kind, name, str(result)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,
        )
        _running.add(process)
        output = _Tail(process)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return Outcome("broken", f"no answer within {seconds:g} s")
        finally:
            _running.discard(process)
            _end(process)
        return _outcome(code, result, output)


class _Tail(threading.Thread):
    """The end of what a process prints, however much that is."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        assert process.stdout is not None
        self._stream = process.stdout
        self._bytes = b""
        self.start()

    def run(self) -> None:
        with self._stream:
            while part := os.read(self._stream.fileno(), 1 << 16):
                self._bytes = (self._bytes + part)[-4000:]

    def text(self) -> str:
        """Waits for the end, but not for a process that has left the group and holds the pipe open."""
        self.join(1.0)
        return self._bytes.decode(errors="replace")


def probe_all(plugins: Iterable[tuple[str, str]], seconds: float = 30.0) -> list[Outcome]:
    """Probes of many (kind, name), a few at a time; an interrupt ends those that run."""
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(probe, kind, name, seconds) for kind, name in plugins]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(_running):
                _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process and of those that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _outcome(code: int, result: Path, output: _Tail) -> Outcome:
    if code == 0 and result.exists():
        return Outcome(**json.loads(result.read_text()))
    why = f"crashed (signal {-code})" if code < 0 else f"ended with exit code {code}"
    return Outcome("broken", why, traceback=output.text())


# ---- in the child ----


def _try(kind: str, name: str) -> Outcome:
    manager = plugin_manager()
    try:
        if kind == "backend":
            backend = get_backend(name)
            found = [_as_data(device) for device in manager.probe(kind, name) or _own(backend)]
            return Outcome("loaded", "", _load_ms(kind, name), "", found)
        if kind == "tool":
            manager.load(kind, name)
        else:
            manager.get(kind, name)
        return Outcome("loaded", "", _load_ms(kind, name))
    except BaseException as error:  # noqa: BLE001 – whatever a plugin raises is its outcome
        plugin = next((p for p in manager.plugins() if (p.kind, p.name) == (kind, name)), None)
        status = "no-device" if isinstance(error, DeviceError) else "broken"
        if plugin is not None and plugin.status not in ("available", "loaded"):
            status = plugin.status
        cause = error.__cause__ if isinstance(error, PetaflopError) and error.__cause__ else error
        why = plugin.why if plugin is not None and plugin.why else one_line(error)
        return Outcome(status, why, _load_ms(kind, name), "".join(traceback.format_exception(cause)))


def _load_ms(kind: str, name: str) -> float | None:
    return next((p.load_ms for p in plugin_manager().plugins() if (p.kind, p.name) == (kind, name)), None)


def _own(backend: Backend) -> list[DeviceInfo]:
    """What a backend without `petaflop_probe` says about itself."""
    if backend.target is None:
        return [DeviceInfo(backend.name, "interprets kernels in Python")]
    target = backend.target
    return [DeviceInfo(backend.name, f"{target.name} {target.triple} {target.cpu}".strip())]


def _as_data(device: DeviceInfo) -> dict[str, Any]:
    details = {key: str(value) for key, value in device.details.items()}
    return {
        "name": str(device.name),
        "description": str(device.description),
        "status": str(device.status),
        "details": details,
    }


def _main() -> None:
    kind, name, result = sys.argv[1:]
    outcome = _try(kind, name)
    data = {field: getattr(outcome, field) for field in Outcome.__dataclass_fields__}
    Path(result).write_text(json.dumps(data))
    sys.stdout.flush()
    os._exit(0)  # not through a driver's exit handlers: the question has been answered


if __name__ == "__main__":
    _main()
