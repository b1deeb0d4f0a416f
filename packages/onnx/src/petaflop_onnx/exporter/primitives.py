"""The table: every primitive operation of the graph in operators of ONNX, with our meaning of it to the
last bit where ONNX leaves one open (what integers divide to, what is out of range, what a cast saturates to).

A row takes the Lowering and a node whose sources have been written, and returns the name of its value; an
elementwise row's value may lack axes that broadcasting adds.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from petaflop.dtype import DType, bool_, int32, int64, uint8
from petaflop.plugin_api import Dim, Expr, Node, Op
from petaflop_onnx.exporter.lowering import Lowering, Row, adds_leading_axes
from petaflop_onnx.exporter.writer import ELEMENT_TYPES

__all__ = ["PRIMITIVES"]


# ---- compute ----


def _plain(operator: str, on_bool: str | None = None) -> Row:
    """An operator that means the same, and another for bool."""

    def row(low: Lowering, node: Node) -> str:
        names = low.operands(node)
        return low.writer.op(on_bool if on_bool and node.dtype is bool_ else operator, *names)

    return row


def _less(low: Lowering, node: Node) -> str:
    a, b = low.operands(node)
    if node.sources[0].dtype is not bool_:
        return low.writer.op("Less", a, b)
    return low.writer.op("And", low.writer.op("Not", a), b)


def _not_equal(low: Lowering, node: Node) -> str:
    if node.sources[0].dtype is bool_:
        return low.writer.op("Xor", *low.operands(node))
    return low.writer.op("Not", low.writer.op("Equal", *low.operands(node)))


def _divide(low: Lowering, node: Node) -> str:
    """On integers ⌊a / b⌋; ONNX truncates, and a processor may trap on what our DIV leaves unspecified."""
    writer, dtype = low.writer, node.dtype
    a, b = low.operands(node)
    if dtype.is_float:
        return writer.op("Div", a, b)
    zero, one = writer.number(0, dtype), writer.number(1, dtype)
    divisor = node.sources[1]
    known = divisor.op is Op.CONST and divisor.arg not in (0, -1)
    if not known:
        safe = writer.op("Where", writer.op("Equal", b, zero), one, b)
        if dtype.is_signed:
            minus = writer.op("Equal", b, writer.number(-1, dtype))
            safe = writer.op("Where", minus, one, safe)
        quotient = writer.op("Div", a, safe)
        if dtype.is_signed:
            quotient = writer.op("Where", minus, writer.op("Sub", zero, a), quotient)
    else:
        quotient = writer.op("Div", a, b)
    if not dtype.is_signed:
        return quotient
    rest = writer.op("Sub", a, writer.op("Mul", quotient, b))
    uneven = writer.op("Not", writer.op("Equal", rest, zero))
    signs = writer.op("Xor", writer.op("Less", rest, zero), writer.op("Less", b, zero))
    return writer.op("Sub", quotient, writer.cast(writer.op("And", uneven, signs), dtype))


def _where(low: Lowering, node: Node) -> str:
    return low.where(node.dtype, *low.operands(node))


def _exp2(low: Lowering, node: Node) -> str:
    return low.writer.op("Pow", low.writer.number(2, node.dtype), *low.operands(node))


def _log2(low: Lowering, node: Node) -> str:
    natural = low.writer.op("Log", *low.operands(node))
    return low.writer.op("Div", natural, low.writer.number(np.log(2.0), node.dtype))


# ---- along axes ----

_REDUCE = {Op.ADD: "ReduceSum", Op.MUL: "ReduceProd", Op.MAX: "ReduceMax"}
_REDUCE_BOOL = {Op.ADD: "ReduceMax", Op.MUL: "ReduceMin", Op.MAX: "ReduceMax"}


def _reduce(low: Lowering, node: Node) -> str:
    writer, (op, axes, dtype) = low.writer, node.arg
    name = low.cast(low.full(node.sources[0]), node.sources[0].dtype, dtype)
    operator = (_REDUCE_BOOL if dtype is bool_ else _REDUCE)[op]
    wide = uint8 if dtype is bool_ else _wide(dtype)
    name = name if wide is dtype else writer.cast(name, wide)
    name = writer.op(operator, name, writer.ints(*axes), keepdims=1)
    return name if wide is dtype else writer.cast(name, dtype)


def _wide(dtype: DType) -> DType:
    """The integer type in which ONNX sums; the sum then wraps in the narrow type as ours does."""
    return int32 if dtype.is_integer and dtype.itemsize < 4 else dtype


def _scan(low: Lowering, node: Node) -> str:
    writer, (op, axis, dtype) = low.writer, node.arg
    name = low.cast(low.full(node.sources[0]), node.sources[0].dtype, dtype)
    wide = uint8 if dtype is bool_ else _wide(dtype)
    if op is Op.ADD and dtype is not bool_:
        name = name if wide is dtype else writer.cast(name, wide)
        name = writer.op("CumSum", name, writer.array(axis, np.int64))
        return name if wide is dtype else writer.cast(name, dtype)
    return _running(low, node, name)


def _running(low: Lowering, node: Node, name: str) -> str:
    """A running product or maximum: ONNX's Scan, one step per position."""
    writer, (op, axis, dtype) = low.writer, node.arg
    step = {Op.MUL: "And", Op.MAX: "Or", Op.ADD: "Or"} if dtype is bool_ else {Op.MUL: "Mul", Op.MAX: "Max"}
    kind, names = ELEMENT_TYPES[dtype.numpy], ["state", "item", "next", "out"]
    infos = [helper.make_tensor_value_info(each, kind, None) for each in names]
    body = helper.make_graph(
        [helper.make_node(step[op], names[:2], ["next"]), helper.make_node("Identity", ["next"], ["out"])],
        "running", infos[:2], infos[2:],
    )  # fmt: skip
    start = {Op.MUL: 1, Op.ADD: 0, Op.MAX: dtype.min}[op]
    rest = [size for place, size in enumerate(node.shape) if place != axis]
    state = writer.expand(writer.number(start, dtype), (), rest)
    scan = helper.make_node(
        "Scan", [state, name], [writer.claim("last"), writer.claim("running")],
        body=body, num_scan_inputs=1, scan_input_axes=[axis], scan_output_axes=[axis],
    )  # fmt: skip
    return writer.add(scan, 1)


