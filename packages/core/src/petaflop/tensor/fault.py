"""Errors that name the line of the user's own program."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from typing import TypeVar

from petaflop.errors import PetaflopError

__all__ = ["fault", "user_line"]

_PACKAGE = str(Path(__file__).resolve().parent.parent)
_Error = TypeVar("_Error", bound=PetaflopError)


def user_line() -> str | None:
    """`file:line: source` of the innermost frame outside the petaflop package."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        if frame.f_back is None:
            return None
        frame = frame.f_back
    path, line = frame.f_code.co_filename, frame.f_lineno
    return f"{path}:{line}: {linecache.getline(path, line).strip()}"


def fault(kind: type[_Error], message: str) -> _Error:
    """An error to raise: one line that says `op: expected X, got Y`, and a note with the user's own line."""
    error = kind(message)
    if (line := user_line()) is not None:
        error.add_note(f"at {line}")
    return error
