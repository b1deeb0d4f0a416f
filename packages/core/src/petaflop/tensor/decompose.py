"""Matrices taken apart: QR by Householder reflections, singular values by one-sided Jacobi rotations.

Both are made of Tensor operations, so they run on every device and in batches. A step is the same few kernels
for every column and every round, with what differs as data: they are compiled once, however large the matrix.
Each step is computed as it is built, and so finds its schedule in the cache; a `jit` captures all of them.
"""

from __future__ import annotations

import functools
from typing import Any, Self

import numpy as np

from petaflop.dtype import float64
from petaflop.errors import DTypeError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph.node import Node
from petaflop.ir.custom import GradientTemplate
from petaflop.tensor.losses import Losses
from petaflop.tensor.mode import enable_grad

__all__ = ["Decompositions"]


class Decompositions(Losses):
    """qr and svd."""

    __slots__ = ()

    def qr(self) -> tuple[Self, Self]:
        """(Q, R) with self = Q @ R over the last two axes: Q of orthonormal columns, R upper triangular.

        The reduced form for (…, m, n): Q is (…, m, k) and R (…, k, n) with k = min(m, n), with the signs of
        LAPACK, as `torch.linalg.qr` gives. float32 or float64; a rank may be missing. Gradients flow through
        every step, of wide matrices as well; where a rank is missing they are one of many.

        >>> q, r = Tensor([[3.0, 1.0], [4.0, 2.0]]).qr()
        >>> (q @ r).round().tolist()
        [[3.0, 1.0], [4.0, 2.0]]
        """
        rows, columns = self._matrix("qr")
        rank = min(rows, columns)
        if self.numel() == 0:
            return self._identity(rows, rank), self.zeros(*self.shape[:-2], rank, columns, **self._like())
        reflectors, upper = self._reflected_down(rank)
        return self._reflected_up(reflectors, rank), upper._part(self.ndim - 2, 0, rank).triu()

    def svd(self, full_matrices: bool = True) -> tuple[Self, Self, Self]:
        """(U, S, Vh) with self = U[…, :k] @ diag(S) @ Vh[…, :k, :]: singular values fall from the largest.

        For (…, m, n) U is (…, m, m) and Vh (…, n, n); without `full_matrices` (…, m, k) and (…, k, n), with
        k = min(m, n), as `torch.linalg.svd`. float32 or float64, of any rank. Vectors are unique only up to
        their sign, and gradients of them exist where singular values differ and (off square) are not 0; those
        of S always do. The columns that `full_matrices` adds have none.

        >>> [round(s, 4) for s in Tensor([[3.0, 0.0], [4.0, 5.0]]).svd()[1].tolist()]
        [6.7082, 2.2361]
        """
        rows, columns = self._matrix("svd")
        if rows < columns:
            left, values, right = self.mT.svd(full_matrices)
            return right.mT, values, left.mT
        if self.numel() == 0:
            wide = rows if full_matrices else columns
            empty = self.zeros(*self.shape[:-2], columns, **self._like())
            return self._identity(rows, wide), empty, self._identity(columns, columns)
        left, values, right = self.detach()._rotated()
        template = _svd_template(type(self))  # type: ignore[arg-type]
        packed = values.cat(left.flatten(-2), right.flatten(-2), dim=-1)
        thin, values, right = self._unpacked(
            graph.custom(template, (packed.node, self.node), self.dtype, packed.shape)
        )
        if not full_matrices or rows == columns:
            return thin, values, right
        reflectors, _ = left._reflected_down(columns)
        rest = left._reflected_up(reflectors, rows)._part(self.ndim - 1, columns, rows)
        return thin.cat(rest.detach(), dim=-1), values, right

    # ---- arguments ----

    def _matrix(self, name: str) -> tuple[int, int]:
        """The sizes of the last two axes, of a dtype that has the precision."""
        if self.ndim < 2:
            raise ShapeError(f"{name}: expected at least 2 axes, got {self._text()}")
        if self.dtype.name not in ("float32", "float64"):
            raise DTypeError(f"{name}: expected float32 or float64, got {self.dtype}; cast it first")
        return self._known_size(self.ndim - 2), self._known_size(self.ndim - 1)

    def _like(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "device": self.device}

    def _identity(self, rows: int, columns: int) -> Self:
        """Ones on the diagonal, for each matrix of the batch."""
        return self.eye(rows, columns, **self._like()).expand(*self.shape[:-2], rows, columns)._now()

    def _now(self) -> Self:
        """Memory of its own, computed at once."""
        return self.contiguous().realize()

    # ---- Householder ----

    def _reflected_down(self, count: int) -> tuple[list[tuple[Self, Self]], Self]:
        """(vector, factor) of the reflections I − factor·v·vᵀ that make columns upper triangular, and the
        result."""
        matrix, reflectors = self._now(), []
        for number in range(count):
            step = type(self)(np.array(number, np.int32), device=self.device)
            vector, factor = matrix._reflector(step)
            reflectors.append((vector, factor))
            matrix = matrix._reflected(vector, factor)
        return reflectors, matrix

    def _reflector(self, step: Self) -> tuple[Self, Self]:
        """What reflects column `step` onto its diagonal element; a factor of 0 where it is there already."""
        rows = self.arange(self.shape[-2], device=self.device)
        columns = self.arange(self.shape[-1], device=self.device)
        column = (columns == step).where(self, 0.0).sum(-1)
        tail = (rows >= step).where(column, 0.0)
        largest = abs(tail.detach()).max(-1, keepdim=True)
        tail = tail / largest.eq(0).where(1.0, largest)  # squares neither overflow nor vanish
        head = (rows == step).where(tail, 0.0)
        first = head.sum(-1, keepdim=True)
        below = (tail - head).square().sum(-1, keepdim=True)
        length = (first * first + below)._root()
        vector = tail + (rows == step).where((first < 0).where(-length, length), 0.0)
        done = below.eq(0)
        factor = done.where(0.0, 2.0 / done.where(1.0, vector.square().sum(-1, keepdim=True)))
        return vector.unsqueeze(-1)._now(), factor.unsqueeze(-1)._now()

    def _reflected(self, vector: Self, factor: Self) -> Self:
        along = (vector * self).sum(-2, keepdim=True)
        return (self - vector * (along * factor))._now()

    def _reflected_up(self, reflectors: list[tuple[Self, Self]], columns: int) -> Self:
        """The first columns of the product of reflections."""
        result = self._identity(self._known_size(self.ndim - 2), columns)
        for vector, factor in reversed(reflectors):
            result = result._reflected(vector, factor)
        return result

    # ---- Jacobi ----

    def _rotated(self) -> tuple[Self, Self, Self]:
        """The singular value decomposition of a matrix that is not wide, in reduced form.

        Columns are rotated in pairs until all are orthogonal: their lengths are the singular values. In a
        round every column is in one pair, and moves to its next partner by one permutation.
        """
        rows, columns = self._matrix("svd")
        largest = abs(self).max((-2, -1), keepdim=True)
        scale = largest.eq(0).where(1.0, largest)
        # a line for each column: of the matrix, then of the rotations so far; one of zeros makes them even
        lines = (self / scale).mT.cat(self._identity(columns, columns), dim=-1)
        even = columns + columns % 2
        lines = lines.pad((0, 0, 0, even - columns))._now()
        half = even // 2
        order = [0, half, *range(1, half - 1), *range(half + 1, even), half - 1] if half > 1 else [0, 1]
        places = type(self)(np.array(order, np.int32), device=self.device)
        sweeps = 5 + columns.bit_length() + 2 * (self.dtype is float64)
        for _ in range(sweeps * max(even - 1, 1) if columns > 1 else 0):
            lines = lines._jacobi_round(rows, half, places)
        lines = lines._part(self.ndim - 2, 0, columns)
        left, right = lines._part(self.ndim - 1, 0, rows), lines._part(self.ndim - 1, rows, rows + columns)
        lengths = left.square().sum(-1)._root()
        values, ranks = lengths.sort(-1, descending=True)
        left, right = (part.gather(-2, ranks.unsqueeze(-1).expand(part.shape)) for part in (left, right))
        sizes = values.unsqueeze(-1)
        units = (left / sizes.eq(0).where(1.0, sizes)).mT
        # what has no length gets directions of its own: those of a QR, which keeps the others but for signs
        reflectors, upper = units._reflected_down(columns)
        basis = units._reflected_up(reflectors, columns)
        signs = (upper.diagonal(0, -2, -1) < 0).where(-1.0, 1.0).cast(self.dtype)
        return basis * signs.unsqueeze(-2), values * scale.squeeze(-1), right

    def _jacobi_round(self, rows: int, half: int, places: Self) -> Self:
        """Each line of the first half rotated with its partner of the second, then moved."""
        axis = self.ndim - 2
        first, second = self._part(axis, 0, half), self._part(axis, half, 2 * half)
        x, y = first._part(axis + 1, 0, rows), second._part(axis + 1, 0, rows)
        a, b, c = (product.sum(-1, keepdim=True) for product in (x.square(), y.square(), x * y))
        small = c.square() <= a * b * float(np.finfo(self.dtype.numpy).eps) ** 2
        ratio = (b - a) / (small.where(1.0, c) * 2.0)
        slope = (ratio < 0).where(-1.0, 1.0).cast(self.dtype) / (abs(ratio) + (ratio.square() + 1.0).sqrt())
        tangent = small.where(0.0, slope)
        cosine = (tangent.square() + 1.0).rsqrt()
        sine = tangent * cosine
        # what is added is small near the end, so that lengths do not drift: cos = 1 − sin · sin/(1 + cos)
        part = sine / (cosine + 1.0)
        turned = (first - (second + first * part) * sine).cat(
            second + (first - second * part) * sine, dim=axis
        )
        index = places.reshape(-1, 1).expand(turned.shape)
        return turned.gather(axis, index)._now()

    # ---- the gradient of svd ----

    def _unpacked(self, packed: Node) -> tuple[Self, Self, Self]:
        """U, S and Vh out of one tensor that holds them for each matrix of the batch."""
        rows, columns = self._matrix("svd")
        whole = self._wrap(packed)
        axis, size = self.ndim - 2, rows * columns
        values = whole._part(axis, 0, columns)
        left = whole._part(axis, columns, columns + size).reshape(*self.shape[:-2], rows, columns)
        right = whole._part(axis, columns + size, whole.shape[-1])
        return left, values, right.reshape(*self.shape[:-2], columns, columns)


