"""What an importer of model files hands over, and the check of a caller's arrays against a model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from petaflop.dtype import DType, to_dtype
from petaflop.errors import ArgumentError

__all__ = ["ExplainedModel", "ImportedModel", "Importer", "TensorSpec", "check_inputs"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model: a string in `shape` is a size that may vary, one size per name.

    A size of None is unknown; a shape of None has an unknown rank.
    """

    name: str
    dtype: DType
    shape: tuple[int | str | None, ...] | None
    optional: bool = False

    def __str__(self) -> str:
        sizes = ["?" if size is None else str(size) for size in self.shape or ()]
        return f"{self.name}: {self.dtype}[{'…' if self.shape is None else ', '.join(sizes)}]"


class ImportedModel(Protocol):
    """A model that an importer made of a file: takes arrays by input name, gives Tensors by output name."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]

    def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]: ...


@runtime_checkable
class ExplainedModel(ImportedModel, Protocol):
    """A model that can tell what became of each node of its file: (name, operator, what)."""

    def explain(self) -> Sequence[tuple[str, str, str]]: ...


@runtime_checkable
class Importer(Protocol):
    """Reads model files with one of `extensions` (".onnx"); `load` raises FileFormatError for others."""

    name: str
    extensions: tuple[str, ...]

    def load(self, path: Path, device: str | None = None) -> ImportedModel: ...


def check_inputs(specs: Sequence[TensorSpec], arrays: Mapping[str, Any], source: str = "model") -> None:
    """Raise ArgumentError unless the arrays have the names, dtypes and shapes that `specs` ask for.

    >>> check_inputs([TensorSpec("x", float32, ("batch", 2))], {"x": np.zeros((5, 2), np.float32)})
    """
    known = {spec.name: spec for spec in specs}
    if unknown := sorted(set(arrays) - set(known)):
        raise ArgumentError(f"{source}: expected inputs {_names(known)}, got {_names(unknown)}")
    missing = [spec.name for spec in specs if spec.name not in arrays and not spec.optional]
    if missing:
        raise ArgumentError(f"{source}: expected inputs {_names(known)}, got none for {_names(missing)}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in arrays.items():
        _check_one(known[name], array, sizes, source)


def _check_one(spec: TensorSpec, array: Any, sizes: dict[str, tuple[int, str]], source: str) -> None:
    dtype, shape = to_dtype(array.dtype), tuple(array.shape)
    got = f"{dtype}[{', '.join(map(str, shape))}]"
    wanted_shape = shape if spec.shape is None else spec.shape
    if dtype is not spec.dtype or len(shape) != len(wanted_shape):
        raise ArgumentError(f"{source}: input {spec.name}: expected {spec}, got {got}")
    for expected, size in zip(wanted_shape, shape, strict=True):
        if isinstance(expected, int) and expected != size:
            raise ArgumentError(f"{source}: input {spec.name}: expected {spec}, got {got}")
        if isinstance(expected, str):
            before, where = sizes.setdefault(expected, (size, spec.name))
            if before != size:
                wanted = f"{expected} = {before} as in {where}"
                raise ArgumentError(f"{source}: input {spec.name}: expected {wanted}, got {got}")


def _names(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
