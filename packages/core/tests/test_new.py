"""`petaflop new`: a package in a new folder that works as it is, whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from plugin_offers import Offers, offers

from petaflop.cli import main, new
from petaflop.plugins.hookspecs import API_VERSION
from petaflop.plugins.manager import plugin_manager

__all__ = ["offers"]

KINDS = {"backend": "petaflop.backends", "scheme": "petaflop.quant"}
every_kind = pytest.mark.parametrize("kind", KINDS)


def install(package: Path, site: Path) -> None:
    """Put a package's modules and metadata where Python finds them, as pip does with its wheel."""
    project = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]
    shutil.copytree(package / "src", site, dirs_exist_ok=True)
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n{name} = {value}\n" for group, each in groups for name, value in each.items()]
    (info / "entry_points.txt").write_text("".join(lines))


def test_their_own_tests_pass(tmp_path: Path) -> None:
    folders = []
    for kind, name in (("backend", "my-chip"), ("scheme", "tensor")):
        folders.append(tmp_path / kind)
        assert main(["new", kind, name, "--folder", str(folders[-1])]) == 0
        install(folders[-1], tmp_path / "site")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "PETAFLOP_DEVICE": "reference"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, folders)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "11 passed" in done.stdout, done.stdout + done.stderr


@every_kind
def test_it_is_found_and_used(offers: Offers, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "made"
    assert main(["new", kind, "my-chip", "--folder", str(folder)]) == 0
    install(folder, offers.folder)
    plugin_manager.cache_clear()
    plugin_kind = {"backend": "backend", "scheme": "quant"}[kind]
    assert plugin_manager().get(plugin_kind, "my-chip").name == "my-chip"
    (row,) = [plugin for plugin in plugin_manager().plugins() if plugin.name == "my-chip"]
    assert (row.package, row.status, row.api) == ("petaflop-my-chip", "loaded", API_VERSION)


@every_kind
def test_what_it_writes_and_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", kind, "chip9"]) == 0
    package = tmp_path / "petaflop-chip9"
    assert os.listdir(tmp_path) == ["petaflop-chip9"]
    files = sorted(path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file())
    part = {"backend": "backend.py", "scheme": "scheme.py"}[kind]
    inside = [f"src/petaflop_chip9/{name}" for name in sorted(["__init__.py", "plugin.py", part, "py.typed"])]
    assert files == ["README.md", "pyproject.toml", *inside, "tests/test_petaflop_chip9.py"]
    texts = [path.read_text("utf-8") for path in package.rglob("*") if path.is_file()]
    assert not any(re.search(r"@\w+@", text) for text in texts)
    entry_points = tomllib.loads((package / "pyproject.toml").read_text())["project"]["entry-points"]
    assert entry_points == {f"{KINDS[kind]}.v{API_VERSION}": {"chip9": "petaflop_chip9.plugin"}}
    assert package.stat().st_mode & 0o055 == 0o055 & ~_umask()
    assert f"--petaflop-{kind}=chip9" in capsys.readouterr().out


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "name",
    ["", "Chip", "9chip", "chip!", "a b", "../chip", "chip/..", "-chip", "a--b", "çip", "x" * 41, "chip\n"],
)
def test_bad_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "backend", "--", name]) == 65
    assert "expected lower-case letters and digits, such as mychip, got" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_names_that_are_taken(
    offers: Offers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offers.add("petaflop-chip")
    offers.add("petaflop-other-name", name="fast")
    monkeypatch.chdir(offers.folder)
    before = sorted(os.listdir("."))
    for kind, name, words in (
        ("backend", "chip", "got 'chip', which petaflop-chip 1.0 offers"),
        ("backend", "fast", "got 'fast', which petaflop-other-name 1.0 offers"),
        ("backend", "reference", "got 'reference', which petaflop "),
        ("scheme", "chip", "got 'chip': petaflop-chip 1.0 is installed"),
        ("scheme", "other_name", "petaflop-other-name 1.0 is installed"),
    ):
        assert main(["new", kind, name]) == 65
        assert words in capsys.readouterr().err
    assert sorted(os.listdir(".")) == before


def test_existing_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "file", "dangling"):
        assert main(["new", "scheme", "q9", "--folder", str(tmp_path / name)]) == 65
        assert "expected a folder that does not exist yet" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine" and os.listdir(tmp_path / "empty") == []
    assert main(["new", "scheme", "q9", "--folder", str(tmp_path / "no" / "parent")]) == 74
    assert sorted(os.listdir(tmp_path)) == ["dangling", "empty", "file"]
    with pytest.raises(SystemExit) as caught:
        main(["new", "engine", "q9"])
    assert caught.value.code == 2


@pytest.mark.parametrize(("error", "code"), [(OSError(28, "No space left"), 74), (KeyboardInterrupt(), 130)])
def test_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    filled, calls = new._filled, []

    def fails_late(text: str, words: dict[str, str]) -> str:
        calls.append(text)
        if len(calls) == 8:
            raise error
        return filled(text, words)

    monkeypatch.setattr(new, "_filled", fails_late)
    assert main(["new", "backend", "chip9", "--folder", str(tmp_path / "made")]) == code
    assert os.listdir(tmp_path) == []
