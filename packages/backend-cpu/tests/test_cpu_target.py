"""Targets and the compiler: what the host is, cross-compiling, and compiling side by side."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from kernels import ADD, backend

from petaflop.errors import CompileError
from petaflop_cpu import compile_for
from petaflop_cpu.jit import Compiler, Library
from petaflop_cpu.runner import runner_source
from petaflop_cpu.target import TARGETS, _host_caches, host_target, named_target

FMA = """
define void @k(ptr %p) {
  %x = load <4 x float>, ptr %p
  %y = call <4 x float> @llvm.fma.v4f32(<4 x float> %x, <4 x float> %x, <4 x float> %x)
  store <4 x float> %y, ptr %p
  ret void
}
"""
MACHINE = {"x86_64": 62, "aarch64": 183}  # e_machine in ELF


@pytest.mark.parametrize("name", TARGETS)
def test_cross_compiling(name: str) -> None:
    target = TARGETS[name]
    binary = compile_for(name, FMA)
    assert binary[:4] == b"\x7fELF"
    assert int.from_bytes(binary[18:20], "little") == MACHINE[target.triple.split("-")[0]]
    text = Compiler(target).assembly(FMA)
    assert ("fmla" if "aarch64" in name else "vfmadd") in text


@pytest.mark.parametrize("name", TARGETS)
def test_the_runner_compiles_everywhere(name: str) -> None:
    text = Compiler(TARGETS[name]).assembly(runner_source(TARGETS[name].triple))
    assert ("isb" if "aarch64" in name else "pause") in text


def test_an_unknown_target_is_named_with_those_that_exist() -> None:
    with pytest.raises(KeyError, match=r"expected host, x86-64-v3, .*got 'z80'"):
        named_target("z80")


def test_rows_follow_features() -> None:
    rows = {name: [row.name for row in target.matrix_instructions] for name, target in TARGETS.items()}
    assert rows["x86-64-v4"] == []
    dots = ["vdpbf16ps.512", "vpdpbusd.512", "vpdpbusd.512.su", "vpdpbusd.256", "vpdpbusd.256.su"]
    tiles = ["tdpbf16ps", "tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud"]
    assert rows["x86-64-vnni"] == ["vpdpbusd.256", "vpdpbusd.256.su"]
    assert rows["zen4"] == dots
    assert rows["sapphirerapids"] == tiles + dots
    assert rows["aarch64-dot"] == ["sdot", "udot", "bfdot"]
    widths = {name: target.vector_bytes for name, target in TARGETS.items()}
    assert widths == {
        "x86-64-v3": 32,
        "x86-64-v4": 64,
        "x86-64-vnni": 32,
        "zen4": 64,
        "sapphirerapids": 64,
        "aarch64": 16,
        "aarch64-dot": 16,
    }


def test_maps_of_a_dot_product() -> None:
    row = TARGETS["zen4"].matrix_instructions[1]
    assert (row.m, row.n, row.k, row.signs, row.group) == (1, 16, 4, "us", 4)
    assert row.a_map[:5] == ((0, 0), (0, 1), (0, 2), (0, 3), (0, 0))
    assert row.b_map[:5] == ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1))
    assert row.c_map == tuple((0, n) for n in range(16))


def test_maps_of_a_tile() -> None:
    row = TARGETS["sapphirerapids"].matrix_instructions[0]
    assert (row.m, row.n, row.k, row.group) == (16, 16, 32, 2)
    assert row.a_map[31:33] == ((0, 31), (1, 0))
    assert row.b_map[:3] == ((0, 0), (1, 0), (0, 1)) and row.b_map[32] == (2, 0)
    assert row.c_map[16] == (1, 0)
    assert row.tiles is not None and len(row.tiles.configuration) == 64


@pytest.mark.parametrize("name", ["zen4", "x86-64-vnni", "aarch64-dot"])
def test_spellings_are_intrinsics_that_llvm_knows(name: str) -> None:
    # vpdpbusd takes bytes from LLVM 22 on, which still reads the older form where it is declared
    for row in TARGETS[name].matrix_instructions:
        kind = "float" if row.c_dtype == "float32" else "i32"
        result, operand = f"<{row.n} x {kind}>", row.operand_type
        source = f"""
declare {result} @{row.spelling}({result}, {operand}, {operand})
define {result} @k({result} %c, {operand} %a, {operand} %b) {{
  %r = call {result} @{row.spelling}({result} %c, {operand} %a, {operand} %b)
  ret {result} %r
}}"""
        assert row.name.split(".")[0] in Compiler(TARGETS[name]).assembly(source)


def test_host(tmp_path: Path) -> None:
    host = host_target()
    assert host.kind == "cpu"
    assert host.vector_bytes in (16, 32, 64)
    assert host.threads >= 1
    assert host.l1_bytes >= 8 << 10
    for number, (level, kind, size) in enumerate(
        [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2M")]
    ):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    (tmp_path / "index3").mkdir()
    assert _host_caches(str(tmp_path)) == {"l1_bytes": 48 << 10, "l2_bytes": 2 << 20}


@pytest.mark.parametrize("text", ["", "define void @k() {", "define void @k() { ret i32 %x }", "{}" * 50])
def test_invalid_text_is_an_error_with_the_text(text: str) -> None:
    if not text:
        assert Compiler(host_target()).compile(text)
        return
    with pytest.raises(CompileError, match="compile: expected valid LLVM IR"):
        Compiler(host_target()).compile(text)


def test_a_missing_symbol_is_an_error() -> None:
    with pytest.raises(CompileError, match="absent"):
        Library(Compiler(host_target()).compile(FMA), ["absent"])


def test_compiling_side_by_side_gives_the_same_bytes() -> None:
    compiler, results = backend()._compiler, {}

    def work(number: int) -> None:
        for turn in range(5):
            results[number, turn] = compiler.compile(ADD)
            assert Library(results[number, turn], ["add"])["add"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    assert len(set(results.values())) == 1


def test_the_plugin_imports_no_llvm() -> None:
    import subprocess
    import sys

    text = "import petaflop_cpu, petaflop_cpu.plugin, sys; print('llvmlite' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
