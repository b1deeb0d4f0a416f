"""Copies, lifetimes, repeats: what goes in comes out, memory is given back, and nothing changes the second
time."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petaflop.config import overrides
from petaflop.device.buffer import memory_in_use
from petaflop.dtype import DTYPES, DType, float32, int32
from petaflop.graph import view
from petaflop.graph.node import compute, const, copy, realize, reduce
from petaflop.graph.ops import Op
from petaflop.realize import from_host, realize_nodes, to_host
from petaflop_conformance.case import Case
from petaflop_conformance.values import SHAPES, awkward, generator, ordinary

pytestmark = [pytest.mark.level("core"), pytest.mark.usefixtures("fusion")]

EACH = [
    pytest.param(dtype, id=dtype.name, marks=pytest.mark.requires(dtype.name)) for dtype in DTYPES.values()
]


@pytest.mark.parametrize("dtype", EACH)
def test_round_trip(case: Case, dtype: DType) -> None:
    """Every bit comes back, those of NaNs and denormals included."""
    if dtype.kind == "b":
        values = np.array([True, False, True])
    else:
        bits = generator(str(dtype)).integers(0, 256, 257 * dtype.itemsize, dtype=np.uint8)
        values = np.concatenate([awkward(dtype), bits.view(dtype.numpy)])
    case.same(case.leaf(values), values)
    case.same(copy(case.leaf(values), "reference"), values)


@pytest.mark.requires("float32")
def test_there_and_back(case: Case) -> None:
    """Computed on the device, copied to the reference device, computed there, and back again."""
    x = case.leaf(ordinary(float32, (5, 7), "there"))
    doubled = compute(Op.ADD, x, x)
    there = copy(doubled, "reference")
    back = copy(compute(Op.MUL, there, there), case.device)
    case.check(compute(Op.ADD, back, doubled))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.requires("float32")
def test_every_shape(case: Case, shape: tuple[int, ...]) -> None:
    values = ordinary(float32, shape, "shape")
    x = case.leaf(values)
    case.same(x, values)
    case.check(compute(Op.ADD, compute(Op.MUL, x, x), const(1.0, float32, shape)))


@pytest.mark.requires("float32")
def test_rank_of_twelve(case: Case) -> None:
    x = case.leaf(ordinary(float32, (2, 1) * 6, "deep"))
    case.check(compute(Op.ADD, x, view.flip(x, (0, 4, 10))), reduce(Op.ADD, x, (0, 2, 5, 10)))


@pytest.mark.requires("float32")
def test_non_contiguous_host_arrays(case: Case) -> None:
    """Transposed, reversed, strided and read-only arrays arrive as they are seen."""
    base = ordinary(float32, (6, 8), "host")
    frozen = base.copy()
    frozen.flags.writeable = False
    for array in (base.T, base[::-1], base[::2, 1::3], frozen, np.broadcast_to(base[:1], (4, 8))):
        case.same(case.leaf(array), np.ascontiguousarray(array))


@pytest.mark.requires("float32")
def test_the_device_keeps_its_own_copy(case: Case) -> None:
    values = ordinary(float32, (33,), "own")
    kept = values.copy()
    x = from_host(values, case.device)
    values[:] = -1
    assert to_host(x).tobytes() == kept.tobytes()
    got = to_host(x)
    got[:] = -2
    assert to_host(x).tobytes() == kept.tobytes()


@pytest.mark.requires("float32")
def test_realize_twice_is_realize_once(case: Case) -> None:
    x = case.leaf(ordinary(float32, (9, 9), "twice"))
    y = compute(Op.SIN, compute(Op.ADD, x, x))
    (first,) = case.run(y)
    memory = y.buffer
    (second,) = case.run(y)
    assert y.buffer is memory
    assert first.tobytes() == second.tobytes()
    case.check(y, compute(Op.MUL, y, y))


@pytest.mark.requires("float32")
def test_same_bits_each_time(case: Case) -> None:
    """A result depends on the inputs alone: not on time, not on threads, not on what memory held before."""
    values = ordinary(float32, (64, 1031), "determinism")
    seen = set()
    for _ in range(4):
        x = from_host(values, case.device)
        wide = compute(Op.EXP2, compute(Op.MUL, x, x))
        nodes = [reduce(Op.ADD, wide, (0, 1)), reduce(Op.ADD, x, (1,)), compute(Op.SIN, x)]
        realize_nodes(nodes, case.device)
        seen.add(b"".join(to_host(node).tobytes() for node in nodes))
    assert len(seen) == 1


@pytest.mark.requires("float32")
def test_outputs_do_not_share_memory(case: Case) -> None:
    """Results that are alive together keep their contents while others come and go."""
    x = case.leaf(ordinary(float32, (1000,), "alive"))
    kept = []
    for step in range(8):
        node = realize(compute(Op.ADD, x, const(float(step), float32, (1000,))))
        kept.append((node, case.run(node)[0]))
        case.run(compute(Op.MUL, node, node))
    for node, array in kept:
        assert to_host(node).tobytes() == array.tobytes()


@pytest.mark.requires("float32")
def test_memory_is_given_back(case: Case) -> None:
    def work() -> None:
        x = from_host(ordinary(float32, (1 << 16,), "freed"), case.device)
        y = compute(Op.MUL, compute(Op.ADD, x, x), x)
        realize_nodes([y, reduce(Op.ADD, y, (0,))], case.device)

    work()
    gc.collect()
    before = memory_in_use()
    for _ in range(5):
        work()
    gc.collect()
    assert memory_in_use() <= before


@pytest.mark.requires("float32")
def test_an_input_lives_as_long_as_it_is_needed(case: Case) -> None:
    """The graph holds its inputs: dropping every name of a leaf before realizing changes nothing."""
    values = ordinary(float32, (513,), "held")
    y = compute(Op.ADD, from_host(values, case.device), from_host(values, case.device))
    gc.collect()
    from_host(np.full(513, 9, np.float32), case.device)
    realize_nodes([y], case.device)
    assert to_host(y).tobytes() == (values + values).tobytes()


@pytest.mark.requires("float32", "int32")
def test_many_roots_together(case: Case) -> None:
    """Unrelated results of unrelated shapes, an input among them, and one result asked for twice."""
    x, n = case.leaf(ordinary(float32, (5, 6), "roots")), case.leaf(ordinary(int32, (17,), "roots"))
    total = reduce(Op.ADD, x, (1,))
    case.check(total, compute(Op.MUL, n, n), x, total, view.flip(n, (0,)), const(3, int32, (2,)))


@pytest.mark.requires("float32")
def test_order_of_independent_work_does_not_matter(case: Case) -> None:
    values = [ordinary(float32, (size,), "order") for size in (7, 33, 64)]
    results = []
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        nodes = {}
        for position in order:
            x = from_host(values[position], case.device)
            nodes[position] = compute(Op.SQRT, compute(Op.MUL, x, x))
        realize_nodes(list(nodes.values()), case.device)
        results.append(b"".join(to_host(nodes[position]).tobytes() for position in range(3)))
    assert len(set(results)) == 1


@pytest.mark.requires("float32")
def test_one_value_in_many_places(case: Case) -> None:
    """A diamond: one intermediate is used by two kernels, and by the result as well."""
    x = case.leaf(ordinary(float32, (8, 9), "diamond"))
    shared = compute(Op.EXP2, x)
    rows, columns = reduce(Op.ADD, shared, (1,)), reduce(Op.MAX, shared, (0,))
    case.check(compute(Op.MUL, view.expand(rows, x.shape), view.expand(columns, x.shape)), shared)


@given(data=st.data())
@pytest.mark.requires("int32")
def test_part_of_the_graph_first(case: Case, data: Any) -> None:
    """Realizing an intermediate before the result gives the same result."""
    values = ordinary(int32, data.draw(st.sampled_from(SHAPES)), "part")
    x = case.leaf(values)
    middle = compute(Op.ADD, compute(Op.MUL, x, x), x)
    result = compute(Op.MAX, view.flip(middle, tuple(range(values.ndim))), middle)
    if data.draw(st.booleans()):
        case.run(middle)
    case.check(result)


@pytest.mark.requires("float32")
def test_disk_cache_changes_nothing(case: Case, tmp_path: Any) -> None:
    """Without the cache, filling it and reading from it: the same bits."""
    values, seen = ordinary(float32, (77,), "cached"), []
    for cache in (False, True, True):
        with overrides(cache=cache, cache_dir=tmp_path):
            x = from_host(values, case.device)
            y = compute(Op.SIN, compute(Op.ADD, x, const(0.7071, float32, (77,))))
            realize_nodes([y], case.device)
            seen.append(to_host(y).tobytes())
    assert len(set(seen)) == 1
