"""Generated code on this CPU against NumPy: every kind of block and every dtype, by the default and the naive
plan."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from codegen_case import (
    Array,
    allowed,
    axes,
    both_plans,
    elementwise,
    execute,
    reads,
    reduced,
    sum_error,
    writes,
)
from kernels import backend

from petaflop.codegen.planner import default_plan
from petaflop.device.reference import cast_array
from petaflop.dtype import (
    DTYPES,
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    index,
    int8,
    int32,
    int64,
    uint8,
    uint32,
    uint64,
)
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, Variable, both, constant, greater_equal, less
from petaflop.ir.kernel import (
    Block,
    Kernel,
    Reduction,
    State,
    Store,
    Temporary,
    axis,
    load,
    reduction,
    state,
    value,
)

rng = np.random.default_rng(7)
FLOATS = (float16, bfloat16, float32, float64)
SHAPES = [(1,), (3,), (8,), (31,), (5, 7), (64, 33), (3, 4, 5), (70000,), (300, 301)]


def values_of(shape: tuple[int, ...], dtype: DType) -> Array:
    if dtype is bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype.is_integer:
        return rng.integers(dtype.min, dtype.max, shape, dtype=dtype.numpy, endpoint=True)
    return rng.standard_normal(shape).astype(dtype.numpy)


def same(got: Array, expected: Array) -> bool:
    return bool(np.array_equal(got, expected, equal_nan=got.dtype.kind == "f"))


# ---- elementwise ----


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_elementwise(shape: tuple[int, ...]) -> None:
    kernel = elementwise(shape, [float32] * 3, float32, lambda a, b, c: value(Op.ADD, value(Op.MUL, a, b), c))
    a, b, c = (values_of(shape, float32) for _ in range(3))
    fast, naive = both_plans(kernel, [a, b, c], np.zeros(shape, np.float32))
    assert same(fast, a * b + c)
    assert same(naive, a * b + c)


@pytest.mark.parametrize("shape", [(5, 7), (33, 64), (129, 1000)], ids=str)
def test_broadcast_and_transpose(shape: tuple[int, int]) -> None:
    i, j = axes(*shape)
    term = value(
        Op.ADD, value(Op.MUL, load("a", (j, i), float32), load("b", (j,), float32)), load("c", (i,), float32)
    )
    arguments = (reads("a", shape[::-1]), reads("b", shape[1:]), reads("c", shape[:1]), writes("o", shape))
    kernel = Kernel(arguments, ((Block((i, j), (Store("o", (i, j), term),)),),))
    a, b, c = values_of(shape[::-1], float32), values_of(shape[1:], float32), values_of(shape[:1], float32)
    for got in both_plans(kernel, [a, b, c], np.zeros(shape, np.float32)):
        assert same(got, a.T * b + c[:, None])


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if d is not bool_], ids=str)
@pytest.mark.parametrize("op", [Op.ADD, Op.MUL, Op.MAX, Op.LT, Op.NE])
def test_arithmetic_of_every_dtype(op: Op, dtype: DType) -> None:
    numpy_op = {Op.ADD: np.add, Op.MUL: np.multiply, Op.MAX: np.maximum, Op.LT: np.less, Op.NE: np.not_equal}[
        op
    ]
    result = bool_ if op in (Op.LT, Op.NE) else dtype
    kernel = elementwise((77,), [dtype] * 2, result, lambda a, b: value(op, a, b, dtype=result))
    a, b = values_of((77,), dtype), values_of((77,), dtype)
    b[::5] = a[::5]
    if dtype.is_float and dtype.itemsize > 1:
        a[3], b[4], a[5] = np.nan, np.nan, np.inf
    with np.errstate(all="ignore"):
        expected = numpy_op(a, b).astype(result.numpy)
    for got in both_plans(kernel, [a, b], np.zeros(77, result.numpy)):
        assert np.array_equal(got.astype(np.float64), expected.astype(np.float64), equal_nan=True)


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if d.is_integer], ids=str)
def test_integer_division_floors_and_never_traps(dtype: DType) -> None:
    kernel = elementwise((99,), [dtype] * 2, dtype, lambda a, b: value(Op.DIV, a, b))
    a, b = values_of((99,), dtype), values_of((99,), dtype)
    b[::3] = b[::3] % 7
    a[0], b[0], a[1], b[1] = dtype.min, dtype.max, dtype.min, 0
    if dtype.kind == "i":
        b[0] = -1
    with np.errstate(all="ignore"):
        expected = np.where(b == 0, 0, a // np.where(b == 0, 1, b))
    for got in both_plans(kernel, [a, b], np.zeros(99, dtype.numpy)):
        assert same(got[b != 0], expected[b != 0])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_float_division_and_root_are_correctly_rounded(dtype: DType) -> None:
    a, b = np.abs(values_of((200,), dtype)), values_of((200,), dtype)
    quotient = elementwise((200,), [dtype] * 2, dtype, lambda x, y: value(Op.DIV, x, y))
    root = elementwise((200,), [dtype], dtype, lambda x: value(Op.SQRT, x))
    for got in both_plans(quotient, [a, b], np.zeros(200, dtype.numpy)):
        assert same(got.astype(np.float64), (a / b).astype(np.float64))
    for got in both_plans(root, [a], np.zeros(200, dtype.numpy)):
        assert same(got.astype(np.float64), np.sqrt(a).astype(np.float64))


@pytest.mark.parametrize("target", DTYPES.values(), ids=str)
@pytest.mark.parametrize("source", DTYPES.values(), ids=str)
def test_cast(source: DType, target: DType) -> None:
    a = values_of((61,), source)
    if source.is_float:
        special = [
            0.0,
            -0.0,
            1.5,
            2.5,
            -2.5,
            300.7,
            -300.7,
            1e5,
            -1e5,
            464.0,
            465.0,
            2.0**-9,
            2.0**-10,
            3e-5,
            70000.0,
        ]
        special += [2.0**31, 2.0**63, -(2.0**63), 1e30, np.inf, -np.inf, np.nan]
        with np.errstate(all="ignore"):
            a[: len(special)] = np.array(special).astype(source.numpy)
    kernel = elementwise((61,), [source], target, lambda x: value(Op.CAST, x, dtype=target))
    with np.errstate(all="ignore"):
        expected = cast_array(a, target).astype(np.float64)
    for got in both_plans(kernel, [a], np.zeros(61, target.numpy)):
        assert np.array_equal(got.astype(np.float64), expected, equal_nan=True)


def test_float64_to_narrow_rounds_once() -> None:
    a = np.concatenate(
        [1 + 2.0**-11 + rng.uniform(-1, 1, 50) * 2.0**-40, 1 + 2.0**-8 + rng.uniform(-1, 1, 50) * 2.0**-40]
    )
    for dtype in (float16, bfloat16):
        kernel = elementwise((100,), [float64], dtype, lambda x, d=dtype: value(Op.CAST, x, dtype=d))
        step = 2.0**-dtype.mantissa
        expected = np.round(a / step) * step
        for got in both_plans(kernel, [a], np.zeros(100, dtype.numpy)):
            assert same(got.astype(np.float64), expected)


@pytest.mark.parametrize("source", [int32, uint32, int64, uint64], ids=str)
def test_integers_reach_bfloat16_with_one_rounding(source: DType) -> None:
    """Just above and below a tie of 8 bits: 2^n + 2^(n-8) rounds down, one more rounds up by 2^(n-7)."""
    places = [n for n in range(9, source.bits - 1) for _ in range(3)]
    ties = [2**n + 2 ** (n - 8) for n in places]
    numbers = [tie + (-1, 0, 1)[k % 3] for k, tie in enumerate(ties)]
    expected = [2**n + (2 ** (n - 7) if k % 3 == 2 else 0) for k, n in enumerate(places)]
    if source.kind == "i":
        numbers, expected = numbers + [-x for x in numbers], expected + [-x for x in expected]
    a = np.array(numbers, source.numpy)
    kernel = elementwise(a.shape, [source], bfloat16, lambda x: value(Op.CAST, x, dtype=bfloat16))
    for got in both_plans(kernel, [a], np.zeros(a.shape, bfloat16.numpy)):
        assert [int(x) for x in got.astype(np.float64)] == expected


def test_bitcast_and_bool_logic() -> None:
    a = values_of((40,), float32)
    kernel = elementwise((40,), [float32], uint32, lambda x: value(Op.BITCAST, x, dtype=uint32))
    for got in both_plans(kernel, [a], np.zeros(40, np.uint32)):
        assert same(got, a.view(np.uint32))
    p, q = values_of((40,), bool_), values_of((40,), bool_)
    for op, numpy_op in (
        (Op.ADD, np.logical_or),
        (Op.MUL, np.logical_and),
        (Op.AND, np.logical_and),
        (Op.NE, np.not_equal),
    ):
        kernel = elementwise((40,), [bool_] * 2, bool_, lambda x, y, o=op: value(o, x, y))
        for got in both_plans(kernel, [p, q], np.zeros(40, np.bool_)):
            assert same(got, numpy_op(p, q))


# ---- masks and indices ----


@pytest.mark.parametrize("dtype", [float32, int8, float16, bool_], ids=str)
@pytest.mark.parametrize(("before", "after"), [((1, 2), (3, 4)), ((0, 9), (0, 0))])
def test_pad_reads_only_inside(dtype: DType, before: tuple[int, int], after: tuple[int, int]) -> None:
    shape, size = (6, 37), (6 + before[0] + after[0], 37 + before[1] + after[1])
    i, j = axes(*size)
    y, x = i - before[0], j - before[1]
    inside = both(
        greater_equal(y, constant(0)),
        less(y, constant(6)),
        greater_equal(x, constant(0)),
        less(x, constant(37)),
    )
    block = Block((i, j), (Store("o", (i, j), load("a", (y, x), dtype, inside, 0)),))
    kernel = Kernel((reads("a", shape, dtype), writes("o", size, dtype)), ((block,),))
    a = values_of(shape, dtype)
    expected = np.pad(a, list(zip(before, after, strict=True)))
    for got in both_plans(kernel, [a], np.ones(size, dtype.numpy)):
        assert same(got, expected)


def test_fill_flip_and_stride() -> None:
    (i,) = axes(50)
    block = Block((i,), (Store("o", (i,), load("a", (i * 2,), float32, less(i, constant(20)), -1.5)),))
    kernel = Kernel((reads("a", (40,)), writes("o", (50,))), ((block,),))
    a = values_of((40,), float32)
    for got in both_plans(kernel, [a], np.zeros(50, np.float32)):
        assert same(got, np.concatenate([a[::2], np.full(30, -1.5, np.float32)]))
    flipped = Kernel(
        (reads("a", (50,)), writes("o", (50,))),
        ((Block((i,), (Store("o", (i,), load("a", (49 - i,), float32)),)),),),
    )
    a = values_of((50,), float32)
    for got in both_plans(flipped, [a], np.zeros(50, np.float32)):
        assert same(got, a[::-1])


def test_index_as_value_and_division_of_indices() -> None:
    i, j = axes(9, 30)
    term = value(Op.CAST, (i * 30 + j) // 7 + (i * 30 + j) % 7, dtype=int32)
    kernel = Kernel((writes("o", (9, 30), int32),), ((Block((i, j), (Store("o", (i, j), term),)),),))
    flat = np.arange(270).reshape(9, 30)
    for got in both_plans(kernel, [], np.zeros((9, 30), np.int32)):
        assert same(got, (flat // 7 + flat % 7).astype(np.int32))


def gathered(index_dtype: DType, table: int, rows: int, columns: int) -> Kernel:
    i, j = axes(rows, columns)
    at = value(Op.CAST, load("n", (i,), index_dtype), dtype=index)
    inside = both(greater_equal(at, constant(0)), less(at, constant(table)))
    block = Block((i, j), (Store("o", (i, j), load("a", (at, j), float32, inside, 0)),))
    arguments = (reads("a", (table, columns)), reads("n", (rows,), index_dtype), writes("o", (rows, columns)))
    return Kernel(arguments, ((block,),))


@pytest.mark.parametrize(("rows", "columns"), [(40, 1), (40, 64), (1000, 100)])
def test_gather_reads_zero_out_of_range(rows: int, columns: int) -> None:
    a = values_of((20, columns), float32)
    n = rng.integers(-5, 30, rows).astype(np.int32)
    n[0] = 2**31 - 1
    expected = np.where(((n >= 0) & (n < 20))[:, None], a[np.clip(n, 0, 19)], 0)
    for got in both_plans(gathered(int32, 20, rows, columns), [a, n], np.ones((rows, columns), np.float32)):
        assert same(got, expected)


def test_scatter_adds_in_index_order() -> None:
    n_axis, j = axis("n", 200), axis("j", 5)
    at = value(Op.CAST, load("n", (n_axis,), int64), dtype=index)
    inside = both(greater_equal(at, constant(0)), less(at, constant(7)))
    store = Store("o", (at, j), load("v", (n_axis, j), float32), inside, Op.ADD)
    block = Block((n_axis, j), (store,), ordered=(n_axis,))
    out = writes("o", (7, 5))
    kernel = Kernel((reads("n", (200,), int64), reads("v", (200, 5)), out), ((block,),))
    n, v = rng.integers(-1, 8, 200), values_of((200, 5), float32)
    expected = np.zeros((7, 5), np.float32)
    for at_row, row in zip(n, v, strict=True):
        if 0 <= at_row < 7:
            expected[at_row] += row
    for got in both_plans(kernel, [n, v], np.zeros((7, 5), np.float32)):
        assert same(got, expected)


# ---- reductions ----

REDUCED = [
    ((5, 7), (1,)),
    ((5, 7), (0,)),
    ((5, 7), (0, 1)),
    ((300, 1001), (1,)),
    ((300, 1001), (0,)),
    ((300, 1001), (0, 1)),
]
REDUCED += [
    ((1 << 21,), (0,)),
    ((5000, 24), (0,)),
    ((2, 200000), (1,)),
    ((4, 30, 50), (1,)),
    ((4, 30, 50), (0, 2)),
    ((600000, 3), (0,)),
]


@pytest.mark.parametrize(("shape", "over"), REDUCED, ids=str)
@pytest.mark.parametrize("kind", ["normal", "positive", "equal"])
def test_sum_is_within_its_bound(shape: tuple[int, ...], over: tuple[int, ...], kind: str) -> None:
    x = {"normal": rng.standard_normal, "positive": rng.random, "equal": lambda s: np.full(s, 0.1)}[kind](
        shape
    ).astype(np.float32)
    kernel = reduced(shape, over, Op.ADD)
    output = np.zeros([size for number, size in enumerate(shape) if number not in over], np.float32)
    execute(kernel, [x], [output], default_plan(kernel, backend().target))
    assert sum_error(output, x, over) <= allowed(x, over)


@pytest.mark.parametrize(("shape", "over"), REDUCED[:6], ids=str)
@pytest.mark.parametrize("dtype", [float32, float64, int32, uint8, float16], ids=str)
def test_maximum(shape: tuple[int, ...], over: tuple[int, ...], dtype: DType) -> None:
    x = values_of(shape, dtype)
    if dtype.is_float:
        x[0, 3] = np.nan
    output = np.zeros([size for number, size in enumerate(shape) if number not in over], dtype.numpy)
    for got in both_plans(reduced(shape, over, Op.MAX, dtype), [x], output):
        assert same(got, x.max(axis=over))


@pytest.mark.parametrize(
    ("dtype", "wide"), [(int8, int32), (float16, float32), (bfloat16, float32), (bool_, int64)], ids=str
)
def test_sums_in_a_wider_dtype(dtype: DType, wide: DType) -> None:
    x = values_of((40, 333), dtype)
    for over in ((0,), (1,), (0, 1)):
        output = np.zeros([size for number, size in enumerate(x.shape) if number not in over], wide.numpy)
        for got in both_plans(reduced(x.shape, over, Op.ADD, dtype, wide), [x], output):
            np.testing.assert_allclose(got, x.astype(np.float64).sum(axis=over), rtol=1e-4, atol=1e-4)


def argmax(rows: int, columns: int) -> Kernel:
    """(greatest value, least index where it stands) as a state of two."""
    i, j = axes(rows, columns)
    best, place = (
        State("best", float32, constant(float("-inf"), float32)),
        State("place", int32, constant(0, int32)),
    )

    def pick(v: Expr, n: Expr) -> tuple[Expr, Expr]:
        less_ = value(Op.LT, best.expr, v, dtype=bool_)
        return value(Op.WHERE, less_, v, best.expr), value(Op.WHERE, less_, n, place.expr)

    step = pick(load("x", (i, j), float32), value(Op.CAST, j, dtype=int32))
    above = value(Op.LT, best.expr, best.other, dtype=bool_)
    equal = value(Op.NE, value(Op.NE, best.expr, best.other, dtype=bool_), constant(1, bool_), dtype=bool_)
    earlier = value(Op.MUL, equal, value(Op.LT, place.other, place.expr, dtype=bool_))
    take = value(Op.ADD, above, earlier)
    merge = (value(Op.WHERE, take, best.other, best.expr), value(Op.WHERE, take, place.other, place.expr))
    fold = Reduction((j,), (best, place), step, merge)
    block = Block((i,), (Store("o", (i,), place.expr),), (fold,))
    return Kernel((reads("x", (rows, columns)), writes("o", (rows,), int32)), ((block,),))


@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (9, 100), (3, 300000), (200, 33)])
def test_state_of_two(rows: int, columns: int) -> None:
    x = rng.integers(-1000, 1000, (rows, columns)).astype(np.float32)
    for got in both_plans(argmax(rows, columns), [x], np.zeros(rows, np.int32)):
        assert same(got, x.argmax(axis=1).astype(np.int32))


@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize("op", [Op.ADD, Op.MUL, Op.MAX])
def test_scan(op: Op, along: int) -> None:
    shape = (19, 40)
    i, j = axes(*shape)
    term = load("x", (i, j), int32)
    fold = reduction("s", op, term, ((i, j)[along],), scan=True)
    block = Block(((j, i)[along],), (Store("o", (i, j), state("s", int32)),), (fold,))
    kernel = Kernel((reads("x", shape, int32), writes("o", shape, int32)), ((block,),))
    x = rng.integers(-3, 4, shape).astype(np.int32)
    numpy_op = {Op.ADD: np.add, Op.MUL: np.multiply, Op.MAX: np.maximum}[op]
    for got in both_plans(kernel, [x], np.zeros(shape, np.int32)):
        assert same(got, numpy_op.accumulate(x, axis=along, dtype=np.int32))


# ---- nests of several blocks ----


def normalized(rows: int, columns: int, along: int) -> Kernel:
    """x − mean, times the greatest, along an axis: three blocks that share the other axis."""
    i, j = axes(rows, columns)
    outer, inner = ((j, i), (i, j))[along]
    size = (rows, columns)[along]
    total = reduction("t", Op.ADD, load("x", (i, j), float32), (inner,))
    mean = value(Op.MUL, state("t", float32), constant(1.0 / size, float32))
    centred = value(
        Op.ADD,
        load("x", (i, j), float32),
        value(Op.MUL, load("mean", (outer,), float32), constant(-1.0, float32)),
    )
    top = reduction("m", Op.MAX, centred, (inner,))
    first = Block((outer,), (Store("mean", (outer,), mean),), (total,))
    second = Block((outer,), (Store("top", (outer,), state("m", float32)),), (top,))
    third = Block(
        (outer, inner), (Store("o", (i, j), value(Op.MUL, centred, load("top", (outer,), float32))),)
    )
    room = ((columns,), (rows,))[along]
    temporaries = (Temporary("mean", float32, room, 1), Temporary("top", float32, room, 1))
    return Kernel(
        (reads("x", (rows, columns)), writes("o", (rows, columns))), ((first, second, third),), temporaries
    )


@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize("shape", [(4, 9), (33, 128), (2, 300000), (300000, 2), (700, 700)], ids=str)
def test_nest_of_three_blocks(shape: tuple[int, int], along: int) -> None:
    x = values_of(shape, float32)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=along, keepdims=True)
    expected = centred * centred.max(axis=along, keepdims=True)
    for got in both_plans(normalized(*shape, along), [x], np.zeros(shape, np.float32)):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_whole_reduction_then_elementwise() -> None:
    shape = (500, 900)
    i, j = axes(*shape)
    r, c = axis("r", 500), axis("c", 900)
    fold = reduction("t", Op.MAX, load("x", (r, c), float32), (r, c))
    first = Block((), (Store("top", (), state("t", float32)),), (fold,))
    term = value(Op.DIV, load("x", (i, j), float32), load("top", (), float32))
    second = Block((i, j), (Store("o", (i, j), term),))
    kernel = Kernel(
        (reads("x", shape), writes("o", shape)), ((first, second),), (Temporary("top", float32, ()),)
    )
    x = values_of(shape, float32)
    for got in both_plans(kernel, [x], np.zeros(shape, np.float32)):
        assert same(got, x / x.max())


def test_unrelated_nests_are_one_launch() -> None:
    (i,), (j,) = axes(100000), (axis("j", 77),)
    first = Block((i,), (Store("o", (i,), value(Op.MUL, load("x", (i,), float32), constant(2.0, float32))),))
    second = Block((j,), (Store("p", (j,), value(Op.ADD, load("y", (j,), float32), constant(1.0, float32))),))
    kernel = Kernel(
        (reads("x", (100000,)), reads("y", (77,)), writes("o", (100000,)), writes("p", (77,))),
        ((first,), (second,)),
    )
    x, y = values_of((100000,), float32), values_of((77,), float32)
    o, p = np.zeros_like(x), np.zeros_like(y)
    execute(kernel, [x, y], [o, p], default_plan(kernel, backend().target))
    assert same(o, x * 2)
    assert same(p, y + 1)


def test_symbolic_size_serves_every_value() -> None:
    t = Variable("t", 1, 500)
    i, j = axis("i", t), axis("j", t)
    fold = reduction("s", Op.ADD, load("x", (i, j), float32), (j,))
    block = Block((i,), (Store("o", (i,), state("s", float32)),), (fold,))
    kernel = Kernel((reads("x", (t, t)), writes("o", (t,))), ((block,),), (), (t,))
    for size in (1, 7, 64, 333):
        x = values_of((size, size), float32)
        for got in both_plans(kernel, [x], np.zeros(size, np.float32), [size]):
            assert sum_error(got, x, (1,)) <= 20


def test_where_never_reads_what_it_does_not_select() -> None:
    (i,) = axes(64)
    far = load("x", (i * (1 << 40),), float32)  # far outside of memory for every i but 0
    term = value(Op.WHERE, less(i, constant(1)), far, constant(3.0, float32))
    kernel = Kernel((reads("x", (16,)), writes("o", (64,))), ((Block((i,), (Store("o", (i,), term),)),),))
    x = np.full(16, 2.0, np.float32)
    for got in both_plans(kernel, [x], np.zeros(64, np.float32)):
        assert same(got, np.array([2.0] + [3.0] * 63, np.float32))


def test_narrow_floats_round_after_every_operation() -> None:
    for dtype in (float16, bfloat16, DTYPES["float8_e4m3"], DTYPES["float8_e5m2"]):
        a, b, c = (values_of((64,), dtype) for _ in range(3))
        kernel = elementwise((64,), [dtype] * 3, dtype, lambda x, y, z: value(Op.ADD, value(Op.MUL, x, y), z))
        expected = ((a * b).astype(dtype.numpy) + c).astype(np.float64)
        for got in both_plans(kernel, [a, b, c], np.zeros(64, dtype.numpy)):
            assert same(got.astype(np.float64), expected)


def test_constants_of_every_dtype_and_nothing_to_read() -> None:
    for dtype in DTYPES.values():
        number = 1 if dtype is bool_ else 3
        kernel = elementwise((19,), [], dtype, lambda d=dtype, n=number: constant(n, d))
        for got in both_plans(kernel, [], np.zeros(19, dtype.numpy)):
            assert np.array_equal(got.astype(np.float64), np.full(19, number))


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
def test_a_product_plus_a_constant_is_rounded_once(dtype: DType) -> None:
    """... in float32, where the target has the instruction; float64, differences of products, and products
    with other readers are rounded as they are written."""
    if not backend().target.has_fma:
        pytest.skip("this CPU has no fused multiply-add")
    rng = np.random.default_rng(0)
    a = (1 + rng.random(1000) * 2**-10).astype(dtype.numpy)
    b = (1 / a).astype(dtype.numpy)

    def near_zero(x: Expr, y: Expr) -> Expr:
        return value(Op.ADD, value(Op.MUL, x, y), constant(-1.0, dtype))

    exact = [float(Fraction(float(x)) * Fraction(float(y)) - 1) for x, y in zip(a, b, strict=True)]
    if dtype is float64:
        exact = list(a * b - 1)
    kernel = elementwise((1000,), [dtype] * 2, dtype, near_zero)
    for got in both_plans(kernel, [a, b], np.zeros(1000, dtype.numpy)):
        assert same(got, np.array(exact).astype(dtype.numpy))

    def differs(x: Expr, y: Expr) -> Expr:
        return value(Op.ADD, value(Op.MUL, x, y), value(Op.MUL, value(Op.MUL, y, x), constant(-1.0, dtype)))

    def read_twice(x: Expr, y: Expr) -> Expr:
        one = value(Op.ADD, value(Op.MUL, x, y), constant(-1.0, dtype))
        return value(Op.MUL, value(Op.MUL, x, y), one)

    for make, expected in ((differs, a * b - b * a), (read_twice, (a * b) * (a * b - 1))):
        kernel = elementwise((1000,), [dtype] * 2, dtype, make)
        for got in both_plans(kernel, [a, b], np.ones(1000, dtype.numpy)):
            assert same(got, expected)


def test_a_difference_that_cancels_stays() -> None:
    """(h * c + y) + (x - h) * c is x * c + y on paper alone."""

    def apart(h: Expr, c: Expr, y: Expr, x: Expr) -> Expr:
        rest = value(Op.ADD, x, value(Op.MUL, h, constant(-1.0, float32)))
        return value(Op.ADD, value(Op.ADD, value(Op.MUL, h, c), y), value(Op.MUL, rest, c))

    h = np.tile(np.array([np.inf, 1e30, 3e38, 1.0], np.float32), 16)
    c, y, x = (np.full(64, number, np.float32) for number in (2.0, 1.0, 3.0))
    with np.errstate(all="ignore"):
        expected = (h * c + y) + (x - h) * c
    for got in both_plans(
        elementwise((64,), [float32] * 4, float32, apart), [h, c, y, x], np.zeros(64, np.float32)
    ):
        assert same(got, expected)
