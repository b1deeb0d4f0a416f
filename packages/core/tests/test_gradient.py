"""Gradients against central differences in float64: two orders, ties and zeros; the table covers every op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graph_numpy import evaluate

from petaflop.dtype import bool_, float16, float32, float64, int32
from petaflop.errors import GradientError, ShapeError
from petaflop.graph import node as G
from petaflop.graph import view as V
from petaflop.graph.gradient import RULES, gradient
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import constant
from petaflop.ir.kernel import axis

RNG = np.random.default_rng(0)


def leaf(shape: tuple[int, ...], dtype: Any = float64) -> Node:
    """A gradient target without memory: the test gives its value."""
    node = G.buffer_leaf(None, dtype, shape, "test")
    node.needs_gradient = True
    return node


def total(node: Node) -> Node:
    """Σ of node times fixed weights, so that every element counts differently."""
    weights = G.cast(G.iota((node.size,), 0), node.dtype)
    flat = V.reshape(node, (node.size,))
    curved = G.compute(Op.SIN, G.compute(Op.ADD, weights, G.const(0.5, node.dtype, flat.shape)))
    return G.reduce(Op.ADD, G.compute(Op.MUL, flat, curved), (0,))


def one(node: Node) -> Node:
    return G.const(1, node.dtype, node.shape)


def differences(root: Node, values: dict[Node, Any], target: Node, step: float = 1e-6) -> Any:
    result = np.zeros(target.shape)
    for place in np.ndindex(*target.shape):
        ends = []
        for sign in (1, -1):
            moved = values[target].copy()
            moved[place] += sign * step
            ends.append(evaluate([root], {**values, target: moved})[0].sum())
        result[place] = (ends[0] - ends[1]) / (2 * step)
    return result


def check(function: Callable[..., Node], *inputs: Any, second: bool = True) -> None:
    arrays = [np.asarray(x, np.float64) for x in inputs]
    leaves = [leaf(x.shape) for x in arrays]
    values = dict(zip(leaves, arrays, strict=True))
    root = total(function(*leaves))
    grads = gradient([root], [one(root)], leaves)
    for target, grad in zip(leaves, grads, strict=True):
        assert grad is not None and grad.shape == target.shape and grad.dtype is float64
        np.testing.assert_allclose(
            evaluate([grad], values)[0], differences(root, values, target), rtol=2e-6, atol=2e-7
        )
    if not second:
        return
    again = sum_of([total(grad) for grad in grads if grad is not None])
    for target, grad in zip(leaves, gradient([again], [one(again)], leaves), strict=True):
        expected = differences(again, values, target)
        got = np.zeros(target.shape) if grad is None else evaluate([grad], values)[0]
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)


def sum_of(nodes: list[Node]) -> Node:
    result = nodes[0]
    for node in nodes[1:]:
        result = G.compute(Op.ADD, result, node)
    return result


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape)


def positive(*shape: int) -> Any:
    return RNG.uniform(0.5, 2.0, shape)


def squared(x: Node) -> Node:
    return G.compute(Op.MUL, x, x)


def test_table_covers_every_op() -> None:
    assert set(RULES) == set(Op)


@pytest.mark.parametrize("op", [Op.ADD, Op.MUL, Op.DIV, Op.MAX])
def test_binary(op: Op) -> None:
    check(lambda a, b: G.compute(op, a, b), normal(3, 4), positive(3, 4))


@pytest.mark.parametrize("op", [Op.SQRT, Op.EXP2, Op.LOG2, Op.SIN])
def test_unary(op: Op) -> None:
    check(lambda a: G.compute(op, a), positive(3, 4))


def test_where() -> None:
    condition = G.compute(Op.LT, G.iota((5,), 0), G.const(2, int32, (5,)))
    check(lambda a, b: G.compute(Op.WHERE, condition, squared(a), b), normal(5), normal(5))


def test_max_ties_share_in_halves() -> None:
    a, b = leaf((3,)), leaf((3,))
    grads = gradient([G.compute(Op.MAX, a, b)], [G.const(1, float64, (3,))], [a, b])
    values = {a: np.array([1.0, 2.0, np.nan]), b: np.array([1.0, 1.0, 0.0])}
    got = evaluate(list(grads), values)
    np.testing.assert_array_equal(got[0], [0.5, 1, 1])
    np.testing.assert_array_equal(got[1], [0.5, 0, 1])


@pytest.mark.parametrize("op", [Op.ADD, Op.MUL, Op.MAX])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_reduce(op: Op, axes: tuple[int, ...]) -> None:
    check(lambda a: G.reduce(op, a, axes), normal(2, 3, 4))


def test_reduce_max_divides_among_maxima() -> None:
    x = leaf((2, 3))
    (grad,) = gradient([G.reduce(Op.MAX, x, (1,))], [G.const(6, float64, (2, 1))], [x])
    assert grad is not None
    got = evaluate([grad], {x: np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])})[0]
    np.testing.assert_array_equal(got, [[0, 3, 3], [2, 2, 2]])


@pytest.mark.parametrize("zeros", [1, 2, 3])
def test_reduce_mul_with_zeros(zeros: int) -> None:
    x = positive(2, 5)
    x[:, 1 : 1 + zeros] = 0
    check(lambda a: G.reduce(Op.MUL, a, (1,)), x)


@pytest.mark.parametrize("op", [Op.ADD, Op.MUL, Op.MAX])
@pytest.mark.parametrize("axis", [0, 1])
def test_scan(op: Op, axis: int) -> None:
    check(lambda a: G.scan(op, a, axis), normal(3, 5))


def test_scan_mul_with_zeros() -> None:
    check(lambda a: G.scan(Op.MUL, a, 0), np.array([2.0, 0.0, 3.0, 0.0, 5.0, 1.5]))
    check(lambda a: G.scan(Op.MUL, a, 0), np.array([3.0]))


def test_cast_through_and_stop() -> None:
    x = leaf((3,), float32)
    wide = G.cast(x, float64)
    (grad,) = gradient([wide], [one(wide)], [x])
    assert grad is not None and grad.dtype is float32
    through_int = G.cast(G.cast(x, int32), float32)
    assert gradient([through_int], [one(through_int)], [x]) == [None]
    mask = G.cast(G.compute(Op.LT, x, one(x)), float32)
    assert gradient([mask], [one(mask)], [x]) == [None]


VIEWS: dict[str, Callable[[Node], Node]] = {
    "reshape": lambda x: V.reshape(x, (2, 6, 2)),
    "permute": lambda x: V.permute(x, (2, 0, 1)),
    "expand": lambda x: V.expand(V.reshape(x, (4, 1, 6)), (4, 3, 6)),
    "pad": lambda x: V.pad(x, ((1, 0), (0, 2), (0, 0))),
    "shrink": lambda x: V.shrink(x, ((0, 1), (1, 3), (2, 3))),
    "flip": lambda x: V.flip(x, (0, 2)),
    "window": lambda x: V.window(x, 2, 2),
}


@pytest.mark.parametrize("name", VIEWS)
def test_view(name: str) -> None:
    check(lambda a: squared(VIEWS[name](a)), normal(2, 3, 4))


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_window(size: int, stride: int, dilation: int) -> None:
    check(lambda a: squared(V.window(a, 1, size, stride, dilation)), normal(2, 14, 2), second=size < 4)


def test_window_longer_than_its_data_needs() -> None:
    check(lambda a: squared(V.window(a, 0, 3, 4, 1)), normal(13))
    check(lambda a: squared(V.window(a, 0, 3, 2, 1)), normal(10))


def conv(x: Node, weight: Node, stride: int = 1, dilation: int = 1, padding: int = 1) -> Node:
    """y[n, o, h, w] = Σ over c, k, m of x[n, c, h·stride + k·dilation, …]·weight[o, c, k, m]."""
    n, c = x.shape[:2]
    o, _, k, m = weight.shape
    padded = V.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    taps = V.window(V.window(padded, 2, k, stride, dilation), 3, m, stride, dilation)
    h, w = taps.shape[2:4]
    wide = V.expand(V.reshape(taps, (n, 1, c, h, w, k, m)), (n, o, c, h, w, k, m))
    kernel = V.expand(V.reshape(weight, (1, o, c, 1, 1, k, m)), (n, o, c, h, w, k, m))
    return V.reshape(G.reduce(Op.ADD, G.compute(Op.MUL, wide, kernel), (2, 5, 6)), (n, o, h, w))


@pytest.mark.parametrize(("stride", "dilation", "padding"), [(1, 1, 1), (2, 1, 1), (3, 2, 2), (2, 2, 0)])
def test_convolution(stride: int, dilation: int, padding: int) -> None:
    check(
        lambda x, w: squared(conv(x, w, stride, dilation, padding)),
        normal(1, 2, 6, 7),
        normal(2, 2, 3, 2),
        second=stride == 2,
    )


def test_convolution_backward_is_one_reduction_with_clean_loads() -> None:
    """dx sums over (taps, output channels) at once, and no index of it has a division left."""
    x, weight = leaf((2, 3, 8, 8)), leaf((4, 3, 3, 3))
    y = conv(x, weight)
    seed = G.buffer_leaf(None, float64, y.shape, "test")
    (grad,) = gradient([y], [seed], [x])
    assert grad is not None
    nodes = G.toposort([grad])
    sums = [node for node in nodes if node.op is Op.REDUCE]
    assert len(sums) == 1
    index: list[Any] = [axis(f"i{k}", size) for k, size in enumerate(sums[0].sources[0].shape)]
    node = sums[0].sources[0]
    pending = [(node, tuple(index))]
    reads = []
    while pending:
        node, index = pending.pop()  # type: ignore[assignment]
        if not node.sources:
            reads.append((node, index))
        elif node.op is Op.MUL:
            pending.extend((source, index) for source in node.sources)
        else:
            below, _ = V.source_index(node, index)
            pending.append((node.sources[0], tuple(below)))
    assert {node for node, _ in reads} == {seed, weight}
    for _, position in reads:
        assert "//" not in str(position) and "%" not in str(position), position


def test_strided_convolution_backward_reduces_once_per_phase() -> None:
    x, weight = leaf((1, 2, 9, 9)), leaf((2, 2, 3, 3))
    y = conv(x, weight, stride=2)
    (grad,) = gradient([y], [G.buffer_leaf(None, float64, y.shape, "test")], [x])
    assert grad is not None
    assert sum(node.op is Op.REDUCE for node in G.toposort([grad])) == 4


INDEX = np.array([[0, 2, 2], [3, 0, -1], [1, 9, 2]])


@pytest.mark.parametrize("axis", [0, 1])
def test_gather(axis: int) -> None:
    def function(x: Node) -> Node:
        index = index_node(INDEX if axis == 0 else INDEX.T[:, :2].T)
        return squared(G.gather(x, index, axis))

    shape = (4, 3) if axis == 0 else (2, 4)
    check(function, normal(*shape))


def index_node(values: Any) -> Node:
    """An integer array as a graph of constants, so that the helpers need no memory."""
    flat = np.asarray(values).reshape(-1)
    places = G.iota((len(flat),), 0)
    result = G.const(0, int32, (len(flat),))
    for place, value in enumerate(flat):
        here = G.compute(Op.NE, places, G.const(place, int32, (len(flat),)))
        result = G.compute(Op.WHERE, here, result, G.const(int(value), int32, (len(flat),)))
    return V.reshape(result, np.asarray(values).shape)


@pytest.mark.parametrize("op", [None, Op.ADD, Op.MUL, Op.MAX])
def test_scatter(op: Op | None) -> None:
    index = index_node(INDEX)
    check(lambda a, b: squared(G.scatter(a, index, b, 0, op)), normal(4, 3), normal(3, 3))


@pytest.mark.parametrize("zeros", [1, 2])
def test_scatter_mul_with_zeros(zeros: int) -> None:
    values = positive(4)
    values[:zeros] = 0
    index = index_node(np.array([1, 1, 1, 0]))
    check(lambda a, b: G.scatter(a, index, b, 0, Op.MUL), positive(2), values, second=False)


def test_scatter_max_shares_ties() -> None:
    a, b = leaf((2,)), leaf((3,))
    node = G.scatter(a, index_node(np.array([0, 0, 1])), b, 0, Op.MAX)
    grads = gradient([node], [G.const(6, float64, (2,))], [a, b])
    got = evaluate(list(grads), {a: np.array([1.0, 0.0]), b: np.array([1.0, 1.0, 5.0])})
    np.testing.assert_array_equal(got[0], [2, 0])
    np.testing.assert_array_equal(got[1], [2, 2, 6])


@pytest.mark.parametrize(
    "region",
    [None, ((1, 2, 1), (0, 3, 2)), ((0, 4, 1), (1, 2, 3)), ((3, 2, -2), (4, 3, -1)), ((0, 1, 1), (0, 1, 3))],
)
def test_assign(region: tuple[tuple[int, int, int], ...] | None) -> None:
    shape = (4, 5) if region is None else tuple(count for _, count, _ in region)

    def function(a: Node, b: Node) -> Node:
        return squared(G.assign(squared(a), b, region))

    target, value = normal(4, 5), normal(*shape)
    if region is None:
        check(lambda b: squared(G.assign(G.const(0, float64, (4, 5)), b)), value)
    else:
        check(function, target, value)


def test_detach_and_own_leaf_stop() -> None:
    x = leaf((3,))
    stopped = G.compute(Op.ADD, squared(x), G.detach(squared(x)))
    (grad,) = gradient([stopped], [one(stopped)], [x])
    assert grad is not None
    np.testing.assert_allclose(evaluate([grad], {x: np.array([1.0, 2.0, 3.0])})[0], [2, 4, 6])
    own = G.own_leaf(squared(x))
    assert gradient([squared(own)], [one(own)], [x]) == [None]
    assert gradient([squared(own)], [one(own)], [own])[0] is not None


def test_intermediate_targets_and_several_outputs() -> None:
    x = leaf((3,))
    y = squared(x)
    z = squared(y)
    grads = gradient([z, y], [one(z), one(y)], [y, x])
    value = np.array([1.0, 2.0, 3.0])
    got = evaluate(list(grads), {x: value})
    np.testing.assert_allclose(got[0], 2 * value**2 + 1)
    np.testing.assert_allclose(got[1], (2 * value**2 + 1) * 2 * value)


def test_through_realized_nodes() -> None:
    x = leaf((3,))
    y = squared(x)
    z = squared(y)
    y.buffer = object()
    (grad,) = gradient([z], [one(z)], [x])
    assert grad is not None and y in G.toposort([grad])


def test_half_sums_accumulate_in_float32() -> None:
    x = leaf((1, 4), float16)
    y = V.expand(x, (4096, 4))
    (grad,) = gradient([y], [one(y)], [x])
    assert grad is not None and grad.dtype is float16
    assert any(node.op is Op.REDUCE and node.dtype is float32 for node in G.toposort([grad]))


def test_deep_graph_needs_no_recursion() -> None:
    x = leaf((1,))
    y = x
    for _ in range(20000):
        y = G.compute(Op.ADD, y, x)
    assert gradient([y], [one(y)], [x])[0] is not None


class Wrong:
    """A template whose gradient has a wrong shape."""

    name = "mine"

    def gradient(self, node: Node, grad: Node) -> list[Node]:
        return [G.const(1, float64, (2,))]


def test_errors() -> None:
    x = leaf((3,))
    with pytest.raises(ShapeError, match=r"seed float64\[3\], got float64\[2\]"):
        gradient([squared(x)], [G.const(1, float64, (2,))], [x])
    node = G.custom(Wrong(), (x,), float64, (3,))
    with pytest.raises(GradientError, match=r"mine: expected a gradient float64\[3\], got float64\[2\]"):
        gradient([node], [one(node)], [x])


def test_constants_take_no_part() -> None:
    x = leaf((3,))
    assert gradient([x], [one(x)], [leaf((2,))]) == [None]
    assert G.const(True, bool_).arg is True and constant(3).arg == 3
