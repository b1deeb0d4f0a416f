"""Views: the shape each one gives, and the index arithmetic it becomes. Nothing here computes a value.

`reshape(node, …)` and its like build nodes; `source_index(node, index)` says which element of the source an
element of the view is, and when it exists at all (padding).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from petaflop.errors import ShapeError
from petaflop.graph.node import Node, const, iota, view
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import (
    TRUE,
    Dim,
    Expr,
    add,
    as_expr,
    both,
    constant,
    divide,
    greater_equal,
    less,
    modulo,
    multiply,
    product,
)

__all__ = ["expand", "flip", "is_alias", "pad", "permute", "reshape", "shrink", "source_index", "window"]

Shape = tuple[Dim, ...]


def is_alias(node: Node) -> bool:
    """A BITCAST that rescales its last axis is the memory of its source under another shape."""
    return node.op is Op.BITCAST and node.shape != node.sources[0].shape


def _dim(value: Dim) -> Dim:
    return int(value.arg) if isinstance(value, Expr) and value.op is Op.CONST else value


def reshape(node: Node, shape: Shape) -> Node:
    """Another shape of the same row-major elements."""
    if shape == node.shape:
        return node
    if product(shape) != product(node.shape):
        raise ShapeError(f"reshape: expected {product(node.shape)} elements, got shape {list(shape)}")
    if node.op is Op.RESHAPE:
        return reshape(node.sources[0], shape)
    if node.op is Op.CONST:
        return const(node.arg, node.dtype, shape)
    return view(Op.RESHAPE, node, shape, shape)


def permute(node: Node, order: tuple[int, ...]) -> Node:
    """Axes in another order: axis k of the result is axis order[k] of the source."""
    if order == tuple(range(len(order))):
        return node
    if node.op is Op.PERMUTE:
        return permute(node.sources[0], tuple(node.arg[axis] for axis in order))
    shape = tuple(node.shape[axis] for axis in order)
    if node.op is Op.CONST:
        return const(node.arg, node.dtype, shape)
    if node.op is Op.IOTA:
        return iota(shape, order.index(node.arg), node.dtype)
    return view(Op.PERMUTE, node, order, shape)


def expand(node: Node, shape: Shape) -> Node:
    """Axes of size 1 repeated to the sizes of `shape`."""
    if shape == node.shape:
        return node
    if len(shape) != len(node.shape) or any(
        old not in (1, new) for old, new in zip(node.shape, shape, strict=True)
    ):
        raise ShapeError(f"expand: expected sizes equal or 1, got {list(node.shape)} to {list(shape)}")
    if node.op is Op.EXPAND:
        return expand(node.sources[0], shape)
    if node.op is Op.CONST:
        return const(node.arg, node.dtype, shape)
    if node.op is Op.IOTA and shape[node.arg] == node.shape[node.arg]:
        return iota(shape, node.arg, node.dtype)
    return view(Op.EXPAND, node, shape, shape)


def pad(node: Node, widths: tuple[tuple[Dim, Dim], ...]) -> Node:
    """Zeros before and after each axis."""
    if all(before == 0 and after == 0 for before, after in widths):
        return node
    shape = tuple(
        _dim(size + before + after) for size, (before, after) in zip(node.shape, widths, strict=True)
    )
    if node.op is Op.CONST and node.arg == 0 and str(node.arg) != "-0.0":
        return const(0, node.dtype, shape)
    return view(Op.PAD, node, widths, shape)


def shrink(node: Node, ranges: tuple[tuple[Dim, Dim], ...]) -> Node:
    """start <= i < stop of each axis."""
    if all(start == 0 and stop == size for (start, stop), size in zip(ranges, node.shape, strict=True)):
        return node
    shape = tuple(_dim(stop - start) for start, stop in ranges)
    if node.op is Op.SHRINK:
        return shrink(
            node.sources[0],
            tuple((_dim(a + s), _dim(b + s)) for (a, b), (s, _) in zip(ranges, node.arg, strict=True)),
        )
    if node.op is Op.CONST:
        return const(node.arg, node.dtype, shape)
    return view(Op.SHRINK, node, ranges, shape)


def flip(node: Node, axes: tuple[int, ...]) -> Node:
    """The named axes reversed."""
    axes = tuple(sorted(axis for axis in axes if node.shape[axis] != 1))
    if not axes:
        return node
    if node.op is Op.FLIP:
        return flip(node.sources[0], tuple(set(axes) ^ set(node.arg)))
    if node.op is Op.CONST:
        return node
    return view(Op.FLIP, node, axes, node.shape)


def window(node: Node, axis: int, size: int, stride: int = 1, dilation: int = 1) -> Node:
    """A sliding window: `axis` becomes its positions, and a new last axis holds the `size` taps of each."""
    span = dilation * (size - 1) + 1
    length = node.shape[axis]
    if isinstance(length, int) and length < span:
        raise ShapeError(f"window: expected an axis of at least {span}, got {length}")
    positions = _dim((length - span) // stride + 1)
    shape = (*node.shape[:axis], positions, *node.shape[axis + 1 :], size)
    if node.op is Op.CONST:
        return const(node.arg, node.dtype, shape)
    return view(Op.WINDOW, node, (axis, size, stride, dilation), shape)


# ---- index arithmetic ----

Index = Sequence[Expr]


def _reshape_index(node: Node, index: Index) -> tuple[list[Expr], Expr]:
    """Match groups of axes whose products agree; only inside a group is anything flattened."""
    old, new = node.sources[0].shape, node.shape
    if 0 in old:  # there is no element to find: any index that runs over nothing will do
        return [index[new.index(0)]] * len(old), TRUE
    result: list[Expr] = []
    i = j = 0
    while i < len(old) or j < len(new):
        old_group, new_group = [i], [j]
        i_end, j_end = i + 1, j + 1
        old_size = old[i] if i < len(old) else 1
        new_size = new[j] if j < len(new) else 1
        while old_size != new_size:
            if j_end < len(new) and (i_end >= len(old) or _smaller(new_size, old_size)):
                new_size = product((new_size, new[j_end]))
                new_group.append(j_end)
                j_end += 1
            elif i_end < len(old):
                old_size = product((old_size, old[i_end]))
                old_group.append(i_end)
                i_end += 1
            else:
                raise ShapeError(f"reshape: expected {list(old)}, got {list(new)}")
        flat = _flatten(
            [index[k] for k in new_group if k < len(new)], [new[k] for k in new_group if k < len(new)]
        )
        result.extend(_unflatten(flat, [old[k] for k in old_group if k < len(old)]))
        i, j = i_end, j_end
    return result, TRUE


def _smaller(a: Dim, b: Dim) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    return (a.hi if isinstance(a, Expr) else a) <= (b.hi if isinstance(b, Expr) else b)


def _flatten(index: Index, shape: Sequence[Dim]) -> Expr:
    flat = constant(0)
    for position, size in zip(index, shape, strict=True):
        flat = add(multiply(flat, as_expr(size)), position)
    return flat


def _unflatten(flat: Expr, shape: Sequence[Dim]) -> list[Expr]:
    result = []
    inner: Dim = 1
    for position, size in reversed(list(enumerate(shape))):
        quotient = divide(flat, as_expr(inner))
        if size == 1:
            result.append(constant(0))
        else:
            result.append(quotient if position == 0 else modulo(quotient, as_expr(size)))
        inner = product((inner, size))
    return result[::-1]


def _permute_index(node: Node, index: Index) -> tuple[list[Expr], Expr]:
    result = [constant(0)] * len(index)
    for position, axis in enumerate(node.arg):
        result[axis] = index[position]
    return result, TRUE


def _expand_index(node: Node, index: Index) -> tuple[list[Expr], Expr]:
    old = node.sources[0].shape
    return [constant(0) if size == 1 else position for position, size in zip(index, old, strict=True)], TRUE


def _pad_index(node: Node, index: Index) -> tuple[list[Expr], Expr]:
    result, conditions = [], []
    for position, size, (before, after) in zip(index, node.sources[0].shape, node.arg, strict=True):
        inner = add(position, multiply(as_expr(before), constant(-1)))
        result.append(inner)
        if before != 0:
            conditions.append(greater_equal(inner, constant(0)))
        if after != 0:
            conditions.append(less(inner, as_expr(size)))
    return result, both(*conditions)


def _shrink_index(node: Node, index: Index) -> tuple[list[Expr], Expr]:
    return [add(position, as_expr(start)) for position, (start, _) in zip(index, node.arg, strict=True)], TRUE


def _flip_index(node: Node, index: Index) -> tuple[list[Expr], Expr]:
    result = list(index)
    for axis in node.arg:
        last = add(as_expr(node.shape[axis]), constant(-1))
        result[axis] = add(last, multiply(index[axis], constant(-1)))
    return result, TRUE


def _window_index(node: Node, index: Index) -> tuple[list[Expr], Expr]:
    axis, _, stride, dilation = node.arg
    result = list(index[:-1])
    result[axis] = add(multiply(index[axis], constant(stride)), multiply(index[-1], constant(dilation)))
    return result, TRUE


_INDEX: dict[Op, Callable[[Node, Index], tuple[list[Expr], Expr]]] = {
    Op.RESHAPE: _reshape_index,
    Op.PERMUTE: _permute_index,
    Op.EXPAND: _expand_index,
    Op.PAD: _pad_index,
    Op.SHRINK: _shrink_index,
    Op.FLIP: _flip_index,
    Op.WINDOW: _window_index,
}


def source_index(node: Node, index: Index) -> tuple[list[Expr], Expr]:
    """(index into the source, when that element exists) of the element `index` of a view."""
    return _INDEX[node.op](node, index)
