"""Stores and loads of one point: what a block stores is a value for the next one over the same axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from petaflop.graph.ops import Op
from petaflop.graph.symbolic import TRUE, Expr, constant, substitute
from petaflop.ir.kernel import Block, Store, loads_of, value

__all__ = ["forward_values", "is_ordered"]


def is_ordered(block: Block) -> bool:
    """Whether some axis of the block must run from its start to its end."""
    return bool(block.ordered) or any(r.scan for r in block.reductions)


def forward_values(blocks: Sequence[Block], needed: Iterable[str]) -> tuple[Block, ...]:
    """Blocks over the same axes as one block: what an earlier one stored is used as a value, not loaded.

    Stores to buffers that nobody in `needed` or in a later block reads are dropped.
    """
    merged: list[Block] = []
    for block in blocks:
        if merged and _may_merge(merged[-1], block):
            merged[-1] = _merge(merged[-1], block)
        else:
            merged.append(block)
    keep = set(needed)
    result = []
    for position, block in enumerate(merged):
        read = {load.arg[0] for other in merged[position + 1 :] for load in loads_of(other.exprs)}
        stores = tuple(s for s in block.stores if s.buffer in keep or s.buffer in read)
        if stores:
            result.append(replace(block, stores=stores))
    return tuple(result)


def _may_merge(first: Block, second: Block) -> bool:
    if set(first.axes) != set(second.axes) or second.reductions or second.ordered or is_ordered(first):
        return False
    stored = {s.buffer: s for s in first.stores}
    for load in loads_of(second.exprs):
        store = stored.get(load.arg[0])
        if store is not None and (
            store.index != load.args[1:] or store.valid is not TRUE or store.accumulate
        ):
            return False
    return not any(s.buffer in stored or _reads(first, s.buffer, s) for s in second.stores)


def _reads(block: Block, buffer: str, store: Store) -> bool:
    return any(load.arg[0] == buffer and load.args[1:] != store.index for load in loads_of(block.exprs))


def _merge(first: Block, second: Block) -> Block:
    stored = {s.buffer: s for s in first.stores}
    mapping: dict[Expr, Expr] = {}
    for load in loads_of(second.exprs):  # inner loads first: an outer one's index may need them
        store = stored.get(load.arg[0])
        if store is not None:
            (valid,) = substitute((load.args[0],), mapping)
            mapping[load] = value(Op.WHERE, valid, store.value, _zero(load))
    return replace(first, stores=(*first.stores, *second.map(mapping).stores))


def _zero(load: Expr) -> Expr:
    return constant(load.arg[1], load.dtype)
