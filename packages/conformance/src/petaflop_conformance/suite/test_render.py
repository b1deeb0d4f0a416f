"""Every operation in every declared dtype, and a fixed set of fused kernels: planned, lowered, rendered and
compiled, with no device.

Each operation is rendered on its own, so that a failure names it; what compiles slowly is compiled by dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from petaflop.device.backend import Backend
from petaflop.dtype import DTYPES, DType, bool_, float16, float32, int32
from petaflop.graph import view
from petaflop.graph.node import (
    Node,
    assign,
    bitcast,
    cast,
    compute,
    const,
    gather,
    iota,
    reduce,
    scan,
    scatter,
    variable,
)
from petaflop.graph.ops import SPEC, Op
from petaflop.graph.symbolic import Variable
from petaflop_conformance.kernels import compile_each, kernels_of, leaf, rendered
from petaflop_conformance.layers import (
    argmax,
    attention,
    convolution,
    layer_norm,
    matmul,
    number,
    softmax,
    wide,
)

pytestmark = pytest.mark.level("render")

KINDS = {"any": "buif", "not bool": "uif", "integer or bool": "bui", "integer": "ui", "float": "f"}
BINARY = (Op.ADD, Op.MUL, Op.DIV, Op.MAX, Op.LT, Op.NE, Op.AND)
UNARY = (Op.SQRT, Op.EXP2, Op.LOG2, Op.SIN)
FOLDS = (Op.ADD, Op.MUL, Op.MAX)
Build = Callable[[DType, Backend], list[Node]]


def two(dtype: DType) -> tuple[Node, Node]:
    return leaf(dtype, (7, 33)), leaf(dtype, (7, 33))


def binary(op: Op) -> Build:
    return lambda dtype, backend: [compute(op, *two(dtype))]


def unary(op: Op) -> Build:
    return lambda dtype, backend: [compute(op, two(dtype)[0])]


def where(dtype: DType, backend: Backend) -> list[Node]:
    return [compute(Op.WHERE, leaf(bool_, (7, 33)), *two(dtype))]


def folded(dtype: DType, backend: Backend) -> list[Node]:
    """Along the last axis, along the first, along both."""
    x = two(dtype)[0]
    return [reduce(op, x, axes) for op in FOLDS for axes in ((1,), (0,), (0, 1))]


def scanned(dtype: DType, backend: Backend) -> list[Node]:
    return [scan(op, two(dtype)[0], axis) for op in FOLDS for axis in (0, 1)]


def converted(dtype: DType, backend: Backend) -> list[Node]:
    """To every other declared dtype."""
    return [cast(two(dtype)[0], DTYPES[name]) for name in backend.capabilities.dtypes if name != dtype.name]


def reinterpreted(dtype: DType, backend: Backend) -> list[Node]:
    others = [DTYPES[name] for name in backend.capabilities.dtypes if DTYPES[name] not in (dtype, bool_)]
    return [bitcast(leaf(dtype, (8,)), other) for other in others if dtype is not bool_] or [
        leaf(dtype, (8,))
    ]


def viewed(dtype: DType, backend: Backend) -> list[Node]:
    x, y = two(dtype)
    turned = view.permute(view.flip(x, (1,)), (1, 0))
    padded = view.pad(view.shrink(y, ((1, 6), (2, 30))), ((1, 1), (2, 3)))
    taps = view.window(view.reshape(x, (231,)), 0, 3, 2, 2)
    row = view.expand(leaf(dtype, (1, 33)), (7, 33))
    joined = compute(Op.MAX, compute(Op.MAX, padded, row), view.reshape(turned, (7, 33)))
    return [joined, reduce(Op.MAX, taps, (1,))]


def indexed(dtype: DType, backend: Backend) -> list[Node]:
    x, values, index = leaf(dtype, (9, 4)), leaf(dtype, (5, 4)), leaf(int32, (5, 4))
    writes = [scatter(x, index, values, 0, op) for op in (None, *FOLDS)]
    return [gather(x, index, 0), *writes]


def assigned(dtype: DType, backend: Backend) -> list[Node]:
    return [assign(leaf(dtype, (9, 4)), leaf(dtype, (3, 4)), ((1, 3, 2), (0, 4, 1)))]


def made(dtype: DType, backend: Backend) -> list[Node]:
    count = variable(Variable("n", 1, 9), int32)
    numbers = [const(1, dtype, (5, 3))] + ([iota((5, 3), 0, dtype)] if dtype.is_integer else [])
    return [*numbers, cast(view.expand(view.reshape(count, (1, 1)), (5, 3)), dtype)]


def takes(op: Op, dtype: DType) -> bool:
    return dtype.kind in KINDS[SPEC[op].dtypes]


OPERATIONS: dict[str, tuple[Build, Callable[[DType], bool]]] = {
    **{op.value: (binary(op), lambda dtype, op=op: takes(op, dtype)) for op in BINARY},
    **{op.value: (unary(op), lambda dtype, op=op: takes(op, dtype)) for op in UNARY},
    "WHERE": (where, lambda dtype: True),
    "REDUCE": (folded, lambda dtype: True),
    "SCAN": (scanned, lambda dtype: True),
    "CAST": (converted, lambda dtype: True),
    "BITCAST": (reinterpreted, lambda dtype: dtype is not bool_),
    "VIEWS": (viewed, lambda dtype: True),
    "INDEXED": (indexed, lambda dtype: True),
    "ASSIGN": (assigned, lambda dtype: True),
    "LEAVES": (made, lambda dtype: True),
}


def each_operation() -> Iterator[Any]:
    for name, (build, accepts) in OPERATIONS.items():
        for dtype in DTYPES.values():
            if accepts(dtype):
                needed = {dtype.name, "int32", "bool"}
                marks = pytest.mark.requires(*sorted(needed))
                yield pytest.param(build, dtype, id=f"{name}-{dtype}", marks=marks)


@pytest.mark.parametrize(("build", "dtype"), list(each_operation()))
def test_operation_renders(renderer: Backend, build: Build, dtype: DType) -> None:
    for kernel in kernels_of(build(dtype, renderer)):
        rendered(kernel, renderer)


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(dtype, id=dtype.name, marks=pytest.mark.requires(dtype.name, "int32", "bool"))
        for dtype in DTYPES.values()
    ],
)
def test_operations_compile(renderer: Backend, dtype: DType) -> None:
    """All operations of a dtype, as few sources."""
    roots = [
        node for build, accepts in OPERATIONS.values() if accepts(dtype) for node in build(dtype, renderer)
    ]
    compile_each(kernels_of([root for root in roots if root.buffer is None]), renderer)


# ---- fused kernels ----


def f32(*shape: int) -> Node:
    return leaf(float32, shape)


def dense(dtype: DType) -> list[Node]:
    product = matmul(cast(leaf(dtype, (33, 17)), float32), f32(17, 20))
    biased = compute(Op.ADD, product, wide(f32(1, 20), product))
    return [compute(Op.MAX, biased, number(0.0, biased))]


def symbolic() -> list[Node]:
    size = Variable("t", 1, 40)
    part = view.shrink(f32(40, 6), ((0, size), (0, 6)))
    return [softmax(view.reshape(part, (size, 6)), 1), reduce(Op.ADD, compute(Op.MUL, part, part), (0,))]


def chain() -> list[Node]:
    x = f32(19)
    for step in range(200):
        x = compute(Op.MUL, x, number(-1.0, x)) if step % 3 else compute(Op.MAX, x, number(-2.0, x))
    return [x]


FUSED: dict[str, Callable[[], list[Node]]] = {
    "softmax": lambda: [softmax(f32(4, 1000), 1)],
    "softmax-of-columns": lambda: [softmax(f32(33, 64), 0)],
    "layer-norm": lambda: [layer_norm(f32(8, 256))],
    "dense": lambda: dense(float32),
    "dense-of-float16": lambda: dense(float16),
    "attention": lambda: [attention(f32(32, 16), f32(32, 16), f32(32, 16))],
    "convolution": lambda: [convolution(f32(2, 3, 9, 8), f32(4, 3, 3, 2), 2, 1, 1)],
    "argmax": lambda: [argmax(f32(6, 31))],
    "symbolic-sizes": symbolic,
    "long-chain": chain,
    "long-sum": lambda: [reduce(Op.ADD, f32(1 << 20), (0,))],
}


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("name", FUSED)
@pytest.mark.requires("float32", "int32", "bool")
def test_layer_compiles(renderer: Backend, name: str, fuse: bool) -> None:
    if "float16" in name and "float16" not in renderer.capabilities.dtypes:
        pytest.skip("not declared: float16")
    kernels = kernels_of(FUSED[name](), fuse)
    assert kernels
    compile_each(kernels, renderer)


@pytest.mark.requires("float32")
def test_source_depends_on_the_kernel_alone(renderer: Backend) -> None:
    """Two graphs of one structure are one source; another constant is another."""
    sources = []
    for factor in (2.0, 2.0, 3.0):
        x = f32(100)
        (kernel,) = kernels_of([compute(Op.MUL, x, number(factor, x))])
        sources.append(rendered(kernel, renderer)[1])
    assert sources[0] == sources[1] != sources[2]