# ---- types ----


def _cast(low: Lowering, node: Node) -> str:
    source = node.sources[0]
    name, _ = low.lean(source)
    return low.cast(name, source.dtype, node.arg)


def _bitcast(low: Lowering, node: Node) -> str:
    source = node.sources[0]
    if low.writer.opset >= 26 and source.dtype.itemsize == node.dtype.itemsize:
        return low.writer.op("BitCast", low.full(source), to=ELEMENT_TYPES[node.dtype.numpy])
    return low.writer.refuse(
        f"a bitcast from {source.dtype} to {node.dtype} (opset 26 has it for types of one size)"
    )


# ---- leaves ----


def _const(low: Lowering, node: Node) -> str:
    return low.writer.number(node.arg, node.dtype)


def _buffer(low: Lowering, node: Node) -> str:
    raise AssertionError(f"{node}: inputs and memory are written before any row is asked")


def _var(low: Lowering, node: Node) -> str:
    name = low.writer.op("Squeeze", low.writer.size(node.arg))
    return name if node.dtype is int64 else low.writer.cast(name, node.dtype)


def _iota(low: Lowering, node: Node) -> str:
    writer, size = low.writer, node.shape[node.arg]
    shape = low.lean_shape(node)
    if not isinstance(size, Expr):
        return writer.array(np.arange(size).reshape([int(each) for each in shape]), node.dtype.numpy)
    stop = writer.op("Squeeze", writer.size(size))
    name = writer.op("Range", writer.array(0, np.int64), stop, writer.array(1, np.int64))
    name = writer.reshape(name, (size,), shape)
    return name if node.dtype is int64 else writer.cast(name, node.dtype)


