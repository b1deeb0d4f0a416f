"""safetensors files: our own formats by their planes, and those that GPTQ, AWQ, compressed-tensors and
bitsandbytes write, found by the names of their tensors.

Planes are the mapped file itself wherever the device works on host memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from petaflop import Tensor
from petaflop.errors import FileFormatError, PetaflopError
from petaflop.plugin_api import Packed, QuantScheme, SchemeFile
from petaflop.state import load_metadata, safe_load, safe_save
from petaflop_quant.choosing import format_named
from petaflop_quant.tensor import QuantTensor

__all__ = ["KEY", "Planes", "read", "write"]

Array: TypeAlias = np.ndarray[Any, Any]
Tensors: TypeAlias = dict[str, Tensor]
KEY = "petaflop.quant.tensors"  # of the metadata: JSON of what stands for which planes
_BETWEEN = ":"
_MOST_TEXT = 1 << 16


def write(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Planes as tensors `name:plane`, with a note of formats, versions, parameters and shapes."""
    state: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    for name, each in tensors.items():
        if not isinstance(each, QuantTensor):
            state[name] = each
            continue
        notes[name] = {
            "format": each.scheme.name,
            "version": each.scheme.version,
            "parameters": dict(each.scheme.parameters),
            "shape": list(each.shape),
            "factors": each.factors is not None,
        }
        planes = dict(each.planes)
        if each.factors is not None:
            planes["factors"] = each.factors
        state |= {f"{name}{_BETWEEN}{key}": plane for key, plane in planes.items()}
    safe_save(state, path, {**metadata, KEY: json.dumps(notes)})


