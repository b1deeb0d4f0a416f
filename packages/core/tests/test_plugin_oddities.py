"""Plugins that do what nobody expects: each fails alone, in one readable line, or simply works."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from plugin_offers import GOOD, Offers, fails, offers, row

from petaflop.cli import main
from petaflop.cli.probing import probe
from petaflop.config import overrides
from petaflop.device import registry
from petaflop.errors import PluginError
from petaflop.plugins.manager import PluginManager

__all__ = ["offers"]

CHIP = GOOD.format(name="chip")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("class Panic(BaseException): pass\nraise Panic('a native library gave up')", ["Panic: a native"]),
        ("class Odd(Exception):\n    def __str__(self): 1 / 0\nraise Odd", ["Odd: (its message cannot be"]),
        ("raise ValueError('\\x1b[2J\\r\\nred\\x07')", ["ValueError: ?[2J red?."]),
        ("raise RecursionError", ["RecursionError. Fix"]),
        ("def __dir__(): 1 / 0", ["ZeroDivisionError"]),
        ("this is no Python", ["SyntaxError"]),
        ("import sys\ndel sys.modules[__name__]", ["broken: "]),
    ],
)
def test_imports_that_fail(offers: Offers, module: str, words: list[str]) -> None:
    offers.add("petaflop-chip", module)
    offers.add("petaflop-other", name="other")
    manager = PluginManager()
    fails(manager, "petaflop-chip 1.0 is broken", *words)
    assert manager.get("backend", "other").name == "other"


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "MemoryError"])
@pytest.mark.parametrize("place", ["", "    "])
def test_what_is_not_the_fault_of_a_plugin_is_not_remembered(
    offers: Offers, monkeypatch: pytest.MonkeyPatch, error: str, place: str
) -> None:
    trouble = f"import os\nif 'PETAFLOP_TEST_TROUBLE' in os.environ: raise {error}\n"
    indented = "".join(f"{place}{line}\n" for line in trouble.splitlines())
    source = CHIP.replace("    return Chip()", indented + "    return Chip()") if place else indented + CHIP
    offers.add("petaflop-chip", source)
    manager = PluginManager()
    monkeypatch.setenv("PETAFLOP_TEST_TROUBLE", "1")
    with pytest.raises((KeyboardInterrupt, MemoryError)):
        manager.get("backend", "chip")
    assert row(manager).status in ("available", "loaded")
    monkeypatch.delenv("PETAFLOP_TEST_TROUBLE")
    assert manager.get("backend", "chip").name == "chip"


# ---- metadata ----


@pytest.mark.parametrize(
    ("file", "content", "status", "package"),
    [
        ("METADATA", b"\xff\xfe\x00\x00 garbage", "available", "petaflop_chip-1.0"),
        ("METADATA", b"", "available", "petaflop_chip-1.0"),
        ("METADATA", "Name: pëtaflop-chïp\nVersion: 1\n\n".encode(), "available", "pëtaflop-chïp"),
        ("METADATA", b"Name: petaflop-chip\nVersion: \x1b[31m\n\n", "available", "petaflop-chip"),
        ("entry_points.txt", b"[petaflop.backends.v1]\nchip = \xff\xfe\n", "broken", "petaflop-chip"),
        ("entry_points.txt", b"[petaflop.backends.v1]\nchip", "broken", "petaflop-chip"),
        (
            "entry_points.txt",
            b"petaflop.backends.v1\nchip = petaflop_chip_plugin\n",
            "broken",
            "petaflop-chip",
        ),
        (
            "entry_points.txt",
            b"[petaflop.backends.v1\nchip = petaflop_chip_plugin\n",
            "broken",
            "petaflop-chip",
        ),
        ("entry_points.txt", b'{"petaflop": {"backends": "chip"}}', "broken", "petaflop-chip"),
        ("entry_points.txt", b"\x00\x01\x02 no text at all", "broken", "petaflop-chip"),
        (
            "entry_points.txt",
            "[petaflop.backends.v1]\nchip = x\n".encode("utf-16"),
            "broken",
            "petaflop-chip",
        ),
        ("entry_points.txt", b"\xef\xbb\xbf[petaflop.backends.v1]\nchip = x\n", "broken", "petaflop-chip"),
        (
            "entry_points.txt",
            b"# by hand\n\n[petaflop.backends.v1]\nchip = petaflop_chip_plugin\n",
            "available",
            "petaflop-chip",
        ),
    ],
)
def test_metadata(
    offers: Offers, capsys: pytest.CaptureFixture[str], file: str, content: bytes, status: str, package: str
) -> None:
    offers.add("petaflop-chip")
    offers.add("petaflop-other", name="other")
    (offers.folder / "petaflop_chip-1.0.dist-info" / file).write_bytes(content)
    manager = PluginManager()
    (found,) = [plugin for plugin in manager.plugins() if plugin.package == package]
    assert found.status == status
    assert main(["plugins", "--strict"]) == (status == "broken")
    assert package in capsys.readouterr().out
    assert manager.get("backend", "other").name == "other"
    if status == "available":
        assert manager.get("backend", "chip").name == "chip"


def test_one_package_with_two_modules_for_a_name(offers: Offers) -> None:
    offers.add("petaflop-chip", entries="[petaflop.backends.v1]\nchip = one\nchip = two\n")
    manager = PluginManager()
    assert row(manager).status == "broken"
    fails(manager, "names two modules for it: one and two")


@pytest.mark.parametrize("group", ["petaflop.backend.v1", "petaflop.backends", "petaflop.backends.1"])
def test_a_misspelt_group_does_not_vanish(offers: Offers, group: str) -> None:
    offers.add("petaflop-chip", group=group)
    manager = PluginManager()
    assert row(manager).status == "incompatible"
    assert f"knows no group {group}, but petaflop.backends.v1, " in row(manager).why
    with pytest.raises(PluginError, match="no plugin provides device 'chip'"):
        manager.get("backend", "chip")


@pytest.mark.parametrize(
    "value",
    [
        "petaflop_chip_plugin:Plugin",
        "petaflop_chip_plugin : Plugin [fast,more]",
        "petaflop_chip_plugin:made.it",
    ],
)
def test_entry_points_with_attributes_and_extras(offers: Offers, value: str) -> None:
    source = CHIP.replace("@hookimpl\n", "class Plugin:\n  @staticmethod\n  @hookimpl\n").replace(
        "\n    return Chip", "\n      return Chip"
    )
    source = source.replace("\ndef petaflop", "\n  def petaflop")
    source += "class made: it = Plugin()\n"
    offers.add("petaflop-chip", source, entries=f"[petaflop.backends.v1]\nchip = {value}\n")
    assert PluginManager().get("backend", "chip").name == "chip"


@pytest.mark.parametrize("value", ["", "petaflop_chip_plugin:", "9", "petaflop-chip", ":x"])
def test_entry_points_that_name_no_module(offers: Offers, value: str) -> None:
    offers.add("petaflop-chip", entries=f"[petaflop.backends.v1]\nchip = {value}\n")
    try:
        assert PluginManager().get("backend", "chip").name == "chip"  # `module:` is the module
    except PluginError as error:
        assert "petaflop-chip 1.0 is broken" in str(error) or "cannot be read" in str(error)


def test_unicode_names(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    offers.add("petaflop-φλοπ", GOOD.format(name="çip"), name="çip")
    assert PluginManager().get("backend", "çip").name == "çip"
    fails(PluginManager(), "no plugin provides device 'çip\\u200b'", name="çip\u200b")
    outcome = probe("backend", "çip")
    assert (outcome.status, outcome.devices[0]["name"]) == ("loaded", "çip")


def test_a_terminal_without_the_letters(offers: Offers) -> None:
    offers.add("petaflop-chip", GOOD.format(name="çip"), name="çip")
    environment = {**os.environ, "PYTHONPATH": str(offers.folder), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "petaflop", "plugins", "petaflop-chip"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "\\xe7ip" in done.stdout and done.stderr == ""


# ---- what an import may do to its surroundings ----


def test_a_plugin_that_uses_petaflop_while_it_is_imported(
    offers: Offers, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import petaflop\nfrom petaflop.plugins.manager import plugin_manager\n"
        "assert petaflop.Tensor([1.0, 2.0], device='reference').sum().item() == 3\n"
        "assert 'chip' in plugin_manager().names('backend')\n"
    )
    offers.add("petaflop-chip", source + CHIP)
    manager = PluginManager()
    monkeypatch.setattr("petaflop.plugins.manager.plugin_manager", lambda: manager)
    assert manager.get("backend", "chip").name == "chip"


def test_a_plugin_that_uses_its_own_device_while_it_is_imported(
    offers: Offers, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers.add("petaflop-chip", "import petaflop\npetaflop.Tensor([1.0]).realize()\n" + CHIP)
    manager = PluginManager()
    monkeypatch.setattr("petaflop.plugins.manager.plugin_manager", lambda: manager)
    monkeypatch.setattr(registry, "_backends", {})
    with overrides(device="chip"):
        fails(manager, "asks for itself while it is imported")


NUISANCES = {
    "folder": ("import os\nos.chdir('/')\n" + GOOD.format(name="folder"), "loaded", ""),
    "interrupt": ("raise KeyboardInterrupt", "broken", "KeyboardInterrupt"),
    "panic": ("class Panic(BaseException): pass\nraise Panic('gave up')", "broken", "Panic: gave up"),
    "forks": (
        "import os, threading\nif os.fork() == 0: threading.Event().wait()\n" + GOOD.format(name="forks"),
        "loaded",
        "",
    ),
    "garbage": (
        GOOD.format(name="garbage") + "@hookimpl\ndef petaflop_probe(): return ['me']\n",
        "broken",
        "expected DeviceInfos, got str",
    ),
    "loud": (
        "import os\nfor _ in range(400): os.write(1, b'x' * 65536)\nraise ValueError('after 25 MB')",
        "broken",
        "ValueError: after 25 MB",
    ),
    "closes": ("import os\nos.close(1)\nos.close(2)\n" + GOOD.format(name="closes"), "loaded", ""),
}


def test_probing_bears_with_nuisances(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (source, _, _) in NUISANCES.items():
        offers.add(f"petaflop-{name}", source, name=name)
    assert main(["plugins", "--probe", "--json", *NUISANCES]) == 0
    rows = {each["name"]: each for each in json.loads(capsys.readouterr().out)["plugins"]}
    for name, (_, status, why) in NUISANCES.items():
        assert rows[name]["status"] == status and why in rows[name]["why"], rows[name]


def test_a_crash_shows_where(offers: Offers) -> None:
    offers.add(
        "petaflop-chip", "def start_driver():\n    import os\n    os.kill(os.getpid(), 11)\nstart_driver()"
    )
    outcome = probe("backend", "chip")
    assert outcome.why == "crashed (signal 11)"
    assert "in start_driver" in outcome.traceback


def test_names_that_nobody_has(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    offers.add("petaflop-chip")
    assert main(["plugins", "Petaflop_Chip"]) == 0
    assert "chip" in capsys.readouterr().out
    assert main(["plugins", "chip", "chipp"]) == 65
    assert "expected names of plugins or packages, got 'chipp'" in capsys.readouterr().err


def test_nothing_of_a_plugin_steers_the_terminal(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    source = "raise ValueError('\\x1b]0;title\\x07')\n"
    offers.add("petaflop-chip", source, version="1.0")
    metadata = offers.folder / "petaflop_chip-1.0.dist-info" / "METADATA"
    metadata.write_bytes(b"Name: petaflop-chip\nVersion: \x1b[31m1\n\n")
    assert main(["plugins", "--probe", "-v", "chip"]) == 0
    text = capsys.readouterr().out
    assert "ValueError: ?]0;title?" in text and "Traceback" in text
    assert not any(ord(letter) < 32 and letter != "\n" for letter in text)


def test_devices_without_the_default(offers: Offers, capsys: pytest.CaptureFixture[str]) -> None:
    with overrides(device="gone", disable_plugins=("*",)):
        assert main(["devices", "--json"]) == 0
    assert "the default device 'gone' is provided by no plugin" in capsys.readouterr().err
