"""Errors that name the line of the user's own program."""

from __future__ import annotations

from typing import TypeVar

from petaflop.errors import PetaflopError
from petaflop.profile import user_line

__all__ = ["fault"]

_Error = TypeVar("_Error", bound=PetaflopError)


def fault(kind: type[_Error], message: str) -> _Error:
    """An error to raise: one line that says `op: expected X, got Y`, and a note with the user's own line."""
    error = kind(message)
    if line := user_line():
        error.add_note(f"at {line}")
    return error
