"""Products of matrices and tensors: a product is expand, multiply, reduce, and reaches the
kernel so."""

from __future__ import annotations

from typing import Any, Self

from petaflop.dtype import promote, to_dtype
from petaflop.errors import ArgumentError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Dim
from petaflop.tensor.base import TensorBase, common_dtype
from petaflop.tensor.creation import Creation
from petaflop.tensor.precision import product_operands
from petaflop.tensor.reduce import accumulate_dtype

__all__ = ["LinearAlgebra"]


class LinearAlgebra(Creation):
    """matmul, einsum, linear and their kin."""

    __slots__ = ()

    def matmul(self, other: Any, dtype: Any = None) -> Self:
        """The matrix product, batched and broadcast as in PyTorch; vectors count as rows on the left, columns
        on the right.

        Half floats are multiplied and accumulated in float32 and rounded once; `dtype` sets what is
        accumulated in, and given out. RuntimeError for shapes that do not fit.

        >>> (Tensor([[1.0, 2.0]]) @ Tensor([[3.0], [4.0]])).tolist()
        [[11.0]]
        """
        right = self._lift(other)
        if not self.shape or not right.shape:
            raise ShapeError(
                f"matmul: expected at least 1 axis, got {self._text()} and {right._text()}; use *"
            )
        if right.shape[-2 if right.ndim > 1 else -1] != self.shape[-1]:
            raise ShapeError(
                f"matmul: expected an inner size of {self.shape[-1]}, got {self._text()} @ {right._text()}"
                + _transposed_hint(self, right),
            )
        left, right = product_operands(self, right) if dtype is None else (self, right)
        kind = promote(left.dtype, right.dtype) if dtype is None else to_dtype(dtype)
        wide = accumulate_dtype(kind)
        a = graph.cast(left.node, wide)
        b = graph.cast(right.node, wide)
        a_shape = a.shape if len(a.shape) > 1 else (1, *a.shape)
        b_shape = b.shape if len(b.shape) > 1 else (*b.shape, 1)
        batch = _broadcast_batch(self, right, a_shape[:-2], b_shape[:-2])
        rows, inner, columns = a_shape[-2], a_shape[-1], b_shape[-1]
        full = (*batch, rows, columns, inner)
        a = _spread(a, (*a_shape[:-1], 1, inner), full)
        b = view.permute(
            view.reshape(b, b_shape), (*range(len(b_shape) - 2), len(b_shape) - 1, len(b_shape) - 2)
        )
        b = _spread(b, (*b_shape[:-2], 1, columns, inner), full)
        total = graph.reduce(Op.ADD, graph.compute(Op.MUL, a, b), (len(full) - 1,), wide)
        shape = (*batch, *((rows,) if self.ndim > 1 else ()), *((columns,) if right.ndim > 1 else ()))
        return self._wrap(graph.cast(view.reshape(total, shape), kind))

    def dot(self, other: Any, dtype: Any = None) -> Self:
        """`matmul`; of two vectors, their inner product."""
        return self.matmul(other, dtype)

    mm = bmm = matmul

    def __matmul__(self, other: Any) -> Self:
        return self.matmul(other)

    def __rmatmul__(self, other: Any) -> Self:
        return self._lift(other).matmul(self)

    def __imatmul__(self, other: Any) -> Self:
        return self._update(self.matmul(other))

    def outer(self, other: Any) -> Self:
        """The product of every pair of elements of two vectors."""
        return self.reshape(-1, 1) * self._lift(other).reshape(1, -1)

    def linear(self, weight: Any, bias: Any = None) -> Self:
        """self @ weight.T + bias, with a weight of (out, in), as in PyTorch."""
        matrix = self._lift(weight)
        if matrix.ndim not in (1, 2) or not self.shape or matrix.shape[-1] != self.shape[-1]:
            raise ShapeError(
                f"linear: expected a weight (out, {self.shape[-1] if self.shape else 'in'}), "
                f"got {matrix._text()} for {self._text()}",
            )
        result = self.matmul(matrix.T if matrix.ndim == 2 else matrix)
        return result if bias is None else result + product_operands(self._lift(bias))[0]

    # ---- einsum ----

    def einsum(self, *operands: Any) -> Self:
        """Σ of products by index letters: `Tensor.einsum("ij,jk->ik", a, b)`, as in NumPy; "..." broadcasts.

        RuntimeError for letters that disagree in size, ValueError for an equation that says nothing.
        """
        if not isinstance(self, str):
            raise ArgumentError(
                "einsum: expected the equation first, got a tensor; Tensor.einsum('ij,jk', a, b)",
            )
        listed = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
        return _einsum(self, list(product_operands(*listed)))


