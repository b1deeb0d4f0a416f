"""The node of the graph: an immutable, hash-consed operation with a shape, a dtype and a device.

Constructors check what the graph needs to be legal and fold what costs nothing (identity views, views of
views, constants). Shapes and dtypes that users get wrong are reported by tensor/, in their words.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from petaflop import profile
from petaflop.config import config
from petaflop.dtype import DType, bool_, int32
from petaflop.errors import DeviceError, DTypeError, GradientError, ShapeError, origin
from petaflop.graph.ops import SPEC, VIEWS, Op
from petaflop.graph.symbolic import Dim, Expr, product

__all__ = [
    "Node",
    "Reduce",
    "Scan",
    "Scatter",
    "assign",
    "bitcast",
    "buffer_leaf",
    "cast",
    "compute",
    "const",
    "copy",
    "detach",
    "duplicate",
    "gather",
    "iota",
    "origins",
    "own_leaf",
    "read_sources",
    "realize",
    "rebuilt",
    "reduce",
    "scan",
    "scatter",
    "toposort",
    "variable",
]

_identities = itertools.count()


class Node:
    """One operation of the graph. Nodes with equal parts are one object; leaves with an identity never merge.

    `buffer` is the only part that changes: it holds the memory once the node has been realized, and `version`
    is that of its contents then; an assignment in place raises the buffer's own.
    """

    __slots__ = (
        "__weakref__",
        "arg",
        "buffer",
        "device",
        "dtype",
        "needs_gradient",
        "op",
        "shape",
        "sources",
        "version",
    )
    op: Op
    sources: tuple[Node, ...]
    arg: Any
    dtype: DType
    shape: tuple[Dim, ...]
    device: str | None  # None: a constant, at home on every device
    needs_gradient: bool
    buffer: Any
    version: int

    def __repr__(self) -> str:
        arg = "" if self.arg is None else f" {self.arg}"
        return f"{self.op}{arg} {self.dtype}{list(self.shape)}"

    @property
    def size(self) -> Dim:
        return product(self.shape)

    @property
    def is_realized(self) -> bool:
        return self.buffer is not None

    def attach(self, buffer: Any) -> None:
        """From now on this node's value is what `buffer` holds."""
        self.buffer, self.version = buffer, buffer.version

    def memory(self) -> Any:
        """The buffer of a realized node; an error if an assignment has overwritten it since."""
        if self.buffer.version != self.version:
            raise GradientError(
                f"read: expected {self.dtype}{list(self.shape)} as it was, got memory that an "
                f"assignment overwrote at {self.buffer.overwritten}; clone() the tensor before the assignment"
            )
        return self.buffer


_table: weakref.WeakValueDictionary[tuple[Any, ...], Node] = weakref.WeakValueDictionary()
# where a node was first built; only while PETAFLOP_CHECK or a profile asks for it, since looking is slow
origins: weakref.WeakKeyDictionary[Node, str] = weakref.WeakKeyDictionary()


def _node(
    op: Op, sources: tuple[Node, ...], arg: Any, dtype: DType, shape: tuple[Dim, ...], device: str | None
) -> Node:
    key = (op, sources, repr(arg) if op is Op.CONST else arg, dtype, shape, device)
    found = _table.get(key)
    if found is None:
        found = _table.setdefault(key, _new(op, sources, arg, dtype, shape, device))
        if config.check or profile.naming:
            origins[found] = origin()
    return found


def _new(
    op: Op, sources: tuple[Node, ...], arg: Any, dtype: DType, shape: tuple[Dim, ...], device: str | None
) -> Node:
    node = Node()
    node.op, node.sources, node.arg, node.dtype = op, sources, arg, dtype
    node.shape, node.device, node.buffer, node.version = shape, device, None, 0
    flows = dtype.is_float and op is not Op.DETACH  # integers and bool have no gradient
    node.needs_gradient = flows and any(source.needs_gradient for source in sources)
    return node


def _device(sources: Iterable[Node]) -> str | None:
    device = None
    for source in sources:
        if source.device is not None and source.device != device:
            if device is not None:
                raise DeviceError(
                    f"operands: expected one device, got {device} and {source.device}; move one with .to()"
                )
            device = source.device
    return device


