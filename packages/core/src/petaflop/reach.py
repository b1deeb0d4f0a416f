"""What a function can reach: the places in closures, globals, objects and containers that its code reads.

Found from the code: closed-over and global names that it loads, and in the objects found there the attributes
that some code on the way names (all of them where a name is computed): in `__dict__`, slots and classes. The
methods of those classes are code on the way, special ones without being named. Containers are read by their
protocol. What an array holds and what a C extension keeps to itself is not seen.
"""

from __future__ import annotations

import functools
import operator
import os
import sys
import types
import weakref
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

from petaflop.guards import MISSING, PLAIN, Guards
from petaflop.impure import CLOCKS, is_clock, progress_of, random_states
from petaflop.loads import TEXTS, loads_of
from petaflop.tensor import Tensor

__all__ = ["guards_of"]

_FOREIGN = frozenset((*sys.stdlib_module_names, "numpy", "builtins"))
_CREATION = frozenset(("__init__", "__new__", "__post_init__"))
# special methods that nothing calls in passing: they count where code names them
_RARE = _CREATION | frozenset(
    ("__repr__", "__str__", "__format__", "__del__", "__dir__", "__sizeof__", "__copy__", "__deepcopy__")
    + ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__init_subclass__", "__set_name__")
    + ("__class_getitem__", "__subclasshook__")
)
_OURS = frozenset(("__call__", "forward", "__iter__", "__getitem__", "__len__"))  # of our own classes
_WRAPPED = ("fget", "func", "__func__", "__wrapped__")  # where property and its like keep a function
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def guards_of(*roots: Any) -> Guards:
    """The guards of functions and objects, until no more code is found on the way."""
    known = _Known()
    while True:
        before = known.size
        walk = _Walk(Guards(), known)
        for root in roots:
            walk.visit(root)
        if known.size == before:
            return walk.guards


class _Known:
    """What the code found so far loads; it only grows."""

    def __init__(self) -> None:
        self.attributes: set[str] = set()
        self.asked: set[str] = set()
        self.any_attribute = False

    @property
    def size(self) -> tuple[int, int, bool]:
        return len(self.attributes), len(self.asked), self.any_attribute


class _Members(NamedTuple):
    """What a class says about its instances."""

    whole: bool  # its methods may read any attribute
    plain: tuple[str, ...]  # attributes of the class that an instance may replace
    cached: tuple[str, ...]  # filled at first use
    slots: tuple[str, ...]
    names: frozenset[str]


def _package(value: Any) -> str:
    return str(getattr(value, "__module__", "") or "").partition(".")[0]


def _is_foreign(kind: type) -> bool:
    return _package(kind) in _FOREIGN


def _is_ours(value: Any) -> bool:
    return _package(value).partition("_")[0] == "petaflop"


@functools.lru_cache(maxsize=1024)
def _is_library(module: str) -> bool:
    """Whether a module is installed and has nothing of petaflop in it: it cannot be a part of a model."""
    namespace = vars(sys.modules.get(module, types))
    parts = [
        value.__name__ if isinstance(value, types.ModuleType) else value.__module__
        for value in list(namespace.values())
        if isinstance(value, (types.ModuleType, types.FunctionType, type))
    ]
    installed = "-packages" in str(namespace.get("__file__") or "")
    return installed and not any(str(part).startswith("petaflop") for part in parts)


