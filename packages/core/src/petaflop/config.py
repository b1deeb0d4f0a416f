"""Every environment variable that petaflop reads, in one table; nothing else in core reads the environment.

`config.debug` and its like are read once, when this module is imported; `overrides(...)` changes them for a
block. A value that makes no sense is an error where it is first used, so that the package can be imported.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petaflop.errors import ArgumentError

__all__ = ["VARIABLES", "Config", "Variable", "config", "overrides"]


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: the attribute of `config` that it sets, its default, and what it does."""

    name: str
    attribute: str
    parse: Callable[[str], Any]
    default: Any
    meaning: str


def _flag(text: str) -> bool:
    return text.strip().lower() not in ("", "0", "false", "no", "off")


def _names(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _count(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError("a number of 0 or more")
    return int(text)


def _check(text: str) -> str:
    if text not in ("nan", "index"):
        raise ValueError("nan or index")
    return text


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "petaflop"


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "PETAFLOP_DEVICE", "device", str, "", "default device; else `cpu` if installed, else `reference`"
    ),
    Variable("PETAFLOP_DEBUG", "debug", _count, 0, "1 kernels, 2 timings, 3 loops, 4 source, 5 assembly"),
    Variable("PETAFLOP_FUSE", "fuse", _flag, True, "0 runs one kernel per operation (slow; a check)"),
    Variable(
        "PETAFLOP_CHECK",
        "check",
        _check,
        "",
        "`nan` stops at the first kernel that makes a NaN, `index` at an index tensor that is out of range "
        "(it runs jitted functions as they are written); both name the line that built the operation",
    ),
    Variable("PETAFLOP_VERIFY", "verify", _flag, False, "1 verifies every IR between the stages"),
    Variable("PETAFLOP_CACHE", "cache", _flag, True, "0 turns the disk cache of compiled kernels off"),
    Variable(
        "PETAFLOP_CACHE_DIR",
        "cache_dir",
        Path,
        None,
        "folder of the disk cache; default `petaflop` in `XDG_CACHE_HOME`, or else in `~/.cache`",
    ),
    Variable(
        "PETAFLOP_CACHE_MB",
        "cache_mb",
        _count,
        1024,
        "size in MB at which the disk cache drops its oldest files",
    ),
    Variable(
        "PETAFLOP_THREADS", "threads", _count, 0, "threads of the CPU backend; 0 means one per available core"
    ),
    Variable("PETAFLOP_DISABLE_PLUGINS", "disable_plugins", _names, (), "entry or package names, or `*`"),
    Variable("PETAFLOP_TOOLS", "tools", _names, (), "observer plugins (`petaflop.tools.v1`) to load"),
)


class Config:
    """The values of `VARIABLES`, by attribute name."""

    device: str
    debug: int
    fuse: bool
    check: str
    verify: bool
    cache: bool
    cache_dir: Path
    cache_mb: int
    threads: int
    disable_plugins: tuple[str, ...]
    tools: tuple[str, ...]

    def __init__(self) -> None:
        self._faults: dict[str, str] = {}
        for variable in VARIABLES:
            text = os.environ.get(variable.name, "")
            try:
                value = variable.parse(text) if text else variable.default
            except ValueError as error:
                self._faults[variable.attribute] = f"{variable.name}: expected {error}, got {text!r}"
            else:
                setattr(self, variable.attribute, value)
        if self.cache_dir is None:
            self.cache_dir = _cache_root()

    def __getattr__(self, name: str) -> Any:
        """Only for what `__init__` could not set."""
        fault = self.__dict__.get("_faults", {}).get(name)
        if fault is not None:
            raise ArgumentError(fault)
        raise AttributeError(f"config has no attribute {name!r}")


config = Config()


@contextlib.contextmanager
def overrides(**values: Any) -> Iterator[Config]:
    """Set attributes of `config` for a block: `with overrides(fuse=False): ...`."""
    known = {variable.attribute for variable in VARIABLES}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"overrides: expected names among {sorted(known)}, got {unknown}")
    before = {name: getattr(config, name) for name in values}
    try:
        for name, value in values.items():
            setattr(config, name, value)
        yield config
    finally:
        for name, value in before.items():
            setattr(config, name, value)
