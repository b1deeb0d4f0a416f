"""Views and chains of views, bit for bit as NumPy's strides have them; nothing is computed, so nothing may
differ."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petaflop.dtype import DTYPES, DType, float32, int32
from petaflop.graph import view
from petaflop.graph.node import Node, cast, compute, const, reduce
from petaflop.graph.ops import Op
from petaflop_conformance.case import Case
from petaflop_conformance.values import SHAPES, ordinary

pytestmark = [pytest.mark.level("core"), pytest.mark.usefixtures("fusion"), pytest.mark.requires("int32")]

LARGEST = 20_000
Draw = Callable[[Any], Any]


def numbered(case: Case, shape: tuple[int, ...]) -> Node:
    return case.leaf(np.arange(1, math.prod(shape) + 1, dtype=np.int32).reshape(shape))


def _reshape(node: Node, draw: Draw) -> Node:
    total = math.prod(node.shape)
    options = [shape for shape in SHAPES if math.prod(shape) == total]
    options += [(total,), (1, *node.shape), (*node.shape, 1), tuple(size for size in node.shape if size != 1)]
    options += [(total // k, k) for k in (2, 3, 4, 5, 7, 11) if total and total % k == 0]
    return view.reshape(node, draw(st.sampled_from(options)))


def _permute(node: Node, draw: Draw) -> Node:
    return view.permute(node, tuple(draw(st.permutations(range(len(node.shape))))))


def _expand(node: Node, draw: Draw) -> Node:
    shape = tuple(draw(st.sampled_from((1, 2, 3))) if size == 1 else size for size in node.shape)
    return view.expand(node, shape)


def _pad(node: Node, draw: Draw) -> Node:
    return view.pad(node, tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in node.shape))


def _shrink(node: Node, draw: Draw) -> Node:
    ranges = []
    for size in node.shape:
        start = draw(st.integers(0, size))
        ranges.append((start, draw(st.integers(start, size))))
    return view.shrink(node, tuple(ranges))


def _flip(node: Node, draw: Draw) -> Node:
    return view.flip(node, tuple(axis for axis in range(len(node.shape)) if draw(st.booleans())))


def _window(node: Node, draw: Draw) -> Node:
    roomy = [axis for axis, size in enumerate(node.shape) if size > 0]
    if not roomy:
        return node
    axis = draw(st.sampled_from(roomy))
    size = draw(st.integers(1, min(4, node.shape[axis])))
    most = (node.shape[axis] - 1) // (size - 1) if size > 1 else 3
    return view.window(node, axis, size, draw(st.integers(1, 3)), draw(st.integers(1, min(most, 3))))


STEPS = (_reshape, _permute, _expand, _pad, _shrink, _flip, _window)


def chain(node: Node, draw: Draw, steps: int) -> Node:
    """Up to `steps` random views, one on another, as long as they stay small."""
    for _ in range(steps):
        following = draw(st.sampled_from(STEPS))(node, draw)
        if math.prod(following.shape) <= LARGEST and len(following.shape) <= 7:
            node = following
    return node


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__.strip("_"))
@given(data=st.data())
def test_view(case: Case, step: Callable[[Node, Draw], Node], data: Any) -> None:
    shape = data.draw(st.sampled_from(SHAPES))
    case.check(step(numbered(case, shape), data.draw))


@given(data=st.data())
def test_chain_of_views(case: Case, data: Any) -> None:
    shape = data.draw(st.sampled_from(SHAPES))
    case.check(chain(numbered(case, shape), data.draw, data.draw(st.integers(2, 6))))


@given(data=st.data())
def test_views_inside_a_kernel(case: Case, data: Any) -> None:
    """x + views(x), padded back to one shape where need be: the same memory read in several ways at once."""
    source = numbered(case, data.draw(st.sampled_from(SHAPES)))
    seen = chain(source, data.draw, 4)
    other = view.flip(seen, tuple(range(len(seen.shape))))
    case.check(compute(Op.ADD, compute(Op.MUL, seen, const(3, int32, seen.shape)), other))


@given(data=st.data())
def test_views_of_a_computed_value(case: Case, data: Any) -> None:
    source = numbered(case, data.draw(st.sampled_from(SHAPES)))
    squared = compute(Op.MUL, source, source)
    case.check(chain(squared, data.draw, 4), squared)


@given(data=st.data())
def test_views_into_a_reduction(case: Case, data: Any) -> None:
    seen = chain(numbered(case, data.draw(st.sampled_from(SHAPES))), data.draw, 4)
    case.check(
        reduce(Op.ADD, seen, range(len(seen.shape))), reduce(Op.MAX, seen, range(len(seen.shape))[-1:])
    )


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(dtype, id=dtype.name, marks=pytest.mark.requires(dtype.name)) for dtype in DTYPES.values()],
)
def test_views_of_every_dtype(case: Case, dtype: DType) -> None:
    """Permuted, flipped, padded and broadcast in elements of every size."""
    values = ordinary(dtype, (3, 5, 4), "views")
    leaf = case.leaf(values)
    row = view.reshape(view.shrink(leaf, ((0, 1), (0, 1), (0, 4))), (4,))
    case.check(
        view.permute(leaf, (2, 0, 1)),
        view.flip(leaf, (0, 2)),
        view.pad(leaf, ((1, 0), (0, 2), (1, 1))),
        view.expand(view.reshape(row, (1, 4)), (6, 4)),
        view.shrink(leaf, ((1, 3), (2, 2), (0, 4))),
        view.window(leaf, 1, 3),
    )


@pytest.mark.parametrize("shape", [(129, 131), (300, 5), (33, 17, 40)], ids=str)
def test_large_permutation(case: Case, shape: tuple[int, ...]) -> None:
    """Axes longer than any tile, and ending inside one."""
    leaf = numbered(case, shape)
    orders = list(itertools.permutations(range(len(shape))))
    case.check(*(view.permute(leaf, order) for order in orders), view.flip(leaf, tuple(range(len(shape)))))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.requires("float32")
def test_pad_is_zero_everywhere_and_only_outside(case: Case, axis: int, before: int, after: int) -> None:
    """No element of the source is lost or doubled, and what is computed on the padding starts from zero."""
    leaf = case.leaf(ordinary(float32, (3, 4, 5), "pad") + np.float32(10))
    widths = tuple((before, after) if k == axis else (0, 0) for k in range(3))
    padded = view.pad(leaf, widths)
    case.check(padded, compute(Op.ADD, padded, const(1.0, float32, padded.shape)))


@pytest.mark.requires("float32")
def test_pad_after_a_function_that_is_not_zero_at_zero(case: Case) -> None:
    """pad(exp2(x)) is 0 outside, where exp2(pad(x)) would be 1."""
    leaf = case.leaf(ordinary(float32, (6,), "mask"))
    widths = ((2, 3),)
    case.check(view.pad(compute(Op.EXP2, leaf), widths), compute(Op.EXP2, view.pad(leaf, widths)))


@pytest.mark.requires("float32")
def test_padding_of_infinity_is_zero(case: Case) -> None:
    """A mask is a selection, not a multiplication: 0 · inf would be NaN."""
    leaf = case.leaf(np.array([np.inf, -np.inf, np.nan, 1.0], np.float32))
    padded = view.pad(leaf, ((2, 1),))
    case.check(padded, reduce(Op.ADD, view.pad(view.shrink(leaf, ((3, 4),)), ((2, 2),)), (0,)))


@pytest.mark.parametrize(
    "shapes", [((3, 1), (1, 4)), ((1,), (5,)), ((2, 1, 3), (2, 4, 1)), ((), (3,))], ids=str
)
def test_broadcast(case: Case, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape = np.broadcast_shapes(*shapes)
    nodes = []
    for each in shapes:
        node = numbered(case, each)
        aligned = view.reshape(node, (1,) * (len(shape) - len(each)) + each)
        nodes.append(view.expand(aligned, shape))
    case.check(compute(Op.ADD, *nodes), compute(Op.LT, *nodes))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.requires("float32")
def test_window(case: Case, size: int, stride: int, dilation: int) -> None:
    leaf = numbered(case, (2, 17))
    seen = view.window(leaf, 1, size, stride, dilation)
    case.check(seen, reduce(Op.ADD, cast(seen, float32), (2,)))
