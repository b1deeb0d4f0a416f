"""Matrix instructions: each target multiplies by its own, in a loop without spills; and products of random
sizes and dtypes are those of int64 or float64 NumPy, by every instruction that this CPU has.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from codegen_case import Array, execute, reads, writes
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import backend

from petaflop.codegen.lower import lower
from petaflop.codegen.planner import default_plan
from petaflop.config import overrides
from petaflop.dtype import DType, bfloat16, float32, int8, int32, uint8
from petaflop.errors import CompileError
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, Variable, constant
from petaflop.ir.kernel import Block, Kernel, Store, axis, axis_size, load, reduction, state, value
from petaflop.ir.loops import Deposit, Fetch, For, Loops, Multiply, Statement
from petaflop.ir.plan import Plan
from petaflop.ir.target import Target
from petaflop.ir.verify import verify_kernel, verify_loops
from petaflop.plugin_api import C11, render_c, render_llvm
from petaflop_cpu.jit import Compiler
from petaflop_cpu.mathlib import prelude
from petaflop_cpu.target import TARGETS, host_target

rng = np.random.default_rng(5)
WIDE = {bfloat16: float32, float32: float32, int8: int32, uint8: int32}
HOST = {row.name for row in host_target().matrix_instructions}


def product(
    sizes: tuple[int, int, int],
    dtypes: tuple[DType, DType],
    turned: str = "nn",
    batch: int = 0,
    finish: Any = lambda total, n: total,
    start: Any = lambda expr: expr,
) -> Kernel:
    """o[b, m, n] = finish(Σ_k start(a[b, m, k]) · b[b, k, n]), either operand turned round in memory."""
    m, n, k = (axis(name, size) for name, size in zip("mnk", sizes, strict=True))
    outer, room = ((axis("b", batch),), (batch,)) if batch else ((), ())
    places = (m, k) if turned[0] == "n" else (k, m), (k, n) if turned[1] == "n" else (n, k)
    wide = WIDE[dtypes[0]]
    factors, arguments = [], []
    for name, place, dtype in zip("ab", places, dtypes, strict=True):
        read = load(name, (*outer, *place), dtype)
        read = start(read) if name == "a" else read
        factors.append(read if dtype is wide else value(Op.CAST, read, dtype=wide))
        shape = tuple(axis_size(a) for a in place)
        arguments.append(reads(name, (*room, *shape), dtype))
    total = reduction("s", Op.ADD, value(Op.MUL, *factors), (k,))
    result = finish(state("s", wide), n)
    block = Block((*outer, m, n), (Store("o", (*outer, m, n), result),), (total,))
    return Kernel((*arguments, writes("o", (*room, *sizes[:2]), result.dtype)), ((block,),))


def numbers(shape: tuple[int, ...], dtype: DType) -> Array:
    if dtype.is_integer:
        return rng.integers(int(dtype.min), int(dtype.max), shape, endpoint=True).astype(dtype.numpy)
    return rng.standard_normal(shape).astype(dtype.numpy)


def run(kernel: Kernel, plan: Plan) -> tuple[list[Array], Array]:
    """Random inputs, and what the kernel makes of them."""
    inputs = [numbers(tuple(map(int, a.shape)), a.dtype) for a in kernel.arguments if not a.written]
    out = kernel.arguments[-1]
    result = np.zeros(tuple(map(int, out.shape)), out.dtype.numpy)
    verify_kernel(kernel)
    verify_loops(lower(kernel, plan, backend().target))
    execute(kernel, inputs, [result], plan)
    return inputs, result


def exact(inputs: list[Array], turned: str) -> tuple[Array, Array]:
    """The product in int64 or float64, and the sum of the products' sizes."""
    wide = np.float64 if inputs[0].dtype.kind not in "iu" else np.int64
    a, b = (x.astype(wide) for x in inputs)
    a = np.swapaxes(a, -1, -2) if turned[0] == "t" else a
    b = np.swapaxes(b, -1, -2) if turned[1] == "t" else b
    return a @ b, np.abs(a) @ np.abs(b)


