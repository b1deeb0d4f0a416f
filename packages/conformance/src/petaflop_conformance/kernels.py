"""From graphs to a backend's binaries without a device: what level `render` looks at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from petaflop.codegen.lower import lower
from petaflop.codegen.planner import default_plan
from petaflop.device.backend import Backend
from petaflop.dtype import DType
from petaflop.graph.node import Node, toposort
from petaflop.ir.kernel import Kernel
from petaflop.ir.loops import Loops, Signature
from petaflop.ir.verify import verify_kernel, verify_loops
from petaflop.realize import from_host
from petaflop.schedule.fuse import schedule

__all__ = ["compile_each", "kernels_of", "leaf", "rendered"]


def leaf(dtype: DType, shape: tuple[int, ...]) -> Node:
    """An input; its memory is the reference device's, so no other is needed."""
    return from_host(np.zeros(shape, dtype.numpy), "reference")


def kernels_of(roots: Sequence[Node], fuse: bool = True) -> list[Kernel]:
    """The kernels that compute `roots`."""
    return [step.kernel for step in schedule(toposort(roots), set(roots), fuse=fuse).steps]


def rendered(kernel: Kernel, backend: Backend) -> tuple[Loops, str]:
    """Planned, lowered, checked and rendered."""
    target: Any = backend.target
    verify_kernel(kernel)
    loops = lower(kernel, backend.plan(kernel, default_plan), target)
    verify_loops(loops)
    assert Signature.from_json(loops.signature.to_json()) == loops.signature
    source = backend.render(loops)
    assert isinstance(source, str) and source.strip(), f"expected source text, got {source!r} of\n{loops}"
    return loops, source


def compile_each(kernels: Iterable[Kernel], backend: Backend) -> None:
    """A binary of each, as the disk cache would keep it; side by side, as core compiles."""
    sources = [rendered(kernel, backend)[1] for kernel in {kernel.key: kernel for kernel in kernels}.values()]
    with ThreadPoolExecutor(4) as pool:
        for source, binary in zip(sources, pool.map(backend.compile, sources), strict=True):
            assert isinstance(binary, bytes) and binary, f"expected a binary, got {binary!r} for\n{source}"
