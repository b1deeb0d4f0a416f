"""What a captured function reads besides its arguments: the Python values that a capture holds for.

Found from the code: the closed-over and global names that it loads, and in the objects found there the
attributes that some code on the way names; through lists, dicts, functions and methods. Numbers and strings
are compared, all else by identity. What an array holds and what a C extension reads is not seen.
"""

from __future__ import annotations

import dis
import functools
import operator
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from petaflop.tensor import Tensor

__all__ = ["Guards", "same"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_MISSING = object()
_IMPLICIT = ("__call__", "forward", "__iter__", "__getitem__")  # called without being named
_DYNAMIC = frozenset(("getattr", "vars", "__dict__"))  # names that reach attributes nobody names
_FOREIGN = frozenset((*sys.stdlib_module_names, "numpy", "builtins"))


def same(found: Any, expected: Any) -> bool:
    """Whether two values are one for a capture: 1 is not True, 0.0 is not -0.0, NaN is NaN."""
    if found is expected:
        return True
    return type(found) is type(expected) and type(found) in _PLAIN and repr(found) == repr(expected)


class _Names(NamedTuple):
    """The names that a piece of code loads."""

    globals: frozenset[str]
    attributes: frozenset[str]


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> _Names:
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for instruction in dis.get_instructions(code):
        if instruction.opcode in dis.hasname:
            found[instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")].add(instruction.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names = _names(inner)
            found[True] |= names.globals
            found[False] |= names.attributes
    return _Names(frozenset(found[True]), frozenset(found[False]))


def _package(value: Any) -> str:
    return str(getattr(value, "__module__", "") or "").partition(".")[0]


@dataclass(slots=True)
class Guards:
    """Places and the values that they had: `entries` of dicts, `cells` of closures, whole `lists`."""

    entries: list[tuple[Any, Any, Any]] = field(default_factory=list)
    cells: list[tuple[Any, str, Any]] = field(default_factory=list)
    lists: list[tuple[list[Any], list[Any]]] = field(default_factory=list)
    sizes: list[tuple[dict[Any, Any], int]] = field(default_factory=list)

    @classmethod
    def of(cls, *roots: Any) -> Guards:
        """The guards of functions and objects, until no more code is found on the way."""
        attributes: set[str] = set()
        while True:
            known = len(attributes)
            walk = _Walk(cls(), attributes)
            for root in roots:
                walk.visit(root)
            if len(attributes) == known:
                return walk.guards

    def changed(self) -> Iterator[str]:
        """The places that hold something else now, in words."""
        for container, key, value in self.entries:
            found = container.get(key, _MISSING)
            if found is not value and not same(found, value):
                yield f"{key} (it was {_text(value)}, it is {_text(found)})"
        for cell, name, value in self.cells:
            found = _contents(cell)
            if found is not value and not same(found, value):
                yield f"{name} (it was {_text(value)}, it is {_text(found)})"
        for items, before in self.lists:
            kept = len(items) == len(before)
            if not (kept and (all(map(operator.is_, items, before)) or all(map(same, items, before)))):
                yield f"a list of {len(before)} items"
        for mapping, size in self.sizes:
            if len(mapping) != size:
                yield f"a dict of {size} items"

    @property
    def hold(self) -> bool:
        """Whether everything is as it was."""
        return next(self.changed(), None) is None


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _MISSING


def _text(value: Any) -> str:
    if value is _MISSING:
        return "absent"
    return repr(value) if isinstance(value, _PLAIN) else f"a {type(value).__name__}"


class _Walk:
    """One pass over everything in reach; `attributes` collects the names that code on the way loads."""

    def __init__(self, guards: Guards, attributes: set[str]) -> None:
        self.guards = guards
        self.attributes = attributes
        self.seen: dict[int, Any] = {}
        self.stack: list[Any] = []

    def visit(self, root: Any) -> None:
        self.stack.append(root)
        while self.stack:
            value = self.stack.pop()
            if id(value) in self.seen or isinstance(value, (*_PLAIN, Tensor)):
                continue
            self.seen[id(value)] = value
            for kind, follow in _FOLLOW.items():
                if isinstance(value, kind):
                    follow(self, value)
                    break
            else:
                self._object(value)

    def _entry(self, container: Any, key: Any, follow: bool = True) -> None:
        value = container.get(key, _MISSING)
        if follow or isinstance(value, (*_PLAIN, Tensor)):
            self.guards.entries.append((container, key, value))
            self.stack.append(value)

    def _function(self, value: types.FunctionType) -> None:
        package = _package(value)
        if package in _FOREIGN:
            return
        names = _names(value.__code__)
        self.attributes |= names.attributes
        for cell, name in zip(value.__closure__ or (), value.__code__.co_freevars, strict=True):
            self.guards.cells.append((cell, name, _contents(cell)))
            self.stack.append(_contents(cell))
        self.stack.extend((*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()))
        if not package.startswith("petaflop"):  # our own globals never change
            for name in sorted(names.globals & value.__globals__.keys()):
                self._entry(value.__globals__, name)

    def _list(self, value: list[Any]) -> None:
        self.guards.lists.append((value, list(value)))
        self.stack.extend(value)

    def _dict(self, value: dict[Any, Any]) -> None:
        self.guards.sizes.append((value, len(value)))
        on_device = getattr(value, "on_device", ())  # values that code reads from a tensor instead
        for key in list(value):
            if key not in on_device:
                self._entry(value, key)

    def _module(self, value: types.ModuleType) -> None:
        if value.__name__.partition(".")[0] not in _FOREIGN:
            for name in self.attributes & vars(value).keys():
                self._entry(vars(value), name, follow=False)

    def _class(self, value: type) -> None:
        if _package(value) not in _FOREIGN:
            for name in self.attributes & vars(value).keys():
                self._entry(vars(value), name, follow=False)

    def _object(self, value: Any) -> None:
        kind = type(value)
        if (parts := getattr(kind, "petaflop_guarded", None)) is not None:  # its class says what counts
            self.stack.extend(getattr(value, name) for name in parts)
            return
        mine = getattr(value, "__dict__", None)
        if _package(kind) in _FOREIGN or not isinstance(mine, dict):
            return
        whole = False
        for base in kind.__mro__:
            if _package(base) in _FOREIGN:
                continue
            inherited = vars(base)
            for name in (self.attributes | set(_IMPLICIT)) & inherited.keys():
                member = inherited[name]
                member = getattr(member, "__wrapped__", None) or getattr(member, "fget", None) or member
                member = getattr(member, "__func__", member)
                if isinstance(member, types.FunctionType):
                    self.stack.append(member)
                    used = _names(member.__code__)
                    whole = whole or bool(_DYNAMIC & (used.globals | used.attributes))
                elif isinstance(member, _PLAIN) and name not in mine:
                    self._entry(inherited, name)
                    self._entry(mine, name)  # absent: the object may get one of its own
        for name in list(mine) if whole else [name for name in mine if name in self.attributes]:
            self._entry(mine, name)


_FOLLOW: dict[Any, Any] = {
    types.FunctionType: _Walk._function,
    types.MethodType: lambda walk, value: walk.stack.extend((value.__func__, value.__self__)),
    functools.partial: lambda walk, value: walk.stack.extend((value.func, value.args, value.keywords)),
    types.ModuleType: _Walk._module,
    type: _Walk._class,
    list: _Walk._list,
    (tuple, set, frozenset): lambda walk, value: walk.stack.extend(value),
    dict: _Walk._dict,
}