def check(kernel: Kernel, turned: str, k: int, plan: Plan) -> None:
    """Integers are exact; a float sum is off by the roundings of a blocked sum at most."""
    inputs, got = run(kernel, plan)
    expected, size = exact(inputs, turned)
    if got.dtype.kind in "iu":
        assert np.array_equal(got, expected)
    else:
        assert np.max(np.abs(got - expected) / np.maximum(size, 1e-30)) <= 2.0**-24 * max(8, np.sqrt(k))


def without(*names: str) -> Target:
    """The host, had it not the instructions whose names begin so."""
    host = backend().target
    rows = tuple(row for row in host.matrix_instructions if not row.name.startswith(names))
    return replace(host, matrix_instructions=rows)


# ---- what the target's instructions are used for ----

INSTRUCTIONS = {
    ("x86-64-v3", bfloat16): "vfmadd",
    ("x86-64-v3", int8): "vpmulld",
    ("x86-64-v4", bfloat16): "vfmadd",
    ("x86-64-vnni", int8): r"\{vex\}\s+vpdpbusd",
    ("zen4", bfloat16): "vdpbf16ps",
    ("zen4", int8): "vpdpbusd",
    ("sapphirerapids", bfloat16): "tdpbf16ps",
    ("sapphirerapids", int8): "tdpbssd",
    ("aarch64", bfloat16): "fmla",
    ("aarch64-dot", bfloat16): "bfdot",
    ("aarch64-dot", int8): "sdot",
} | {(name, float32): "fmla" if "aarch64" in name else "vfmadd" for name in TARGETS}  # fmt: skip
SPILL = {
    "x86_64": r"\bv?mov\w+\s+(%[xyz]mm\d+, .*\(%rsp|.*\(%rsp.*\), %[xyz]mm)|tile\w+\s+.*%rsp",
    "aarch64": r"\b(str|stp|ldr|ldp)\s+q.*\[sp",
}


def inner_loops(text: str, instruction: str) -> Iterator[list[str]]:
    """The lines of each loop that has the instruction and no other loop inside."""
    lines = text.splitlines()
    labels = {m[1]: place for place, line in enumerate(lines) if (m := re.match(r"(\.LBB\w+):", line))}
    for place, line in enumerate(lines):
        jump = re.match(r"\s+(?:j\w+|b\.?\w*|cbn?z\s+\w+,|tbn?z.*,)\s+(\.LBB\w+)", line)
        if jump and labels.get(jump[1], place) < place:
            body = lines[labels[jump[1]] + 1 : place]
            inside = any(re.match(rf"\s+\S+.*[\s,]{re.escape(label)}\b", other) for other in body
                         for label in labels if labels[jump[1]] < labels[label] < place)  # fmt: skip
            if not inside and any(re.match(rf"\s+{instruction}", other) for other in body):
                yield body


@pytest.mark.parametrize(("name", "dtype"), INSTRUCTIONS, ids=str)
def test_the_inner_loop_is_the_instruction_and_no_spill(name: str, dtype: DType) -> None:
    target, instruction = TARGETS[name], INSTRUCTIONS[name, dtype]
    kernel = product((256, 256, 512), (dtype, dtype))
    source = render_llvm(lower(kernel, default_plan(kernel, target), target), target, prelude)
    text = Compiler(target).assembly(source)
    loops = list(inner_loops(text, instruction))
    assert loops, text
    for body in loops:
        spilled = [line for line in body if re.search(SPILL[target.triple.split("-")[0]], line)]
        assert not spilled, "\n".join(body)


def test_tiles_are_set_up_and_given_back() -> None:
    """Whoever runs on the thread next finds no tile in use, which would slow it down."""
    target, kernel = TARGETS["sapphirerapids"], product((64, 64, 64), (bfloat16, bfloat16))
    source = render_llvm(lower(kernel, default_plan(kernel, target), target), target, prelude)
    text = Compiler(target).assembly(source)
    assert text.count("ldtilecfg") == text.count("tilerelease") == 1
    assert text.index("ldtilecfg") < text.index("tdpbf16ps") < text.index("tilerelease")


