"""A plan never changes what is computed: sums of small whole numbers under plans of random sizes, exact in
float32 in whatever order they are added."""

from __future__ import annotations

import numpy as np
import pytest
from codegen_case import execute, reduced
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from petaflop.errors import CompileError
from petaflop.graph.ops import Op
from petaflop.ir.plan import Nest, Plan, Split, SplitReduce

SIZES = st.integers(1, 150)
TILES = st.sampled_from(
    [
        (),
        (("vector", 4),),
        (("vector", 16),),
        (("unroll", 8), ("vector", 4)),
        (("unroll", 64), ("vector", 16)),
        (("unroll", 2),),
    ]
)
quietly = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def summed(rows: int, columns: int, plan: Plan) -> bool:
    """Whether the column sums come out exact."""
    x = np.random.default_rng(rows * columns).integers(-9, 9, (rows, columns)).astype(np.float32)
    output = np.full(columns, np.nan, np.float32)
    execute(reduced((rows, columns), (0,), Op.ADD), [x], [output], plan)
    return bool(np.array_equal(output, x.sum(0)))


@quietly
@given(st.integers(1, 700), st.integers(1, 5), SIZES, SIZES, SIZES, TILES)
@example(700, 3, 87, 128, 1, (("unroll", 64), ("vector", 16)))
def test_runs_that_start_between_tiles(
    rows: int, columns: int, run: int, block: int, chunk: int, tile: tuple[tuple[str, int], ...]
) -> None:
    """Runs, blocks and tiles of a reduce axis whose sizes do not divide one another."""
    partial = Nest((0,), (), (Split("i0", (("block", block), *tile)), Split("i0_part", (("thread", chunk),))))
    merge = Nest((1,), (), (Split("i0_part", tile),))
    assert summed(rows, columns, Plan("runs", (partial, merge), (SplitReduce(0, "i0", run),)))


@quietly
@given(st.integers(1, 40), st.integers(1, 300), SIZES, SIZES, TILES, st.sampled_from(["peel", "mask"]))
def test_tasks_that_start_between_tiles(
    rows: int, columns: int, chunk: int, serial: int, tile: tuple[tuple[str, int], ...], edge: str
) -> None:
    """The same of a parallel axis, cut into tasks and loops, with either edge."""
    levels = (("thread", chunk), ("serial", serial), *tile)
    assert summed(rows, columns, Plan("tasks", (Nest((0,), (), (Split("i1", levels, edge),)),)))


def test_lanes_that_no_tree_can_merge() -> None:
    plan = Plan("three", (Nest((0,), (), (Split("i0", (("unroll", 3),)),)),))
    with pytest.raises(CompileError, match="expected a power of two of lanes of i0, got 3"):
        summed(10, 1, plan)
