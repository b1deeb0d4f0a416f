"""The C compiler of the system: found on PATH, run on one source at a time, in a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from petaflop.plugin_api import CompileError, DeviceError

__all__ = ["Compiler"]

NAMES = ("cc", "gcc", "clang")
# No contraction of a*b + c: petaflop says where it wants one rounding. No assumption that memory keeps its
# type, since it is used again for other tensors. Integers wrap, and nobody reads errno.
OPTIONS = (
    *("-std=c11", "-O2", "-fPIC", "-shared"),
    *("-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv", "-fno-math-errno", "-w"),
)
# A pass of GCC 12 that loses terms where it vectorizes an unrolled sum of int8 in int64.
GCC_OPTIONS = ("-fno-tree-forwprop",)


class Compiler:
    """The first of cc, gcc and clang on PATH; raises DeviceError where there is none."""

    def __init__(self) -> None:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        if found is None:
            raise DeviceError(
                f"c: expected a C compiler on PATH ({', '.join(NAMES)}), found none; install one, "
                "such as with `apt install gcc libc6-dev` or `xcode-select --install`"
            )
        self.path = found
        words = self._run([found, "--version"])
        self.options = OPTIONS + (GCC_OPTIONS if "Free Software Foundation" in words else ())
        self.version = f"{words.splitlines()[0]} {' '.join(self.options)}"

    def compile(self, source: str) -> bytes:
        """C text as the bytes of a shared library; raises CompileError with what the compiler said."""
        with tempfile.TemporaryDirectory(prefix="petaflop-c-") as folder:
            text, library = Path(folder, "kernel.c"), Path(folder, "kernel.so")
            text.write_text(source, "utf-8")
            self._run([self.path, *self.options, "-o", str(library), str(text), "-lm"])
            return library.read_bytes()

    @staticmethod
    def _run(command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            raise CompileError(f"{command[0]}: expected exit status 0, got {done.returncode}\n{done.stderr}")
        return done.stdout
