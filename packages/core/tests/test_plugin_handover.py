"""What plugins hand over: parts that are missing, declarations that cannot hold; and several at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from plugin_offers import ENCODER, FORMAT, GOOD, HEAD, Offers, fails, offers, row

from petaflop.config import overrides
from petaflop.device import registry
from petaflop.device.backend import Backend
from petaflop.errors import PluginError
from petaflop.plugins.manager import PluginManager
from petaflop.plugins.turns import Turns, turns

__all__ = ["offers"]

CHIP = GOOD.format(name="chip")
DTYPES = 'dict.fromkeys(("float32", "int32", "bool"), "native")'
TARGET = "\n    from petaflop.ir.target import Target\n    target = Target('chip', 'gpu')\n    "


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("return Chip()", "return object()", "chip: expected a Backend, got object"),
        ("return Chip()", "return Chip", "chip: expected a Backend, got type"),
        ('name = "chip"', 'name = "other"', "expected a Backend of that name, got one named 'other'"),
        ('name = "chip"', 'name, version = "chip", ""', "chip: version: expected str, got ''"),
        ('name = "chip"', 'name, version = "chip", 2', "chip: version: expected str, got 2"),
        (f"Capabilities(dtypes={DTYPES})", "{}", "expected capabilities, got dict"),
        (DTYPES, "{}", "expected at least the dtypes float32, int32, bool; float32, int32, bool missing"),
        ('"int32", "bool"', '"int32"', "chip: capabilities: expected at least .*; bool missing"),
        (
            '"bool")',
            '"bool", "float33", "int5")',
            "chip: capabilities: unknown dtypes float33, int5; there are",
        ),
        ('"native"', '"slowly"', "float32: expected native or emulated, got 'slowly'"),
        (DTYPES, f"{DTYPES}, images=1", "images: expected True or False, got 1"),
        ("def copy_out", "def kopy_out", "expected the memory methods .*, copy_out missing"),
        ("def allocate", "def alocate", "expected the memory methods .*, allocate missing"),
        ("def interpret", "def interprete", "expected `interpret`, or a `target` with render, compile, load"),
        ("def interpret", "target = 'avx'\n\n    def interpret", "expected a Target or None, got str"),
        ("def interpret", f"{TARGET}def render", "since it has a target; compile, load missing"),
        (DTYPES, f"{DTYPES}, replay=True", "chip: declares replay, but has no `capture`"),
        (DTYPES, f"{DTYPES}, unified_memory=True", "declares unified_memory, but has no `host_view`"),
        (
            "class Chip(Backend):",
            "class Chip(Backend):\n    @property\n    def target(self): 1 / 0",
            "division",
        ),
    ],
)
def test_backend(offers: Offers, before: str, after: str, words: str) -> None:
    assert before in CHIP
    offers.add("petaflop-chip", CHIP.replace(before, after))
    manager = PluginManager()
    for _ in range(2):
        with pytest.raises(PluginError, match=words):
            manager.get("backend", "chip")
    assert row(manager).status == "broken"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("return Format(name)", "return Format", "q: expected a QuantScheme, got type"),
        ("Format(name)", "Format('r')", "q: expected a QuantScheme of that name, got one named 'r'"),
        ("def dequantize", "def dekuantize", "q: expected planes, unpack and dequantize, dequantize missing"),
        ("def bound", "def bind", "q: expected `bound`, since it has `pack`"),
        ("8.0", "0", "q: expected bits_per_weight above 0, got 0"),
        ("8.0", "float('nan')", "q: expected bits_per_weight above 0, got nan"),
        ("(32,)", "(0,)", r"q: block: expected sizes above 0 or None, got \(0,\)"),
        ("(32,), 8.0", "(32,), 8.0\n    version = '1'", "q: version: expected int, got '1'"),
    ],
)
def test_format(offers: Offers, before: str, after: str, words: str) -> None:
    assert before in FORMAT
    offers.add("petaflop-q", FORMAT.replace(before, after), name="q", group="petaflop.quant.v1")
    with pytest.raises(PluginError, match=f"quantization format 'q' cannot be used: .*{words}"):
        PluginManager().get("quant", "q")


def test_a_format_that_is_only_loaded(offers: Offers) -> None:
    source = FORMAT.replace("def pack", "def other").replace("def bound", "def another")
    offers.add("petaflop-q", source, name="q", group="petaflop.quant.v1")
    assert not PluginManager().get("quant", "q").can_pack


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("return Careful()", "return 3", "careful: expected an Encoder, got int"),
        ("def encode", "def enkode", "careful: expected `encode`"),
        (
            '"squares"',
            '"cubes"',
            "importance: expected one of '', 'squares', 'largest', 'hessian', got 'cubes'",
        ),
    ],
)
def test_encoder(offers: Offers, before: str, after: str, words: str) -> None:
    offers.add("petaflop-e", ENCODER, name="careful", group="petaflop.encoders.v1")
    assert PluginManager().get("encoder", "careful").name == "careful"
    offers.add("petaflop-f", ENCODER.replace(before, after), name="careful", group="petaflop.encoders.v1")
    with (
        overrides(disable_plugins=("petaflop-e",)),
        pytest.raises(PluginError, match=f"encoder 'careful' cannot be used: .*{words}"),
    ):
        PluginManager().get("encoder", "careful")


@pytest.mark.parametrize(
    ("importer", "words"),
    [
        ("object()", "toy: expected an Importer with name, extensions and load, got object"),
        ("types.SimpleNamespace(name='toy', extensions=('toy',), load=print)", "expected such as '.onnx'"),
    ],
)
def test_importer(offers: Offers, importer: str, words: str) -> None:
    source = f"import types\n{HEAD}@hookimpl\ndef petaflop_importer(name): return {importer}\n"
    offers.add("petaflop-toy", source, name="toy", group="petaflop.importers.v1")
    fails(PluginManager(), "importer 'toy' cannot be used", words, kind="importer", name="toy")


# ---- several at once ----


class Gate(SimpleNamespace):
    """Where the import of a plugin waits until a test lets it go on."""

    def __init__(self) -> None:
        super().__init__(imports=[], entered=threading.Event(), leave=threading.Event())


WAITS = (
    "import petaflop_gate as gate\ngate.imports.append(1)\ngate.entered.set()\nassert gate.leave.wait(20)\n"
)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setitem(sys.modules, "petaflop_gate", gate)  # type: ignore[arg-type]
    return gate


def use(manager: PluginManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry use `manager`, and forget what it opened before and after."""
    monkeypatch.setattr("petaflop.plugins.manager.plugin_manager", lambda: manager)
    monkeypatch.setattr(registry, "_backends", {})
    monkeypatch.setattr(registry, "_default", {})


