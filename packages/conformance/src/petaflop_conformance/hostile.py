"""Files that no reader should trust, and the time in which it must say so."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from petaflop.errors import FileFormatError
from petaflop_conformance.values import generator

__all__ = ["PATIENCE", "garbage", "refused", "truncated"]

PATIENCE = 2.0  # seconds


def garbage() -> Iterator[tuple[str, bytes]]:
    """Contents by name: nothing, text, zeros, random bytes, sizes that are too large to be true."""
    yield "empty", b""
    yield "one-byte", b"\x08"
    yield "text", b"this is no model\n" * 20
    yield "zeros", bytes(4096)
    yield "ones", b"\xff" * 4096
    for size in (16, 1000, 100_000):
        yield f"random-{size}", generator("garbage", size).bytes(size)
    yield "huge-length", b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"{" * 64
    yield "archive", b"PK\x03\x04" + bytes(60)


def truncated(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The beginnings of a file that is right, and files that end in the middle of what matters."""
    for share in (0.01, 0.25, 0.5, 0.9):
        yield f"first {share:.0%}", data[: int(len(data) * share)]
    yield "all but the last byte", data[:-1]


def refused(path: Path, data: bytes, read: Callable[[Path], Any], what: str) -> None:
    """Reading these bytes is a FileFormatError that names the file, soon, and leaves the file alone."""
    path.write_bytes(data)
    started = time.process_time()
    try:
        read(path)
    except FileFormatError as error:
        assert path.name in str(error), f"{what}: expected the file's name in the message, got {error}"
    except Exception as error:
        raise AssertionError(
            f"{what}: expected FileFormatError, got {type(error).__name__}: {error}"
        ) from error
    else:
        raise AssertionError(f"{what}: expected FileFormatError, got a result")
    seconds = time.process_time() - started
    assert seconds < PATIENCE, (
        f"{what}: expected an answer within {PATIENCE:g} s, got one after {seconds:.1f} s"
    )
    assert path.read_bytes() == data
    os.unlink(path)
