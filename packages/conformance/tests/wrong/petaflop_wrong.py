"""Deliberately wrong backends: the reference device with one fault each, offered as a stranger's plugin is.

`right` has no fault, `narrow` declares little, `absent` has no device: they test what surrounds the verdict.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

from petaflop.device import reference
from petaflop.device.backend import Backend, Capabilities, Launch
from petaflop.device.reference import ReferenceBackend
from petaflop.errors import CompileError, DeviceError
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Leaf, topological
from petaflop.ir.kernel import Kernel
from petaflop.ir.target import Target
from petaflop.plugins.hookspecs import hookimpl
from petaflop.render.llvm import render as render_llvm

Array = np.ndarray[Any, Any]
_compute, _fold, _load, _cast, _store = (
    reference._compute,
    reference._fold,
    reference._Grid._load,
    reference.cast_array,
    reference._store,
)


class Wrong(ReferenceBackend):
    """The reference device with a part of the interpreter replaced while a kernel runs."""

    def __init__(self, name: str, target: Any = None, attribute: str = "", replacement: Any = None) -> None:
        self.name = name
        self._part = (target, attribute, replacement)

    def interpret(self, kernel: Kernel) -> Launch:
        inner = super().interpret(kernel)
        target, attribute, replacement = self._part
        if target is None:
            return inner

        def launch(buffers: Sequence[tuple[Any, int]], variables: Sequence[int]) -> None:
            with mock.patch.object(target, attribute, replacement):
                inner(buffers, variables)

        return launch


# ---- faults in what is computed ----


def max_drops_nan(op: Any, args: list[Array], dtype: Any) -> Array:
    return np.fmax(*args) if op is Op.MAX and dtype.is_float else _compute(op, args, dtype)


def division_truncates(op: Any, args: list[Array], dtype: Any) -> Array:
    if op is Op.DIV and dtype.kind == "i":
        floor, safe = _compute(op, args, dtype), np.where(args[1] == 0, 1, args[1])
        return floor + ((args[0] % safe != 0) & ((args[0] < 0) != (safe < 0)))
    return _compute(op, args, dtype)


def flushes_denormals(op: Any, args: list[Array], dtype: Any) -> Array:
    result = _compute(op, args, dtype)
    if result.dtype == np.float32:
        return np.where(np.abs(result) < np.finfo(np.float32).tiny, np.float32(0), result)
    return result


def steep_functions_are_off(op: Any, args: list[Array], dtype: Any) -> Array:
    result = _compute(op, args, dtype)
    return (
        result * np.float32(1 + 2.0**-12) if op in (Op.EXP2, Op.LOG2, Op.SIN) and dtype.bits == 32 else result
    )


def reciprocal_division(op: Any, args: list[Array], dtype: Any) -> Array:
    if op is Op.DIV and dtype.is_float:
        return _compute(Op.MUL, [args[0], np.asarray(dtype.numpy.type(1) / args[1])], dtype)
    return _compute(op, args, dtype)


def half_accumulator(r: Any, grid: Any, dims: tuple[int, ...]) -> list[Array]:
    results = _fold(r, grid, dims)
    return [
        x.astype(np.float16).astype(x.dtype) if r.op is Op.ADD and x.dtype == np.float32 else x
        for x in results
    ]


def pad_is_off_by_one(grid: Any, expr: Any, args: list[Array]) -> Array:
    valid = args[0]
    if valid.ndim == 0 or valid.size == 1:
        return _load(grid, expr, args)
    source = grid.arrays[expr.arg[0]]
    inside = [np.clip(p, 0, max(n - 1, 0)) for p, n in zip(args[1:], source.shape, strict=True)]
    widest = int(np.argmax(valid.shape))
    return (
        _load(grid, expr, [valid | np.roll(valid, 1, widest), *inside])
        if source.size
        else _load(grid, expr, args)
    )


def shift_takes_the_wrong_sign(op: Any, args: list[Array], dtype: Any) -> Array:
    """x / 2ᵏ as a shift: of signed bits where they have no sign."""
    if op is Op.DIV and dtype.kind == "u" and args[1].size and (args[1] & (args[1] - 1) == 0).all():
        signed = np.dtype(f"i{dtype.itemsize}")
        places = np.log2(args[1].astype(np.float64)).astype(signed)
        return np.asarray(np.asarray(args[0]).view(signed) >> places).view(dtype.numpy)
    return _compute(op, args, dtype)


def sine_of_small_angles(op: Any, args: list[Array], dtype: Any) -> Array:
    """Angles are brought near zero in float32: well below 30, badly far beyond."""
    if op is Op.SIN and dtype.bits == 32:
        turn = np.float32(2 * np.pi)
        near = args[0] - np.rint(args[0] / turn) * turn
        return np.where(np.abs(args[0]) > 30, np.sin(near), _compute(op, args, dtype)).astype(np.float32)
    return _compute(op, args, dtype)


def sums_in_a_row(r: Any, grid: Any, dims: tuple[int, ...]) -> list[Array]:
    """One running total in float32, from the first term to the last."""
    results = _fold(r, grid, dims)
    if r.op is not Op.ADD or r.scan or results[0].dtype != np.float32:
        return results
    term = grid.evaluate(r.term)
    shape = np.broadcast_shapes(term.shape, *(grid.values[axis].shape for axis in r.axes))
    rows = np.moveaxis(np.broadcast_to(term, shape), dims, range(len(dims)))
    rows = rows.reshape(-1, *rows.shape[len(dims) :])
    total = np.cumsum(rows, axis=0, dtype=np.float32)[-1] if len(rows) else rows.sum(0)
    return [total.reshape(results[0].shape)]


def negative_index_wraps(grid: Any, expr: Any, args: list[Array]) -> Array:
    """−1 reads the last element, as it does in Python."""
    source, valid = grid.arrays[expr.arg[0]], args[0]
    if valid.ndim == 0 or not source.size:
        return _load(grid, expr, args)
    pairs = zip(args[1:], source.shape, strict=True)
    wrapped = [np.where((p < 0) & (p >= -n), p + n, p) for p, n in pairs]
    inside = [(p >= 0) & (p < n) for p, n in zip(wrapped, source.shape, strict=True)]
    negative = np.logical_or.reduce(np.broadcast_arrays(*[p < 0 for p in args[1:]]))
    within = np.logical_and.reduce(np.broadcast_arrays(*inside))
    safe = [np.clip(p, 0, n - 1) for p, n in zip(wrapped, source.shape, strict=True)]
    return _load(grid, expr, [valid | (negative & within), *safe])


def broadcast_strides_by_one(grid: Any, expr: Any, args: list[Array]) -> Array:
    """The last axis along which a value repeats moves through it instead of standing still."""
    source, position = grid.arrays[expr.arg[0]], args[1:]
    ranks = [p.ndim for p in position]
    if not ranks or args[0].ndim or source.size < 2 or 1 not in source.shape:
        return _load(grid, expr, args)
    used = np.broadcast_shapes(*(p.shape for p in position))
    still = [k for k, size in enumerate(grid.shape) if k < len(used) and used[k] == 1 and size > 1]
    if not still:
        return _load(grid, expr, args)
    shape = [1] * len(used)
    shape[still[-1]] = grid.shape[still[-1]]
    flat = np.ravel_multi_index(np.broadcast_arrays(*position), source.shape)
    moved = (flat + np.arange(grid.shape[still[-1]]).reshape(shape)) % source.size
    return np.asarray(source[np.unravel_index(moved, source.shape)])


def cast_wraps(values: Array, dtype: Any) -> Array:
    with np.errstate(all="ignore"):
        return values.astype(dtype.numpy)


def sine_is_off_far_away(op: Any, args: list[Array], dtype: Any) -> Array:
    result = _compute(op, args, dtype)
    if op is Op.SIN:
        return np.where(np.abs(args[0].astype(np.float64)) > 1e6, result + dtype.numpy.type(1e-3), result)
    return result


def rounds_twice(values: Array, dtype: Any) -> Array:
    """Integers become narrow floats by way of float32."""
    through = values.astype(np.float32) if values.dtype.kind in "iu" and dtype.is_float else values
    return _cast(through, dtype)


def positions_are_cut(values: Array, dtype: Any) -> Array:
    """Indices are kept in a byte."""
    cut = values.dtype.kind in "iu" and dtype.name == "index"
    return _cast(values.astype(np.int8) if cut else values, dtype)


# ---- faults in folds: each takes the finished fold and spoils it ----


def after_fold(spoil: Callable[[Any, Array, Any], Array]) -> Callable[..., list[Array]]:
    def fold(r: Any, grid: Any, dims: tuple[int, ...]) -> list[Array]:
        return [np.asarray(spoil(r, each, (grid, dims))).astype(each.dtype) for each in _fold(r, grid, dims)]

    return fold


def maximum_starts_high(r: Any, result: Array, where: Any) -> Array:
    wide = result.dtype.kind == "i" and result.dtype.itemsize >= 4
    return np.maximum(result, -(2**30)) if r.op is Op.MAX and wide else result


def sum_through_float64(r: Any, result: Array, where: Any) -> Array:
    grid, dims = where
    if r.op is not Op.ADD or r.scan or result.dtype != np.int64:
        return result
    total = grid.evaluate(r.term).astype(np.float64).sum(axis=dims, keepdims=True)
    return np.clip(total, -(2.0**63), 2.0**63 - 1024).astype(np.int64)


def accumulator_of_half_the_bits(r: Any, result: Array, where: Any) -> Array:
    return result.astype(np.int32) if r.op is Op.ADD and result.dtype == np.int64 else result


def loses_the_tail(r: Any, result: Array, where: Any) -> Array:
    """A long maximum looks at whole vectors of 16 alone."""
    grid, dims = where
    term = grid.evaluate(r.term)
    if r.op is not Op.MAX or r.scan or term.ndim <= dims[-1] or term.shape[dims[-1]] < 4096:
        return result
    whole = term.shape[dims[-1]] // 16 * 16
    return np.take(term, range(whole), dims[-1]).max(axis=dims, keepdims=True)


# ---- faults in indexed operations ----


def reads_the_next_row(grid: Any, expr: Any, args: list[Array]) -> Array:
    """A position is held against the end of the memory, not of its axis."""
    source, valid = grid.arrays[expr.arg[0]], args[0]
    if valid.ndim == 0 or source.ndim < 2 or not source.size:
        return _load(grid, expr, args)
    strides = [int(np.prod(source.shape[axis + 1 :])) for axis in range(source.ndim)]
    flat = sum(p.astype(np.int64) * stride for p, stride in zip(args[1:], strides, strict=True))
    inside = (flat >= 0) & (flat < source.size)
    return np.where(inside, source.reshape(-1)[np.where(inside, flat, 0)], source.dtype.type(0))


def stores(change: Callable[[Any, Array, list[Array], Array], bool]) -> Callable[[Any, Any], None]:
    """`change(store, target, position, value)` of what is scattered; False leaves the store as it is."""

    def spoiled(store: Any, grid: Any) -> None:
        value, valid, *index = (
            np.broadcast_to(grid.evaluate(e), grid.shape) for e in (store.value, store.valid, *store.index)
        )
        position = [each[valid] for each in index]
        if not _loads(store.index) or not change(store, grid.arrays[store.buffer], position, value[valid]):
            _store(store, grid)

    return spoiled


def _loads(roots: Any) -> list[Any]:
    return [expr for expr in topological(tuple(roots)) if expr.op is Leaf.LOAD]


def first_of_a_line_wins(store: Any, target: Array, position: list[Array], value: Array) -> bool:
    if target.ndim != 1 or store.accumulate is not None:
        return False
    target[position[0][::-1].copy()] = value[::-1].copy()
    return True


def scattered_maximum_drops_nan(store: Any, target: Array, position: list[Array], value: Array) -> bool:
    if store.accumulate is not Op.MAX or target.dtype != np.float32:
        return False
    np.fmax.at(target, tuple(position), value)
    return True


def scattered_sum_saturates(store: Any, target: Array, position: list[Array], value: Array) -> bool:
    if store.accumulate is not Op.ADD or target.dtype != np.int32:
        return False
    total = target.astype(np.int64)
    np.add.at(total, tuple(position), value)
    target[...] = np.clip(total, -(2**31), 2**31 - 1)
    return True


def later_half_first(store: Any, target: Array, position: list[Array], value: Array) -> bool:
    """Two blocks of a long scatter that do not wait for each other."""
    if store.accumulate is not None or value.size < 1000:
        return False
    middle = value.size // 2
    for part in (slice(middle, None), slice(0, middle)):
        target[tuple(each[part] for each in position)] = value[part]
    return True


# ---- faults in what surrounds it ----


class IgnoresOffset(Wrong):
    """Every buffer is taken to start where its allocation does."""

    def interpret(self, kernel: Kernel) -> Launch:
        inner = super().interpret(kernel)
        return lambda buffers, variables: inner([(handle, 0) for handle, _ in buffers], variables)


class StaleCacheKey(Wrong):
    """Kernels that differ in their constants alone are taken for one."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._launches: dict[str, Launch] = {}

    def interpret(self, kernel: Kernel) -> Launch:
        key = re.sub(r"\d+\.\d+", "c", str(kernel))
        return self._launches.setdefault(key, super().interpret(kernel))


