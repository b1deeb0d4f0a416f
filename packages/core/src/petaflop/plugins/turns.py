"""One at a time, by key: a thread waits for another that opens the same thing, and for nothing else.

Threads that would wait for each other for ever get an error instead.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Hashable, Iterator

from petaflop.errors import PluginError

__all__ = ["Turns", "turns"]


class Turns:
    """Re-entrant locks by key, which know who waits for whom."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders: dict[Hashable, list[int]] = {}  # key → one entry for each time that a thread took it
        self._waiting: dict[int, Hashable] = {}

    @contextlib.contextmanager
    def take(self, key: Hashable) -> Iterator[None]:
        """Hold `key` for a block; PluginError where that would wait for this very thread."""
        me = threading.get_ident()
        with self._changed:
            while self._holder(key) not in (None, me):
                if self._waits_for(key, me):
                    raise PluginError("it waits for a plugin that waits for it")
                self._waiting[me] = key
                try:
                    self._changed.wait()
                finally:
                    del self._waiting[me]
            self._holders.setdefault(key, []).append(me)
        try:
            yield
        finally:
            with self._changed:
                self._holders[key].pop()
                if not self._holders[key]:
                    del self._holders[key]
                self._changed.notify_all()

    def forget_other_threads(self) -> None:
        """For a process that was forked: the threads that held or awaited turns are not in it."""
        me = threading.get_ident()
        self._changed = threading.Condition()
        self._holders = {key: threads for key, threads in self._holders.items() if threads[0] == me}
        self._waiting = {}

    def _holder(self, key: Hashable) -> int | None:
        return self._holders[key][0] if key in self._holders else None

    def _waits_for(self, key: Hashable, thread: int) -> bool:
        """Whether the holder of `key` waits, through others, for `thread`; every waiter has asked this, so
        that the chain ends."""
        holder = self._holder(key)
        while holder is not None and holder != thread:
            if holder not in self._waiting:
                return False
            holder = self._holder(self._waiting[holder])
        return holder == thread


turns = Turns()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=turns.forget_other_threads)
