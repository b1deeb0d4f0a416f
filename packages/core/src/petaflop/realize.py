"""The driver: nodes that somebody asked for → schedule → kernels → launches → buffers.

Schedules are cached by structure: a graph that is built again finds its kernels, ready to launch, by one
dictionary look-up. `to_host` and `from_host` are the ways in and out.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from petaflop import checking, profile
from petaflop.config import config
from petaflop.device.backend import Backend
from petaflop.device.buffer import Buffer, SharedMemory
from petaflop.device.registry import get_backend
from petaflop.dtype import from_numpy_dtype
from petaflop.errors import GradientError, JitError
from petaflop.graph.node import Node, buffer_leaf, toposort
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, evaluate, variables_of
from petaflop.graph.view import is_alias

if TYPE_CHECKING:
    from petaflop.compiler import Program
    from petaflop.ir.schedule import Schedule
    from petaflop.schedule.memory import Plans

__all__ = [
    "Prepared",
    "allocate",
    "deferring",
    "from_host",
    "is_deferred",
    "lock",
    "needed_later",
    "prepare",
    "realize_nodes",
    "register_live_nodes",
    "run",
    "to_host",
]

_MAX_CACHED = 4096
lock = threading.RLock()  # graphs may be built by many threads; they are computed one at a time


@dataclass(slots=True)
class Prepared:
    """A schedule with its programs and its memory plans."""

    schedule: Schedule
    programs: list[Program]
    plans: Plans


_prepared: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()
_symbolic: weakref.WeakKeyDictionary[Node, dict[Expr, int]] = weakref.WeakKeyDictionary()
_live: Callable[[], Iterable[Node]] = tuple


class _Mode(threading.local):
    deferred = False


_mode = _Mode()


def register_live_nodes(function: Callable[[], Iterable[Node]]) -> None:
    """Tell the driver how to find the node of every tensor that is alive: they decide what may be
    overwritten."""
    global _live
    _live = function


def realize_nodes(nodes: Sequence[Node], device: str | None = None) -> None:
    """Compute `nodes`, each into a buffer of its own; a node without a device goes to `device`."""
    if _mode.deferred:
        return
    with lock:
        _forget_rebound()
        wanted = [node for node in dict.fromkeys(nodes) if node.buffer is None]
        if not wanted:
            return
        if config.check == "index":
            for index, expectations in checking.taken_indices(wanted):
                checking.refuse_indices(to_host(index), expectations)
        for copied in [n for n in toposort(wanted) if n.op is Op.COPY and n.buffer is None]:
            _copy(copied)
        for alias in [n for n in wanted if is_alias(n)]:
            realize_nodes(alias.sources, device)
            alias.attach(alias.sources[0].memory())
        by_device: dict[str | None, list[Node]] = {}
        for node in wanted:
            if node.buffer is None:
                by_device.setdefault(node.device, []).append(node)
        for name, group in by_device.items():
            _realize_on(get_backend(name or device), group)


def _forget_rebound() -> None:
    """A node that was computed with other values of its variables than those bound now is to be computed
    again."""
    for node, bindings in list(_symbolic.items()):
        if any(variable.value != size for variable, size in bindings.items()):
            node.buffer = None
            del _symbolic[node]


def _copy(node: Node) -> None:
    source = node.sources[0]
    realize_nodes((source,), source.device)
    memory = source.memory()
    buffer = Buffer(get_backend(node.device), memory.size)
    view = memory.host_view()
    if view is None:
        view = memoryview(bytearray(memory.size))
        memory.read(view)
    buffer.write(view)
    buffer.variables = memory.variables
    node.attach(buffer)


def _realize_on(backend: Backend, roots: list[Node]) -> None:
    order = toposort(roots)
    constants = [n for n in order if n.device is None and n.buffer is not None]  # at home everywhere
    for node in [n for n in constants if n.buffer.backend is not backend]:
        node.buffer = None  # it was computed elsewhere: once more, here
        order = toposort(roots)
    prepared = prepare(order, roots, backend)
    bindings = _bound(prepared)
    given = {
        n: _checked(order[slot.node], bindings)
        for n, slot in enumerate(prepared.schedule.slots)
        if slot.given
    }
    buffers = allocate(prepared, given, bindings, backend)
    lines = checking.lines_of(prepared.schedule, order) if config.check == "nan" or profile.naming else ()
    run(prepared, buffers, bindings, backend, lines)
    for number, slot in enumerate(prepared.schedule.slots):
        if slot.kept:
            _finish(order[slot.node], buffers[number], bindings, overwrote=slot.base is not None)


def prepare(order: Sequence[Node], roots: Sequence[Node], backend: Backend) -> Prepared:
    """The schedule and the programs of a graph; `order` is the toposort of `roots`."""
    started = profile.clock()
    in_place = _may_overwrite(order, roots)
    key = _structure(order, roots, in_place, backend)
    prepared = _prepared.get(key)
    cached = prepared is not None
    if prepared is None:
        from petaflop.compiler import compile_kernels  # here, so that importing petaflop stays quick
        from petaflop.schedule.fuse import schedule
        from petaflop.schedule.memory import Plans

        made = schedule(order, set(roots), in_place, config.fuse)
        prepared = Prepared(made, compile_kernels([step.kernel for step in made.steps], backend), Plans(made))
        _prepared[key] = prepared
        if len(_prepared) > _MAX_CACHED:
            _prepared.popitem(last=False)
    if profile.recorders:
        profile.record_schedule(roots, prepared.schedule, profile.clock() - started, cached)
    return prepared


def _structure(
    order: Sequence[Node], roots: Iterable[Node], in_place: set[Node], backend: Backend
) -> tuple[Any, ...]:
    """What the schedule depends on: the graph without the identity of its leaves."""
    position: dict[Node, int] = {}
    memory: dict[int, int] = {}
    parts: list[Any] = [backend, config.fuse]  # the object: an id may come again
    for number, node in enumerate(order):
        position[node] = number
        if node.buffer is not None:
            parts.append((node.dtype, node.shape, memory.setdefault(id(node.buffer), number)))
        elif node.op is Op.CONST:
            parts.append((repr(node.arg), node.dtype, node.shape))
        elif node.op is Op.REALIZE:
            parts.append((Op.REALIZE, position[node.sources[0]]))
        else:
            parts.append(
                (node.op, node.arg, node.dtype, node.shape, *[position.get(s, -1) for s in node.sources])
            )
    parts.append(tuple([position[root] for root in roots]))
    parts.append(tuple(sorted([position[node] for node in in_place])))
    return tuple(parts)


# ---- what may be overwritten ----


def _may_overwrite(order: Sequence[Node], roots: Sequence[Node]) -> set[Node]:
    """ASSIGNs whose target's memory nobody else can ask for afterwards."""
    assigns = [node for node in order if node.op is Op.ASSIGN and node.buffer is None]
    if not assigns:
        return set()
    needed = needed_later(_live(), set(roots))
    result: set[Node] = set()
    taken: set[int] = set()
    for node in assigns:
        target = node.sources[0]
        memory = target.buffer
        if memory is not None:
            if id(memory) not in needed and id(memory) not in taken and memory.base is None:
                result.add(node)
                taken.add(id(memory))
        elif target in result and id(target) not in needed and target not in roots:
            result.add(node)
    return result


