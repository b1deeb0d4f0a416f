"""Errors that name the line of the user's own program."""

from __future__ import annotations

from typing import TypeVar

from petaflop.errors import PetaflopError

__all__ = ["fault"]

_Error = TypeVar("_Error", bound=PetaflopError)


def fault(kind: type[_Error], message: str) -> _Error:
    """An error to raise: one line, `op: expected X, got Y`. Every PetaflopError notes the user's line."""
    return kind(message)
