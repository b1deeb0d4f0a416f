"""Whether operations are recorded for gradients: `no_grad()` and `enable_grad()`, per thread."""

from __future__ import annotations

import contextlib
import threading

__all__ = ["enable_grad", "grad_enabled", "no_grad"]


class _Mode(threading.local):
    enabled = True


_mode = _Mode()


def grad_enabled() -> bool:
    """Whether operations of this thread are recorded for gradients."""
    return _mode.enabled


class _SetMode(contextlib.ContextDecorator):
    """Sets the mode for a block or a function; may be entered again while it is active."""

    _enabled: bool

    def __init__(self) -> None:
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(_mode.enabled)
        _mode.enabled = self._enabled

    def __exit__(self, *exc: object) -> None:
        _mode.enabled = self._before.pop()

    def _recreate_cm(self) -> _SetMode:
        return type(self)()


class no_grad(_SetMode):
    """What is computed in this block needs no gradient; a context manager and a decorator.

    >>> with no_grad():
    ...     pass
    """

    _enabled = False


class enable_grad(_SetMode):
    """What is computed in this block is recorded again, inside a `no_grad` block."""

    _enabled = True
