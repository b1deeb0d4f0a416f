"""Deliberately wrong quantization schemes, encoders and importers, and a right one of each, in one package.

The format: codes of 8 bits and one float32 scale, a power of two, for each row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from petaflop import Tensor
from petaflop.plugin_api import (
    DTYPES,
    ArgumentError,
    Encoder,
    FileFormatError,
    Packed,
    Plane,
    QuantScheme,
    SchemeFile,
    TensorSpec,
    check_inputs,
    hookimpl,
)

Array = np.ndarray[Any, Any]


class JsonFile(SchemeFile):
    """Planes as lists of numbers under a line of JSON."""

    extension = ".rows"

    def write(self, path: Path, tensors: Mapping[str, Packed]) -> None:
        document = {
            name: {"shape": shape, **{key: plane.tobytes().hex() for key, plane in planes.items()}}
            for name, (planes, shape) in tensors.items()
        }
        path.write_text(json.dumps({"rows": document}), "utf-8")

    def read(self, path: Path) -> Mapping[str, Packed]:
        try:
            document = json.loads(path.read_text("utf-8"))["rows"]
            return {name: self._packed(entry) for name, entry in document.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(f"{path}: expected planes in JSON: {error}") from error

    def _packed(self, entry: Mapping[str, Any]) -> Packed:
        shape = tuple(entry["shape"])
        scale = np.frombuffer(bytes.fromhex(entry["scale"]), np.float32).reshape(*shape[:-1], 1)
        codes = np.frombuffer(bytes.fromhex(entry["codes"]), np.int8).reshape(shape)
        return Packed({"scale": scale, "codes": codes}, shape)


class Rows(QuantScheme):
    """Right."""

    name = "right_rows"
    block = (None,)
    bits_per_weight = 8.03125
    files = (JsonFile(),)

    def planes(self, shape: tuple[int, ...]) -> Mapping[str, Plane]:
        return {
            "scale": Plane(DTYPES["float32"], (*shape[:-1], 1)),
            "codes": Plane(DTYPES["int8"], shape),
        }

    def scale(self, values: Array) -> Array:
        largest = np.abs(values.astype(np.float64)).max(-1, keepdims=True, initial=0)
        with np.errstate(divide="ignore"):
            exponent = np.ceil(np.log2(np.maximum(largest, 2.0**-100) / 127))
        return np.exp2(exponent)

    def pack(self, values: Array) -> Mapping[str, Array]:
        scale = self.scale(self.check_values(values))
        codes = np.rint(values / scale).clip(-127, 127).astype(np.int8)
        return {"scale": scale.astype(np.float32), "codes": codes}

    def bound(self, values: Array) -> Array:
        return np.broadcast_to(self.scale(values) * 0.5, values.shape)

    def unpack(self, planes: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
        self.check_planes(planes, shape)
        with np.errstate(all="ignore"):
            return planes["codes"].astype(np.float32) * planes["scale"]

    def dequantize(self, planes: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
        self.check_planes(planes, shape)
        values: Tensor = planes["codes"].cast("float32") * planes["scale"]
        return values


class BoundIsTooSmall(Rows):
    name = "bound_is_too_small"

    def bound(self, values: Array) -> Array:
        return super().bound(values) * 0.5


class BitsAreWrong(Rows):
    name = "bits_are_wrong"
    bits_per_weight = 4.5


class DequantizesOtherwise(Rows):
    name = "dequantizes_otherwise"

    def dequantize(self, planes: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
        return super().dequantize(planes, shape) * (1 + 2.0**-23)


class NotDeterministic(Rows):
    name = "not_deterministic"
    calls = 0

    def pack(self, values: Array) -> Mapping[str, Array]:
        type(self).calls += 1
        planes = dict(super().pack(values))
        if type(self).calls % 2 and planes["codes"].size:
            planes["codes"].flat[0] = -planes["codes"].flat[0] // 2
        return planes


class TrustsFiles(Rows):
    name = "trusts_files"

    class Trusting(JsonFile):
        def read(self, path: Path) -> Mapping[str, Packed]:
            return {name: self._packed(e) for name, e in json.loads(path.read_text("utf-8"))["rows"].items()}

    files = (Trusting(),)


class ChecksNothing(Rows):
    name = "checks_nothing"

    def check_planes(self, planes: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        pass


class StoresValues(Rows):
    name = "stores_values"

    def dequantize(self, planes: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
        return super().dequantize(planes, shape).contiguous()


class ShiftsScales(Rows):
    name = "shifts_scales"

    def dequantize(self, planes: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
        return super().dequantize({**planes, "scale": planes["scale"].roll(1, 0)}, shape)


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Rows, BoundIsTooSmall, BitsAreWrong, DequantizesOtherwise, NotDeterministic, TrustsFiles,
        ChecksNothing, StoresValues, ShiftsScales,
    )
}  # fmt: skip


# ---- encoders ----


class Nearest(Encoder):
    """Right."""

    name = "right_encoder"

    def supports(self, scheme: QuantScheme) -> bool:
        return scheme.name == "right_rows"

    def encode(
        self, scheme: QuantScheme, values: Array, importance: Array | None = None
    ) -> Mapping[str, Array]:
        if not self.supports(scheme):
            raise ArgumentError(f"{self.name}: expected right_rows, got {scheme.name}")
        return scheme.pack(values)


class Careless(Nearest):
    name = "careless"

    def encode(
        self, scheme: QuantScheme, values: Array, importance: Array | None = None
    ) -> Mapping[str, Array]:
        return scheme.pack(scheme.check_values(values) * 1.05)


class Moody(Nearest):
    name = "moody"
    calls = 0

    def encode(
        self, scheme: QuantScheme, values: Array, importance: Array | None = None
    ) -> Mapping[str, Array]:
        type(self).calls += 1
        return scheme.pack(values if type(self).calls % 2 else -(-scheme.check_values(values) * 0.999))


class Believing(Nearest):
    name = "believing"

    def encode(
        self, scheme: QuantScheme, values: Array, importance: Array | None = None
    ) -> Mapping[str, Array]:
        return scheme.pack(np.nan_to_num(values))


ENCODERS = {each.name: each for each in (Nearest, Careless, Moody, Believing)}


# ---- importers ----


class Scaled:
    """A model that multiplies its input by a number."""

    inputs = (TensorSpec("x", DTYPES["float32"], ("n", 3)),)
    outputs = (TensorSpec("y", DTYPES["float32"], ("n", 3)),)

    def __init__(self, factor: float, checks: bool = True) -> None:
        self.factor, self.checks = factor, checks

    def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Tensor]:
        if self.checks:
            check_inputs(self.inputs, inputs)
        return {"y": Tensor(inputs["x"], device="reference") * self.factor}


class RightImporter:
    name, extensions = "right_importer", (".scale",)

    def load(self, path: Path, device: str | None = None) -> Scaled:
        text = path.read_bytes()
        try:
            word, number, end = text.decode("ascii").split(" ")
            if (word, end) != ("scale", "end\n"):
                raise ValueError("expected `scale NUMBER end`")
            return Scaled(float(number))
        except ValueError as error:
            raise FileFormatError(f"{path}: {error}") from error


class CrashesOnGarbage(RightImporter):
    name = "crashes_on_garbage"

    def load(self, path: Path, device: str | None = None) -> Scaled:
        return Scaled(float(path.read_bytes().decode("ascii").split(" ")[1]))


class TakesAnything(RightImporter):
    name = "takes_anything"

    def load(self, path: Path, device: str | None = None) -> Scaled:
        return Scaled(super().load(path).factor, checks=False)


class LiesAboutShapes(RightImporter):
    name = "lies_about_shapes"

    def load(self, path: Path, device: str | None = None) -> Scaled:
        model = super().load(path)
        model.outputs = (TensorSpec("y", DTYPES["float32"], (7, 3)),)
        return model


IMPORTERS = {each.name: each for each in (RightImporter, CrashesOnGarbage, TakesAnything, LiesAboutShapes)}


@hookimpl
def petaflop_quant_scheme(name: str) -> QuantScheme | None:
    return SCHEMES[name]() if name in SCHEMES else None


@hookimpl
def petaflop_encoder(name: str) -> Encoder | None:
    return ENCODERS[name]() if name in ENCODERS else None


@hookimpl
def petaflop_importer(name: str) -> Any:
    return IMPORTERS[name]() if name in IMPORTERS else None
