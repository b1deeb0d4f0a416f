"""Runs several examinations in one process, since starting Python is what takes the time.

Arguments: a folder, then one JSON list [name, backend, *pytest arguments] for each. Writes NAME.txt (output),
NAME.json (report) and NAME.code (exit code) into the folder.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import pytest


def main(folder: Path, *runs: str) -> None:
    for run in runs:
        name, backend, *arguments = json.loads(run)
        report = f"--petaflop-report={folder / name}.json"
        with (
            (folder / f"{name}.txt").open("w", encoding="utf-8") as output,
            contextlib.redirect_stdout(output),
        ):
            code = pytest.main(["-q", "-p", "no:cacheprovider", _option(backend), report, *arguments])
        (folder / f"{name}.code").write_text(str(int(code)), "utf-8")


def _option(subject: str) -> str:
    """A backend's name, or an option that says what to examine instead."""
    return subject if subject.startswith("--") else f"--petaflop-backend={subject}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
