"""Tensors of Q8_0 in a GGUF file; imports the `gguf` library when a file is read or written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from petaflop.plugin_api import FileFormatError, Packed, SchemeFile

Array = np.ndarray[Any, Any]


class GGUF(SchemeFile):
    """`.gguf` files in which every tensor is Q8_0."""

    extension = ".gguf"
    library = "gguf"

    def write(self, path: Path, tensors: Mapping[str, Packed]) -> None:
        """The scale of a block stands before its codes: 34 bytes."""
        from gguf import GGMLQuantizationType, GGUFWriter

        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            writer = GGUFWriter(draft, "petaflop")
            for name, (planes, _) in tensors.items():
                parts = [np.ascontiguousarray(planes[key]).view(np.uint8) for key in ("scale", "codes")]
                blocks = np.concatenate(parts, -1)
                rows = blocks.reshape(*blocks.shape[:-2], -1)
                writer.add_tensor(name, rows, raw_dtype=GGMLQuantizationType.Q8_0)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def read(self, path: Path) -> Mapping[str, Packed]:
        """Planes as views of the mapped file."""
        return {each.name: _packed(each) for each in _tensors(path)}

    def read_with_library(self, path: Path) -> Mapping[str, Array]:
        """What gguf's own dequantization gives."""
        from gguf.quants import dequantize

        return {each.name: dequantize(each.data, each.tensor_type) for each in _tensors(path)}


def _packed(tensor: Any) -> Packed:
    shape = tuple(int(size) for size in reversed(tensor.shape))
    blocks = tensor.data.reshape(*shape[:-1], shape[-1] // 32, 34)
    return Packed({"scale": blocks[..., :2].view(np.float16), "codes": blocks[..., 2:].view(np.int8)}, shape)


def _tensors(path: Path) -> list[Any]:
    from gguf import GGMLQuantizationType, GGUFReader

    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:  # its words for bad files
        raise FileFormatError(f"{path}: expected GGUF, got what its library cannot read: {error}") from error
    end = max([int(each.data_offset + each.n_bytes) for each in reader.tensors], default=0)
    padded = -(-end // reader.alignment) * reader.alignment  # the last tensor is padded as well
    if path.stat().st_size < padded:
        raise FileFormatError(f"{path}: expected at least {padded} bytes, got {path.stat().st_size}")
    for tensor in reader.tensors:
        if tensor.tensor_type != GGMLQuantizationType.Q8_0:
            raise FileFormatError(f"{path}: {tensor.name}: expected Q8_0, got {tensor.tensor_type.name}")
    return list(reader.tensors)
