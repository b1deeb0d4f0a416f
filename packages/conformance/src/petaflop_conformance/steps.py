"""The steps of which random graphs are made: one row per kind of value that a step can go on from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from petaflop.dtype import DType, bool_, float32
from petaflop.graph import view
from petaflop.graph.node import (
    Node,
    assign,
    bitcast,
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
from petaflop_conformance.weaving import MAX_SIZE, Step, Weaver, shape_of

__all__ = ["smooth_for", "steps_for"]


def steps_for(last: Node) -> Sequence[Step]:
    """What may come after a value."""
    if last.dtype is bool_:
        return _BOOLS
    return _FLOATS if last.dtype.is_float else _INTEGERS


def smooth_for(last: Node) -> Sequence[Step]:
    """What has a gradient everywhere, and keeps the dtype."""
    return _SMOOTH


def _axis(weaver: Weaver, node: Node) -> int:
    return int(weaver.choose(range(len(node.shape))))


# ---- elementwise ----


def _binary(op: Op) -> Step:
    def step(weaver: Weaver, last: Node) -> Node:
        pair = last, weaver.other(last)
        return compute(op, *(pair if weaver.choose((True, False)) else pair[::-1]))

    return op.value, step


def _unary(op: Op, prepared: Callable[[Weaver, Node], Node]) -> Step:
    return op.value, lambda weaver, last: compute(op, prepared(weaver, last))


def _divide(weaver: Weaver, last: Node) -> Node:
    if last.dtype.is_float:
        return compute(Op.DIV, last, weaver.positive(weaver.other(last)))
    divisors = (2, 3, 7, 16, 64) + ((-1, -4, -5) if last.dtype.is_signed else ())
    return compute(Op.DIV, last, const(weaver.choose(divisors), last.dtype, last.shape))


def _divide_leaves(weaver: Weaver, last: Node) -> Node:
    """A quotient of inputs, whose every bit is known."""
    a, b = weaver.leaf(last.dtype, shape_of(last)), weaver.leaf(last.dtype, shape_of(last), 1, 50)
    squared = compute(Op.ADD, compute(Op.MAX, b, const(0, b.dtype, b.shape)), const(1, b.dtype, b.shape))
    quotient = compute(Op.DIV, a, squared)
    weaver.shown.append(quotient)
    return compute(Op.MAX, quotient, last)


def _where(weaver: Weaver, last: Node) -> Node:
    bools = [node for node in weaver.pool if node.dtype is bool_ and node.shape == last.shape]
    if bools and weaver.choose((True, False)):
        condition = weaver.choose(bools)
    else:
        condition = compute(weaver.choose((Op.LT, Op.NE)), weaver.other(last), weaver.other(last))
    pair = last, weaver.other(last)
    return compute(Op.WHERE, condition, *(pair if weaver.choose((True, False)) else pair[::-1]))


# ---- along axes ----


def _narrowing(weaver: Weaver, last: Node, op: Op) -> tuple[Node, DType]:
    """What to fold, and in which dtype: narrow numbers are often added up in a wide one."""
    dtype = last.dtype
    if op is Op.ADD and dtype.is_float:
        wide = dtype.itemsize < 4 and float32 in weaver.dtypes and weaver.choose((True, True, False))
        return weaver.small(last, 4.0 if not wide else 60.0), float32 if wide else dtype
    return last, dtype


def _reduce(op: Op, keep: bool) -> Step:
    def step(weaver: Weaver, last: Node) -> Node:
        axes = weaver.choose([(axis,) for axis in range(len(last.shape))] + [tuple(range(len(last.shape)))])
        source, dtype = _narrowing(weaver, last, op)
        total = reduce(op, source, axes, dtype)
        if keep or math.prod(shape_of(total)) < 2:
            return view.expand(total, last.shape)
        kept = [size for axis, size in enumerate(shape_of(total)) if axis not in axes]
        return view.reshape(total, tuple(kept))

    return f"REDUCE {op}", step


def _scan(op: Op) -> Step:
    def step(weaver: Weaver, last: Node) -> Node:
        source, dtype = _narrowing(weaver, last, op)
        return scan(op, source, _axis(weaver, last), dtype)

    return f"SCAN {op}", step


# ---- views ----


def _flip(weaver: Weaver, last: Node) -> Node:
    return view.flip(last, (_axis(weaver, last),))


def _permute(weaver: Weaver, last: Node) -> Node:
    return view.permute(last, tuple(reversed(range(len(last.shape)))))


def _reshape(weaver: Weaver, last: Node) -> Node:
    size = math.prod(shape_of(last))
    splits = [factor for factor in (2, 3, 4, 5, 8) if size % factor == 0]
    shapes = [(size,), (1, size), *[(size // n, n) for n in splits], *[(n, size // n) for n in splits]]
    return view.reshape(last, weaver.choose(shapes))


def _shift(weaver: Weaver, last: Node) -> Node:
    """Moved along an axis, with zeros where it was."""
    axis = _axis(weaver, last)
    size = shape_of(last)[axis]
    by = weaver.choose((1, 2)) if size > 2 else 0
    ranges, widths = [(0, n) for n in shape_of(last)], [(0, 0)] * len(last.shape)
    ahead = weaver.choose((True, False))
    ranges[axis] = (by, size) if ahead else (0, size - by)
    widths[axis] = (0, by) if ahead else (by, 0)
    return view.pad(view.shrink(last, tuple(ranges)), tuple(widths))


def _window(weaver: Weaver, last: Node) -> Node:
    axis = _axis(weaver, last)
    size, stride = weaver.choose(((2, 1), (3, 1), (3, 2), (2, 2)))
    if shape_of(last)[axis] < size:
        return _flip(weaver, last)
    taps = view.window(last, axis, size, stride, 1)
    op = weaver.choose((Op.ADD, Op.MAX)) if last.dtype is not bool_ else Op.MAX
    folded = reduce(op, taps, (len(taps.shape) - 1,))
    return view.reshape(folded, shape_of(taps)[:-1])


def _expand(weaver: Weaver, last: Node) -> Node:
    """A new axis along which everything repeats, met by other values."""
    count = weaver.choose((2, 3))
    if math.prod(shape_of(last)) * count > MAX_SIZE or len(last.shape) > 3:
        return _flip(weaver, last)
    place = weaver.choose((0, len(last.shape)))
    shape = shape_of(last)
    flat = view.reshape(last, (*shape[:place], 1, *shape[place:]))
    return view.expand(flat, (*shape[:place], count, *shape[place:]))


def _broadcast(weaver: Weaver, last: Node) -> Node:
    """With a row or a column of another value, repeated."""
    shape, axis = shape_of(last), _axis(weaver, last)
    thin = tuple(1 if position == axis else size for position, size in enumerate(shape))
    row = view.expand(weaver.fit(weaver.other(last), thin), shape)
    return compute(Op.MAX if last.dtype is bool_ else Op.ADD, last, row)


# ---- types ----


def _cast(weaver: Weaver, last: Node) -> Node:
    return cast(last, weaver.choose(weaver.numbers))


def _bitcast(weaver: Weaver, last: Node) -> Node:
    """Between integers of one size; a float's bits are looked at, but not made."""
    same = [d for d in weaver.numbers if d.itemsize == last.dtype.itemsize and d.is_integer]
    return bitcast(last, weaver.choose(same)) if same else _flip(weaver, last)


