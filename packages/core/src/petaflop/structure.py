"""Arguments and results as flat lists: nested lists, tuples and dicts of tensors and hashable values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from petaflop.errors import JitError
from petaflop.tensor import Tensor

__all__ = ["flatten", "unflatten"]


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a tensor stood in a nested structure."""

    position: int


@dataclass(frozen=True, slots=True)
class _Float:
    """A float by its bits, so that 0.0 is not -0.0 and NaN is NaN."""

    text: str
    value: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Float) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def flatten(value: Any, tensors: list[Tensor], where: str, objects: list[Any] | None = None) -> Any:
    """The structure with every Tensor replaced by its place in `tensors`, one that comes twice by one place.

    What comes out is hashable. Values that are not plain are added to `objects`.
    """
    places = {id(tensor): number for number, tensor in enumerate(tensors)}
    return _flatten(value, tensors, places, where, [] if objects is None else objects)


def _flatten(
    value: Any, tensors: list[Tensor], places: dict[int, int], where: str, objects: list[Any]
) -> Any:
    if isinstance(value, Tensor):
        place = places.setdefault(id(value), len(tensors))
        if place == len(tensors):
            tensors.append(value)
        return _Slot(place)
    if isinstance(value, (list, tuple)):
        parts = tuple([_flatten(item, tensors, places, where, objects) for item in value])
        return (type(value), parts)
    if isinstance(value, dict):
        items = [(key, _flatten(item, tensors, places, where, objects)) for key, item in value.items()]
        return (dict, tuple(items))
    if isinstance(value, float):
        return (float, _Float(value.hex(), value))
    try:
        hash(value)
    except TypeError:
        raise JitError(
            f"jit: expected {where} of tensors and hashable values, "
            f"got {type(value).__name__}; wrap it in a Tensor"
        ) from None
    if not isinstance(value, (bool, int, str, type(None))):
        objects.append(value)
    return (type(value), value)


def unflatten(structure: Any, tensors: Sequence[Tensor]) -> Any:
    """The structure again, around other tensors."""
    if isinstance(structure, _Slot):
        return tensors[structure.position]
    kind, value = structure
    if kind is dict:
        return {key: unflatten(item, tensors) for key, item in value}
    if isinstance(kind, type) and issubclass(kind, (list, tuple)):
        parts = [unflatten(item, tensors) for item in value]
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)
    return value.value if isinstance(value, _Float) else value
