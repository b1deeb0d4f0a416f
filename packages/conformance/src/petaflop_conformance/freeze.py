"""Writes the must-pass lists from the suite as it is: `python -m petaflop_conformance.freeze`.

Run it only when a release adds tests on purpose; tests/test_levels.py fails while the lists and the suite
differ.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from petaflop_conformance.examination import level_of
from petaflop_conformance.levels import id_of
from petaflop_conformance.plugin import LEVELS, SUBJECTS

__all__ = ["collect", "main"]


class _Collector:
    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {level: [] for level in LEVELS}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            self.found[level_of(item)].append(id_of(item.nodeid))


def collect() -> dict[str, list[str]]:
    """The sorted test ids of each level, as pytest finds them."""
    collector = _Collector()
    quiet = ["--collect-only", "-qq", "-p", "no:cacheprovider", "-c", "/dev/null"]
    for subject in SUBJECTS.values():  # as folders of tests: no plugin is examined
        code = pytest.main([*quiet, subject.suite], plugins=[collector])
        if code != pytest.ExitCode.OK:
            raise SystemExit(f"freeze: expected the suites to be collected, got pytest exit code {code}")
    return {level: sorted(ids) for level, ids in collector.found.items()}


def main() -> None:
    folder = Path(__file__).parent / "must_pass"
    for level, ids in collect().items():
        (folder / f"{level}.txt").write_text("\n".join([*ids, ""]), "utf-8")
        print(f"{level}: {len(ids)} tests")


if __name__ == "__main__":
    main()