def read(path: Path, device: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors by name, and the metadata; FileFormatError for planes that do not fit their note."""
    state, metadata = safe_load(path, device), load_metadata(path)
    found: dict[str, Any] = {}
    try:
        for name, note in _notes(metadata).items():
            found[name] = _noted(state, name, note)
        for kind in _KINDS:
            found |= kind(state)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error
    except (PetaflopError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise FileFormatError(f"{path}: expected planes of a quantized tensor, got: {text}") from error
    return {**found, **state}, {key: value for key, value in metadata.items() if key != KEY}


def _notes(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        notes = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{KEY}: expected JSON, got {error}") from error
    if not isinstance(notes, dict):
        raise FileFormatError(f"{KEY}: expected an object of JSON, got {type(notes).__name__}")
    return notes


def _noted(state: Tensors, name: str, note: Any) -> QuantTensor:
    scheme = format_named(str(note["format"]))
    if note["version"] != scheme.version:
        raise FileFormatError(
            f"{name!r}: expected version {scheme.version} of {scheme.name}, got {note['version']!r}"
        )
    if note["parameters"]:
        scheme = scheme.with_parameters(**note["parameters"])
    shape = tuple(note["shape"])
    if not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
        raise FileFormatError(f"{name!r}: expected sizes in its shape, got {note['shape']!r}")
    planes = {key: _taken(state, f"{name}{_BETWEEN}{key}") for key in scheme.planes(shape)}
    factors = _taken(state, f"{name}{_BETWEEN}factors") if note.get("factors") else None
    return _checked(name, QuantTensor(scheme, planes, shape, factors))


def _taken(state: Tensors, name: str) -> Tensor:
    """A tensor, that is then part of another."""
    if name not in state:
        raise FileFormatError(f"expected a tensor {name!r}, got none")
    return state.pop(name)


def _checked(name: str, tensor: QuantTensor) -> QuantTensor:
    """Refuse scales that are NaN or infinite."""
    for key, plane in tensor.planes.items():
        codes = tensor.scheme.name == "fp8_e4m3" and key == "codes"
        if plane.dtype.is_float and not codes and not np.isfinite(_wide(plane)).all():
            raise FileFormatError(f"{name!r}: {key}: expected finite scales, got NaN or infinity")
    return tensor


def _wide(plane: Tensor) -> Array:
    """As numbers that NumPy can look at."""
    array = plane.numpy()
    return array.astype(np.float32) if array.dtype.kind == "V" else array


class Planes(SchemeFile):
    """`.safetensors` files in which every tensor has one format, plane by plane."""

    extension = ".safetensors"

    def __init__(self, scheme: QuantScheme) -> None:
        self.scheme = scheme

    def write(self, path: Path, tensors: Mapping[str, Packed]) -> None:
        """All of them in one format."""
        write(path, {name: QuantTensor(self.scheme, *packed) for name, packed in tensors.items()}, {})

    def read(self, path: Path) -> Mapping[str, Packed]:
        """Planes as views of the mapped file; FileFormatError for tensors that are not of the format."""
        found: dict[str, Packed] = {}
        for name, tensor in read(path, "reference")[0].items():
            if not isinstance(tensor, QuantTensor) or tensor.scheme.name != self.scheme.name:
                raise FileFormatError(
                    f"{path}: {name!r}: expected a tensor of {self.scheme.name}, got another"
                )
            planes = {key: plane.numpy() for key, plane in tensor.planes.items()}
            found[name] = Packed(planes, tensor.shape)
        return found


# ---- what others write ----


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    """The shape, in numbers."""
    return tuple(int(size) for size in tensor.shape)


def _stems(state: Tensors, ending: str) -> list[str]:
    return [name.removesuffix(ending) for name in state if name.endswith(ending)]


def _named(stem: str, name: str = "weight") -> str:
    return f"{stem}.{name}" if stem else name


def _gptq_or_awq(state: Tensors) -> dict[str, Any]:
    """`qweight`, `qzeros`, `scales`, `g_idx`: GPTQ packs inputs, AWQ outputs."""
    found = {}
    for stem in _stems(state, ".qweight"):
        words, zeros, scales = (state[f"{stem}.{key}"] for key in ("qweight", "qzeros", "scales"))
        (rows, columns), (groups, outputs) = _sizes(words), _sizes(scales)
        bits = _exact(32 * _sizes(zeros)[1], outputs, f"{stem}.qzeros")
        packs_inputs = columns == outputs
        inputs = rows * 32 // bits if packs_inputs else rows
        scheme: QuantScheme = format_named("gptq" if packs_inputs else "awq")
        scheme = scheme.with_parameters(bits=bits, group=_exact(inputs, groups, f"{stem}.scales"))
        index = state.pop(f"{stem}.g_idx", None)
        if index is not None and packs_inputs:
            order = index.numpy()
            if not np.array_equal(order, np.arange(inputs) // (inputs // groups)):
                if order.size and not 0 <= order.min() <= order.max() < groups:
                    raise FileFormatError(f"{stem}.g_idx: expected groups below {groups}, got others")
                scheme = scheme.with_parameters(act_order=True)
        planes = {key: _taken(state, f"{stem}.{key}") for key in ("qweight", "qzeros", "scales")}
        planes["scales"] = planes["scales"].cast("float16").realize()
        if "g_idx" in scheme.planes((outputs, inputs)):
            assert index is not None
            planes["g_idx"] = index.cast("int32").realize()
        name = _named(stem)
        found[name] = _checked(name, QuantTensor(scheme, planes, (outputs, inputs)))
    return found


def _exact(total: int, parts: int, what: str) -> int:
    if not parts or total % parts or total < parts:
        raise FileFormatError(f"{what}: expected a divisor of {total}, got {parts}")
    return total // parts


def _compressed(state: Tensors) -> dict[str, Any]:
    """`weight_packed` with `weight_scale`: integers in words, or NVFP4 in bytes."""
    found = {}
    for stem in _stems(state, ".weight_packed"):
        words, scale = _sizes(state[f"{stem}.weight_packed"]), state[f"{stem}.weight_scale"]
        if f"{stem}.weight_g_idx" in state:
            raise FileFormatError(f"{stem}.weight_g_idx: expected groups in order, got an order of its own")
        keys = ["weight_packed", "weight_scale"]
        if f"{stem}.weight_global_scale" in state:
            scheme: QuantScheme = format_named("nvfp4_packed")
            shape = (words[0], words[1] * 2)
            keys.append("weight_global_scale")
        else:
            given = state.pop(f"{stem}.weight_shape", None)
            if given is None:
                raise FileFormatError(f"expected a tensor {stem + '.weight_shape'!r}, got none")
            outputs, inputs = (int(size) for size in given.numpy())
            symmetric = f"{stem}.weight_zero_point" not in state
            keys += [] if symmetric else ["weight_zero_point"]
            bits = _exact(32 * words[1], inputs, f"{stem}.weight_packed")
            group = _exact(inputs, _sizes(scale)[1], f"{stem}.weight_scale")
            scheme = format_named("packed_int").with_parameters(
                bits=bits, group=group, symmetric=symmetric, scale=scale.dtype.name
            )
            shape = (outputs, inputs)
        planes = {key: _taken(state, f"{stem}.{key}") for key in keys}
        name = _named(stem)
        found[name] = _checked(name, QuantTensor(scheme, planes, shape))
    return found


def _scaled_rows(state: Tensors) -> dict[str, Any]:
    """int8 or float8_e4m3 `weight` with a `weight_scale` for each row, or for all of them."""
    found = {}
    for stem in _stems(state, ".weight_scale"):
        codes = state.get(f"{stem}.weight")
        kind = {"int8": "int8_row", "float8_e4m3": "fp8_e4m3"}.get(
            codes.dtype.name if codes is not None else ""
        )
        if codes is None or kind is None or codes.ndim != 2:
            continue
        shape = _sizes(codes)
        scale = _taken(state, f"{stem}.weight_scale").numpy().astype(np.float32).reshape(-1, 1)
        if len(scale) not in (1, shape[0]):
            wanted = f"1 or {shape[0]} scales"
            raise FileFormatError(f"{stem}.weight_scale: expected {wanted}, got {len(scale)}")
        rows = np.ascontiguousarray(np.broadcast_to(scale, (shape[0], 1)))
        planes = {"scale": Tensor.from_numpy(rows, codes.device), "codes": _taken(state, f"{stem}.weight")}
        name = _named(stem)
        found[name] = _checked(name, QuantTensor(format_named(kind), planes, shape))
    return found


def _nf4(state: Tensors) -> dict[str, Any]:
    """bitsandbytes: `weight`, `weight.absmax`, `weight.quant_map` and a state of JSON in bytes."""
    found = {}
    ending = ".quant_state.bitsandbytes__nf4"
    for name in _stems(state, ending):
        text = _taken(state, name + ending).numpy().tobytes()
        if len(text) > _MOST_TEXT:
            raise FileFormatError(f"{name}: expected a short quant_state, got {len(text)} bytes")
        facts = json.loads(text)
        shape = tuple(int(size) for size in facts["shape"])
        nested = f"{name}.nested_absmax" in state
        scheme = format_named("nf4").with_parameters(block=int(facts["blocksize"]), double=nested)
        _taken(state, f"{name}.quant_map")
        wanted = scheme.planes(shape)
        planes = {"codes": _taken(state, name), "absmax": _taken(state, f"{name}.absmax")}
        planes = {key: plane.reshape(*wanted[key].shape) for key, plane in planes.items()}
        if nested:
            offset = np.array([facts["nested_offset"]], np.float32)
            planes |= {
                "nested_absmax": _taken(state, f"{name}.nested_absmax"),
                "nested_map": _taken(state, f"{name}.nested_quant_map"),
                "nested_offset": Tensor.from_numpy(offset, planes["codes"].device),
            }
        found[name] = _checked(name, QuantTensor(scheme, planes, shape))
    return found


_KINDS: tuple[Callable[[Tensors], dict[str, Any]], ...] = (_gptq_or_awq, _compressed, _scaled_rows, _nf4)