def test_an_instruction_that_the_target_has_not_is_an_error() -> None:
    kernel = product((64, 64, 64), (bfloat16, bfloat16))
    plan = default_plan(kernel, TARGETS["sapphirerapids"])
    with pytest.raises(CompileError, match=r"expected a matrix instruction of zen4 .*got 'tdpbf16ps'"):
        lower(kernel, plan, TARGETS["zen4"])


def test_a_plan_with_an_instruction_goes_through_json() -> None:
    plan = default_plan(product((64, 64, 64), (int8, int8)), TARGETS["sapphirerapids"])
    assert Plan.from_json(plan.to_json()) == plan
    assert "matrix tdpbssd on m x n_r x k_r_t x k_r_r" in str(plan)


def test_a_process_that_may_not_use_tiles_has_no_such_rows() -> None:
    """Where Linux refuses, the host's rows and features are those of a CPU without AMX."""
    text = (
        "import petaflop_cpu.matrix as m; m.tiles_allowed = lambda: False; import petaflop_cpu.target as t; "
        "h = t.host_target(); print([r.name for r in h.matrix_instructions if r.tiles], '+amx' in h.features)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[] False\n", done.stderr


# ---- what they compute ----

NAMES = {
    (bfloat16, bfloat16): ("tdpbf16ps", "vdpbf16ps.512", "bfdot"),
    (int8, int8): ("tdpbssd", "sdot"),
    (uint8, int8): ("tdpbusd", "vpdpbusd.512", "vpdpbusd.256"),
    (int8, uint8): ("tdpbsud", "vpdpbusd.512.su", "vpdpbusd.256.su"),
    (uint8, uint8): ("tdpbuud", "udot"),
}
CASES = [(dtypes, name) for dtypes, names in NAMES.items() for name in names if name in HOST]


def only(name: str) -> Target:
    """The host, had it just this one, and that for nothing."""
    host = backend().target
    rows = tuple(replace(row, cycles=0.1) for row in host.matrix_instructions if row.name == name)
    return replace(host, matrix_instructions=rows)


@pytest.mark.parametrize("turned", ["nn", "tn", "nt", "tt"])
@pytest.mark.parametrize(("dtypes", "name"), CASES, ids=str)
def test_each_instruction_multiplies(dtypes: tuple[DType, DType], name: str, turned: str) -> None:
    for sizes in ((64, 64, 64), (37, 51, 83), (100, 33, 700), (30, 200, 5)):
        kernel = product(sizes, dtypes, turned)
        plan = default_plan(kernel, only(name))
        assert f"matrix {name} " in str(plan)
        check(kernel, turned, sizes[2], plan)


@pytest.mark.parametrize("dtypes", [(int8, int8), (uint8, uint8)], ids=str)
@pytest.mark.parametrize("name", sorted(row for row in HOST if row.startswith("vpdpbusd")))
@pytest.mark.parametrize("turned", ["nn", "tt"])
def test_bytes_of_the_other_signedness_are_shifted(
    name: str, dtypes: tuple[DType, DType], turned: str
) -> None:
    """Unsigned by signed is all that this instruction does; the ends of both ranges come out right."""
    for sizes in ((64, 64, 64), (37, 51, 83), (30, 200, 7)):
        kernel = product(sizes, dtypes, turned, 0, lambda total, n: value(Op.MUL, total, constant(3, int32)))
        plan = default_plan(kernel, only(name))
        assert "to the other signedness" in str(plan) and f"matrix {name} " in str(plan)
        inputs, got = run(kernel, plan)
        assert np.array_equal(got, 3 * exact(inputs, turned)[0])
    with_ends = [np.full((40, 90), dtype.min if number else dtype.max, dtype.numpy).copy()
                 for number, dtype in enumerate(dtypes)]  # fmt: skip
    kernel = product((40, 40, 90), dtypes, "nt")
    result = np.zeros((40, 40), np.int32)
    execute(kernel, with_ends, [result], default_plan(kernel, only(name)))
    assert np.array_equal(result, exact(with_ends, "nt")[0])


@pytest.mark.parametrize("dtype", [bfloat16, int8], ids=str)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("turned", ["nn", "nt", "tn"])
def test_one_kernel_serves_every_size(place: int, dtype: DType, turned: str) -> None:
    """m, n or k is a Variable; where it is a stride in memory another plan serves."""
    fixed = turned in (("nn", "nt"), ("nt",), ("tn",))[place]
    variable = Variable("t", 1, 4096)
    for name in [row for row in NAMES[dtype, dtype] if row in HOST]:
        given: list[Any] = [64, 96, 128]
        given[place] = variable
        kernel = replace(product(tuple(given), (dtype, dtype), turned), variables=(variable,))  # type: ignore[arg-type]
        plan = default_plan(kernel, only(name))
        assert (f"matrix {name} " in str(plan)) == fixed
        for size in (1, 31, 64, 65, 200):
            m, n, k = (size if number == place else int(x) for number, x in enumerate((64, 96, 128)))
            shapes = ((m, k) if turned[0] == "n" else (k, m)), ((k, n) if turned[1] == "n" else (n, k))
            inputs = [numbers(shape, dtype) for shape in shapes]
            result = np.full((m, n), 77, WIDE[dtype].numpy)
            execute(kernel, inputs, [result], plan, [size])
            expected, sizes = exact(inputs, turned)
            assert np.max(np.abs(result - expected) / np.maximum(sizes, 1e-30)) <= 2.0**-20


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 150), st.integers(1, 150), st.integers(1, 300)),
    st.sampled_from(sorted(NAMES, key=str)),
    st.sampled_from(["nn", "tn", "nt", "tt"]),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([(), ("td",), ("td", "vd"), ("td", "vpdpbusd.512"), ("td", "v")]),
)
def test_products_of_any_size(
    sizes: tuple[int, int, int],
    dtypes: tuple[DType, DType],
    turned: str,
    batch: int,
    absent: tuple[str, ...],
) -> None:
    kernel = product(sizes, dtypes, turned, batch)
    check(kernel, turned, sizes[2], default_plan(kernel, without(*absent)))


