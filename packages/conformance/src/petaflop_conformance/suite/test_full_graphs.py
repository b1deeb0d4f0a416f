"""Random fused graphs over every declared dtype, and what must make no difference to any graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petaflop import compiler
from petaflop import realize as driver
from petaflop.config import overrides
from petaflop.dtype import DTYPES, DType
from petaflop.graph import view
from petaflop.graph.node import Node, compute, reduce, scan, toposort
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Variable
from petaflop_conformance.case import Case
from petaflop_conformance.layers import matmul, number, softmax
from petaflop_conformance.soaking import soak
from petaflop_conformance.spelling import transplant
from petaflop_conformance.steps import steps_for
from petaflop_conformance.values import generator, ordinary
from petaflop_conformance.weaving import Weaver, chooser

pytestmark = pytest.mark.level("full")

NUMBERS = [dtype for dtype in DTYPES.values() if dtype.kind != "b"]


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(dtype, id=dtype.name, marks=pytest.mark.requires(dtype.name, "int32", "bool"))
        for dtype in NUMBERS
    ],
)
def test_random_graphs(backend_name: str, dtype: DType, count: Callable[[int], int]) -> None:
    """5 to 60 operations of every kind, most of them in this dtype, several graphs realized together."""
    first = 1_000_000 * (1 + NUMBERS.index(dtype))
    tally = soak(backend_name, backend_name, range(first, first + count(2)), main=dtype)
    assert tally.compared >= 0.8 * tally.elements, "the graphs are too wild: most elements may be anything"
    for finding in tally.findings:
        pytest.fail(f"{finding.message}\n\n{finding.script}", pytrace=False)


def grown(case: Case, backend: Any, seed: int, steps: int = 14) -> tuple[Node, dict[Node, Any]]:
    """A random graph on the device, and its inputs."""
    weaver = Weaver(
        chooser(np.random.default_rng(seed)), case.leaf, list(backend.capabilities.dtypes), case.policy
    )
    return weaver.grow(steps, steps_for), weaver.inputs


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.requires("float32", "int32", "bool")
def test_fused_is_unfused(case: Case, backend: Any, seed: int) -> None:
    """One kernel per operation, and as few as the scheduler makes of it: the same within the bound, and the
    same bits where nothing is rounded."""
    root, inputs = grown(case, backend, seed)
    expected, results = case.oracle(root), []
    for fuse in (True, False):
        leaves = {node: case.leaf(array) for node, array in inputs.items()}
        with overrides(fuse=fuse):
            results += case.check(*transplant([root], leaves))
    exact = ~expected.free & (expected.error == 0)
    assert results[0][exact].tobytes() == results[1][exact].tobytes()


@pytest.mark.parametrize("seed", range(10, 13))
@pytest.mark.requires("float32", "int32", "bool")
def test_realize_twice_is_once(case: Case, backend: Any, seed: int) -> None:
    """Asked for twice, or built anew and asked for: the same bits; after any part of it: within the bound."""
    root, inputs = grown(case, backend, seed)
    copies = [
        transplant([root], {node: case.leaf(array) for node, array in inputs.items()})[0] for _ in range(3)
    ]
    (first,) = case.run(copies[0])
    memory = copies[0].buffer
    (second,) = case.run(copies[0])
    (anew,) = case.run(copies[1])
    assert copies[0].buffer is memory
    assert first.tobytes() == second.tobytes() == anew.tobytes()
    inner = [node for node in toposort([copies[2]]) if node.buffer is None]
    case.run(inner[len(inner) // 2])
    case.check(copies[2])


@pytest.mark.requires("float32", "int32", "bool")
def test_disk_cache_changes_no_bit(
    case: Case, backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, filling it, and reading from it, each time as if this were a new process."""
    graphs, seen = [grown(case, backend, seed) for seed in (20, 21)], []
    for cache in (False, True, True):
        monkeypatch.setattr(driver, "_prepared", OrderedDict())
        monkeypatch.setattr(compiler, "_programs", {})
        with overrides(cache=cache, cache_dir=tmp_path):
            roots = [
                transplant([root], {node: case.leaf(array) for node, array in inputs.items()})[0]
                for root, inputs in graphs
            ]
            seen.append([array.tobytes() for array in case.run(*roots)])
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.requires("float32", "int32", "bool")
def test_independent_graphs_do_not_mix(case: Case, backend: Any) -> None:
    """Realized one by one, together, and together in another order."""
    graphs = [grown(case, backend, seed, 8) for seed in (30, 31, 32)]

    def fresh() -> list[Node]:
        return [
            transplant([root], {node: case.leaf(array) for node, array in inputs.items()})[0]
            for root, inputs in graphs
        ]

    case.check(*fresh())
    case.check(*reversed(fresh()))
    for node in fresh():
        case.check(node)


