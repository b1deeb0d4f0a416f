"""The C renderer: golden sources, its tables against the op spec, and a dialect that is another language.

That the text is right C is checked where there is a compiler: by the example backend `c` and its conformance
run. After an intended change: `cd packages/core/tests && python test_render_c.py`
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from petaflop.codegen.lower import lower
from petaflop.codegen.planner import default_plan, naive_plan
from petaflop.dtype import DTYPES, DType, bfloat16, float16, float32, float64, index, int8, int32, int64
from petaflop.errors import CompileError
from petaflop.graph.ops import COMPUTE, Native, Op
from petaflop.graph.symbolic import TRUE, Leaf, Variable, both, constant, greater_equal, less, make
from petaflop.ir.kernel import Argument, Block, Kernel, Store, Temporary, axis, load, reduction, state, value
from petaflop.ir.loops import For, If, Let, Loops, Phase, Segment, walk
from petaflop.ir.loops import Store as LoopStore
from petaflop.ir.target import Target
from petaflop.render.c import render
from petaflop.render.c_dialect import C11, CDialect, CNumber
from petaflop.render.c_ops import OPERATIONS, literal

GOLDEN = Path(__file__).parent / "golden" / "c"
TARGET = Target("golden", "cpu", vector_bytes=16, has_fma=True)


# ---- kernels ----


def writes(name: str, *shape: object, dtype: DType = float32) -> Argument:
    return Argument(name, dtype, tuple(shape), written=True, read=False)  # type: ignore[arg-type]


def chain() -> Kernel:
    """Shared parts get names; a load that is not selected is not performed."""
    i = axis("i", 70)
    x = load("x", (i,), float32)
    shifted = load("x", (i - 3,), float32, valid=greater_equal(i, constant(3)))
    square = value(Op.MUL, x, x)
    total = value(Op.ADD, value(Op.EXP2, square), value(Op.MAX, square, shifted))
    return Kernel(
        (Argument("x", float32, (70,)), writes("o", 70)), ((Block((i,), (Store("o", (i,), total),)),),)
    )


def narrow() -> Kernel:
    """Narrow floats are rounded after each operation; 64-bit integers reach them with one rounding."""
    i = axis("i", 9)
    half = value(Op.ADD, load("h", (i,), float16), value(Op.CAST, load("n", (i,), int64), dtype=float16))
    brain = value(Op.CAST, value(Op.CAST, half, dtype=float64), dtype=bfloat16)
    arguments = (Argument("h", float16, (9,)), Argument("n", int64, (9,)), writes("o", 9, dtype=bfloat16))
    return Kernel(arguments, ((Block((i,), (Store("o", (i,), brain),)),),))


def integers() -> Kernel:
    """Integers wrap, floor and never trap; casts from floats saturate."""
    i = axis("i", 9)
    a, b = load("a", (i,), int8), load("b", (i,), int8)
    quotient = value(Op.DIV, value(Op.MUL, a, b), b)
    saturated = value(Op.CAST, load("x", (i,), float32), dtype=int8)
    least = constant(-128, int8)
    result = value(Op.WHERE, value(Op.LT, a, least, dtype=DTYPES["bool"]), quotient, saturated)
    arguments = (*(Argument(name, int8, (9,)) for name in "ab"), Argument("x", float32, (9,)))
    return Kernel((*arguments, writes("o", 9, dtype=int8)), ((Block((i,), (Store("o", (i,), result),)),),))


def symbolic() -> Kernel:
    """A softmax numerator over t rows, named after a word of C; a scatter that drops what is out of range."""
    t = Variable("int", 1, 4096)
    i, r = axis("i", t), axis("r", 40)
    total = reduction("s", Op.ADD, value(Op.MUL, load("x", (i, r), float32), load("w", (r,), float32)), (r,))
    dot = Block((i,), (Store("o", (i,), state("s", float32)),), (total,))
    k = axis("k", t)
    place = value(Op.CAST, load("n", (k,), int32), dtype=index)
    inside = both(greater_equal(place, constant(0)), less(place, constant(5)))
    drop = Block((k,), (Store("p", (place,), load("v", (k,), float32), inside),), ordered=(k,))
    arguments = (
        Argument("x", float32, (t, 40)),
        Argument("w", float32, (40,)),
        Argument("n", int32, (t,)),
        Argument("v", float32, (t,)),
        writes("o", t),
        writes("p", 5),
    )
    return Kernel(arguments, ((dot,), (drop,)), variables=(t,))


def phases() -> Kernel:
    """Two phases with memory between them, as the rows of the first are read by all tasks of the second."""
    i, j = axis("i", 6), axis("j", 6)
    first = Block((i,), (Store("m", (i,), value(Op.SIN, load("x", (i,), float32))),))
    second = Block((j,), (Store("o", (j,), load("m", (constant(5) - j,), float32)),))
    arguments = (Argument("x", float32, (6,)), writes("o", 6))
    return Kernel(arguments, ((first,), (second,)), (Temporary("m", float32, (6,)),))


KERNELS: dict[str, Callable[[], Kernel]] = {
    each.__name__: each for each in (chain, narrow, integers, symbolic, phases)
}


def lowered(name: str) -> Loops:
    kernel = KERNELS[name]()
    return lower(kernel, default_plan(kernel, TARGET), TARGET)


# ---- OpenCL C as far as a row of facts: what a backend package would bring ----

_CL = {
    "int8_t": "char", "uint8_t": "uchar", "int16_t": "short", "uint16_t": "ushort", "int32_t": "int",
    "uint32_t": "uint", "int64_t": "long", "uint64_t": "ulong", "_Bool": "bool",
}  # fmt: skip


def _cl_number(number: CNumber) -> CNumber:
    return replace(
        number,
        register=_CL.get(number.register, number.register),
        memory=_CL.get(number.memory, number.memory),
    )


_CL_HEAD = "\n".join(
    ["#pragma OPENCL FP_CONTRACT OFF"]
    + [f"typedef {kind} {name};" for name, kind in _CL.items() if name.endswith("_t")]
)

OPENCL = CDialect(
    name="opencl",
    head=_CL_HEAD,
    index="int32",
    numbers={name: _cl_number(number) for name, number in C11.numbers.items()}
    | {
        "float16": CNumber(
            "float32", "float", "half", "{value}f",
            load="vload_half({offset}, {pointer})",
            store="vstore_half({value}, {offset}, {pointer})",
            round="petaflop_round_float16({value})",
            bits="petaflop_to_float16({value})",
            from_bits="petaflop_from_float16({value})",
        )
    },
    infinity="INFINITY",
    nan="NAN",
    entry="__kernel __attribute__((reqd_work_group_size(1, 1, 1)))\nvoid {name}({parameters})",
    parameters=("__global char *scratch", "__global char *shared"),
    argument="__global {const}{type} *{name}",
    variable="const {type} {name}",
    bind_argument="",
    bind_variable="",
    scratch="__global {type} *{name} = (__global {type} *)(scratch + {offset});",
    shared="__global {type} *{name} = (__global {type} *)(shared + {offset});",
    local="{type} {name}[{size}];",
    task="for ({type} {name} = get_group_id(0); {name} < {tasks}; {name} += get_num_groups(0))",
    segment="for ({type} {name} = get_group_id(0) - {base}; {name} < {tasks}; {name} += get_num_groups(0))\n"
    "        if ({name} >= 0)",
    unroll="__attribute__((opencl_unroll_hint({count})))",
    lanes="",
    functions={(op, name): text.removesuffix("f") for (op, name), text in C11.functions.items()},
    helpers=C11.helpers | {
        "petaflop_to_float32": "#define petaflop_to_float32(x) as_uint(x)",
        "petaflop_from_float32": "#define petaflop_from_float32(x) as_float(x)",
    },
    reserved=frozenset({"scratch", "shared", "kernel", "global", "half", "int", "float"}),
)  # fmt: skip

SOURCES: dict[str, Callable[[], str]] = {
    **{f"{name}.c": lambda name=name: render(lowered(name), C11) for name in KERNELS},  # type: ignore[misc]
    "symbolic.cl": lambda: render(lowered("symbolic"), OPENCL),
    "narrow.cl": lambda: render(lowered("narrow"), OPENCL),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_are_as_they_were(name: str) -> None:
    assert SOURCES[name]() == (GOLDEN / name).read_text("utf-8")


# ---- the tables ----


def test_every_operation_has_a_spelling() -> None:
    wanted = COMPUTE | {Op.CAST, Op.BITCAST}
    assert wanted <= set(OPERATIONS)


def test_every_dtype_has_a_row() -> None:
    assert set(C11.numbers) == set(DTYPES)


def test_every_helper_that_is_named_exists() -> None:
    """Each pair of dtypes, and each operation on each dtype: whatever is called has a definition."""
    for kernel in every_small_kernel():
        source = render(lower(kernel, naive_plan(kernel), TARGET), C11)
        called = set(re.findall(r"\b(petaflop_\w+|exp2f?|log2f?|sinf?|sqrtf?|fmaf?)\(", source))
        defined = set(re.findall(r"^(?:static )?\w+ (\w+)\(", source, re.MULTILINE))
        assert called <= defined, f"{called - defined} in {source}"


def every_small_kernel() -> list[Kernel]:
    i = axis("i", 2)
    made = []

    def add(result: DType, arguments: tuple[DType, ...], op: Op) -> None:
        loads = [load(f"x{n}", (i,), dtype) for n, dtype in enumerate(arguments)]
        inputs = tuple(Argument(f"x{n}", dtype, (2,)) for n, dtype in enumerate(arguments))
        block = Block((i,), (Store("o", (i,), value(op, *loads, dtype=result)),))
        made.append(Kernel((*inputs, writes("o", 2, dtype=result)), ((block,),)))

    for dtype in DTYPES.values():
        for op in (Op.ADD, Op.MUL, Op.MAX):
            add(dtype, (dtype, dtype), op)
        if dtype.kind != "b":
            add(dtype, (dtype, dtype), Op.DIV)
        if dtype.is_float:
            for op in (Op.SQRT, Op.EXP2, Op.LOG2, Op.SIN):
                add(dtype, (dtype,), op)
        for target in DTYPES.values():
            add(target, (dtype,), Op.CAST)
            if target.itemsize == dtype.itemsize:
                add(target, (dtype,), Op.BITCAST)
    return made


@pytest.mark.parametrize(
    ("number", "dtype", "expected"),
    [
        (0.1, float32, "0.1f"),
        (-0.0, float64, "(-0.0)"),
        (float("-inf"), float32, "(-__builtin_inff())"),
        (float("nan"), float16, '__builtin_nanf("")'),
        (1 / 3, float16, "0.33325195f"),
        (-128, int8, "(-127 - 1)"),
        (200, int8, "(-56)"),
        (2**64 - 1, DTYPES["uint64"], "18446744073709551615u"),
        (True, DTYPES["bool"], "1"),
    ],
)
def test_constants(number: float, dtype: DType, expected: str) -> None:
    assert literal(C11, number, dtype) == expected


def statement_loops(*body: object) -> Loops:
    segment = Segment(axis("task", 1), 1, body)  # type: ignore[arg-type]
    return Loops("k", (("x", float32), ("o", float32)), (), (Phase("k_0", (segment,)),))


def test_branches_lets_and_names_that_collide() -> None:
    """Two loops of one name, one inside the other, stay apart; so does a name that C has taken."""
    outer, inner = axis("while", 3), axis("while", 4)
    name = state("o", float32)
    loaded = make(Leaf.LOAD, (TRUE, outer), float32, ("x", 0))
    body = (Let(name, loaded), LoopStore("o", outer * 4 + inner, name))
    branch = If(
        less(outer, constant(2)), (For(inner, constant(0), constant(4), 1, "serial", body),), body[:1]
    )
    source = render(statement_loops(For(outer, constant(0), constant(3), 1, "serial", (branch,))), C11)
    assert "for (int64_t while_2 = 0; while_2 < 3; while_2++) {" in source
    assert "for (int64_t while_3 = 0; while_3 < 4; while_3++) {" in source
    assert "o[(while_2 * 4) + while_3] = o_2;" in source
    assert "} else {" in source


def test_what_a_dialect_has_not_is_an_error() -> None:
    with pytest.raises(CompileError, match=r"expected a dtype of .*float16"):
        poor = replace(C11, numbers={k: v for k, v in C11.numbers.items() if k != "bfloat16"})
        render(lowered("narrow"), poor)
    i = axis("i", 2)
    odd = make(Native.RECIP, (load("x", (i,), float32),), float32)
    kernel = Kernel(
        (Argument("x", float32, (2,)), writes("o", 2)), ((Block((i,), (Store("o", (i,), odd),)),),)
    )
    with pytest.raises(CompileError, match="expected a primitive operation, got RECIP"):
        render(lower(kernel, naive_plan(kernel), TARGET), C11)


def test_a_long_chain_stays_linear() -> None:
    """x = x*x + x, sixty times: text that repeated its parts would have 2^60 of them."""
    i = axis("i", 4)
    x = load("x", (i,), float32)
    for _ in range(60):
        x = value(Op.ADD, value(Op.MUL, x, x), x)
    kernel = Kernel((Argument("x", float32, (4,)), writes("o", 4)), ((Block((i,), (Store("o", (i,), x),)),),))
    loops = lower(kernel, naive_plan(kernel), TARGET)
    assert any(isinstance(s, LoopStore) for s in walk(loops.phases[0].segments[0].body))
    assert len(render(loops, C11)) < 20_000


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for file, make_source in SOURCES.items():
        (GOLDEN / file).write_text(make_source(), "utf-8")
