"""What cannot be examined is one line within seconds; what is installed and does not work is examined."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from petaflop.errors import ArgumentError
from petaflop_conformance.asked import check

SCHEME, USAGE, BAD_INPUT = "wavy8", 4, 65
SECONDS = 20  # two on an idle machine; a suite that runs takes minutes


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages as if installed: a scheme, a backend whose import fails, one for a later petaflop."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "broken_chip.py").write_text("raise RuntimeError('no driver for Tuesdays')\n", "utf-8")
    info = folder / "strange-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n", "utf-8")
    lines = ["[petaflop.quant.v1]", f"{SCHEME} = strange", "[petaflop.backends.v1]"]
    lines += ["brokenchip = broken_chip", "[petaflop.backends.v9]", "laterchip = strange"]
    lines += ["[petaflop.importers.v1]", "brokenfile = broken_chip", ""]
    (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")
    return folder


def run(site: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTHONPATH": str(site), **variables}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=site,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


# (options of pytest, words of the command, what the line says)
REFUSED = {
    "unknown": (["--petaflop-backend=nope"], ["nope"], "no plugin provides device 'nope'. Installed: "),
    "empty": (["--petaflop-backend="], [""], "no plugin provides device ''"),
    "near": (["--petaflop-backend=referense"], ["referense"], "Did you mean 'reference'?"),
    "scheme": (["--petaflop-scheme=nope"], ["nope", "--kind=scheme"], "quantization format 'nope'"),
    "importer": (["--petaflop-importer=nope"], ["nope", "--kind=importer"], "no plugin provides importer"),
    "other kind": (
        [f"--petaflop-backend={SCHEME}"],
        [SCHEME],
        f"which is a quantization format: --petaflop-scheme={SCHEME}, or petaflop conformance",
    ),
    "near another kind": (["--petaflop-backend=wavy9"], ["wavy9"], f"scheme '{SCHEME}': --petaflop-scheme"),
    "command": (["--petaflop-scheme=conformance"], ["conformance", "--kind=scheme"], "which is a command"),
    "samples of a backend": (
        ["--petaflop-backend=reference", "--petaflop-samples=."],
        ["reference", "--samples=."],
        "samples: expected an importer",
    ),
    "waivers": (
        ["--petaflop-backend=reference", "--petaflop-waivers=no.toml"],
        ["reference", "--waivers=no.toml"],
        "expected a TOML file with waivers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_one_line(site: Path, name: str) -> None:
    options, words, said = REFUSED[name]
    for code, command in (
        (USAGE, ["pytest", "-q", *options]),
        (BAD_INPUT, ["petaflop", "conformance", *words]),
    ):
        started = time.perf_counter()
        done = run(site, *command)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line]
        assert done.returncode == code, lines
        assert len(lines) == 1 and said in lines[0], lines
        assert time.perf_counter() - started < SECONDS


@pytest.mark.parametrize("folder", ["nosuch", "broken_chip.py", "strange-1.0.dist-info/empty"])
def test_samples_must_be_a_folder_with_files(site: Path, folder: str) -> None:
    (site / "strange-1.0.dist-info" / "empty").mkdir(exist_ok=True)
    done = run(site, "pytest", "-q", "--petaflop-importer=brokenfile", f"--petaflop-samples={folder}")
    assert done.returncode == USAGE and "samples: expected a folder" in done.stderr


def test_level_model_asks_for_samples(site: Path) -> None:
    done = run(site, "pytest", "-q", "--petaflop-importer=brokenfile", "--petaflop-level=model")
    assert done.returncode == USAGE and "level model: expected a folder of model files" in done.stderr


def reports(folder: Path) -> dict[str, str]:
    """Paths that cannot hold a report, and what is said of each."""
    os.mkfifo(folder / "pipe")
    (folder / "file").write_text("", "utf-8")
    return {
        "nosuch/r.json": "a folder that exists",
        "file/r.json": "a folder that exists",
        ".": "got the folder",
        "": "got the folder",
        "pipe": "device, pipe or socket",
        os.devnull: "device, pipe or socket",
        "x" * 300: "too long",
    }


@pytest.mark.skipif(os.name == "nt", reason="named pipes are files there only elsewhere")
def test_a_report_that_cannot_be_written_is_known_before_the_run(tmp_path: Path) -> None:
    for path, said in reports(tmp_path).items():
        with pytest.raises(ArgumentError, match=f"report: expected .*{said}"):
            check("backend", "reference", None, None, path if os.path.isabs(path) else str(tmp_path / path))
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]
    done = run(tmp_path, "pytest", "-q", "--petaflop-backend=reference", "--petaflop-report=no/r.json")
    assert done.returncode == USAGE and "report: expected" in done.stderr and not done.stdout


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ArgumentError, match="report: expected a folder to write in"):
        check("backend", "reference", None, None, str(tmp_path / "r.json"))


def test_a_report_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """An old one stays if the folder is gone by the end; the verdict is printed all the same."""
    (tmp_path / "reports").mkdir()
    test = "import shutil\n\ndef test_it(): shutil.rmtree('reports')\n"
    (tmp_path / "test_it.py").write_text(test, "utf-8")
    options = ("--petaflop-backend=reference", "--petaflop-report=reports/r.json")
    done = run(tmp_path, "pytest", "-q", *options, "test_it.py")
    assert done.returncode == 3 and "report: [Errno" in done.stdout and "level held: none" in done.stdout


def test_a_disabled_one_says_so(site: Path) -> None:
    done = run(site, "pytest", "-q", "--petaflop-backend=brokenchip", PETAFLOP_DISABLE_PLUGINS="strange")
    assert done.returncode == USAGE and "PETAFLOP_DISABLE_PLUGINS hides 'brokenchip'" in done.stderr


@pytest.mark.parametrize(
    ("name", "said"), [("brokenchip", "no driver for Tuesdays"), ("laterchip", "API v9")]
)
def test_one_that_does_not_work_is_examined(site: Path, name: str, said: str) -> None:
    """At level plugin, which is for that; beyond it each test fails in one line."""
    done = run(site, "petaflop", "conformance", name, "--level=plugin")
    assert done.returncode == 1 and "level held: none" in done.stdout and said in done.stdout
    beyond = run(site, "pytest", "-q", "--petaflop-backend=" + name, "-k", "test_unary and float64")
    assert beyond.returncode == 1 and said in beyond.stdout
    assert (
        "Traceback" not in beyond.stdout
        and len(beyond.stdout.splitlines()) < 60
        and "During" not in beyond.stdout
    ), beyond.stdout
