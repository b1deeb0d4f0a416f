"""Panels of a factor: packed by a nest before, or by a task for itself just before it multiplies with them.

The panels of a run of tiles stay in the cache of the core that packed them, and the factor, whatever computes
it, never lies in memory as a whole.
"""

from __future__ import annotations

from dataclasses import replace

from petaflop.codegen.narrow import narrowed
from petaflop.codegen.rows import Bound, count_of, rest_of
from petaflop.dtype import to_dtype
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, add, constant, multiply, substitute
from petaflop.ir.kernel import Block, Store, Temporary, axes_of, axis, axis_size, load, value
from petaflop.ir.plan import Panel, Stage

__all__ = ["panelled", "staged", "with_factor"]


def panelled(
    directive: Panel, block: Block, name: str, bounds: dict[str, Bound]
) -> tuple[Block, Block, Temporary]:
    """The block that packs, the block that reads the panels, and the room for them."""
    (r,) = block.reductions
    tile = next(a for a in block.axes if a.arg == directive.axis)
    place = block.axes[block.axes.index(tile) + 1]
    used = axes_of((r.term.args[directive.operand],))
    outer = tuple(a for a in block.axes if a in used and a not in (tile, place))
    number = axis(f"{tile.arg}_b", count_of(axis_size(tile), directive.size))
    inner = axis(f"{tile.arg}_i", directive.size)
    common = (*outer, number)
    own = tuple(inner if a is tile else a for a in block.axes if a not in outer)
    block = block.map({tile: add(multiply(number, constant(directive.size)), inner)})

    packed: dict[Expr, Expr] = {a: axis(f"{a.arg}_p", axis_size(a)) for a in (inner, *r.axes, place)}
    axes = (*common, *packed.values())
    (factor,) = substitute((block.reductions[0].term.args[directive.operand],), packed)
    pack = Block(axes, (Store(name, axes, factor),))
    room = Temporary(name, factor.dtype, tuple(axis_size(a) for a in axes), len(common))
    read = load(name, (*common, *packed), factor.dtype)
    for each in (inner, packed[inner]):
        if (rest := rest_of(axis_size(tile), directive.size, number)) is not None:
            bounds[each.arg] = rest
    return pack, replace(with_factor(block, directive.operand, read), axes=(*common, *own)), room


def with_factor(block: Block, operand: int, factor: Expr) -> Block:
    """The block with another factor in the product that its first reduction sums up."""
    reduction = block.reductions[0]
    factors = list(reduction.term.args)
    factors[operand] = factor
    step = value(Op.ADD, reduction.step[0].args[0], value(Op.MUL, *factors))
    return replace(block, reductions=(replace(reduction, step=(step,)), *block.reductions[1:]))


def staged(directive: Stage, block: Block, name: str) -> tuple[Block, Temporary, Block]:
    """(block that packs panels of a factor, the panels, the block that reads them)."""
    reduction = block.reductions[0]
    factor = reduction.term.args[directive.operand]
    by_name = {a.arg: a for a in (*block.axes, *reduction.axes)}
    axes = tuple(by_name[each] for each in directive.axes)
    packed = narrowed(factor, to_dtype(directive.dtype)) if directive.dtype else factor
    assert packed is not None, f"expected a factor that {directive.dtype} holds, got {factor}"
    shape = tuple(axis_size(a) for a in axes)
    pack = Block(axes, (Store(name, axes, packed),))
    for each in reversed(directive.together):
        pack = _together(pack, by_name[each])
    read = load(name, axes, packed.dtype)
    read = value(Op.CAST, read, dtype=factor.dtype) if read.dtype is not factor.dtype else read
    block = with_factor(block, directive.operand, read)
    if directive.shared:
        first = axes[: directive.shared]
        own = {a: axis(f"{a.arg}_p", axis_size(a)) for a in pack.axes[directive.shared :]}
        pack = pack.map(dict(own))
        block = replace(block, axes=(*first, *(a for a in block.axes if a not in first)))
    return pack, Temporary(name, packed.dtype, shape, directive.shared), block


def _together(block: Block, along: Expr) -> Block:
    """The block without an axis, and with its stores for each value of that."""
    size = axis_size(along)
    assert isinstance(size, int)
    stores: list[Store] = []
    for number in range(size):
        for store in block.stores:
            *place, stored = substitute([*store.index, store.value], {along: constant(number)})
            stores.append(replace(store, index=tuple(place), value=stored))
    return Block(tuple(a for a in block.axes if a is not along), tuple(stores))
