"""`grad`: the gradient of a function, as a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from petaflop.errors import ArgumentError, ArgumentTypeError
from petaflop.graph import node as graph
from petaflop.graph.node import Node
from petaflop.ir.custom import GradientTemplate
from petaflop.tensor.core import Tensor

__all__ = ["grad"]


def grad(function: Callable[..., Tensor], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function of the same arguments that gives the gradient of a scalar function: one Tensor, or one per
    argnum.

    It can be differentiated again. An argument that the result does not depend on gets zeros.

    >>> from petaflop import Tensor
    >>> cube = lambda x: (x * x * x).sum()
    >>> grad(cube)(Tensor([2.0])).tolist(), grad(lambda x: grad(cube)(x).sum())(Tensor([2.0])).tolist()
    ([12.0], [12.0])
    """
    single = isinstance(argnums, int)
    numbers: tuple[int, ...] = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(function)
    def differentiated(*args: Any, **options: Any) -> Any:
        arguments = list(args)
        for number in numbers:
            if not -len(args) <= number < len(args):
                raise ArgumentError(f"grad: expected argnums among {len(args)} arguments, got {number}")
            arguments[number] = _own(args[number])
        result = function(*arguments, **options)
        if not isinstance(result, Tensor):
            raise ArgumentTypeError(
                f"grad: expected a function that returns a Tensor, got {type(result).__name__}",
            )
        targets = [arguments[number] for number in numbers]
        if result.node.needs_gradient:
            found = result._gradients(targets, None, [target.node for target in targets])
        else:
            found = [None] * len(targets)
        grads = [t.zeros_like() if g is None else g for t, g in zip(targets, found, strict=True)]
        return grads[0] if single else tuple(grads)

    return differentiated


def _own(value: Any) -> Tensor:
    """An argument as a target of its own, through which the gradients of an outer `grad` still flow."""
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(f"grad: expected a Tensor to differentiate by, got {type(value).__name__}")
    if not value.requires_grad:
        return value.detach().requires_grad_()
    template = GradientTemplate("argument", _pass)
    sources = (graph.detach(value.node), value.node)
    return value._wrap(graph.custom(template, sources, value.dtype, value.shape))


def _pass(node: Node, gradient: Node) -> tuple[Node]:
    return (gradient,)
