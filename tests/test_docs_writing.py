"""What docs/writing-a-*.md say is done, block by block and in order, by a stranger in an empty folder.

`sh` blocks are run, `python` blocks written to the file that the line before them names (or run, where it
names none), and the lines of a `text` block must appear in what was printed last. pip is kept off the
network: what a package needs is installed already.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
OFFLINE = ["--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
NEEDS = {"Render": "cc"}  # section -> the program without which it and what follows cannot be done


@dataclass
class Stranger:
    """A folder, a Python of its own that sees what this one has installed, and what was printed last."""

    folder: Path
    python: Path
    printed: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str, **variables: str) -> None:
        done = subprocess.run(
            [str(self.python), *command],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=500,
        )
        self.printed = done.stdout
        assert done.returncode == 0, f"{shlex.join(command)}\n{self.printed}"


def stranger(home: Path) -> Stranger:
    """Made without pip's help, so that it needs no network."""
    venv.create(home / "environment", with_pip=False)
    python = home / "environment" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([str(python), "-c", purelib], capture_output=True, text=True, check=True).stdout
    # what this Python finds, its editable installs included, but neither the tests nor the checkout itself
    seen = [path for path in sys.path if path.endswith(("site-packages", f"{os.sep}src"))]
    Path(site.strip(), "seen.pth").write_text("\n".join(seen) + "\n")
    leaks = ("PETAFLOP_", "PYTHONPATH", "PYTEST_", "COV_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(leaks)}
    (home / "work").mkdir()
    return Stranger(home / "work", python, "", {**kept, "PETAFLOP_CACHE_DIR": str(home / "cache")})


# ---- what each kind of block asks for ----


def commands(one: Stranger, text: str, _: str) -> None:
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        variables = dict(word.split("=", 1) for word in words if re.fullmatch(r"[A-Z_]+=.*", word))
        PROGRAMS[words[len(variables)]](one, words[len(variables) + 1 :], variables)


def change_folder(one: Stranger, words: list[str], _: dict[str, str]) -> None:
    one.folder = one.folder / words[0]
    assert one.folder.is_dir()


def install(one: Stranger, words: list[str], variables: dict[str, str]) -> None:
    assert words[0] == "install"
    one.run("-m", "pip", "install", *OFFLINE, *words[1:], **variables)


PROGRAMS: dict[str, Callable[[Stranger, list[str], dict[str, str]], None]] = {
    "cd": change_folder,
    "pip": install,
    "python": lambda one, words, variables: one.run(*words, **variables),
    "petaflop": lambda one, words, variables: one.run("-m", "petaflop", *words, **variables),
    "pytest": lambda one, words, variables: one.run(
        "-m", "pytest", "-p", "no:cacheprovider", *words, **variables
    ),
}


def code(one: Stranger, text: str, before: str) -> None:
    named = re.search(r"`([\w/.-]+\.py)`:$", before)
    path = one.folder / (named[1] if named else "unnamed.py")
    path.write_text(text, "utf-8")
    if not named:
        one.run(path.name)


def printed(one: Stranger, text: str, _: str) -> None:
    """Each line, in order; how far columns stand apart does not matter."""
    found = iter(squeezed(one.printed))
    for line in squeezed(text):
        assert any(line in each for each in found), f"expected {line!r} in what was printed:\n{one.printed}"


def squeezed(text: str) -> Iterator[str]:
    return (" ".join(line.split()) for line in text.splitlines())


BLOCKS: dict[str, Callable[[Stranger, str, str], None]] = {"sh": commands, "python": code, "text": printed}
PART = re.compile(
    r"^## (?P<section>[^\n]+)$|(?P<before>[^\n]*)\n+```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize("name", ["writing-a-backend.md", "writing-a-scheme.md"])
def test_the_page_can_be_followed(name: str, tmp_path: Path) -> None:
    page = (DOCS / name).read_text("utf-8")
    parts = list(PART.finditer(page))
    assert sum(part["kind"] is not None for part in parts) == page.count("\n```") / 2 > 5
    one = stranger(tmp_path)
    for part in parts:
        if part["section"] is None:
            BLOCKS[part["kind"]](one, part["text"], part["before"])
        elif (needed := NEEDS.get(part["section"])) is not None and shutil.which(needed) is None:
            pytest.skip(f"the rest of {name} needs {needed}, which this machine has not")
