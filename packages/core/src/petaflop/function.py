"""Gradients and kernels that users write, and values that are computed again instead of kept.

`custom_gradient` and `Function` give a function of tensors a gradient of its own, `checkpoint` recomputes a
function in backward, `custom_kernel` puts a kernel written in terms of ir/kernel.py into the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from petaflop.dtype import to_dtype
from petaflop.errors import ArgumentError, ArgumentTypeError
from petaflop.graph import node as graph
from petaflop.graph.gradient import gradient
from petaflop.graph.node import Node
from petaflop.graph.rewrite import substitute
from petaflop.ir.custom import GradientTemplate, KernelTemplate
from petaflop.ir.kernel import Argument, Block
from petaflop.tensor import Tensor, no_grad
from petaflop.tensor.mode import enable_grad, grad_enabled

__all__ = ["Context", "Function", "checkpoint", "custom_gradient", "custom_kernel"]

Backward = Callable[..., Any]


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _attach(name: str, outputs: Any, inputs: Sequence[Tensor], backward: Backward) -> Any:
    """`outputs` as functions of `inputs` with the gradients that `backward(*grads)` gives, or None."""
    values = _tuple(outputs)
    if not all(isinstance(value, Tensor) for value in values):
        raise ArgumentTypeError(f"{name}: expected Tensors, got {[type(value).__name__ for value in values]}")
    if not grad_enabled() or not any(tensor.requires_grad for tensor in inputs):
        return outputs
    sources = tuple(tensor.node for tensor in inputs)

    def adjoint_of(position: int) -> Callable[[Node, Node], Sequence[Node | None]]:
        def adjoint(node: Node, grad: Node) -> Sequence[Node | None]:
            seeds = [value.zeros_like() for value in values]
            seeds[position] = values[position]._wrap(grad)
            with enable_grad():
                parts = _tuple(backward(*seeds))
            if len(parts) != len(inputs):
                raise ArgumentError(f"{name}: expected {len(inputs)} gradients, got {len(parts)}")
            return [None if part is None else _fitted(part, x) for part, x in zip(parts, inputs, strict=True)]

        return adjoint

    wrapped = []
    for position, value in enumerate(values):
        template = GradientTemplate(name, adjoint_of(position))
        node = graph.custom(template, (graph.detach(value.node), *sources), value.dtype, value.shape)
        wrapped.append(value._wrap(node))
    return type(outputs)(wrapped) if isinstance(outputs, (tuple, list)) else wrapped[0]


def _fitted(part: Tensor, like: Tensor) -> Node:
    """A gradient in the dtype of its input; shapes are checked by gradient()."""
    return graph.cast(part.node, like.dtype)


def custom_gradient(function: Callable[..., tuple[Any, Backward]]) -> Callable[..., Any]:
    """Decorate a function that returns (value, gradient function): that is then its gradient.

    The gradient function takes the gradient of the value (of each value) and returns one for each Tensor
    argument, or None. What it computes is differentiable again.

    >>> @custom_gradient
    ... def clipped(x):
    ...     return x, lambda grad: grad.clamp(-1, 1)
    >>> x = Tensor([2.0]).requires_grad_()
    >>> _ = (clipped(x) * 5).sum().backward()
    >>> x.grad.tolist()
    [1.0]
    """

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        inputs = [arg for arg in args if isinstance(arg, Tensor)]
        with no_grad():
            outputs, backward = function(*args, **kwargs)
        return _attach(getattr(function, "__name__", "custom_gradient"), outputs, inputs, backward)

    wrapper.__name__ = getattr(function, "__name__", "wrapper")
    wrapper.__doc__ = function.__doc__
    return wrapper


class Context:
    """What `Function.forward` leaves for `Function.backward`: attributes of any name, and saved tensors."""

    def __init__(self) -> None:
        self.saved_tensors: tuple[Tensor, ...] = ()

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors; `saved_tensors` gives them back."""
        self.saved_tensors = tensors


class Function:
    """A differentiable function as two static methods, as in PyTorch; call `apply`.

    `backward` returns a gradient (or None) for every argument of `forward` after the context.

    >>> class Cube(Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...
    ...     @staticmethod
    ...     def backward(ctx, grad):
    ...         (x,) = ctx.saved_tensors
    ...         return grad * x * x * 3
    >>> x = Tensor([2.0]).requires_grad_()
    >>> _ = Cube.apply(x).sum().backward()
    >>> x.grad.tolist()
    [12.0]
    """

    @staticmethod
    def forward(ctx: Context, *args: Any) -> Any:
        """The value."""
        raise NotImplementedError("Function: expected a static method forward, got none")

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> Any:
        """The gradient of each argument."""
        raise NotImplementedError("Function: expected a static method backward, got none")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """`forward` with the gradient that `backward` gives."""
        ctx = Context()
        inputs = [arg for arg in args if isinstance(arg, Tensor)]
        with no_grad():
            outputs = cls.forward(ctx, *args)

        def backward(*grads: Tensor) -> Any:
            parts = _tuple(cls.backward(ctx, *grads))
            if len(parts) != len(args):
                raise ArgumentError(f"{cls.__name__}: expected {len(args)} gradients, got {len(parts)}")
            return tuple(part for part, arg in zip(parts, args, strict=True) if isinstance(arg, Tensor))

        return _attach(cls.__name__, outputs, inputs, backward)


