"""Tensors from nothing: constants, ranges, identities; and from memory that others own."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from petaflop import realize as runtime
from petaflop.device.registry import default_device, get_backend
from petaflop.dtype import default_float, default_int, float32, float64, int32, int64, to_dtype
from petaflop.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from petaflop.graph import node as graph
from petaflop.graph.node import Node
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import Expr
from petaflop.tensor.activations import Activations
from petaflop.tensor.convert import buffer_of, check_fits, python_dtype
from petaflop.tensor.dlpack import from_capsule
from petaflop.tensor.movement import dims

__all__ = ["Creation", "checked_shape"]


def checked_shape(name: str, shape: Any) -> tuple[Any, ...]:
    """Sizes given one by one or as one sequence; RuntimeError for a negative one."""
    sizes = dims(name, shape)
    if any(not isinstance(size, Expr) and size < 0 for size in sizes):
        raise ShapeError(f"{name}: expected sizes >= 0, got {list(sizes)}")
    return sizes


def _bounds(name: str, *values: Any) -> list[Any]:
    """Finite numbers or Variables; NumPy's numbers become Python's."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    for value in plain:
        if not isinstance(value, (int, float, Expr)):
            raise ArgumentTypeError(f"{name}: expected numbers, got {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ArgumentError(f"{name}: expected finite numbers, got {value}")
    return plain


class Creation(Activations):
    """Class methods that make tensors; all take `dtype`, `device` and `requires_grad`."""

    __slots__ = ()

    @classmethod
    def _made(cls, node: Node, device: str | None, requires_grad: bool = False) -> Self:
        if device is not None:
            get_backend(device)
        tensor = cls._from_node(node, device)
        return tensor.requires_grad_() if requires_grad else tensor

    @classmethod
    def full(
        cls,
        shape: Any,
        fill_value: Any,
        dtype: Any = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:
        """One value in every element; the dtype is that of the value unless given."""
        sizes = checked_shape("full", (shape,))
        if isinstance(fill_value, np.generic):
            fill_value = fill_value.item()
        if not isinstance(fill_value, (bool, int, float)):
            raise ArgumentTypeError(f"full: expected a number, got {type(fill_value).__name__}")
        kind = python_dtype(fill_value) if dtype is None else to_dtype(dtype)
        check_fits("full", fill_value, kind)
        return cls._made(graph.const(fill_value, kind, sizes), device, requires_grad)

    @classmethod
    def zeros(
        cls, *shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False
    ) -> Self:
        """Zeros, float32 unless a dtype is given.

        >>> Tensor.zeros(2, 3).shape
        (2, 3)
        """
        return cls.full(checked_shape("zeros", shape), 0, dtype or default_float, device, requires_grad)

    @classmethod
    def ones(
        cls, *shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False
    ) -> Self:
        """Ones, float32 unless a dtype is given."""
        return cls.full(checked_shape("ones", shape), 1, dtype or default_float, device, requires_grad)

    @classmethod
    def empty(
        cls, *shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False
    ) -> Self:
        """A tensor whose values do not matter: zeros, which cost nothing until they are stored."""
        return cls.full(checked_shape("empty", shape), 0, dtype or default_float, device, requires_grad)

    def full_like(self, fill_value: Any, dtype: Any = None, requires_grad: bool = False) -> Self:
        """`full` with this tensor's shape, dtype and device."""
        return self.full(self.shape, fill_value, dtype or self.dtype, self._device, requires_grad)

    def zeros_like(self, dtype: Any = None, requires_grad: bool = False) -> Self:
        """Zeros with this tensor's shape, dtype and device."""
        return self.full_like(0, dtype, requires_grad)

    def ones_like(self, dtype: Any = None, requires_grad: bool = False) -> Self:
        """Ones with this tensor's shape, dtype and device."""
        return self.full_like(1, dtype, requires_grad)

    @classmethod
    def arange(
        cls,
        start: Any,
        stop: Any = None,
        step: Any = 1,
        dtype: Any = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:
        """start, start + step, … below stop: int32 for integers, float32 for floats.

        >>> Tensor.arange(2, 8, 3).tolist()
        [2, 5]
        """
        if stop is None:
            start, stop = 0, start
        start, stop, step = _bounds("arange", start, stop, step)
        if step == 0:
            raise ArgumentError("arange: expected a step other than 0, got 0")
        whole = not any(isinstance(value, float) for value in (start, stop, step))
        last = max((abs(value) for value in (start, stop, step) if isinstance(value, int)), default=0)
        wide_int = int64 if whole and last > int32.max else default_int
        kind = (wide_int if whole else default_float) if dtype is None else to_dtype(dtype)
        size = -((stop - start) // -step) if whole else math.ceil((stop - start) / step)
        if not isinstance(size, Expr):
            if size < 0:
                raise ArgumentError(
                    f"arange: expected bounds in the direction of step, got {start}, {stop}, {step}",
                )
        elif size.op is Op.CONST:
            size = int(size.arg)
        # count in integers, multiply in the final precision
        counting = int64 if kind.itemsize == 8 else wide_int
        result = cls._made(graph.iota((size,), 0, counting), device)
        if whole:
            result = (result * step + start).cast(kind)
        else:
            wide = float64 if kind is float64 else float32 if kind.is_float else kind
            result = (result.cast(wide) * step + start).cast(kind)
        return result.requires_grad_() if requires_grad else result

    @classmethod
    def linspace(
        cls,
        start: float,
        end: float,
        steps: int,
        dtype: Any = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:
        """`steps` values from start to end, both included."""
        dims("linspace", (steps,))
        if steps < 0:
            raise ShapeError(f"linspace: expected steps >= 0, got {steps}")
        kind = default_float if dtype is None else to_dtype(dtype)
        wide = float64 if kind is float64 else float32
        ascending = cls._made(graph.iota((steps,), 0), device).cast(wide)
        if steps < 2:
            return cls.full((steps,), start, kind, device, requires_grad)
        step = (end - start) / (steps - 1)
        # from both ends, so that both are exact
        result = (ascending < steps / 2).where(
            ascending * step + start, ascending * step + (end - (steps - 1) * step)
        )
        result = (ascending.eq(steps - 1)).where(end, result).cast(kind)
        return result.requires_grad_() if requires_grad else result

    @classmethod
    def eye(
        cls,
        n: int,
        m: int | None = None,
        dtype: Any = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:
        """The n × m identity matrix."""
        shape = checked_shape("eye", (n, n if m is None else m))
        same = graph.compute(Op.NE, graph.iota(shape, 0), graph.iota(shape, 1))
        kind = default_float if dtype is None else to_dtype(dtype)
        one, zero = graph.const(1, kind, shape), graph.const(0, kind, shape)
        return cls._made(graph.compute(Op.WHERE, same, zero, one), device, requires_grad)

    def one_hot(self, num_classes: int = -1) -> Self:
        """A new last axis of `num_classes`, 1 at each index (int32); −1 reads the largest index, and
        computes."""
        if not self.dtype.is_integer:
            raise DTypeError(f"one_hot: expected integers, got {self.dtype}")
        if num_classes == -1:
            if self.numel() == 0:
                raise ShapeError(f"one_hot: expected num_classes for no indices, got {self._text()}")
            num_classes = int(self.max().item()) + 1
        if num_classes < 1:
            raise ShapeError(f"one_hot: expected num_classes >= 1, got {num_classes}")
        shape = (*self.shape, num_classes)
        classes = self._wrap(graph.iota(shape, self.ndim))
        return self.unsqueeze(-1).eq(classes).cast(int32)

    # ---- memory that others own ----

    @classmethod
    def from_numpy(cls, array: np.ndarray[Any, Any], device: str | None = None) -> Self:
        """A tensor over the memory of an array, without a copy where the device works on host memory and the
        array (of no subclass) is contiguous, aligned, writable, in native byte order and not empty; otherwise
        it is copied.

        Writes to the array are seen by the tensor; do not write while a computation runs. Writes to the
        tensor are seen by the array until one finds another tensor or unfinished result that still needs the
        old contents: that write goes to new memory, and sharing has ended.

        >>> array = np.ones(2, np.float32)
        >>> tensor = Tensor.from_numpy(array, "reference")
        >>> array[0] = 5
        >>> tensor.tolist()
        [5.0, 1.0]
        """
        if not isinstance(array, np.ndarray):
            raise ArgumentTypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
        return cls._from_node(runtime.from_host(array, device or default_device(), borrow=True))

    @classmethod
    def from_dlpack(cls, source: Any, device: str | None = None) -> Self:
        """A tensor over anything with `__dlpack__` in host memory (a torch tensor, an array), borrowed as by
        from_numpy, bfloat16 and float8 too. ArgumentError for memory of another device, DTypeError for a
        dtype that petaflop has not."""
        if not hasattr(source, "__dlpack__"):
            raise ArgumentTypeError(
                f"from_dlpack: expected an object with __dlpack__, got {type(source).__name__}",
            )
        return cls.from_numpy(from_capsule("from_dlpack", source), device)

    @classmethod
    def frombuffer(cls, data: Any, dtype: Any = None, device: str | None = None) -> Self:
        """A one-dimensional tensor over bytes, bytearray, array or memoryview; borrowed when it can be
        written to."""
        kind = default_float if dtype is None else to_dtype(dtype)
        view_ = buffer_of("frombuffer", data).cast("B")
        if len(view_) % kind.itemsize:
            raise ArgumentError(f"frombuffer: expected whole {kind} elements, got {len(view_)} bytes")
        return cls.from_numpy(np.frombuffer(view_, kind.numpy), device)
