"""The plugin manager: finds a plugin by name, imports just that one, turns every failure into one message.

A failure is remembered and repeated, the original error chained; other plugins are not touched by it.
"""

from __future__ import annotations

import difflib
import functools
import logging
import re
import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pluggy

from petaflop.config import config
from petaflop.device.backend import DeviceInfo
from petaflop.errors import ArgumentError, DeviceError, PluginError
from petaflop.plugins import hookspecs
from petaflop.plugins.checks import check
from petaflop.plugins.discovery import Plugin, normalized, one_line, scan
from petaflop.plugins.hookspecs import API_VERSION, KINDS, OLDEST_API_VERSION
from petaflop.plugins.turns import turns

if TYPE_CHECKING:
    from petaflop.profile import CompileRecord

__all__ = ["BUILT_IN", "STATUSES", "PluginManager", "plugin_manager"]

STATUSES = ("available", "loaded", "disabled", "incompatible", "conflict", "broken", "no-device")
BUILT_IN: tuple[tuple[str, str], ...] = (("backend", "reference"),)

# These say nothing about the plugin that runs at the time, which is tried again.
_NOT_ITS_FAULT = (KeyboardInterrupt, MemoryError)

_log = logging.getLogger("petaflop.plugins")


class PluginManager:
    """Plugins of all kinds; threads may share one. `plugin_manager()` is the one that petaflop uses."""

    def __init__(self) -> None:
        # one for each module: what a plugin does with its hooks, rightly or wrongly, no other one notices
        self._hooks: dict[str, pluggy.PluginManager] = {}
        self._importing: set[str] = set()
        self._lock = threading.RLock()  # of the rows; never held while code of a plugin runs
        self._rows: list[Plugin] | None = None

    # ---- what there is ----

    def plugins(self) -> list[Plugin]:
        """Every plugin, with the status that it has now; reads metadata once and imports nothing."""
        with self._lock:
            if self._rows is None:
                self._rows = [_built_in(kind, name) for kind, name in BUILT_IN] + scan()
            _judge(self._rows)
            return list(self._rows)

    def names(self, kind: str) -> list[str]:
        """The names of a kind that may be used, broken ones included, as nobody knows before the import."""
        blocked = ("disabled", "incompatible")
        return sorted({p.name for p in self.plugins() if p.kind == kind and p.status not in blocked})

    def dead_words(self) -> list[str]:
        """Words of PETAFLOP_DISABLE_PLUGINS that match no plugin."""
        external = [plugin for plugin in self.plugins() if not _is_built_in(plugin)]
        return [w for w in config.disable_plugins if w != "*" and not any(_matches(w, p) for p in external)]

    def dead_tools(self) -> list[str]:
        """Words of PETAFLOP_TOOLS that name no tool."""
        tools = {plugin.name for plugin in self.plugins() if plugin.kind == "tool"}
        return [word for word in config.tools if word not in tools]

    def find(self, kind: str, name: str) -> Plugin:
        """The one plugin of that name; PluginError if there is none, more than one, or one not to be used."""
        if kind not in KINDS:
            raise ArgumentError(f"plugins: expected a kind among {', '.join(KINDS)}, got {kind!r}")
        rows = [plugin for plugin in self.plugins() if plugin.kind == kind and plugin.name == name]
        usable = [plugin for plugin in rows if plugin.status not in ("disabled", "incompatible", "conflict")]
        if len(usable) == 1:
            return usable[0]
        if not rows:
            raise PluginError(self._unknown(kind, name))
        worst = max(rows, key=lambda plugin: ("disabled", "incompatible", "conflict").index(plugin.status))
        if worst.status == "conflict":
            packages = [plugin for plugin in rows if plugin.status == "conflict"]
            raise PluginError(
                f"{KINDS[kind].noun} {name!r} is provided by {len(packages)} packages: "
                f"{' and '.join(plugin.source for plugin in packages)}. "
                f"Choose: PETAFLOP_DISABLE_PLUGINS={','.join(plugin.package for plugin in packages[1:])}"
            )
        raise PluginError(f"{KINDS[kind].noun} {name!r} cannot be used: {worst.why}")

    def _unknown(self, kind: str, name: str) -> str:
        names = self.names(kind)
        close = difflib.get_close_matches(name, names, 1, 0.7)
        advice = f"Did you mean {close[0]!r}?" if close else ""
        if not close and re.fullmatch(r"[a-z][a-z0-9]*", name):
            advice = f"If there is a package for it, it may be called petaflop-{name}"
        installed = ", ".join(names) or "none"
        return f"no plugin provides {KINDS[kind].noun} {name!r}. Installed: {installed}. {advice}".rstrip()

    # ---- using one ----

    def load(self, kind: str, name: str) -> Plugin:
        """Import the plugin of that name, once; PluginError, the same one each time, if that fails.

        Another thread that asks for it waits; one that asks for another plugin does not.
        """
        plugin = self.find(kind, name)
        if plugin.entry is None:
            return plugin
        with turns.take(plugin.entry.value):
            if plugin.outcome == "broken":
                raise PluginError(_broken(plugin)) from plugin.error
            if plugin.entry.value in self._importing:
                raise PluginError(f"{KINDS[kind].noun} {name!r} asks for itself while it is imported")
            if not plugin.outcome:
                self._import(plugin, plugin.entry)
            return plugin

    def _import(self, plugin: Plugin, entry: EntryPoint) -> None:
        started = time.perf_counter()
        self._importing.add(entry.value)
        try:
            self._register(plugin, entry)
        except _NOT_ITS_FAULT:
            raise
        except BaseException as error:
            raise self._fail(plugin, error) from error
        finally:
            self._importing.discard(entry.value)
        plugin.outcome, plugin.why = "loaded", ""
        plugin.load_ms = (time.perf_counter() - started) * 1e3

    def _register(self, plugin: Plugin, entry: EntryPoint) -> None:
        if entry.value not in self._hooks:  # several names may share a module
            hooks = pluggy.PluginManager("petaflop")
            hooks.add_hookspecs(hookspecs)
            hooks.hook.petaflop_configure.call_historic(kwargs={"config": config})
            hooks.register(entry.load(), entry.value)
            hooks.check_pending()
            self._hooks[entry.value] = hooks
        hook = KINDS[plugin.kind].hook
        if hook is not None and not getattr(self._hooks[entry.value].hook, hook).get_hookimpls():
            raise PluginError(f"{entry.value} has no function {hook} marked with @hookimpl")

    def _fail(self, plugin: Plugin, error: BaseException) -> PluginError:
        plugin.outcome, plugin.why, plugin.error = "broken", one_line(error), error
        return PluginError(_broken(plugin))

    def _ask(self, plugin: Plugin, hook: str, **arguments: Any) -> Any:
        assert plugin.entry is not None
        return getattr(self._hooks[plugin.entry.value].hook, hook)(**arguments)

    def get(self, kind: str, name: str) -> Any:
        """The object that the plugin hands over, which has all parts that its kind must have.

        A DeviceError of the plugin means that it is well but has no device; it is asked again the next time.
        """
        with turns.take((kind, name)):
            plugin = self.load(kind, name)
            hook = KINDS[kind].hook
            if hook is None or plugin.entry is None:
                raise PluginError(f"{KINDS[kind].noun} {name!r} hands nothing over")
            try:
                result = self._ask(plugin, hook, name=name)
                if result is None:
                    raise PluginError(f"{hook} gave None for the name {name!r} that its package offers")
                check(kind, name, result)
            except DeviceError as error:
                plugin.outcome, plugin.why, plugin.error = "no-device", one_line(error), error
                raise DeviceError(f"{KINDS[kind].noun} {name!r} cannot be used: {error}") from error
            except _NOT_ITS_FAULT:
                raise
            except BaseException as error:
                raise self._fail(plugin, error) from error
            plugin.outcome, plugin.why, plugin.error = "loaded", "", None
            return result

    def probe(self, kind: str, name: str) -> Sequence[DeviceInfo]:
        """The devices that a plugin sees; it may crash, so callers give it a process of its own."""
        plugin = self.load(kind, name)
        if plugin.entry is None:
            return []
        devices = [info for infos in self._ask(plugin, "petaflop_probe") for info in infos]
        for info in devices:
            if not isinstance(info, DeviceInfo):
                raise PluginError(f"petaflop_probe: expected DeviceInfos, got {type(info).__name__}")
        return devices

    def offline(self, kind: str, name: str) -> Any:
        """The backend that renders and compiles without its device; None where the plugin has none."""
        plugin = self.load(kind, name)
        return None if plugin.entry is None else self._ask(plugin, "petaflop_offline_backend", name=name)

    def kernel_compiled(self, record: CompileRecord) -> None:
        """Tell the tools named in PETAFLOP_TOOLS; what one of them raises is logged and goes no further."""
        for name in config.tools:
            try:
                plugin = self.load("tool", name)
                self._ask(plugin, "petaflop_kernel_compiled", record=record)
            except _NOT_ITS_FAULT:
                raise
            except BaseException:  # noqa: BLE001 – an observer must not stop what it observes
                _log.exception("tool %r failed on kernel %s", name, record.name)


