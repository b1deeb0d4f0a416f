"""What `petaflop new` writes holds conformance level `plugin` as soon as it is installed."""

import os
import subprocess
import sys
from pathlib import Path


def run(*command: str | Path, where: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=where, env={**os.environ, "PYTEST_ADDOPTS": "", **variables},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(package: Path, site: Path, group: str, name: str) -> None:
    """As pip would do with its wheel, without the network that pip needs to build one."""
    (package / "src").rename(site)
    stem = package.name.replace("-", "_")
    info = site / f"{stem}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {stem}.plugin\n")


def test_a_new_backend_holds_level_plugin(tmp_path: Path) -> None:
    run("petaflop", "new", "backend", "newchip", where=tmp_path)
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install(tmp_path / "petaflop-newchip", site, "petaflop.backends.v1", "newchip")
    suite = (
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--petaflop-backend=newchip",
        "--petaflop-level=plugin",
    )
    found = run(*suite, where=empty, PYTHONPATH=str(site))
    assert "level held: plugin" in found and "0 fail" in found
