"""What the repository promises about itself: versions, licences, requirements, documents, commands."""

import importlib.util
import re
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from petaflop.cli import main
from petaflop.config import overrides

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [path.parent for path in sorted(ROOT.glob("packages/*/pyproject.toml"))]
every_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)


def read(*parts: str | Path) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def project(package: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(read(package, "pyproject.toml"))
    return table


def tool(name: str) -> ModuleType:
    """A script of tools/, as a module."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@every_package
def test_the_changelog_begins_with_the_version(package: Path) -> None:
    version_file = project(package)["tool"]["hatch"]["version"]["path"]
    version = re.search(r'^__version__ = "(.+)"$', read(package, version_file), re.MULTILINE)
    heading = re.search(r"^## (\S+)", read(package, "CHANGELOG.md"), re.MULTILINE)
    assert version and heading and version[1] == heading[1]


@every_package
def test_a_package_is_complete_and_small(package: Path) -> None:
    assert read(package, "LICENSE") == read("LICENSE")
    assert read(package, "README.md").startswith(f"# {project(package)['project']['name']}\n")
    offers = {
        name for group in project(package)["project"].get("entry-points", {}).values() for name in group
    }
    lines = read(package, "pyproject.toml").splitlines()
    assert len([line for line in lines if line.partition(" = ")[0] not in offers]) <= 40
    assert list(package.glob("src/*/py.typed"))


@every_package
def test_requirements_have_a_floor_and_no_cap(package: Path) -> None:
    table = project(package)["project"]
    assert table["requires-python"] == ">=3.11"
    for requirement in table["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement), requirement


@pytest.mark.parametrize(("name", "most"), [("backend-minimal", 150), ("backend-c", 300)])
def test_an_example_backend_fits_on_a_few_screens(name: str, most: int) -> None:
    """By the strictest count: everything but blank lines."""
    texts = [path.read_text("utf-8") for path in ROOT.glob(f"examples/{name}/src/**/*.py")]
    lines = sum(bool(line.strip()) for text in texts for line in text.splitlines())
    assert 0 < lines < most


def test_test_files_have_unique_names() -> None:
    names = Counter(
        path.name for path in [*ROOT.glob("packages/*/tests/**/test_*.py"), *ROOT.glob("tests/**/test_*.py")]
    )
    assert [name for name, times in names.items() if times > 1] == []


@pytest.mark.parametrize("name", ["architecture.md", "environment.md", "opspec.md"])
def test_generated_documents_are_up_to_date(name: str) -> None:
    assert read("docs", name) == tool("docs").DOCUMENTS[name](), "run `./nox -s docs`"


def test_the_stages_of_the_example_are_those_that_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What no target changes is the same, word for word; the rest comes under the same headings."""
    found = tool("docs").EXAMPLE.search(read("docs", "architecture.md"))
    assert found
    (tmp_path / "example.py").write_text(found["code"])
    monkeypatch.chdir(tmp_path)
    with overrides(device="cpu"):
        assert main(["explain", "example.py"]) == 0
    printed = stages(capsys.readouterr().out.partition("==== schedule 2: ")[2])
    shown = stages(found[0].partition("==== schedule 2: ")[2])
    assert list(shown) == [name for name in printed if name != "compile times"]
    assert list(shown) == ["", "graph", "kernel", "plan", "loops", "source"]
    for name in ("graph", "kernel"):
        assert shown[name] == printed[name]


def stages(text: str) -> dict[str, str]:
    """The indented text under each "[stage]" heading."""
    parts = re.split(r"^\[(.+)\]$", text, flags=re.MULTILINE)
    indented = [re.findall(r"^  .*$", part, re.MULTILINE) for part in parts[::2]]
    return dict(zip(["", *parts[1::2]], ("\n".join(lines) for lines in indented), strict=True))


def test_the_modules_that_documents_name_exist() -> None:
    """`graph/node.py` is a file of core, `packages/core` a path of the repository."""
    core = ROOT / "packages" / "core" / "src" / "petaflop"
    readers_own = set(ROOT.glob("docs/writing-*.md"))  # pages that name files of the reader's package
    documents = {*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("packages/*/README.md")}
    for path in sorted(documents - readers_own):
        for name in re.findall(r"`([\w-]+(?:/[\w.-]*)*(?:\.py|/))`", read(path)):
            if not name.endswith(("example.py", "noxfile.py")):
                patterns = (name, f"packages/*/src/{name}", f"packages/*/src/*/{name}")
                places = [*core.rglob(name), *(place for each in patterns for place in ROOT.glob(each))]
                assert places, f"{path.name}: {name}"


def test_every_variable_that_the_code_names_is_in_the_table() -> None:
    sources = [
        *ROOT.glob("packages/*/src/**/*.py"),
        *ROOT.glob("examples/**/*.py"),
        *ROOT.glob("benchmarks/**/*.py"),
    ]
    named = {word for path in sources for word in re.findall(r"\bPETAFLOP_[A-Z_]*[A-Z]\b", read(path))}
    documented = set(re.findall(r"^\| `(PETAFLOP_\w+)`", read("docs", "environment.md"), re.MULTILINE))
    assert named - documented == set()


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    block = re.search(r"^```\n(.*?)^```", read("README.md"), re.MULTILINE | re.DOTALL)
    assert block
    commands = [line.split("#")[0].strip() for line in block[1].splitlines()]
    assert commands == ["./nox -s demo", "./nox"]
    last = read(".ci", "run").splitlines()[-1]
    assert last == f'{commands[-1]} "$@"'
    for script in ("nox", ".ci/run"):
        assert (ROOT / script).stat().st_mode & 0o111, f"{script} is not executable"


def test_links_in_documents_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("packages/*/*.md")]:
        prose = re.sub(r"^```.*?^```", "", read(path), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
            assert "://" in link or (path.parent / link).exists(), f"{path.relative_to(ROOT)}: {link}"


def test_the_example_of_the_readme_runs() -> None:
    block = re.search(r"^```python\n(.*?)^```", read("README.md"), re.MULTILINE | re.DOTALL)
    assert block
    names: dict[str, Any] = {}
    exec(compile(block[1], "README.md", "exec"), names)
    assert 0.0 < names["loss"].item() < 4.0
