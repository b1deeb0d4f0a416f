"""Operators that run graphs: If, Loop, Scan, SequenceMap, and every function that stands for its body.

A branch is chosen and a loop unrolled when the graph is traced, as far as the host knows the condition; else
the model runs step by step and reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from petaflop import Tensor
from petaflop_onnx.host import normalize_axis
from petaflop_onnx.table import operator
from petaflop_onnx.values import Constant, NeedsValue, Value, shape_of_value, to_tensor, type_of

if TYPE_CHECKING:
    from petaflop_onnx.body import Step
    from petaflop_onnx.execute import Execution

Values = Mapping[str, Value]
_MOST_UNROLLED = 1 << 13
_MOST_ROUNDS = 1 << 20


def inline(execution: Execution, step: Step, inputs: Sequence[Value], values: Values) -> list[Value]:
    """Run what a function stands for."""
    body = step.expand([type_of(value) for value in inputs]) if step.expand else step.bodies[""]
    return execution.run_body(body, inputs, {})


@operator("If", 1, 11, 13, 16, 19, 21, 23, 24, 25, host=(0,), control=True)
def _if(execution: Execution, step: Step, inputs: Sequence[Value], values: Values) -> list[Value]:
    condition = execution.read(inputs[0], f"{step.where}: cond")
    if condition.size != 1:
        raise ValueError(f"cond: expected one element, got {list(condition.shape)}")
    branch = "then_branch" if condition.item() else "else_branch"
    return execution.run_body(step.bodies[branch], (), values)


@operator("Loop", 1, 11, 13, 16, 19, 21, 23, 24, 25, host=(0, 1), control=True)
def _loop(execution: Execution, step: Step, inputs: Sequence[Value], values: Values) -> list[Value]:
    body = step.bodies["body"]
    most = None if inputs[0] is None else int(execution.read(inputs[0], f"{step.where}: M").item())
    going = inputs[1] is None or bool(execution.read(inputs[1], f"{step.where}: cond").item())
    if inputs[1] is None and (most is None or most > _MOST_ROUNDS):
        raise ValueError(f"M: expected at most {_MOST_ROUNDS} rounds, got {most or 'no limit'}")
    if inputs[1] is None and most is not None and most > _MOST_UNROLLED and not execution.may_read:
        raise NeedsValue(step.where)
    state = list(inputs[2:])
    rows: list[list[Value]] = [[] for _ in body.outputs[1 + len(state) :]]
    count, known = 0, True
    while going and (most is None or count < most):
        _check_rounds(execution, count, most, known)
        number = Constant(np.asarray(count, np.int64), execution.device)
        condition = Constant(np.asarray(going), execution.device)
        after, *results = execution.run_body(body, [number, condition, *state], values)
        if execution.may_read:
            _realize(results)
        known = inputs[1] is None or isinstance(after, Constant)
        going = inputs[1] is None or bool(execution.read(after, f"{step.where}: the body's cond").item())
        state = results[: len(state)]
        for row, result in zip(rows, results[len(state) :], strict=True):
            row.append(result)
        count += 1
    return [*state, *(_stacked(row, 0, execution.device) for row in rows)]


def _check_rounds(execution: Execution, count: int, most: int | None, known: bool) -> None:
    """A long loop is no capture; one that no value can end, and that has no end, is an error."""
    if count < _MOST_UNROLLED:
        return
    if count >= _MOST_ROUNDS or (known and (most is None or most > _MOST_ROUNDS)):
        raise ValueError(f"M: expected at most {_MOST_ROUNDS} rounds, got {most or 'no limit'}")
    if not execution.may_read:
        raise NeedsValue("a long loop")


def _realize(results: Sequence[Value]) -> None:
    """Compute what a round made, so that the next one does not compute it again."""
    lazy = [value for value in results if isinstance(value, Tensor)]
    if lazy:
        Tensor.realize(*lazy)


def _stacked(rows: Sequence[Value], axis: int, device: str | None) -> Value:
    """Rows as one tensor with a new axis; no rows are an empty tensor."""
    if not rows:
        return Tensor.zeros(0, device=device)
    if all(isinstance(row, Constant) for row in rows):
        return Constant(np.stack([row.array for row in rows], axis), device)  # type: ignore[union-attr]
    first, *others = [to_tensor(row) for row in rows]
    return first.stack(*others, dim=axis) if others else first.unsqueeze(axis)


def _row(value: Value, axis: int, place: int) -> Value:
    if isinstance(value, Constant):
        return Constant(value.array.take(place, axis), value.device)
    return to_tensor(value)[(slice(None),) * axis + (place,)]


@operator("Scan", 9, 11, 16, 19, 21, 23, 24, 25, control=True)
def _scan(execution: Execution, step: Step, inputs: Sequence[Value], values: Values) -> list[Value]:
    body, count = step.bodies["body"], step.call["num_scan_inputs"]
    states = len(inputs) - count
    if not 0 < count <= len(inputs):
        raise ValueError(f"num_scan_inputs: expected 1 to {len(inputs)}, got {count}")
    state, scanned = list(inputs[:states]), list(inputs[states:])
    results = len(body.outputs) - states
    back_in, axes_in = (step.call.get(f"scan_input_{name}", (0,) * count) for name in ("directions", "axes"))
    back_out, axes_out = (
        step.call.get(f"scan_output_{name}", (0,) * results) for name in ("directions", "axes")
    )
    axes = [normalize_axis(axis, len(shape_of_value(x))) for axis, x in zip(axes_in, scanned, strict=True)]
    lengths = {shape_of_value(x)[axis] for x, axis in zip(scanned, axes, strict=True)}
    if len(lengths) != 1:
        raise ValueError(f"scan inputs: expected one length, got {sorted(lengths)}")
    (length,) = lengths
    rows: list[list[Value]] = [[] for _ in range(results)]
    for n in range(length):
        parts = [
            _row(x, axis, length - 1 - n if back else n)
            for x, axis, back in zip(scanned, axes, back_in, strict=True)
        ]
        made = execution.run_body(body, [*state, *parts], values)
        state = made[:states]
        for row, result, back in zip(rows, made[states:], back_out, strict=True):
            row.insert(0 if back else len(row), result)
    return [
        *state,
        *(_stacked_at(row, axis, execution.device) for row, axis in zip(rows, axes_out, strict=True)),
    ]


def _stacked_at(rows: Sequence[Value], axis: int, device: str | None) -> Value:
    rank = len(shape_of_value(rows[0])) + 1 if rows else 1
    return _stacked(rows, normalize_axis(axis, rank), device)


@operator("Scan", 8, control=True)
def _scan_batched(execution: Execution, step: Step, inputs: Sequence[Value], values: Values) -> list[Value]:
    """Every input has a batch axis first, and the rows of a batch are scanned one by one."""
    body, count = step.bodies["body"], step.call["num_scan_inputs"]
    lengths, *rest = inputs
    states, results = len(rest) - count, len(body.outputs) - (len(rest) - count)
    back_in = step.call.get("directions", (0,) * count)
    longest = {shape_of_value(x)[1] for x in rest[states:]}
    if len(longest) != 1:
        raise ValueError(f"scan inputs: expected one length, got {sorted(longest)}")
    (length,) = longest
    batch = shape_of_value(rest[-1])[0]
    given = [length] * batch if lengths is None else execution.read(lengths, step.where).tolist()
    finals: list[list[Value]] = [[] for _ in range(states)]
    stacks: list[list[Value]] = [[] for _ in range(results)]
    for b in range(batch):
        state = [_row(value, 0, b) for value in rest[:states]]
        rows: list[list[Value]] = [[] for _ in range(results)]
        for n in range(given[b]):
            parts = [
                _row(_row(x, 0, b), 0, given[b] - 1 - n if back else n)
                for x, back in zip(rest[states:], back_in, strict=True)
            ]
            made = execution.run_body(body, [*state, *parts], values)
            state = made[:states]
            for row, result in zip(rows, made[states:], strict=True):
                row.append(result)
        for final, value in zip(finals, state, strict=True):
            final.append(value)
        for stack, row in zip(stacks, rows, strict=True):
            whole = to_tensor(_stacked(row, 0, execution.device))
            widths = [(0, length - given[b]), *[(0, 0)] * (whole.ndim - 1)]
            stack.append(whole.pad(tuple(widths)) if given[b] < length else whole)
    return [_stacked(value, 0, execution.device) for value in (*finals, *stacks)]


@operator("SequenceMap", 17, control=True)
def _sequence_map(execution: Execution, step: Step, inputs: Sequence[Value], values: Values) -> list[Value]:
    first, *others = inputs
    if not isinstance(first, list):
        raise ValueError("input_sequence: expected a sequence, got a tensor")
    body = step.bodies["body"]
    results: list[list[Any]] = [[] for _ in body.outputs]
    for n, item in enumerate(first):
        more = [other[n] if isinstance(other, list) else other for other in others]
        for row, value in zip(results, execution.run_body(body, [item, *more], values), strict=True):
            row.append(value)
    return list(results)