def needed_later(live: Iterable[Node], roots: Set[Node] = frozenset()) -> set[int]:
    """Identities of the buffers and nodes that `live` nodes can still read once `roots` are computed."""
    needed: set[int] = set()
    seen: set[Node] = set()
    stack = [node for node in live if node not in roots]
    while stack:
        node = stack.pop()
        if node in seen or node in roots:
            continue
        seen.add(node)
        needed.add(id(node))
        if node.buffer is not None:
            needed.add(id(node.buffer))
        else:
            stack.extend(node.sources)
    return needed


# ---- running ----


def allocate(
    prepared: Prepared, given: Mapping[int, Buffer], bindings: Mapping[Expr, int], backend: Backend
) -> list[Any]:
    """A buffer for each slot: those `given`, new ones for results, parts of one arena for temporaries.

    A slot that is private to a kernel has None.
    """
    schedule = prepared.schedule
    room = prepared.plans.room(bindings)
    offsets, total = prepared.plans(room)
    arena = Buffer(backend, total) if total else None
    buffers: list[Any] = []
    for number, slot in enumerate(schedule.slots):
        if slot.base is not None:
            buffers.append(buffers[slot.base])
        elif slot.given:
            buffers.append(given[number])
        elif slot.kept:
            buffers.append(Buffer(backend, evaluate(slot.size, bindings)))
        elif number in offsets:
            assert arena is not None
            buffers.append(arena.part(offsets[number], evaluate(slot.size, room)))
        else:
            buffers.append(None)
    return buffers


