"""Make a capture: the function runs on placeholders while nothing is computed, and becomes one schedule.

What it returned, assigned and put into `.grad` are the results of that. What a capture cannot hold is a
JitError, never a wrong result.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petaflop import profile
from petaflop import realize as runtime
from petaflop.capture import Capture, Kind, Owner
from petaflop.checking import lines_of
from petaflop.config import config
from petaflop.device.backend import Backend
from petaflop.device.registry import default_device, get_backend, opened_devices
from petaflop.errors import JitError
from petaflop.graph.node import Node, buffer_leaf, duplicate, toposort
from petaflop.graph.ops import Op
from petaflop.guards import Guards
from petaflop.impure import Watch
from petaflop.structure import flatten, unflatten
from petaflop.tensor import Tensor
from petaflop.tensor.base import TensorBase, live_tensors
from petaflop.tensor.watch import Log, logging

__all__ = ["capture_call"]

_CONSTANTS = (Op.CONST, Op.IOTA, Op.VAR)


def capture_call(
    function: Callable[..., Any], structure: Any, tensors: Sequence[Tensor], guards: Guards
) -> Capture:
    """A call with these arguments, ready to be replayed; nothing of it has happened yet."""
    known = opened_devices()
    try:
        capture = _attempt(function, structure, tensors, guards, frozenset())
    except JitError:
        if opened_devices() == known:
            raise
        capture = _attempt(function, structure, tensors, guards, frozenset())  # its first sight of a device
    if shared := capture.shared(tensors):
        capture = _attempt(function, structure, tensors, guards, shared)
    return capture


def _attempt(
    function: Callable[..., Any],
    structure: Any,
    tensors: Sequence[Tensor],
    guards: Guards,
    real: Iterable[int],
) -> Capture:
    for device in {default_device(), *opened_devices(), *(t.device for t in tensors)}:
        Tensor._state(device)
    live = live_tensors()
    for tensor in live:
        tensor.node  # noqa: B018 - a gradient target makes its leaf at first sight; not during the capture
    before = {id(t): (t, t._node, t._grad) for t in live}
    stand_ins = [t if n in set(real) else _stand_in(t) for n, t in enumerate(tensors)]
    leaves: dict[Node, Owner] = {}
    for place in set(range(len(tensors))) - set(real):
        leaves[stand_ins[place].node] = (place, False)
        if (grad := stand_ins[place]._grad) is not None:
            leaves[grad.node] = (place, True)
    with logging() as log:
        try:
            with runtime.deferring(), Watch(guards.clocks) as watch:
                args, kwargs = unflatten(structure, stand_ins)
                result = function(*args, **kwargs)
            returned: list[Tensor] = []
            shape = flatten(result, returned, "a result")
            del result, args, kwargs
            traced = _Traced(before, stand_ins, leaves, returned, log)
            traced.refuse_survivors()
            _refuse_effects(guards, watch)
            capture = traced.assemble(shape)
        finally:  # a replay, the first one too, starts from what was there before the call
            log.restore()
    capture.real = {place: tensors[place] for place in real}
    return capture


def _refuse_effects(guards: Guards, watch: Watch) -> None:
    """JitError for what Python code did that a replay would not do again."""
    if changed := next(guards.changed(awaited=False), None):
        raise JitError(
            f"jit: expected a function that leaves Python values as they are, got one that changes "
            f"{changed}; Python code only runs while it is captured: keep the value in a Tensor"
        )
    if advanced := next(guards.advanced(), None):
        raise JitError(
            f"jit: expected a function that gives the same for the same, got one that draws from {advanced}; "
            "a replay would not draw again: draw outside and pass the value, or use Tensor.rand"
        )
    if watch.found is not None:
        raise JitError(
            f"jit: expected a function that gives the same for the same, got one that calls {watch.found}; "
            "a replay would not call it again: call it outside and pass the value as an argument"
        )


def _stand_in(tensor: Tensor) -> Tensor:
    memory = tensor._node.memory()
    alone = memory.part(0, memory.size)  # another tensor may share it, and not the next time
    node = buffer_leaf(alone, tensor.dtype, tensor.shape, tensor.device)
    stand_in = Tensor._from_node(node, tensor.device)
    if tensor.requires_grad:
        stand_in.requires_grad_()
        stand_in.node  # noqa: B018
        if (grad := tensor._grad) is not None:
            stand_in._grad = _stand_in(grad.realize())
    return stand_in


@dataclass(slots=True)
class _Traced:
    """What a call left behind: what was there `before`, what it was given and returned, and its log."""

    before: Mapping[int, tuple[Any, Node, Any]]  # tensor, node, gradient
    stand_ins: list[Tensor]
    leaves: Mapping[Node, Owner]
    returned: list[Tensor]
    log: Log

    @property
    def places(self) -> dict[int, int]:
        """Stand-ins by identity."""
        return {id(t): n for n, t in enumerate(self.stand_ins) if id(t) not in self.before}

    def _owner(self, tensor: Tensor) -> Tensor | int | None:
        """A tensor that outlives the call: one that was there before, or the argument that it stands for."""
        return tensor if id(tensor) in self.before else self.places.get(id(tensor))

    def changed(self) -> list[tuple[Tensor | int, Node]]:
        """Tensors with their new values."""
        owned = [(self._owner(t), t._node) for t, node in self.log.nodes.values() if t._node is not node]
        return [(owner, node) for owner, node in owned if owner is not None]

    def gradients(self) -> list[tuple[Tensor | int, Tensor | None]]:
        """Tensors with their new gradients."""
        owned = [(self._owner(t), t._grad) for t, grad in self.log.grads.values() if t._grad is not grad]
        return [(owner, grad) for owner, grad in owned if owner is not None]

    def refuse_survivors(self) -> None:
        """JitError for a tensor made inside that somebody keeps: a replay would not make it again."""
        grads = [grad for _, grad in self.gradients() if grad is not None]
        known = {id(tensor) for tensor in (*self.stand_ins, *self.returned, *grads)}

        def strangers() -> list[Tensor]:
            made = [tensor for each in self.log.made.values() if (tensor := each()) is not None]
            lazy = [t for t in made if id(t) not in known and not t._node.is_realized]
            return [t for t in lazy if t._node.op not in _CONSTANTS]

        if strangers():
            gc.collect()
        for tensor in strangers():
            raise JitError(
                f"jit: expected tensors made inside to be returned or assigned, got {tensor!r} kept outside; "
                "return it, or assign() it to a tensor that exists before the call"
            )

    def assemble(self, shape: Any) -> Capture:
        """Everything as one graph, scheduled and compiled."""
        changed, gradients = self.changed(), self.gradients()
        own = {node for _, node in changed}
        outputs = [duplicate(n) if n.is_realized or n in own else n for n in (t._node for t in self.returned)]
        outputs = [duplicate(n) if n.op in _CONSTANTS else n for n in outputs]
        grads = [(owner, None if grad is None else duplicate(grad._node)) for owner, grad in gradients]
        assigned = [(owner, _storable(node)) for owner, node in changed]
        made = [node for _, node in (*assigned, *grads) if node is not None]
        roots = list(dict.fromkeys([*outputs, *made]))
        order = toposort(roots)
        old = self._owners()
        skip = {*roots, *self.leaves}
        runtime.realize_nodes(
            [n for n in order if n in old and n.buffer is None and n.op not in _CONSTANTS and n not in skip]
        )
        order = toposort(roots)
        backend = _backend(order, roots, self.stand_ins)
        capture = Capture(runtime.prepare(order, roots, backend), backend, shape)
        for number, slot in enumerate(capture.prepared.schedule.slots):
            if slot.given and slot.base is None:
                self._bind(capture, number, order[slot.node], old)
            elif slot.base is not None and slot.kept:
                capture.overwritten.add(_root_slot(capture.prepared, number))
        slots = {order[s.node]: n for n, s in enumerate(capture.prepared.schedule.slots) if s.kept}
        capture.outputs = [(node, slots[node]) for node in outputs]
        capture.assigned = [(t, node, slots[node]) for t, node in assigned]
        capture.gradients = [(t, node, slots[node] if node is not None else -1) for t, node in grads]
        self._expect(capture)
        if config.check or profile.naming:
            capture.lines = lines_of(capture.prepared.schedule, order)
        return capture

    def _owners(self) -> dict[Node, tuple[Tensor, bool]]:
        """Node → the tensor that had it before the call, and whether as its gradient."""
        old: dict[Node, tuple[Tensor, bool]] = {}
        for t, node, _ in self.before.values():
            old.setdefault(node, (t, False))
            if t.requires_grad and node.op is Op.REALIZE and node.sources[0].is_realized:
                old[node.sources[0]] = (t, False)  # the memory below a gradient target's own leaf
        for t, _, grad in self.before.values():
            if grad is not None and id(grad) in self.before:
                # a replay gives the tensor another gradient, so that is bound by its owner
                old[self.before[id(grad)][1]] = (t, True)
        return old

    def _bind(
        self, capture: Capture, number: int, node: Node, old: Mapping[Node, tuple[Tensor, bool]]
    ) -> None:
        inner = node.sources[0] if node.op is Op.REALIZE and node.sources else node
        owner = self.leaves.get(node) or self.leaves.get(inner) or old.get(node)
        if owner is not None:
            capture.given[number] = owner
        else:
            capture.fixed[number] = node.memory()

    def _expect(self, capture: Capture) -> None:
        """What must be so at a replay: see `Capture.fits`."""
        asked = {id(tensor): grad is None for tensor, grad in self.log.grads.values()}
        asked |= {key: absent for key, absent in self.log.asked.items() if key not in asked}
        capture.absent = [
            (self.before[key][0], absent) for key, absent in asked.items() if key in self.before
        ]
        closed = [owner for owner, _ in capture.given.values()]
        closed += [owner for owner, _, _ in (*capture.assigned, *capture.gradients)]
        unique = {id(owner): owner for owner in closed if isinstance(owner, Tensor)}
        capture.kinds = [(t, _kind(t, self.before[id(t)][1])) for t in unique.values()]


def _kind(tensor: TensorBase, node: Node) -> Kind:
    return Kind(node.shape, node.dtype, node.device, tensor.requires_grad)


def _storable(node: Node) -> Node:
    """An assigned value that is a constant or somebody else's memory gets memory of its own."""
    return duplicate(node) if node.op in _CONSTANTS or node.is_realized else node


def _backend(order: Sequence[Node], roots: Sequence[Node], stand_ins: Sequence[Tensor]) -> Backend:
    copies = [n for n in order if n.op is Op.COPY and n.buffer is None]
    devices = {n.device for n in roots if n.device is not None}
    if copies or len(devices) > 1:
        raise JitError(f"jit: expected one device, got {sorted(devices)}; move tensors outside the function")
    return get_backend(devices.pop() if devices else (stand_ins[0].device if stand_ins else None))


def _root_slot(prepared: runtime.Prepared, number: int) -> int:
    while (base := prepared.schedule.slots[number].base) is not None:
        number = base
    return number