def _transposed_hint(a: TensorBase, b: TensorBase) -> str:
    return "; use .T of the second" if b.ndim > 1 and b.shape[-1] == a.shape[-1] else ""


def _spread(node: Node, shape: tuple[Dim, ...], full: tuple[Dim, ...]) -> Node:
    return view.expand(view.reshape(node, (1,) * (len(full) - len(shape)) + shape), full)


def _broadcast_batch(a: Any, b: Any, left: tuple[Dim, ...], right: tuple[Dim, ...]) -> tuple[Dim, ...]:
    rank = max(len(left), len(right))
    left, right = (1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right
    for x, y in zip(left, right, strict=True):
        if x != y and 1 not in (x, y):
            raise ShapeError(f"matmul: expected batch axes that broadcast, got {a._text()} @ {b._text()}")
    return tuple(y if x == 1 else x for x, y in zip(left, right, strict=True))


def _einsum(equation: str, tensors: list[Any]) -> Any:
    text = equation.replace(" ", "")
    inputs, arrow, output = text.partition("->")
    terms = inputs.split(",")
    if not tensors or len(terms) != len(tensors):
        raise ArgumentError(f"einsum: expected {len(terms)} operands for {equation!r}, got {len(tensors)}")
    if not set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,->"):
        raise ArgumentError(f"einsum: expected letters, commas, ... and ->, got {equation!r}")
    labels = [_labels(equation, term, tensor) for term, tensor in zip(terms, tensors, strict=True)]
    dots = max(([label for label in row if isinstance(label, int)] for row in labels), key=len)
    if arrow:
        wanted = _output_labels(output, dots)
    else:
        letters = [label for row in labels for label in row if isinstance(label, str)]
        wanted = [*dots, *sorted(letter for letter in set(letters) if letters.count(letter) == 1)]
    every = [*wanted, *dict.fromkeys(label for row in labels for label in row if label not in wanted)]
    sizes: dict[Any, Dim] = {}
    for row, tensor in zip(labels, tensors, strict=True):
        for label, size in zip(row, tensor.shape, strict=True):
            if sizes.setdefault(label, size) != size:
                if isinstance(label, int) and sizes[label] == 1:
                    sizes[label] = size
                elif not (isinstance(label, int) and size == 1):
                    raise ShapeError(f"einsum: expected one size of {label!r}, got {sizes[label]} and {size}")
    missing = [label for label in wanted if label not in sizes]
    if missing or len(set(wanted)) != len(wanted):
        raise ArgumentError(f"einsum: expected each output letter once and in an input, got {equation!r}")
    kind = common_dtype(tensors)
    wide = accumulate_dtype(kind)
    full = tuple(sizes[label] for label in every)
    product: Any = None
    for row, tensor in zip(labels, tensors, strict=True):
        factor = _aligned(tensor.cast(wide), row, every).expand(full)
        product = factor if product is None else product * factor
    axes = tuple(range(len(wanted), len(every)))
    return product._fold(Op.ADD, axes, False, wide).cast(kind)


def _labels(equation: str, term: str, tensor: Any) -> list[Any]:
    """A letter for each axis; negative numbers for the axes of '...', aligned at the right."""
    before, dots, after = term.partition("...")
    if "." in before + after:
        raise ArgumentError(f"einsum: expected at most one ... per operand, got {equation!r}")
    extra = tensor.ndim - len(before) - len(after)
    if extra < 0 or (extra and not dots):
        raise ShapeError(f"einsum: expected {len(before + after)} axes for {term!r}, got {tensor._text()}")
    return [*before, *range(-extra, 0), *after]


def _output_labels(output: str, dots: list[int]) -> list[Any]:
    before, found, after = output.partition("...")
    return [*before, *(dots if found else []), *after]


def _aligned(tensor: Any, row: list[Any], every: list[Any]) -> Any:
    """Axes in the order of `every`, size 1 where a label is absent; a repeated label becomes its diagonal."""
    row = list(row)
    while len(set(row)) != len(row):
        label = next(label for label in row if row.count(label) > 1)
        first = row.index(label)
        second = row.index(label, first + 1)
        tensor = tensor.diagonal(0, first, second)
        row = [x for k, x in enumerate(row) if k not in (first, second)] + [label]
    order = [row.index(label) for label in every if label in row]
    tensor = tensor.permute(*order) if order else tensor
    sizes = iter(tensor.shape)
    return tensor.reshape(tuple(next(sizes) if label in row else 1 for label in every))
