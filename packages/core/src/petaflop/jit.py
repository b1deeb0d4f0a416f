"""`jit`: capture one call of a function as a single schedule, and replay it at the cost of one native call.

The function runs once on placeholders while nothing is computed; what it returned, assigned and put into
`.grad` becomes the results of one graph. Tensors it closes over are bound by identity: a replay reads their
contents of that moment, and assignments persist. What a capture cannot hold is a JitError, never a wrong
result.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar

from petaflop import profile
from petaflop import realize as runtime
from petaflop.config import config
from petaflop.device.backend import Backend, Replay
from petaflop.device.buffer import Buffer
from petaflop.device.registry import default_device, get_backend
from petaflop.errors import JitError
from petaflop.graph.node import Node, buffer_leaf, duplicate, toposort
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr, evaluate
from petaflop.tensor import Tensor
from petaflop.tensor.base import live_tensors
from petaflop.tensor.mode import grad_enabled

__all__ = ["Jit", "jit"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
_CONSTANTS = (Op.CONST, Op.IOTA, Op.VAR)
_MAX_CAPTURES = 64


# ---- arguments and results as flat lists ----


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a tensor stood in a nested structure."""

    position: int


def _flatten(value: Any, tensors: list[Tensor], where: str) -> Any:
    """The structure with every Tensor replaced by its place in `tensors`; hashable."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Slot(len(tensors) - 1)
    if isinstance(value, (list, tuple)):
        parts = tuple(_flatten(item, tensors, where) for item in value)
        return (type(value), parts)
    if isinstance(value, dict):
        return (dict, tuple((key, _flatten(item, tensors, where)) for key, item in value.items()))
    try:
        hash(value)
    except TypeError:
        raise JitError(
            f"jit: expected {where} of tensors and hashable values, "
            f"got {type(value).__name__}; wrap it in a Tensor"
        ) from None
    return (type(value), value)


def _unflatten(structure: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(structure, _Slot):
        return tensors[structure.position]
    kind, value = structure
    if kind is dict:
        return {key: _unflatten(item, tensors) for key, item in value}
    if isinstance(kind, type) and issubclass(kind, (list, tuple)):
        parts = [_unflatten(item, tensors) for item in value]
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)
    return value


# ---- a captured call ----


@dataclass(slots=True)
class _Capture:
    """One call as a prepared schedule: where each slot's buffer comes from, and where each result goes."""

    prepared: runtime.Prepared
    backend: Backend
    structure: Any  # of the result
    inputs: dict[int, int] = field(default_factory=dict)  # slot → argument
    states: dict[int, tuple[Tensor, bool]] = field(
        default_factory=dict
    )  # slot → closed-over (tensor, its gradient?)
    fixed: dict[int, Buffer] = field(default_factory=dict)  # slot → memory nobody else can change
    outputs: list[tuple[Node, int]] = field(default_factory=list)  # (node, slot) of each returned tensor
    assigned: list[tuple[Tensor | int, Node, int]] = field(
        default_factory=list
    )  # (tensor or argument, node, slot)
    gradients: list[tuple[Tensor, Node | None, int]] = field(default_factory=list)
    expected_gradients: list[tuple[Tensor, bool]] = field(default_factory=list)
    overwritten: set[int] = field(default_factory=set)  # slots of given buffers that are written in place
    replay: Replay | None = None
    buffers: list[Any] | None = None
    values: tuple[int, ...] | None = None

    @property
    def still_holds(self) -> bool:
        """Whether the gradients that the function saw are there, or absent, as they were."""
        return all((tensor.grad is None) == absent for tensor, absent in self.expected_gradients)