# ---- leaves ----


def const(value: Any, dtype: DType, shape: tuple[Dim, ...] = ()) -> Node:
    """One value in every element of `shape`."""
    if dtype.is_float:
        number: Any = float(dtype.numpy.type(value))
    elif dtype is bool_:
        number = bool(value)
    else:
        number = ((int(value) - dtype.min) % (1 << dtype.bits)) + dtype.min
    return _node(Op.CONST, (), number, dtype, shape, None)


def iota(shape: tuple[Dim, ...], axis: int, dtype: DType = int32) -> Node:
    """The index along `axis` in every element of `shape`."""
    return _node(Op.IOTA, (), axis, dtype, shape, None)


def variable(expr: Expr, dtype: DType = int32) -> Node:
    """A symbolic integer (or an expression of some) as a scalar."""
    return _node(Op.VAR, (), expr, dtype, (), None)


def buffer_leaf(buffer: Any, dtype: DType, shape: tuple[Dim, ...], device: str) -> Node:
    """Memory as a leaf of its own; None for a stand-in that graphs are built and differentiated on."""
    node = Node()  # no other node is equal to it; written out, as each replay makes some
    node.op, node.sources, node.arg, node.dtype = Op.BUFFER, (), next(_identities), dtype
    node.shape, node.device, node.buffer, node.needs_gradient = shape, device, buffer, False
    node.version = 0 if buffer is None else buffer.version
    return node


def own_leaf(source: Node) -> Node:
    """A gradient target: a leaf with an identity of its own and the value of `source`."""
    node = _node(Op.REALIZE, (detach(source),), next(_identities), source.dtype, source.shape, source.device)
    if source.buffer is not None:
        node.buffer, node.version = source.buffer, source.version
    node.needs_gradient = True
    return node


# ---- compute ----

_FOLDABLE = frozenset((Op.ADD, Op.MUL, Op.DIV, Op.MAX, Op.LT, Op.NE, Op.AND, Op.WHERE))


def compute(op: Op, *sources: Node) -> Node:
    """An elementwise operation on sources of one shape; see the op spec for dtypes."""
    first, last = sources[0], sources[-1]
    if any(source.shape != first.shape for source in sources):
        raise ShapeError(f"{op}: expected one shape, got {', '.join(str(list(s.shape)) for s in sources)}")
    operands = sources[1:] if op is Op.WHERE else sources
    if any(operand.dtype is not last.dtype for operand in operands):
        raise DTypeError(f"{op}: expected one dtype, got {', '.join(str(s.dtype) for s in operands)}")
    _check_kind(op, sources)
    dtype = bool_ if op in (Op.LT, Op.NE) else last.dtype
    if op in _FOLDABLE and all(source.op is Op.CONST for source in sources):
        return const(_fold(op, sources), dtype, first.shape)
    if (simpler := _identity(op, sources)) is not None:
        return simpler
    return _node(op, sources, None, dtype, first.shape, _device(sources))


_KINDS = {"any": "biuf", "not bool": "iuf", "integer or bool": "biu", "float": "f", "bool, any, any": "b"}


def _check_kind(op: Op, sources: tuple[Node, ...]) -> None:
    accepted = SPEC[op].dtypes
    if sources[0].dtype.kind not in _KINDS[accepted]:
        raise DTypeError(f"{op}: expected {accepted}, got {sources[0].dtype}")


def _fold(op: Op, sources: tuple[Node, ...]) -> Any:
    operator = SPEC[op].numpy
    assert operator is not None
    with np.errstate(all="ignore"):
        return operator(*(np.asarray(source.arg, source.dtype.numpy) for source in sources))[()]


