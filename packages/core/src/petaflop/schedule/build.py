"""From a node to a block: walk down to memory, turning views into index arithmetic and the rest into
expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from petaflop.dtype import bool_, float32, index
from petaflop.graph.node import Node
from petaflop.graph.ops import VIEWS, Native, Op
from petaflop.graph.symbolic import (
    TRUE,
    Dim,
    Expr,
    Leaf,
    as_expr,
    both,
    constant,
    divide,
    greater_equal,
    less,
    modulo,
    multiply,
    substitute,
    topological,
)
from petaflop.graph.symbolic import add as add_index
from petaflop.graph.view import source_index
from petaflop.ir.kernel import Argument, Block, Store, axis, axis_size, load, reduction, value

__all__ = ["build_block", "replace_axis", "runs_over_nothing", "split_axes"]

Position = tuple[Expr, ...]
Key = tuple[Node, Position, Expr]


class _Builder:
    """Expressions of nodes at index tuples, each built once; `names` says which nodes are memory.

    `target` is the node to compute: a name for it as well, but nothing to read.
    """

    def __init__(self, names: Mapping[Node, str], target: Node) -> None:
        self.names = names
        self.target = target
        self.done: dict[Key, Expr] = {}

    def expr(self, node: Node, position: Sequence[Expr]) -> Expr:
        """The value of `node` at `position`, without recursion."""
        root: Key = (node, tuple(position), TRUE)
        stack = [root]
        while stack:
            key = stack[-1]
            if key in self.done:
                stack.pop()
                continue
            missing = [need for need in self._needs(key) if need not in self.done]
            if missing:
                stack.extend(reversed(missing))
            else:
                finished = self._finish(key)
                if finished is not None:
                    self.done[key] = finished
                    stack.pop()
        return self.done[root]

    def _is_memory(self, node: Node) -> bool:
        return node in self.names and node is not self.target

    def _needs(self, key: Key) -> list[Key]:
        node, position, gate = key
        if self._is_memory(node) or not node.sources:
            return []
        if node.op in VIEWS:
            return [self._below_view(key)[0]]
        if node.op is Op.GATHER:
            picked = (node.sources[1], position, gate)
            return [picked] if picked not in self.done else [self._gathered(key)[0]]
        if node.op is Op.ASSIGN:
            inside = self._inside(node, position)
            return [(node.sources[0], position, gate), (node.sources[1], inside[0], both(gate, inside[1]))]
        sources = node.sources[:1] if node.op is Op.CUSTOM else node.sources
        return [(source, position, gate) for source in sources]

    def _finish(self, key: Key) -> Expr | None:
        node, position, gate = key
        if self._is_memory(node):
            return load(self.names[node], position, node.dtype, gate)
        if node.op in VIEWS:
            below, valid = self._below_view(key)
            return _masked(self.done[below], valid)
        if node.op is Op.GATHER:
            below, valid = self._gathered(key)
            return _masked(self.done[below], valid) if below in self.done else None
        if node.op is Op.ASSIGN:
            old, new = (self.done[need] for need in self._needs(key))
            return value(Op.WHERE, self._inside(node, position)[1], new, old)
        if node.op in (Op.DETACH, Op.COPY, Op.REALIZE, Op.CUSTOM):
            return self.done[(node.sources[0], position, gate)]
        args = [self.done[(source, position, gate)] for source in node.sources]
        return _LEAF[node.op](node, position) if node.op in _LEAF else _combine(node, args)

    def _below_view(self, key: Key) -> tuple[Key, Expr]:
        node, position, gate = key
        inner, valid = source_index(node, position)
        return (node.sources[0], tuple(inner), both(gate, valid)), valid

    def _gathered(self, key: Key) -> tuple[Key, Expr]:
        node, position, gate = key
        picked = value(Op.CAST, self.done[(node.sources[1], position, gate)], dtype=index)
        size = as_expr(node.sources[0].shape[node.arg])
        valid = both(greater_equal(picked, constant(0)), less(picked, size))
        inner = (*position[: node.arg], picked, *position[node.arg + 1 :])
        return (node.sources[0], inner, both(gate, valid)), valid

    def _inside(self, node: Node, position: Position) -> tuple[Position, Expr]:
        """Where an element of an ASSIGN lies in the assigned value, and whether it does."""
        if node.arg is None:
            return position, TRUE
        inner, conditions = [], []
        for place, (start, count, step) in zip(position, node.arg, strict=True):
            forward = multiply(
                add_index(place, multiply(as_expr(start), constant(-1))), constant(1 if step > 0 else -1)
            )
            inner.append(divide(forward, constant(abs(step))))
            conditions += [greater_equal(forward, constant(0)), less(inner[-1], as_expr(count))]
            if abs(step) > 1:
                rest = modulo(forward, constant(abs(step)))
                conditions.append(less(rest, constant(1)))
        return tuple(inner), both(*conditions)


def _masked(inner: Expr, valid: Expr) -> Expr:
    """0 where not valid; a load that is gated by the same condition gives that by itself."""
    if valid is TRUE:
        return inner
    if inner.op is Leaf.LOAD and both(inner.args[0], valid) is inner.args[0]:
        return inner
    return value(Op.WHERE, valid, inner, constant(0, inner.dtype))


def _combine(node: Node, args: list[Expr]) -> Expr:
    if node.op in (Op.CAST, Op.BITCAST):
        return value(node.op, args[0], dtype=node.dtype)
    return value(node.op, *args, dtype=bool_ if node.op in (Op.LT, Op.NE) else None)


_LEAF: dict[Op, Callable[[Node, Position], Expr]] = {
    Op.CONST: lambda node, position: constant(node.arg, node.dtype),
    Op.IOTA: lambda node, position: value(Op.CAST, position[node.arg], dtype=node.dtype),
    Op.VAR: lambda node, position: value(Op.CAST, as_expr(node.arg), dtype=node.dtype),
}


def _axes(prefix: str, shape: Sequence[Dim]) -> list[Expr]:
    return [constant(0) if size == 1 else axis(f"{prefix}{k}", size) for k, size in enumerate(shape)]


def _only_axes(exprs: Sequence[Expr]) -> tuple[Expr, ...]:
    return tuple(e for e in exprs if e.op is Leaf.AXIS)


def build_block(
    node: Node, name: str, names: Mapping[Node, str], in_place: bool = False
) -> tuple[Block, ...]:
    """The blocks that compute `node` into the buffer `name`; the axes are named after it."""
    builder = _Builder(names, node)
    blocks = _BUILD.get(node.op, _elementwise)(node, name, builder, in_place)
    return tuple(split_axes(block) for block in blocks)


def _elementwise(node: Node, name: str, builder: _Builder, in_place: bool) -> tuple[Block, ...]:
    position = _axes(f"{name}_i", node.shape)
    return (Block(_only_axes(position), (Store(name, tuple(position), builder.expr(node, position)),)),)


def _reduce(node: Node, name: str, builder: _Builder, in_place: bool) -> tuple[Block, ...]:
    source = node.sources[0]
    position = _axes(f"{name}_i", node.shape)
    inner = list(position)
    for k in node.arg.axes:
        inner[k] = constant(0) if source.shape[k] == 1 else axis(f"{name}_r{k}", source.shape[k])
    term = builder.expr(source, inner)
    if term.dtype is not node.dtype:
        term = value(Op.CAST, term, dtype=node.dtype)
    folded = _only_axes([inner[k] for k in node.arg.axes])
    if any(axis_size(a) == 0 for a in folded):
        term, folded = reduction("nothing", node.arg.op, term, folded).states[0].initial, ()
    if not folded:
        return (Block(_only_axes(position), (Store(name, tuple(position), term),)),)
    fold = reduction(f"{name}_acc", node.arg.op, term, folded)
    return (Block(_only_axes(position), (Store(name, tuple(position), fold.states[0].expr),), (fold,)),)


def _scan(node: Node, name: str, builder: _Builder, in_place: bool) -> tuple[Block, ...]:
    position = _axes(f"{name}_i", node.shape)
    along = position[node.arg.axis]
    term = builder.expr(node.sources[0], position)
    if term.dtype is not node.dtype:
        term = value(Op.CAST, term, dtype=node.dtype)
    if along.op is not Leaf.AXIS:
        return (Block(_only_axes(position), (Store(name, tuple(position), term),)),)
    # each element is a sum of its own, and these run one after another: narrow floats would lose too much
    wide = float32 if node.dtype.is_float and node.dtype.itemsize < 4 and node.arg.op is not Op.MAX else None
    if wide is not None:
        term = value(Op.CAST, term, dtype=wide)
    fold = reduction(f"{name}_acc", node.arg.op, term, (along,), scan=True)
    axes = tuple(a for a in _only_axes(position) if a is not along)
    result = fold.states[0].expr
    if wide is not None:
        result = value(Op.CAST, result, dtype=node.dtype)
    return (Block(axes, (Store(name, tuple(position), result),), (fold,)),)


def _scatter(node: Node, name: str, builder: _Builder, in_place: bool) -> tuple[Block, ...]:
    base, picks, values = node.sources
    copied = _axes(f"{name}_i", node.shape)
    first = Block(_only_axes(copied), (Store(name, tuple(copied), builder.expr(base, copied)),))
    position = [
        constant(0) if size == 1 else (axis(f"{name}_s{k}", size) if k == node.arg.axis else copied[k])
        for k, size in enumerate(picks.shape)
    ]
    picked = value(Op.CAST, builder.expr(picks, position), dtype=index)
    size = as_expr(node.shape[node.arg.axis])
    target = list(position)
    target[node.arg.axis] = picked
    valid = both(greater_equal(picked, constant(0)), less(picked, size))
    store = Store(name, tuple(target), builder.expr(values, position), valid, node.arg.op)
    ordered = _only_axes([position[node.arg.axis]])
    free = tuple(a for a in _only_axes(position) if a not in ordered)
    shared = tuple(a for a in first.axes if a in free)
    first = Block((*shared, *(a for a in first.axes if a not in shared)), first.stores)
    return (first, Block((*shared, *ordered), (store,), (), ordered))


def _assign(node: Node, name: str, builder: _Builder, in_place: bool) -> tuple[Block, ...]:
    if not in_place:
        return _elementwise(node, name, builder, in_place)
    position = _axes(f"{name}_i", node.sources[1].shape)
    target = position
    if node.arg is not None:
        target = [
            add_index(multiply(place, constant(step)), as_expr(start))
            for place, (start, _, step) in zip(position, node.arg, strict=True)
        ]
    return (
        Block(_only_axes(position), (Store(name, tuple(target), builder.expr(node.sources[1], position)),)),
    )


def _custom(node: Node, name: str, builder: _Builder, in_place: bool) -> tuple[Block, ...]:
    if not node.arg.kernel:
        return _elementwise(node, name, builder, in_place)
    output = Argument(name, node.dtype, node.shape, written=True, read=False)
    inputs = tuple(Argument(builder.names[s], s.dtype, s.shape) for s in node.sources)
    return tuple(node.arg.blocks(output, inputs))


_BUILD: dict[Op, Callable[[Node, str, _Builder, bool], tuple[Block, ...]]] = {
    Op.REDUCE: _reduce,
    Op.SCAN: _scan,
    Op.SCATTER: _scatter,
    Op.ASSIGN: _assign,
    Op.CUSTOM: _custom,
}


def runs_over_nothing(block: Block) -> bool:
    """Whether an axis of size 0 means that the block never stores."""
    scanned = [a for r in block.reductions if r.scan for a in r.axes]
    return any(axis_size(a) == 0 for a in (*block.axes, *scanned))


def split_axes(block: Block) -> Block:
    """Split axes that are only read as axis // c and axis % c, so that loads are affine again."""
    while (found := _split_point(block)) is not None:
        whole, size = found
        outer = axis(f"{whole.arg}o", _exact(axis_size(whole), size))
        inner = axis(f"{whole.arg}n", size)
        joined = add_index(multiply(outer, constant(size)), inner)
        block = replace_axis(block, whole, (outer, inner), joined)
    return block


