"""The header of a GGUF file, read without trusting any of it: every count and size is held to the file's own.

Nothing is allocated before it is known to be there; whatever is wrong is one FileFormatError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np

from petaflop.plugin_api import FileFormatError

__all__ = ["ARRAY", "STRING", "TYPES", "Entry", "GGMLType", "Header", "MetadataValue", "parse"]

Array: TypeAlias = np.ndarray[Any, Any]

MAGIC, VERSIONS = b"GGUF", (2, 3)
STRING, ARRAY = 8, 9
_SCALARS = {
    0: "u1",
    1: "i1",
    2: "u2",
    3: "i2",
    4: "u4",
    5: "i4",
    6: "f4",
    7: "?",
    10: "u8",
    11: "i8",
    12: "f8",
}
_MOST_AXES, _MOST_DEPTH, _MOST_ALIGNMENT = 4, 4, 1 << 20
_MOST_STRINGS = 1 << 22  # of one file: each is an object of Python
_MOST_NAME = 64 << 10


@dataclass(frozen=True, slots=True)
class GGMLType:
    """A type of tensors: its name, and how many elements have how many bytes."""

    name: str
    block: int
    nbytes: int


TYPES: dict[int, GGMLType] = {
    number: GGMLType(name, block, nbytes)
    for number, name, block, nbytes in (
        (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34), (10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176), (14, "Q6_K", 256, 210), (20, "IQ4_NL", 32, 18),
        (23, "IQ4_XS", 256, 136), (24, "I8", 1, 1), (25, "I16", 1, 2), (26, "I32", 1, 4), (27, "I64", 1, 8),
        (28, "F64", 1, 8), (30, "BF16", 1, 2), (39, "MXFP4", 32, 17), (40, "NVFP4", 64, 36),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MetadataValue:
    """A value beside the tensors, with the type that the file gives it: a number, text, or a list of them."""

    kind: int
    value: Any
    item_kind: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: its shape as rows of values, the last axis contiguous, and where its bytes are."""

    name: str
    type: int
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the data."""

    version: int
    alignment: int
    metadata: dict[str, MetadataValue]
    entries: list[Entry]


class _Cursor:
    """A place in the file, that never leaves it."""

    def __init__(self, memory: memoryview, path: Path) -> None:
        self.memory, self.path, self.place, self.strings = memory, path, 0, 0

    def fail(self, text: str) -> NoReturn:
        raise FileFormatError(f"{self.path}: {text}")

    def need(self, count: int, each: int, what: str) -> int:
        """The place of `count` things of `each` bytes, which must be there; moves behind them."""
        left = len(self.memory) - self.place
        if count > left // each:
            self.fail(f"{what}: expected {count} × {each} bytes from {self.place} on, got {left}")
        start, self.place = self.place, self.place + count * each
        return start

    def number(self, code: str, what: str) -> Any:
        """One number, as `struct` names its type."""
        start = self.need(1, struct.calcsize(code), what)
        return struct.unpack_from(f"<{code}", self.memory, start)[0]

    def text(self, what: str, most: int | None = None) -> str:
        """A length and so many bytes of UTF-8."""
        length = self.number("Q", what)
        if most is not None and not 0 < length <= most:
            self.fail(f"{what}: expected 1 to {most} bytes of text, got {length}")
        self.strings += 1
        if self.strings > _MOST_STRINGS:
            self.fail(f"{what}: expected at most {_MOST_STRINGS} texts in a file, got more")
        start = self.need(length, 1, what)
        try:
            return str(self.memory[start : start + length], "utf-8", "strict" if most else "surrogateescape")
        except UnicodeDecodeError as error:
            self.fail(f"{what}: expected UTF-8, got {error.reason} at byte {start + error.start}")

    def value(self, kind: int, what: str, depth: int = 0) -> tuple[Any, int | None]:
        """A value of a type, and the type of its items where it is a list."""
        if kind in _SCALARS:
            return self.scalars(kind, 1, what)[0].item(), None
        if kind == STRING:
            return self.text(what), None
        if kind != ARRAY or depth == _MOST_DEPTH:
            self.fail(f"{what}: expected a type of {[*_SCALARS, STRING, ARRAY]}, got {kind}")
        item, count = self.number("I", what), self.number("Q", what)
        if item in _SCALARS:
            return self.scalars(item, count, what), item
        least = 8 if item == STRING else 12
        if count > (len(self.memory) - self.place) // least:
            self.fail(f"{what}: expected fewer items than {count} in a file of {len(self.memory)} bytes")
        return [self.value(item, what, depth + 1)[0] for _ in range(count)], item

    def scalars(self, kind: int, count: int, what: str) -> Array:
        """Numbers, as an array of their own."""
        stored = np.dtype(_SCALARS[kind]).newbyteorder("<")
        start = self.need(count, stored.itemsize, what)
        raw = np.frombuffer(self.memory, np.uint8, count * stored.itemsize, start)
        if kind == 7:
            return raw != 0
        return raw.view(stored).astype(stored.newbyteorder("="))


def parse(memory: memoryview, path: Path) -> Header:
    """The header, all of whose tensors lie in the file and apart from each other."""
    cursor = _Cursor(memory, path)
    magic = bytes(memory[:4])
    if magic != MAGIC:
        cursor.fail(f"magic: expected a GGUF file, got one that begins with {magic!r}")
    cursor.place = 4
    version = cursor.number("I", "version")
    if version not in VERSIONS:
        swapped = " (a big-endian file)" if int.from_bytes(version.to_bytes(4, "little")) in VERSIONS else ""
        cursor.fail(f"version: expected one of {VERSIONS}, got {version}{swapped}")
    tensors, values = cursor.number("Q", "number of tensors"), cursor.number("Q", "number of values")
    left = len(memory) - cursor.place
    if tensors > left // 25 or values > left // 13:
        cursor.fail(f"counts: expected what {left} bytes can hold, got {tensors} tensors and {values} values")
    metadata = _metadata(cursor, values)
    alignment = metadata.get("general.alignment", MetadataValue(4, 32)).value
    if not isinstance(alignment, int) or not 0 < alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
        cursor.fail(f"general.alignment: expected a power of two, got {alignment!r}")
    infos = [_info(cursor, n, alignment) for n in range(tensors)]
    start = -(-cursor.place // alignment) * alignment
    entries = [Entry(name, kind, shape, start + at, size) for name, kind, shape, at, size in infos]
    _check_places(cursor, entries, alignment)
    return Header(version, alignment, metadata, entries)


def _metadata(cursor: _Cursor, count: int) -> dict[str, MetadataValue]:
    found: dict[str, MetadataValue] = {}
    for n in range(count):
        key = cursor.text(f"key {n}", _MOST_NAME)
        kind = cursor.number("I", f"value of {_shown(key)}")
        value, item = cursor.value(kind, f"value of {_shown(key)}")
        if key in found:
            cursor.fail(f"key {_shown(key)}: expected once, got it twice")
        found[key] = MetadataValue(kind, value, item)
    return found


def _info(cursor: _Cursor, n: int, alignment: int) -> tuple[str, int, tuple[int, ...], int, int]:
    name = cursor.text(f"name of tensor {n}", _MOST_NAME)
    what = f"tensor {_shown(name)}"
    axes = cursor.number("I", what)
    if axes > _MOST_AXES:
        cursor.fail(f"{what}: expected at most {_MOST_AXES} axes, got {axes}")
    shape = tuple(cursor.number("Q", what) for _ in range(axes))[::-1]
    kind, offset = cursor.number("I", what), cursor.number("Q", what)
    if kind not in TYPES:
        cursor.fail(f"{what}: type: expected one of {[t.name for t in TYPES.values()]}, got number {kind}")
    elements = 1
    for size in shape:
        elements *= size
        if size > 1 << 40 or elements > 1 << 50:
            cursor.fail(f"{what}: expected sizes that a file can have, got {list(shape)}")
    found = TYPES[kind]
    if (shape[-1] if shape else 1) % found.block:
        cursor.fail(
            f"{what}: expected rows of a multiple of {found.block} for {found.name}, got {list(shape)}"
        )
    if offset % alignment:
        cursor.fail(f"{what}: expected an offset aligned to {alignment}, got {offset}")
    return name, kind, shape, offset, elements // found.block * found.nbytes


def _check_places(cursor: _Cursor, entries: list[Entry], alignment: int) -> None:
    names: set[str] = set()
    end, before = cursor.place, "the header"
    for entry in sorted(entries, key=lambda each: (each.start, each.nbytes)):
        what = f"tensor {_shown(entry.name)}"
        if entry.name in names:
            cursor.fail(f"{what}: expected once, got it twice")
        names.add(entry.name)
        if entry.start < end:
            cursor.fail(f"{what}: expected bytes of its own, got some of {_shown(before)}")
        end, before = entry.start + entry.nbytes, entry.name
        padded = -(-end // alignment) * alignment  # the last one is padded as well
        if padded > len(cursor.memory):
            cursor.fail(f"{what}: expected a file of {padded} bytes, got {len(cursor.memory)}")


def _shown(name: str) -> str:
    """A name from a file, short and on one line."""
    return repr(name if len(name) <= 80 else f"{name[:80]}…")
