"""Products in a row: what the rows of one product become, up to a second product over them, is one nest.

In `softmax(q @ k.T) @ v` or `(x @ a).relu() @ b` every row of the result needs one row of each value between
the products, and nothing else reads those: a nest over the rows keeps them in a task's own memory, however
many rows there are. How many of them a task takes at a time is the plan's to say (codegen/chained.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from itertools import permutations

from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, linear_terms, product
from petaflop.ir.kernel import Block, axes_of, axis_size, loads_of
from petaflop.schedule.group import Group, Stage, in_order, is_contraction, leading, merge_groups
from petaflop.schedule.materialize import size_hint

__all__ = ["join_chains"]

_LEAST_ROWS = 128  # as many as several tasks have
_LEAST_IN_A_ROW = 8  # along the innermost of their axes: fewer are no register tile
_LEAST_WIDTH = 32  # elements of a row between the products: fewer are soon moved
_MOST_ROW_BYTES = 1 << 20  # of one value between the products, of which a task holds a few rows
_MOST_STEPS = 512  # multiply-adds for each element between them, beyond which moving it does not show


def join_chains(groups: list[Group], stages: Sequence[Stage], seen: Set[str]) -> list[Group]:
    """`groups` with products in a row joined, in an order in which they can run; `seen` names results
    that somebody other than a stage reads."""
    group_of = {number: group for group in groups for number in group.stages}
    readers: dict[int, set[int]] = {stage.number: set() for stage in stages}
    for stage in stages:
        for number in stage.reads | stage.apart:
            readers[number].add(stage.number)
    inside = {stage.number for stage in stages if readers[stage.number] and stage.name not in seen}
    search = _Search(stages, {stage.name: stage.number for stage in stages}, readers, inside)
    changed = False
    for last in groups:
        if group_of[last.stages[0]] is last and _product(last) is not None:
            joined = search.chain(last, min(last.stages), group_of)
            if joined is not None:
                group_of.update(dict.fromkeys(joined.stages, joined))
                changed = True
    if not changed:
        return groups
    return in_order(list({id(g): g for g in group_of.values()}.values()), stages, group_of)


def _product(group: Group) -> Block | None:
    """The product that a group begins with."""
    first = group.all_blocks[0]
    return first if is_contraction(first) else None


class _Search:
    """Looks for the nests before one that belong to its chain; `inside` are results that only stages read."""

    def __init__(
        self,
        stages: Sequence[Stage],
        by_name: Mapping[str, int],
        readers: Mapping[int, set[int]],
        inside: Set[int],
    ) -> None:
        self.stages, self.by_name, self.readers, self.inside = stages, by_name, readers, inside

    def chain(self, joined: Group, last: int, group_of: Mapping[int, Group]) -> Group | None:
        """`joined`, in which stage `last` is a product, and what comes before it back to another product, as
        one nest."""
        known = {**group_of, **dict.fromkeys(joined.stages, joined)}
        reads = {n for m in joined.stages for n in self.stages[m].reads} - set(joined.stages)
        for producer in {id(known[n]): known[n] for n in sorted(reads, reverse=True)}.values():
            merged = self._merged(producer, joined, known)
            if merged is not None:
                begins = _product(producer) is not None
                first = min(producer.stages)
                found = _by_rows(merged, first, last) if begins else self.chain(merged, last, known)
                if found is not None:
                    return found
        return None

    def _merged(self, producer: Group, consumer: Group, group_of: Mapping[int, Group]) -> Group | None:
        """The two over the rows that they have in common, if all that lies between them is read by row."""
        members = {*producer.stages, *consumer.stages}
        if any(n not in self.inside or self.readers[n] - members for n in producer.stages):
            return None
        merged = merge_groups(producer, consumer, self.stages, group_of, self.by_name, _no_obstacle)
        if isinstance(merged, str):
            return None
        names = {self.stages[n].name for n in producer.stages}
        return merged if all(_by_row(block, merged.common, names) for block in merged.all_blocks) else None


def _no_obstacle(*_: object) -> str:
    return ""


def _by_row(block: Block, common: tuple[Expr, ...], names: Set[str]) -> bool:
    """Whether a block reads each of `names` at its own rows alone, and a product another factor at others."""
    if block.ordered or any(r.scan for r in block.reductions):
        return False
    own = set(block.axes) - set(common)
    for read in loads_of(block.exprs):
        if read.arg[0] in names:
            used = axes_of(read.args)
            if not set(common) <= used or (is_contraction(block) and own & used):
                return False
    return True


def _by_rows(chain: Group, first: int, last: int) -> Group | None:
    """The chain with the axis of its rows as the innermost common one, if it is worth its while; its products
    are stages `first` and `last`."""
    products = [chain.blocks[number][0] for number in (first, last)]
    rows = [a for a in chain.common if all(_is_row(block, a, chain.common) for block in products)]
    if not rows:
        return None
    row = max(rows, key=lambda a: size_hint(axis_size(a)))
    common = (*(a for a in chain.common if a is not row), row)
    blocks = {n: tuple(leading(b, common) for b in members) for n, members in chain.blocks.items()}
    ordered = replace(chain, common=common, blocks=blocks, private=_MOST_ROW_BYTES)
    return ordered if _pays(ordered, blocks[first][0], blocks[last][0]) else None


def _is_row(block: Block, row: Expr, common: tuple[Expr, ...]) -> bool:
    """Whether a block is a product of rows with columns: `row` is in one factor alone and the block's one own
    axis in the other."""
    (r, *more) = block.reductions
    own = [a for a in block.axes if a not in common]
    if more or r.op is not Op.ADD or r.term.op is not Op.MUL or len(own) != 1:
        return False
    used = [axes_of((factor,)) for factor in r.term.args]
    pairs = permutations(used)
    return any(row in a and own[0] in b and not (row in b or own[0] in a) for a, b in pairs)


def _pays(chain: Group, first: Block, last: Block) -> bool:
    """Whether moving what is between the products would take long beside them, and a task can hold rows of
    it."""
    rows = [size_hint(axis_size(a)) for a in chain.common]
    if math.prod(rows) < _LEAST_ROWS or rows[-1] < _LEAST_IN_A_ROW:
        return False
    axes = {a for block in chain.all_blocks for a in (*block.axes, *block.reduce_axes)}
    if not all(isinstance(axis_size(a), int) for a in axes):
        return False
    place = [part for part in last.stores[0].index if part.op is not Op.CONST]
    if linear_terms(place[-1])[0].get(last.axes[-1]) != 1:  # its columns are not neighbours in memory
        return False
    folded = size_hint(product(axis_size(a) for a in first.reduce_axes))
    between, wide = size_hint(axis_size(first.axes[-1])), size_hint(axis_size(last.axes[-1]))
    itemsize = max(s.value.dtype.itemsize for s in first.stores)
    fits = between >= _LEAST_WIDTH and between * itemsize <= _MOST_ROW_BYTES
    return fits and folded + wide <= _MOST_STEPS
