"""The device `minimal`: each block of a kernel is evaluated over its whole domain, as NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from petaflop import plugin_api as api

__all__ = ["MinimalBackend"]

Array = Any
MANY = 1 << 22  # points of a block; beyond, its first axis is walked one by one
MEANING: dict[Any, Any] = {op: spec.numpy for op, spec in api.SPEC.items()} | {api.Native.MOD: np.mod}
FOLDS = {api.Op.ADD: np.add, api.Op.MUL: np.multiply, api.Op.MAX: np.maximum}
# float32 NumPy is off by more than the op spec allows: these are computed in float64
APPROXIMATE = (api.Op.SQRT, api.Op.EXP2, api.Op.LOG2, api.Op.SIN)


def cast(x: Array, dtype: api.DType) -> Array:
    """CAST: floats saturate, NaN gives 0, integers wrap."""
    if x.dtype.kind != "f" or dtype.kind in "fb":
        return x.astype(dtype.numpy)
    low, high = dtype.numpy.type(dtype.min), dtype.numpy.type(dtype.max)
    inside = (x > float(low)) & (x < float(high))
    ends = np.where(x >= float(high), high, low * (x == x))
    return np.where(inside, np.where(inside, x, 0).astype(dtype.numpy), ends)


class Domain:
    """A block's points: what is known there, by expression, and the arrays that loads and stores name."""

    def __init__(self, arrays: Mapping[str, Array], known: Mapping[api.Expr, Array]) -> None:
        self.arrays, self.known = arrays, dict(known)

    def __getitem__(self, root: api.Expr) -> Array:
        for expr in api.topological((root,)):
            if expr not in self.known:
                self.known[expr] = self.compute(expr)
        return self.known[root]

    def compute(self, expr: api.Expr) -> Array:
        """One expression, whose operands are known."""
        if expr.op is api.Op.CONST:
            return np.asarray(expr.arg, expr.dtype.numpy)
        args = [self.known[arg] for arg in expr.args]
        if expr.op is api.Leaf.LOAD:
            return self.load(expr, *args)
        if expr.op is api.Op.CAST:
            return np.asarray(cast(args[0], expr.dtype))
        if expr.op is api.Op.BITCAST:
            return np.asarray(args[0], order="C").view(expr.dtype.numpy)
        if expr.op in APPROXIMATE:
            args = [x.astype(np.float64) for x in args]
        return np.asarray(MEANING[expr.op](*args)).astype(expr.dtype.numpy, copy=False)

    def load(self, expr: api.Expr, valid: Array, *index: Array) -> Array:
        """Elements where `valid`, the fill value elsewhere: what is not selected is never read."""
        name, fill = expr.arg
        valid, *place = np.broadcast_arrays(valid, *index)
        result = np.full(valid.shape, fill, expr.dtype.numpy)
        result[valid] = self.arrays[name][tuple(i[valid] for i in place)]
        return result

    def store(self, block: api.Block, shape: Sequence[int]) -> None:
        """All stores of a block; their values are computed before the first is written."""
        parts = [(s.valid, s.value, *s.index) for s in block.stores]
        found = [[np.broadcast_to(self[e], shape) for e in exprs] for exprs in parts]
        for store, (valid, value, *index) in zip(block.stores, found, strict=True):
            target, place = self.arrays[store.buffer], tuple(i[valid] for i in index)
            if not valid.any():
                continue
            if store.accumulate is not None:
                FOLDS[store.accumulate].at(target, place, value[valid])
            else:
                target[place] = value[valid] if place else value[valid][-1]


