"""Memory that is shared, overwritten, reused, empty or of many axes, and many threads that use it at once."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petaflop import Tensor
from petaflop.dtype import DTYPES, DType, float32, int32
from petaflop.graph import view
from petaflop.graph.node import (
    Node,
    assign,
    cast,
    compute,
    const,
    gather,
    iota,
    realize,
    reduce,
    scan,
    scatter,
)
from petaflop.graph.ops import Op
from petaflop.realize import from_host, realize_nodes, to_host
from petaflop_conformance.case import Case
from petaflop_conformance.layers import matmul, number
from petaflop_conformance.values import generator, ordinary

pytestmark = [pytest.mark.level("full"), pytest.mark.requires("float32", "int32", "bool")]

Array = np.ndarray[Any, Any]


# ---- assignments and aliases ----


def part_of(random: np.random.Generator, size: int, length: int) -> slice:
    """A slice of that many elements, forwards or backwards, with or without gaps."""
    step = int(random.choice([1, 1, 2, -1]))
    span = (length - 1) * abs(step)
    start = int(random.integers(size - span)) + (span if step < 0 else 0)
    stop = start + length * step
    return slice(start, None if stop < 0 else stop, step)


@pytest.mark.parametrize("seed", range(4))
def test_slices_assigned_from_slices(device: str, seed: int) -> None:
    """A dozen writes in place, each from a part of the same memory that may overlap it, as NumPy does it."""
    random = generator("slices", seed)
    array = random.integers(-100, 100, (24, 3)).astype(np.int32)
    tensor, kept = Tensor(array.copy(), device=device), []
    for step in range(12):
        length = int(random.integers(1, 10))
        target, source = part_of(random, 24, length), part_of(random, 24, length)
        if step % 4 == 0:
            kept.append((tensor[source], array[source].copy()))
        tensor[target] = tensor[source] * 2 + 1
        array[target] = array[source] * 2 + 1
        if step % 3 == 0:
            tensor.realize()
        array %= 1000
        tensor = tensor % 1000
    np.testing.assert_array_equal(tensor.numpy(), array)
    for old, expected in kept:
        np.testing.assert_array_equal(old.numpy(), expected)


@pytest.mark.parametrize("name", ["float32", "uint8", "bool", "float16"])
def test_old_versions_keep_their_contents(device: str, name: str, backend: Any) -> None:
    """What was made of a tensor before an assignment reads as it was, however late it is computed."""
    if name not in backend.capabilities.dtypes:
        pytest.skip(f"not declared: {name}")
    array = ordinary(DTYPES[name], (16,), "version")
    tensor = Tensor(array.copy(), device=device).realize()
    kept = []
    for step in range(5):
        kept.append((tensor.flip(0), array[::-1].copy()))
        new = ordinary(DTYPES[name], (4,), "new", step)
        tensor[step * 2 : step * 2 + 4] = Tensor(new, device=device)
        array[step * 2 : step * 2 + 4] = new
        if step % 2:
            tensor.realize()
    assert tensor.numpy().tobytes() == array.tobytes()
    for old, expected in kept:
        assert old.numpy().tobytes() == expected.tobytes()


def test_one_memory_under_many_views(case: Case) -> None:
    """Results that are views of one leaf, and of each other, next to what is computed from them."""
    x = case.leaf(ordinary(float32, (6, 8), "shared"))
    turned, rows = view.permute(x, (1, 0)), view.shrink(x, ((1, 4), (0, 8)))
    wide = view.expand(view.shrink(x, ((0, 1), (0, 8))), (6, 8))
    case.check(x, turned, rows, wide, compute(Op.ADD, x, wide), view.reshape(turned, (48,)))


def test_the_same_input_twice(case: Case) -> None:
    """One buffer as two arguments, read at other places."""
    x = case.leaf(ordinary(float32, (9, 9), "twice"))
    case.check(matmul(x, x), compute(Op.ADD, x, view.permute(x, (1, 0))), matmul(x, view.flip(x, (0, 1))))


# ---- reuse ----


def test_temporaries_are_laid_over_each_other(case: Case) -> None:
    """A long graph of large values of many sizes that live for a while, in memory that is used again."""
    random = generator("reuse")
    value = case.leaf(ordinary(float32, (48, 40), "reuse"))
    alive, results = [value], []
    for step in range(12):
        rows, columns = (int(size) for size in value.shape)
        scaled = compute(Op.MUL, value, number(2.0**-6, value))
        value = matmul(scaled, case.leaf(ordinary(float32, (columns, 16 + 8 * (step % 5)), "w", step)))
        older = alive[int(random.integers(len(alive)))]
        total = reduce(Op.ADD, older, (0, 1))
        value = compute(Op.ADD, value, view.expand(compute(Op.MUL, total, number(1e-4, total)), value.shape))
        alive = [*alive[-3:], value]
        if step % 3 == 0:
            results.append(value)
        assert rows
    case.check(*results, value)


def test_memory_that_is_freed_while_others_live(case: Case) -> None:
    """Buffers of a few sizes come and go in no order; those that stay keep their contents."""
    random = generator("freed")
    alive: list[tuple[Node, bytes]] = []
    for step in range(60):
        size = (100, 1000, 5000)[int(random.integers(3))]
        node = compute(
            Op.MUL, from_host(ordinary(float32, (size,), step), case.device), const(3.0, float32, (size,))
        )
        realize_nodes([node], case.device)
        alive.append((node, to_host(node).tobytes()))
        if len(alive) > 8:
            del alive[int(random.integers(len(alive)))]
            gc.collect(0)
    for node, contents in alive:
        assert to_host(node).tobytes() == contents


# ---- empty, and of many axes ----


def operations_on(x: Node, n: Node) -> list[Node]:
    """Everything that can be done with a value that has an axis of size 0, along its first axis."""
    index = view.expand(const(0, int32, (1,) * len(x.shape)), x.shape)
    last = len(x.shape) - 1
    found = [compute(op, x, x) for op in (Op.ADD, Op.MUL, Op.DIV, Op.MAX, Op.LT, Op.NE)]
    found += [compute(op, x) for op in (Op.SQRT, Op.EXP2, Op.LOG2, Op.SIN)]
    found += [compute(Op.AND, n, n), cast(x, int32), cast(n, float32)]
    for op in (Op.ADD, Op.MUL, Op.MAX):
        found += [reduce(op, x, (last,)), reduce(op, n, (0,)), reduce(op, x, tuple(range(last + 1)))]
        found += [scan(op, x, last), scatter(n, index, n, 0, op)]
    found += [
        gather(x, index, last),
        assign(compute(Op.ADD, x, x), x, tuple((0, size, 1) for size in x.shape)),
    ]
    found += [
        view.flip(x, (0,)),
        view.pad(x, ((1, 2),) * (last + 1)),
        realize(view.permute(x, (last, *range(last)))),
    ]
    return found


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)], ids=str)
def test_empty(case: Case, shape: tuple[int, ...]) -> None:
    """No element: every operation gives what its definition says, and a sum of nothing is 0."""
    x, n = case.leaf(np.zeros(shape, np.float32)), case.leaf(np.zeros(shape, np.int32))
    case.check(*operations_on(x, n))


def test_empty_beside_full(case: Case) -> None:
    """A kernel that runs over nothing, among others that do not."""
    x, empty = case.leaf(ordinary(float32, (5,), "full")), case.leaf(np.zeros((0,), np.float32))
    case.check(compute(Op.ADD, x, x), compute(Op.ADD, empty, empty), reduce(Op.ADD, empty, (0,)))
    joined = compute(Op.ADD, view.pad(empty, ((3, 2),)), x)
    case.check(joined, reduce(Op.ADD, joined, (0,)))


@pytest.mark.parametrize("rank", [12, 24, 32])
def test_huge_rank(case: Case, rank: int) -> None:
    """As many axes as NumPy has, most of them of size 1."""
    shape = tuple(2 if axis % (rank // 5) == 0 else 1 for axis in range(rank))
    x = case.leaf(ordinary(float32, shape, "rank"))
    turned = view.permute(x, tuple(reversed(range(rank))))
    wide = view.expand(x, tuple(3 if axis == 1 else size for axis, size in enumerate(shape)))
    summed = reduce(Op.ADD, compute(Op.MUL, x, x), tuple(range(0, rank, 2)))
    flipped = view.flip(x, tuple(range(rank)))
    case.check(
        compute(Op.ADD, x, flipped),
        turned,
        reduce(Op.MAX, wide, (0, 1)),
        summed,
        iota(shape, 0),
        scan(Op.ADD, x, 0),
    )


@pytest.mark.parametrize("dtype", [float32, int32], ids=str)
def test_one_long_axis(case: Case, dtype: DType, count: Callable[[int], int]) -> None:
    """More elements than fit any unit of launching."""
    size = 100_000 * count(1) + 7
    x = case.leaf(ordinary(dtype, (size,), "long"))
    case.check(compute(Op.ADD, x, view.flip(x, (0,))), scan(Op.MAX, x, 0))


# ---- threads ----


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run `work(number)` in that many threads that start together; the first error is raised."""
    ready, errors = threading.Barrier(count), []

    def run(number: int) -> None:
        ready.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 – it is raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def work_of(device: str, number: int, step: int) -> bytes:
    x = from_host(ordinary(float32, (17 + number, 23), "threads", step), device)
    doubled = compute(Op.ADD, x, const(float(number), float32, x.shape))
    nodes = [reduce(Op.ADD, compute(Op.MUL, doubled, x), (1,)), view.flip(doubled, (0,)), compute(Op.SIN, x)]
    realize_nodes(nodes, device)
    return b"".join(to_host(node).tobytes() for node in nodes)


