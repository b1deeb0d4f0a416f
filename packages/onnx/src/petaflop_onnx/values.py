"""What flows along the edges of a graph: a Tensor, a Constant that the host knows, a list of them where ONNX
has a sequence, or None where an optional holds nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, TypeProto, helper

from petaflop import Tensor
from petaflop_onnx.host import LARGEST_FOLD
from petaflop_onnx.tensors import DTYPES

__all__ = ["Constant", "Value", "to_tensor", "type_of"]

_NUMBERS = {dtype.name: number for number, dtype in DTYPES.items()}


class Constant:
    """An array that the host knows; its Tensor is made when a kernel first needs it."""

    __slots__ = ("_tensor", "array", "device")

    def __init__(self, array: np.ndarray[Any, Any], device: str | None) -> None:
        self.array, self.device = array, device
        self._tensor: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        if self._tensor is None:
            self._tensor = _constant_tensor(self.array, self.device)
        return self._tensor

    @property
    def foldable(self) -> bool:
        return self.array.dtype.kind in "biu" and self.array.size <= LARGEST_FOLD


Value = Tensor | Constant


def _constant_tensor(array: np.ndarray[Any, Any], device: str | None) -> Tensor:
    """One element becomes a number inside the kernels; more become memory."""
    if array.size == 1:
        return Tensor.full(array.shape, array.item(), dtype=str(array.dtype), device=device)
    return Tensor(array, device=device)


def to_tensor(value: Value | None) -> Tensor:
    """The value as a Tensor; every named value exists."""
    assert value is not None
    return value.tensor if isinstance(value, Constant) else value


def type_of(value: Any) -> TypeProto:
    """ONNX's type of a value or an array, with its sizes."""
    if value is None:
        return TypeProto()
    if isinstance(value, list):
        return helper.make_sequence_type_proto(type_of(value[0]) if value else TypeProto())
    like = value.array if isinstance(value, Constant) else value
    dtype = like.dtype.numpy if isinstance(like, Tensor) else like.dtype
    number = TensorProto.STRING if dtype.kind in "OSU" else _NUMBERS[dtype.name]
    return helper.make_tensor_type_proto(number, [int(size) for size in like.shape])
