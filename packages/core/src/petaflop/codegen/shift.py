"""8-bit integers of the other signedness: for instructions that multiply unsigned by signed bytes alone."""

from __future__ import annotations

from dataclasses import replace

from petaflop.codegen.narrow import narrowed
from petaflop.dtype import DType, int8, uint8
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, constant, substitute
from petaflop.ir.kernel import Block, Store, Temporary, axes_of, axis_size, load, reduction, value

__all__ = ["OTHER", "shifted"]

OTHER = {int8: uint8, uint8: int8}


def shifted(block: Block, operand: int, name: str) -> tuple[Block, Temporary, Block]:
    """(block that sums the other factor up into `name`, `name`, the block with the factor shifted)."""
    r = block.reductions[0]
    (total,) = r.states
    dtype = total.dtype
    factors = list(r.term.args)
    other = factors[1 - operand]
    moved, distance = _moved(factors[operand])
    factors[operand] = value(Op.CAST, moved, dtype=dtype)
    axes = tuple(a for a in block.axes if a in axes_of((other,)))
    sums = reduction(total.name, Op.ADD, other, r.axes)
    before = Block(axes, (Store(name, axes, sums.states[0].expr),), (sums,))
    added = value(Op.MUL, load(name, axes, dtype), constant(-distance, dtype))
    right = value(Op.ADD, total.expr, added)
    step = value(Op.ADD, r.step[0].args[0], value(Op.MUL, *factors))
    stores = []
    for store in block.stores:
        (result,) = substitute([store.value], {total.expr: right})
        stores.append(replace(store, value=result))
    after = replace(block, reductions=(replace(r, step=(step,)),), stores=tuple(stores))
    return before, Temporary(name, dtype, tuple(axis_size(a) for a in axes)), after


def _moved(factor: Expr) -> tuple[Expr, int]:
    """The values before their cast, moved to the other signedness, and by how much."""
    for dtype, other in OTHER.items():
        inner = narrowed(factor, dtype)
        if inner is not None:
            half = 1 << (dtype.bits - 1)
            bits = value(Op.BITCAST, inner, dtype=other)
            return value(
                Op.ADD, bits, constant(_wrapped(half, other), other)
            ), half if dtype is int8 else -half
    raise AssertionError(f"expected a cast of 8-bit integers, got {factor}")


def _wrapped(number: int, dtype: DType) -> int:
    return number - (1 << dtype.bits) if number > dtype.max else number