def run(block: api.Block, arrays: Mapping[str, Array], fixed: Mapping[api.Expr, int]) -> None:
    """A block whose variables, and maybe some of its axes, are fixed."""
    every = [*block.axes, *block.reduce_axes]
    sizes = {a: 1 if a in fixed else api.evaluate(api.axis_size(a), fixed) for a in every}
    free = [a for a in block.axes if a not in fixed]
    if free and math.prod(sizes.values()) > MANY:
        for number in range(sizes[free[0]]):
            run(block, arrays, {**fixed, free[0]: number})
        return
    domain = Domain(arrays, {expr: np.asarray(number) for expr, number in fixed.items()})
    grid = np.ogrid[tuple(slice(fixed.get(a, 0), fixed.get(a, 0) + sizes[a]) for a in every)]
    domain.known.update(zip(every, grid, strict=True))
    shape = [sizes[a] if a in block.axes else 1 for a in every]
    for r in block.reductions:
        if r.op is not None and not r.scan:
            fold(r, domain, [every.index(a) for a in r.axes])
        else:
            step(r, domain, block if r.scan else None, shape)
    if not any(r.scan for r in block.reductions):
        domain.store(block, shape)


def fold(r: api.Reduction, domain: Domain, dims: Sequence[int]) -> None:
    """A sum, product or maximum over whole dimensions; floats in float64."""
    state, term = r.states[0], domain[r.term]
    term = np.broadcast_to(term, np.broadcast_shapes(term.shape, *(domain.known[a].shape for a in r.axes)))
    wide = term.astype(np.float64) if state.dtype.kind == "f" else term
    total = FOLDS[r.op].reduce(wide, axis=tuple(dims), keepdims=True, initial=domain[state.initial].item())  # type: ignore[index]
    domain.known[state.expr] = np.asarray(total).astype(state.dtype.numpy)


def step(r: api.Reduction, domain: Domain, scanned: api.Block | None, shape: Sequence[int]) -> None:
    """Any other reduction, one step after the other; a scan stores at each step."""
    names = [s.expr for s in r.states]
    states = [domain[s.initial] for s in r.states]
    outside = {e: x for e, x in domain.known.items() if e.op in (api.Leaf.AXIS, api.Leaf.STATE, api.Op.VAR)}
    for point in np.ndindex(*(domain.known[a].size for a in r.axes)):
        known = outside | {a: np.asarray(number) for a, number in zip(r.axes, point, strict=True)}
        before = Domain(domain.arrays, known | dict(zip(names, states, strict=True)))
        states = [before[after] for after in r.step]
        if scanned is not None:
            Domain(domain.arrays, known | dict(zip(names, states, strict=True))).store(scanned, shape)
    domain.known.update(zip(names, states, strict=True))


class MinimalBackend(api.Backend):
    """A handle is an array of bytes. What each method is for, the base class says."""

    name = "minimal"
    version = "1"
    capabilities = api.Capabilities(
        dtypes={name: "native" for name, d in api.DTYPES.items() if d.kind != "f" or d.itemsize > 2}
    )

    def allocate(self, size: int) -> Array:
        try:
            return np.empty(size, np.uint8)
        except MemoryError as error:
            raise api.DeviceMemoryError(f"allocate: expected {size} bytes to be free, got none") from error

    def copy_in(self, handle: Array, offset: int, data: memoryview) -> None:
        handle[offset : offset + data.nbytes] = np.frombuffer(data, np.uint8)

    def copy_out(self, data: memoryview, handle: Array, offset: int) -> None:
        np.frombuffer(data, np.uint8)[:] = handle[offset : offset + data.nbytes]

    def interpret(self, kernel: api.Kernel) -> api.Launch:
        """A function that runs the blocks in order."""

        def launch(buffers: Sequence[tuple[Any, int]], variables: Sequence[int]) -> None:
            bound = dict(zip(kernel.variables, variables, strict=True))
            handles = [*buffers, *((None, 0) for _ in kernel.temporaries)]
            arrays = {}
            for buffer, (handle, offset) in zip(kernel.buffers, handles, strict=True):
                shape = tuple(api.evaluate(size, bound) for size in buffer.shape)
                size = math.prod(shape) * buffer.dtype.itemsize
                memory = np.empty(size, np.uint8) if handle is None else handle[offset : offset + size]
                arrays[buffer.name] = memory.view(buffer.dtype.numpy).reshape(shape)
            with np.errstate(all="ignore"):
                for block in kernel.blocks:
                    run(block, arrays, bound)

        return launch