# ---- indexed, and effects ----


def _gather(weaver: Weaver, last: Node) -> Node:
    axis, shape = _axis(weaver, last), shape_of(last)
    count = weaver.choose((shape[axis], 3, 5))
    if math.prod(shape) // max(shape[axis], 1) * count > MAX_SIZE:
        count = shape[axis]
    wanted = tuple(count if position == axis else size for position, size in enumerate(shape))
    return gather(last, weaver.index(wanted, shape[axis]), axis)


def _scatter(weaver: Weaver, last: Node) -> Node:
    axis, shape = _axis(weaver, last), shape_of(last)
    op = weaver.choose((None, Op.ADD, Op.MAX)) if last.dtype is not bool_ else None
    wanted = tuple(4 if position == axis else size for position, size in enumerate(shape))
    if math.prod(wanted) > MAX_SIZE:
        wanted = shape
    values = weaver.fit(weaver.other(last), wanted)
    return scatter(last, weaver.index(wanted, shape[axis]), values, axis, op)


def _assign(weaver: Weaver, last: Node) -> Node:
    """Every second element along an axis, or a part of it, replaced."""
    axis, shape = _axis(weaver, last), shape_of(last)
    size = shape[axis]
    start, step = weaver.choose(((0, 1), (0, 2), (1, 2), (size - 1, -1)))
    count = max(1, size // 2)
    if not 0 <= start + (count - 1) * step < size:
        start, step = 0, 1
    region = [(0, n, 1) for n in shape]
    region[axis] = (start, count, step)
    part = tuple(n for _, n, _ in region)
    return assign(last, weaver.fit(weaver.other(last), part), tuple(region))


def _realize(weaver: Weaver, last: Node) -> Node:
    return realize(last)


def _count(weaver: Weaver, last: Node) -> Node:
    """The position along an axis, added."""
    numbers = cast(iota(last.shape, _axis(weaver, last)), last.dtype)
    return compute(Op.ADD, last, numbers)


_EVERYWHERE: tuple[Step, ...] = (
    ("FLIP", _flip),
    ("PERMUTE", _permute),
    ("RESHAPE", _reshape),
    ("PAD", _shift),
    ("WINDOW", _window),
    ("EXPAND", _expand),
    ("EXPAND", _broadcast),
    ("GATHER", _gather),
    ("SCATTER", _scatter),
    ("ASSIGN", _assign),
    ("REALIZE", _realize),
    _reduce(Op.MAX, keep=True),
    _reduce(Op.MAX, keep=False),
    _scan(Op.MAX),
)
_NUMBERS: tuple[Step, ...] = (
    *[_binary(op) for op in (Op.ADD, Op.MUL, Op.MAX) for _ in range(3)],
    ("DIV", _divide),
    ("DIV", _divide_leaves),
    ("WHERE", _where),
    ("WHERE", _where),
    ("CAST", _cast),
    ("CAST", _cast),
    ("IOTA", _count),
    ("BITCAST", _bitcast),
    _binary(Op.LT),
    _reduce(Op.ADD, keep=True),
    _reduce(Op.ADD, keep=False),
    _scan(Op.ADD),
)
_FLOATS: tuple[Step, ...] = (
    *_EVERYWHERE,
    *_NUMBERS,
    ("DIV", _divide),
    _unary(Op.SQRT, Weaver.positive),
    _unary(Op.LOG2, Weaver.positive),
    _unary(Op.EXP2, lambda weaver, last: weaver.small(last, 5.0)),
    _unary(Op.SIN, lambda weaver, last: last),
)
_INTEGERS: tuple[Step, ...] = (
    *_EVERYWHERE,
    *_NUMBERS,
    _binary(Op.AND),
    _binary(Op.NE),
    _reduce(Op.MUL, keep=True),
    _scan(Op.MUL),
)
_BOOLS: tuple[Step, ...] = (
    *_EVERYWHERE,
    *[_binary(op) for op in (Op.AND, Op.NE, Op.MAX, Op.ADD, Op.MUL)],
    *[("CAST", _cast)] * 8,
    ("WHERE", _where),
)
_SMOOTH: tuple[Step, ...] = (
    _binary(Op.ADD),
    _binary(Op.MUL),
    _binary(Op.MUL),
    ("DIV", _divide),
    _unary(Op.SQRT, Weaver.positive),
    _unary(Op.LOG2, Weaver.positive),
    _unary(Op.EXP2, lambda weaver, last: weaver.small(last, 5.0)),
    _unary(Op.SIN, lambda weaver, last: last),
    _reduce(Op.ADD, keep=True),
    _reduce(Op.ADD, keep=False),
    ("FLIP", _flip),
    ("PERMUTE", _permute),
    ("RESHAPE", _reshape),
    ("PAD", _shift),
    ("EXPAND", _expand),
    ("GATHER", _gather),
    ("ASSIGN", _assign),
    ("REALIZE", _realize),
)
