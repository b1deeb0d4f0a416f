"""What the scheduler fuses, cuts, orders and overwrites: kernel counts and values, against NumPy."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from petaflop.config import overrides
from petaflop.device import registry
from petaflop.device.backend import Launch
from petaflop.device.reference import ReferenceBackend
from petaflop.dtype import float32, int32, uint8
from petaflop.errors import GradientError
from petaflop.graph.node import (
    Node,
    assign,
    bitcast,
    cast,
    compute,
    const,
    duplicate,
    gather,
    reduce,
    scan,
    scatter,
    toposort,
)
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Variable
from petaflop.graph.view import expand, flip, pad, permute, reshape, shrink, window
from petaflop.ir.kernel import Kernel
from petaflop.ir.schedule import Schedule
from petaflop.realize import from_host, realize_nodes, to_host
from petaflop.schedule.fuse import schedule
from petaflop.schedule.memory import plan_memory

DEVICE = "reference"


def leaf(values: object) -> Node:
    return from_host(np.asarray(values), DEVICE)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def broadcast(node: Node, shape: tuple[int, ...]) -> Node:
    return expand(reshape(node, (1,) * (len(shape) - len(node.shape)) + node.shape), shape)


def full(value: float, like: Node) -> Node:
    return const(value, like.dtype, like.shape)


def add(a: Node, b: Node) -> Node:
    return compute(Op.ADD, a, b)


def multiply(a: Node, b: Node) -> Node:
    return compute(Op.MUL, a, b)


def subtract(a: Node, b: Node) -> Node:
    return add(a, multiply(b, full(-1, b)))


def matmul(a: Node, b: Node) -> Node:
    (m, k), (_, n) = a.shape, b.shape
    left = expand(reshape(a, (m, k, 1)), (m, k, n))
    right = expand(reshape(b, (1, k, n)), (m, k, n))
    return reshape(reduce(Op.ADD, multiply(left, right), (1,)), (m, n))


def made(*roots: Node, in_place: tuple[Node, ...] = (), fuse: bool = True) -> Schedule:
    return schedule(toposort(roots), set(roots), set(in_place), fuse)


def softmax(x: Node) -> Node:
    highest = reduce(Op.MAX, x, (1,))
    powers = compute(Op.EXP2, subtract(x, expand(highest, x.shape)))
    return compute(Op.DIV, powers, expand(reduce(Op.ADD, powers, (1,)), x.shape))


def layer_norm(x: Node, weight: Node) -> Node:
    def mean(node: Node) -> Node:
        total = reduce(Op.ADD, node, (1,))
        return multiply(total, full(1 / int(node.shape[1]), total))

    centered = subtract(x, expand(mean(x), x.shape))
    variance = mean(multiply(centered, centered))
    deviation = compute(Op.SQRT, add(variance, full(1e-5, variance)))
    return multiply(compute(Op.DIV, centered, expand(deviation, x.shape)), broadcast(weight, x.shape))


# ---- what is one kernel ----


def test_elementwise_then_reduce_is_one_kernel() -> None:
    a, b, c = leaf(random(64, 128)), leaf(random(64, 128, seed=1)), leaf(random(64, 128, seed=2))
    total = add(multiply(a, b), c)
    result = reduce(Op.ADD, compute(Op.MAX, total, full(0, total)), (1,))
    assert len(made(result).steps) == 1
    expected = np.maximum(to_host(a).astype(np.float64) * to_host(b) + to_host(c), 0).sum(1, keepdims=True)
    np.testing.assert_allclose(to_host(result), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(512, 256), (3, 5), (64, 1000)])
def test_softmax_is_one_kernel(shape: tuple[int, int]) -> None:
    x = random(*shape)
    result = softmax(leaf(x))
    assert len(made(result).steps) == 1
    powers = np.exp2(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(to_host(result), powers / powers.sum(1, keepdims=True), rtol=2e-6)


def test_layer_norm_is_one_kernel() -> None:
    x, weight = random(128, 384), random(384, seed=1)
    result = layer_norm(leaf(x), leaf(weight))
    assert len(made(result).steps) == 1
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(to_host(result), expected, rtol=1e-4, atol=1e-5)


def test_matmul_with_bias_and_relu_is_one_kernel_and_the_next_matmul_another() -> None:
    x, w, v, bias = random(64, 96), random(96, 80, seed=1), random(80, 72, seed=2), random(80, seed=3)
    hidden = matmul(leaf(x), leaf(w))
    hidden = add(hidden, broadcast(leaf(bias), hidden.shape))
    hidden = compute(Op.MAX, hidden, full(0, hidden))
    result = matmul(hidden, leaf(v))
    assert len(made(hidden).steps) == 1
    assert len(made(result).steps) == 2
    expected = np.maximum(x.astype(np.float64) @ w + bias, 0) @ v
    np.testing.assert_allclose(to_host(result), expected, rtol=1e-3, atol=1e-3)


def test_an_optimizer_step_over_many_parameters_is_few_kernels() -> None:
    roots, expected = [], []
    for seed in range(40):
        parameter, gradient = random(seed + 1, 7, seed=seed), random(seed + 1, 7, seed=seed + 100)
        p, g = leaf(parameter), leaf(gradient)
        roots.append(assign(p, subtract(p, multiply(g, full(0.5, g)))))
        expected.append(parameter - np.float32(0.5) * gradient)
    assert len(made(*roots, in_place=tuple(roots)).steps) <= 4
    realize_nodes(roots, DEVICE)
    for root, values in zip(roots, expected, strict=True):
        np.testing.assert_array_equal(to_host(root), values)


def test_convolution_reaches_the_kernel_as_affine_loads() -> None:
    image, taps = random(2, 3, 9, 9), random(4, 3, 3, 3, seed=1)
    windows = window(window(pad(leaf(image), ((0, 0), (0, 0), (1, 1), (1, 1))), 2, 3, 2), 3, 3, 2)
    shape = (2, 4, 3, 5, 5, 3, 3)
    left = expand(reshape(windows, (2, 1, 3, 5, 5, 3, 3)), shape)
    right = expand(reshape(leaf(taps), (1, 4, 3, 1, 1, 3, 3)), shape)
    steps = made(reduce(Op.ADD, multiply(left, right), (2, 5, 6))).steps
    assert len(steps) == 1
    text = str(steps[0].kernel)
    assert "//" not in text and "%" not in text, text


def test_views_over_flattened_axes_stay_affine() -> None:
    x = leaf(random(8, 6, 10))
    mixed = reshape(permute(reshape(x, (8, 60)), (1, 0)), (6, 10, 8))
    result = add(mixed, full(1, mixed))
    text = str(made(result).steps[0].kernel)
    assert "//" not in text and "%" not in text, text
    np.testing.assert_array_equal(to_host(result), to_host(x).transpose(1, 2, 0) + 1)


def test_fusion_off_runs_one_kernel_per_operation_with_the_same_result() -> None:
    x = random(16, 32)
    fused = to_host(softmax(leaf(x)))
    with overrides(fuse=False):
        result = softmax(leaf(x))
        assert len(made(result, fuse=False).steps) > 4
        np.testing.assert_allclose(to_host(result), fused, rtol=1e-6)


# ---- what is cut ----


def test_every_cut_carries_its_reason() -> None:
    x = leaf(random(64, 64))
    for step in made(matmul(compute(Op.EXP2, x), x)).steps:
        assert step.reason


def test_an_expensive_operand_of_a_matmul_is_computed_once() -> None:
    x, w = leaf(random(128, 128)), leaf(random(128, 128, seed=1))
    assert len(made(matmul(compute(Op.EXP2, x), w)).steps) == 2


def test_a_cast_of_a_narrow_weight_is_computed_where_it_is_read() -> None:
    x, w = leaf(random(64, 128)), leaf(random(128, 64, seed=1).astype(np.float16))
    assert len(made(matmul(x, cast(w, float32))).steps) == 1


def test_a_chain_of_ten_thousand_operations_needs_no_recursion() -> None:
    x = leaf(np.zeros(4, np.float32))
    total = x
    for number in range(10_000):
        total = add(total, full(number % 3, total))
    np.testing.assert_array_equal(to_host(total), np.full(4, sum(n % 3 for n in range(10_000)), np.float32))


def test_temporaries_share_memory_but_never_while_both_live() -> None:
    x = leaf(random(64, 64))
    value = x
    for _ in range(6):
        value = matmul(value, x)
    plan = made(value)
    offsets, total = plan_memory(plan, {})
    assert len(offsets) == 5
    assert total == 2 * 64 * 64 * 4


# ---- indexed and ordered ----


def test_gather_out_of_range_reads_zero() -> None:
    table, picks = random(5, 3), np.array([4, -1, 0, 5], np.int32)
    index = expand(reshape(leaf(picks), (4, 1)), (4, 3))
    expected = np.where(((picks >= 0) & (picks < 5))[:, None], table[np.clip(picks, 0, 4)], 0)
    np.testing.assert_array_equal(to_host(gather(leaf(table), index, 0)), expected)


def test_scatter_applies_duplicates_in_index_order_and_drops_what_is_outside() -> None:
    base, picks, values = random(4, 2), np.array([1, 1, 9, 1], np.int32), random(4, 2, seed=1)
    index = expand(reshape(leaf(picks), (4, 1)), (4, 2))
    last = to_host(scatter(leaf(base), index, leaf(values), 0, None))
    np.testing.assert_array_equal(last[1], values[3])
    summed = to_host(scatter(leaf(base), index, leaf(values), 0, Op.ADD))
    np.testing.assert_array_equal(summed[1], ((base[1] + values[0]) + values[1]) + values[3])
    np.testing.assert_array_equal(summed[[0, 2, 3]], base[[0, 2, 3]])


def test_scan_runs_along_its_axis() -> None:
    x = random(3, 17)
    np.testing.assert_allclose(
        to_host(scan(Op.ADD, leaf(x), 1)), np.cumsum(x.astype(np.float64), 1), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(to_host(scan(Op.MAX, leaf(x), 0)), np.maximum.accumulate(x, 0))


def test_bitcast_to_another_size_reads_the_same_memory() -> None:
    x = random(3, 4)
    np.testing.assert_array_equal(to_host(bitcast(add(leaf(x), leaf(x)), int32)), (x + x).view(np.int32))
    halves = bitcast(add(leaf(x), leaf(x)), uint8)
    np.testing.assert_array_equal(to_host(add(halves, full(1, halves))), (x + x).view(np.uint8) + np.uint8(1))


# ---- assignment ----


def test_assign_writes_in_place_where_nobody_sees_the_old_value() -> None:
    target = leaf(np.arange(6, dtype=np.float32))
    memory = target.buffer
    result = assign(target, full(9, shrink(target, ((0, 2),))), ((1, 2, 3),))
    realize_nodes([result], DEVICE)
    assert result.buffer is memory
    np.testing.assert_array_equal(to_host(result), [0, 9, 2, 3, 9, 5])
    with pytest.raises(GradientError, match="overwrote"):
        target.memory()


@pytest.mark.parametrize(
    "shifted", [lambda x: shrink(x, ((0, 5),)), lambda x: shrink(flip(x, (0,)), ((1, 6),))]
)
def test_an_overlapping_assign_sees_the_old_contents(shifted) -> None:  # type: ignore[no-untyped-def]
    values = np.arange(6, dtype=np.float32)
    target = leaf(values)
    expected = values.copy()
    expected[1:] = to_host(shifted(leaf(values)))
    result = assign(target, shifted(target), ((1, 5, 1),))
    np.testing.assert_array_equal(to_host(result), expected)


@pytest.mark.parametrize("fuse", [True, False])
def test_what_an_assignment_replaces_altogether_is_not_computed(fuse: bool) -> None:
    """A scatter whose every element is overwritten, and the reduction that fed it: one kernel is left."""
    x, y, index = leaf(random(4, 3)), leaf(random(4, 3, seed=1)), leaf(np.zeros((4, 3), np.int32))
    values = broadcast(reduce(Op.ADD, y, (0,)), (4, 3))
    scattered = scatter(x, index, values, 0, Op.ADD)
    result = assign(scattered, y, ((0, 4, 1), (0, 3, 1)))
    with overrides(fuse=fuse):
        assert len(made(result, fuse=fuse).steps) == 1
        np.testing.assert_array_equal(to_host(result), to_host(y))


def test_reads_of_the_old_contents_run_before_the_write() -> None:
    target, other = leaf(random(32, 32)), leaf(random(32, 32, seed=1))
    old = to_host(target)
    product = matmul(target, other)
    written = assign(target, full(0, target))
    realize_nodes([written, product], DEVICE)
    np.testing.assert_array_equal(to_host(written), np.zeros((32, 32), np.float32))
    np.testing.assert_allclose(
        to_host(product), old.astype(np.float64) @ to_host(other), rtol=1e-4, atol=1e-4
    )


def test_a_value_that_needs_both_contents_is_right() -> None:
    target = leaf(np.arange(4, dtype=np.float32))
    written = assign(target, multiply(target, full(2, target)))
    both = add(written, target)
    realize_nodes([written, both], DEVICE)
    np.testing.assert_array_equal(to_host(both), [0, 3, 6, 9])


@pytest.mark.parametrize("fuse", [True, False])
def test_writes_to_parts_of_a_value_that_is_read_as_it_was(fuse: bool) -> None:
    """The second write waits for the first, though it reads nothing of it; so neither may replace the old
    value."""
    target, other = leaf(np.arange(9, dtype=np.float32)), leaf(np.arange(10, 19, dtype=np.float32))
    first = assign(target, shrink(other, ((5, 9),)), ((8, 4, -1),))
    second = assign(first, shrink(other, ((0, 4),)), ((0, 4, 1),))
    with overrides(fuse=fuse):
        total = to_host(add(second, target))
    np.testing.assert_array_equal(total, [10, 12, 14, 16, 8, 23, 23, 23, 23])


@pytest.mark.parametrize("fuse", [True, False])
def test_the_later_of_two_writes_wins(fuse: bool) -> None:
    target, other = leaf(np.zeros(6, np.float32)), leaf(np.arange(1, 7, dtype=np.float32))
    first = assign(target, shrink(other, ((0, 4),)), ((4, 4, -1),))
    second = assign(first, shrink(other, ((0, 4),)), ((0, 4, 1),))
    with overrides(fuse=fuse):
        np.testing.assert_array_equal(to_host(second), [1, 2, 3, 4, 1, 0])


def test_a_duplicate_has_memory_of_its_own() -> None:
    x = leaf(random(3))
    assert to_host(duplicate(x)) is not None
    twice = [duplicate(x), duplicate(x)]
    realize_nodes(twice, DEVICE)
    assert twice[0].buffer is not twice[1].buffer


# ---- symbolic sizes ----


def test_one_kernel_serves_every_value_of_a_variable() -> None:
    length = Variable("length", 1, 16)
    x = random(16, 8)
    rows = shrink(leaf(x), ((0, length), (0, 8)))
    for size in (3, 16, 1):
        length.bind(size)
        total = reduce(
            Op.ADD, add(rows, full(1, rows)), (0,)
        )  # the same node each time: it must not be stale
        np.testing.assert_allclose(to_host(total)[0], (x[:size] + 1).sum(0), rtol=1e-5)


class Counting(ReferenceBackend):
    """The reference device, with a count of the kernels that it was given."""

    name = "counting"

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0

    def interpret(self, kernel: Kernel) -> Launch:
        self.kernels += 1
        return super().interpret(kernel)


def test_a_new_backend_gets_kernels_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may lie where one that is gone lay before, with the same id."""
    monkeypatch.setattr(registry, "_backends", {})
    for _ in range(20):
        backend = Counting()
        registry.register(backend)
        x = from_host(np.arange(9, dtype=np.float32), "counting")
        assert to_host(compute(Op.MUL, x, x)).tolist() == [n * n for n in range(9)]
        assert backend.kernels == 1
        registry.clear()
        del backend, x
        gc.collect()