def run(
    prepared: Prepared,
    buffers: Sequence[Any],
    bindings: Mapping[Expr, int],
    backend: Backend,
    lines: Sequence[tuple[str, ...]] = (),
) -> None:
    """Launch every kernel in order, checked where PETAFLOP_CHECK asks for it; `lines` built each step."""
    slots = prepared.schedule.slots
    for number, (step, program) in enumerate(zip(prepared.schedule.steps, prepared.programs, strict=True)):
        arguments = [buffers[slot] for slot in step.slots]
        filled = [slots[slot].given or slots[slot].base is not None for slot in step.slots]
        looks = config.check == "nan" and not checking.holds_nan(program, arguments, filled)
        built = lines[number] if lines else ()
        launch(program, arguments, [bindings[v] for v in program.kernel.variables], backend, built)
        if looks:
            checking.refuse_nan(program, arguments, built)


def launch(
    program: Program,
    buffers: Sequence[Buffer],
    values: Sequence[int],
    backend: Backend,
    lines: tuple[str, ...] = (),
) -> None:
    """One launch, timed where somebody listens."""
    locations = [(b.handle, b.offset) for b in buffers]
    if profile.recorders or config.debug >= 2:
        started = profile.clock()
        program.launch(locations, values)
        backend.synchronize()
        seconds, work = profile.clock() - started, program.work(values)
        profile.record_launch(program.name, program.kernel, backend.name, started, seconds, *work, lines)
    else:
        program.launch(locations, values)


def _bound(prepared: Prepared) -> dict[Expr, int]:
    return {variable: evaluate(variable) for variable in prepared.schedule.variables}


def _checked(node: Node, bindings: Mapping[Expr, int]) -> Buffer:
    buffer: Buffer = node.memory()
    if buffer.variables:
        for variable, size in buffer.variables.items():
            if bindings.get(variable, size) != size:
                raise GradientError(
                    f"read: expected a value computed with {variable.arg}={bindings[variable]}, "
                    f"got one computed with {variable.arg}={size}; compute it again after bind()"
                )
    return buffer


def _finish(node: Node, buffer: Buffer, bindings: Mapping[Expr, int], overwrote: bool) -> None:
    if overwrote:
        buffer.overwrite(profile.user_line() or "an unknown line")
    used = variables_of(size for size in node.shape if isinstance(size, Expr)) if bindings else ()
    buffer.variables = {variable: bindings[variable] for variable in used if variable in bindings}
    node.attach(buffer)
    if bindings:
        _symbolic[node] = dict(bindings)
    if profile.recorders:
        profile.record_tensor(id(buffer), f"{node.dtype}{list(node.shape)}")


def is_deferred() -> bool:
    """Whether this thread is inside a `deferring` block."""
    return _mode.deferred


@contextlib.contextmanager
def deferring() -> Iterator[None]:
    """A block in which nothing is computed: realizing waits, and reading a value is a JitError."""
    before, _mode.deferred = _mode.deferred, True
    try:
        yield
    finally:
        _mode.deferred = before


# ---- in and out ----


def from_host(array: np.ndarray[Any, Any], device: str | None = None, borrow: bool = False) -> Node:
    """A leaf with the values of `array`; `borrow` shares its memory where the device can and the array
    allows."""
    backend = get_backend(device)
    dtype = from_numpy_dtype(array.dtype)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    data = np.ascontiguousarray(array)
    view = data.reshape(-1).view(np.uint8).data if data.size else memoryview(b"")
    shared = borrow and data is array and data.flags.writeable and data.flags.aligned and data.size
    handle = backend.borrow(view) if shared else None
    buffer = Buffer(backend, data.nbytes, handle, keep=data if handle is not None else None)
    if handle is None:
        buffer.write(view)
    if profile.recorders:
        profile.record_tensor(id(buffer), f"{dtype}{list(array.shape)}")
    return buffer_leaf(buffer, dtype, array.shape, backend.name)


def to_host(node: Node, share: bool = False) -> np.ndarray[Any, Any]:
    """The values of a node as an array; `share` gives the memory itself, read-only, where the device
    allows."""
    if _mode.deferred:
        raise JitError(
            "read: expected a jitted function to return tensors, got one that reads a value while it "
            "is captured (item, numpy, bool, …); return the tensor and read it outside"
        )
    realize_nodes((node,), node.device)
    buffer: Buffer = node.memory()
    buffer.backend.synchronize()
    shape = tuple(evaluate(size, buffer.variables) for size in node.shape)
    view = buffer.host_view() if share and buffer.size else None
    if view is not None:
        return SharedMemory(buffer, view).array.view(node.dtype.numpy).reshape(shape)
    result = np.empty(shape, node.dtype.numpy)
    if result.size:
        buffer.read(result.reshape(-1).view(np.uint8).data)
    return result
