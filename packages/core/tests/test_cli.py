"""The command line: exit codes, bad files, and what it prints; with an importer and backends of our own."""

from __future__ import annotations

import ast
import errno
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from plugin_offers import GOOD, Offers, offers

from petaflop import Tensor
from petaflop.cli import COMMANDS, main
from petaflop.cli.files import NpyFile, write_atomically, write_npz
from petaflop.cli.page import page
from petaflop.cli.stages import Section, Stage
from petaflop.config import config, overrides
from petaflop.dtype import float32
from petaflop.plugins.importer import TensorSpec

__all__ = ["offers"]

# An importer of `.toy` files, whose model doubles x: float32[n, 3]; what is in the file makes it fail.
IMPORTER = """
import numpy as np
from petaflop.dtype import bfloat16, float32, int32
from petaflop.errors import FileFormatError
from petaflop.plugins.hookspecs import hookimpl
from petaflop.plugins.importer import TensorSpec

class Value:
    def __init__(self, array): self.array = array
    def realize(self): return self
    def numpy(self): return self.array

class Model:
    inputs = [TensorSpec("x", float32, ("n", 3)), TensorSpec("y", int32, ("n",), optional=True),
              TensorSpec("z", bfloat16, (2,), optional=True)]
    outputs = [TensorSpec("double", float32, ("n", 3)), TensorSpec("file", int32, ())]
    def __call__(self, inputs):
        return {"double": Value(inputs["x"] * 2), "file": Value(np.int32(len(inputs)))}

class Toy:
    name, extensions = "toy", (".toy", ".tiny")
    def load(self, path, device=None):
        if b"bad" in path.read_bytes():
            raise FileFormatError(f"{path}: header: expected a toy, got b'bad'")
        if b"bug" in path.read_bytes():
            raise ZeroDivisionError("a bug")
        if b"stop" in path.read_bytes():
            raise KeyboardInterrupt
        return Model()

@hookimpl
def petaflop_importer(name):
    return Toy() if name == "toy" else None
"""


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process-wide settings that a command line may change, put back; plugins found anew."""
    from petaflop.cli import devices, models, plugins
    from petaflop.device import registry
    from petaflop.plugins import manager

    monkeypatch.setattr(config, "device", "reference")
    monkeypatch.setattr(registry, "_backends", {})
    fresh = manager.PluginManager()
    for module in (manager, models, plugins, devices):
        monkeypatch.setattr(module, "plugin_manager", lambda: fresh)


@pytest.fixture
def toy(offers: Offers) -> Path:
    """A folder with a model and its input."""
    offers.add("petaflop-toy", IMPORTER, name="toy", group="petaflop.importers.v1")
    (offers.folder / "model.toy").write_bytes(b"good")
    np.save(offers.folder / "x.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    return offers.folder


def call(*words: object) -> int:
    """The exit code of a command line, in this process."""
    try:
        return main([str(word) for word in words])
    except SystemExit as stopped:
        assert isinstance(stopped.code, int)
        return stopped.code


def refuses(capsys: pytest.CaptureFixture[str], *words: object, says: tuple[str, ...], code: int = 65) -> str:
    """The command line fails with `code` and a single line on stderr that has all of `says`."""
    started = time.perf_counter()
    assert call(*words) == code
    assert time.perf_counter() - started < 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("petaflop: "), error
    for each in says:
        assert each in error, f"{each!r} not in {error!r}"
    return error


# ---- usage ----


def test_version_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out.startswith("petaflop 0.")
    assert call() == 2
    assert call("nonsense") == 2
    assert call("run") == 2
    for command in COMMANDS:
        assert call(command, "--help") == 0


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "petaflop", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("petaflop ")


def test_closed_pipe_is_quiet() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "petaflop", "plugins"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


# ---- run ----


def test_run_writes_what_the_model_gave(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", toy / "model.toy", "--input", f"x={toy}/x.npy", "--output", toy / "out.npz") == 0
    with np.load(toy / "out.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["double"], np.arange(6, dtype=np.float32).reshape(2, 3) * 2)
        assert found["file"] == 1  # a name that numpy.savez could not take
    assert "double: float32[2, 3]" in capsys.readouterr().out
    assert not list(toy.glob(".*.partial"))


def test_run_explains_what_the_model_explains(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs are made up where none are given; an importer that cannot explain is told so."""
    refuses(capsys, "run", toy / "model.toy", "--explain", says=("--explain", "model.toy"))
    monkeypatch.setattr("petaflop.cli.run.load_model", lambda *_: _Explained())
    assert call("run", toy / "model.toy", "--explain") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "2 kernel, 1 folded" in lines
    assert ["b", "Mul-14", "kernel"] in [line.split() for line in lines]


