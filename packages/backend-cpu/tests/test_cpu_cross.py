"""Whole kernels, from graph to object file, for CPUs that this machine is not; and no other program runs."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from petaflop import Tensor
from petaflop.codegen.lower import lower
from petaflop.codegen.planner import default_plan, naive_plan
from petaflop.config import overrides
from petaflop.dtype import DTYPES
from petaflop.ir.target import Target
from petaflop.plugin_api import render_llvm
from petaflop.profile import Profile
from petaflop_cpu.jit import Compiler
from petaflop_cpu.mathlib import prelude
from petaflop_cpu.target import TARGETS

MACHINE = {"x86_64": 62, "aarch64": 183}  # e_machine in ELF
REGISTERS = {"aarch64": r"\bv\d+\.4s", "x86_64": r"%[yz]mm\d+"}
FUSED = {"aarch64": r"\bfmla", "x86_64": r"\bvfmadd"}


def zeros(*shape: int, dtype: Any = "float32") -> Tensor:
    return Tensor.zeros(*shape, dtype=dtype).contiguous().realize()


PROGRAMS = {
    "matmul": lambda: zeros(40, 33) @ zeros(33, 50),
    "matmul of bfloat16": lambda: zeros(32, 32, dtype="bfloat16") @ zeros(32, 32, dtype="bfloat16"),
    "matmul of int8": lambda: zeros(32, 32, dtype="int8") @ zeros(32, 32, dtype="int8"),
    "convolution": lambda: zeros(2, 8, 9, 9).conv2d(zeros(16, 8, 3, 3), padding=1).relu(),
    "softmax": lambda: zeros(9, 64).softmax(-1),
    "layer norm": lambda: zeros(9, 64).layernorm(),
    "gather": lambda: zeros(20, 16)[zeros(64, dtype="int32")],
    "scan": lambda: zeros(5, 40).cumsum(1),
    "sin and log": lambda: (zeros(64).sin() + 1).log(),
} | {
    f"{dtype} there and back": lambda dtype=dtype: zeros(64, dtype=dtype) * 2 + 1 for dtype in DTYPES
}  # fmt: skip


@functools.cache
def kernels(name: str) -> tuple[Any, ...]:
    """The kernels of a program; schedules know nothing of a target, so that any device makes them."""
    with overrides(device="reference"):
        lazy = PROGRAMS[name]()
        with Profile(describe=lambda roots: "") as profile:
            lazy.realize()
    return tuple(step.kernel for record in profile.schedules for step in record.schedule.steps)


def compiled(kernel: Any, plan: Any, target: Target) -> tuple[bytes, str]:
    """The object file and the assembly of a kernel."""
    compiler, source = Compiler(target), render_llvm(lower(kernel, plan, target), target, prelude)
    return compiler.compile(source), compiler.assembly(source)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", ["aarch64", "aarch64-dot", "x86-64-v3"])
def test_programs_compile_for_other_machines(name: str, program: str) -> None:
    target = TARGETS[name]
    assert kernels(program)
    for kernel in kernels(program):
        binary, _ = compiled(kernel, default_plan(kernel, target), target)
        assert binary[:4] == b"\x7fELF"
        assert int.from_bytes(binary[18:20], "little") == MACHINE[target.triple.split("-")[0]]


@pytest.mark.parametrize("name", TARGETS)
def test_a_matmul_is_vector_code(name: str) -> None:
    target, (kernel,) = TARGETS[name], kernels("matmul")
    machine = target.triple.split("-")[0]
    _, text = compiled(kernel, default_plan(kernel, target), target)
    assert len(re.findall(REGISTERS[machine], text)) > 30 and re.search(FUSED[machine], text)
    _, naive = compiled(kernel, naive_plan(kernel), target)
    assert len(re.findall(REGISTERS[machine], naive)) < 10  # so the plan made them, not LLVM


ALONE = """
import sys

def refuse(event, arguments):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.system"):
        raise SystemExit(f"{event} {arguments}")

import petaflop_cpu.backend, petaflop
from petaflop import Tensor
sys.addaudithook(refuse)
x = Tensor.ones(64, 64)
print(((x @ x).relu() + 1).sum().item())
"""


def test_compiling_starts_no_other_program() -> None:
    """No C compiler, no assembler, no linker: neither started nor found."""
    environment = {**os.environ, "PATH": "", "PETAFLOP_DEVICE": "cpu", "PETAFLOP_CACHE": "0"}
    done = subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True)
    assert done.stdout == f"{65.0 * 64 * 64}\n", done.stderr