class _Walk:
    """One pass over everything in reach; `known` collects what the code on the way loads."""

    def __init__(self, guards: Guards, known: _Known) -> None:
        self.guards = guards
        self.known = known
        self.seen: dict[int, Any] = {}
        self.classes: dict[type, _Members] = {}
        self.stack: list[Any] = []

    def visit(self, root: Any) -> None:
        self.stack.append(root)
        while self.stack:
            value = self.stack.pop()
            if id(value) in self.seen or value is MISSING or isinstance(value, (*PLAIN, Tensor)):
                continue
            self.seen[id(value)] = value
            follow = next((f for kind, f in _FOLLOW.items() if isinstance(value, kind)), _Walk._value)
            follow(self, value)

    def _place(self, get: Callable[[Any, Any], Any], key: Any) -> None:
        value = get(key, MISSING)
        self.guards.entries.append((get, key, value))
        self.stack.append(value)

    # ---- code ----

    def _function(self, value: types.FunctionType, creates: bool = False) -> None:
        if _package(value) in _FOREIGN:
            self._outside(frozenset((value.__name__,)))
            return
        known, loads = self.known, loads_of(value.__code__)
        ours = _is_ours(value)
        known.attributes |= loads.attributes - TEXTS if ours else loads.attributes
        if not creates:  # what a constructor stores belongs to a new object
            known.attributes |= loads.stored
        self._closure(value)
        for name in vars(value):
            if known.any_attribute or name in known.attributes:
                self._place(vars(value).get, name)
        if ours or _is_library(value.__module__):  # their globals never change
            return
        known.asked |= loads.asked
        known.any_attribute = known.any_attribute or loads.any_attribute
        namespace = value.__globals__
        used = [name for name in namespace if name[:2] != "__"] if loads.any_global else loads.globals
        for name in sorted(used):
            if name in namespace:
                self._place(namespace.get, name)
        for name in ("__code__", "__defaults__", "__kwdefaults__"):  # reloading replaces them
            self._place(functools.partial(getattr, value), name)
        for name in loads.modules:
            self.stack.extend(sys.modules.get(part, MISSING) for part in (name, name.partition(".")[0]))
        self._outside(loads.globals | loads.attributes)

    def _outside(self, names: frozenset[str]) -> None:
        """What the standard library reads for code that loads these names."""
        self.guards.clocks = self.guards.clocks or bool(CLOCKS & names)
        if not names.isdisjoint(("environ", "getenv", "environb")):
            self.stack.append(os.environ)
        if "random" in names:
            self.stack.extend(random_states())

    def _closure(self, value: types.FunctionType) -> None:
        for cell, name in zip(value.__closure__ or (), value.__code__.co_freevars, strict=True):
            self._place(functools.partial(_cell, cell), name)
        self.stack.extend((*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()))

    def _builtin(self, value: Any) -> None:
        self.guards.clocks = self.guards.clocks or is_clock(value)
        if not isinstance(value.__self__, types.ModuleType):
            self.stack.append(value.__self__)

    def _module(self, value: types.ModuleType) -> None:
        if value.__name__.partition(".")[0] in _FOREIGN or value.__name__.split(".")[0] == "petaflop":
            return
        library = _is_library(value.__name__)
        whole = self.known.any_attribute and not library
        for name in sorted(vars(value) if whole else self.known.attributes & vars(value).keys()):
            code = isinstance(vars(value)[name], (types.FunctionType, types.ModuleType, type))
            if name[:2] != "__" and not (library and code):
                self._place(vars(value).get, name)

    # ---- classes and objects ----

    def _class(self, value: type) -> None:
        if _is_foreign(value) or _is_ours(value):
            return
        self._members(value)
        for base in value.__mro__:
            for name in _CREATION & vars(base).keys():  # to make an object inside calls it
                member = vars(base)[name]
                if isinstance(member, types.FunctionType) and id(member) not in self.seen:
                    self.seen[id(member)] = member
                    self._function(member, creates=True)
        self.stack.append(type(value))

    def _members(self, kind: type) -> _Members:
        if kind in self.classes:
            return self.classes[kind]
        whole, known = False, self.known.attributes
        plain: list[str] = []
        cached: list[str] = []
        slots: list[str] = []
        names: set[str] = set()
        below: list[Any] = []  # the user's classes that may yet get a member of their own
        for base in kind.__mro__:
            inherited, foreign, ours = vars(base), _is_foreign(base), _is_ours(base)
            names.update(inherited)
            for name, member in list(inherited.items()):
                if isinstance(member, _DESCRIPTORS):
                    slots += [name] if name[:2] != "__" and not ours else []
                    continue
                special = name in _OURS if ours else name[:2] == "__" and name not in _RARE
                if foreign or not (name in known or (special and callable(member))):
                    continue
                inner = next((f for w in _WRAPPED if (f := getattr(member, w, None)) is not None), member)
                if isinstance(inner, types.FunctionType):
                    loads = loads_of(inner.__code__)
                    whole = whole or loads.any_of_self or (ours and loads.any_attribute)
                if isinstance(member, functools.cached_property):
                    cached.append(name)
                elif not isinstance(member, property):
                    plain += [name] if inner is member and name[:2] != "__" else []
                self.stack.append(inner)
                for space in below if name[:2] != "__" else ():
                    if name not in space:
                        self._place(space.get, name)
                if not ours:
                    self._place(inherited.get, name)
            below += [inherited] if not (ours or foreign) else []
        found = _Members(whole, tuple(dict.fromkeys(plain)), tuple(cached), tuple(slots), frozenset(names))
        self.classes[kind] = found
        return found

    def _value(self, value: Any) -> None:
        kind = type(value)
        if (parts := getattr(kind, "petaflop_guarded", None)) is not None:  # its class says what counts
            self.stack.extend(getattr(value, name) for name in parts)
            return
        if _is_foreign(_owner(kind, "__next__")) and (read := progress_of(value)) is not None:
            self.guards.advancing.append((read, read(), f"a {kind.__name__}"))
            return
        if _package(kind) == "numpy":
            return
        self._contents(value)
        if kind.__module__ != "builtins":
            if not _is_ours(kind):
                self.guards.entries.append((functools.partial(getattr, value), "__class__", kind))
            self._state(value, kind)

    def _state(self, value: Any, kind: type) -> None:
        members, known = self._members(kind), self.known
        whole = members.whole or known.any_attribute
        mine = getattr(value, "__dict__", None)
        if isinstance(mine, dict):
            for name in list(mine) if whole else [name for name in mine if name in known.attributes]:
                self._place(mine.get, name)
            for name in members.plain:
                if name not in mine:  # the object may get one of its own
                    self._place(mine.get, name)
            for name in {*members.cached, *(known.asked - members.names)} - mine.keys():
                self.guards.awaited.append((mine.get, name, MISSING))
        for name in members.slots:
            if whole or name in known.attributes:
                get = functools.partial(getattr, value)
                if isinstance(vars(kind).get(name), types.MemberDescriptorType) or isinstance(
                    get(name, MISSING), PLAIN
                ):
                    self._place(get, name)

    # ---- containers ----

    def _contents(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, dict):
            self.guards.sizes.append((value, len(value)))
            on_device = getattr(value, "on_device", ())  # values that code reads from a tensor instead
            for key in list(value):
                if key not in on_device:
                    self._place(functools.partial(dict.get, value), key)
        elif isinstance(value, (tuple, frozenset)):
            self.stack.extend(value)
        elif isinstance(value, (bytearray, memoryview)):
            self._snapshot(value, functools.partial(bytes, value))
        elif isinstance(value, (list, set)):
            self._snapshot(value, functools.partial(list, value))
        elif isinstance(value, Collection) and _is_foreign(_owner(kind, "__iter__")):
            read = functools.partial(_items, value) if isinstance(value, Mapping) else None
            self._snapshot(value, read or functools.partial(list, value))

    def _snapshot(self, value: Any, read: Callable[[], Any]) -> None:
        before = read()
        self.guards.contents.append((read, before, type(value).__name__))
        self.stack.extend(before)


