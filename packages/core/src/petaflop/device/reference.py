"""The reference device: it interprets kernels in NumPy, and so is the living definition of the ops.

Slow and plain on purpose. A block is evaluated over its whole domain as broadcast arrays, in slices along its
largest axis so that memory stays bounded. Floats narrower than float64 are reduced in float64 and rounded
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from petaflop.device.backend import Backend, Capabilities, Launch
from petaflop.dtype import DTYPES, DType, bool_
from petaflop.errors import DeviceMemoryError
from petaflop.graph.ops import SPEC, Native, Op
from petaflop.graph.symbolic import TRUE, Expr, Leaf, evaluate, topological
from petaflop.ir.kernel import Argument, Block, Kernel, Reduction, Store, Temporary, axis_size

__all__ = ["ReferenceBackend", "cast_array"]

Array = np.ndarray[Any, Any]
_MAX_POINTS = 1 << 22


def cast_array(values: Array, dtype: DType) -> Array:
    """CAST as the op spec says: round to nearest even, saturate to integers, NaN to 0, wrap between
    integers."""
    kind = "f" if values.dtype.kind in "fV" else values.dtype.kind
    if dtype is bool_:
        return values != 0
    if not (dtype.is_integer and kind == "f"):
        return _round_once(values, dtype).astype(dtype.numpy)
    wide = values.astype(np.float64)
    if dtype.bits < 64:
        limited = np.clip(np.nan_to_num(wide, nan=0.0), dtype.min, dtype.max)
        return np.trunc(limited).astype(dtype.numpy)
    # the greatest 64-bit integer is no float64: saturate by comparison
    inside = (wide > float(dtype.min) - 1) & (wide < float(dtype.max)) & ~np.isnan(wide)
    result = np.where(inside, wide, 0.0).astype(dtype.numpy)
    result = np.where(wide >= float(dtype.max), dtype.numpy.type(dtype.max), result)
    return np.where(wide <= float(dtype.min), dtype.numpy.type(dtype.min), result)


def _round_once(values: Array, dtype: DType) -> Array:
    """Wide values as float32 rounded to odd: ml_dtypes goes through float32, and would round them twice."""
    exact = 4 if values.dtype.kind in "fV" else 2  # bytes of what float32 holds as it is
    if dtype.mantissa not in range(1, 10) or values.dtype.itemsize <= exact:
        return values
    wide = values.astype(np.float64)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        number = values.dtype.type
        odd = (values & ~number(2047)) | np.where(values & number(2047), number(2048), number(0))
        wide = np.where(np.abs(wide) < 2.0**53, wide, odd.astype(np.float64))
    near = wide.astype(np.float32)
    inexact = np.isfinite(near) & (near.astype(np.float64) != wide) & (near.view(np.uint32) & 1 == 0)
    toward = np.where(near.astype(np.float64) < wide, np.float32(np.inf), np.float32(-np.inf))
    return np.where(inexact, np.nextafter(near, toward), near)


_TRANSCENDENTAL = (Op.SQRT, Op.EXP2, Op.LOG2, Op.SIN)


def _compute(op: Op | Native, args: list[Array], dtype: DType) -> Array:
    if op is Native.MOD:
        return np.mod(args[0], args[1])
    operator = SPEC[op].numpy if isinstance(op, Op) else None
    assert operator is not None, op
    if op in _TRANSCENDENTAL and dtype.bits < 64:
        return np.asarray(operator(args[0].astype(np.float64))).astype(dtype.numpy)
    return np.asarray(operator(*args))


class _Grid:
    """One slice of a block's domain: every axis as an array along its own dimension, and the values so
    far."""

    def __init__(
        self, arrays: Mapping[str, Array], ranges: Mapping[Expr, range], variables: Mapping[Expr, int]
    ) -> None:
        self.arrays = arrays
        self.variables = variables
        self.values: dict[Expr, Array] = {}
        self.shape = tuple(len(r) for r in ranges.values())
        for position, (axis, numbers) in enumerate(ranges.items()):
            shape = [1] * len(ranges)
            shape[position] = len(numbers)
            self.values[axis] = np.arange(numbers.start, numbers.stop, dtype=np.int64).reshape(shape)

    def evaluate(self, root: Expr) -> Array:
        for expr in topological((root,)):
            if expr not in self.values:
                self.values[expr] = self._evaluate(expr)
        return self.values[root]

    def _evaluate(self, expr: Expr) -> Array:
        if expr.op is Op.CONST:
            return np.asarray(expr.arg, expr.dtype.numpy)
        if expr.op is Op.VAR:
            return np.asarray(self.variables[expr], np.int64)
        args = [self.values[arg] for arg in expr.args]
        if expr.op is Leaf.LOAD:
            return self._load(expr, args)
        if expr.op is Op.CAST:
            return np.asarray(cast_array(args[0], expr.dtype))
        if expr.op is Op.BITCAST:
            return np.asarray(args[0], order="C").view(
                expr.dtype.numpy
            )  # ascontiguousarray makes scalars 1-d
        assert expr.op not in (Leaf.AXIS, Leaf.STATE), f"{expr} is not in scope"
        return _compute(expr.op, args, expr.dtype)

    def _load(self, expr: Expr, args: list[Array]) -> Array:
        name, fill = expr.arg
        source = self.arrays[name]
        valid, position = args[0], args[1:]
        if expr.args[0] is TRUE:
            return np.asarray(source[tuple(position)] if position else source[()])
        shape = np.broadcast_shapes(valid.shape, *(p.shape for p in position))
        result = np.full(shape, fill, source.dtype)
        selected = np.broadcast_to(valid, shape)
        where = tuple(np.broadcast_to(p, shape)[selected] for p in position)
        assert all((w >= 0).all() for w in where), f"{expr}: negative index"
        result[selected] = source[where]
        return result


def _fold(r: Reduction, grid: _Grid, dims: tuple[int, ...]) -> list[Array]:
    """The finished states of a simple reduction, with the reduced dimensions kept as 1 (or run along, for a
    scan)."""
    assert r.op is not None
    term = grid.evaluate(r.term)
    shape = list(np.broadcast_shapes(term.shape, *(grid.values[a].shape for a in r.axes)))
    full = np.broadcast_to(term, shape)
    dtype = r.states[0].dtype
    wide = full.astype(np.float64) if dtype.is_float and r.op is not Op.MAX else full
    operator = {Op.ADD: np.add, Op.MUL: np.multiply, Op.MAX: np.maximum}[r.op]
    if dtype is bool_:
        operator = np.logical_and if r.op is Op.MUL else np.logical_or
    exact: dict[str, Any] = {} if dtype.is_float or dtype is bool_ else {"dtype": dtype.numpy}
    if r.op is Op.MAX:
        exact = {}
    if r.scan:  # along all its axes as one, the last the fastest
        last = tuple(range(wide.ndim - len(dims), wide.ndim))
        moved = np.moveaxis(wide, dims, last)
        line = moved.reshape(*moved.shape[: last[0]], -1)
        running = operator.accumulate(line, axis=-1, **exact).reshape(moved.shape)
        return [np.moveaxis(running, last, dims).astype(dtype.numpy)]
    initial = {"initial": dtype.numpy.type(dtype.min)} if r.op is Op.MAX and dtype is not bool_ else {}
    return [
        np.asarray(operator.reduce(wide, axis=dims, keepdims=True, **exact, **initial)).astype(dtype.numpy)
    ]


def _fold_states(
    r: Reduction, grid: _Grid, dims: tuple[int, ...], variables: Mapping[Expr, int]
) -> list[Array]:
    """The finished states of a tuple reduction, one element after the other."""
    states = [grid.evaluate(s.initial) for s in r.states]
    for point in np.ndindex(*(evaluate(axis_size(a), variables) for a in r.axes)):
        inner = _Grid(grid.arrays, {}, grid.variables)
        inner.values = {e: v for e, v in grid.values.items() if e.op in (Leaf.AXIS, Leaf.STATE)}
        for axis, position in zip(r.axes, point, strict=True):
            inner.values[axis] = np.asarray(position, np.int64)
        for s, current in zip(r.states, states, strict=True):
            inner.values[s.expr] = current
        states = [inner.evaluate(step) for step in r.step]
    return states


def _store(store: Store, grid: _Grid) -> None:
    target = grid.arrays[store.buffer]
    shape = grid.shape
    value = np.broadcast_to(grid.evaluate(store.value), shape)
    position = tuple(np.broadcast_to(grid.evaluate(p), shape) for p in store.index)
    if not position:  # a scalar: the same store into one element
        target, position = target.reshape(1), (np.zeros(shape, np.int64),)
    if store.valid is not TRUE:
        selected = np.broadcast_to(grid.evaluate(store.valid), shape)
        value, position = value[selected], tuple(p[selected] for p in position)
    if store.accumulate is None:
        target[position] = value
    else:
        ufunc = {Op.ADD: np.add, Op.MUL: np.multiply, Op.MAX: np.maximum}[store.accumulate]
        if target.dtype.kind == "b":
            ufunc = np.logical_and if store.accumulate is Op.MUL else np.logical_or
        ufunc.at(target, position, value)


def _slices(block: Block, sizes: Mapping[Expr, int], inner: int) -> Iterator[dict[Expr, range]]:
    """The domain of the parallel axes, cut along the largest axis that has no order to keep."""
    whole = {a: range(sizes[a]) for a in block.axes}
    points = inner * int(np.prod([sizes[a] for a in block.axes], dtype=np.int64))
    free = [a for a in block.axes if a not in block.ordered]
    if points <= _MAX_POINTS or not free:
        yield whole
        return
    longest = max(free, key=lambda a: sizes[a])
    rows = max(1, _MAX_POINTS * sizes[longest] // points)
    for start in range(0, sizes[longest], rows):
        yield {**whole, longest: range(start, min(start + rows, sizes[longest]))}


def _run_block(block: Block, arrays: Mapping[str, Array], variables: Mapping[Expr, int]) -> None:
    every = (*block.axes, *block.reduce_axes)
    sizes = {a: evaluate(axis_size(a), variables) for a in every}
    inner = max([int(np.prod([sizes[a] for a in r.axes])) for r in block.reductions], default=1)
    for ranges in _slices(block, sizes, inner):
        grid = _Grid(arrays, ranges | {a: range(sizes[a]) for a in block.reduce_axes}, variables)
        dims = {a: position for position, a in enumerate(every)}
        for r in block.reductions:
            fold: Callable[..., list[Array]] = _fold if r.op is not None else _fold_states
            extra = () if r.op is not None else (variables,)
            results = fold(r, grid, tuple(dims[a] for a in r.axes), *extra)
            for s, result in zip(r.states, results, strict=True):
                grid.values[s.expr] = result
        kept = {a for r in block.reductions if r.scan for a in r.axes}
        grid.shape = tuple(len(ranges[a]) if a in ranges else (sizes[a] if a in kept else 1) for a in every)
        prepared = [(store, [grid.evaluate(e) for e in store.exprs]) for store in block.stores]
        for store, _ in prepared:
            _store(store, grid)


def _shape(argument: Argument | Temporary, variables: Mapping[Expr, int]) -> tuple[int, ...]:
    return tuple(evaluate(size, variables) for size in argument.shape)


class ReferenceBackend(Backend):
    """Kernels interpreted in NumPy on the host; always installed, and what every other backend is compared
    with."""

    name = "reference"
    version = "1"
    capabilities = Capabilities(dtypes=dict.fromkeys(DTYPES, "native"), unified_memory=True)

    def allocate(self, size: int) -> Array:
        try:
            return np.empty(size, np.uint8)
        except MemoryError as error:
            raise DeviceMemoryError(
                f"allocate: expected {size} bytes to be free on {self.name}, got none"
            ) from error

    def copy_in(self, handle: Array, offset: int, data: memoryview) -> None:
        handle[offset : offset + data.nbytes] = np.frombuffer(data, np.uint8)

    def copy_out(self, data: memoryview, handle: Array, offset: int) -> None:
        np.frombuffer(data, np.uint8)[:] = handle[offset : offset + data.nbytes]

    def host_view(self, handle: Array, offset: int, size: int) -> memoryview:
        return handle[offset : offset + size].data

    def borrow(self, data: memoryview) -> Array:
        return np.frombuffer(data, np.uint8)

    def interpret(self, kernel: Kernel) -> Launch:
        def launch(buffers: Sequence[tuple[Any, int]], variables: Sequence[int]) -> None:
            bound = dict(zip(kernel.variables, variables, strict=True))
            arrays: dict[str, Array] = {}
            for argument, (handle, offset) in zip(kernel.arguments, buffers, strict=True):
                shape = _shape(argument, bound)
                size = int(np.prod(shape, dtype=np.int64)) * argument.dtype.itemsize
                arrays[argument.name] = (
                    handle[offset : offset + size].view(argument.dtype.numpy).reshape(shape)
                )
            for temporary in kernel.temporaries:
                arrays[temporary.name] = np.empty(_shape(temporary, bound), temporary.dtype.numpy)
            with np.errstate(all="ignore"):
                for block in kernel.blocks:
                    _run_block(block, arrays, bound)

        return launch
