"""Deliberately wrong backends: the reference device with one fault each, offered as a stranger's plugin is.

`right` has no fault, `narrow` declares little, `absent` has no device: they test what surrounds the verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np

from petaflop.device import reference
from petaflop.device.backend import Backend, Capabilities, Launch
from petaflop.device.reference import ReferenceBackend
from petaflop.errors import DeviceError
from petaflop.graph.ops import Op
from petaflop.ir.kernel import Kernel
from petaflop.plugins.hookspecs import hookimpl

Array = np.ndarray[Any, Any]
_compute, _fold, _load, _cast = (
    reference._compute,
    reference._fold,
    reference._Grid._load,
    reference.cast_array,
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


def cast_wraps(values: Array, dtype: Any) -> Array:
    with np.errstate(all="ignore"):
        return values.astype(dtype.numpy)


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
}


@hookimpl
def petaflop_backend(name: str) -> Backend | None:
    return BACKENDS[name](name) if name in BACKENDS else None
