"""Nodes of an ONNX graph as they are written: names, constants, sizes, and the few rewrites that are always
right. What no output depends on is dropped at the end, so whoever writes need not know what will be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from petaflop.dtype import DType
from petaflop.errors import ArgumentError
from petaflop.plugin_api import Dim, Expr, Native, Op, topological
from petaflop_onnx.tensors import DTYPES

__all__ = ["ELEMENT_TYPES", "Writer", "tensor_proto"]

ELEMENT_TYPES: Mapping[np.dtype[Any], int] = {dtype: number for number, dtype in DTYPES.items()}
_LAST = np.iinfo(np.int64).min
_SIZES = {Op.ADD: "Add", Op.MUL: "Mul", Op.DIV: "Div", Native.MOD: "Mod", Op.MAX: "Max"}


def tensor_proto(name: str, array: np.ndarray[Any, Any]) -> TensorProto:
    """An array as raw bytes, whatever its dtype."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return helper.make_tensor(
        name, ELEMENT_TYPES[np.dtype(array.dtype)], array.shape, little.tobytes(), raw=True
    )


@dataclass
class Writer:
    """What has been written: `nodes` in order, `constants` by name, `sizes` where a Variable can be read."""

    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Callable[[], np.ndarray[Any, Any]]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # name → why ONNX has nothing for it
    sizes: dict[Expr, tuple[str, int]] = field(default_factory=dict)  # Variable → (input, axis)
    _names: set[str] = field(default_factory=set)
    _numbers: dict[Any, str] = field(default_factory=dict)
    _reshaped: dict[str, tuple[str, Sequence[Dim]]] = field(default_factory=dict)  # name → what it was before
    _exprs: dict[Expr, str] = field(default_factory=dict)

    # ---- names ----

    def claim(self, wanted: str) -> str:
        """A name that nothing else has."""
        name, count = wanted, 1
        while name in self._names:
            name, count = f"{wanted}_{count}", count + 1
        self._names.add(name)
        return name

    def op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One node; the name of its output."""
        name = self.claim(f"{operator.lower()}_{len(self.nodes)}")
        node = helper.make_node(operator, list(inputs), [name], name=name, **attributes)
        self.nodes.append(node)
        return name

    def add(self, node: NodeProto, output: int) -> str:
        """A node that was made elsewhere; the name of one of its outputs."""
        self.nodes.append(node)
        return str(node.output[output])

    def refuse(self, why: str) -> str:
        """A value that ONNX has no operator for: an error, if an output turns out to depend on it."""
        name = self.claim(f"refused_{len(self.refused)}")
        self.refused[name] = why
        return name

    # ---- constants ----

    def later(self, name: str, array: Callable[[], np.ndarray[Any, Any]]) -> str:
        """A constant whose values are asked for only if something uses it."""
        name = self.claim(name)
        self.constants[name] = array
        return name

    def array(self, values: Any, dtype: np.dtype[Any] | type) -> str:
        """A constant; equal ones are one."""
        array = np.asarray(values, dtype)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._numbers:
            self._numbers[key] = self.later(f"constant_{len(self._numbers)}", lambda: array)
        return self._numbers[key]

    def number(self, value: Any, dtype: DType) -> str:
        """A scalar."""
        return self.array(value, dtype.numpy)

    def ints(self, *values: int) -> str:
        """An int64 list, as sizes and axes are."""
        return self.array(values, np.int64)

    # ---- sizes ----

    def size(self, size: Dim) -> str:
        """One size as an int64 list of one, symbolic or not."""
        if not isinstance(size, Expr):
            return self.ints(size)
        for part in topological((size,)):
            if part not in self._exprs:
                self._exprs[part] = self._expr(part)
        return self._exprs[size]

    def _expr(self, part: Expr) -> str:
        if part.op is Op.CONST:
            return self.ints(int(part.arg))
        if part.op is Op.VAR:
            if part not in self.sizes:
                raise ArgumentError(
                    f"export: expected sizes of the inputs, got the Variable {part}; write it as {part}? in "
                    "the shape of an input"
                )
            name, axis = self.sizes[part]
            return self.op("Shape", name, start=axis, end=axis + 1)
        if part.op not in _SIZES:
            raise ArgumentError(
                f"export: expected sizes made of + * // % max, got {part}; fix the sizes of the inputs"
            )
        return self.op(_SIZES[part.op], *(self._exprs[arg] for arg in part.args))

    def shape(self, shape: Sequence[Dim]) -> str:
        """A shape as an int64 list."""
        if not any(isinstance(size, Expr) for size in shape):
            return self.array(shape, np.int64)
        return self.op("Concat", *(self.size(size) for size in shape), axis=0)

    # ---- views ----

    def reshape(self, name: str, old: Sequence[Dim], new: Sequence[Dim]) -> str:
        """Another shape; sizes that are only known when the model runs are copied or inferred."""
        name, old = self._reshaped.get(name, (name, old))
        if tuple(old) == tuple(new):
            return name
        result = self._reshape(name, old, new)
        self._reshaped[result] = (name, old)
        return result

    def _reshape(self, name: str, old: Sequence[Dim], new: Sequence[Dim]) -> str:
        symbolic = [axis for axis, size in enumerate(new) if isinstance(size, Expr)]
        inferred = [axis for axis in symbolic if axis >= len(old) or old[axis] is not new[axis]]
        if len(inferred) > 1 or (symbolic and 0 in new):
            return self.op("Reshape", name, self.shape(new), allowzero=int(0 in new))
        target = [size if isinstance(size, int) else -1 if axis in inferred else 0
                  for axis, size in enumerate(new)]  # fmt: skip
        return self.op("Reshape", name, self.ints(*target), allowzero=int(0 in new))

    def transpose(self, name: str, order: Sequence[int]) -> str:
        """Axes in another order."""
        return name if list(order) == sorted(order) else self.op("Transpose", name, perm=list(order))

    def expand(self, name: str, old: Sequence[Dim], new: Sequence[Dim]) -> str:
        """Broadcast, where that changes anything."""
        return name if tuple(old) == tuple(new) else self.op("Expand", name, self.shape(new))

    def slice(self, name: str, ranges: Mapping[int, tuple[Dim, Dim]]) -> str:
        """start <= i < stop of some axes."""
        starts, stops = zip(*ranges.values(), strict=True)
        return self.op("Slice", name, self.shape(starts), self.shape(stops), self.ints(*ranges))

    def flip(self, name: str, axes: Sequence[int]) -> str:
        """Some axes reversed."""
        count = len(axes)
        parts = (self.ints(*part) for part in ([-1] * count, [_LAST] * count, axes, [-1] * count))
        return self.op("Slice", name, *parts)

    def cast(self, name: str, dtype: DType | np.dtype[Any]) -> str:
        """ONNX's own conversion."""
        numpy = dtype.numpy if isinstance(dtype, DType) else dtype
        attributes = {"saturate": 0} if numpy.itemsize == 1 and numpy.kind not in "biu" else {}
        return self.op("Cast", name, to=ELEMENT_TYPES[np.dtype(numpy)], **attributes)

    # ---- the end ----

    def used(self, results: Sequence[str]) -> tuple[list[NodeProto], list[str]]:
        """The nodes, and the constants or refused values, that `results` depend on."""
        wanted = set(results)
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
                wanted.update(name for attribute in node.attribute for name in _captured(attribute))
        return kept[::-1], [name for name in (*self.constants, *self.refused) if name in wanted]


def _captured(attribute: Any) -> set[str]:
    return {name for node in attribute.g.node for name in node.input}
