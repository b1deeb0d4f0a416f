"""One kernel on one backend: plan, lower, render, compile, load; each kernel once a process, once a disk.

Kernels of a schedule that are not in the cache are compiled side by side.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from petaflop import __version__, profile
from petaflop.config import config
from petaflop.device.backend import Backend, Launch
from petaflop.device.cache import DiskCache
from petaflop.graph.ops import OP_SPEC_VERSION
from petaflop.graph.symbolic import evaluate, product
from petaflop.ir.kernel import Kernel, operations
from petaflop.ir.loops import Signature

__all__ = ["Program", "compile_kernels"]


@dataclass(slots=True)
class Program:
    """A kernel that can be launched on a backend. `name` is what profiles and traces show."""

    name: str
    kernel: Kernel
    launch: Launch

    def work(self, values: Sequence[int]) -> tuple[int, int]:
        """(bytes, operations) of a launch with these values of the kernel's Variables."""
        sizes = dict(zip(self.kernel.variables, values, strict=True))
        moved = sum(evaluate(product(a.shape), sizes) * a.dtype.itemsize for a in self.kernel.arguments)
        return moved, operations(self.kernel, sizes)


Result = TypeVar("Result")


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, stage: str, function: Callable[..., Result], *args: Any) -> Result:
        started = profile.clock()
        result = function(*args)
        self.seconds[stage] = profile.clock() - started
        return result


_programs: dict[tuple[Backend, str], Program] = {}
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def compile_kernels(kernels: Sequence[Kernel], backend: Backend) -> list[Program]:
    """Programs for `kernels`, in their order."""
    keys = [(backend, kernel.key) for kernel in kernels]
    cold = {key: kernel for key, kernel in zip(keys, kernels, strict=True) if key not in _programs}
    if len(cold) > 1 and backend.target is not None:
        made = list(_side_by_side().map(lambda item: _build(item[1], item[0][1], backend), cold.items()))
    else:
        made = [_build(kernel, key[1], backend) for key, kernel in cold.items()]
    _programs.update(zip(cold, made, strict=True))
    return [_programs[key] for key in keys]


def _side_by_side() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(2, _cores()), "petaflop-compile")
        return _pool


def _forget_pool() -> None:
    """In a forked child the threads of the pool do not exist, and its lock may be held by one of them."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _cores() -> int:
    """The cores that this process may use; all there are where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _build(kernel: Kernel, digest: str, backend: Backend) -> Program:
    """The driver: kernel → plan → loops → text → binary → launch."""
    name = kernel_name(kernel, digest)
    clock = _Clock()
    if backend.target is None:
        launch = clock.time("interpret", backend.interpret, kernel)
        profile.record_compile(name, kernel, backend.name, clock.seconds, False)
        return Program(name, kernel, launch)
    cache = DiskCache(config.cache_dir) if config.cache else None
    entry = _cache_key(digest, backend)
    found = cache.get(entry) if cache is not None else None
    if found is not None:
        binary, signature = found[0], Signature.from_json(found[1])
        launch = clock.time("load", backend.load, binary, signature)
        profile.record_compile(name, kernel, backend.name, clock.seconds, True)
        return Program(name, kernel, launch)
    from petaflop.codegen.lower import lower  # here, so that importing petaflop stays quick
    from petaflop.codegen.planner import default_plan

    plan = clock.time("plan", backend.plan, kernel, default_plan)
    loops = clock.time("lower", lower, kernel, plan, backend.target)
    if config.verify:
        from petaflop.ir.verify import verify_kernel, verify_loops

        verify_kernel(kernel)
        verify_loops(loops)
    source = clock.time("render", backend.render, loops)
    binary = clock.time("compile", backend.compile, source)
    launch = clock.time("load", backend.load, binary, loops.signature)
    if cache is not None:
        cache.put(entry, binary, loops.signature.to_json())
    profile.record_compile(
        name,
        kernel,
        backend.name,
        clock.seconds,
        False,
        plan,
        loops,
        source,
        lambda: backend.assembly(binary),
    )
    return Program(name, kernel, launch)


@functools.cache
def _sources(package: str) -> str:
    """A digest of a package's source files: another generator never meets the kernels of this one."""
    spec = importlib.util.find_spec(package)
    digest = hashlib.sha256()
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for path in sorted(Path(folder).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


_GENERATORS = ("petaflop.codegen", "petaflop.render", "petaflop.ir")


def _cache_key(digest: str, backend: Backend) -> str:
    assert backend.target is not None
    home = type(backend).__module__.partition(".")[0]
    parts: tuple[Any, ...] = (
        *map(_sources, (*_GENERATORS, home)),
        digest,
        backend.name,
        backend.version,
        backend.target.key,
        __version__,
        OP_SPEC_VERSION,
    )
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()


def kernel_name(kernel: Kernel, digest: str) -> str:
    """A readable name: what kind of work, the shape of the first result, and a few digits of the digest."""
    ops = [str(r.op) if r.op else "fold" for block in kernel.blocks for r in block.reductions]
    kind = "_".join(dict.fromkeys(op.lower() for op in ops)) or "map"
    written = next(a for a in kernel.arguments if a.written)
    shape = "x".join(map(str, written.shape)) or "scalar"
    return f"{kind}_{shape}_{digest[:6]}"
