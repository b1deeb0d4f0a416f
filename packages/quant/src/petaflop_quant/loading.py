"""Files of quantized tensors as dicts of QuantTensors, and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from petaflop import Tensor
from petaflop.errors import FileFormatError
from petaflop.plugin_api import Packed
from petaflop_quant.files import gguf, safetensors
from petaflop_quant.files.gguf_header import MetadataValue
from petaflop_quant.registry import GGUF_FORMATS, own_format
from petaflop_quant.tensor import QuantTensor

__all__ = ["Loaded", "load", "save"]

Array: TypeAlias = np.ndarray[Any, Any]
Path_: TypeAlias = "str | os.PathLike[str]"


class Loaded(dict[str, Any]):
    """Tensors by name, quantized ones as QuantTensors; `metadata` is what the file says besides."""

    def __init__(self, tensors: Mapping[str, Any], metadata: Mapping[str, MetadataValue]) -> None:
        super().__init__(tensors)
        self.metadata = dict(metadata)


def load(path: Path_, device: str | None = None) -> Loaded:
    """All tensors of a `.gguf` or `.safetensors` file: QuantTensors, or Tensors where they are not quantized.

    What stays in memory are the packed planes. FileFormatError, in one line, for a file that is not what it
    claims, and for scales that are NaN or infinite.

    >>> import numpy as np
    >>> save("example.gguf", {"w": quantize(np.eye(32, dtype=np.float32), "q4_0")})
    >>> load("example.gguf")["w"]
    <QuantTensor q4_0[32, 32], 576 bytes>
    """
    source = Path(path)
    reader = _READERS.get(source.suffix.lower())
    if reader is None:
        known = ", ".join(_READERS)
        raise FileFormatError(f"{path}: extension: expected one of {known}, got {source.suffix!r}")
    return reader(source, device)


def _load_gguf(path: Path, device: str | None) -> Loaded:
    found: dict[str, Any] = {}
    with gguf.opened(path) as file:
        for entry in file.header.entries:
            if entry.type in GGUF_FORMATS:
                scheme = own_format(GGUF_FORMATS[entry.type])
                planes = file.planes(entry, scheme)
                tensors = {name: Tensor.from_numpy(plane, device) for name, plane in planes.items()}
                found[entry.name] = QuantTensor(scheme, tensors, entry.shape)
            else:
                found[entry.name] = Tensor.from_numpy(file.values(entry), device)
            file.release(entry)
        return Loaded(found, file.header.metadata)


def _load_safetensors(path: Path, device: str | None) -> Loaded:
    tensors, metadata = safetensors.read(path, device)
    return Loaded(tensors, {key: gguf.text_value(value) for key, value in metadata.items()})


_READERS: dict[str, Callable[[Path, str | None], Loaded]] = {
    ".gguf": _load_gguf,
    ".safetensors": _load_safetensors,
}


def save(
    path: Path_, tensors: Mapping[str, Any], metadata: Mapping[str, MetadataValue | str] | None = None
) -> None:
    """Write QuantTensors, Tensors and arrays to a `.gguf` or `.safetensors` file, all of it or nothing.

    `metadata` are texts, or values of a file that was loaded. FileFormatError for a format or dtype that the
    kind of file has not; safetensors keeps every format, and texts only.
    """
    values = {
        key: value if isinstance(value, MetadataValue) else gguf.text_value(value)
        for key, value in (metadata or {}).items()
    }
    suffix = Path(path).suffix.lower()
    if suffix == ".gguf":
        gguf.write(Path(path), {name: _writable(name, value) for name, value in tensors.items()}, values)
    elif suffix == ".safetensors":
        texts = {key: value.value for key, value in values.items() if isinstance(value.value, str)}
        safetensors.write(Path(path), tensors, texts)
    else:
        known = ", ".join(_READERS)
        raise FileFormatError(f"{path}: extension: expected one of {known}, got {suffix!r}")


def _writable(name: str, value: Any) -> tuple[Any, Any]:
    if isinstance(value, QuantTensor):
        if value.factors is not None:
            raise FileFormatError(
                f"{name}: expected no factors of inputs in GGUF, got some; use .safetensors"
            )
        planes = {key: plane.numpy() for key, plane in value.planes.items()}
        return value.scheme, Packed(planes, value.shape)
    return None, value.numpy() if isinstance(value, Tensor) else value
