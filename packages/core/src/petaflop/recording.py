"""A function as a graph, for those who write it elsewhere: it runs on placeholders while nothing is computed.

Unlike a capture (`trace.py`) a recording may hold nothing but values: a function that assigns to tensors of
others, draws random numbers or puts gradients into `.grad` is a JitError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from petaflop import realize as runtime
from petaflop.device.registry import default_device
from petaflop.dtype import DType
from petaflop.errors import JitError, ShapeError
from petaflop.graph.node import Node, buffer_leaf, rebuilt, toposort
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr, evaluate
from petaflop.structure import flatten, unflatten
from petaflop.tensor import Tensor
from petaflop.tensor.base import TensorBase, live_tensors
from petaflop.tensor.watch import Log, logging

__all__ = ["host_values", "is_recording", "memory_of", "placeholder", "record", "settled", "sized"]

_CONSTANTS = (Op.CONST, Op.IOTA, Op.VAR)


def placeholder(dtype: DType, shape: tuple[Dim, ...], device: str) -> Tensor:
    """A tensor without a value, which stands for an argument; its sizes may be Variables.

    >>> from petaflop import Variable, float32
    >>> placeholder(float32, (Variable("n", 1, 9), 2), "reference").sum(0).shape
    (2,)
    """
    return Tensor._from_node(buffer_leaf(None, dtype, shape, device), device)


def is_recording() -> bool:
    """Whether this thread runs a function whose graph is taken, so that tensors have no values to look at."""
    return runtime.is_deferred()


def sized(tensor: Tensor, shape: tuple[Dim, ...], sizes: Mapping[Expr, int]) -> Tensor:
    """The memory of a computed tensor under a shape whose Variables have the values `sizes`.

    A jitted function of such tensors is captured for all values: a replay takes them from its arguments, so
    that nothing has to be bound. ShapeError where the values do not give the tensor's shape.

    >>> from petaflop import Variable
    >>> n = Variable("n", 2, 9)
    >>> sized(Tensor([[1.0, 2.0, 3.0]]), (1, n), {n: 3}).shape
    (1, n)
    """
    if (got := tuple(evaluate(size, sizes) for size in shape)) != tensor.shape:
        raise ShapeError(f"sized: expected sizes that make {list(tensor.shape)}, got {list(got)}")
    memory = tensor.realize()._memory_node().memory()
    part = memory.part(0, memory.size)
    part.variables = dict(sizes)
    return Tensor._from_node(buffer_leaf(part, tensor.dtype, shape, tensor.device), tensor.device)


def settled(tensor: Tensor) -> Tensor:
    """The memory of a computed tensor under plain numbers: the sizes that its Variables had.

    >>> from petaflop import Variable
    >>> n = Variable("n", 2, 9)
    >>> settled(sized(Tensor([1.0, 2.0, 3.0]), (n,), {n: 3})).shape
    (3,)
    """
    memory = tensor.realize()._memory_node().memory()
    shape = tuple(evaluate(size, memory.variables) for size in tensor.shape)
    if shape == tensor.shape:
        return tensor
    part = memory.part(0, memory.size)
    return Tensor._from_node(buffer_leaf(part, tensor.dtype, shape, tensor.device), tensor.device)


def record(
    name: str, function: Callable[..., Any], *args: Any, constants: Sequence[Tensor] = (), **kwargs: Any
) -> tuple[Any, list[Node]]:
    """What the function returns for placeholders, and the nodes that its tensors are made of, sources first.

    What other tensors held before the call is computed: in the graph it is memory. Tensors in `constants`
    take no gradient meanwhile. Nodes that say nothing about values (DETACH, REALIZE, a custom gradient) are
    left out. JitError, which begins with `name`, for a function that reads a value or changes a tensor that
    it did not make.

    >>> from petaflop import float32
    >>> result, nodes = record("export", lambda x: x + 1, placeholder(float32, (2,), "reference"))
    >>> [node.op for node in nodes]
    [BUFFER, CONST, ADD]
    """
    Tensor._state(_device_of((*args, *kwargs.values())))  # drawing numbers moves an old state on
    if constants:
        Tensor.realize(*constants)
    before = [tensor.node for tensor in live_tensors()]
    with _without_gradients(constants), logging() as log:
        try:
            with runtime.deferring():
                result = function(*args, **kwargs)
            tensors: list[Tensor] = []
            structure = flatten(result, tensors, "a result")
            _refuse_changes(name, log)
            roots = [tensor.node for tensor in tensors]
        finally:
            log.restore()
    old = {node for node in before if node.op not in _CONSTANTS and node.op is not Op.BUFFER}
    runtime.realize_nodes([node for node in toposort(roots) if node in old])
    roots = _values_only(roots)
    return unflatten(structure, [Tensor._from_node(root) for root in roots]), toposort(roots)


def memory_of(tensor: Tensor) -> Node:
    """The node that a tensor among the `constants` is in a recording."""
    return _values_only([tensor._memory_node()])[0]


@contextlib.contextmanager
def _without_gradients(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Leaves that are none in the block, and afterwards the same leaves: a loss may wait for its backward."""
    leaves = [(tensor, tensor.node) for tensor in tensors if tensor._leaf]
    try:
        for tensor, _ in leaves:
            tensor._node, tensor._leaf = tensor._memory_node(), False
        yield
    finally:
        for tensor, node in leaves:
            tensor._node, tensor._leaf = node, True


def _values_only(roots: Sequence[Node]) -> list[Node]:
    """The same values without the nodes that only matter to gradients, memory and fusion."""
    done: dict[Node, Node] = {}
    for node in toposort(roots):
        if node.buffer is not None or not node.sources:
            done[node] = node
        elif node.op in (Op.DETACH, Op.REALIZE) or (node.op is Op.CUSTOM and not node.arg.kernel):
            done[node] = done[node.sources[0]]
        else:
            done[node] = rebuilt(node, tuple(done[source] for source in node.sources))
    return [done[root] for root in roots]


def host_values(node: Node) -> np.ndarray[Any, Any]:
    """The values of a node that depends on no placeholder; computed now if they never were."""
    return runtime.to_host(node)


def _device_of(args: tuple[Any, ...]) -> str:
    return next((arg.device for arg in args if isinstance(arg, Tensor)), default_device())


def _refuse_changes(name: str, log: Log) -> None:
    if any(tensor._grad is not grad for tensor, grad in log.grads.values()):
        raise JitError(
            f"{name}: expected a function of its arguments, got one that puts gradients into .grad; "
            "use petaflop.grad and return them"
        )
    for tensor, node in log.nodes.values():
        if _same_value(tensor, node):
            continue
        if Tensor._is_state(tensor):
            raise JitError(
                f"{name}: expected a function of its arguments, got one that draws random numbers; "
                "make them an argument, or call eval() on the module whose dropout draws them"
            )
        raise JitError(
            f"{name}: expected a function of its arguments, got one that assigns to {tensor!r}, which was "
            "there before; return the new value, or call eval() on the module that keeps statistics"
        )


def _same_value(tensor: TensorBase, node: Node) -> bool:
    """Whether a tensor still holds what it did: realizing one gives it another node for the same value."""
    now = tensor._node
    return now is node or (now.op is Op.REALIZE and now.sources[0] is node)
