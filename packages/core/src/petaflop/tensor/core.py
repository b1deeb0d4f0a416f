"""`Tensor`: the last class of the chain, with assignment, gradients and what other libraries ask of an
array."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from petaflop import realize as runtime
from petaflop.errors import (
    ArgumentError,
    ArgumentTypeError,
    DeviceError,
    DTypeError,
    GradientError,
    ShapeError,
)
from petaflop.graph import node as graph
from petaflop.graph.gradient import gradient
from petaflop.graph.node import Node
from petaflop.ir.custom import GradientTemplate
from petaflop.tensor.base import TensorBase, _leaves, live_tensors
from petaflop.tensor.casts import Casts
from petaflop.tensor.decompose import Decompositions
from petaflop.tensor.dlpack import to_capsule
from petaflop.tensor.mode import grad_enabled

__all__ = ["Tensor", "differentiated"]

_differentiated: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()


def differentiated() -> list[Tensor]:
    """Tensors that `backward` was called on since the last time: an optimizer computes them with its step,

    before it overwrites the parameters that they were made of.
    """
    losses = list(_differentiated.values())
    _differentiated.clear()
    return losses


class Tensor(Decompositions, Casts):
    """An array on a device, computed when a value is asked for.

    `Tensor(data, dtype=None, device=None, requires_grad=False)` copies numbers, nested lists, arrays, tensors
    or a Variable. Python ints become int32 (int64 where they need it), floats float32; arrays keep their
    dtype. Operations are functional: a view taken earlier does not see later writes (in PyTorch it does).
    Graphs may be built and realized from several threads; one tensor must not be written by two at once.

    >>> (Tensor([1.0, 2.0]) * 3).tolist()
    [3.0, 6.0]
    """

    __slots__ = ()

    # ---- assignment ----

    def assign(self, value: Any) -> Self:
        """Take new values, broadcast and cast to this shape and dtype; in the same memory where nobody sees
        the old.

        RuntimeError for a gradient target outside `no_grad`, as in PyTorch.
        """
        other = self._lift(value)
        try:
            shape = np.broadcast_shapes(self.shape, other.shape) if other.shape != self.shape else self.shape
        except (ValueError, TypeError):
            shape = None
        if shape != self.shape:
            raise ShapeError(
                f"assign: expected a value that broadcasts to {self._text()}, got {other._text()}"
            )
        return self._update(other)

    def _update(self, result: TensorBase) -> Self:
        return self._take(graph.cast(result._expanded(self.shape), self.dtype))

    def _take(self, value: Node, region: Any = None) -> Self:
        """The new value of all of this tensor, or of a region."""
        if self._leaf and grad_enabled():
            raise GradientError("assign: expected no_grad() around a write to a gradient target, got none")
        if self._device is not None and value.device not in (None, self._node.device or self._device):
            raise DeviceError(
                f"assign: expected a value on {self.device}, got {value.device}; move it with .to()",
            )
        if self._leaf:
            self._replace(graph.assign(self._memory_node(), graph.detach(value), region))
        elif region is None and (value.needs_gradient or self._node.needs_gradient):
            self._replace(value if grad_enabled() else graph.detach(value))
        else:
            node = graph.assign(self._node, value, region)
            self._replace(node if grad_enabled() else graph.detach(node))
        return self

    def replace(self, other: TensorBase) -> Self:
        """Become another tensor of this shape and dtype, sharing its value instead of copying it."""
        if other.shape != self.shape or other.dtype is not self.dtype:
            raise ShapeError(f"replace: expected {self._text()}, got {other._text()}")
        self._replace(graph.detach(other.node) if self._leaf else other.node)
        self._device = other._device
        return self

    copy_ = assign

    def zero_(self) -> Self:
        """All elements 0, in place."""
        return self._take(graph.const(0, self.dtype, self.shape))

    def fill_(self, value: float) -> Self:
        """All elements one value, in place."""
        return self._take(graph.const(value, self.dtype, self.shape))

    def _in_place(self, name: str, result: Any) -> Self:
        """An augmented assignment: the result must have this shape, and a dtype that casts to this one."""
        if result is NotImplemented:
            return NotImplemented
        if result.shape != self.shape:
            raise ShapeError(
                f"{name}: expected a result of shape {list(self.shape)}, got {list(result.shape)}"
            )
        if (result.dtype.is_float and not self.dtype.is_float) or self.dtype.kind == "b" != result.dtype.kind:
            raise GradientError(f"{name}: expected a result that fits {self.dtype}, got {result.dtype}")
        return self._update(result)

    def __iadd__(self, other: Any) -> Self:
        return self._in_place("+=", self.__add__(other))

    def __isub__(self, other: Any) -> Self:
        return self._in_place("-=", self.__sub__(other))

    def __imul__(self, other: Any) -> Self:
        return self._in_place("*=", self.__mul__(other))

    def __itruediv__(self, other: Any) -> Self:
        return self._in_place("/=", self.__truediv__(other))

    def __ifloordiv__(self, other: Any) -> Self:
        return self._in_place("//=", self.__floordiv__(other))

    def __imod__(self, other: Any) -> Self:
        return self._in_place("%=", self.__mod__(other))

    def __ipow__(self, other: Any) -> Self:
        return self._in_place("**=", self.__pow__(other))

    def __iand__(self, other: Any) -> Self:
        return self._in_place("&=", self.__and__(other))

    def __ior__(self, other: Any) -> Self:
        return self._in_place("|=", self.__or__(other))

    def __ixor__(self, other: Any) -> Self:
        return self._in_place("^=", self.__xor__(other))

    def __ilshift__(self, other: Any) -> Self:
        return self._in_place("<<=", self.__lshift__(other))

    def __irshift__(self, other: Any) -> Self:
        return self._in_place(">>=", self.__rshift__(other))

    # ---- pickling ----

    def __reduce__(self) -> tuple[Any, ...]:
        """By value, through NumPy: the values, the dtype, the device's name and `requires_grad`; without
        history and `.grad`.

        >>> import pickle
        >>> same = pickle.loads(pickle.dumps(Tensor([1.5, 2.0], "bfloat16")))
        >>> same.tolist(), same.dtype
        ([1.5, 2.0], petaflop.bfloat16)
        """
        return _unpickled, (self.numpy(), self._device, self.requires_grad)

    # ---- gradients ----

    def backward(self, gradient: Any = None, create_graph: bool = False) -> Self:
        """Add d(self)/d(target) to the `.grad` of every gradient target that this tensor was made of.

        `gradient` is what to start from, 1 for a scalar; RuntimeError without one for other shapes, or when
        nothing needs a gradient. `create_graph` keeps the history of the gradients, to differentiate them
        again.

        >>> x = Tensor([2.0, 3.0], requires_grad=True)
        >>> _ = (x * x).sum().backward()
        >>> x.grad.tolist()
        [4.0, 6.0]
        """
        node = self.node
        _differentiated[id(self)] = self
        if not node.needs_gradient:
            jitted = any(n.buffer is not None and n.buffer.replayed for n in graph.toposort((node,)))
            raise GradientError(
                "backward: expected a result that needs gradient, got "
                + ("one of a jitted function" if jitted else "one without requires_grad")
                + ("; call backward inside the jitted function" if jitted else ""),
            )
        targets = _reachable_leaves(node)
        grads = self._gradients([tensor for _, tensor in targets], gradient, [leaf for leaf, _ in targets])
        for (_, tensor), grad in zip(targets, grads, strict=True):
            if grad is not None:
                grad = _with_history(grad, [leaf for leaf, _ in targets]) if create_graph else grad.detach()
                tensor.grad = grad if tensor.grad is None else tensor.grad + grad
        return self

    def gradient(self, *targets: Tensor, gradient: Any = None) -> list[Tensor]:
        """d(self)/d(target) of each target, differentiable again.

        Where the value of a gradient no longer depends on a target (the second derivative of `abs`), its own
        gradient is zeros; RuntimeError for a target that this tensor was not made of at all, where
        `petaflop.grad`, which sees the whole function, gives zeros as well.

        >>> x = Tensor([3.0, -2.0], requires_grad=True)
        >>> (first,) = x.abs().sum().gradient(x)
        >>> first.tolist(), first.sum().gradient(x)[0].tolist()
        ([1.0, -1.0], [0.0, 0.0])
        """
        nodes = [target.node for target in targets]
        found = self._gradients(list(targets), gradient, nodes)
        for target, grad in zip(targets, found, strict=True):
            if grad is None:
                raise GradientError(
                    f"gradient: expected targets that this tensor depends on, got {target._text()}; "
                    "give it requires_grad=True before it is used",
                )
        return [_with_history(grad, nodes) for grad in found]

    def _gradients(self, targets: Sequence[Any], seed: Any, nodes: Sequence[Node]) -> list[Any]:
        if seed is None:
            if self.numel() != 1:
                raise ShapeError(f"backward: expected a scalar or gradient=, got {self._text()}")
            start = graph.const(1, self.dtype, self.shape)
        else:
            lifted = self._lift(seed)
            if lifted.shape != self.shape:
                raise ShapeError(f"backward: expected a gradient of {self._text()}, got {lifted._text()}")
            start = graph.cast(lifted.node, self.dtype)
        found = gradient((self.node,), (start,), nodes)
        return [None if grad is None else t._wrap(grad) for t, grad in zip(targets, found, strict=True)]

    # ---- as other libraries see it ----

    def __iter__(self) -> Iterator[Self]:
        if not self.shape:
            raise ArgumentTypeError("iter: expected at least one axis, got a scalar")
        return iter(self.unbind(0))

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def __round__(self, digits: int | None = None) -> Self:
        return self.round(decimals=digits or 0)

    def __format__(self, spec: str) -> str:
        """A scalar as its number, as in `f"{loss:.3f}"`; anything else as its repr, which takes no spec."""
        return format(self.item(), spec) if spec and not self.shape else super().__format__(spec)

    def data(self) -> memoryview:
        """The memory itself, read-only, where the device shares it with the host; a copy elsewhere.

        DTypeError for bfloat16 and float8, which the buffer protocol has no format for.

        >>> Tensor([1, 2]).data().tolist()
        [1, 2]
        """
        if self.dtype.numpy.isbuiltin != 1:
            raise DTypeError(
                f"data: expected a dtype with a buffer format, got {self.dtype}; "
                f"bitcast it to uint{self.dtype.bits} first"
            )
        return self._shared().data

    def _shared(self) -> np.ndarray[Any, Any]:
        self.realize()
        return runtime.to_host(self._node, share=True)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy() if copy or copy is None else self._shared()
        if dtype is None or array.dtype == dtype:
            return array
        if copy is False:
            raise ArgumentError(f"array: expected {array.dtype} without a copy, got copy=False and {dtype}")
        return array.astype(dtype)

    def __buffer__(self, flags: int) -> memoryview:
        """`memoryview(tensor)`: the same as `data()`. Python calls this from 3.12 on; in 3.11 only types in C
        have buffers, and it raises TypeError: call `data()` there."""
        return self.data()

    def __dlpack__(self, **options: Any) -> Any:
        """The memory as a DLPack capsule of any dtype, read-only, without a copy where the device shares it.

        A consumer that knows no read-only memory (DLPack before version 1) gets a copy. RuntimeError while it
        needs gradient.
        """
        if self.requires_grad:
            raise GradientError("dlpack: expected a tensor without gradient; detach() it first")
        array = self._shared()
        if options.get("max_version") is None:  # a consumer that knows no read-only memory
            array = array.copy()
        return to_capsule(array, options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # host memory: every device hands out host-visible bytes


def _unpickled(array: np.ndarray[Any, Any], device: str | None, requires_grad: bool) -> Tensor:
    return Tensor(array, device=device, requires_grad=requires_grad)


def _with_history(grad: Tensor, targets: Sequence[Node]) -> Tensor:
    """A gradient that knows what it is differentiable by, also where that gives only zeros."""
    if not grad_enabled():
        return grad
    node = grad.node
    return grad._wrap(graph.custom(_HISTORY, (graph.detach(node), node, *targets), node.dtype, node.shape))


def _pass(node: Node, grad: Node) -> list[Node]:
    return [grad, *(graph.const(0, target.dtype, target.shape) for target in node.sources[2:])]


_HISTORY = GradientTemplate("gradient", _pass)  # one for all: schedules are cached by its identity


def _reachable_leaves(root: Node) -> list[tuple[Node, TensorBase]]:
    """The gradient targets below a node that are still held, with their leaves, in graph order."""
    found: list[tuple[Node, TensorBase]] = []
    seen = {root}
    stack = [root]
    while stack:
        node = stack.pop()
        if (reference := _leaves.get(node)) is not None and (tensor := reference()) is not None:
            found.append((node, tensor))
            continue
        for source in node.sources:
            if source.needs_gradient and source not in seen:
                seen.add(source)
                stack.append(source)
    return found


def _live_nodes() -> list[Node]:
    return [tensor._node for tensor in live_tensors()]


runtime.register_live_nodes(_live_nodes)
