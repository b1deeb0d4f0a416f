"""What gives something else at each call: clocks, random numbers, iterators that are advanced.

A clock that the code in reach may ask is proven by watching the calls of the capture; an iterator and a
random state by comparing how far they are before and after it.
"""

from __future__ import annotations

import operator
import pickle
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from petaflop.guards import PLAIN

__all__ = ["CLOCKS", "Watch", "is_clock", "progress_of", "random_states"]

_TIME = frozenset(("time", "perf_counter", "monotonic", "process_time", "thread_time"))
_CALLS = {
    **{name: "time" for base in _TIME for name in (base, f"{base}_ns")},
    **dict.fromkeys(("datetime.now", "datetime.utcnow", "datetime.today", "date.today"), "datetime"),
    **dict.fromkeys(("urandom", "getrandom"), "os"),
    "input": "builtins",
}
_PYTHON = {"uuid": "uuid", "secrets": "secrets"}  # modules in Python whose functions never repeat
# names that code loads where it may call one of them
CLOCKS = frozenset((*(name.rpartition(".")[2] for name in _CALLS), *_PYTHON, "uuid1", "uuid4", "choice"))


def is_clock(function: Any) -> bool:
    """Whether a function in C gives something else each time that it is called."""
    return _name(function) is not None


def _name(function: Any) -> str | None:
    if not isinstance(function, types.BuiltinFunctionType):
        return None
    module = _CALLS.get(function.__qualname__)
    owner = function.__self__
    own = str(getattr(owner, "__name__", None) if isinstance(owner, types.ModuleType) else _module(owner))
    own = {"posix": "os", "nt": "os"}.get(own, own)
    return f"{module}.{function.__qualname__}" if module is not None and own == module else None


def _module(owner: Any) -> str:
    return owner.__module__ if isinstance(owner, type) else type(owner).__module__


class Watch:
    """Notes the first call of a clock that code outside the standard library makes, while it is active.

    Where a profiler is at work there is nothing to watch with, and nothing is found.
    """

    def __init__(self, wanted: bool) -> None:
        self.found: str | None = None
        self._wanted = wanted and sys.getprofile() is None

    def __enter__(self) -> Watch:
        if self._wanted:
            sys.setprofile(self._event)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._wanted:
            sys.setprofile(None)

    def _event(self, frame: types.FrameType, event: str, argument: Any) -> None:
        if self.found is not None:
            return
        if event == "c_call":
            name = _name(argument)
            if name is not None and _is_user(frame):
                self.found = name
        elif event == "call" and frame.f_back is not None:
            module = _PYTHON.get(frame.f_globals.get("__name__", ""))
            if module is not None and _is_user(frame.f_back):
                self.found = f"{module}.{frame.f_code.co_name}"


def _is_user(frame: types.FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    if package in sys.stdlib_module_names or package.partition("_")[0] == "petaflop":
        return False
    return "-packages" not in frame.f_code.co_filename


# ---- what advances ----


def random_states() -> Iterator[Any]:
    """The random states that functions of `random` and `numpy.random` draw from."""
    yield random.random.__self__  # type: ignore[attr-defined]
    yield np.random.random_sample.__self__  # type: ignore[attr-defined]


def progress_of(value: Any) -> Callable[[], Any] | None:
    """How to ask an iterator or a random state how far it is; None for one that does not tell."""
    if isinstance(value, random.Random):
        return value.getstate
    if isinstance(value, np.random.RandomState):
        return lambda: pickle.dumps(value.get_state(legacy=False))
    if isinstance(value, np.random.Generator):
        return lambda: pickle.dumps(value.bit_generator.state)
    if isinstance(value, Iterator):
        return lambda: _progress(value)
    return None


def _progress(value: Any) -> Any:
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        if frame is None:
            return "ended"
        parts = (value.gi_yieldfrom, *frame.f_locals.values())
        return (frame.f_lasti, [_mark(part) for part in parts])
    left = operator.length_hint(value, -1)
    if left >= 0:
        return left
    try:
        _, *parts = value.__reduce__()
    except (TypeError, AttributeError):  # it does not say
        return None
    return [_mark(part) for part in parts]


def _mark(value: Any) -> Any:
    """Something to tell a part of an iterator's state by."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, tuple):
        return [_mark(part) for part in value]
    return _progress(value) if isinstance(value, Iterator) else id(value)