def test_long_sums_are_put_aside() -> None:
    """All-equal products are the worst case of a sum in one chain."""
    k = 40_000
    for absent in ((), ("td",)):
        kernel = product((32, 32, k), (bfloat16, bfloat16))
        plan = default_plan(kernel, without(*absent))
        a, b = np.full((32, k), 0.1, bfloat16.numpy), np.full((k, 32), 0.1, bfloat16.numpy)
        result = np.zeros((32, 32), np.float32)
        execute(kernel, [a, b], [result], plan)
        expected = a.astype(np.float64) @ b.astype(np.float64)
        assert np.max(np.abs(result / expected - 1)) <= 2.0**-24 * np.sqrt(k), str(plan)


@pytest.mark.parametrize("dtype", [bfloat16, int8], ids=str)
def test_the_same_bits_on_any_number_of_threads(dtype: DType) -> None:
    kernel = product((300, 311, 520), (dtype, dtype))
    plan = default_plan(kernel, backend().target)
    inputs = [numbers(tuple(map(int, a.shape)), a.dtype) for a in kernel.arguments[:2]]
    results = []
    for threads in (1, 2, 3):
        with overrides(threads=threads):
            results.append(np.zeros((300, 311), WIDE[dtype].numpy))
            execute(kernel, inputs, [results[-1]], plan)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert np.max(np.abs(results[0])) > 0


def test_what_comes_before_and_after_is_part_of_the_product() -> None:
    """relu of one operand while it is packed; bias, relu and a cast back while the result is stored."""

    def start(expr: Expr) -> Expr:
        return value(Op.MAX, expr, constant(0, bfloat16))

    def finish(total: Expr, n: Expr) -> Expr:
        biased = value(Op.ADD, total, value(Op.CAST, n, dtype=float32))
        return value(Op.CAST, value(Op.MAX, biased, constant(50.0, float32)), dtype=bfloat16)

    kernel = product((70, 90, 65), (bfloat16, bfloat16), "nn", 0, finish, start)
    plan = default_plan(kernel, backend().target)
    assert ("matrix" in str(plan)) == bool(HOST & set(NAMES[bfloat16, bfloat16]))
    inputs, got = run(kernel, plan)
    a, b = (x.astype(np.float64) for x in inputs)
    expected = np.maximum(np.maximum(a, 0) @ b + np.arange(90), 50)
    assert np.max(np.abs(got.astype(np.float64) / expected - 1)) <= 2.0**-8


