"""Whole graphs: random fused ones, the layers that networks are made of, and sizes that are symbols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petaflop.dtype import DTYPES, float32, int32
from petaflop.graph import view
from petaflop.graph.node import Node, cast, compute, gather, reduce, variable
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Variable
from petaflop_conformance.case import Case
from petaflop_conformance.graphs import Grower
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
from petaflop_conformance.values import awkward, ordinary

pytestmark = [pytest.mark.level("core"), pytest.mark.usefixtures("fusion")]

SMALL = ((7,), (33,), (4, 8), (3, 5), (2, 3, 4), (1, 9))


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.requires("float32", "int32", "bool")
@given(data=st.data())
def test_random_graph(case: Case, dtype: str, data: Any) -> None:
    """3 to 12 operations of any kind, views and reductions among them, that need not fit one kernel."""
    shape = data.draw(st.sampled_from(SMALL))
    inputs = {}
    for position in range(data.draw(st.integers(1, 3))):
        array = ordinary(DTYPES[dtype], shape, "random", position)
        inputs[case.leaf(array)] = array
    grower = Grower(lambda options: data.draw(st.sampled_from(options)), inputs, case.policy)
    case.check(grower.grow(data.draw(st.integers(3, 12))))


# ---- layers ----


@pytest.mark.parametrize("shape", [(4, 7), (3, 64), (2, 5, 33), (1, 1), (6, 1000)], ids=str)
@pytest.mark.requires("float32")
def test_softmax(case: Case, shape: tuple[int, ...]) -> None:
    x = case.leaf(ordinary(float32, shape, "softmax"))
    case.check(*(softmax(x, axis) for axis in range(len(shape))))


@pytest.mark.parametrize("shape", [(4, 7), (3, 64), (2, 5, 33)], ids=str)
@pytest.mark.requires("float32")
def test_layer_norm(case: Case, shape: tuple[int, ...]) -> None:
    case.check(layer_norm(case.leaf(ordinary(float32, shape, "norm"))))


@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1), (4, 4, 4), (5, 7, 3), (16, 16, 16), (33, 31, 17), (1, 65, 40), (40, 9, 1), (9, 1030, 7)],
    ids=str,
)
@pytest.mark.requires("float32")
def test_matmul(case: Case, sizes: tuple[int, int, int]) -> None:
    """Alone, and with a bias and a rectifier after it; with either operand transposed."""
    m, k, n = sizes
    a, b = case.leaf(ordinary(float32, (m, k), "a")), case.leaf(ordinary(float32, (k, n), "b"))
    bias = case.leaf(ordinary(float32, (1, n), "bias"))
    product = matmul(a, b)
    biased = compute(Op.ADD, product, wide(bias, product))
    case.check(product, compute(Op.MAX, biased, number(0.0, biased)))
    turned = case.leaf(ordinary(float32, (k, m), "t")), case.leaf(ordinary(float32, (n, k), "t"))
    case.check(matmul(view.permute(turned[0], (1, 0)), b), matmul(a, view.permute(turned[1], (1, 0))))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "uint8", "int32", "float64"])
@pytest.mark.requires("float32", "int32")
def test_matmul_of_other_dtypes(case: Case, dtype: str, backend: Any) -> None:
    """Narrow operands, a wide accumulator."""
    if dtype not in backend.capabilities.dtypes:
        pytest.skip(f"not declared: {dtype}")
    kind = DTYPES[dtype]
    accumulator = {"f": float32, "i": int32, "u": int32}[kind.kind] if kind.itemsize < 4 else kind
    for m, k, n in ((9, 21, 18), (70, 45, 67)):
        a, b = case.leaf(ordinary(kind, (m, k), "a")), case.leaf(ordinary(kind, (k, n), "b"))
        case.check(matmul(cast(a, accumulator), cast(b, accumulator)))
    alone = np.zeros((40, 40), kind.numpy)  # each sum has one product that is not 0: an awkward value times b
    np.fill_diagonal(alone, np.resize(awkward(kind), 40))
    a, b = case.leaf(alone), case.leaf(ordinary(kind, (40, 50), "b"))
    case.check(matmul(cast(a, accumulator), cast(b, accumulator)))


@pytest.mark.requires("float32")
def test_batched_matmul_and_a_second_one(case: Case) -> None:
    x = case.leaf(ordinary(float32, (3, 5, 8), "x"))
    first, second = case.leaf(ordinary(float32, (8, 12), "1")), case.leaf(ordinary(float32, (12, 4), "2"))
    hidden = matmul(x, first)
    case.check(matmul(compute(Op.MAX, hidden, number(0.0, hidden)), second))


@pytest.mark.parametrize(
    ("stride", "dilation", "padding"), [(1, 1, 0), (1, 1, 1), (2, 1, 1), (1, 2, 2), (3, 2, 1)], ids=str
)
@pytest.mark.requires("float32")
def test_convolution(case: Case, stride: int, dilation: int, padding: int) -> None:
    x = case.leaf(ordinary(float32, (2, 3, 9, 8), "image"))
    weight = case.leaf(ordinary(float32, (4, 3, 3, 2), "weight"))
    result = convolution(x, weight, stride, dilation, padding)
    case.check(result, compute(Op.MAX, result, number(0.0, result)))


@pytest.mark.requires("float32")
def test_pooling(case: Case) -> None:
    x = case.leaf(ordinary(float32, (1, 2, 8, 9), "pool"))
    taps = view.window(view.window(x, 2, 2, 2), 3, 3, 2)
    case.check(reduce(Op.MAX, taps, (4, 5)), reduce(Op.ADD, taps, (4, 5)))


@pytest.mark.requires("float32", "int32", "bool")
def test_argmax(case: Case) -> None:
    values = np.round(ordinary(float32, (6, 31), "argmax"))
    x = case.leaf(values)
    (got,) = case.check(argmax(x))
    assert (31 - got[:, 0] == values.argmax(1)).all()


@pytest.mark.requires("float32", "int32", "bool")
def test_attention_with_a_causal_mask(case: Case) -> None:
    q, k, v = (case.leaf(ordinary(float32, (6, 8), name)) for name in "qkv")
    case.check(attention(q, k, v))


@pytest.mark.requires("float32")
def test_a_long_chain(case: Case) -> None:
    """More operations than any kernel should hold."""
    x = case.leaf(ordinary(float32, (19,), "long"))
    for step in range(300):
        x = compute(Op.MUL, x, number(-1.0, x)) if step % 3 else compute(Op.MAX, x, number(-2.0, x))
    case.check(x)


@pytest.mark.requires("float32")
def test_many_inputs(case: Case) -> None:
    """More arguments than a device may take in one launch."""
    total = case.leaf(ordinary(float32, (11,), "first"))
    for position in range(100):
        total = compute(Op.ADD, total, case.leaf(ordinary(float32, (11,), position)))
    case.check(total)


# ---- symbolic sizes ----


def _views_of(x: Node, size: Any) -> list[Node]:
    part = view.shrink(x, ((0, size), (0, 6)))
    squared = compute(Op.MUL, part, part)
    return [
        squared,
        reduce(Op.ADD, squared, (0,)),
        reduce(Op.MAX, squared, (1,)),
        view.flip(view.permute(part, (1, 0)), (1,)),
    ]


def _layers(x: Node, size: Any) -> list[Node]:
    part = view.shrink(x, ((0, size), (0, 6)))
    weight = view.shrink(x, ((0, 6), (0, 6)))
    return [softmax(view.reshape(part, (size, 6)), 1), matmul(part, weight), view.pad(part, ((1, 2), (0, 0)))]


@pytest.mark.parametrize("build", [_views_of, _layers], ids=["views", "layers"])
@pytest.mark.requires("float32")
def test_symbolic_size_is_the_concrete_one(case: Case, build: Callable[[Node, Any], list[Node]]) -> None:
    """One graph whose size is a Variable, realized for several values of it, against graphs of those very
    sizes."""
    x = case.leaf(ordinary(float32, (40, 6), "symbolic"))
    size = Variable("t", 1, 40)
    for value in (1, 2, 7, 40):
        case.bind(size, value)
        fresh = case.leaf(case.run(x)[0])
        arrays = case.check(*build(fresh, size))
        for symbolic, concrete in zip(arrays, case.check(*build(fresh, value)), strict=True):
            assert symbolic.shape == concrete.shape


@pytest.mark.requires("float32", "int32")
def test_symbolic_value_and_position(case: Case) -> None:
    """A Variable as a number, and as where a view starts: one row of a table, then the next."""
    table = case.leaf(ordinary(float32, (9, 4), "position"))
    position = Variable("start", 0, 8)
    for value in (0, 3, 8):
        case.bind(position, value)
        fresh = case.leaf(case.run(table)[0])
        row = view.shrink(fresh, ((position, position + 1), (0, 4)))
        index = view.expand(view.reshape(variable(position), (1, 1)), (1, 4))
        case.check(compute(Op.ADD, row, row), gather(fresh, index, 0))