class ReusesLiveMemory(Wrong):
    """An allocation of a size that was asked for before is the very same memory."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._given: dict[int, Array] = {}

    def allocate(self, size: int) -> Array:
        return self._given.setdefault(size, super().allocate(size))


class RacyReduction(Wrong):
    """The order of a sum depends on when it runs."""

    def interpret(self, kernel: Kernel) -> Launch:
        calls = iter(range(1 << 62))

        def fold(r: Any, grid: Any, dims: tuple[int, ...]) -> list[Array]:
            results = _fold(r, grid, dims)
            odd = next(calls) % 2 == 1
            return [np.nextafter(x, np.float32(9e9)) if odd and x.dtype == np.float32 else x for x in results]

        self._part = (reference, "_fold", fold)
        return super().interpret(kernel)


class MissingSynchronisation(Wrong):
    """A launch is queued until the next one; `synchronize` does not wait for the last."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._pending: list[Callable[[], None]] = []

    def interpret(self, kernel: Kernel) -> Launch:
        inner = super().interpret(kernel)

        def launch(buffers: Sequence[tuple[Any, int]], variables: Sequence[int]) -> None:
            for each in self._pending:
                each()
            self._pending = [lambda: inner(tuple(buffers), tuple(variables))]

        return launch


class OneThreadOnly(Wrong):
    """Working memory belongs to the thread that launched first; in another one it holds zeros."""

    def interpret(self, kernel: Kernel) -> Launch:
        inner, first = super().interpret(kernel), threading.main_thread()

        def launch(buffers: Sequence[tuple[Any, int]], variables: Sequence[int]) -> None:
            inner(buffers, variables)
            if threading.current_thread() is not first:
                handle, offset = buffers[0]
                handle[offset : offset + 8] = 0

        return launch