def _identity(op: Op, sources: tuple[Node, ...]) -> Node | None:
    """What is exactly one of the sources: x * 1, integer x + 0, a WHERE that is decided."""
    if op is Op.WHERE:
        if sources[0].op is Op.CONST:
            return sources[1] if sources[0].arg else sources[2]
        return sources[1] if sources[1] is sources[2] else None
    if op in (Op.ADD, Op.MUL) and sources[0].dtype.kind != "b":
        neutral = 1 if op is Op.MUL else 0
        if op is Op.ADD and sources[0].dtype.is_float:
            return None  # -0.0 + 0.0 is 0.0
        for x, y in (sources, sources[::-1]):
            if y.op is Op.CONST and y.arg == neutral:
                return x
    if op is Op.DIV and sources[1].op is Op.CONST and sources[1].arg == 1:
        return sources[0]
    return None


# ---- reductions ----


class Reduce(tuple[Op, tuple[int, ...], DType]):
    """The argument of REDUCE: operation, sorted axes, accumulate dtype."""

    __slots__ = ()
    op = property(lambda self: self[0])
    axes = property(lambda self: self[1])
    dtype = property(lambda self: self[2])


class Scan(tuple[Op, int, DType]):
    """The argument of SCAN: operation, axis, accumulate dtype."""

    __slots__ = ()
    op = property(lambda self: self[0])
    axis = property(lambda self: self[1])
    dtype = property(lambda self: self[2])


class Scatter(tuple[Any, int]):
    """The argument of SCATTER: operation (None sets), axis."""

    __slots__ = ()
    op = property(lambda self: self[0])
    axis = property(lambda self: self[1])


def reduce(op: Op, source: Node, axes: Iterable[int], dtype: DType | None = None) -> Node:
    """ADD, MUL or MAX along `axes`, which keep size 1; accumulated in (and of) `dtype`."""
    axes = tuple(sorted(axes))
    dtype = dtype or source.dtype
    if not axes:
        return cast(source, dtype)
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(source.shape))
    return _node(Op.REDUCE, (source,), Reduce((op, axes, dtype)), dtype, shape, source.device)


def scan(op: Op, source: Node, axis: int, dtype: DType | None = None) -> Node:
    """The inclusive running ADD, MUL or MAX along `axis`."""
    dtype = dtype or source.dtype
    return _node(Op.SCAN, (source,), Scan((op, axis, dtype)), dtype, source.shape, source.device)


# ---- types ----


def cast(source: Node, dtype: DType) -> Node:
    """Value conversion; saturating from float to integer."""
    if source.dtype is dtype:
        return source
    if source.op is Op.CONST and source.dtype.kind != "f":
        return const(source.arg, dtype, source.shape)
    if source.op is Op.CONST and dtype.is_float:
        return const(source.arg, dtype, source.shape)
    if source.op is Op.IOTA and dtype.is_integer and dtype.bits >= source.dtype.bits:
        return iota(source.shape, source.arg, dtype)
    return _node(Op.CAST, (source,), dtype, dtype, source.shape, source.device)


