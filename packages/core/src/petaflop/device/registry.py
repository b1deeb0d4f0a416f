"""Devices by name: opens a backend once, either the built-in reference or what the plugin of that name gives.

The plugin manager is imported when it is needed: what it takes to read package metadata is slow to import.
"""

from __future__ import annotations

import threading

from petaflop import profile
from petaflop.config import config
from petaflop.device.backend import Backend
from petaflop.plugins.turns import turns

__all__ = ["clear", "default_device", "get_backend", "opened_devices", "register"]

_backends: dict[str, Backend] = {}
_default: dict[str, str] = {}
_lock = threading.RLock()


def default_device() -> str:
    """PETAFLOP_DEVICE, else `cpu` if its package is installed, else `reference`; imports no plugin."""
    if config.device:
        return config.device
    if (name := _default.get("name")) is None:
        from petaflop.plugins.manager import plugin_manager

        name = _default["name"] = "cpu" if "cpu" in plugin_manager().names("backend") else "reference"
    return name


def get_backend(name: str | None = None) -> Backend:
    """The backend of a device name, opened on first use; the default device's without a name.

    Raises PluginError where no usable plugin offers the name, DeviceError where its device is missing.

    >>> get_backend("reference").name
    'reference'
    """
    name = name or default_device()
    if (backend := _backends.get(name)) is None:
        with turns.take(("backend", name)):  # others may open other devices meanwhile
            if (backend := _backends.get(name)) is None:
                backend = _backends[name] = _open(name)
                _attach_tools()
    return backend


def opened_devices() -> list[str]:
    """The names of the backends that have been opened."""
    return list(_backends)


def _open(name: str) -> Backend:
    if name == "reference":
        from petaflop.device.reference import ReferenceBackend

        return ReferenceBackend()

    from petaflop.plugins.manager import plugin_manager

    found = plugin_manager().get("backend", name)
    assert isinstance(found, Backend)
    return found


def _attach_tools() -> None:
    """Let the observers of PETAFLOP_TOOLS see every compile from now on."""
    if config.tools:
        from petaflop.plugins.manager import plugin_manager

        observer = plugin_manager().kernel_compiled
        with _lock:
            if observer not in profile.observers:
                profile.observers.append(observer)


def register(backend: Backend) -> None:
    """Use a ready backend under its name in this process, before any plugin of that name."""
    with _lock:
        _backends[backend.name] = backend


def clear() -> None:
    """Forget the opened backends and the default; buffers that exist keep theirs."""
    with _lock:
        _backends.clear()
        _default.clear()
