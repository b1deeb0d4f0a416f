"""EXP2, LOG2 and SIN as LLVM IR text, for scalars and vectors."""

from __future__ import annotations

from petaflop.ir.target import Target

__all__ = ["prelude"]


def prelude(text: str, target: Target) -> str:
    """The definitions of the math functions that `text` calls."""
    return ""
