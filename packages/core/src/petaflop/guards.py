"""What a captured function reads besides its arguments: the places that a capture holds for.

reach.py finds them. Here they are compared: places that held a value, containers that held items, and, once,
after the capture, what can be advanced but not compared again (iterators, random states).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["MISSING", "PLAIN", "Guards", "same"]

PLAIN = (bool, int, float, complex, str, bytes, type(None))
MISSING: Any = object()
Get = Callable[[Any, Any], Any]  # of a key and of what to give if it is absent


def same(found: Any, expected: Any) -> bool:
    """Whether two values are one for a capture: 1 is not True, 0.0 is not -0.0, NaN is NaN."""
    if found is expected:
        return True
    return type(found) is type(expected) and type(found) in PLAIN and repr(found) == repr(expected)


def _all_same(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    if len(found) != len(expected):
        return False
    return all(map(operator.is_, found, expected)) or all(map(same, found, expected))


@dataclass(slots=True)
class Guards:
    """Places and the values that they had; `awaited` places were empty and may be filled by the function."""

    entries: list[tuple[Get, Any, Any]] = field(default_factory=list)
    awaited: list[tuple[Get, Any, Any]] = field(default_factory=list)
    contents: list[tuple[Callable[[], Sequence[Any]], Sequence[Any], str]] = field(default_factory=list)
    sizes: list[tuple[dict[Any, Any], int]] = field(default_factory=list)
    advancing: list[tuple[Callable[[], Any], Any, str]] = field(default_factory=list)
    clocks: bool = False  # the code in reach may ask for the time, or for random bytes

    @property
    def hold(self) -> bool:
        """Whether everything is as it was."""
        for places in (self.entries, self.awaited):
            for get, key, value in places:
                found = get(key, MISSING)
                if found is not value and not same(found, value):
                    return False
        for mapping, size in self.sizes:
            if len(mapping) != size:
                return False
        return not self.contents or all(_all_same(read(), before) for read, before, _ in self.contents)

    def changed(self, awaited: bool = True) -> Iterator[str]:
        """The places that hold something else now, in words."""
        for get, key, value in (*self.entries, *(self.awaited if awaited else ())):
            found = get(key, MISSING)
            if not same(found, value):
                yield f"{key} (it was {_text(value)}, it is {_text(found)})"
        for mapping, size in self.sizes:
            if len(mapping) != size:
                yield f"a dict of {size} items"
        for read, before, kind in self.contents:
            if not _all_same(read(), before):
                yield f"a {kind} of {len(before)} items"

    def advanced(self) -> Iterator[str]:
        """The iterators and random states that moved during the capture, in words."""
        return (text for read, before, text in self.advancing if read() != before)


def _text(value: Any) -> str:
    if value is MISSING:
        return "absent"
    return repr(value) if isinstance(value, PLAIN) else f"a {type(value).__name__}"
