"""Mixed precision: the dtype in which matmul, conv, linear and attention take their operands, per thread."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from petaflop.dtype import DType, bfloat16, to_dtype
from petaflop.errors import DTypeError

__all__ = ["autocast", "autocast_dtype", "product_dtype", "product_operands"]


class _State(threading.local):
    dtype: DType | None = None


_state = _State()


def autocast_dtype() -> DType | None:
    """The dtype of the `autocast` block that this thread is in."""
    return _state.dtype


def product_dtype(dtype: DType) -> DType:
    """What an operand of a product is cast to: the autocast dtype for float32 and narrower floats."""
    lower = _state.dtype
    return lower if lower is not None and dtype.is_float and dtype.itemsize <= 4 else dtype


def product_operands(*tensors: Any) -> tuple[Any, ...]:
    """The operands of a product, cast as `product_dtype` says; outside `autocast` just themselves."""
    if _state.dtype is None:
        return tensors
    return tuple(tensor.cast(product_dtype(tensor.dtype)) for tensor in tensors)


class autocast(contextlib.ContextDecorator):
    """Products inside the block take float32 operands as `dtype` and give that dtype; sums stay in float32.

    A context manager and a decorator. Parameters keep their own dtype; their gradients have it too.

    >>> with autocast(bfloat16):
    ...     product_dtype(to_dtype("float32"))
    petaflop.bfloat16
    """

    def __init__(self, dtype: Any = bfloat16, enabled: bool = True) -> None:
        self._dtype = to_dtype(dtype)
        if not self._dtype.is_float:
            raise DTypeError(f"autocast: expected a float dtype, got {self._dtype}")
        self._enabled = enabled
        self._before: list[DType | None] = []

    def __enter__(self) -> autocast:
        self._before.append(_state.dtype)
        _state.dtype = self._dtype if self._enabled else None
        return self

    def __exit__(self, *exc: object) -> None:
        _state.dtype = self._before.pop()