# ---- symbolic sizes ----

Step = Callable[[Node], Node]
ROWS: tuple[Step, ...] = (
    lambda x: compute(Op.ADD, x, view.flip(x, (0,))),
    lambda x: compute(Op.MUL, x, number(0.5, x)),
    lambda x: compute(Op.ADD, x, view.expand(reduce(Op.MAX, x, (0,)), x.shape)),
    lambda x: compute(Op.ADD, x, view.expand(reduce(Op.MAX, x, (1,)), x.shape)),
    lambda x: softmax(x, 1),
    lambda x: softmax(x, 0),
    lambda x: scan(Op.MAX, x, 0),
    lambda x: view.shrink(view.pad(x, ((1, 0), (0, 0))), ((0, x.shape[0]), (0, x.shape[1]))),
    lambda x: view.flip(x, (1,)),
)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.requires("float32")
def test_symbolic_is_concrete(case: Case, seed: int) -> None:
    """Random programs over rows whose number is a Variable, against the same over that very number."""
    choose = chooser(np.random.default_rng(seed))
    steps = [choose(ROWS) for _ in range(5)]
    x = case.leaf(ordinary(DTYPES["float32"], (40, 6), "rows", seed))
    weight = case.leaf(ordinary(DTYPES["float32"], (6, 5), "weight"))
    size = Variable("rows", 1, 40)

    def program(rows: Any) -> Node:
        y = view.reshape(view.shrink(x, ((0, rows), (0, 6))), (rows, 6))
        for step in steps:
            y = step(y)
        return matmul(y, weight) if seed % 2 else y

    for value in (7, 40):
        case.bind(size, value)
        (symbolic,) = case.check(program(size))
        (concrete,) = case.check(program(value))
        assert symbolic.shape == concrete.shape == (value, symbolic.shape[1])


# ---- views ----


def strided(random: np.random.Generator, array: Any, node: Node) -> tuple[Any, Node]:
    """One more view, in NumPy's strides and in the graph."""
    rank, shape = array.ndim, array.shape
    axis = int(random.integers(rank))
    kind = int(random.integers(7))
    if kind == 0:
        order = tuple(int(axis) for axis in random.permutation(rank))
        return array.transpose(order), view.permute(node, order)
    if kind == 1:
        return np.flip(array, axis), view.flip(node, (axis,))
    if kind == 2:
        start = int(random.integers(shape[axis]))
        ranges = tuple((start if k == axis else 0, size) for k, size in enumerate(shape))
        return array[tuple(slice(*pair) for pair in ranges)], view.shrink(node, ranges)
    if kind == 3 and array.size < 500:
        widths = tuple((1, 2) if k == axis else (0, 0) for k in range(rank))
        return np.pad(array, widths), view.pad(node, widths)
    if kind == 4 and array.size < 200 and rank < 5:
        wide = (*shape, 3)
        return np.broadcast_to(array[..., None], wide), view.expand(view.reshape(node, (*shape, 1)), wide)
    if kind == 5 and shape[axis] >= 4 and rank < 5:
        taps = np.lib.stride_tricks.sliding_window_view(array, 3, axis=axis)
        stepped = taps[tuple(slice(None, None, 2) if k == axis else slice(None) for k in range(rank))]
        return stepped, view.window(node, axis, 3, 2, 1)
    flat = (shape[0] * shape[1], *shape[2:]) if rank > 1 else shape
    return array.reshape(flat), view.reshape(node, flat)


@pytest.mark.parametrize("name", ["int32", "float32", "uint8"])
@pytest.mark.requires("int32", "float32")
def test_view_chains_are_strides(case: Case, name: str, backend: Any, count: Callable[[int], int]) -> None:
    """Any chain of views is the same chain in NumPy's strides, bit for bit; so is what is made of it."""
    if name not in backend.capabilities.dtypes:
        pytest.skip(f"not declared: {name}")
    random = generator("strides", name)
    pairs = []
    for _ in range(count(12)):
        shape = [(24,), (4, 6), (2, 3, 4), (5, 1, 3), (1,)][int(random.integers(5))]
        array = np.arange(1, 1 + int(np.prod(shape))).astype(name).reshape(shape)
        node = case.leaf(array)
        for _ in range(int(random.integers(2, 9))):
            array, node = strided(random, array, node)
        pairs.append((array, node))
    for (array, _), got in zip(pairs, case.run(*(node for _, node in pairs)), strict=True):
        assert got.shape == array.shape
        assert got.tobytes() == np.ascontiguousarray(array).tobytes()
    sums = [compute(Op.ADD, node, node) for _, node in pairs]
    for (array, _), got in zip(pairs, case.run(*sums), strict=True):
        assert got.tobytes() == (array + array).tobytes()