@functools.cache
def plugin_manager() -> PluginManager:
    """The manager of this process; the first call reads no metadata yet."""
    return PluginManager()


# ---- judging and wording ----


def _judge(rows: Sequence[Plugin]) -> None:
    """Set the status of every row from its outcome and from what forbids it."""
    offers: dict[tuple[str, str], list[Plugin]] = {}
    for plugin in rows:
        if not plugin.is_spoken:
            plugin.status, plugin.why = "incompatible", _incompatible(plugin)
        elif not _is_built_in(plugin) and any(_matches(word, plugin) for word in config.disable_plugins):
            plugin.status = "disabled"
            plugin.why = f"PETAFLOP_DISABLE_PLUGINS hides {plugin.name!r} of {plugin.source}"
        else:
            if plugin.status in ("disabled", "conflict"):  # no longer, since the setting may have changed
                plugin.why = one_line(plugin.error) if plugin.error is not None else ""
            plugin.status = plugin.outcome or "available"
            offers.setdefault((plugin.kind, plugin.name), []).append(plugin)
    for group in offers.values():
        for plugin in group if len(group) > 1 else ():
            if not _is_built_in(plugin):
                others = " and ".join(other.source for other in group if other is not plugin)
                plugin.status, plugin.why = "conflict", f"also provided by {others}"


