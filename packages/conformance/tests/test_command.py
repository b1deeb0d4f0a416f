"""`petaflop conformance`: core finds the command through its entry point, and knows nothing else of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def petaflop(where: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTHONPATH": "", **variables}
    return subprocess.run(
        [sys.executable, "-m", "petaflop", *arguments],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_examines_a_backend(tmp_path: Path) -> None:
    done = petaflop(tmp_path, "conformance", "reference", "--level", "plugin", "--report", "report.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "level held: plugin" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["level"] == {"asked": "plugin", "held": "plugin", "waived": 0}


def test_help_lists_it(tmp_path: Path) -> None:
    assert "conformance" in petaflop(tmp_path, "--help").stdout
    own = petaflop(tmp_path, "conformance", "--help")
    assert own.returncode == 0 and "--profile" in own.stdout


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """As every plugin can."""
    done = petaflop(tmp_path, "conformance", "reference", PETAFLOP_DISABLE_PLUGINS="petaflop-conformance")
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
