"""A captured call, and its replay: bind the memory of the moment, launch everything, deliver the results.

Tensors that the function closes over are bound by identity: a replay reads their contents of that moment, and
assignments persist. trace.py makes captures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from petaflop import profile
from petaflop import realize as runtime
from petaflop.config import config
from petaflop.device.backend import Backend, Replay
from petaflop.device.buffer import Buffer
from petaflop.dtype import DType
from petaflop.errors import JitError
from petaflop.graph.node import Node, buffer_leaf
from petaflop.graph.symbolic import Expr, evaluate
from petaflop.ir.schedule import Slot
from petaflop.tensor import Tensor
from petaflop.tensor.base import live_tensors

__all__ = ["Capture", "Kind", "Owner", "replay"]

Owner = tuple["Tensor | int", bool]  # a closed-over tensor or the place of an argument; is it its gradient?


class Kind(NamedTuple):
    """What a capture expects of a closed-over tensor."""

    shape: Any
    dtype: Any
    device: str | None
    requires_grad: bool

    def fits(self, tensor: Tensor) -> bool:
        """Whether the tensor is still of this kind."""
        shape, dtype, device, requires_grad = self
        node = tensor._node
        return (
            node.dtype is dtype
            and node.shape == shape
            and node.device == device
            and (tensor._leaf or node.needs_gradient) == requires_grad
        )


@dataclass(slots=True)
class Capture:
    """One call as a prepared schedule: where each slot's buffer comes from, and where each result goes."""

    prepared: runtime.Prepared
    backend: Backend
    structure: Any  # of the result
    given: dict[int, Owner] = field(default_factory=dict)  # slot → whose memory it is
    fixed: dict[int, Buffer] = field(default_factory=dict)  # slot → memory nobody else can change
    outputs: list[tuple[Node, int]] = field(default_factory=list)  # (node, slot) of each returned tensor
    assigned: list[tuple[Tensor | int, Node, int]] = field(default_factory=list)
    gradients: list[tuple[Tensor | int, Node | None, int]] = field(default_factory=list)
    absent: list[tuple[Tensor, bool]] = field(default_factory=list)  # was the gradient None, at first sight
    kinds: list[tuple[Tensor, Kind]] = field(default_factory=list)  # of closed-over tensors
    real: dict[int, Tensor] = field(default_factory=dict)  # arguments, closed over as well and written
    overwritten: set[int] = field(default_factory=set)  # slots of given buffers that are written in place
    lines: Sequence[tuple[str, ...]] = ()  # that built each step, where PETAFLOP_CHECK or a profile asked
    replay: Replay | None = None
    buffers: list[Any] | None = None
    changing: list[tuple[int, Slot]] = field(default_factory=list)  # all but temporaries
    values: tuple[int, ...] | None = None
    places: _Places | None = None  # where the capture can go the plain way

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether gradients are there or absent, and tensors of the kind, that the function saw."""
        return not (self.absent or self.kinds or self.real or self.assigned) or (
            all((tensor._grad is None) == absent for tensor, absent in self.absent)
            and all(kind.fits(tensor) for tensor, kind in self.kinds)
            and all(tensors[place] is tensor for place, tensor in self.real.items())
            and not (self.shared(tensors) - self.real.keys())
        )

    def shared(self, tensors: Sequence[Tensor]) -> set[int]:
        """The arguments that are also closed over, where the function writes to either."""
        if not self.assigned:
            return set()
        written = {target if isinstance(target, int) else id(target) for target, _, _ in self.assigned}
        closed = {id(tensor) for tensor, _ in self.kinds}
        return {
            place
            for place, tensor in enumerate(tensors)
            if id(tensor) in written or (id(tensor) in closed and place in written)
        }


# ---- replaying ----


def replay(capture: Capture, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The call once more with other contents; assignments happen, and the returned tensors are new."""
    plain = not (profile.recorders or config.debug >= 2 or config.check)
    if capture.places is not None and plain:
        return _replay_values(capture, capture.places, tensors)
    prepared, backend = capture.prepared, capture.backend
    given = dict(capture.fixed)
    for slot, (owner, gradient) in capture.given.items():
        tensor = tensors[owner] if isinstance(owner, int) else owner
        given[slot] = _settled(tensor._grad if gradient else tensor).memory()
    bindings: dict[Expr, int] = {}
    if prepared.schedule.variables:  # an argument may matter by its sizes alone
        memory = (*given.values(), *[tensor._node.buffer for tensor in tensors])
        bindings = _sizes(prepared.schedule.variables, memory)
    _make_exclusive(capture, tensors, given)
    buffers = _buffers(capture, given, bindings)
    if plain:
        _launch(capture, buffers, tuple(bindings.values()))
    else:
        runtime.run(prepared, buffers, bindings, backend, capture.lines)
    return _deliver(capture, buffers, tensors, bindings)