def _owner(kind: type, name: str) -> type:
    """The class that defines a method."""
    return next((base for base in kind.__mro__ if name in vars(base)), object)


def _items(value: Mapping[Any, Any]) -> list[Any]:
    return [part for item in value.items() for part in item]


def _cell(cell: Any, name: str, default: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return default


def _by_name(walk: _Walk, value: Any) -> None:
    walk.known.any_attribute = True


def _weak(walk: _Walk, value: weakref.ReferenceType[Any]) -> None:
    walk.guards.entries.append((lambda key, default: value() is None, "a weak reference", value() is None))
    walk.stack.append(value())


def _context(walk: _Walk, value: ContextVar[Any]) -> None:
    walk._place(lambda key, default: value.get(default), value.name)


_FOLLOW: dict[Any, Callable[[_Walk, Any], None]] = {
    types.FunctionType: _Walk._function,
    types.MethodType: lambda walk, value: walk.stack.extend((value.__func__, value.__self__)),
    (types.BuiltinFunctionType, types.MethodWrapperType): _Walk._builtin,
    functools.partial: lambda walk, value: walk.stack.extend((value.func, value.args, value.keywords)),
    types.ModuleType: _Walk._module,
    type: _Walk._class,
    functools._lru_cache_wrapper: lambda walk, value: walk.stack.append(value.__wrapped__),
    (operator.attrgetter, operator.methodcaller): _by_name,
    weakref.ReferenceType: _weak,
    ContextVar: _context,
}
