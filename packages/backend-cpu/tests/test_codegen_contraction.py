"""Generated matrix products and convolutions against float64 NumPy: every transposition, ragged sizes,
several dtypes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from codegen_case import Array, both_plans, execute, reads, writes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernels import backend

from petaflop.codegen.lower import lower
from petaflop.codegen.planner import default_plan
from petaflop.dtype import DType, bfloat16, float16, float32, float64, int8, int32
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, both, constant, greater_equal, less
from petaflop.ir.kernel import Argument, Block, Kernel, Store, Temporary, axis, load, reduction, state, value
from petaflop.ir.plan import Window

rng = np.random.default_rng(11)
WIDE = {float16: float32, bfloat16: float32, int8: int32}


def numbers(shape: tuple[int, ...], dtype: DType) -> Array:
    if dtype.is_integer:
        return rng.integers(-100, 100, shape).astype(dtype.numpy)
    return rng.standard_normal(shape).astype(dtype.numpy)


def widened(expr: Expr, dtype: DType) -> Expr:
    return value(Op.CAST, expr, dtype=WIDE[dtype]) if dtype in WIDE else expr


def product(
    m_size: int, n_size: int, k_size: int, turned: str, dtype: DType, batch: int
) -> tuple[Kernel, list[Array], Array]:
    """The kernel of a product, its inputs, and the product in float64."""
    m, n, k = axis("m", m_size), axis("n", n_size), axis("k", k_size)
    outer, sizes = ((axis("b", batch),), (batch,)) if batch else ((), ())
    a_index, a_shape = ((k, m), (k_size, m_size)) if turned[0] == "t" else ((m, k), (m_size, k_size))
    b_index, b_shape = ((n, k), (n_size, k_size)) if turned[1] == "t" else ((k, n), (k_size, n_size))
    wide = WIDE.get(dtype, dtype)
    a = widened(load("a", (*outer, *a_index), dtype), dtype)
    b = widened(load("b", (*outer, *b_index), dtype), dtype)
    total = reduction("s", Op.ADD, value(Op.MUL, a, b), (k,))
    block = Block((*outer, m, n), (Store("o", (*outer, m, n), state("s", wide)),), (total,))
    out = writes("o", (*sizes, m_size, n_size), wide)
    kernel = Kernel(
        (reads("a", sizes + a_shape, dtype), reads("b", sizes + b_shape, dtype), out), ((block,),)
    )
    x, y = numbers(sizes + a_shape, dtype), numbers(sizes + b_shape, dtype)
    left = np.swapaxes(x, -1, -2) if turned[0] == "t" else x
    right = np.swapaxes(y, -1, -2) if turned[1] == "t" else y
    return kernel, [x, y], left.astype(np.float64) @ right.astype(np.float64)


SIZES = [
    (64, 64, 64),
    (65, 67, 70),
    (30, 33, 41),
    (4, 100, 300),
    (2, 64, 64),
    (100, 8, 50),
    (1, 300, 200),
    (300, 1, 200),
]
SIZES += [(48, 40, 600), (3, 3, 3), (129, 130, 7), (13, 257, 31)]


@pytest.mark.parametrize("turned", ["nn", "tn", "nt", "tt"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_product(sizes: tuple[int, int, int], turned: str) -> None:
    kernel, inputs, expected = product(*sizes, turned, float32, 0)
    for got in both_plans(kernel, inputs, np.zeros(expected.shape, np.float32)):
        assert np.max(np.abs(got - expected)) <= 2.0**-24 * 8 * sizes[2]


@pytest.mark.parametrize("dtype", [float64, float16, bfloat16, int8, int32], ids=str)
@pytest.mark.parametrize("sizes", [(50, 61, 40), (33, 16, 100)], ids=str)
def test_product_of_every_dtype(sizes: tuple[int, int, int], dtype: DType) -> None:
    kernel, inputs, expected = product(*sizes, "nn", dtype, 0)
    tolerance = {"f": 1e-12 if dtype is float64 else 1e-4, "i": 0.0}[dtype.kind]
    for got in both_plans(kernel, inputs, np.zeros(expected.shape, WIDE.get(dtype, dtype).numpy)):
        np.testing.assert_allclose(got, expected, atol=tolerance)


@pytest.mark.parametrize("sizes", [(37, 45, 60), (16, 16, 64), (200, 160, 129)], ids=str)
def test_batched_product(sizes: tuple[int, int, int]) -> None:
    kernel, inputs, expected = product(*sizes, "nt", float32, 3)
    for got in both_plans(kernel, inputs, np.zeros(expected.shape, np.float32)):
        np.testing.assert_allclose(got, expected, atol=1e-3)


def test_large_product_is_the_same_on_any_number_of_threads() -> None:
    kernel, inputs, expected = product(300, 311, 520, "nn", float32, 0)
    from petaflop.config import overrides

    results = []
    for threads in (1, 2, 3):
        with overrides(threads=threads):
            results.append(np.zeros(expected.shape, np.float32))
            execute(kernel, inputs, [results[-1]], default_plan(kernel, backend().target))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert np.max(np.abs(results[0] - expected)) <= 2.0**-24 * 64 * np.sqrt(520)


@pytest.mark.parametrize("dtype", [float32, bfloat16, int8], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_a_matrix_times_itself(dtype: DType, turned: bool) -> None:
    """Both factors read one buffer: x @ x.T and x @ x."""
    m, n, k = axis("m", 64), axis("n", 64), axis("k", 64)
    wide = WIDE.get(dtype, dtype)
    right = load("x", (n, k) if turned else (k, n), dtype)
    term = value(Op.MUL, widened(load("x", (m, k), dtype), dtype), widened(right, dtype))
    total = reduction("s", Op.ADD, term, (k,))
    block = Block((m, n), (Store("o", (m, n), state("s", wide)),), (total,))
    kernel = Kernel((reads("x", (64, 64), dtype), writes("o", (64, 64), wide)), ((block,),))
    x = numbers((64, 64), dtype)
    expected = x.astype(np.float64) @ (x.T if turned else x).astype(np.float64)
    for got in both_plans(kernel, [x], np.zeros((64, 64), wide.numpy)):
        np.testing.assert_allclose(got, expected, atol=0 if dtype is int8 else 1e-4)


@pytest.mark.parametrize("blocks", [1, 2])
def test_bias_and_activation_are_part_of_the_product(blocks: int) -> None:
    m, n, k = axis("m", 61), axis("n", 75), axis("k", 90)
    a = value(Op.MUL, load("a", (m, k), float32), constant(2.0, float32))
    total = reduction("s", Op.ADD, value(Op.MUL, a, load("b", (k, n), float32)), (k,))
    arguments: tuple[Argument, ...] = (
        reads("a", (61, 90)),
        reads("b", (90, 75)),
        reads("c", (75,)),
        writes("o", (61, 75)),
    )

    def finish(result: Expr) -> Expr:
        return value(Op.MAX, value(Op.ADD, result, load("c", (n,), float32)), constant(0.0, float32))

    if blocks == 1:
        nest = (Block((m, n), (Store("o", (m, n), finish(state("s", float32))),), (total,)),)
        temporaries: tuple[Temporary, ...] = ()
    else:
        first = Block((m, n), (Store("t", (m, n), state("s", float32)),), (total,))
        nest = (first, Block((m, n), (Store("o", (m, n), finish(load("t", (m, n), float32))),)))  # type: ignore[assignment]
        temporaries = (Temporary("t", float32, (61, 75), 2),)
    x, y, z = numbers((61, 90), float32), numbers((90, 75), float32), numbers((75,), float32)
    expected = np.maximum(2 * x.astype(np.float64) @ y + z, 0)
    for got in both_plans(Kernel(arguments, (nest,), temporaries), [x, y, z], np.zeros((61, 75), np.float32)):
        np.testing.assert_allclose(got, expected, atol=1e-4)


CONVOLUTIONS = [  # batch, channels in, channels out, height, width, taps, stride, pad, dilation
    (1, 16, 24, 9, 11, 3, 1, 1, 1),
    (2, 8, 32, 14, 14, 3, 2, 1, 1),
    (1, 32, 16, 7, 7, 1, 1, 0, 1),
    (1, 4, 40, 20, 20, 5, 1, 0, 2),
    (1, 3, 64, 33, 35, 7, 2, 3, 1),
    (2, 64, 8, 6, 50, 3, 1, 1, 1),
]


CONVOLUTIONS += [
    (2, 5, 33, 30, 47, 3, 2, 1, 1),
    (1, 3, 18, 64, 64, 7, 2, 3, 1),
    (1, 40, 8, 20, 33, 1, 2, 0, 1),
    (1, 6, 20, 19, 50, 3, 3, 2, 2),
    (1, 200, 9, 16, 16, 3, 1, 1, 1),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(case: tuple[int, ...]) -> None:
    batch, inner, outer, height, width, taps, stride, pad, dilation = case
    rows = (height + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
    columns = (width + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
    b, o, i, j = axis("b", batch), axis("o", outer), axis("i", rows), axis("j", columns)
    c, p, q = axis("c", inner), axis("p", taps), axis("q", taps)
    y, x = i * stride + p * dilation - pad, j * stride + q * dilation - pad
    inside = both(
        greater_equal(y, constant(0)),
        less(y, constant(height)),
        greater_equal(x, constant(0)),
        less(x, constant(width)),
    )
    term = value(Op.MUL, load("x", (b, c, y, x), float32, inside), load("w", (o, c, p, q), float32))
    total = reduction("s", Op.ADD, term, (c, p, q))
    block = Block((b, o, i, j), (Store("z", (b, o, i, j), state("s", float32)),), (total,))
    shapes = (batch, inner, height, width), (outer, inner, taps, taps), (batch, outer, rows, columns)
    kernel = Kernel((reads("x", shapes[0]), reads("w", shapes[1]), writes("z", shapes[2])), ((block,),))
    image, weights = numbers(shapes[0], float32), numbers(shapes[1], float32)
    padded = np.pad(image.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    expected = np.zeros(shapes[2])
    for dy in range(taps):
        for dx in range(taps):
            part = padded[:, :, dy * dilation :: stride, dx * dilation :: stride][:, :, :rows, :columns]
            expected += np.einsum("bcij,oc->boij", part, weights[:, :, dy, dx])
    for got in both_plans(kernel, [image, weights], np.zeros(shapes[2], np.float32)):
        np.testing.assert_allclose(got, expected, atol=2e-4)


def windowed(i: int, j: int, taps: int, lanes: Expr, channels: Expr, shift: int) -> Kernel:
    """z[o, i, j] = Σ w[o, c, q] x[c, i, lanes]: windows in one row, read as `lanes` says."""
    o, row, column, c, q = (axis(name, size) for name, size in zip("oijcq", (24, i, j, 7, taps), strict=True))
    inside = both(greater_equal(lanes, constant(0)), less(lanes, constant(j + shift)))
    term = value(Op.MUL, load("x", (channels, row, lanes), float32, inside), load("w", (o, c, q), float32))
    total = reduction("s", Op.ADD, term, (c, q))
    block = Block((o, row, column), (Store("z", (o, row, column), state("s", float32)),), (total,))
    arguments = (reads("x", (7, i, j + shift)), reads("w", (24, 7, taps)), writes("z", (24, i, j)))
    return Kernel(arguments, ((block,),))


@pytest.mark.parametrize("shape", [(3, 40, 3), (2, 61, 5), (5, 16, 2)], ids=str)
@pytest.mark.parametrize("turned", [False, True], ids=["forward", "backward taps"])
def test_windows_are_copied_once(shape: tuple[int, int, int], turned: bool) -> None:
    """The plan has a padded copy, whichever way the taps walk, and gives what the naive plan gives."""
    i, j, taps = shape
    column, q, c = axis("j", j), axis("q", taps), axis("c", 7)
    lanes = column - q + (taps - 1) if turned else column + q - 1
    kernel = windowed(i, j, taps, lanes, c, 0)
    plan = default_plan(kernel, backend().target)
    assert any(isinstance(directive, Window) for directive in plan.rewrites), str(plan)
    image, weights = numbers((7, i, j), float32), numbers((24, 7, taps), float32)
    got, expected = both_plans(kernel, [image, weights], np.zeros((24, i, j), np.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_lanes_that_walk_backward_are_no_window() -> None:
    """Such a plan would need room before the copy; another plan serves, with the same values."""
    column, q, c = axis("j", 40), axis("q", 3), axis("c", 7)
    kernel = windowed(2, 40, 3, 39 - column + q, c, 2)
    plan = default_plan(kernel, backend().target)
    assert not any(isinstance(directive, Window) for directive in plan.rewrites)
    image, weights = numbers((7, 2, 42), float32), numbers((24, 7, 3), float32)
    got, expected = both_plans(kernel, [image, weights], np.zeros((24, 2, 40), np.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(4, 60), st.integers(1, 200), st.integers(1, 90)),
    st.sampled_from(["nn", "tn", "nt", "tt"]),
    st.sampled_from([0, 3]),
    st.sampled_from([1 << 12, 1 << 14, 1 << 16]),
)
@example((40, 150, 30), "nn", 0, 1 << 14)
def test_panels_of_every_size(sizes: tuple[int, int, int], turned: str, batch: int, cache: int) -> None:
    """Runs of tiles that a task packs for itself, ragged and whole: with a cache of `cache` bytes."""
    kernel, inputs, _ = product(*sizes, turned, float32, batch)
    inputs = [np.rint(each * 3).astype(np.float32) for each in inputs]
    left, right = (np.swapaxes(x, -1, -2) if t == "t" else x for x, t in zip(inputs, turned, strict=True))
    output = np.full((*left.shape[:-1], sizes[1]), np.nan, np.float32)
    plan = default_plan(kernel, replace(backend().target, l2_bytes=cache))
    execute(kernel, inputs, [output], plan)
    assert np.array_equal(output, left @ right)


def test_what_a_task_packs_is_no_copy_of_the_factor() -> None:
    kernel, _, _ = product(64, 4096, 512, "nn", float32, 0)
    loops = lower(kernel, default_plan(kernel, replace(backend().target, l2_bytes=1 << 20)), backend().target)
    assert [memory.space for memory in loops.memory] == ["scratch"]
    assert loops.memory[0].size <= (1 << 19) // 4


def test_both_factors_from_one_buffer() -> None:
    """x @ x.T: what is read along m and what is read along n are told apart, though both are `x`."""
    m, n, k = axis("m", 96), axis("n", 96), axis("k", 48)
    x = numbers((96, 48), float32)
    term = value(Op.MUL, load("x", (m, k), float32), load("x", (n, k), float32))
    block = Block((m, n), (Store("o", (m, n), state("s", float32)),), (reduction("s", Op.ADD, term, (k,)),))
    kernel = Kernel((reads("x", (96, 48)), writes("o", (96, 96))), ((block,),))
    expected = x.astype(np.float64) @ x.T.astype(np.float64)
    for result in both_plans(kernel, [x], np.zeros((96, 96), np.float32)):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_an_index_with_a_division_among_its_terms_is_no_window() -> None:
    m, n, k = axis("m", 24), axis("n", 40), axis("k", 128)
    block = n * 2 + k // 64
    term = value(Op.MUL, load("a", (m, k), float32), load("b", (block, k % 64), float32))
    nest = (Block((m, n), (Store("o", (m, n), state("s", float32)),), (reduction("s", Op.ADD, term, (k,)),)),)
    kernel = Kernel((reads("a", (24, 128)), reads("b", (80, 64)), writes("o", (24, 40))), (nest,))
    x, y = numbers((24, 128), float32), numbers((80, 64), float32)
    expected = x.astype(np.float64) @ y.reshape(40, 128).T
    for got in both_plans(kernel, [x, y], np.zeros((24, 40), np.float32)):
        np.testing.assert_allclose(got, expected, atol=1e-3)