class _Explained:
    inputs = outputs = (TensorSpec("x", float32, (2,)),)

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, Tensor]:
        return {"x": Tensor(inputs["x"])}

    def explain(self) -> list[tuple[str, str, str]]:
        return [("a", "Exp-13", "folded"), ("b", "Mul-14", "kernel"), ("c", "Add-14", "kernel")]


def test_run_finds_the_importer(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "model.tiny").write_bytes(b"good")
    (toy / "model.xyz").write_bytes(b"good")
    x = f"x={toy}/x.npy"
    with overrides(disable_plugins=("onnx",)):
        assert (
            call("run", toy / "model.tiny", "--input", x) == 0
        )  # not the name of an importer, but it claims it
        assert call("run", toy / "model.xyz", "--input", x, "--importer", "toy") == 0
        refuses(
            capsys, "run", toy / "model.xyz", "--input", x, says=("model.xyz", "expected one of .toy, .tiny")
        )
    refuses(capsys, "run", toy / "model.toy", "--importer", "no", says=("no plugin provides importer 'no'",))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4"])
def test_npy_orders(toy: Path, order: str, kind: str) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3), kind, order=order)  # type: ignore[call-overload]
    np.save(toy / "x.npy", array)
    assert call("run", toy / "model.toy", "--input", f"x={toy}/x.npy", "--output", toy / "out.npz") == 0
    with np.load(toy / "out.npz") as found:
        np.testing.assert_array_equal(found["double"], array * 2)


def test_npy_of_the_other_byte_order_becomes_native(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3, dtype=">f4"))
    array = NpyFile.open(tmp_path / "x.npy").read()
    assert array.dtype.isnative and array.tolist() == [0, 1, 2]


