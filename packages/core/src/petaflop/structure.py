"""Arguments and results as flat lists: nested lists, tuples and dicts of tensors and hashable values."""

from __future__ import annotations

import functools
import sys
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from petaflop.errors import JitError
from petaflop.tensor import Tensor

__all__ = ["flatten", "flatten_call", "unflatten"]

_PLAIN = (int, bool, str, type(None))
_TRUSTED = frozenset((*sys.stdlib_module_names, "builtins", "petaflop"))  # their objects equal by value


class _Slot(int):
    """Where a tensor stood in a nested structure: its place in the list of tensors."""


@dataclass(frozen=True, slots=True)
class _Value:
    """A value with what tells it from others: the bits of a float, the parts of a frozen dataclass, an id."""

    marks: Any
    value: Any = field(compare=False)


def flatten(value: Any, tensors: list[Tensor], where: str, objects: list[Any] | None = None) -> Any:
    """The structure with every Tensor replaced by its place in `tensors`, one that comes twice by one place.

    What comes out is hashable; objects are told apart by identity, or by their parts where nothing can change
    those. Objects are added to `objects`, and without that list must be hashable themselves.
    """
    return _Flattening(tensors, where, objects).of(value)


def flatten_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], objects: list[Any]
) -> Any:
    """`flatten` of (args, kwargs), soon done where they are different tensors and nothing else."""
    if not kwargs and set(map(type, args)) <= _TENSORS and len(set(map(id, args))) == len(args):
        tensors += args
        return _call_of(len(args))
    return flatten((args, kwargs), tensors, "arguments", objects)


_TENSORS = {Tensor}


@functools.cache
def _call_of(count: int) -> Any:
    return (tuple, ((tuple, tuple(map(_Slot, range(count)))), (dict, ())))


class _Flattening:
    def __init__(self, tensors: list[Tensor], where: str, objects: list[Any] | None) -> None:
        self.tensors, self.where, self.objects = tensors, where, objects
        self.places = {id(tensor): number for number, tensor in enumerate(tensors)}

    def of(self, value: Any) -> Any:
        """A value that may hold tensors."""
        if isinstance(value, Tensor):
            place = self.places.setdefault(id(value), len(self.tensors))
            if place == len(self.tensors):
                self.tensors.append(value)
            return _Slot(place)
        kind = type(value)
        if kind in _PLAIN:
            return (kind, value)
        if isinstance(value, (list, tuple)):
            return (kind, tuple([self.of(item) for item in value]))
        if isinstance(value, dict):
            return (dict, tuple([(key, self.of(item)) for key, item in value.items()]))
        return (kind, _Value(self._marks(value), value))

    def _marks(self, value: Any) -> Any:
        """What tells an object from others."""
        if isinstance(value, float):
            return value.hex()
        if isinstance(value, (complex, np.generic)):
            return repr(value)
        if isinstance(value, Iterator):
            raise JitError(
                f"jit: expected {self.where} of tensors and values, "
                f"got a {type(value).__name__}, which ends; make it a list"
            )
        if self.objects is None:
            if not isinstance(value, Hashable):
                self._refuse(value)
            return id(value)
        if hasattr(value, "__array__") or hasattr(value, "__dlpack__"):
            self._refuse(value)
        self.objects.append(value)
        if isinstance(value, frozenset):
            return frozenset([self._part(item) for item in value])
        owner = next(base for base in type(value).__mro__ if "__eq__" in vars(base))
        if owner is object or not isinstance(value, Hashable):
            return id(value)
        if owner.__module__.partition(".")[0].partition("_")[0] in _TRUSTED:
            return value
        equal = vars(owner)["__eq__"]
        if getattr(getattr(equal, "__code__", None), "co_filename", "") == "<string>" and is_dataclass(value):
            return tuple([self._part(getattr(value, part.name)) for part in fields(value)])
        return id(value)

    def _part(self, value: Any) -> Any:
        """What tells a part of an object from others."""
        if isinstance(value, (*_PLAIN, Tensor)):
            return (type(value), id(value) if isinstance(value, Tensor) else value)
        if isinstance(value, (list, tuple)):
            return (type(value), tuple([self._part(item) for item in value]))
        return (type(value), self._marks(value))

    def _refuse(self, value: Any) -> None:
        raise JitError(
            f"jit: expected {self.where} of tensors and hashable values, got {type(value).__name__}; "
            "wrap it in a Tensor"
        )


def unflatten(structure: Any, tensors: Sequence[Tensor]) -> Any:
    """The structure again, around other tensors."""
    if isinstance(structure, _Slot):
        return tensors[structure]
    kind, value = structure
    if kind is dict:
        return {key: unflatten(item, tensors) for key, item in value}
    if isinstance(kind, type) and issubclass(kind, (list, tuple)):
        parts = [unflatten(item, tensors) for item in value]
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)
    return value.value if isinstance(value, _Value) else value
