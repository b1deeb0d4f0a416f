"""How a kernel becomes loops, as data: a Plan never changes what is computed.

A plan groups the kernel's blocks into nests; the directives of a nest say how its axes are joined, cut into
levels and bound. Axes are named as in the kernel; a directive holds for every block of the nest that has the
axis.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

__all__ = [
    "BINDS",
    "Chunk",
    "Fuse",
    "Join",
    "Matrix",
    "Nest",
    "Panel",
    "Plan",
    "Restrict",
    "Rewrite",
    "Rows",
    "Shift",
    "Split",
    "SplitReduce",
    "Stage",
    "StageRows",
    "Tile",
    "Window",
]

BINDS = ("thread", "serial", "block", "loop", "unroll", "vector")


@dataclass(frozen=True, slots=True)
class Fuse:
    """Neighbouring axes become one axis `into` of the product's size, the first of them outermost."""

    axes: tuple[str, ...]
    into: str

    def __str__(self) -> str:
        return f"fuse {' * '.join(self.axes)} -> {self.into}"


@dataclass(frozen=True, slots=True)
class Split:
    """Cut `axis` into levels, outermost first; `levels` are (bind, size of one step of that level).

    "thread" steps are tasks; "serial" steps are a loop; a "block" step of a reduce axis folds into a partial
    result of its own, which bounds the rounding error; "unroll" and "vector" steps stand innermost, below
    every reduce loop, and keep their results in registers ("loop" steps keep them in memory, and are not
    repeated in the code); a reduce axis has a power of two of them. `edge`
    says what happens to a last step that is not full: "peel" runs it one by one, "mask" runs it in full with
    what lies outside switched off.
    """

    axis: str
    levels: tuple[tuple[str, int], ...]
    edge: str = "peel"

    def __str__(self) -> str:
        return f"split {self.axis}: {', '.join(f'{bind} {size}' for bind, size in self.levels)}; {self.edge}"


@dataclass(frozen=True, slots=True)
class Join:
    """In `blocks`, parallel axes become one axis `into` of the product's size, the first of them
    outermost."""

    blocks: tuple[int, ...]
    axes: tuple[str, ...]
    into: str

    def __str__(self) -> str:
        return f"join {' * '.join(self.axes)} -> {self.into} in block {', '.join(map(str, self.blocks))}"


@dataclass(frozen=True, slots=True)
class Tile:
    """In `blocks`, an axis becomes `axis_t`, the number of a tile, and `axis_r` < `size`, the place in it.

    What a ragged last tile has outside a parallel axis is neither read nor written; outside a reduce axis,
    which a sum of products runs over, both factors are 0.
    """

    blocks: tuple[int, ...]
    axis: str
    size: int

    def __str__(self) -> str:
        return f"tile {self.axis} by {self.size} in block {', '.join(map(str, self.blocks))}"


@dataclass(frozen=True, slots=True)
class Stage:
    """Compute factor 0 or 1 of the product that `block` sums up beforehand, into panels with these axes in
    memory.

    A panel has room for whole tiles; what is outside a ragged axis is 0. With a `dtype` it holds the factor
    as it was before it was cast from that dtype. Where `together`, one point of the new block stores all that
    the last axis runs over. The new block stands before `block`: in a nest of its own, or with `shared` in
    the same nest, whose first axes become those first `shared` ones: then the panel holds what a point of
    these needs, and the other axes of the new block have `_p` at their ends.
    """

    block: int
    operand: int
    axes: tuple[str, ...]
    dtype: str = ""
    together: bool = False
    shared: int = 0

    def __str__(self) -> str:
        dtype = f" in {self.dtype}" if self.dtype else ""
        together = ", the last together" if self.together else ""
        inside = f", inside {', '.join(self.axes[: self.shared])}" if self.shared else ""
        axes = ", ".join(self.axes)
        return f"stage factor {self.operand} of block {self.block} as [{axes}]{dtype}{together}{inside}"


@dataclass(frozen=True, slots=True)
class Panel:
    """Compute factor 0 or 1 of the product that `block`, a nest of its own, sums up for `size` tiles at once.

    A new block before it in the nest packs the panels of tiles along `axis`, which Tile made. `axis_b`, the
    number of such a run, becomes common to both, after the other axes of the factor; `axis_i` is the place in
    it. The axes of the new block have `_p` at their ends.
    """

    block: int
    operand: int
    axis: str
    size: int

    def __str__(self) -> str:
        return f"panel of factor {self.operand} of block {self.block} for {self.size} of {self.axis}"


@dataclass(frozen=True, slots=True)
class Window:
    """Have factor 0 or 1 of the product that `block` sums up, which reads sums of axes, read a padded copy.

    Where `lanes` steps over elements the copy is in phases, so that neighbours in it are neighbours in
    memory; it has room for `lanes` rounded up to `multiple`. The new block stands before `block`.
    """

    block: int
    operand: int
    lanes: str
    multiple: int

    def __str__(self) -> str:
        return (
            f"window factor {self.operand} of block {self.block} along {self.lanes}, "
            f"in multiples of {self.multiple}"
        )