def test_what_no_instruction_holds_exactly_goes_another_way() -> None:
    """float32 stays float32, and a factor that was scaled in float32 is no bfloat16 any more."""
    target = TARGETS["sapphirerapids"]
    scaled = product(
        (64, 64, 64), (float32, float32), start=lambda x: value(Op.MUL, x, constant(3.0, float32))
    )
    for kernel in (product((64, 64, 64), (float32, float32)), scaled):
        assert "matrix" not in str(default_plan(kernel, target))


@pytest.mark.parametrize("dtype", [float32, bfloat16, int8], ids=str)
@pytest.mark.parametrize("sizes", [(37, 1000), (64, 256), (8, 4099), (301, 777)], ids=str)
def test_a_matrix_times_a_vector_reads_rows_side_by_side(sizes: tuple[int, int], dtype: DType) -> None:
    """Ragged in both ways; some rows at a time are as many streams from memory."""
    m, k = axis("m", sizes[0]), axis("k", sizes[1])
    wide = WIDE[dtype]
    factors = [load("a", (m, k), dtype), load("b", (k,), dtype)]
    factors = [f if dtype is wide else value(Op.CAST, f, dtype=wide) for f in factors]
    total = reduction("s", Op.ADD, value(Op.MUL, *factors), (k,))
    block = Block((m,), (Store("o", (m,), state("s", wide)),), (total,))
    arguments = (reads("a", sizes, dtype), reads("b", sizes[1:], dtype), writes("o", sizes[:1], wide))
    kernel = Kernel(arguments, ((block,),))
    plan = default_plan(kernel, backend().target)
    assert "unroll 4; peel" in str(plan)
    check(kernel, "nn", sizes[1], plan)


# ---- the forms of loops ----


def tiled() -> Loops:
    target, kernel = TARGETS["sapphirerapids"], product((64, 64, 64), (bfloat16, bfloat16))
    return lower(kernel, default_plan(kernel, target), target)


def changed(loops: Loops, kind: type, **fields: Any) -> Loops:
    """The loops with fields of every statement of a kind replaced."""

    def through(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
        result: list[Statement] = []
        for statement in body:
            if isinstance(statement, For):
                statement = replace(statement, body=through(statement.body))
            here = isinstance(statement, kind) and getattr(statement, "buffer", "x") != ""
            result.append(replace(statement, **fields) if here else statement)  # type: ignore[type-var]
        return tuple(result)

    phases = []
    for phase in loops.phases:
        segments = tuple(replace(segment, body=through(segment.body)) for segment in phase.segments)
        phases.append(replace(phase, segments=segments))
    return replace(loops, phases=tuple(phases))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Fetch, {"pitch": 8}, "expected rows 32 apart, got 8"),
        (Fetch, {"number": constant(7)}, "expected a number below"),
        (Fetch, {"fragments": "absent"}, "expected fragments that exist, got absent"),
        (Fetch, {"offset": constant(1 << 20)}, "expected an offset below"),
        (Deposit, {"buffer": "o2"}, "expected a buffer that exists, got o2"),
        (Multiply, {"a": ("c_1_1", constant(0))}, "expected a tile of operand a"),
    ],
    ids=str,
)
def test_loops_that_make_no_sense_are_refused(kind: type, fields: dict[str, Any], message: str) -> None:
    verify_loops(tiled())
    with pytest.raises(CompileError, match=message):
        verify_loops(changed(tiled(), kind, **fields))


def test_loops_read_as_code() -> None:
    text = str(tiled())
    assert "fragments c_1_1: 4 of c of tdpbf16ps" in text
    assert "c_1_1[(i * 2) + j] += a_1_1[i] @ b_1_1[j]" in text


def test_no_dialect_of_c_has_them() -> None:
    with pytest.raises(CompileError, match="render_c: expected no matrix instructions"):
        render_c(tiled(), C11)