class StaleReplay(Wrong):
    """A captured sequence runs on the memory that it was captured with."""

    capabilities = replace(ReferenceBackend.capabilities, replay=True)

    def capture(self, launches: Any) -> Any:
        seen: list[Any] = []

        def run(buffers: Sequence[Any], variables: Sequence[int]) -> None:
            seen[:] = seen or [list(buffers)]
            written = {slots[0] for _, slots, _ in launches}
            given = [
                b if k in written else old for k, (b, old) in enumerate(zip(buffers, seen[0], strict=True))
            ]
            for launch, slots, numbers in launches:
                launch([given[k] for k in slots], [variables[k] for k in numbers])

        return run


class FirstSizeOnly(Wrong):
    """A kernel keeps the sizes that its variables had at the first launch."""

    def interpret(self, kernel: Kernel) -> Launch:
        inner, seen = super().interpret(kernel), list[int]()

        def launch(buffers: Sequence[tuple[Any, int]], variables: Sequence[int]) -> None:
            seen[:] = seen or list(variables)
            inner(buffers, [min(pair) for pair in zip(seen, variables, strict=True)])

        return launch


class TextOnly(Backend):
    """Renders LLVM IR and "compiles" it to its own bytes; there is no device to run them on."""

    capabilities = ReferenceBackend.capabilities
    target = Target("text", "cpu", "x86_64-unknown-linux-gnu", vector_bytes=32, has_fma=True)

    def __init__(self, name: str, refuses: str = "", counts: bool = False) -> None:
        self.name, self._refuses, self._counts = name, refuses, counts
        self._numbers = iter(range(1 << 62))

    def render(self, loops: Any) -> str:
        assert self.target is not None
        text = render_llvm(loops, self.target, lambda names: "")
        return text + (f"; {next(self._numbers)}" if self._counts else "")

    def compile(self, source: str) -> bytes:
        if self._refuses and self._refuses in source:
            raise CompileError(f"{self.name}: expected no {self._refuses.strip()}")
        return source.encode()


