"""The first verb: differentiate. Reverse mode from graph to graph, so a gradient can be differentiated again.

`RULES` has one row per operation: from the node and the gradient of its value to those of its sources. It
refuses nothing: what has no gradient (integers, bools, detached values) contributes none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from petaflop.dtype import bool_
from petaflop.errors import GradientError, ShapeError
from petaflop.graph.adjoint import Phases, pad_adjoint, sum_axes, window_adjoint
from petaflop.graph.derivatives import (
    drop,
    equal,
    gather_gradient,
    keep,
    negative,
    number,
    reduce_gradient,
    scan_gradient,
    scatter_gradient,
)
from petaflop.graph.node import Node, cast, compute, const, copy
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim
from petaflop.graph.view import flip, pad, permute, reshape, shrink, window

__all__ = ["RULES", "gradient"]

Gradients = Sequence["Node | Phases | None"]


def gradient(outputs: Sequence[Node], seeds: Sequence[Node], targets: Sequence[Node]) -> list[Node | None]:
    """d(Σ outputs · seeds) / d(target) of each target, of its shape and dtype; None where there is none.

    Contributions are added in one order, which depends on the graph alone. Only nodes on a path to a target
    are visited, realized ones as well.
    """
    for output, seed in zip(outputs, seeds, strict=True):
        if seed.shape != output.shape or seed.dtype is not output.dtype:
            raise ShapeError(
                f"gradient: expected a seed {output.dtype}{list(output.shape)}, "
                f"got {seed.dtype}{list(seed.shape)}"
            )
    path = _path(outputs, targets)
    on_path = set(path)
    found: dict[Node, Node | Phases] = {}
    for output, seed in zip(outputs, seeds, strict=True):
        if output in on_path:
            _contribute(found, output, seed)
    wanted = set(targets)
    results: dict[Node, Node] = {}
    for node in reversed(path):
        grad = found.pop(node, None)
        if grad is None:
            continue
        if node in wanted:
            grad = results[node] = _whole(grad)
        if not any(source in on_path for source in node.sources):
            continue
        if node.op not in _TAKES_PHASES:
            grad = _whole(grad)
        for source, part in zip(node.sources, RULES[node.op](node, grad), strict=True):
            if part is not None and source in on_path:
                _contribute(found, source, part)
    return [results.get(target) for target in targets]


def _path(outputs: Sequence[Node], targets: Sequence[Node]) -> list[Node]:
    """The differentiable nodes between outputs and targets, sources before users."""
    marked = all(target.needs_gradient for target in targets)  # then whatever leads there is marked as well
    reaches = set(targets)
    seen: set[Node] = set()
    order: list[Node] = []
    stack: list[tuple[Node, bool]] = [(output, False) for output in reversed(outputs)]
    while stack:
        node, ready = stack.pop()
        if ready:
            if node in reaches or any(source in reaches for source in node.sources):
                reaches.add(node)
                order.append(node)
        elif node not in seen and node.dtype.is_float and (node.needs_gradient or not marked):
            seen.add(node)
            stack.append((node, True))
            if node.op is not Op.DETACH:
                stack.extend((source, False) for source in reversed(node.sources))
    return order


def _contribute(found: dict[Node, Node | Phases], node: Node, part: Node | Phases) -> None:
    before = found.get(node)
    if before is None or _is_zero(before):
        found[node] = part
    elif not _is_zero(part):
        found[node] = compute(Op.ADD, _whole(before), _whole(part))


def _is_zero(grad: Node | Phases) -> bool:
    return isinstance(grad, Node) and grad.op is Op.CONST and grad.arg == 0


def _whole(grad: Node | Phases) -> Node:
    return grad.whole() if isinstance(grad, Phases) else grad


def _one(part: Node | Phases | None) -> Gradients:
    return (part,)


# ---- compute ----


def _mul(node: Node, grad: Node) -> Gradients:
    a, b = node.sources
    return compute(Op.MUL, grad, b), compute(Op.MUL, grad, a)


def _div(node: Node, grad: Node) -> Gradients:
    scaled = compute(Op.DIV, grad, node.sources[1])
    return scaled, negative(compute(Op.MUL, scaled, node))


def _max(node: Node, grad: Node) -> Gradients:
    """All of the gradient to the larger, half to each at a tie, to both where either is NaN."""
    a, b = node.sources
    shared = compute(Op.WHERE, equal(a, b), compute(Op.MUL, grad, number(0.5, grad)), grad)
    return drop(compute(Op.LT, a, b), shared), drop(compute(Op.LT, b, a), shared)


def _where(node: Node, grad: Node) -> Gradients:
    condition = node.sources[0]
    return None, keep(condition, grad), drop(condition, grad)


def _sqrt(node: Node, grad: Node) -> Gradients:
    return _one(compute(Op.DIV, grad, compute(Op.ADD, node, node)))


def _exp2(node: Node, grad: Node) -> Gradients:
    return _one(compute(Op.MUL, compute(Op.MUL, grad, node), number(math.log(2), grad)))


def _log2(node: Node, grad: Node) -> Gradients:
    x = node.sources[0]
    return _one(compute(Op.DIV, grad, compute(Op.MUL, x, number(math.log(2), x))))


def _sin(node: Node, grad: Node) -> Gradients:
    """cos x = 1 − 2·sin²(x/2), which keeps its accuracy for large x."""
    x = node.sources[0]
    half = compute(Op.SIN, compute(Op.MUL, x, number(0.5, x)))
    lost = compute(Op.MUL, compute(Op.MUL, half, half), number(-2, x))
    return _one(compute(Op.MUL, grad, compute(Op.ADD, lost, number(1, x))))


# ---- views ----


def _expand(node: Node, grad: Node) -> Gradients:
    old = node.sources[0].shape
    axes = tuple(k for k, (a, b) in enumerate(zip(old, node.shape, strict=True)) if a != b)
    return _one(sum_axes(grad, axes))


def _permute(node: Node, grad: Node | Phases) -> Gradients:
    return _one(_permuted(grad, node.arg))


def _permuted(grad: Node | Phases, order: tuple[int, ...]) -> Node | Phases:
    if isinstance(grad, Phases):
        return grad.map(lambda part: _permuted(part, order), order[grad.axis])
    return permute(grad, tuple(order.index(k) for k in range(len(order))))


def _pad(node: Node, grad: Node) -> Gradients:
    ranges = (
        (before, before + size) for size, (before, _) in zip(node.sources[0].shape, node.arg, strict=True)
    )
    return _one(pad_adjoint(grad, tuple(ranges)))


def _shrink(node: Node, grad: Node) -> Gradients:
    ends = zip(node.sources[0].shape, node.arg, strict=True)
    return _one(pad(grad, tuple((start, size - stop) for size, (start, stop) in ends)))


# ---- effects ----


def _assign(node: Node, grad: Node) -> Gradients:
    region = node.arg
    if region is None:
        return None, grad
    inside, covered = grad, const(True, bool_, node.sources[1].shape)
    backwards = tuple(axis for axis, (_, count, step) in enumerate(region) if step < 0)
    for axis, (start, count, step) in enumerate(region):
        first = start if step > 0 else start + (count - 1) * step
        inside = _every(inside, axis, first, count, abs(step))
        covered = _spread(covered, axis, first, abs(step), node.shape[axis])
    return drop(covered, grad), flip(inside, backwards)


def _every(x: Node, axis: int, start: Dim, count: Dim, step: int) -> Node:
    """x[start::step][:count] of `axis`."""
    if count == 0:
        step = 1
    ranges: list[tuple[Dim, Dim]] = [(0, size) for size in x.shape]
    ranges[axis] = (start, start + count + (count - 1) * (step - 1) if step > 1 else start + count)
    x = shrink(x, tuple(ranges))
    if step == 1:
        return x
    taps = window(x, axis, 1, step)
    return reshape(taps, taps.shape[:-1])


def _spread(x: Node, axis: int, start: Dim, step: int, length: Dim) -> Node:
    """The inverse of `_every`: x at start, start + step, … of an axis of `length`, zero (false) elsewhere."""
    count = x.shape[axis]
    if step > 1 and count != 0:
        shape = x.shape
        x = reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
        x = pad(x, tuple((0, step - 1 if k == axis + 1 else 0) for k in range(len(x.shape))))
        x = reshape(x, (*shape[:axis], count * step, *shape[axis + 1 :]))
        count = count * step - (step - 1)
        x = shrink(x, tuple((0, count if k == axis else size) for k, size in enumerate(x.shape)))
    return pad(
        x, tuple((start, length - start - count) if k == axis else (0, 0) for k in range(len(x.shape)))
    )


def _copy(node: Node, grad: Node) -> Gradients:
    device = node.sources[0].device
    assert device is not None
    return _one(copy(grad, device))


def _custom(node: Node, grad: Node) -> Gradients:
    parts = tuple(node.arg.gradient(node, grad))
    for source, part in zip(node.sources, parts, strict=True):
        if part is not None and (part.shape != source.shape or part.dtype is not source.dtype):
            raise GradientError(
                f"{node.arg.name}: expected a gradient {source.dtype}{list(source.shape)}, "
                f"got {part.dtype}{list(part.shape)}"
            )
    return parts


def _none(node: Node, grad: Node) -> Gradients:
    return (None,) * len(node.sources)


def _same(node: Node, grad: Node) -> Gradients:
    return (grad,) * len(node.sources)


RULES: dict[Op, Callable[..., Gradients]] = {
    Op.ADD: _same,
    Op.MUL: _mul,
    Op.DIV: _div,
    Op.MAX: _max,
    Op.LT: _none,
    Op.NE: _none,
    Op.AND: _none,
    Op.WHERE: _where,
    Op.SQRT: _sqrt,
    Op.EXP2: _exp2,
    Op.LOG2: _log2,
    Op.SIN: _sin,
    Op.REDUCE: reduce_gradient,
    Op.SCAN: scan_gradient,
    Op.CAST: lambda node, grad: _one(cast(grad, node.sources[0].dtype)),
    Op.BITCAST: _none,
    Op.CONST: _none,
    Op.BUFFER: _none,
    Op.VAR: _none,
    Op.IOTA: _none,
    Op.RESHAPE: lambda node, grad: _one(reshape(grad, node.sources[0].shape)),
    Op.PERMUTE: _permute,
    Op.EXPAND: _expand,
    Op.PAD: _pad,
    Op.SHRINK: _shrink,
    Op.FLIP: lambda node, grad: _one(flip(grad, node.arg)),
    Op.WINDOW: lambda node, grad: _one(window_adjoint(grad, node)),
    Op.GATHER: gather_gradient,
    Op.SCATTER: scatter_gradient,
    Op.ASSIGN: _assign,
    Op.COPY: _copy,
    Op.REALIZE: _same,
    Op.DETACH: _none,
    Op.CUSTOM: _custom,
}
_TAKES_PHASES = frozenset((Op.PERMUTE, Op.WINDOW))
