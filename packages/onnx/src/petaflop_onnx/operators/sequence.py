"""Sequences and optionals: Python lists of values, which only the host handles; nothing is computed."""

from __future__ import annotations

import numpy as np

from petaflop_onnx.host import normalize_axis
from petaflop_onnx.operators.common import Array
from petaflop_onnx.operators.movement import cut
from petaflop_onnx.table import Call, operator
from petaflop_onnx.values import Value, shape_of_value, to_tensor


def _sequence(value: Value) -> list[Value]:
    if not isinstance(value, list):
        raise ValueError("input_sequence: expected a sequence, got a tensor or nothing")
    return value


def _place(sequence: list[Value], position: Array, last: int) -> int:
    """A place from 0 to `last`; negative ones count from the end of the sequence."""
    count, place = len(sequence), int(position.item())
    if not -count <= place <= last:
        raise ValueError(f"position: expected {-count} to {last}, got {place}")
    return place + count if place < 0 else place


@operator("SequenceEmpty", 11, raw=True, on_host=True)
def _sequence_empty(_: Call) -> list[Value]:
    return []


@operator("SequenceConstruct", 11, raw=True, on_host=True)
def _sequence_construct(_: Call, *items: Value) -> list[Value]:
    return list(items)


@operator("SequenceAt", 11, host=(1,), raw=True, on_host=True)
def _sequence_at(_: Call, value: Value, position: Array) -> Value:
    sequence = _sequence(value)
    return sequence[_place(sequence, position, len(sequence) - 1)]


@operator("SequenceInsert", 11, host=(2,), raw=True, on_host=True)
def _sequence_insert(_: Call, value: Value, item: Value, position: Array | None = None) -> list[Value]:
    sequence = _sequence(value)
    place = len(sequence) if position is None else _place(sequence, position, len(sequence))
    return [*sequence[:place], item, *sequence[place:]]


@operator("SequenceErase", 11, host=(1,), raw=True, on_host=True)
def _sequence_erase(_: Call, value: Value, position: Array | None = None) -> list[Value]:
    sequence = _sequence(value)
    place = _place(sequence, np.asarray(-1) if position is None else position, len(sequence) - 1)
    return [*sequence[:place], *sequence[place + 1 :]]


@operator("SequenceLength", 11, raw=True, on_host=True)
def _sequence_length(_: Call, value: Value) -> Array:
    return np.asarray(len(_sequence(value)), np.int64)


@operator("ConcatFromSequence", 11, raw=True)
def _concat_from_sequence(call: Call, value: Value) -> Value:
    first, *rest = [to_tensor(item) for item in _sequence(value)]
    if call["new_axis"]:
        return first.stack(*rest, dim=normalize_axis(call["axis"], first.ndim + 1))
    return first.cat(*rest, dim=call["axis"]) if rest else first


@operator("SplitToSequence", 11, 24, host=(1,), raw=True)
def _split_to_sequence(call: Call, value: Value, split: Array | None = None) -> list[Value]:
    x = to_tensor(value)
    axis = normalize_axis(call["axis"], x.ndim)
    size = shape_of_value(x)[axis]
    if split is not None and split.ndim:
        return list(cut(x, axis, split.tolist()))
    width = 1 if split is None else int(split.item())
    if width < 1:
        raise ValueError(f"split: expected 1 or more, got {width}")
    parts: list[Value] = list(cut(x, axis, [min(width, size - k) for k in range(0, size, width)]))
    if split is None and not call["keepdims"]:
        return [to_tensor(part).squeeze(axis) for part in parts]
    return parts


# ---- optionals: a value, or None ----


@operator("Optional", 15, 28, raw=True, on_host=True)
def _optional(_: Call, value: Value = None) -> Value:
    return value


@operator("OptionalGetElement", 15, 18, 28, raw=True, on_host=True)
def _optional_get_element(_: Call, value: Value) -> Value:
    if value is None:
        raise ValueError("input: expected an optional that holds something, got an empty one")
    return value


@operator("OptionalHasElement", 15, 18, 28, raw=True, on_host=True)
def _optional_has_element(_: Call, value: Value = None) -> Array:
    return np.asarray(value is not None)


@operator("Identity", 1, 13, 14, 16, 19, 21, 23, 24, 25, raw=True)
def _identity(_: Call, x: Value) -> Value:
    return x