def bitcast(source: Node, dtype: DType) -> Node:
    """The same bits as `dtype`; the last axis is scaled when the sizes differ."""
    if source.dtype is dtype:
        return source
    shape = source.shape
    if source.dtype.itemsize != dtype.itemsize:
        if not shape:
            raise ShapeError(f"bitcast: expected an axis to rescale, got a scalar {source.dtype} to {dtype}")
        total = shape[-1] * source.dtype.itemsize
        if isinstance(total, int) and total % dtype.itemsize:
            raise ShapeError(
                f"bitcast: expected a last axis of whole {dtype}, got {shape[-1]} {source.dtype}"
            )
        shape = (*shape[:-1], total // dtype.itemsize)
    return _node(Op.BITCAST, (source,), dtype, dtype, shape, source.device)


# ---- views: built by graph/view.py, which knows their shapes ----


def view(op: Op, source: Node, arg: Any, shape: tuple[Dim, ...]) -> Node:
    assert op in VIEWS
    return _node(op, (source,), arg, source.dtype, shape, source.device)


# ---- indexed ----


def gather(source: Node, index: Node, axis: int) -> Node:
    """out[…, i, …] = source[…, index[…, i, …], …] along `axis`; out of range reads 0."""
    _check_indexed("gather", source, index, axis)
    return _node(Op.GATHER, (source, index), axis, source.dtype, index.shape, _device((source, index)))


def scatter(source: Node, index: Node, values: Node, axis: int, op: Op | None) -> Node:
    """A copy of source with out[…, index[…, i, …], …] op= values[…, i, …], in index order; None sets."""
    _check_indexed("scatter", source, index, axis)
    if values.shape != index.shape or values.dtype is not source.dtype:
        raise ShapeError(
            f"scatter: expected values {source.dtype}{list(index.shape)}, "
            f"got {values.dtype}{list(values.shape)}"
        )
    sources = (source, index, values)
    return _node(Op.SCATTER, sources, Scatter((op, axis)), source.dtype, source.shape, _device(sources))


def _check_indexed(name: str, source: Node, index: Node, axis: int) -> None:
    if not index.dtype.is_integer:
        raise DTypeError(f"{name}: expected an integer index, got {index.dtype}")
    others = [k for k in range(len(source.shape)) if k != axis]
    if len(index.shape) != len(source.shape) or any(index.shape[k] != source.shape[k] for k in others):
        raise ShapeError(
            f"{name}: expected an index of shape {list(source.shape)} but for axis {axis}, "
            f"got {list(index.shape)}"
        )


# ---- effects ----


def assign(target: Node, value: Node, region: tuple[tuple[Dim, Dim, int], ...] | None = None) -> Node:
    """`target` with the (start, count, step) region of each axis replaced by `value`; None is all of it."""
    expected = target.shape if region is None else tuple(count for _, count, _ in region)
    if value.shape != expected or value.dtype is not target.dtype:
        raise ShapeError(
            f"assign: expected {target.dtype}{list(expected)}, got {value.dtype}{list(value.shape)}"
        )
    return _node(Op.ASSIGN, (target, value), region, target.dtype, target.shape, _device((target, value)))


def copy(source: Node, device: str) -> Node:
    """The same values on another device."""
    if source.device == device or source.device is None:
        return source
    return _node(Op.COPY, (source,), device, source.dtype, source.shape, device)


def realize(source: Node) -> Node:
    """The same values in row-major memory of their own."""
    if source.op in (Op.BUFFER, Op.REALIZE, Op.ASSIGN, Op.COPY):
        return source
    return _node(Op.REALIZE, (source,), None, source.dtype, source.shape, source.device)


def duplicate(source: Node) -> Node:
    """The same values in memory that nothing else shares."""
    return _node(Op.REALIZE, (detach(source),), next(_identities), source.dtype, source.shape, source.device)


def detach(source: Node) -> Node:
    """The same values; gradients stop here."""
    if not source.needs_gradient:
        return source
    return _node(Op.DETACH, (source,), None, source.dtype, source.shape, source.device)


def custom(template: Any, sources: tuple[Node, ...], dtype: DType, shape: tuple[Dim, ...]) -> Node:
    """A kernel written by the user; `template` is compared by identity."""
    return _node(Op.CUSTOM, sources, template, dtype, shape, _device(sources))


# ---- walking ----


def rebuilt(node: Node, sources: tuple[Node, ...]) -> Node:
    """`node` on other sources of the same shapes and dtypes."""
    return _node(node.op, sources, node.arg, node.dtype, node.shape, node.device)


def read_sources(node: Node) -> tuple[Node, ...]:
    """The sources that computing a node reads: not what only the gradient of a custom function needs."""
    return node.sources[:1] if node.op is Op.CUSTOM and not node.arg.kernel else node.sources


def toposort(roots: Iterable[Node], through_realized: bool = False) -> list[Node]:
    """Every node that computing `roots` visits, each once, sources before users; stops at realized nodes."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack: list[Node | None] = []
    stack += reversed([*roots])
    pending: list[Node] = []
    while stack:
        node = stack.pop()
        if node is None:
            order.append(pending.pop())
        elif node not in seen:
            seen.add(node)
            if node.sources and (node.buffer is None or through_realized):
                pending.append(node)
                stack.append(None)
                stack.extend((node.sources if through_realized else read_sources(node))[::-1])
            else:
                order.append(node)
    return order