@functools.cache
def _svd_template(kind: Any) -> GradientTemplate:
    """What gives the packed result of `svd` its gradient, for a class of tensors."""

    def adjoint(node: Node, grad: Node) -> tuple[Node]:
        with enable_grad():
            matrix = kind._from_node(node.sources[1])
            return (_svd_gradient(matrix, matrix._unpacked(node), matrix._unpacked(grad)).node,)

    return GradientTemplate("svd", adjoint)


def _svd_gradient(matrix: Any, parts: tuple[Any, ...], grads: tuple[Any, ...]) -> Any:
    """U·(skew(Uᵀ·gU)/E·S + S·skew(Vᵀ·gV)/E + diag(gS))·Vᵀ with E = s² − s²ᵀ, and what leaves U's span."""
    (u, s, vh), (gu, gs, gvh) = parts, grads
    across, down = s.unsqueeze(-2), s.unsqueeze(-1)
    gap = across.square() - down.square()
    inner = _quotient(_skew(u.mT @ gu), gap) * across + _quotient(_skew(vh @ gvh.mT), gap) * down
    diagonal = matrix._identity(s.shape[-1], s.shape[-1])
    result = u @ (inner + diagonal * gs.unsqueeze(-1)) @ vh
    if u.shape[-2] == s.shape[-1]:
        return result
    return result + _quotient(gu - u @ (u.mT @ gu), across) @ vh


def _skew(matrix: Any) -> Any:
    return matrix - matrix.mT


def _quotient(a: Any, b: Any) -> Any:
    """a / b, and 0 where both are: vectors that nobody asks for have no gradient, whatever the values."""
    return a / (a.eq(0) & b.eq(0)).where(1.0, b)