@dataclass(frozen=True, slots=True)
class _Places:
    """A capture that reads tensors and makes new ones, and nothing else: where its memory comes from."""

    locations: list[tuple[Any, int]]  # by slot, temporaries filled in
    arguments: list[tuple[int, int]]  # slot, place of the argument
    closed: list[tuple[int, Tensor, bool]]  # slot, tensor, whether it is its gradient
    results: list[tuple[int, int, DType, Any]]  # slot, bytes, dtype, shape


def _places(capture: Capture, locations: Sequence[tuple[Any, int]]) -> _Places | None:
    """Places for the plain way, which most captures of a model's forward pass can go."""
    slots = capture.prepared.schedule.slots
    results = {slot: node for node, slot in capture.outputs}
    kept = {number for number, slot in enumerate(slots) if slot.kept and not slot.given}
    other = capture.prepared.schedule.variables or capture.assigned or capture.gradients
    if other or capture.overwritten or len(results) != len(capture.outputs) or kept != results.keys():
        return None
    given = [(slot, owner, gradient) for slot, (owner, gradient) in capture.given.items()]
    if any(slot.base is not None for slot in slots) or any(isinstance(o, int) and g for _, o, g in given):
        return None
    return _Places(
        list(locations),
        [(slot, owner) for slot, owner, _ in given if isinstance(owner, int)],
        [(slot, owner, gradient) for slot, owner, gradient in given if not isinstance(owner, int)],
        [(slot, evaluate(slots[slot].size), n.dtype, n.shape) for slot, n in results.items()],
    )


def _replay_values(capture: Capture, places: _Places, tensors: Sequence[Tensor]) -> list[Tensor]:
    """`replay` at the least cost: each microsecond here is one of every call."""
    locations, backend, held = places.locations.copy(), capture.backend, []
    for slot, place in places.arguments:
        node = tensors[place]._node
        buffer = node.buffer
        held.append(buffer if buffer.version == node.version else node.memory())
        locations[slot] = (buffer.handle, buffer.offset)
    for slot, tensor, gradient in places.closed:
        held.append(buffer := _settled(tensor._grad if gradient else tensor).memory())
        locations[slot] = (buffer.handle, buffer.offset)
    results = []
    name = backend.name
    for slot, size, dtype, shape in places.results:
        buffer = Buffer(backend, size)
        buffer.replayed = True
        locations[slot] = (buffer.handle, 0)
        results.append(Tensor._around(buffer_leaf(buffer, dtype, shape, name), name))
    assert capture.replay is not None
    capture.replay(locations, ())
    return results


def _settled(tensor: Tensor | None) -> Node:
    """The node of a closed-over tensor, computed if somebody assigned it lazily since."""
    assert tensor is not None, "a capture is only replayed while the gradients it reads are there"
    if not tensor._node.is_realized:
        tensor.realize()
    return tensor._node


