"""The disk cache: what it gives back, and how it takes damaged, shared, full and read-only folders."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from petaflop.device import cache as module
from petaflop.device.cache import DiskCache

ENTRY = (b"\x7fELF\0binary", '{"scratch": 0}')


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "kernels")


def only_file(cache: DiskCache) -> Path:
    (path,) = (p for p in cache.root.rglob("*") if p.is_file())
    return path


def test_gives_back_what_was_put(cache: DiskCache) -> None:
    assert cache.get("a") is None
    cache.put("a", *ENTRY)
    cache.put("b", b"", "")
    assert cache.get("a") == ENTRY
    assert cache.get("b") == (b"", "")
    cache.put("a", b"newer", "{}")
    assert cache.get("a") == (b"newer", "{}")


def test_any_text_is_a_key(cache: DiskCache) -> None:
    for key in ("../../escape", "a/b", "x" * 10_000, "", "ü\0"):
        cache.put(key, key.encode(), key)
        assert cache.get(key) == (key.encode(), key)
    assert {path.parent.parent for path in cache.root.rglob("*.kernel")} == {cache.root}


def test_truncation_at_every_byte_is_a_miss_and_is_mended(cache: DiskCache) -> None:
    cache.put("a", *ENTRY)
    path = only_file(cache)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert cache.get("a") is None, length
    path.write_bytes(whole + b"\0")
    assert cache.get("a") is None
    cache.put("a", *ENTRY)
    assert cache.get("a") == ENTRY


def test_a_change_of_any_byte_is_a_miss(cache: DiskCache) -> None:
    cache.put("a", *ENTRY)
    path = only_file(cache)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert cache.get("a") is None, position


def test_the_file_of_another_key_is_a_miss(cache: DiskCache) -> None:
    cache.put("a", *ENTRY)
    data = only_file(cache).read_bytes()
    cache.put("b", b"other", "{}")
    cache._path("b").write_bytes(data)
    assert cache.get("b") is None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners are POSIX's")
def test_a_file_that_anybody_may_write_is_not_run(cache: DiskCache) -> None:
    cache.put("a", *ENTRY)
    only_file(cache).chmod(0o666)
    with pytest.warns(RuntimeWarning, match="belongs to somebody else"):
        assert cache.get("a") is None


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = DiskCache(tmp_path / "file")
    with pytest.warns(RuntimeWarning, match="PETAFLOP_CACHE_DIR"):
        cache.put("a", *ENTRY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put("a", *ENTRY)
        assert cache.get("a") is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_leaves_nothing_behind(
    cache: DiskCache, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(source: str, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.os, "replace", refuse)
    with pytest.warns(RuntimeWarning, match="write"):
        cache.put("a", *ENTRY)
    assert [p for p in cache.root.rglob("*") if p.is_file()] == []


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit=5000)
    for number in range(10):
        cache.put(str(number), bytes(800), "{}")
        os.utime(cache._path(str(number)), (1000 + number, 1000 + number))
    assert cache.get("0") is not None  # an access makes it the newest
    cache.evict()
    kept = [number for number in range(10) if cache.get(str(number)) is not None]
    assert kept == [0, 6, 7, 8, 9]


def test_what_a_dead_process_left_is_cleared_away(cache: DiskCache) -> None:
    cache.put("a", *ENTRY)
    folder = only_file(cache).parent
    (folder / "old.part").write_bytes(b"half")
    (folder / "new.part").write_bytes(b"half")
    os.utime(folder / "old.part", (0, 0))
    cache.evict()
    assert not (folder / "old.part").exists()
    assert (folder / "new.part").exists()


_WRITER = """
import sys
from petaflop.device.cache import DiskCache
cache = DiskCache(sys.argv[1], limit=200_000)
seen = 0
for turn in range(300):
    key = str(turn % 7)
    cache.put(key, key.encode() * 5000, key)
    for other in range(7):
        found = cache.get(str(other))
        if found is not None:
            assert found == (str(other).encode() * 5000, str(other))
            seen += 1
assert seen > 300
"""


def test_processes_share_a_folder(tmp_path: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert not list(tmp_path.rglob("*.part"))