def test_threads_with_graphs_of_their_own(device: str) -> None:
    """Graphs built, compiled and run by six threads at once give the bits that one thread gives."""
    expected = {(number, step): work_of(device, number, step) for number in range(6) for step in range(3)}

    def work(number: int) -> None:
        for step in range(3):
            for _ in range(3):
                assert work_of(device, number, step) == expected[number, step]

    in_threads(6, work)


def test_threads_that_compile_at_once(device: str) -> None:
    """Kernels that nobody has compiled before, asked for by all threads at the same time."""
    results: dict[int, bytes] = {}

    def work(number: int) -> None:
        x = from_host(ordinary(float32, (29, 31), "new"), device)
        node = reduce(Op.ADD, compute(Op.EXP2, compute(Op.MUL, x, const(0.123, float32, x.shape))), (0,))
        realize_nodes([node], device)
        results[number] = to_host(node).tobytes()

    in_threads(6, work)
    assert len(results) == 6 and len(set(results.values())) == 1


def test_threads_that_share_a_graph(device: str) -> None:
    """One leaf and one node that all threads ask for; each also has something of its own made of it."""
    x = from_host(ordinary(float32, (64, 64), "shared"), device)
    shared = compute(Op.SIN, compute(Op.ADD, x, view.permute(x, (1, 0))))
    seen: dict[int, tuple[bytes, bytes]] = {}

    def work(number: int) -> None:
        own = reduce(Op.MAX, compute(Op.MUL, shared, const(number + 1.0, float32, shared.shape)), (0,))
        realize_nodes([own], device)
        seen[number] = to_host(shared).tobytes(), to_host(own).tobytes()

    in_threads(5, work)
    values = to_host(shared)
    for thread, (whole, own) in seen.items():
        assert whole == values.tobytes()
        assert own == (values * np.float32(thread + 1)).max(0, keepdims=True).tobytes()


def test_threads_that_allocate_and_free(device: str) -> None:
    """Memory of the same sizes comes and goes in every thread; nobody sees what another wrote."""

    def work(number: int) -> None:
        for step in range(15):
            size = (64, 4096, 100_000)[step % 3]
            node = from_host(np.full(size, number * 100 + step, np.int32), device)
            twice = compute(Op.ADD, node, node)
            realize_nodes([twice], device)
            got = to_host(twice)
            assert (got == 2 * (number * 100 + step)).all()

    in_threads(5, work)
