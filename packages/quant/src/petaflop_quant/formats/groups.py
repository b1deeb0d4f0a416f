"""Integers of 4 or 8 bits in words, a scale and a zero for each group of inputs, as others' files have them.

Planes are the tensors of the files, under their names there. A tensor is [outputs, inputs], also where the
file has its inputs first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from petaflop import Tensor
from petaflop.plugin_api import DTYPES, ArgumentError, Plane, QuantScheme, SchemeFile, ShapeError
from petaflop_quant.bits import shifted

__all__ = ["AWQ", "GPTQ", "PACKED_INT"]

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]


class Grouped(QuantScheme):
    """A value is (code − zero) · scale; codes and zeros lie in words of 32 bits, low bits first."""

    defaults: ClassVar[dict[str, int | str | bool]] = {"bits": 4, "group": 128}
    choices: ClassVar[dict[str, tuple[int | str | bool, ...]]] = {"bits": (2, 4, 8)}

    @property
    def files(self) -> tuple[SchemeFile, ...]:  # type: ignore[override]
        """safetensors, plane by plane."""
        from petaflop_quant.files.safetensors import Planes

        return (Planes(self),)

    def __init__(self, **parameters: int | float | str | bool) -> None:
        self.parameters = {**self.defaults, **parameters}
        for name, value in self.parameters.items():
            if name not in self.defaults or value not in self.choices.get(name, (value,)):
                known = {**self.defaults, **self.choices}
                raise ArgumentError(f"{self.name}: expected parameters like {known}, got {name}={value!r}")
        self.bits, self.group = int(self.parameters["bits"]), int(self.parameters["group"])
        if self.group < 1:
            raise ArgumentError(f"{self.name}: expected a group of 1 or more, got {self.group}")
        self.block = (self.per_word, math.lcm(self.group, self.per_word))
        self.bits_per_weight = self.bits + (16 + self.zero_bits) / self.group

    @property
    def zero_bits(self) -> int:
        """Bits of a zero."""
        return self.bits

    def with_parameters(self, **parameters: int | float | str | bool) -> Self:
        """The same with others."""
        return type(self)(**{**self.parameters, **parameters})

    @property
    def per_word(self) -> int:
        """Codes in a word."""
        return 32 // self.bits

    def check_shape(self, shape: Shape) -> None:
        """Matrices of whole groups and whole words."""
        if len(shape) != 2:
            raise ShapeError(f"{self.name}: expected 2 axes, got {list(shape)}")
        super().check_shape(shape)

    # ---- words ----

    def words(self, packed: Array, axis: int) -> Array:
        """The codes of int32 words, along an axis, as float32."""
        shifts = np.arange(self.per_word, dtype=np.uint32) * np.uint32(self.bits)
        wide = np.moveaxis(packed.view(np.uint32), axis, -1)[..., None] >> shifts
        codes = (wide & np.uint32((1 << self.bits) - 1)).reshape(*wide.shape[:-2], -1)
        return np.moveaxis(codes, -1, axis).astype(np.float32)

    def express_inputs(self, packed: Tensor, axis: int) -> Tensor:
        """The codes of a matrix whose words run along the inputs, lazily."""
        rows, columns = packed.shape
        count = self.per_word
        words = packed.bitcast("uint32").unsqueeze(axis + 1)
        part = Tensor.arange(count, device=packed.device)
        if axis == 0:
            wide, part = words.expand(rows, count, columns), part.reshape(-1, 1)
        else:
            wide = words.expand(rows, columns, count)
        codes = shifted(wide, part, count, self.bits)
        sizes = (rows * count, columns) if axis == 0 else (rows, columns * count)
        return codes.reshape(*sizes).cast("float32")

    def express_outputs(self, packed: Tensor, axis: int, order: bool = False) -> Tensor:
        """The same where words run along the outputs; `order` is that of AWQ.

        Words are gathered, not expanded: an index o // 8 in a view makes the scheduler split the outputs, and
        then the product is stored in two steps.
        """
        count = self.per_word
        output = Tensor.arange(packed.shape[axis] * count, device=packed.device)
        part = output & (count - 1)
        part = part // 2 + (part & 1) * (count // 2) if order else part
        words = packed.bitcast("uint32").index_select(axis, output // count)
        return shifted(words, part.reshape(-1, 1) if axis == 0 else part, count, self.bits).cast("float32")


class GPTQ(Grouped):
    """GPTQ's files: words hold 8 inputs of an output; zeros are stored less `zero_offset`.

    With `act_order` each input has a group of its own choice, in g_idx.
    """

    name = "gptq"
    defaults: ClassVar[dict[str, int | str | bool]] = {
        "bits": 4,
        "group": 128,
        "act_order": False,
        "zero_offset": 1,
    }
    choices: ClassVar[dict[str, tuple[int | str | bool, ...]]] = {
        "bits": (2, 4, 8),
        "act_order": (False, True),
        "zero_offset": (0, 1),
    }

    def planes(self, shape: Shape) -> Mapping[str, Plane]:
        """qweight, qzeros, scales, and g_idx for act_order."""
        self.check_shape(shape)
        outputs, inputs = shape
        groups = inputs // self.group
        found = {
            "qweight": Plane(DTYPES["int32"], (inputs // self.per_word, outputs)),
            "qzeros": Plane(DTYPES["int32"], (groups, outputs // self.per_word)),
            "scales": Plane(DTYPES["float16"], (groups, outputs)),
        }
        if self.parameters["act_order"]:
            found["g_idx"] = Plane(DTYPES["int32"], (inputs,))
        return found

    def unpack(self, planes: Mapping[str, Array], shape: Shape) -> Array:
        """In float32, where code − zero is exact and the product is as well."""
        self.check_planes(planes, shape)
        group = planes.get("g_idx", np.arange(shape[1]) // self.group)
        codes = self.words(planes["qweight"], 0)
        zeros = self.words(planes["qzeros"], 1) + np.float32(self.parameters["zero_offset"])
        valid = (group >= 0) & (group < len(zeros))  # others read 0, as a gather of the graph does
        group = np.where(valid, group, 0)
        zero = np.where(valid[:, None], zeros[group], np.float32(self.parameters["zero_offset"]))
        with np.errstate(all="ignore"):
            scales = np.where(valid[:, None], planes["scales"].astype(np.float32)[group], np.float32(0))
            result: Array = ((codes - zero) * scales).T
        return np.ascontiguousarray(result)

    def dequantize(self, planes: Mapping[str, Any], shape: Shape) -> Tensor:
        """The same, lazily."""
        self.check_planes(planes, shape)
        codes = self.express_inputs(planes["qweight"], 0)
        if self.parameters["act_order"]:
            words, scales = (planes[name].index_select(0, planes["g_idx"]) for name in ("qzeros", "scales"))
        else:
            words, scales = (_repeated(planes[name], self.group) for name in ("qzeros", "scales"))
        zeros = self.express_outputs(words, 1) + float(self.parameters["zero_offset"])
        values = (codes - zeros) * scales.cast("float32")
        return values.transpose(0, 1)


class AWQ(Grouped):
    """AWQ's files: words hold 8 outputs of an input, the even ones first."""

    name = "awq"
    choices: ClassVar[dict[str, tuple[int | str | bool, ...]]] = {"bits": (4,)}

    def planes(self, shape: Shape) -> Mapping[str, Plane]:
        """qweight, qzeros, scales."""
        self.check_shape(shape)
        outputs, inputs = shape
        groups = inputs // self.group
        return {
            "qweight": Plane(DTYPES["int32"], (inputs, outputs // self.per_word)),
            "qzeros": Plane(DTYPES["int32"], (groups, outputs // self.per_word)),
            "scales": Plane(DTYPES["float16"], (groups, outputs)),
        }

    def _ordered(self, packed: Array) -> Array:
        """Part p of a word is output 2p, and 2(p − 4) + 1 from the fifth on."""
        codes = self.words(packed, 1).reshape(len(packed), -1, 2, 4)
        return codes.transpose(0, 1, 3, 2).reshape(len(packed), -1)

    def unpack(self, planes: Mapping[str, Array], shape: Shape) -> Array:
        """In float32, exactly."""
        self.check_planes(planes, shape)
        zeros, scales = self._ordered(planes["qzeros"]), planes["scales"].astype(np.float32)
        zeros, scales = (np.repeat(each, self.group, 0) for each in (zeros, scales))
        with np.errstate(all="ignore"):
            result: Array = ((self._ordered(planes["qweight"]) - zeros) * scales).T
        return np.ascontiguousarray(result)

    def dequantize(self, planes: Mapping[str, Any], shape: Shape) -> Tensor:
        """The same, lazily."""
        self.check_planes(planes, shape)
        codes = self.express_outputs(planes["qweight"], 1, order=True)
        zeros = self.express_outputs(_repeated(planes["qzeros"], self.group), 1, order=True)
        values = (codes - zeros) * _repeated(planes["scales"], self.group).cast("float32")
        return values.transpose(0, 1)


class PACKED_INT(Grouped):
    """compressed-tensors' pack-quantized: words hold 8 inputs of an output, codes around the middle."""

    name = "packed_int"
    defaults: ClassVar[dict[str, int | str | bool]] = {
        "bits": 4,
        "group": 128,
        "symmetric": True,
        "scale": "bfloat16",
    }
    choices: ClassVar[dict[str, tuple[int | str | bool, ...]]] = {
        "bits": (4, 8),
        "symmetric": (False, True),
        "scale": ("bfloat16", "float16", "float32"),
    }

    @property
    def zero_bits(self) -> int:
        """None where codes lie around the middle."""
        return 0 if self.parameters["symmetric"] else self.bits

    def planes(self, shape: Shape) -> Mapping[str, Plane]:
        """weight_packed, weight_scale, and weight_zero_point where zeros differ."""
        self.check_shape(shape)
        outputs, inputs = shape
        groups = inputs // self.group
        found = {
            "weight_packed": Plane(DTYPES["int32"], (outputs, inputs // self.per_word)),
            "weight_scale": Plane(DTYPES[str(self.parameters["scale"])], (outputs, groups)),
        }
        if not self.parameters["symmetric"]:
            found["weight_zero_point"] = Plane(DTYPES["int32"], (outputs // self.per_word, groups))
        return found

    def unpack(self, planes: Mapping[str, Array], shape: Shape) -> Array:
        """One product in float32."""
        self.check_planes(planes, shape)
        zero: Any = np.float32(1 << (self.bits - 1))
        if "weight_zero_point" in planes:
            zero = np.repeat(self.words(planes["weight_zero_point"], 0), self.group, 1)
        scale = np.repeat(planes["weight_scale"].astype(np.float32), self.group, 1)
        with np.errstate(all="ignore"):
            result: Array = (self.words(planes["weight_packed"], 1) - zero) * scale
        return result

    def dequantize(self, planes: Mapping[str, Any], shape: Shape) -> Tensor:
        """The same, lazily."""
        self.check_planes(planes, shape)
        outputs, inputs = shape
        groups = inputs // self.group
        codes = self.express_inputs(planes["weight_packed"], 1)
        zero: Any = float(1 << (self.bits - 1))
        if "weight_zero_point" in planes:
            words = planes["weight_zero_point"]
            wide = words.unsqueeze(-1).expand(words.shape[0], groups, self.group)
            zero = self.express_outputs(wide.reshape(words.shape[0], inputs), 0)
        scale = planes["weight_scale"].unsqueeze(-1).expand(outputs, groups, self.group).cast("float32")
        values: Tensor = (codes - zero) * scale.reshape(outputs, inputs)
        return values


def _repeated(plane: Tensor, times: int) -> Tensor:
    """Each row of a matrix so many times."""
    rows, columns = plane.shape
    return plane.unsqueeze(1).expand(rows, times, columns).reshape(rows * times, columns)