class Jit(Generic[Parameters, Result]):
    """A function whose first call with each kind of arguments is captured, and later ones replayed; see
    `jit`."""

    def __init__(self, function: Callable[Parameters, Result]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.captures: dict[Any, list[_Capture]] = {}

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        tensors: list[Tensor] = []
        structure = _flatten((args, kwargs), tensors, "arguments")
        kinds = tuple([(t.shape, t.dtype, t.device, t.requires_grad) for t in tensors])
        key = (structure, kinds, grad_enabled(), config.fuse)
        with runtime.lock:
            lazy = [t for t in tensors if not t._node.is_realized]
            if lazy:
                Tensor.realize(*lazy)
            found = self.captures.setdefault(key, [])
            capture = next((c for c in found if c.still_holds), None)
            if capture is None:
                capture = _capture(self.function, structure, tensors)
                found.append(capture)
                if sum(map(len, self.captures.values())) > _MAX_CAPTURES:
                    self.captures.pop(next(iter(self.captures)))
            results = _replay(capture, tensors)
        return _unflatten(capture.structure, results)


def jit(function: Callable[Parameters, Result]) -> Jit[Parameters, Result]:
    """Capture the first call of `function` and replay it afterwards, without Python work on the graph.

    Arguments and results may be tensors and hashable values, nested in lists, tuples and dicts. Another
    shape, dtype, device or plain value captures anew; a bound `Variable` may change freely. Tensors that the
    function closes over are read anew each time, assignments to them (and `.grad`) persist, random numbers go
    on. Results never share memory with earlier ones. Reading a value inside (`item`, `numpy`, `if tensor:`)
    raises JitError.

    >>> double = jit(lambda x: x * 2)
    >>> double(Tensor([1.0, 2.0])).tolist()
    [2.0, 4.0]
    """
    return Jit(function)


def _capture(function: Callable[..., Any], structure: Any, tensors: Sequence[Tensor]) -> _Capture:
    for device in {t.device for t in tensors} or {default_device()}:
        Tensor._state(device)
    for tensor in live_tensors():
        tensor.node  # noqa: B018 - a gradient target makes its leaf at first sight; not during the capture
    before: dict[int, Any] = {id(t): (t, t._node, t.grad) for t in live_tensors()}
    stand_ins = [_stand_in(t) for t in tensors]
    leaves = {stand_in.node: number for number, stand_in in enumerate(stand_ins)}
    try:
        with runtime.deferring():
            args, kwargs = _unflatten(structure, stand_ins)
            result = function(*args, **kwargs)
        returned: list[Tensor] = []
        shape = _flatten(result, returned, "a result")
        del result, args, kwargs
        return _assemble(before, stand_ins, leaves, returned, shape)
    finally:  # a replay, the first one too, starts from what was there before the call
        for tensor, node, grad in before.values():
            tensor._node, tensor.grad = node, grad


def _stand_in(tensor: Tensor) -> Tensor:
    memory = tensor._node.memory()
    alone = memory.part(0, memory.size)  # the same tensor may come twice, and not the next time
    node = buffer_leaf(alone, tensor.dtype, tensor.shape, tensor.device)
    stand_in = Tensor._from_node(node, tensor.device)
    if tensor.requires_grad:
        stand_in.requires_grad_()
        stand_in.node  # noqa: B018
    return stand_in


def _assemble(
    before: Mapping[int, tuple[Tensor, Node, Tensor | None]],
    stand_ins: list[Tensor],
    leaves: Mapping[Node, int],
    returned: list[Tensor],
    shape: Any,
) -> _Capture:
    changed = [(t, t._node) for t, node, _ in before.values() if t._node is not node]
    gradients = [(t, t.grad) for t, _, grad in before.values() if t.grad is not grad]
    absent = [(t, grad is None) for t, _, grad in before.values() if t.grad is not grad]
    moved = [
        (n, s._node) for n, s in enumerate(stand_ins) if s._node not in leaves and not _is_leaf(s, leaves)
    ]
    _refuse_survivors(before, stand_ins, returned, [g for _, g in gradients if g is not None])
    own = {node for _, node in changed} | {node for _, node in moved}
    outputs = [duplicate(t._node) if t._node.is_realized or t._node in own else t._node for t in returned]
    outputs = [duplicate(n) if n.op in _CONSTANTS else n for n in outputs]
    grads = [(t, None if g is None else duplicate(g._node)) for t, g in gradients]
    assigned: list[tuple[Tensor | int, Node]] = [(t, _storable(node)) for t, node in changed]
    assigned += [(n, _storable(node)) for n, node in moved]
    roots = list(
        dict.fromkeys([*outputs, *(n for _, n in assigned), *(n for _, n in grads if n is not None)])
    )
    order = toposort(roots)
    old: dict[Node, tuple[Tensor, bool]] = {}  # node → (tensor, whether it is that tensor's gradient)
    for t, node, _ in before.values():
        old.setdefault(node, (t, False))
        if t.requires_grad and node.op is Op.REALIZE and node.sources[0].is_realized:
            old[node.sources[0]] = (t, False)  # the memory below a gradient target's own leaf
    for t, _, grad in before.values():
        if grad is not None:  # a replay gives the tensor another gradient, so that is bound by its owner
            old[before[id(grad)][1]] = (t, True)
    waiting = [
        n for n in order if n in old and n.buffer is None and n.op not in _CONSTANTS and n not in roots
    ]
    runtime.realize_nodes(waiting)
    order = toposort(roots)
    backend = _backend(order, roots, stand_ins)
    capture = _Capture(runtime.prepare(order, roots, backend), backend, shape)
    for number, slot in enumerate(capture.prepared.schedule.slots):
        if slot.given and slot.base is None:
            _bind(capture, number, order[slot.node], leaves, old)
        elif slot.base is not None and slot.kept:
            capture.overwritten.add(_root_slot(capture.prepared, number))
    slots = {order[s.node]: n for n, s in enumerate(capture.prepared.schedule.slots) if s.kept}
    capture.outputs = [(node, slots[node]) for node in outputs]
    capture.assigned = [(t, node, slots[node]) for t, node in assigned]
    capture.gradients = [(t, node, slots[node] if node is not None else -1) for t, node in grads]
    capture.expected_gradients = absent
    return capture


def _storable(node: Node) -> Node:
    """An assigned value that is a constant or somebody else's memory gets memory of its own."""
    return duplicate(node) if node.op in _CONSTANTS or node.is_realized else node


def _is_leaf(stand_in: Tensor, leaves: Mapping[Node, int]) -> bool:
    node = stand_in._node
    return node.op is Op.REALIZE and bool(node.sources) and node.sources[0] in leaves and node.is_realized


def _refuse_survivors(
    before: Mapping[int, Any], stand_ins: list[Tensor], returned: list[Tensor], gradients: list[Tensor]
) -> None:
    known = {id(t) for t in (*stand_ins, *returned, *gradients)} | set(before)

    def strangers() -> list[Tensor]:
        lazy = [t for t in live_tensors() if id(t) not in known and not t._node.is_realized]
        return [t for t in lazy if t._node.op not in _CONSTANTS]  # type: ignore[misc]

    if strangers():
        gc.collect()
    for tensor in strangers():
        raise JitError(
            f"jit: expected tensors made inside to be returned or assigned, got {tensor!r} kept outside; "
            "return it, or assign() it to a tensor that exists before the call"
        )


def _backend(order: Sequence[Node], roots: Sequence[Node], stand_ins: Sequence[Tensor]) -> Backend:
    copies = [n for n in order if n.op is Op.COPY and n.buffer is None]
    devices = {n.device for n in roots if n.device is not None}
    if copies or len(devices) > 1:
        raise JitError(f"jit: expected one device, got {sorted(devices)}; move tensors outside the function")
    return get_backend(devices.pop() if devices else (stand_ins[0].device if stand_ins else None))


def _bind(
    capture: _Capture,
    number: int,
    node: Node,
    leaves: Mapping[Node, int],
    old: Mapping[Node, tuple[Tensor, bool]],
) -> None:
    below = node.sources[0] if node.op is Op.REALIZE and node.sources and node.sources[0] in leaves else node
    if below in leaves:
        capture.inputs[number] = leaves[below]
    elif node in old:
        capture.states[number] = old[node]
    else:
        capture.fixed[number] = node.memory()


def _root_slot(prepared: runtime.Prepared, number: int) -> int:
    while (base := prepared.schedule.slots[number].base) is not None:
        number = base
    return number


# ---- replaying ----


def _replay(capture: _Capture, tensors: Sequence[Tensor]) -> list[Tensor]:
    prepared, backend = capture.prepared, capture.backend
    bindings = {v: evaluate(v) for v in prepared.schedule.variables}
    given = dict(capture.fixed)
    for slot, number in capture.inputs.items():
        given[slot] = _readable(tensors[number]._node, bindings)
    for slot, (tensor, gradient) in capture.states.items():
        given[slot] = _readable(_settled(tensor.grad if gradient else tensor), bindings)
    _make_exclusive(capture, tensors, given)
    buffers = _buffers(capture, given, bindings)
    if profile.recorders or config.debug >= 2 or config.check:
        runtime.run(prepared, buffers, bindings, backend)
    else:
        _launch(capture, buffers, tuple(bindings.values()))
    return _deliver(capture, buffers, tensors, bindings)


def _settled(tensor: Tensor | None) -> Node:
    """The node of a closed-over tensor, computed if somebody assigned it lazily since."""
    assert tensor is not None, "a capture is only replayed while the gradients it reads are there"
    if not tensor._node.is_realized:
        tensor.realize()
    return tensor._node


def _readable(node: Node, bindings: Mapping[Expr, int]) -> Buffer:
    buffer: Buffer = node.memory()
    for variable, size in buffer.variables.items():
        if bindings.get(variable, size) != size:
            raise JitError(
                f"jit: expected values computed with {variable}={bindings[variable]}, got {variable}={size}"
            )
    return buffer


def _make_exclusive(capture: _Capture, tensors: Sequence[Tensor], given: dict[int, Buffer]) -> None:
    """Memory that is written in place and that somebody else can still see is copied first."""
    if not capture.overwritten:
        return
    changing = {id(t) for t, _, _ in capture.assigned if isinstance(t, Tensor)}
    others = [t._node for t in live_tensors() if id(t) not in changing]
    needed = runtime.needed_later(others) | {id(t._node.buffer) for t in tensors}
    for slot in capture.overwritten:
        buffer = given[slot]
        if id(buffer) in needed:
            copied = Buffer(buffer.backend, buffer.size)
            view = buffer.host_view()
            if view is None:
                view = memoryview(bytearray(buffer.size))
                buffer.read(view)
            copied.write(view)
            given[slot] = copied


def _buffers(capture: _Capture, given: Mapping[int, Buffer], bindings: Mapping[Expr, int]) -> list[Any]:
    """A buffer for each slot; temporaries stay where they were, results are always new."""
    values = tuple(bindings.values())
    if capture.buffers is None or capture.values != values:
        capture.buffers = runtime.allocate(capture.prepared, given, bindings, capture.backend)
        capture.values = values
        fresh = list(capture.buffers)
    else:
        fresh = list(capture.buffers)
        for number, slot in enumerate(capture.prepared.schedule.slots):
            if slot.base is not None:
                fresh[number] = fresh[slot.base]
            elif slot.given:
                fresh[number] = given[number]
            elif slot.kept:
                fresh[number] = Buffer(capture.backend, evaluate(slot.size, bindings))
    for number, slot in enumerate(capture.prepared.schedule.slots):
        if slot.given or slot.kept or slot.base is not None:
            capture.buffers[number] = None  # keep temporaries alive, nothing else
    return fresh


def _launch(capture: _Capture, buffers: Sequence[Any], values: Sequence[int]) -> None:
    if capture.replay is None:
        positions = {v: n for n, v in enumerate(capture.prepared.schedule.variables)}
        launches = [
            (program.launch, step.slots, [positions[v] for v in program.kernel.variables])
            for step, program in zip(capture.prepared.schedule.steps, capture.prepared.programs, strict=True)
        ]
        capture.replay = capture.backend.capture(launches) or _one_by_one(launches)
    nowhere = next((b.location for b in buffers if b is not None), (None, 0))
    capture.replay([b.location if b is not None else nowhere for b in buffers], values)


def _one_by_one(launches: Sequence[tuple[Any, Sequence[int], Sequence[int]]]) -> Replay:
    def replay(buffers: Sequence[tuple[Any, int]], variables: Sequence[int]) -> None:
        for launch, slots, values in launches:
            launch([buffers[slot] for slot in slots], [variables[n] for n in values])

    return replay


def _deliver(
    capture: _Capture, buffers: Sequence[Any], tensors: Sequence[Tensor], bindings: Mapping[Expr, int]
) -> list[Tensor]:
    name = capture.backend.name

    def leaf(node: Node, slot: int) -> Node:
        buffer = buffers[slot]
        buffer.variables = (
            {v: bindings[v] for v in bindings} if any(isinstance(d, Expr) for d in node.shape) else {}
        )
        return buffer_leaf(buffer, node.dtype, node.shape, name)

    for slot in capture.overwritten:
        buffers[slot].overwrite("a replay of a jitted function")
    for target, node, slot in capture.assigned:
        tensor = tensors[target] if isinstance(target, int) else target
        tensor._node = leaf(node, slot)
    for tensor, gradient, slot in capture.gradients:
        tensor.grad = None if gradient is None else Tensor._from_node(leaf(gradient, slot), name)
    return [Tensor._from_node(leaf(node, slot), name) for node, slot in capture.outputs]
