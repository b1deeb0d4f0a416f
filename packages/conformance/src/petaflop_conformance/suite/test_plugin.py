"""What holds without a device: metadata, the handshake, a light import, an honest declaration, an explained
absence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any

import pytest

from petaflop.config import overrides
from petaflop.device.backend import Backend, Capabilities
from petaflop.device.registry import get_backend
from petaflop.dtype import DTYPES
from petaflop.errors import DeviceError, PluginError
from petaflop.plugins.hookspecs import API_VERSION, OLDEST_API_VERSION
from petaflop.plugins.manager import PluginManager, plugin_manager

pytestmark = pytest.mark.level("plugin")

BUILT_IN = ("reference",)
GROUPS = [f"petaflop.backends.v{version}" for version in range(OLDEST_API_VERSION, API_VERSION + 1)]


def row(manager: PluginManager, name: str) -> Any:
    """What the plugin manager knows of a backend."""
    return next(plugin for plugin in manager.plugins() if plugin.kind == "backend" and plugin.name == name)


def in_a_process_of_its_own(code: str, **variables: str) -> dict[str, Any]:
    """What `code` prints as JSON, in a new interpreter."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **variables},
    )
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout.splitlines()[-1]))


def test_entry_point(backend_name: str) -> None:
    """Exactly one installed package offers the name, in a version of the API that this core speaks."""
    if backend_name in BUILT_IN:
        return
    offers = {
        entry.value for group in GROUPS for entry in entry_points(group=group) if entry.name == backend_name
    }
    assert len(offers) == 1, (
        f"{backend_name}: expected one entry point in {' or '.join(GROUPS)}, got {sorted(offers)}"
    )


def test_metadata(backend_name: str) -> None:
    """`petaflop plugins` can say whose it is."""
    plugin = row(plugin_manager(), backend_name)
    assert plugin.status in ("available", "loaded", "no-device"), plugin.why
    assert plugin.package and plugin.version, f"{plugin}: expected a package with a version"


def test_listing_imports_nothing(backend_name: str) -> None:
    code = """
import json, sys
from petaflop.plugins.manager import plugin_manager
plugins = plugin_manager().plugins()
entries = [p.entry.value.partition(":")[0] for p in plugins if p.entry is not None]
print(json.dumps({"imported": [module for module in entries if module in sys.modules]}))
"""
    assert in_a_process_of_its_own(code)["imported"] == []


def test_import_is_light(backend_name: str) -> None:
    """The plugin's module imports within a second and opens nothing: drivers wait for petaflop_backend."""
    if backend_name in BUILT_IN:
        return
    code = f"""
import json, time
from petaflop.plugins.manager import plugin_manager
manager = plugin_manager()
started = time.process_time()
manager.load("backend", {backend_name!r})
print(json.dumps({{"seconds": time.process_time() - started}}))
"""
    seconds = min(in_a_process_of_its_own(code)["seconds"] for _ in range(2))
    assert seconds < 1.0, (
        f"{backend_name}: expected its import to take less than 1 s of CPU time, got {seconds:.2f} s"
    )


def test_handshake(backend_name: str) -> None:
    """The plugin hands over a Backend of its own name, or explains in one line why there is none."""
    try:
        backend = get_backend(backend_name)
    except DeviceError as error:
        text = str(error)
        assert len(text) > 30 and "\n" not in text, (
            f"expected one line that says what to install or plug in, got {text!r}"
        )
        return
    assert isinstance(backend, Backend)
    assert backend.name == backend_name
    assert backend.version, "expected a version: it is part of every cache key"
    assert get_backend(backend_name) is backend


@pytest.fixture
def opened(backend_name: str) -> Backend:
    """The backend, where there is a device."""
    try:
        return get_backend(backend_name)
    except DeviceError:
        pytest.skip("not declared: a device on this machine")


def test_capabilities(opened: Backend) -> None:
    """The declaration is complete, names dtypes that exist, and includes what level core is written in."""
    capabilities = opened.capabilities
    assert isinstance(capabilities, Capabilities)
    assert set(capabilities.dtypes) <= set(DTYPES), f"unknown dtypes {set(capabilities.dtypes) - set(DTYPES)}"
    assert set(capabilities.dtypes.values()) <= {"native", "emulated"}
    assert {"float32", "int32", "bool"} <= set(capabilities.dtypes)
    for field in fields(Capabilities):
        if field.name != "dtypes":
            assert isinstance(getattr(capabilities, field.name), bool), (
                f"{field.name}: expected True or False"
            )


def test_depth(opened: Backend) -> None:
    """It interprets kernels, or it has a target together with all that rendering needs."""
    kind = type(opened)
    if opened.target is None:
        assert kind.interpret is not Backend.interpret, "expected `interpret`, since there is no target"
        return
    for name in ("render", "compile", "load"):
        assert getattr(kind, name) is not getattr(Backend, name), (
            f"expected `{name}`, since there is a target"
        )
    assert opened.target.kind in ("cpu", "gpu")
    assert opened.target.key == opened.target.key


def test_opening_compiles_nothing(backend_name: str) -> None:
    code = f"""
import json
from petaflop import profile
from petaflop.device.registry import get_backend
from petaflop.errors import DeviceError
seen = []
profile.observers.append(seen.append)
try:
    get_backend({backend_name!r})
except DeviceError:
    pass
print(json.dumps({{"compiled": len(seen)}}))
"""
    assert in_a_process_of_its_own(code)["compiled"] == 0


def test_disable(backend_name: str) -> None:
    """PETAFLOP_DISABLE_PLUGINS hides it, by its own name and by its package's, and the error says so."""
    if backend_name in BUILT_IN:
        return
    package = row(plugin_manager(), backend_name).package
    for word in (backend_name, package, "*"):
        with overrides(disable_plugins=(word,)):
            manager = PluginManager()
            assert row(manager, backend_name).status == "disabled"
            with pytest.raises(PluginError, match="PETAFLOP_DISABLE_PLUGINS"):
                manager.load("backend", backend_name)
    assert row(PluginManager(), backend_name).status == "available"


def test_unknown_name_is_explained(backend_name: str) -> None:
    """A name that nobody offers: the message lists those that are."""
    with pytest.raises(PluginError) as caught:
        get_backend(backend_name + "x")
    assert backend_name in str(caught.value)


def test_probe(backend_name: str) -> None:
    """Looking for devices never raises and opens no context that outlives it."""
    if backend_name in BUILT_IN:
        return
    code = f"""
import json
from petaflop.plugins.manager import plugin_manager
infos = plugin_manager().probe("backend", {backend_name!r})
print(json.dumps({{"devices": [[info.name, info.description, info.status] for info in infos]}}))
"""
    for name, description, status in in_a_process_of_its_own(code)["devices"]:
        assert name and description and status
