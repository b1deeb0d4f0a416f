"""`x.half()` and its like: casts by the name of a dtype. Apart, as the names hide types in a class body."""

from __future__ import annotations

from typing import Self

from petaflop import dtype as dtypes
from petaflop.tensor.base import TensorBase

__all__ = ["Casts"]


class Casts(TensorBase):
    """Casts by name; each is `cast` to that dtype, and gradients flow through those between floats.

    >>> Tensor([1.5, -2.7]).int().tolist()
    [1, -2]
    """

    __slots__ = ()

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
