"""Every way in which a plugin can fail, from throw-away distributions; and that the others do not notice."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from plugin_offers import FORMAT, GOOD, HEAD, Offers, fails, offers, row

from petaflop.config import config, overrides
from petaflop.device import registry
from petaflop.device.backend import Backend
from petaflop.errors import ArgumentError, DeviceError, PluginError
from petaflop.plugins import hookspecs
from petaflop.plugins.manager import PluginManager

__all__ = ["offers"]


def test_metadata_only_until_used(offers: Offers) -> None:
    offers.add("petaflop-chip", GOOD.format(name="chip"))
    manager = PluginManager()
    assert row(manager).status == "available"
    assert "petaflop_chip_plugin" not in sys.modules
    backend = manager.get("backend", "chip")
    assert isinstance(backend, Backend) and backend.name == "chip"
    assert row(manager).status == "loaded" and row(manager).load_ms is not None


def test_broken_plugin_leaves_others_alone(offers: Offers) -> None:
    offers.add("petaflop-bad", "raise ImportError('libchip.so: cannot open')", name="bad")
    offers.add("petaflop-chip")
    manager = PluginManager()
    fails(manager, "petaflop-bad 1.0 is broken", name="bad")
    assert manager.get("backend", "chip").name == "chip"


@pytest.mark.parametrize(
    ("module", "cause", "words"),
    [
        (
            "import petaflop_no_such_module",
            ModuleNotFoundError,
            ["No module named 'petaflop_no_such_module'"],
        ),
        ("raise SystemExit('no licence')", SystemExit, ["SystemExit: no licence"]),
        ("1 / 0", ZeroDivisionError, ["division by zero"]),
        ("def petaflop_backend(name): return None", PluginError, ["marked with @hookimpl"]),
        (
            HEAD + "@hookimpl\ndef petaflop_backnd(name): return None\n",
            Exception,
            ["petaflop_backnd"],
        ),
        (HEAD + "@hookimpl\ndef petaflop_backend(name, speed): return None\n", Exception, ["speed"]),
        (HEAD + "@hookimpl\ndef petaflop_backend(name): return None\n", PluginError, ["gave None"]),
        (HEAD + "@hookimpl\ndef petaflop_backend(name): raise KeyError('x')\n", KeyError, ["KeyError"]),
        (
            HEAD + "@hookimpl\ndef petaflop_backend(name): raise SystemExit(3)\n",
            SystemExit,
            ["SystemExit: 3"],
        ),
        (
            HEAD + "@hookimpl\ndef petaflop_configure(config): raise ValueError('no')\n",
            ValueError,
            ["ValueError: no"],
        ),
    ],
)
def test_broken(offers: Offers, module: str, cause: type[BaseException], words: list[str]) -> None:
    offers.add("petaflop-chip", module)
    manager = PluginManager()
    found = fails(manager, "device 'chip' cannot be used", "PETAFLOP_DISABLE_PLUGINS=petaflop-chip", *words)
    assert isinstance(found, cause)
    assert row(manager).status == "broken"


def test_missing_attribute(offers: Offers) -> None:
    offers.add("petaflop-chip", entries="[petaflop.backends.v1]\nchip = petaflop_chip_plugin:nothing\n")
    assert isinstance(fails(PluginManager(), "nothing"), AttributeError)


def test_broken_leaves_no_half_registered_module(offers: Offers) -> None:
    bad = GOOD.format(name="bad") + "@hookimpl\ndef petaflop_backnd(name): return None\n"
    offers.add("petaflop-bad", bad, name="bad")
    offers.add("petaflop-chip")
    manager = PluginManager()
    fails(manager, "petaflop_backnd", name="bad")
    assert manager.get("backend", "chip").name == "chip"  # check_pending of the next one is clean


def test_interrupt_is_not_a_fault(offers: Offers) -> None:
    offers.add("petaflop-chip", "raise KeyboardInterrupt")
    manager = PluginManager()
    with pytest.raises(KeyboardInterrupt):
        manager.get("backend", "chip")
    assert row(manager).status == "available"


def test_asking_for_itself_while_imported(offers: Offers) -> None:
    source = "import petaflop_chip_test\npetaflop_chip_test.manager.get('backend', 'chip')"
    offers.add("petaflop-chip", source)
    manager = PluginManager()
    sys.modules["petaflop_chip_test"] = SimpleNamespace(manager=manager)  # type: ignore[assignment]
    try:
        fails(manager, "asks for itself")
    finally:
        del sys.modules["petaflop_chip_test"]


@pytest.mark.parametrize(("version", "upgrade"), [(7, "petaflop"), (0, "petaflop-chip")])
def test_other_api_version(offers: Offers, version: int, upgrade: str) -> None:
    offers.add("petaflop-chip", "raise SystemExit", group=f"petaflop.backends.v{version}")
    manager = PluginManager()
    fails(manager, f"speaks plugin API v{version}", "speaks v1", f"pip install -U {upgrade}")
    assert row(manager).status == "incompatible"
    assert "petaflop_chip_plugin" not in sys.modules
    assert "chip" not in manager.names("backend")


def versions(**modules: str) -> str:
    """Entry points that offer `chip` in several API versions."""
    return "".join(f"[petaflop.backends.{version}]\nchip = {module}\n" for version, module in modules.items())


def test_two_versions_offered(offers: Offers) -> None:
    offers.add("petaflop-chip", entries=versions(v2="petaflop_absent", v1="petaflop_chip_plugin"))
    manager = PluginManager()
    assert row(manager).api == 1
    assert manager.get("backend", "chip").name == "chip"


def test_newest_spoken_version_wins(offers: Offers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petaflop.plugins.discovery.API_VERSION", 2)
    offers.add("petaflop-chip", entries=versions(v1="old", v2="new", v3="far"))
    found = row(PluginManager())
    assert found.api == 2 and found.entry is not None and found.entry.value == "new"


def test_name_offered_twice(offers: Offers) -> None:
    offers.add("petaflop-chip")
    offers.add("petaflop-fastchip")
    manager = PluginManager()
    fails(manager, "provided by 2 packages", "petaflop-chip 1.0", "petaflop-fastchip 1.0", "Choose:")
    assert row(manager, package="petaflop-chip").status == "conflict"
    with overrides(
        disable_plugins=("petaflop_fastchip",)
    ):  # by package name, as the packaging rules compare it
        assert manager.get("backend", "chip").name == "chip"
    assert row(manager, package="petaflop-chip").status == "conflict"


def test_name_offered_three_times(offers: Offers) -> None:
    for package in ("petaflop-chip", "petaflop-fastchip", "petaflop-quickchip"):
        offers.add(package)
    manager = PluginManager()
    with pytest.raises(PluginError) as caught:
        manager.get("backend", "chip")
    words = str(caught.value).rpartition("PETAFLOP_DISABLE_PLUGINS=")[2]
    with overrides(disable_plugins=tuple(words.split(","))):  # the advice is complete
        assert manager.get("backend", "chip").name == "chip"


def test_hooks_may_leave_out_arguments(offers: Offers) -> None:
    offers.add(
        "petaflop-chip",
        GOOD.format(name="chip").replace(
            '(name):\n    return Chip() if name == "chip" else None', "():\n    return Chip()"
        ),
    )
    assert PluginManager().get("backend", "chip").name == "chip"


def test_built_in_name_offered(offers: Offers) -> None:
    offers.add("petaflop-chip", name="reference")
    manager = PluginManager()
    assert row(manager, "reference", "petaflop-chip").status == "conflict"
    assert row(manager, "reference", "petaflop").status == "available"
    assert registry.get_backend("reference").name == "reference"


@pytest.mark.parametrize("word", ["chip", "petaflop-chip", "Petaflop.Chip", "*"])
def test_disabled(offers: Offers, word: str) -> None:
    offers.add("petaflop-chip")
    manager = PluginManager()
    with overrides(disable_plugins=(word,)):
        fails(manager, "PETAFLOP_DISABLE_PLUGINS hides 'chip' of petaflop-chip 1.0")
        assert row(manager).status == "disabled"
        assert row(manager, "reference").status == "available"
        assert manager.dead_words() == []
    assert manager.get("backend", "chip").name == "chip"


def test_dead_word_in_the_off_switch(offers: Offers) -> None:
    offers.add("petaflop-chip")
    with overrides(disable_plugins=("chip", "petaflop-chp", "reference")):
        assert PluginManager().dead_words() == ["petaflop-chp", "reference"]


def test_unknown_name() -> None:
    manager = PluginManager()
    fails(manager, "no plugin provides device 'no_such_chip'", "Installed:", "reference", name="no_such_chip")
    fails(manager, "Did you mean 'reference'?", name="refrence")
    fails(manager, "it may be called petaflop-zzz", name="zzz")
    fails(manager, "no plugin provides quantization format 'zzz'", kind="quant", name="zzz")


def test_what_is_built_in_hands_nothing_over() -> None:
    manager = PluginManager()
    assert manager.load("backend", "reference").package == "petaflop"
    assert manager.probe("backend", "reference") == []
    with pytest.raises(PluginError, match="device 'reference' hands nothing over"):
        manager.get("backend", "reference")
    assert row(manager, "reference").status == "available"
    with pytest.raises(ArgumentError, match=r"expected a kind among backend, quant, .*, got 'quants'"):
        manager.get("quants", "q8_0")


def test_metadata_that_cannot_be_read(offers: Offers) -> None:
    offers.add("petaflop-chip")
    offers.add("petaflop-bad", entries="[petaflop.backends.v1]\nbad = x\nbad = y\nnonsense without equals\n")
    manager = PluginManager()
    assert row(manager, "petaflop-bad").status == "broken"
    assert "entry_points.txt cannot be read" in row(manager, "petaflop-bad").why
    assert manager.get("backend", "chip").name == "chip"


def test_metadata_without_a_name(offers: Offers) -> None:
    offers.add("petaflop-chip")
    (offers.folder / "petaflop_chip-1.0.dist-info" / "METADATA").unlink()
    assert row(PluginManager()).package == "petaflop_chip-1.0"


def test_module_shared_by_two_names(offers: Offers) -> None:
    entries = "[petaflop.quant.v1]\nq4_x = petaflop_q_plugin\nq8_x = petaflop_q_plugin\n"
    offers.add("petaflop-q", FORMAT, entries=entries)
    manager = PluginManager()
    assert manager.get("quant", "q4_x").name == "q4_x"
    assert manager.get("quant", "q8_x").name == "q8_x"


def test_other_plugins_are_not_asked(offers: Offers) -> None:
    offers.add(
        "petaflop-greedy",
        GOOD.format(name="greedy").replace('if name == "greedy" else None', ""),
        name="greedy",
    )
    offers.add("petaflop-chip")
    manager = PluginManager()
    for name in ("chip", "greedy", "chip"):
        assert manager.get("backend", name).name == name


def test_missing_device_is_asked_again(offers: Offers) -> None:
    source = GOOD.format(name="chip").replace(
        "    return Chip()", "    if not found: raise DeviceError('no chip: plug one in')\n    return Chip()"
    )
    offers.add("petaflop-chip", "from petaflop.errors import DeviceError\nfound = []\n" + source)
    manager = PluginManager()
    with pytest.raises(DeviceError, match="device 'chip' cannot be used: no chip: plug one in"):
        manager.get("backend", "chip")
    assert row(manager).status == "no-device"
    sys.modules["petaflop_chip_plugin"].found.append(1)
    assert manager.get("backend", "chip").name == "chip"
    assert row(manager).status == "loaded"


def test_configure_reaches_late_plugins(offers: Offers) -> None:
    source = HEAD + "seen = []\n@hookimpl\ndef petaflop_configure(config): seen.append(config)\n"
    offers.add("petaflop-t", source, name="watcher", group="petaflop.tools.v1")
    PluginManager().load("tool", "watcher")
    assert sys.modules["petaflop_t_plugin"].seen == [config]


def test_observers_cannot_stop_a_compile(offers: Offers, caplog: pytest.LogCaptureFixture) -> None:
    head = HEAD + "seen = []\n@hookimpl\ndef petaflop_kernel_compiled(record): seen.append(record.name)\n"
    offers.add("petaflop-good", head, name="good", group="petaflop.tools.v1")
    for name, error in (("bad", "RuntimeError('boom')"), ("worse", "SystemExit('bang')")):
        offers.add(f"petaflop-{name}", head + f"    raise {error}\n", name=name, group="petaflop.tools.v1")
    manager = PluginManager()
    with overrides(tools=("bad", "worse", "missing", "good")), caplog.at_level(logging.ERROR):
        manager.kernel_compiled(SimpleNamespace(name="k1"))  # type: ignore[arg-type]
    assert sys.modules["petaflop_good_plugin"].seen == ["k1"]
    assert all(word in caplog.text for word in ("boom", "bang", "missing"))


# ---- the API is a promise ----


def test_hooks_are_as_promised() -> None:
    golden = Path(__file__).parent / "golden" / "hooks.txt"
    assert golden.read_text() == "\n".join(hook_signatures()) + "\n"


def hook_signatures() -> list[str]:
    """Every hook as `name(arguments) -> result`, and every group."""
    import inspect

    hooks = [
        f"{name}{inspect.signature(function)}"
        for name, function in vars(hookspecs).items()
        if name.startswith("petaflop_")
    ]
    groups = [f"{kind.group}.v{hookspecs.API_VERSION} {kind.hook}" for kind in hookspecs.KINDS.values()]
    return sorted(hooks) + groups