class Narrow(Wrong):
    capabilities = Capabilities(dtypes=dict.fromkeys(("float32", "int32", "bool"), "native"))


def absent(name: str) -> Backend:
    raise DeviceError(f"{name}: expected a device on the bus, got none; plug one in, or install its driver")


BACKENDS: dict[str, Callable[[str], Backend]] = {
    "right": Wrong,
    "narrow": Narrow,
    "absent": absent,
    "max_drops_nan": lambda name: Wrong(name, reference, "_compute", max_drops_nan),
    "division_truncates": lambda name: Wrong(name, reference, "_compute", division_truncates),
    "flushes_denormals": lambda name: Wrong(name, reference, "_compute", flushes_denormals),
    "steep_functions_are_off": lambda name: Wrong(name, reference, "_compute", steep_functions_are_off),
    "reciprocal_division": lambda name: Wrong(name, reference, "_compute", reciprocal_division),
    "half_accumulator": lambda name: Wrong(name, reference, "_fold", half_accumulator),
    "pad_is_off_by_one": lambda name: Wrong(name, reference._Grid, "_load", pad_is_off_by_one),
    "cast_wraps": lambda name: Wrong(name, reference, "cast_array", cast_wraps),
    "ignores_offset": IgnoresOffset,
    "stale_cache_key": StaleCacheKey,
    "reuses_live_memory": ReusesLiveMemory,
    "racy_reduction": RacyReduction,
    "negative_index": lambda name: Wrong(name, reference._Grid, "_load", negative_index_wraps),
    "wrong_broadcast_stride": lambda name: Wrong(name, reference._Grid, "_load", broadcast_strides_by_one),
    "wrong_shift": lambda name: Wrong(name, reference, "_compute", shift_takes_the_wrong_sign),
    "missing_synchronisation": MissingSynchronisation,
    "sums_in_a_row": lambda name: Wrong(name, reference, "_fold", sums_in_a_row),
    "sine_of_small_angles": lambda name: Wrong(name, reference, "_compute", sine_of_small_angles),
    "sine_is_off_far_away": lambda name: Wrong(name, reference, "_compute", sine_is_off_far_away),
    "rounds_twice": lambda name: Wrong(name, reference, "cast_array", rounds_twice),
    "positions_are_cut": lambda name: Wrong(name, reference, "cast_array", positions_are_cut),
    "reads_the_next_row": lambda name: Wrong(name, reference._Grid, "_load", reads_the_next_row),
    **{
        spoil.__name__: partial(Wrong, target=reference, attribute="_fold", replacement=after_fold(spoil))
        for spoil in (
            maximum_starts_high,
            sum_through_float64,
            accumulator_of_half_the_bits,
            loses_the_tail,
        )
    },
    **{
        change.__name__: partial(Wrong, target=reference, attribute="_store", replacement=stores(change))
        for change in (
            first_of_a_line_wins,
            scattered_maximum_drops_nan,
            scattered_sum_saturates,
            later_half_first,
        )
    },
    "one_thread_only": OneThreadOnly,
    "stale_replay": StaleReplay,
    "first_size_only": FirstSizeOnly,
    "text_only": absent,
    "refuses_half": absent,
    "renders_anew": absent,
}
OFFLINE = {
    "text_only": TextOnly,
    "refuses_half": lambda name: TextOnly(name, refuses="half"),
    "renders_anew": lambda name: TextOnly(name, counts=True),
}


@hookimpl
def petaflop_backend(name: str) -> Backend | None:
    return BACKENDS[name](name) if name in BACKENDS else None


@hookimpl
def petaflop_offline_backend(name: str) -> Backend | None:
    return OFFLINE[name](name) if name in OFFLINE else None
