"""GGUF files: tensors of any mixture of types, read by our own parser and written by the `gguf` library.

Reading maps the file; what a caller keeps of it are copies, so that the file may change or go.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from petaflop.plugin_api import FileFormatError, Packed, QuantScheme, SchemeFile
from petaflop.replacing import replacing
from petaflop_quant.files.gguf_header import ARRAY, STRING, TYPES, Entry, Header, MetadataValue, parse

__all__ = ["GGUF", "PLAIN", "opened", "text_value", "write"]

Array: TypeAlias = np.ndarray[Any, Any]

PLAIN: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8"), "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip
_NUMBERS = {dtype: number for number, kind in TYPES.items() if (dtype := PLAIN.get(kind.name)) is not None}


class Opened:
    """A mapped file: its header, and the bytes of each tensor."""

    def __init__(self, path: Path, memory: mmap.mmap, header: Header) -> None:
        self.path, self.header, self._memory = path, header, memory

    def bytes_of(self, entry: Entry) -> Array:
        """The bytes, as a view of the mapping; valid while it is open."""
        return np.frombuffer(self._memory, np.uint8, entry.nbytes, entry.start)

    def release(self, entry: Entry) -> None:
        """Give back the pages of a tensor that has been read."""
        first = entry.start // mmap.PAGESIZE * mmap.PAGESIZE
        if entry.nbytes and hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED, first, entry.start + entry.nbytes - first)

    def values(self, entry: Entry) -> Array:
        """A tensor that is not quantized, copied."""
        return self.bytes_of(entry).view(PLAIN[TYPES[entry.type].name]).reshape(entry.shape).copy()

    def planes(self, entry: Entry, scheme: Any) -> dict[str, Array]:
        """The planes of a quantized tensor, copied; FileFormatError for a scale that is no number."""
        views = scheme.from_blocks(self.bytes_of(entry), entry.shape)
        planes = {name: np.ascontiguousarray(plane) for name, plane in views.items()}
        check_scales(self.path, entry.name, planes)
        return planes


def check_scales(path: Path, name: str, planes: Mapping[str, Array]) -> None:
    """Refuse scales that are NaN or infinite: one of them makes a whole block of values so."""
    for key, plane in planes.items():
        bad = (
            not np.isfinite(plane).all() if plane.dtype.kind in "fV" else key == "e" and (plane == 255).any()
        )
        if bad:
            raise FileFormatError(
                f"{path}: tensor {name!r}: {key}: expected finite scales, got NaN or infinity"
            )


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """A file whose header has been checked."""
    if not path.is_file():
        raise FileFormatError(f"{path}: expected a GGUF file, got {'a folder' if path.is_dir() else 'none'}")
    with open(path, "rb") as file:
        size = path.stat().st_size
        if size == 0:
            raise FileFormatError(f"{path}: expected a GGUF file, got an empty one")
        memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    view = memoryview(memory)
    try:
        header = parse(view, path)
    finally:
        view.release()
    yield Opened(path, memory, header)


def text_value(text: str) -> MetadataValue:
    """A text beside the tensors."""
    return MetadataValue(STRING, text)


def write(
    path: Path,
    tensors: Mapping[str, tuple[QuantScheme | None, Any]],
    metadata: Mapping[str, MetadataValue] | None = None,
) -> None:
    """Write tensors by name, each a format and its Packed planes, or None and an array; all of it or nothing.

    Tensors whose format is not one of GGUF's are an error before anything is written.
    """
    from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

    prepared = {name: _prepared(name, scheme, value) for name, (scheme, value) in tensors.items()}
    values = dict(metadata or {})
    architecture = values.pop("general.architecture", text_value("petaflop")).value
    alignment = values.pop("general.alignment", None)
    with replacing(path) as partial:
        writer = GGUFWriter(partial, architecture)
        try:
            if alignment is not None:
                writer.add_custom_alignment(alignment.value)
            for key, each in values.items():
                item = GGUFValueType(each.item_kind) if each.item_kind is not None else None
                value = each.value.tolist() if isinstance(each.value, np.ndarray) else each.value
                if each.kind != ARRAY or len(value):
                    writer.add_key_value(key, _encoded(value), GGUFValueType(each.kind), item)
            for name, (number, data) in prepared.items():
                writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType(number))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def _encoded(value: Any) -> Any:
    """Texts as the bytes that were read."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return [_encoded(item) for item in value] if isinstance(value, list) else value


def _prepared(name: str, scheme: QuantScheme | None, value: Any) -> tuple[int, Array]:
    """The type's number, and rows of bytes, or an array."""
    if scheme is None:
        array = np.ascontiguousarray(value)
        if array.dtype not in _NUMBERS:
            raise FileFormatError(
                f"{name}: expected a dtype of {[str(d) for d in _NUMBERS]}, got {array.dtype}"
            )
        number = _NUMBERS[array.dtype]
        if array.dtype == PLAIN["BF16"]:
            array = array.view(np.uint8)
        return number, array
    number = getattr(scheme, "gguf_type", -1)
    if number not in TYPES:
        raise FileFormatError(f"{name}: expected a format that GGUF has, got {scheme.name}")
    planes, _ = value
    return number, scheme.to_blocks(planes)  # type: ignore[attr-defined]


class GGUF(SchemeFile):
    """`.gguf` files in which every tensor has one format."""

    extension = ".gguf"
    library = "gguf"

    def __init__(self, scheme: QuantScheme) -> None:
        self.scheme = scheme

    def write(self, path: Path, tensors: Mapping[str, Packed]) -> None:
        """All of them in one format."""
        write(path, {name: (self.scheme, packed) for name, packed in tensors.items()})

    def read(self, path: Path) -> Mapping[str, Packed]:
        """Planes as copies; FileFormatError for a tensor of another type."""
        with opened(path) as file:
            for entry in file.header.entries:
                if entry.type != self.scheme.gguf_type:  # type: ignore[attr-defined]
                    found = TYPES[entry.type].name
                    raise FileFormatError(
                        f"{path}: {entry.name}: expected {self.scheme.name.upper()}, got {found}"
                    )
            return {e.name: Packed(file.planes(e, self.scheme), e.shape) for e in file.header.entries}

    def read_with_library(self, path: Path) -> Mapping[str, Array]:
        """What the dequantization of `gguf` gives."""
        from gguf import GGUFReader
        from gguf.quants import dequantize

        return {each.name: dequantize(each.data, each.tensor_type) for each in GGUFReader(path).tensors}