def test_npy_of_bfloat16_is_a_void(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(toy / "z.npy", np.ones(2, ml_dtypes.bfloat16))
    words = ("run", toy / "model.toy", "--input", f"x={toy}/x.npy", "--input", f"z={toy}/z.npy")
    assert call(*words) == 0
    np.save(toy / "z.npy", np.zeros(2, "V4"))
    capsys.readouterr()
    refuses(capsys, *words, says=("z.npy", "dtype"))


def header(shape: str, descr: str = "'<f4'", version: bytes = b"\x01\x00") -> bytes:
    """A .npy header."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


BAD_NPY = {
    "empty": (b"", "header"),
    "random": (bytes(range(256)) * 8, "header"),
    "magic only": (b"\x93NUMPY", "header"),
    "truncated header": (header("(2, 3)")[:40], "header"),
    "no data": (header("(2, 3)"), "expected 82 bytes" if len(header("(2, 3)")) == 58 else "size"),
    "truncated data": (header("(2, 3)") + b"\0" * 23, "size"),
    "trailing data": (header("(2, 3)") + b"\0" * 25, "size"),
    "a claimed terabyte": (header("(1099511627776, 3)"), "size"),
    "beyond all counting": (header("(9223372036854775807, 9223372036854775807)"), "shape"),
    "negative": (header("(-1, 3)"), "shape"),
    "too long to print": (header(f"(0x{'f' * 9000},)"), "shape"),
    "huge beside nothing": (header("(0, 9223372036854775807, 4)"), "shape"),
    "too many axes": (header(f"({'1,' * 33})") + b"\0" * 4, "shape"),
    "pickled": (header("(2, 3)", "'|O'") + b"\x80\x04N." * 8, "pickled"),
    "a record": (header("(2, 3)", "[('a', '<f4')]") + b"\0" * 24, "dtype"),
    "strings": (header("(2, 3)", "'<U1'") + b"\0" * 24, "dtype"),
    "complex": (header("(2, 3)", "'<c8'") + b"\0" * 48, "dtype"),
    "code for a shape": (header("__import__('os').getcwd()"), "header"),
    "deep brackets": (header("(" * 5000), "header"),
    "unknown version": (header("(2, 3)", version=b"\x09\x00") + b"\0" * 24, "version"),
    "wrong dtype": (header("(2, 3)", "'<f8'") + b"\0" * 48, "expected x: float32[n, 3], got float64[2, 3]"),
    "wrong rank": (header("(6,)") + b"\0" * 24, "expected x: float32[n, 3], got float32[6]"),
    "wrong size": (header("(3, 2)") + b"\0" * 24, "expected x: float32[n, 3], got float32[3, 2]"),
}


@pytest.mark.parametrize("name", BAD_NPY)
def test_bad_npy(toy: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    data, says = BAD_NPY[name]
    (toy / "x.npy").write_bytes(data)
    words = ("run", toy / "model.toy", "--input", f"x={toy}/x.npy", "--output", toy / "out.npz")
    refuses(capsys, *words, says=("x.npy", says))
    assert not (toy / "out.npz").exists() and not list(toy.glob(".*"))


def test_real_pickle_is_never_loaded(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(toy / "x.npy", np.array([[object]]), allow_pickle=True)
    refuses(capsys, "run", toy / "model.toy", "--input", f"x={toy}/x.npy", says=("x.npy", "pickled objects"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--input", "w=x.npy"), ("model.toy", "expected inputs 'x', 'y', 'z', got 'w'")),
        ((), ("model.toy", "got none for 'x'")),
        (("--input", "x.npy"), ("--input", "expected name=file.npy")),
        (("--input", "x=x.npy", "--input", "x=x.npy"), ("--input", "each name once")),
        (("--input", "x=none.npy"), ("none.npy", "No such file")),
        (("--input", "x=."), ("regular file, got a folder",)),
        (("--input", "x=pipe"), ("pipe: expected a regular file, got a device, pipe",)),
        (("--input", "x=/dev/zero"), ("/dev/zero", "regular file")),
        (
            ("--input", "x=x.npy", "--input", "y=y.npy"),
            ("model.toy", "input y: expected n = 2 as in x, got int32[3]"),
        ),
        (("--input", "x=x.npy", "--output", "out.txt"), ("--output", ".npz")),
        (("--input", "x=x.npy", "--output", "no/out.npz"), ("--output", "folder that exists")),
        (("--input", "x=x.npy", "--output", "folder.npz"), ("--output", "got the folder 'folder.npz'")),
        (("--input", "x=x.npy", "--output", "pipe.npz"), ("--output", "device, pipe or socket 'pipe.npz'")),
        (("--input", "x=x.npy", "--output", "/proc/out.npz"), ("--output", "folder to write in, got '/proc")),
        (
            ("--input", "x=x.npy", "--device", "referense"),
            ("no plugin provides device", "Did you mean 'reference'?"),
        ),
    ],
)
def test_bad_arguments(
    toy: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    says: tuple[str, ...],
) -> None:
    monkeypatch.chdir(toy)
    np.save(toy / "y.npy", np.zeros(3, np.int32))
    os.mkfifo(toy / "pipe")
    os.mkfifo(toy / "pipe.npz")
    (toy / "folder.npz").mkdir()
    before = sorted(toy.iterdir())
    refuses(capsys, "run", "model.toy", *words, says=says)
    assert [path for path in sorted(toy.iterdir()) if path.name != "__pycache__"] == [
        path for path in before if path.name != "__pycache__"
    ]


def test_output_goes_to_regular_files_only(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run", toy / "model.toy", "--input", f"x={toy}/x.npy", "--output")
    os.mkfifo(toy / "pipe.npz")
    refuses(capsys, *words, toy / "pipe.npz", says=("--output", "regular file", "pipe"))
    assert stat.S_ISFIFO(os.stat(toy / "pipe.npz").st_mode)
    (toy / "link.npz").symlink_to("real.npz")
    assert call(*words, toy / "link.npz") == 0
    assert (toy / "link.npz").is_symlink() and (toy / "real.npz").is_file()


def test_bad_model(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "model.toy").write_bytes(b"bad")
    error = refuses(capsys, "run", toy / "model.toy", says=("FileFormatError", "model.toy", "header"))
    assert "Traceback" not in error
    refuses(capsys, "run", toy / "none.toy", says=("none.toy", "No such file"))
    refuses(capsys, "run", toy / "none\0.toy", says=("embedded null",))
    os.mkfifo(toy / "pipe.toy")
    for command in ("run", "bench", "explain"):
        refuses(capsys, command, toy / "pipe.toy", says=("pipe.toy", "pipe"))


def test_bugs_and_interrupts(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "model.toy").write_bytes(b"bug")
    assert call("run", toy / "model.toy") == 70
    error = capsys.readouterr().err
    assert "Traceback" in error and "this is a bug: ZeroDivisionError: a bug" in error
    (toy / "model.toy").write_bytes(b"stop")
    assert call("run", toy / "model.toy") == 130
    assert capsys.readouterr().err == "petaflop: interrupted\n"


def test_outputs_replace_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    write_npz(path, {"a": np.zeros(2)})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        write_npz(path, {"a": np.ones(2), "b": np.array([object()])})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    for name in ("../b", "/b", "", "b" * 40_000, "b\33[31m"):
        with pytest.raises(ValueError, match="output names"):
            write_npz(path, {name: np.zeros(2)})
    umask = os.umask(0o027)
    try:
        write_atomically(tmp_path / "page.html", b"x")
    finally:
        os.umask(umask)
    assert (tmp_path / "page.html").stat().st_mode & 0o777 == 0o640


def test_a_failed_write_names_the_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/some/temporary.partial")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*out.npz'$"):
        write_npz(tmp_path / "out.npz", {"a": np.zeros(2)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--size", "m=2"), ("--size: expected names among n, got m",)),
        (("--size", "n=-2"), ("--size", "'n=-2'")),
        (("--size", "n=2", "--size", "n=3"), ("--size", "each name once")),
        (("--size", "n=9999999999999999999"), ("--size", "elements", "for x")),
        (("--size", f"n={'9' * 5000}"), ("--size",)),
    ],
)
def test_bad_sizes(
    toy: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: tuple[str, ...]
) -> None:
    refuses(capsys, "bench", toy / "model.toy", *words, says=says)


def test_what_a_file_says_cannot_drive_the_terminal(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "bad\33[31m\n.toy").write_bytes(b"bad")
    error = refuses(capsys, "run", toy / "bad\33[31m\n.toy", says=("bad?[31m .toy",))
    assert error.strip().isprintable()


def test_output_without_unicode(toy: Path) -> None:
    words = [sys.executable, "-m", "petaflop", "explain", "script.py"]
    (toy / "script.py").write_text("print(chr(8230))\n")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PETAFLOP_DEVICE": "reference"}
    done = subprocess.run(words, cwd=toy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("\\u2026\n"), done.stderr


# ---- plugins and devices ----


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, str]]:
    """`petaflop plugins --json` by name."""
    assert call("plugins", "--json", *words) == 0
    data = json.loads(capsys.readouterr().out)
    return {plugin["name"]: plugin for plugin in data["plugins"]}


def test_plugins_imports_nothing(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    offers.add("petaflop-chip", "raise SystemExit")
    found = listed(capsys)
    assert found["chip"]["status"] == "available" and found["reference"]["status"] == "available"
    assert "petaflop_chip_plugin" not in sys.modules
    assert call("plugins", "chip", "--strict") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["KIND", "NAME", "STATUS", "PACKAGE", "API", "WHY"]
    assert lines[1].split() == ["backend", "chip", "available", "petaflop-chip", "1.0", "v1"]


def test_plugins_strict(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    offers.add("petaflop-chip")
    offers.add("petaflop-fastchip")
    assert call("plugins") == 0
    assert call("plugins", "--strict") == 1
    assert "also provided by petaflop-fastchip 1.0" in capsys.readouterr().out


def test_plugins_reports_dead_words(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    with overrides(disable_plugins=("petaflop-chp",)):
        assert call("plugins") == 0
    assert "'petaflop-chp' matches no plugin" in capsys.readouterr().err


def test_plugins_reports_tools_that_are_none(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    offers.add("petaflop-watch", name="watch", group="petaflop.tools.v1")
    with overrides(tools=("watch", "nope", "reference")):
        assert call("plugins") == 0
        error = capsys.readouterr().err
        assert call("plugins", "--json") == 0
    assert error == "PETAFLOP_TOOLS: 'nope' matches no tool\nPETAFLOP_TOOLS: 'reference' matches no tool\n"
    assert json.loads(capsys.readouterr().out)["unmatched_tools"] == ["nope", "reference"]


HEAD = (
    "from petaflop.errors import DeviceError\nfrom petaflop.plugins.hookspecs import hookimpl\n"
    "@hookimpl\ndef petaflop_backend(name):\n"
)
CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
PROBES = {
    "good": (GOOD.format(name="good"), "loaded", ""),
    "segfault": (CRASH, "broken", f"crashed (signal {signal.SIGSEGV.value})"),
    "exit": ("import os\nos._exit(3)", "broken", "ended with exit code 3"),
    "importerror": ("import petaflop_not_there", "broken", "No module named 'petaflop_not_there'"),
    "absent": (HEAD + "    raise DeviceError('no card: plug one in')\n", "no-device", "no card: plug one in"),
    "noisy": ("print('hello')\n" + GOOD.format(name="noisy"), "loaded", ""),
}


def test_probe_survives_everything(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (source, _, _) in PROBES.items():
        offers.add(f"petaflop-{name}", source, name=name)
    found = listed(capsys, "--probe", *PROBES)
    for name, (_, status, why) in PROBES.items():
        assert found[name]["status"] == status, found[name]
        assert why in found[name]["why"]
    assert "Traceback" in found["importerror"]["traceback"]
    assert not {f"petaflop_{name}_plugin" for name in PROBES} & set(sys.modules)


def test_probe_does_not_wait_for_ever(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    offers.add("petaflop-hang", "import threading\nthreading.Event().wait()", name="hang")
    found = listed(capsys, "--probe", "--timeout", "0.5", "hang")
    assert (found["hang"]["status"], found["hang"]["why"]) == ("broken", "no answer within 0.5 s")


def test_devices(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    source = GOOD.format(name="chip") + (
        "from petaflop.device.backend import DeviceInfo\n"
        "@hookimpl\ndef petaflop_probe():\n"
        "    return [DeviceInfo('chip', 'two cores'), DeviceInfo('chip:1', 'four')]\n"
    )
    offers.add("petaflop-chip", source)
    offers.add("petaflop-segfault", CRASH, name="segfault")
    offers.add("petaflop-off", GOOD.format(name="off"), name="off")
    with overrides(disable_plugins=("cpu", "off")):
        assert call("devices", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["chip"]["description"] == "two cores" and rows["chip:1"]["status"] == "ok"
    assert rows["segfault"]["description"].startswith("crashed (signal")
    assert rows["off"]["status"] == "disabled"
    assert rows["reference"]["default"] is True


# ---- explain ----

SCRIPT = """
import sys
import numpy as np
from petaflop import realize
from petaflop.graph import node
from petaflop.graph.ops import Op

assert sys.argv[1:] == ["a", "b"], sys.argv
x = realize.from_host(np.arange(12, dtype=np.float32).reshape(3, 4), "reference")
total = node.reduce(Op.ADD, node.compute(Op.MUL, x, x), (1,))
print(realize.to_host(total).ravel().tolist())
"""


def test_explain_prints_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    assert call("explain", tmp_path / "script.py", "a", "b", "--trace", tmp_path / "trace.json") == 0
    text = capsys.readouterr().out
    assert "[14.0, 126.0, 366.0]" in text
    for part in ("[graph]", "REDUCE", "why it ends here", "[kernel]", "reduce", "GFLOP/s", "peak memory"):
        assert part in text
    assert "script.py:11" in text  # the user's own line
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_explain_page_is_whole(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    html = tmp_path / "page.html"
    assert call("explain", tmp_path / "script.py", "a", "b", "--html", html) == 0
    text = html.read_text()
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert "REDUCE" in text
    for outside in ("http", "src=", "@import", "url(", "<script"):
        assert outside not in text


def test_page_escapes() -> None:
    text = page("<b>", "a < b", [Section("<i>", "&", 1, (Stage("<u>", "</pre><script>"),))])
    for tag in ("<b>", "<i>", "<u>", "<script>"):
        assert tag not in text


@pytest.mark.parametrize(
    ("source", "code"),
    [("raise ValueError('mine')", 1), ("raise SystemExit(3)", 3), ("import sys; sys.exit()", 0), ("", 0)],
)
def test_explain_gives_the_script_its_exit_code(tmp_path: Path, source: str, code: int) -> None:
    (tmp_path / "script.py").write_text(source)
    assert call("explain", tmp_path / "script.py") == code


@pytest.mark.parametrize("data", [b"def f(:\n", b"\0\0", bytes(range(128, 256)), b"-" * 100_000 + b"1"])
def test_explain_refuses_what_is_no_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    (tmp_path / "script.py").write_bytes(data)
    refuses(capsys, "explain", tmp_path / "script.py", says=("script.py", "expected Python"))


def test_commands_have_modules() -> None:
    folder = Path(sys.modules["petaflop.cli"].__path__[0])
    for name in COMMANDS:
        tree = ast.parse((folder / f"{name}.py").read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {"configure", "run"} <= functions
