"""Runs hand-made kernels on the CPU, by the default plan and by the naive one, for the tests of code
generation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from kernels import backend

from petaflop.codegen.lower import lower
from petaflop.codegen.planner import default_plan, naive_plan
from petaflop.dtype import DType, float32
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr
from petaflop.ir.kernel import Argument, Block, Kernel, Store, axis, load, reduction, state, value
from petaflop.ir.plan import Plan

Array = np.ndarray[Any, Any]


def execute(
    kernel: Kernel, inputs: Sequence[Array], outputs: Sequence[Array], plan: Plan, sizes: Sequence[int] = ()
) -> None:
    """Run `kernel` by `plan` on contiguous arrays; `outputs` are written."""
    device = backend()
    loops = lower(kernel, Plan.from_json(plan.to_json()), device.target)
    launch = device.load(device.compile(device.render(loops)), loops.signature)
    arrays = [*inputs, *outputs]
    assert all(array.flags.c_contiguous for array in arrays)
    launch([(array.ctypes.data, 0) for array in arrays], list(sizes))


def both_plans(
    kernel: Kernel, inputs: Sequence[Array], output: Array, sizes: Sequence[int] = ()
) -> tuple[Array, Array]:
    """What `kernel` stores into its one output by the default plan and by the naive plan."""
    results = []
    for plan in (default_plan(kernel, backend().target), naive_plan(kernel)):
        result = output.copy()
        execute(kernel, inputs, [result], plan, sizes)
        results.append(result)
    return results[0], results[1]


def reads(name: str, shape: tuple[Dim, ...], dtype: DType = float32) -> Argument:
    return Argument(name, dtype, shape)


def writes(name: str, shape: tuple[Dim, ...], dtype: DType = float32) -> Argument:
    return Argument(name, dtype, shape, written=True, read=False)


def axes(*sizes: Dim) -> tuple[Expr, ...]:
    return tuple(axis(f"i{number}", size) for number, size in enumerate(sizes))


def elementwise(shape: tuple[int, ...], inputs: Sequence[DType], output: DType, make: Any) -> Kernel:
    """o[...] = make(x0[...], x1[...], ...)."""
    index = axes(*shape)
    values = [load(f"x{number}", index, dtype) for number, dtype in enumerate(inputs)]
    arguments = [reads(f"x{number}", shape, dtype) for number, dtype in enumerate(inputs)]
    block = Block(index, (Store("o", index, make(*values)),))
    return Kernel((*arguments, writes("o", shape, output)), ((block,),))


def reduced(
    shape: tuple[int, ...], over: tuple[int, ...], op: Op, dtype: DType = float32, wide: DType | None = None
) -> Kernel:
    """o[rest] = op over the axes `over` of x."""
    index = axes(*shape)
    rest = tuple(a for number, a in enumerate(index) if number not in over)
    term = load("x", index, dtype)
    if wide is not None:
        term = value(Op.CAST, term, dtype=wide)
    fold = reduction("s", op, term, tuple(index[number] for number in over))
    result = wide or dtype
    block = Block(rest, (Store("o", rest, state("s", result)),), (fold,))
    sizes = tuple(shape[number] for number in range(len(shape)) if number not in over)
    return Kernel((reads("x", shape, dtype), writes("o", sizes, result)), ((block,),))


def sum_error(got: Array, x: Array, over: tuple[int, ...]) -> float:
    """The error of a float32 sum in units of u · Σ|x|."""
    wide = x.astype(np.float64)
    scale = np.abs(wide).sum(axis=over)
    return float(np.max(np.abs(got - wide.sum(axis=over)) / scale)) * 2.0**24


def allowed(x: Array, over: tuple[int, ...]) -> float:
    """The bound on `sum_error`."""
    return max(8.0, math.sqrt(math.prod(x.shape[number] for number in over)))