def test_threads_import_once(offers: Offers, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    offers.add("petaflop-chip", WAITS + CHIP)
    use(PluginManager(), monkeypatch)
    opened: list[Backend] = []
    threads = [threading.Thread(target=lambda: opened.append(registry.get_backend("chip"))) for _ in range(4)]
    try:
        threads[0].start()
        assert gate.entered.wait(20)
        for thread in threads[1:]:
            thread.start()
            thread.join(0.05)
            assert thread.is_alive()  # it waits for the import that goes on
    finally:
        gate.leave.set()
    for thread in threads:
        thread.join(20)
    assert len(opened) == 4 and set(opened) == {opened[0]} and gate.imports == [1]


def test_a_slow_import_keeps_nobody_else_waiting(
    offers: Offers, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers.add("petaflop-slow", WAITS + GOOD.format(name="slow"), name="slow")
    offers.add("petaflop-chip")
    manager = PluginManager()
    use(manager, monkeypatch)
    slow = threading.Thread(target=registry.get_backend, args=("slow",))
    done: list[object] = []

    def others() -> None:
        done.append(registry.get_backend("chip").name)
        done.append(row(manager, "slow").status)
        done.append("slow" in manager.names("backend"))

    quick = threading.Thread(target=others)
    try:
        slow.start()
        assert gate.entered.wait(20)
        quick.start()
        quick.join(20)
        assert done == ["chip", "available", True]
    finally:
        gate.leave.set()
    slow.join(20)
    assert row(manager, "slow").status == "loaded"


def test_plugins_that_wait_for_each_other(offers: Offers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asks for the other while it is opened, in two threads: an error, no deadlock."""
    both = threading.Barrier(2)
    monkeypatch.setitem(sys.modules, "petaflop_both", SimpleNamespace(wait=both.wait))  # type: ignore[misc]
    for name, other in (("left", "right"), ("right", "left")):
        source = GOOD.format(name=name).replace(
            "    return Chip()",
            "    import petaflop_both\n    petaflop_both.wait(20)\n"
            f"    from petaflop.device.registry import get_backend\n    get_backend({other!r})\n"
            "    return Chip()",
        )
        offers.add(f"petaflop-{name}", source, name=name)
    use(PluginManager(), monkeypatch)
    failures: list[str] = []

    def open_it(name: str) -> None:
        try:
            registry.get_backend(name)
        except PluginError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=open_it, args=(name,), daemon=True) for name in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert any("waits for a plugin that waits for it" in failure for failure in failures)


def test_turns_are_by_key_and_reentrant() -> None:
    turns = Turns()
    taken: list[str] = []

    def take(key: str) -> None:
        with turns.take(key):
            taken.append(key)

    with turns.take("a"), turns.take("a"):
        threads = {key: threading.Thread(target=take, args=(key,)) for key in "ab"}
        for thread in threads.values():
            thread.start()
        threads["b"].join(20)
        threads["a"].join(0.05)
        assert taken == ["b"]
    threads["a"].join(20)
    assert taken == ["b", "a"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_imports(
    offers: Offers, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child has not the thread that holds the turn; it must not wait for it for ever."""
    offers.add("petaflop-chip", WAITS + CHIP)
    manager = PluginManager()
    slow = threading.Thread(target=manager.get, args=("backend", "chip"))
    try:
        slow.start()
        assert gate.entered.wait(20)
        with contextlib.ExitStack() as mine:
            mine.enter_context(turns.take("mine"))
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    signal.alarm(20)
                    mine.close()
                    with turns.take(("backend", "chip")):
                        os._exit(0)
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        gate.leave.set()
    slow.join(20)
    assert row(manager).status == "loaded"


def test_two_processes_load_at_once(offers: Offers, tmp_path: Path) -> None:
    """Both compile the same module to one cache of bytecode, and neither sees half of it."""
    offers.add("petaflop-chip", CHIP + "NUMBERS = list(range(5000))\n" * 20)
    code = (
        f"import sys\nsys.path.insert(0, {str(offers.folder)!r})\n"
        "import json\nfrom petaflop.device.registry import get_backend\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "print(json.dumps(get_backend('chip').name))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and json.loads(output) == "chip"


# ---- the registry ----


def test_registry_opens_once(offers: Offers, monkeypatch: pytest.MonkeyPatch) -> None:
    offers.add("petaflop-chip")
    use(PluginManager(), monkeypatch)
    assert registry.get_backend("chip") is registry.get_backend("chip")


def test_default_device(offers: Offers, monkeypatch: pytest.MonkeyPatch) -> None:
    use(PluginManager(), monkeypatch)
    with overrides(device="", disable_plugins=("*",)):
        assert registry.default_device() == "reference"
    registry.clear()
    offers.add("petaflop-fakecpu", name="cpu")
    use(PluginManager(), monkeypatch)
    with overrides(device=""):
        assert registry.default_device() == "cpu"
    with overrides(device="chip"):
        assert registry.default_device() == "chip"


def test_a_registered_backend_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    use(PluginManager(), monkeypatch)
    mine = type("Mine", (Backend,), {"name": "mine"})()
    registry.register(mine)
    assert registry.get_backend("mine") is mine


def test_importing_petaflop_reads_no_metadata() -> None:
    code = "import sys, petaflop; sys.exit('importlib.metadata' in sys.modules or 'pluggy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
