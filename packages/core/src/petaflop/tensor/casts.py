"""To another dtype or device: `x.to(...)`, `x.half()` and its like.

Apart, as the names of the casts hide types in a class body.
"""

from __future__ import annotations

from typing import Any, Self

from petaflop import dtype as dtypes
from petaflop.device.registry import get_backend
from petaflop.dtype import to_dtype
from petaflop.errors import DTypeError
from petaflop.graph import node as graph
from petaflop.tensor.base import TensorBase

__all__ = ["Casts"]


class Casts(TensorBase):
    """`to`, and casts by name: each is `cast` to that dtype. Gradients flow through those between floats.

    >>> Tensor([1.5, -2.7]).int().tolist()
    [1, -2]
    """

    __slots__ = ()

    def to(self, *args: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Another device, another dtype, or both: `to("cpu")`, `to(float16)`, `to("cpu", "half")`,
        `to(other)`."""
        for arg in args:
            if isinstance(arg, TensorBase):
                device, dtype = arg.device, arg.dtype
            elif isinstance(arg, str) and not _is_dtype(arg):
                device = arg
            elif arg is not None:
                dtype = arg
        node = self.node
        if dtype is not None:
            node = graph.cast(node, to_dtype(dtype))
        if device is None:
            return self._wrap(node)
        get_backend(device)
        return self._from_node(graph.copy(node, device), device)

    def to_(self, *args: Any, device: str | None = None, dtype: Any = None) -> Self:
        """`to` in place: a gradient target stays one."""
        with_history = self._leaf
        moved = self.detach().to(*args, device=device, dtype=dtype)
        self._replace(moved._node)
        self._device = moved._device
        self._leaf = with_history and self.dtype.is_float
        return self

    def half(self) -> Self:
        """The values as float16."""
        return self.cast(dtypes.float16)

    def bfloat16(self) -> Self:
        """The values as bfloat16."""
        return self.cast(dtypes.bfloat16)

    def float(self) -> Self:
        """The values as float32."""
        return self.cast(dtypes.float32)

    def double(self) -> Self:
        """The values as float64."""
        return self.cast(dtypes.float64)

    def short(self) -> Self:
        """The values as int16."""
        return self.cast(dtypes.int16)

    def int(self) -> Self:
        """The values as int32."""
        return self.cast(dtypes.int32)

    def long(self) -> Self:
        """The values as int64."""
        return self.cast(dtypes.int64)

    def bool(self) -> Self:
        """Whether each value is not 0."""
        return self.cast(dtypes.bool_)


def _is_dtype(name: str) -> bool:
    try:
        to_dtype(name)
    except DTypeError:
        return False
    return True