# ---- checkpointing ----


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`function(*args)` whose inside is computed again in backward instead of being kept until then.

    Only the Tensor arguments stay alive. Gradients also reach the parameters that the function uses, can be
    differentiated again, and see the same random numbers. A checkpoint may hold others.

    >>> x = Tensor([2.0]).requires_grad_()
    >>> _ = checkpoint(lambda x: (x * x).exp(), x).sum().backward()
    >>> round(x.grad.item(), 2)
    218.39
    """
    if not grad_enabled():
        return function(*args, **kwargs)
    inputs = [arg for arg in args if isinstance(arg, Tensor)]
    fronts = {id(tensor): tensor._wrap(graph.own_leaf(tensor.node)) for tensor in inputs}
    outputs = function(*(fronts.get(id(arg), arg) for arg in args), **kwargs)
    values = _tuple(outputs)
    if not all(isinstance(value, Tensor) for value in values):
        raise ArgumentTypeError(
            f"checkpoint: expected a function of Tensors to Tensors, got {[type(v).__name__ for v in values]}"
        )
    entries = [fronts[id(tensor)].node for tensor in inputs]
    roots = [value.node for value in values]
    leaves = [leaf for leaf in _leaves_below(roots) if leaf not in set(entries)]
    forward = substitute(
        roots, {entry: graph.detach(x.node) for entry, x in zip(entries, inputs, strict=True)}
    )
    sources = (*(tensor.node for tensor in inputs), *leaves)
    # what is computed again starts from the arguments in memory, and can be differentiated like those
    again = {
        entry: graph.realize(tensor.node)
        for entry, tensor in zip(entries, inputs, strict=True)
        if tensor.node.needs_gradient
    }
    differentiable = any(source.needs_gradient for source in sources)

    def adjoint_of(position: int) -> Callable[[Node, Node], Sequence[Node | None]]:
        def adjoint(node: Node, grad: Node) -> Sequence[Node | None]:
            # the graph above the entries is apart from the forward one, so nothing of it is shared or kept
            found = gradient([roots[position]], [grad], [*entries, *leaves])
            given = [part for part in found if part is not None]
            joined = dict(zip(given, substitute(given, again), strict=True))
            return [None if part is None else joined[part] for part in found]

        return adjoint

    wrapped = []
    for position, (value, node) in enumerate(zip(values, forward, strict=True)):
        if differentiable:
            template = GradientTemplate("checkpoint", adjoint_of(position))
            node = graph.custom(template, (graph.detach(node), *sources), value.dtype, value.shape)
        wrapped.append(value._wrap(node))
    return type(outputs)(wrapped) if isinstance(outputs, (tuple, list)) else wrapped[0]


def _leaves_below(roots: Sequence[Node]) -> list[Node]:
    """The gradient targets that `roots` depend on."""
    return [
        node
        for node in graph.toposort(roots, through_realized=True)
        if node.needs_gradient and not any(source.needs_gradient for source in node.sources)
    ]


# ---- kernels ----


def custom_kernel(
    build: Callable[[Argument, tuple[Argument, ...]], Sequence[Block]],
    sources: Sequence[Tensor],
    shape: tuple[int, ...],
    dtype: Any = None,
    backward: Backward | None = None,
    name: str | None = None,
) -> Tensor:
    """A Tensor computed by a kernel of your own: `build(output, inputs)` gives its blocks.

    The dtype is that of the first source unless told. `backward(grad, *sources)` gives that of each source.

    >>> from petaflop.graph.ops import Op
    >>> from petaflop.ir.kernel import Store, axis, load, value
    >>> def doubled(output, inputs):
    ...     i = axis("i", output.shape[0])
    ...     x = load(inputs[0].name, (i,), inputs[0].dtype)
    ...     return (Block((i,), (Store(output.name, (i,), value(Op.ADD, x, x)),)),)
    >>> custom_kernel(doubled, [Tensor([1.0, 2.0])], (2,)).tolist()
    [2.0, 4.0]
    """
    if not sources:
        raise ArgumentError("custom_kernel: expected at least one source, got none")
    label: str = name or getattr(build, "__name__", "custom_kernel")  # type: ignore[assignment]

    def adjoint(node: Node, grad: Node) -> Sequence[Node | None]:
        assert backward is not None
        with enable_grad():
            parts = _tuple(backward(sources[0]._wrap(grad), *sources))
        if len(parts) != len(sources):
            raise ArgumentError(f"{label}: expected {len(sources)} gradients, got {len(parts)}")
        return [None if part is None else _fitted(part, x) for part, x in zip(parts, sources, strict=True)]

    template = KernelTemplate(label, lambda *args: tuple(build(*args)), adjoint if backward else None)
    nodes = tuple(tensor.node for tensor in sources)
    kind = sources[0].dtype if dtype is None else to_dtype(dtype)
    return sources[0]._wrap(graph.custom(template, nodes, kind, tuple(shape)))
