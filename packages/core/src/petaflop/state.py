"""State dicts to and from safetensors files, and in and out of modules.

Files are hostile until proven otherwise: the safetensors library checks the header before anything is read,
the bytes are mapped (not copied) where the device can use them, and a file appears complete or not at all.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from petaflop.dtype import (
    DType,
    bfloat16,
    bool_,
    float8_e4m3,
    float8_e5m2,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from petaflop.errors import ArgumentTypeError, FileFormatError
from petaflop.nn.module import Module, check_state, copy_into
from petaflop.replacing import replaceable, replacing
from petaflop.tensor import Tensor

__all__ = ["get_parameters", "get_state_dict", "load_metadata", "load_state_dict", "safe_load", "safe_save"]

_DTYPES: dict[str, DType] = {
    "BOOL": bool_,
    "U8": uint8,
    "I8": int8,
    "U16": uint16,
    "I16": int16,
    "U32": uint32,
    "I32": int32,
    "U64": uint64,
    "I64": int64,
    "F16": float16,
    "BF16": bfloat16,
    "F32": float32,
    "F64": float64,
    "F8_E4M3": float8_e4m3,
    "F8_E5M2": float8_e5m2,
}


def safe_save(
    state: Mapping[str, Any], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors (or arrays) by name; the file is replaced only once it is complete.

    ArgumentTypeError for what is not a tensor; ArgumentError for a path that is a folder, device or pipe (a
    link means the file that it names); OSError if the disk is full, and then nothing is left behind.

    >>> safe_save({"weight": Tensor.ones(2, 3)}, "/tmp/petaflop-example.safetensors")
    >>> safe_load("/tmp/petaflop-example.safetensors")["weight"].shape
    (2, 3)
    """
    replaceable(path)  # said before anything is computed
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if tensors:
        Tensor.realize(*tensors.values())
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, (Tensor, np.ndarray)):
            raise ArgumentTypeError(
                f"safe_save: expected names with Tensors, got {name!r}: {type(value).__name__}"
            )
        arrays[name] = np.ascontiguousarray(value.numpy() if isinstance(value, Tensor) else value)
        arrays[name] = arrays[name].reshape(tuple(value.shape))
    try:
        with replacing(path) as partial:
            save_file(arrays, partial, metadata=dict(metadata) if metadata else None)
    except SafetensorError as error:
        raise OSError(f"{path}: expected to write {len(arrays)} tensors, got {error}") from error


def safe_load(path: str | os.PathLike[str], device: str | None = None) -> dict[str, Tensor]:
    """All tensors of a safetensors file, by name, in the file's order.

    Their memory is the mapped file where the device works on host memory (pages are read when touched, and
    writes stay private); elsewhere it is copied. FileFormatError for a file that is not what it claims.
    """
    header, start = _header(Path(path))
    arrays = _mapped(Path(path), header, start)
    return {name: Tensor.from_numpy(array, device) for name, array in arrays}


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts that were saved with the tensors."""
    return dict(_header(Path(path))[0].get("__metadata__") or {})


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a file that the safetensors library has found to be consistent, and where data start."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device, pipe or socket"
        raise FileFormatError(f"{path}: expected a safetensors file, got {kind}")
    try:
        with safe_open(path, framework="np") as opened:
            names = list(opened.keys())
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise FileFormatError(f"{path}: header: expected a safetensors file, got {reason}") from error
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    for name in names:
        if header[name]["dtype"] not in _DTYPES:
            known = ", ".join(_DTYPES)
            got = header[name]["dtype"]
            raise FileFormatError(f"{path}: {_shown(name)}: expected a dtype of {known}, got {got}")
    return header, size + 8


def _mapped(path: Path, header: dict[str, Any], start: int) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    header.pop("__metadata__", None)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype = _DTYPES[entry["dtype"]]
        first, last = entry["data_offsets"]
        if start + last > size:
            raise FileFormatError(
                f"{path}: {_shown(name)}: expected {start + last} bytes of file, got {size}"
            )
        count = (last - first) // dtype.itemsize
        values = (
            np.frombuffer(memory, dtype.numpy, count, start + first) if count else np.empty(0, dtype.numpy)
        )
        try:
            shaped = values.reshape(entry["shape"])
        except ValueError as error:  # too many axes, or a size that cannot be counted beside one of 0
            raise FileFormatError(f"{path}: {_shown(name)}: shape: {error}") from error
        yield name, shaped


def _shown(name: str) -> str:
    """A name from a file, short and on one line."""
    return repr(name if len(name) <= 80 else f"{name[:80]}…")


# ---- of objects ----


def get_state_dict(model: Any, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a module, or of any object made of attributes, lists and dicts, by dotted name.

    >>> get_state_dict({"layers": [Tensor.ones(2)]}).keys()
    dict_keys(['layers.0'])
    """
    found: dict[str, Tensor] = {}
    stack: list[tuple[str, Any]] = [(prefix.strip("."), model)]
    seen: set[int] = set()
    while stack:
        name, value = stack.pop()
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, Module):
            found.update(value.state_dict(name))
        elif id(value) not in seen:
            seen.add(id(value))
            stack.extend(
                (f"{name}.{key}" if name else str(key), part) for key, part in reversed(_parts(value))
            )
    return found


def _parts(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    return list(vars(value).items()) if hasattr(value, "__dict__") and not callable(value) else []


def get_parameters(model: Any) -> list[Tensor]:
    """The tensors of a model that require gradients."""
    return [tensor for tensor in get_state_dict(model).values() if tensor.requires_grad]


def load_state_dict(model: Any, state: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
    """Copy values into the tensors of a model; returns the names that were missing and unexpected.

    With `strict` either is an ArgumentError that names them; a wrong shape always is a ShapeError. Nothing is
    written unless everything fits.
    """
    own = get_state_dict(model)
    check_state(type(model).__name__, own, state, strict)
    present = [name for name in own if name in state]
    for name in present:
        copy_into(own[name], state[name])
    if present:
        Tensor.realize(*(own[name] for name in present))
    return [name for name in own if name not in state], [name for name in state if name not in own]
