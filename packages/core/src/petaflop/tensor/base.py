"""What a tensor is: a node of the graph, a device, perhaps a gradient. Construction, and what comes out
again.

The classes of this folder form one chain, each adding one kind of methods to the class before; `core.Tensor`
is the last. Nothing is computed until a value is asked for.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from petaflop import checking
from petaflop import realize as runtime
from petaflop.config import config
from petaflop.device.registry import default_device, get_backend
from petaflop.dtype import DType, bool_, default_float, default_int, promote, to_dtype
from petaflop.errors import (
    ArgumentError,
    ArgumentTypeError,
    GradientError,
    IndexRangeError,
    ShapeError,
)
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim, Expr, evaluate
from petaflop.tensor.convert import check_fits, host_array, python_dtype
from petaflop.tensor.mode import grad_enabled
from petaflop.tensor.watch import Watched

__all__ = ["Operand", "TensorBase", "broadcast_shapes", "live_tensors"]

_live: set[weakref.ref[TensorBase]] = set()  # in C all the way, which a WeakSet is not
_leaves: weakref.WeakKeyDictionary[Node, weakref.ref[TensorBase]] = weakref.WeakKeyDictionary()


def live_tensors() -> list[TensorBase]:
    """Every tensor that somebody still holds."""
    references = list(_live)  # safe while other threads add tensors
    return [tensor for reference in references if (tensor := reference()) is not None]


class TensorBase(Watched):
    """A node, a device and a gradient; see `Tensor`."""

    __slots__ = ("_device", "_leaf")
    __array_priority__ = 1000  # ndarray + Tensor asks the Tensor
    _device: str | None
    _leaf: bool

    def __init__(
        self, data: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False
    ) -> None:
        kind = None if dtype is None else to_dtype(dtype)
        if device is not None:
            get_backend(device)
        if isinstance(data, TensorBase):
            node = graph.detach(data.node) if kind is None else graph.cast(graph.detach(data.node), kind)
            device = device or data._device
            if device is not None:
                node = graph.copy(node, device)
        elif isinstance(data, (bool, int, float)):
            if kind is not None:
                check_fits("Tensor", data, kind)
            node = graph.const(data, kind or python_dtype(data))
        elif isinstance(data, Expr):
            node = graph.variable(data, kind or default_int)
        else:
            device = device or default_device()
            node = runtime.from_host(host_array(data, kind), device)
        self._set(node, device)
        if requires_grad:
            self.requires_grad_()

    def _set(self, node: Node, device: str | None) -> None:
        self._begin(node)
        self._device, self._leaf = node.device or device, False
        _live.add(weakref.ref(self, _live.discard))

    @classmethod
    def _from_node(cls, node: Node, device: str | None = None) -> Self:
        """A tensor around a node; the gradient mode applies."""
        tensor = object.__new__(cls)
        if node.needs_gradient and not grad_enabled():
            node = graph.detach(node)
        tensor._set(node, device)
        return tensor

    @classmethod
    def _around(cls, node: Node, device: str) -> Self:
        """`_from_node` of memory, outside a capture: what each replay does."""
        tensor = object.__new__(cls)
        tensor._node, tensor._grad, tensor._device, tensor._leaf = node, None, device, False
        _live.add(weakref.ref(tensor, _live.discard))
        return tensor

    def _wrap(self, node: Node) -> Self:
        """The result of an operation on this tensor."""
        return self._from_node(node, self._device)

    def _lift(self, value: Any, dtype: DType | None = None) -> Self:
        """Any operand as a tensor of this tensor's device; numbers become constants."""
        if isinstance(value, TensorBase):
            return value  # type: ignore[return-value]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, (bool, int, float)):
            return self._wrap(graph.const(value, dtype or python_dtype(value)))
        if isinstance(value, Expr):
            return self._wrap(graph.variable(value, dtype or default_int))
        if isinstance(value, (np.ndarray, list, tuple)):
            return type(self)(value, dtype, self.device)
        raise ArgumentTypeError(
            f"operand: expected a Tensor, a number or an array, got {type(value).__name__}"
        )

    # ---- what it is ----

    @property
    def node(self) -> Node:
        """The node that operations on this tensor read; of a gradient target, a leaf of its own."""
        if self._leaf and not self._node.needs_gradient:
            self._node = graph.own_leaf(self._node)
            _leaves[self._node] = weakref.ref(self)
        return self._node

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self._node.shape

    @property
    def dtype(self) -> DType:
        return self._node.dtype

    @property
    def device(self) -> str:
        if self._device is None:
            self._device = default_device()
        return self._device

    @property
    def ndim(self) -> int:
        return len(self._node.shape)

    def size(self, axis: int | None = None) -> Any:
        """The shape, or the size of one axis."""
        if axis is None:
            return self.shape
        if not self.shape:
            raise IndexRangeError("size: expected a tensor with axes, got a scalar")
        return self.shape[self._axis("size", axis)]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> Dim:
        """How many elements there are."""
        return self._node.size

    def nbytes(self) -> Dim:
        return self._node.size * self.dtype.itemsize

    def element_size(self) -> int:
        return self.dtype.itemsize

    def is_floating_point(self) -> bool:
        return self.dtype.is_float

    @property
    def requires_grad(self) -> bool:
        return self._leaf or self._node.needs_gradient

    @property
    def is_leaf(self) -> bool:
        return self._leaf or not self._node.needs_gradient

    def requires_grad_(self, flag: bool = True) -> Self:
        """Make this a target of gradients, in place. RuntimeError for a dtype that is not a float.

        >>> Tensor.ones(2).requires_grad_().requires_grad
        True
        """
        if flag and not self.dtype.is_float:
            raise GradientError(f"requires_grad_: expected a float tensor, got {self.dtype}; cast it first")
        if self._node.needs_gradient and not self._leaf:
            if flag:
                return self
            raise GradientError("requires_grad_: expected a leaf, got a result; use detach()")
        if not flag and self._leaf:
            self._replace(self._memory_node())
        self._leaf = flag
        return self

    def _memory_node(self) -> Node:
        """The node below a leaf's own: what an assignment writes to."""
        node = self._node
        if not (self._leaf and node.needs_gradient):
            return node
        below = node.sources[0]
        return below if below.is_realized or not node.is_realized else graph.detach(node)

    def detach(self) -> Self:
        """The same values; no gradient flows back through the result."""
        return self._wrap(graph.detach(self._node if self._node.needs_gradient else self.node))

    def clone(self) -> Self:
        """A tensor of its own with these values; gradients flow through it. Memory is copied when one is
        written."""
        return self._wrap(self.node)

    def contiguous(self) -> Self:
        """The same values in row-major memory of their own: a place where fusion stops."""
        return self._wrap(graph.realize(self.node))

    def __repr__(self) -> str:
        state = "" if self._node.is_realized or self._node.op is Op.CONST else ", lazy"
        gradient = ", requires_grad" if self.requires_grad else ""
        return f"<Tensor {self.dtype}{list(self.shape)} on {self.device}{state}{gradient}>"

    __hash__ = object.__hash__

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """An independent tensor; a leaf stays a leaf. RuntimeError for a result that needs gradient, as in
        torch."""
        if self._node.needs_gradient and not self._leaf:
            raise GradientError(
                "deepcopy: expected a leaf, got a result that needs gradient; detach() it first",
            )
        copied = object.__new__(type(self))
        copied._set(self._memory_node(), self._device)
        copied._leaf = self._leaf
        copied._grad = None if self._grad is None else self._grad.__deepcopy__(memo)
        memo[id(self)] = copied
        return copied

    # ---- computing ----

    def realize(self, *others: TensorBase) -> Self:
        """Compute this tensor and the others now, together; returns this one.

        >>> a, b = Tensor.rand(3), Tensor.rand(4)
        >>> Tensor.realize(a, b) is a
        True
        """
        every: list[TensorBase] = [self, *others]
        by_device: dict[str, list[TensorBase]] = {}
        for tensor in every:
            node = tensor._node
            if node.device is None and not (node.is_realized or node.needs_gradient):
                # memory of its own: equal nodes without a device are one node, whatever device they are for
                tensor._replace(graph.own_leaf(node) if tensor._leaf else graph.duplicate(node))
            if not tensor._node.is_realized:
                by_device.setdefault(tensor.device, []).append(tensor)
        for device, tensors in by_device.items():
            runtime.realize_nodes([tensor._node for tensor in tensors], device)
        for tensor in every:
            tensor._drop_history()
        return self

    def _drop_history(self) -> None:
        """Once computed, only the memory is kept, unless backward needs how it came to be."""
        node = self._node
        if node.is_realized and not node.needs_gradient and node.op is not Op.BUFFER:
            self._node = graph.buffer_leaf(node.memory(), node.dtype, node.shape, self.device)

    def _host(self) -> np.ndarray[Any, Any]:
        if self._node.op in (Op.CONST, Op.IOTA):
            return runtime.to_host(graph.duplicate(self._node))
        self.realize()
        return runtime.to_host(self._node)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array of its own, shape and dtype kept (bfloat16 and float8 from
        `ml_dtypes`).

        >>> Tensor([1, 2]).numpy()
        array([1, 2], dtype=int32)
        """
        return self._host()

    def tolist(self) -> Any:
        """The values as nested Python lists, or as one number."""
        return self._host().tolist()

    def item(self) -> Any:
        """The only element as a Python number; RuntimeError if there is not exactly one."""
        if self.numel() != 1:
            raise ArgumentError(f"item: expected one element, got shape {list(self.shape)}; use tolist()")
        return self._host().reshape(()).item()

    def __bool__(self) -> bool:
        if self.numel() != 1:
            raise ShapeError(f"bool: expected one element, got shape {list(self.shape)}; use any() or all()")
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        if self.dtype.is_float or self.ndim:
            raise ArgumentTypeError(f"index: expected an integer scalar, got {self.dtype}{list(self.shape)}")
        return int(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise ArgumentTypeError("len: expected at least one axis, got a scalar")
        return evaluate(self.shape[0])

    # ---- dtype ----

    def cast(self, dtype: Any) -> Self:
        """The values as another dtype; float to integer truncates and saturates, NaN gives 0.

        Floats round to nearest even; what is too large becomes infinite, and NaN in float8_e4m3, which has no
        infinity (PyTorch gives 448: clamp first for that).
        """
        return self._wrap(graph.cast(self.node, to_dtype(dtype)))

    def bitcast(self, dtype: Any) -> Self:
        """The same bits as another dtype; the last axis is scaled when the sizes differ."""
        return self._wrap(graph.bitcast(graph.detach(self.node), to_dtype(dtype)))

    # ---- checking arguments ----

    def _axis(self, name: str, axis: Any, extra: int = 0) -> int:
        """A non-negative axis; IndexError if there is none such. `extra` axes are about to be added."""
        rank = self.ndim + extra
        try:
            number = operator.index(axis)
        except TypeError:
            raise ArgumentTypeError(f"{name}: expected an integer axis, got {axis!r}") from None
        limit = max(rank, 1)
        if not -limit <= number < limit:
            raise IndexRangeError(
                f"{name}: expected an axis in [{-limit}, {limit - 1}], got {number} for {self._text()}",
            )
        return number % limit

    def _expect_indices(
        self, name: str, index: TensorBase, axis: int, least: int | None = 0, besides: int | None = None
    ) -> None:
        """Where PETAFLOP_CHECK says so, have an index into an axis checked before it is used: values from
        `least` on (None: negative ones count from the end), and `besides`."""
        if config.check == "index":
            size = self.shape[axis]
            first = -evaluate(size) if least is None else least
            checking.expect_indices(name, index.node, first, size, besides)

    def _axes(self, name: str, axes: Any) -> tuple[int, ...]:
        """Axes as a tuple; None is all. RuntimeError when one is named twice."""
        if axes is None:
            return tuple(range(self.ndim))
        listed = axes if isinstance(axes, (tuple, list)) else (axes,)
        result = tuple(self._axis(name, axis) for axis in listed)
        if len(set(result)) != len(result):
            raise ShapeError(f"{name}: expected each axis once, got {tuple(listed)}")
        return result if self.ndim else ()

    def _text(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    # ---- broadcasting and promotion ----

    def _expanded(self, shape: tuple[Dim, ...]) -> Node:
        """This tensor's node, broadcast to a shape that is known to fit."""
        node = self.node
        if node.shape == shape:
            return node
        missing = len(shape) - len(node.shape)
        return view.expand(view.reshape(node, (1,) * missing + node.shape), shape)

    def _together(self, name: str, *others: Any, dtype: DType | None = None) -> tuple[Node, ...]:
        """This tensor and other operands as nodes of one shape and one dtype, by PyTorch's promotion."""
        others = tuple(other.item() if isinstance(other, np.generic) else other for other in others)
        tensors: list[TensorBase] = [self]
        tensors += [self._lift(other) for other in others]
        if dtype is None:
            weak = [isinstance(other, (bool, int, float, Expr)) for other in others]
            dtype = result_dtype(tensors, [False, *weak])
        shape = broadcast_shapes(name, tensors)
        nodes = [graph.cast(self._expanded(shape), dtype)]
        for tensor, other in zip(tensors[1:], others, strict=True):
            if isinstance(
                other, (bool, int, float)
            ):  # straight to the final dtype: 0.1 in float64 keeps its bits
                nodes.append(graph.const(other, dtype, shape))
            else:
                nodes.append(graph.cast(tensor._expanded(shape), dtype))
        return tuple(nodes)


