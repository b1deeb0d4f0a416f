"""What the machine can do at best, measured by ceilings.cpp: a program of its own, so that no side of a
comparison sets its own limit. Takes a number of threads, gives rates; refuses to go on without g++.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Ceilings", "measure_ceilings", "need_compiler"]

_FOOTPRINT = 256 << 20  # the caches of a server hold more than one thinks
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
_PEAKS = ("float32", "bfloat16_dots", "bfloat16_tiles", "int8_dots", "int8_tiles")


@dataclass(frozen=True)
class Ceilings:
    """Operations per second by dtype, with dot products and with tiles apart; bytes per second."""

    peaks: dict[str, float]
    read: float
    copy: float

    def peak(self, dtype: str) -> float:
        """The most that any instruction does of this dtype."""
        return max(rate for name, rate in self.peaks.items() if name.split("_")[0] == dtype)

    def memory_seconds(self, reads: float, writes: float) -> float:
        """The least time for these bytes: a copy takes what its reads take, and the rest is its writes."""
        a_written_byte = max(2 / self.copy - 1 / self.read, 0.0)
        return reads / self.read + writes * a_written_byte

    def __str__(self) -> str:
        peaks = ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in self.peaks.items() if rate)
        return f"G/s: {peaks}; read {self.read / 1e9:.1f} GB/s, copy {self.copy / 1e9:.1f} GB/s"


def need_compiler() -> str:
    """Where g++ is; an error that says who needs it where it is not."""
    found = shutil.which("g++")
    if found is None:
        raise SystemExit(
            "benchmarks: expected g++ on the PATH, which torch.compile and the ceilings need, got none: "
            "install it (Debian: apt-get install g++)"
        )
    return found


@cache
def _library() -> ctypes.CDLL:
    source = Path(__file__).with_name("ceilings.cpp")
    with tempfile.TemporaryDirectory(prefix="petaflop-") as folder:
        built = Path(folder) / "ceilings.so"
        subprocess.run([need_compiler(), *_FLAGS, str(source), "-o", str(built)], check=True)
        library = ctypes.CDLL(str(built))  # stays mapped when the file is gone
    for name in (*(f"peak_{each}" for each in _PEAKS), "read_bandwidth", "copy_bandwidth"):
        getattr(library, name).restype = ctypes.c_double
    return library


def measure_ceilings(threads: int) -> Ceilings:
    """Measure now: about two seconds."""
    library, size = _library(), ctypes.c_size_t(_FOOTPRINT)
    peaks = {name: getattr(library, f"peak_{name}")(threads) for name in _PEAKS}
    return Ceilings(peaks, library.read_bandwidth(threads, size), library.copy_bandwidth(threads, size))
