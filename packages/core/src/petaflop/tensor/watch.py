"""Who changes tensors: a log, per thread, of those made and assigned while a function is captured.

Other threads go on building graphs meanwhile; what they do is neither part of the capture nor undone by it.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from petaflop.graph.node import Node

__all__ = ["Log", "Watched", "logging"]


@dataclass(slots=True)
class Log:
    """Tensors by identity, each with what it held before the first change.

    Those made meanwhile are not held, or it would be the log that keeps them; there is nothing to restore.
    """

    made: dict[int, weakref.ref[Any]] = field(default_factory=dict)
    nodes: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    grads: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    asked: dict[int, bool] = field(default_factory=dict)  # whether a gradient was None when first asked for

    def is_older(self, tensor: Any) -> bool:
        """Whether the tensor was there before the log."""
        reference = self.made.get(id(tensor))
        return reference is None or reference() is not tensor

    def restore(self) -> None:
        """Give every tensor back what it held."""
        for tensor, node in self.nodes.values():
            tensor._node = node
        for tensor, grad in self.grads.values():
            tensor._grad = grad


class _Watch(threading.local):
    log: Log | None = None


_watch = _Watch()


@contextlib.contextmanager
def logging() -> Iterator[Log]:
    """Log what this thread does in the block."""
    before, _watch.log = _watch.log, Log()
    try:
        yield _watch.log
    finally:
        _watch.log = before


class Watched:
    """The parts of a tensor that change, and a note of each change in the log of the thread that makes it."""

    __slots__ = ("__weakref__", "_grad", "_node")
    _node: Node
    _grad: Self | None

    def _begin(self, node: Node) -> None:
        """The value of a new tensor."""
        self._node, self._grad = node, None
        if (log := _watch.log) is not None:
            log.made[id(self)] = weakref.ref(self)

    def _replace(self, node: Node) -> None:
        """Another value for this tensor."""
        if (log := _watch.log) is not None and log.is_older(self):
            log.nodes.setdefault(id(self), (self, self._node))
        self._node = node

    @property
    def grad(self) -> Self | None:
        """The gradient that `backward` has added up, or None."""
        if (log := _watch.log) is not None:
            log.asked.setdefault(id(self), self._grad is None)
        return self._grad

    @grad.setter
    def grad(self, value: Self | None) -> None:
        if (log := _watch.log) is not None and log.is_older(self):
            log.grads.setdefault(id(self), (self, self._grad))
        self._grad = value
