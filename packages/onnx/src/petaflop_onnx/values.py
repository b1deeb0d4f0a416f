"""What flows along the edges of a graph: a Tensor, a Constant that the host knows, Sizes that vary, a list of
them where ONNX has a sequence, or None where an optional holds nothing. Text is always a Constant, of NumPy's
objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, TypeProto, helper

from petaflop import Tensor
from petaflop.dtype import DType
from petaflop.plugin_api import Expr, TensorSpec
from petaflop_onnx.host import LARGEST_FOLD
from petaflop_onnx.narrow import Narrow, is_narrow, storage
from petaflop_onnx.sizes import Sizes
from petaflop_onnx.tensors import DTYPES, NARROW

__all__ = [
    "STRING",
    "TYPE_NAMES",
    "UNKNOWN",
    "Constant",
    "NeedsValue",
    "Value",
    "ValueSpec",
    "shape_of_value",
    "to_narrow",
    "to_tensor",
    "type_of",
    "type_text",
]

STRING = DType("string", "s", 1, np.dtype(object))
UNKNOWN = DType("unknown", "?", 1, np.dtype(object))
_ALL = {**DTYPES, **NARROW}
_NUMBERS = {dtype.name: number for number, dtype in _ALL.items()}
_SPELLED: Mapping[int, str] = {TensorProto.FLOAT: "float", TensorProto.DOUBLE: "double"}
_TEXTS = {
    dtype.name: f"tensor({_SPELLED.get(number, TensorProto.DataType.Name(number).lower())})"
    for number, dtype in _ALL.items()
}
# ONNX's spelling of a type -> NumPy's name of the dtype
TYPE_NAMES: Mapping[str, str] = {text: name for name, text in _TEXTS.items()}


class NeedsValue(Exception):
    """A shape or branch depends on what kernels compute: no capture holds it, so the graph runs step by
    step."""


@dataclass(frozen=True, slots=True)
class ValueSpec(TensorSpec):
    """An input or output of a model; `form` is "" for tensors of what kernels compute with, else
    sequence, optional, string or narrow."""

    form: str = ""


_LARGE = 1 << 16  # bytes of a constant that is worth holding once


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

    def share(self) -> bool:
        """Hold a large array once, in its tensor's memory; False where the host cannot look into that."""
        if self.array.nbytes < _LARGE or self.array.dtype.kind != "f":
            return True
        seen = self.tensor.__array__(copy=False)
        if not seen.flags.owndata:
            self.array = seen
        return not seen.flags.owndata

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def foldable(self) -> bool:
        """Whether the host may compute with it: text always, as no kernel can."""
        kind = self.array.dtype.kind
        return kind == "O" or (kind in "biu" and self.array.size <= LARGEST_FOLD)


Value = Tensor | Constant | Sizes | Narrow | list[Any] | None


def _constant_tensor(array: np.ndarray[Any, Any], device: str | None) -> Tensor:
    """One element becomes a number inside the kernels; more become memory."""
    if array.size == 1:
        return Tensor.full(array.shape, array.item(), dtype=str(array.dtype), device=device)
    return Tensor(array, device=device)


def to_tensor(value: Value) -> Tensor:
    """The value as a Tensor; ValueError for what is none."""
    if isinstance(value, Constant):
        if value.array.dtype.kind == "O":
            raise ValueError("input: expected a tensor of numbers, got text")
        if is_narrow(value.array.dtype):
            raise ValueError(f"input: expected a type that kernels have, got {value.array.dtype}")
        return value.tensor
    if isinstance(value, Sizes):
        return value.tensor
    if isinstance(value, Narrow):
        raise ValueError(f"input: expected a type that kernels have, got {value.format.dtype}")
    if not isinstance(value, Tensor):
        raise ValueError(f"input: expected a tensor, got {'a sequence' if value is not None else 'nothing'}")
    return value


def to_narrow(value: Value) -> Narrow | None:
    """The value as a Narrow, if its type is one of those."""
    if isinstance(value, Constant) and is_narrow(value.array.dtype):
        return storage(value.array, value.device)
    return value if isinstance(value, Narrow) else None


def shape_of_value(value: Value) -> tuple[Any, ...]:
    """The sizes of a tensor, whoever knows its elements; those that vary as they are."""
    like = value if isinstance(value, (Constant, Narrow, Sizes)) else to_tensor(value)
    return tuple(size if isinstance(size, Expr) else int(size) for size in like.shape)


def _dtype_name(value: Tensor | Constant | Narrow | Sizes) -> str:
    if isinstance(value, Narrow):
        return value.format.dtype.name
    if isinstance(value, Sizes):
        return value.dtype.name
    dtype = value.dtype.numpy if isinstance(value, Tensor) else value.array.dtype
    return "string" if dtype.kind in "OSU" else dtype.name


def type_text(value: Value) -> str:
    """ONNX's spelling of a value's type, "" where nothing tells it."""
    if isinstance(value, list):
        return next((f"seq({text})" for item in value if (text := type_text(item))), "")
    if value is None:
        return ""
    name = _dtype_name(value)
    return "tensor(string)" if name == "string" else _TEXTS[name]


def type_of(value: Any) -> TypeProto:
    """ONNX's type of a value or an array, with its sizes."""
    if value is None:
        return TypeProto()
    if isinstance(value, list):
        return helper.make_sequence_type_proto(type_of(value[0]) if value else TypeProto())
    value = Constant(value, None) if isinstance(value, np.ndarray) else value
    name = _dtype_name(value)
    number = TensorProto.STRING if name == "string" else _NUMBERS[name]
    return helper.make_tensor_type_proto(number, list(shape_of_value(value)))
