"""Blocks with flat offsets for logical indices: the layouts are applied here, and nowhere earlier.

Two kinds of name are left for the loops to fill in: TILE, the number of the step of a register tile
(temporaries of a task have one element per step), and `within(axis)`, whether a masked last step is inside
the axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from petaflop.dtype import bool_, float32, index
from petaflop.graph.ops import Native, Op
from petaflop.graph.symbolic import (
    TRUE,
    Expr,
    Leaf,
    add,
    as_expr,
    both,
    constant,
    is_constant,
    less,
    make,
    multiply,
    rebuild,
    select,
    substitute,
    topological,
)
from petaflop.ir.kernel import Block, Kernel, Store, axes_of
from petaflop.ir.layout import row_major

__all__ = ["TILE", "Flattener", "within"]

TILE = make(Leaf.STATE, (), index, "tile", 0)


def within(axis: Expr) -> Expr:
    """Stands for the condition that a masked step of `axis` is inside it."""
    return make(Leaf.STATE, (), bool_, f"within_{axis.arg}", 0, 1)


class Flattener:
    """`local` temporaries keep only what a task needs, `lanes` elements for each; `masked` axes may
    overrun; with `contract`, a product plus a constant is one multiply-add in float32: float64 is held to
    the bits of what is written."""

    def __init__(
        self,
        kernel: Kernel,
        local: Mapping[str, int],
        lanes: int,
        masked: Iterable[Expr],
        contract: bool = False,
    ) -> None:
        self.kernel, self.local, self.lanes, self.masked = kernel, local, lanes, tuple(masked)
        self.contract = contract
        self.layouts = {b.name: row_major(b.shape[local.get(b.name, 0) :]) for b in kernel.buffers}

    def offset(self, buffer: str, position: tuple[Expr, ...]) -> Expr:
        """The flat offset of a logical index."""
        shared = self.local.get(buffer)
        if shared is None:
            return self.layouts[buffer].offset(position)
        return add(multiply(self.layouts[buffer].offset(position[shared:]), constant(self.lanes)), TILE)

    def block(self, block: Block) -> Block:
        """The block with one flat offset for each index; an accumulating store reads what it adds to."""
        if selected := self.selected(block.exprs):
            block = block.map(selected)
        done: dict[Expr, Expr] = {}
        self.exprs(block.exprs, done)
        self.exprs((e for r in block.reductions for e in (*r.merge, *(s.initial for s in r.states))), done)
        reductions = tuple(
            replace(
                r,
                states=tuple(replace(s, initial=done[s.initial]) for s in r.states),
                step=tuple(done[step] for step in r.step),
                merge=tuple(done[merge] for merge in r.merge),
            )
            for r in block.reductions
        )
        gates = tuple(within(a) for a in self.masked if a in block.axes)
        return replace(
            block, reductions=reductions, stores=tuple(self._store(s, done, gates) for s in block.stores)
        )

    def selected(self, roots: Iterable[Expr]) -> dict[Expr, Expr]:
        """WHEREs with a load below that may be outside its buffer, and what reads it only where it is
        selected."""
        roots = list(roots)
        suspects = {
            e for e in topological(roots) if e.op is Leaf.LOAD and e.args[0] is TRUE and not self._inside(e)
        }
        mapping: dict[Expr, Expr] = {}
        if not suspects:
            return mapping
        for expr in topological(roots):
            if expr.op is Op.WHERE and expr.dtype is not index:
                condition, *branches = substitute(expr.args, mapping)
                unless = make(Op.NE, (condition, constant(1, bool_)), bool_, None, 0, 1)
                gated = [_gated(b, g, suspects) for b, g in zip(branches, (condition, unless), strict=True)]
                mapping[expr] = select(condition, *gated)
        return mapping

    def _inside(self, load: Expr) -> bool:
        """Whether the index of a load is in range whatever the axes are."""
        shape = self.kernel.argument(load.arg[0]).shape
        for position, size in zip(load.args[1:], shape, strict=True):
            whole = position.op is Leaf.AXIS and position.args[0] is as_expr(size)
            if not whole and (position.lo < 0 or less(position, as_expr(size)) is not TRUE):
                return False
        return True

    def exprs(self, roots: Iterable[Expr], done: dict[Expr, Expr]) -> None:
        """Add the flat form of everything below `roots` to `done`."""
        order = topological(roots := tuple(roots))
        readers = _readers(order, roots) if self.contract else {}
        for expr in order:
            if expr in done:
                continue
            args = tuple(done[arg] for arg in expr.args)
            if expr.op is Leaf.LOAD:
                valid, *position = args
                if self.masked and expr.arg[0] not in self.local:
                    used = axes_of(expr.args[1:])
                    valid = both(valid, *(within(a) for a in self.masked if a in used))
                args = (valid, self.offset(expr.arg[0], tuple(position)))
                done[expr] = make(Leaf.LOAD, args, expr.dtype, expr.arg)
            elif self.contract and expr.op is Op.ADD and expr.dtype is float32:
                alone = [readers.get(arg) == 1 for arg in expr.args]
                done[expr] = _contracted(expr, args, alone)
            else:
                done[expr] = rebuild(expr, args) if args != expr.args else expr

    def _store(self, store: Store, done: Mapping[Expr, Expr], gates: tuple[Expr, ...]) -> Store:
        offset = self.offset(store.buffer, tuple(done[i] for i in store.index))
        valid = both(done[store.valid], *gates)
        value = done[store.value]
        if store.accumulate is not None:
            old = make(Leaf.LOAD, (valid, offset), value.dtype, (store.buffer, 0))
            value = make(store.accumulate, (old, value), value.dtype)
        return Store(store.buffer, (offset,), value, valid)


def _readers(order: Sequence[Expr], roots: Sequence[Expr]) -> dict[Expr, int]:
    """How often each product is read or stored."""
    result = dict.fromkeys(roots, 1)
    for expr in order:
        for arg in expr.args:
            if arg.op is Op.MUL:
                result[arg] = result.get(arg, 0) + 1
    return result


def _contracted(expr: Expr, args: tuple[Expr, ...], alone: Sequence[bool]) -> Expr:
    """a * b + constant with one rounding, where nobody else reads the product: it has one value then.

    Other sums stay: x*x - y*y must be 0 where x is y.
    """
    for (a, b), only in zip((args, args[::-1]), alone, strict=True):
        if only and a.op is Op.MUL and b.op is Op.CONST:
            return make(Native.FMA, (*a.args, b), expr.dtype)
        if whole := _two_halves(a, b):
            return make(Native.FMA, whole, expr.dtype)
    return rebuild(expr, args) if args != expr.args else expr


def _two_halves(a: Expr, b: Expr) -> tuple[Expr, Expr, Expr] | None:
    """x, c and y where a is half * c + y and b is (x - half) * c, and half some bits of a number: a product
    that was cut to be exact. Of any other difference the rounding, an infinity or NaN would be lost."""
    if a.op is not Op.ADD or b.op is not Op.MUL:
        return None
    difference, c = b.args
    if difference.op is not Op.ADD:
        return None
    x, minus = difference.args
    if minus.op is not Op.MUL or not is_constant(minus.args[1], -1.0):
        return None
    half = minus.args[0]
    if half.op is not Op.BITCAST:
        return None
    for product, y in (a.args, a.args[::-1]):
        if product.op is Op.MUL and product.args == (half, c):
            return x, c, y
    return None


def _gated(branch: Expr, condition: Expr, suspects: set[Expr]) -> Expr:
    """`branch` with loads that read nothing where `condition` does not hold."""
    gates: dict[Expr, Expr] = {}
    for expr in topological((branch,)):
        if expr.op is Leaf.LOAD and (expr in suspects or expr.args[0] is not TRUE):
            gates[expr] = make(
                Leaf.LOAD, (both(expr.args[0], condition), *expr.args[1:]), expr.dtype, expr.arg
            )
    return substitute((branch,), gates)[0]