# ---- views ----


def _reshape(low: Lowering, node: Node) -> str:
    if adds_leading_axes(node):
        return low.lean(node.sources[0])[0]
    return low.writer.reshape(low.full(node.sources[0]), node.sources[0].shape, node.shape)


def _permute(low: Lowering, node: Node) -> str:
    return low.writer.transpose(low.full(node.sources[0]), node.arg)


def _expand(low: Lowering, node: Node) -> str:
    return low.lean(node.sources[0])[0]


def _pad(low: Lowering, node: Node) -> str:
    writer, name = low.writer, low.full(node.sources[0])
    before, after = zip(*node.arg, strict=True)
    return writer.op("Pad", name, writer.shape((*before, *after)), writer.number(0, node.dtype))


def _shrink(low: Lowering, node: Node) -> str:
    source = node.sources[0]
    changed = {
        axis: pair
        for axis, (pair, size) in enumerate(zip(node.arg, source.shape, strict=True))
        if not (pair[0] == 0 and pair[1] == size)
    }
    return low.writer.slice(low.full(source), changed)


def _flip(low: Lowering, node: Node) -> str:
    return low.writer.flip(low.full(node.sources[0]), node.arg)


def _window(low: Lowering, node: Node) -> str:
    """A Gather of the positions of every tap, where it is no convolution and no pool."""
    writer, source = low.writer, node.sources[0]
    axis, size, stride, dilation = node.arg
    taps = np.arange(size, dtype=np.int64) * dilation
    positions = node.shape[axis]
    if isinstance(positions, Expr):
        stop = writer.op("Squeeze", writer.size(positions))
        starts = writer.op("Range", writer.array(0, np.int64), stop, writer.array(1, np.int64))
        starts = writer.op("Mul", writer.op("Unsqueeze", starts, writer.ints(1)), writer.ints(stride))
        index = writer.op("Add", starts, writer.array(taps, np.int64))
    else:
        index = writer.array(np.arange(positions)[:, None] * stride + taps, np.int64)
    name = writer.op("Gather", low.full(source), index, axis=axis)
    order = [place for place in range(len(node.shape)) if place != axis + 1]
    return writer.transpose(name, [*order, axis + 1])


# ---- indexed ----


def _limit(low: Lowering, size: Dim, dtype: DType) -> str:
    """A size as a scalar."""
    if not isinstance(size, Expr):
        return low.writer.number(size, dtype)
    name = low.writer.op("Squeeze", low.writer.size(size))
    return name if dtype is int64 else low.writer.cast(name, dtype)


def _safe_index(low: Lowering, index: str, dtype: DType, size: Dim, past: bool) -> tuple[str, str]:
    """(where an index is in range, the index with 0 elsewhere, or with `size` if `past`); int32 or int64."""
    writer, kind = low.writer, dtype if dtype is int32 else int64
    index = index if kind is dtype else writer.cast(index, kind)
    zero, limit = writer.number(0, kind), _limit(low, size, kind)
    inside = writer.op("And", writer.op("GreaterOrEqual", index, zero), writer.op("Less", index, limit))
    return inside, writer.op("Where", inside, index, limit if past else zero)


def _gather(low: Lowering, node: Node) -> str:
    writer, (source, index), axis = low.writer, node.sources, node.arg
    size = source.shape[axis]
    if size == 0:
        return writer.expand(writer.number(0, node.dtype), (), node.shape)
    name, shape = low.lean(index)
    alone = len(shape) == len(source.shape) and all(
        size == 1 for place, size in enumerate(shape) if place != axis
    )
    inside, safe = _safe_index(low, name if alone else low.full(index), index.dtype, size, past=False)
    if alone:  # one index for whole slices
        flat = writer.reshape(safe, shape, shape[axis : axis + 1])
        found = writer.op("Gather", low.full(source), flat, axis=axis)
    else:
        found = writer.op("GatherElements", low.full(source), safe, axis=axis)
    return low.where(node.dtype, inside, found, writer.number(0, node.dtype))