def _exact(size: Dim, part: int) -> Dim:
    return size // part if isinstance(size, int) else divide(size, constant(part))


def _split_point(block: Block) -> tuple[Expr, int] | None:
    candidates: dict[Expr, int] = {}
    mine = set(block.axes) | set(block.reduce_axes)
    for expr in topological(block.exprs):
        if expr.op in (Op.DIV, Native.MOD) and expr.dtype is index and expr.args[1].op is Op.CONST:
            whole, size = expr.args[0], expr.args[1].arg
            length = axis_size(whole) if whole in mine else None
            if isinstance(length, int) and length % size == 0 and 1 < size < length:
                candidates[whole] = min(size, candidates.get(whole, size))
    for whole, size in candidates.items():
        return whole, size
    return None


def replace_axis(block: Block, whole: Expr, parts: tuple[Expr, ...], joined: Expr) -> Block:
    """The block with an axis replaced by others, of which it is the sum `joined`."""

    def swap(axes: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(p for a in axes for p in (parts if a is whole else (a,)))

    reductions = []
    for r in block.reductions:
        step = tuple(substitute(r.step, {whole: joined}))
        reductions.append(replace(r, axes=swap(r.axes), step=step))
    stores = []
    for s in block.stores:
        valid, *rest = substitute(s.exprs, {whole: joined})
        stores.append(replace(s, valid=valid, index=tuple(rest[:-1]), value=rest[-1]))
    return Block(swap(block.axes), tuple(stores), tuple(reductions), swap(block.ordered))