def _sizes(variables: Sequence[Expr], memory: Iterable[Buffer]) -> dict[Expr, int]:
    """The value of each Variable: what it is bound to, else what the given memory was made with."""
    found = {variable: variable.value for variable in variables}
    for buffer in memory:
        for variable, size in buffer.variables.items():
            bound = found.get(variable)
            if variable in found and bound is None:
                found[variable] = size
            elif bound not in (None, size):
                raise JitError(
                    f"jit: expected values computed with {variable}={bound}, got {variable}={size}"
                )
    return {variable: evaluate(variable, found) for variable in variables}  # type: ignore[arg-type]


def _make_exclusive(capture: Capture, tensors: Sequence[Tensor], given: dict[int, Buffer]) -> None:
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


def _buffers(capture: Capture, given: Mapping[int, Buffer], bindings: Mapping[Expr, int]) -> list[Any]:
    """A buffer for each slot; temporaries stay where they were, results are always new."""
    values = tuple(capture.prepared.plans.room(bindings).values())
    slots = capture.prepared.schedule.slots
    if capture.buffers is None or capture.values != values:
        fresh = runtime.allocate(capture.prepared, given, bindings, capture.backend)
        capture.values = values
        capture.changing = [(n, s) for n, s in enumerate(slots) if s.given or s.kept or s.base is not None]
        changing = {number for number, _ in capture.changing}
        # keep temporaries alive, nothing else
        capture.buffers = [None if number in changing else buffer for number, buffer in enumerate(fresh)]
        return fresh
    fresh = capture.buffers.copy()
    for number, slot in capture.changing:
        if slot.base is not None:
            fresh[number] = fresh[slot.base]
        elif slot.given:
            fresh[number] = given[number]
        else:
            fresh[number] = Buffer(capture.backend, evaluate(slot.size, bindings))
    return fresh


def _launch(capture: Capture, buffers: Sequence[Any], values: Sequence[int]) -> None:
    if capture.replay is None:
        positions = {v: n for n, v in enumerate(capture.prepared.schedule.variables)}
        launches = [
            (program.launch, step.slots, [positions[v] for v in program.kernel.variables])
            for step, program in zip(capture.prepared.schedule.steps, capture.prepared.programs, strict=True)
        ]
        capture.replay = capture.backend.capture(launches) or _one_by_one(launches)
    nowhere = next((b.location for b in buffers if b is not None), (None, 0))
    locations = [b.location if b is not None else nowhere for b in buffers]
    capture.replay(locations, values)
    capture.places = _places(capture, locations)


def _one_by_one(launches: Sequence[tuple[Any, Sequence[int], Sequence[int]]]) -> Replay:
    def replay(buffers: Sequence[tuple[Any, int]], variables: Sequence[int]) -> None:
        for launch, slots, values in launches:
            launch([buffers[slot] for slot in slots], [variables[n] for n in values])

    return replay


def _deliver(
    capture: Capture, buffers: Sequence[Any], tensors: Sequence[Tensor], bindings: Mapping[Expr, int]
) -> list[Tensor]:
    name = capture.backend.name

    def leaf(node: Node, slot: int) -> Node:
        buffer = buffers[slot]
        if bindings:
            buffer.variables = dict(bindings) if any(isinstance(d, Expr) for d in node.shape) else {}
        return buffer_leaf(buffer, node.dtype, node.shape, name)

    for slot in capture.overwritten:
        buffers[slot].overwrite("a replay of a jitted function")
    for target, node, slot in capture.assigned:
        tensor = tensors[target] if isinstance(target, int) else target
        tensor._node = leaf(node, slot)
    for target, gradient, slot in capture.gradients:
        tensor = tensors[target] if isinstance(target, int) else target
        tensor._grad = None if gradient is None else Tensor._from_node(leaf(gradient, slot), name)
    for _, slot in capture.outputs:
        buffers[slot].replayed = True
    return [Tensor._from_node(leaf(node, slot), name) for node, slot in capture.outputs]