Operand = TensorBase | bool | int | float | Expr | np.ndarray[Any, Any]


def broadcast_shapes(name: str, tensors: Sequence[TensorBase]) -> tuple[Dim, ...]:
    """The common shape of operands, by NumPy's rules; RuntimeError if there is none."""
    shapes = [tensor.shape for tensor in tensors]
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    rank = max(map(len, shapes))
    result: list[Dim] = []
    for axis in range(-rank, 0):
        sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(sizes) > 1:
            listed = " and ".join(tensor._text() for tensor in tensors)
            raise ShapeError(
                f"{name}: expected shapes that broadcast, got {listed}, which differ at axis {axis}",
            )
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


_CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2}


def result_dtype(tensors: Sequence[TensorBase], weak: Sequence[bool]) -> DType:
    """PyTorch's rule: tensors with axes, then scalar tensors, then Python numbers; a later group only raises
    the kind."""
    groups: list[DType | None] = [None, None, None]
    for tensor, is_number in zip(tensors, weak, strict=True):
        group = 2 if is_number else 0 if tensor.shape else 1
        before = groups[group]
        groups[group] = tensor.dtype if before is None else promote(before, tensor.dtype)
    result: DType | None = None
    for dtype in groups:
        if result is None:
            result = dtype
        elif dtype is not None and _CATEGORY[dtype.kind] > _CATEGORY[result.kind]:
            result = dtype if result is bool_ or not result.is_float else result
    assert result is not None
    return result


def common_dtype(tensors: Iterable[TensorBase]) -> DType:
    """The dtype that holds all of these."""
    items = list(tensors)
    return result_dtype(items, [False] * len(items))


def float_dtype(dtype: DType) -> DType:
    """The dtype of a function such as `exp`: float32 for integers and bool."""
    return dtype if dtype.is_float else default_float
