"""Operators whose results are as long as the data says: NonZero, Unique, NonMaxSuppression.

The numbers of results are read; all else is Tensor code.
"""

from __future__ import annotations

import numpy as np

from petaflop import Tensor
from petaflop.dtype import int64
from petaflop_onnx.host import normalize_axis
from petaflop_onnx.operators.common import Array, shape_of
from petaflop_onnx.table import Call, operator


@operator("NonZero", 9, 13, reads=True)
def _nonzero(_: Call, x: Tensor) -> Tensor:
    """[rank, count]; of a tensor without axes, [0, count]."""
    if x.ndim == 0:
        return Tensor.zeros(0, int(bool(x.item())), dtype=int64, device=x.device)
    return (x != 0).nonzero().cast(int64).transpose(0, 1)


def _places(flags: Tensor) -> Tensor:
    """Where a row of flags is true."""
    return flags.nonzero().cast(int64).reshape(-1)


@operator("Unique", 11, 28, reads=True)
def _unique(call: Call, x: Tensor) -> tuple[Tensor, ...]:
    axis = call.get("axis")
    rows = x.reshape(-1, 1) if axis is None else x.movedim(axis, 0).reshape(shape_of(x)[axis], -1)
    count, width = shape_of(rows)
    order = Tensor.arange(count, device=x.device).cast(int64)
    for column in reversed(range(width)):  # stable, so that the first column decides
        order = order[rows[:, column][order].argsort(stable=True).cast(int64)]
    ordered = rows[order]
    fresh = (ordered[1:] != ordered[:-1]).any(1)
    fresh = Tensor.ones(min(count, 1), dtype=fresh.dtype, device=x.device).cat(fresh)
    starts = _places(fresh)
    groups = shape_of(starts)[0]
    first = order[starts]  # of equal rows, the sort kept the earliest in front
    group = fresh.cast(int64).cumsum(0) - 1
    inverse = Tensor.zeros(count, dtype=int64, device=x.device).scatter(0, order, group)
    ends = starts[1:].cat(Tensor.full((min(groups, 1),), count, dtype=int64, device=x.device))
    counts = ends - starts
    if not call["sorted"]:
        shuffle = first.argsort(stable=True).cast(int64)
        first, counts = first[shuffle], counts[shuffle]
        places = Tensor.arange(groups, device=x.device).cast(int64)
        inverse = Tensor.zeros(groups, dtype=int64, device=x.device).scatter(0, shuffle, places)[inverse]
    if axis is None:
        values = x.reshape(-1)[first]
    else:
        values = x[(slice(None),) * normalize_axis(axis, x.ndim) + (first,)]
    return values, first, inverse, counts


def _corners(boxes: Tensor, centred: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lower and upper ends of both axes; corners may be given in any order."""
    a, b, c, d = (boxes[:, k] for k in range(4))
    if centred:
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return a.minimum(c), b.minimum(d), a.maximum(c), b.maximum(d)


def _overlaps(boxes: Tensor, centred: bool) -> Tensor:
    """Intersection over union of every two boxes, [n, n]."""
    low_a, low_b, high_a, high_b = _corners(boxes, centred)
    area = (high_a - low_a) * (high_b - low_b)

    def common(low: Tensor, high: Tensor) -> Tensor:
        return (high.unsqueeze(1).minimum(high) - low.unsqueeze(1).maximum(low)).maximum(0)

    shared = common(low_a, high_a) * common(low_b, high_b)
    whole = area.unsqueeze(1) + area - shared
    return (whole > 0).where(shared / whole, 0)


def _survivors(hits: Tensor) -> Tensor:
    """Which boxes, best first, no better survivor hits: repeated until nothing changes."""
    count = shape_of(hits)[0]
    place = Tensor.arange(count, device=hits.device)
    better = hits & (place.unsqueeze(1) < place)  # [by, of]
    kept = Tensor.ones(count, dtype=better.dtype, device=hits.device)
    while True:
        now = (better & kept.unsqueeze(1)).any(0).logical_not()
        if not (now != kept).any().item():
            return now
        kept = now.realize()


@operator("NonMaxSuppression", 10, 11, host=(2, 3, 4), reads=True)
def _non_max_suppression(
    call: Call,
    boxes: Tensor,
    scores: Tensor,
    most: Array | None = None,
    overlap: Array | None = None,
    threshold: Array | None = None,
) -> Tensor:
    """[count, 3] of (batch, class, box), each class's best box first."""
    limit = 0 if most is None else int(most.item())
    found = []
    for batch in range(shape_of(boxes)[0]):
        for kind in range(shape_of(scores)[1] if limit > 0 else 0):
            row = scores[batch, kind]
            order = row.argsort(descending=True, stable=True).cast(int64)
            if threshold is not None:
                order = order[_places(row[order] > float(threshold.item()))]
            if not shape_of(order)[0]:
                continue
            hits = _overlaps(boxes[batch][order], bool(call["center_point_box"]))
            hits = hits > (0.0 if overlap is None else float(overlap.item()))
            chosen = order[_places(_survivors(hits))[:limit]].reshape(-1, 1)
            head = np.asarray([[batch, kind]], np.int64)
            found.append(Tensor(head, device=boxes.device).expand(shape_of(chosen)[0], 2).cat(chosen, dim=1))
    if not found:
        return Tensor.zeros(0, 3, dtype=int64, device=boxes.device)
    return found[0].cat(*found[1:]) if len(found) > 1 else found[0]