def _built_in(kind: str, name: str) -> Plugin:
    return Plugin(kind, name, "petaflop", _core_version(), API_VERSION)


def _is_built_in(plugin: Plugin) -> bool:
    return plugin.entry is None and (plugin.kind, plugin.name) in BUILT_IN


def _matches(word: str, plugin: Plugin) -> bool:
    return word in ("*", plugin.name) or normalized(word) == normalized(plugin.package)


def _core_version() -> str:
    return str(sys.modules["petaflop"].__version__)


def _incompatible(plugin: Plugin) -> str:
    assert plugin.api is not None
    spoken = "..".join(f"v{version}" for version in sorted({OLDEST_API_VERSION, API_VERSION}))
    older = plugin.package if plugin.api < OLDEST_API_VERSION else "petaflop"
    return (
        f"{plugin.source} speaks plugin API v{plugin.api}; this petaflop {_core_version()} speaks {spoken}. "
        f"Try: pip install -U {older}"
    )


def _broken(plugin: Plugin) -> str:
    noun = KINDS[plugin.kind].noun
    way_out = "run with PETAFLOP_DEVICE=reference" if plugin.kind == "backend" else "reinstall its package"
    return (
        f"{noun} {plugin.name!r} cannot be used: {plugin.source} is broken: {plugin.why}. "
        f"Fix it, or {way_out}; "
        f"`petaflop plugins -v --probe {plugin.name}` prints the traceback; "
        f"PETAFLOP_DISABLE_PLUGINS={plugin.package} hides it"
    )