_SCATTER = {None: "none", Op.ADD: "add", Op.MUL: "mul", Op.MAX: "max"}


def _scatter(low: Lowering, node: Node) -> str:
    """What is out of range goes into one more element at the end of the axis, which is then cut off."""
    writer, (source, index, values), (op, axis) = low.writer, node.sources, node.arg
    dtype = uint8 if node.dtype is bool_ and op is not None else node.dtype
    if dtype is not node.dtype:
        op = {Op.ADD: Op.MAX, Op.MAX: Op.MAX, Op.MUL: Op.MUL}[op]
    size = source.shape[axis]
    _, safe = _safe_index(low, low.full(index), index.dtype, size, past=True)
    extra = [1 if place == axis else each for place, each in enumerate(source.shape)]
    names = [low.full(source), writer.expand(writer.number(0, node.dtype), (), extra)]
    longer = writer.op("Concat", *names, axis=axis)
    longer, new = (low.cast(each, node.dtype, dtype) for each in (longer, low.full(values)))
    name = writer.op("ScatterElements", longer, safe, new, axis=axis, reduction=_SCATTER[op])
    return low.cast(writer.slice(name, {axis: (0, size)}), dtype, node.dtype)


# ---- effects ----


def _assign(low: Lowering, node: Node) -> str:
    """The target with a region replaced: per axis, which positions the region has and what stands there."""
    writer, (target, value), region = low.writer, node.sources, node.arg
    name = low.full(value)
    mask: str | None = None
    for axis, (start, count, step) in enumerate(region or ()):
        size = node.shape[axis]
        if start == 0 and step == 1 and count == size:
            continue
        if isinstance(start, Expr) or isinstance(count, Expr) or isinstance(size, Expr):
            return writer.refuse("an assignment to a region of an axis whose size is not fixed")
        position = np.arange(size) - start
        taken = (position % step == 0) & (position // step >= 0) & (position // step < count)
        if not count:
            return low.full(target)
        places = writer.array(np.where(taken, position // step, 0), np.int64)
        name = writer.op("Gather", name, places, axis=axis)
        shape = [1] * len(node.shape)
        shape[axis] = size
        here = writer.array(taken.reshape(shape), np.bool_)
        mask = here if mask is None else writer.op("And", mask, here)
    return name if mask is None else low.where(node.dtype, mask, name, low.full(target))


def _same(low: Lowering, node: Node) -> str:
    return low.full(node.sources[0])


def _custom(low: Lowering, node: Node) -> str:
    if not node.arg.kernel:
        return low.full(node.sources[0])
    return low.writer.refuse("a custom kernel (write it with Tensor operations)")


PRIMITIVES: dict[Op, Row] = {
    Op.ADD: _plain("Add", "Or"),
    Op.MUL: _plain("Mul", "And"),
    Op.DIV: _divide,
    Op.MAX: _plain("Max", "Or"),
    Op.LT: _less,
    Op.NE: _not_equal,
    Op.AND: _plain("BitwiseAnd", "And"),
    Op.WHERE: _where,
    Op.SQRT: _plain("Sqrt"),
    Op.EXP2: _exp2,
    Op.LOG2: _log2,
    Op.SIN: _plain("Sin"),
    Op.REDUCE: _reduce,
    Op.SCAN: _scan,
    Op.CAST: _cast,
    Op.BITCAST: _bitcast,
    Op.CONST: _const,
    Op.BUFFER: _buffer,
    Op.VAR: _var,
    Op.IOTA: _iota,
    Op.RESHAPE: _reshape,
    Op.PERMUTE: _permute,
    Op.EXPAND: _expand,
    Op.PAD: _pad,
    Op.SHRINK: _shrink,
    Op.FLIP: _flip,
    Op.WINDOW: _window,
    Op.GATHER: _gather,
    Op.SCATTER: _scatter,
    Op.ASSIGN: _assign,
    Op.COPY: _same,
    Op.REALIZE: _same,
    Op.DETACH: _same,
    Op.CUSTOM: _custom,
}