@dataclass(frozen=True, slots=True)
class Shift:
    """Make factor 0 or 1 of the product that `block` sums up, a cast of 8-bit integers, one of the other
    signedness: each value moves by half the range, and what that adds to a sum is taken from the result.

    It is a multiple of the sum of the other factor, which a new block before `block` computes.
    """

    block: int
    operand: int

    def __str__(self) -> str:
        return f"shift factor {self.operand} of block {self.block} to the other signedness"


@dataclass(frozen=True, slots=True)
class SplitReduce:
    """Cut a reduce axis of `block` into runs of `size`, folded apart and then merged, in another phase."""

    block: int
    axis: str
    size: int

    def __str__(self) -> str:
        return f"split_reduce block {self.block}: {self.axis} by {self.size}"


@dataclass(frozen=True, slots=True)
class Matrix:
    """Sum the products of a nest up by an instruction of the target, by its name.

    Its tiles cover the steps of `m` and `n` that stand innermost, and all of the reduce axes `k`.
    """

    instruction: str
    m: str
    n: str
    k: tuple[str, ...]

    def __str__(self) -> str:
        return f"matrix {self.instruction} on {self.m} x {self.n} x {' x '.join(self.k)}"


@dataclass(frozen=True, slots=True)
class Rows:
    """The innermost axis that `blocks`, a whole nest, have in common, in tiles of `size`.

    `axis_t`, the number of a tile, stays common; the place in it is an axis of each block's own, `axis_rn`
    for the n-th of them. Temporaries of a point become temporaries of a tile.
    """

    blocks: tuple[int, ...]
    axis: str
    size: int

    def __str__(self) -> str:
        return f"rows of {self.axis} by {self.size} in block {', '.join(map(str, self.blocks))}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Have `block` add up `size` elements of a reduce axis for all points of its own axes before the next
    ones.

    `axis_b` is the number of a chunk and `axis_i` the place in it; blocks before and after clear and read the
    totals.
    """

    block: int
    axis: str
    size: int

    def __str__(self) -> str:
        return f"chunk {self.axis} by {self.size} in block {self.block}"


@dataclass(frozen=True, slots=True)
class Restrict:
    """Have `blocks`, a nest of tiles of rows, leave out columns for which conditions on indices leave one
    value a row.

    What those columns give is computed once for each row; sums that all rows share stand in nests before.
    """

    blocks: tuple[int, ...]

    def __str__(self) -> str:
        return f"restrict columns in block {', '.join(map(str, self.blocks))}"


@dataclass(frozen=True, slots=True)
class StageRows:
    """Compute factor 0 or 1 of the product that `block` sums up for the rows of its nest's tile, in a block
    before it in the nest; its reduce axes are `axis_m` there."""

    block: int
    operand: int

    def __str__(self) -> str:
        return f"stage factor {self.operand} of block {self.block} for a tile of rows"


Rewrite = Join | Tile | Stage | Panel | Window | Shift | SplitReduce | Rows | Restrict | StageRows | Chunk


@dataclass(frozen=True, slots=True)
class Nest:
    """Blocks (by number) that share their common outer loops, and how those loops run.

    `order` names the outer loops as "axis.level" from the outside in; what is not named keeps the kernel's
    order.
    """

    blocks: tuple[int, ...]
    fuse: tuple[Fuse, ...] = ()
    split: tuple[Split, ...] = ()
    order: tuple[str, ...] = ()
    matrix: Matrix | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a whole kernel: rewrites of its blocks, one after another, then the nests of what they
    give.

    The block numbers of a directive count the blocks that it finds.
    """

    name: str
    nests: tuple[Nest, ...]
    rewrites: tuple[Rewrite, ...] = ()

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(_data(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote."""
        plan = _object(json.loads(text))
        assert isinstance(plan, cls)
        return plan

    def __str__(self) -> str:
        lines = [f"PLAN {self.name}", *(f"  {rewrite}" for rewrite in self.rewrites)]
        for nest in self.nests:
            lines.append(f"  nest {', '.join(map(str, nest.blocks))}:")
            lines += [f"    {directive}" for directive in (*nest.fuse, *nest.split)]
            lines += [f"    order {', '.join(nest.order)}"] if nest.order else []
            lines += [f"    {nest.matrix}"] if nest.matrix else []
        return "\n".join(lines)


_REWRITES = (Chunk, Join, Panel, Restrict, Rows, Shift, SplitReduce, Stage, StageRows, Tile, Window)
_KINDS = (*_REWRITES, Fuse, Matrix, Nest, Plan, Split)
_TYPES = {kind.__name__: kind for kind in _KINDS}


def _data(value: Any) -> Any:
    if type(value).__name__ in _TYPES:
        return {"is": type(value).__name__, **{f.name: _data(getattr(value, f.name)) for f in fields(value)}}
    return [_data(item) for item in value] if isinstance(value, tuple) else value


def _object(data: Any) -> Any:
    if isinstance(data, list):
        return tuple(_object(item) for item in data)
    if isinstance(data, dict):
        return _TYPES[data["is"]](**{name: _object(item) for name, item in data.items() if name != "is"})
    return data
