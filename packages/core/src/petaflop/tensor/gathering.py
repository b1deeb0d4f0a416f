"""gather, scatter and what is picked by an index along one axis; then what is picked by value."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from petaflop.dtype import bool_, int32
from petaflop.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph import view
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr
from petaflop.tensor.base import TensorBase, broadcast_shapes
from petaflop.tensor.indexing import Indexing

__all__ = ["Gathering"]


class Gathering(Indexing):
    """Reads and writes at indices that are tensors."""

    __slots__ = ()

    # ---- along one axis ----

    def gather(self, dim: int, index: Any) -> Self:
        """out[i][j] = self[index[i][j]][j] for dim 0: indices of the result's shape, at most self's size
        elsewhere."""
        axis, chosen = self._indexed("gather", dim, index)
        if not self.shape:
            return self.reshape(1).gather(0, chosen.reshape(1)).reshape(())
        ranges = tuple((0, n) for n in chosen.shape)
        ranges = tuple((0, self.shape[axis]) if k == axis else pair for k, pair in enumerate(ranges))
        return self._wrap(graph.gather(view.shrink(self.node, ranges), chosen.node, axis))

    def _indexed(self, name: str, dim: int, index: Any) -> tuple[int, Any]:
        chosen = self._lift(index).detach()
        axis = self._axis(name, dim)
        if not chosen.dtype.is_integer:
            raise DTypeError(f"{name}: expected an integer index, got {chosen.dtype}")
        small = chosen.ndim == self.ndim and all(
            k == axis or not (isinstance(n, int) and isinstance(size, int)) or n <= size
            for k, (n, size) in enumerate(zip(chosen.shape, self.shape, strict=True))
        )
        if not small:
            raise ShapeError(
                f"{name}: expected an index of {self.ndim} axes, at most {list(self.shape)} but for axis "
                f"{axis}, got {list(chosen.shape)}",
            )
        if self.shape:
            self._expect_indices(name, chosen, axis)
        return axis, chosen

    def take_along_dim(self, index: Any, dim: int | None = None) -> Self:
        """`gather` whose index and self broadcast but for `dim`; over the flat tensor without one."""
        chosen = self._lift(index)
        if dim is None:
            return self.flatten().gather(0, chosen.flatten())
        axis = self._axis("take_along_dim", dim)
        if chosen.ndim != self.ndim:
            raise ShapeError(f"take_along_dim: expected {self.ndim} axes, got {list(chosen.shape)}")
        rest = [
            tensor.shrink([(0, 1) if k == axis else None for k in range(self.ndim)])
            for tensor in (self, chosen)
        ]
        shape = list(broadcast_shapes("take_along_dim", rest))
        own, wanted = ([*shape[:axis], tensor.shape[axis], *shape[axis + 1 :]] for tensor in (self, chosen))
        return self.expand(own).gather(axis, chosen.expand(wanted))

    def index_select(self, dim: int, index: Any) -> Self:
        """The elements of one axis that a vector of indices names."""
        axis = self._axis("index_select", dim)
        chosen = index if isinstance(index, np.ndarray) else self._lift(index)
        if chosen.ndim > 1:
            raise IndexRangeError(f"index_select: expected a vector, got {list(chosen.shape)}")
        if isinstance(chosen, TensorBase) and not chosen.dtype.is_integer:
            raise DTypeError(f"index_select: expected integers, got {chosen.dtype}")
        return self[(slice(None),) * axis + (chosen,)]

    def scatter(self, dim: int, index: Any, src: Any, reduce: str | None = None) -> Self:
        """A copy with out[index[i][j]][j] = src[i][j] for dim 0; `reduce` "add" or "multiply" folds in
        instead.

        With equal indices the last wins.
        """
        folds = {None: None, "add": Op.ADD, "multiply": Op.MUL}
        if reduce not in folds:
            raise ArgumentError(f"scatter: expected reduce add, multiply or None, got {reduce!r}")
        return self._scattered("scatter", dim, index, src, folds[reduce])

    def scatter_add(self, dim: int, index: Any, src: Any) -> Self:
        """A copy with out[index[i][j]][j] += src[i][j] for dim 0, in the order of the index."""
        return self._scattered("scatter_add", dim, index, src, Op.ADD)

    def _scattered(self, name: str, dim: int, index: Any, src: Any, fold: Op | None) -> Self:
        axis, chosen = self._indexed(name, dim, index)
        if not self.shape:
            source = self._lift(src).reshape(1) if isinstance(src, TensorBase) else src
            return self.reshape(1)._scattered(name, 0, chosen.reshape(1), source, fold).reshape(())
        if isinstance(src, TensorBase):
            short = src.ndim != self.ndim or any(
                isinstance(n, int) and isinstance(size, int) and n > size
                for n, size in zip(chosen.shape, src.shape, strict=True)
            )
            if short:
                raise ShapeError(
                    f"{name}: expected a src of at least {list(chosen.shape)}, got {src._text()}"
                )
            values = view.shrink(src.node, tuple((0, n) for n in chosen.shape))
            if values.dtype is not self.dtype:
                raise DTypeError(f"{name}: expected a src of {self.dtype}, got {values.dtype}; cast it first")
        else:
            values = graph.const(src, self.dtype, chosen.shape)
        # rows that the index does not reach get the index -1, which writes nothing
        widths = tuple((0, 0 if k == axis else self.shape[k] - n) for k, n in enumerate(chosen.shape))
        padded = chosen._pad_constant(widths, -1)
        return self._wrap(graph.scatter(self.node, padded.node, view.pad(values, widths), axis, fold))

    def scatter_reduce(self, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True) -> Self:
        """`scatter` that folds by "sum", "prod", "mean", "amax" or "amin", with or without what was there."""
        known = ("sum", "prod", "mean", "amax", "amin")
        if reduce not in known:
            raise ArgumentError(f"scatter_reduce: expected one of {', '.join(known)}, got {reduce!r}")
        if reduce == "amin":
            return (
                self._mirrored().scatter_reduce(dim, index, src._mirrored(), "amax", include_self)._mirrored()
            )
        fold = {"sum": Op.ADD, "mean": Op.ADD, "prod": Op.MUL, "amax": Op.MAX}[reduce]
        base = self
        ones = src.ones_like(dtype=int32)
        count = self.zeros_like(dtype=int32)._scattered("scatter_reduce", dim, index, ones, Op.ADD)
        if not include_self:
            identity = {Op.ADD: 0, Op.MUL: 1, Op.MAX: self.dtype.min}[fold]
            base = (count > 0).where(self.full_like(identity), self)
        result = base._scattered("scatter_reduce", dim, index, src, fold)
        if reduce != "mean":
            return result
        total = count + 1 if include_self else count.maximum(1)
        return result / total.cast(self.dtype) if self.dtype.is_float else result // total.cast(self.dtype)

    # ---- by value: these compute, since their shapes depend on what is there ----

    def nonzero(self) -> Self:
        """The int32 indices of the elements that are not 0, one row each; computes."""
        found = np.argwhere(self.numpy()).astype(np.int32)
        return type(self)(found, None, self.device)

    def repeat_interleave(self, repeats: Any, dim: int | None = None) -> Self:
        """Each element along an axis repeated; over the flat tensor without one.

        `repeats` is an integer, or one for each element: then it computes, since the shape depends on them.
        """
        if isinstance(repeats, (int, np.integer, Expr)):
            return super().repeat_interleave(repeats, dim)
        if dim is None:
            return self.flatten().repeat_interleave(repeats, 0)
        counts, size = self._lift(repeats), self.size(dim)
        if not counts.dtype.is_integer or counts.shape not in ((), (1,), (size,)):
            raise ShapeError(
                f"repeat_interleave: expected {size} integers for {self._text()}, got {counts._text()}",
            )
        each = np.broadcast_to(counts.numpy(), (size,))
        if each.size and each.min() < 0:
            raise ShapeError(f"repeat_interleave: expected repeats >= 0, got {each.min()}")
        return self.index_select(dim, np.repeat(np.arange(size, dtype=np.int32), each))

    def masked_select(self, mask: Any) -> Self:
        """The elements where a mask (that broadcasts) holds, as a vector; computes."""
        chosen = self._lift(mask)
        if chosen.dtype is not bool_:
            raise DTypeError(f"masked_select: expected a bool mask, got {chosen.dtype}")
        shape = broadcast_shapes("masked_select", [self, chosen])
        flat = self.broadcast_to(shape).flatten()
        return flat[chosen.broadcast_to(shape).flatten()]
