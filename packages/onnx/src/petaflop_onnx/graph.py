"""A ModelProto in, a checked Graph out: constants decoded, nodes sorted and bound to their rows of the
table, every name defined once and before its use. Whatever a file can get wrong about its graph is found
here, before any value is computed; all unsupported operators are listed in one error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from petaflop.dtype import DType, from_numpy_dtype
from petaflop_onnx.binding import Binder
from petaflop_onnx.body import Step, constants_of, missing_inputs, sort_steps
from petaflop_onnx.narrow import is_narrow
from petaflop_onnx.reading import fault, printable
from petaflop_onnx.tensors import numpy_dtype
from petaflop_onnx.values import STRING, UNKNOWN, ValueSpec

__all__ = ["Graph", "build"]

_MOST_NODES = 1_000_000


@dataclass(frozen=True, slots=True)
class Graph:
    """A model ready to run: `steps` are in an order in which every input exists."""

    path: Path
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    constants: Mapping[str, np.ndarray[Any, Any]]
    steps: tuple[Step, ...]


def build(path: Path, model: ModelProto) -> Graph:
    """Check `model` and bind its nodes; `path` names it in errors and holds its external data."""
    graph = model.graph
    if len(graph.node) > _MOST_NODES:
        raise fault(path, "graph.node", f"expected at most {_MOST_NODES} nodes, got {len(graph.node)}")
    constants = constants_of(path, graph)
    inputs = tuple(_value_info(path, f"graph.input[{i}]", value) for i, value in enumerate(graph.input))
    inputs = tuple(
        value for value in inputs if value.name not in constants
    )  # old files list constants as inputs
    outputs = tuple(
        _value_info(path, f"graph.output[{i}]", value, untyped=True) for i, value in enumerate(graph.output)
    )
    binder = Binder(path, model)
    given = {value.name for value in inputs} | set(constants)
    steps = binder.steps(graph.node, binder.opsets, "graph")
    binder.refuse_unsupported()
    ordered = sort_steps(path, "graph", steps, given)
    for name, position in missing_inputs(steps, given).items():
        where = f"graph.node[{position}] {printable(steps[position].call.name)!r}.input"
        raise fault(path, where, f"expected a value that exists, got {name!r}")
    defined = given | {name for step in steps for name in step.outputs}
    for position, value in enumerate(outputs):
        if value.name not in defined:
            where = f"graph.output[{position}]"
            raise fault(path, where, f"expected a value that a node makes, got {value.name!r}")
    _check_unique(path, inputs, "graph.input")
    return Graph(path, inputs, outputs, constants, ordered)


def _check_unique(path: Path, values: Iterable[ValueSpec], field: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value.name in seen:
            raise fault(path, field, f"expected different names, got {value.name!r} twice")
        seen.add(value.name)


def _value_info(path: Path, field: str, value: ValueInfoProto, untyped: bool = False) -> ValueSpec:
    """`untyped` values may lack a type: outputs have the one that their node gives them."""
    if not value.name:
        raise fault(path, field, "expected a name, got none")
    field = f"{field} {printable(value.name)!r}"
    kind, form, optional = value.type, "", False
    while (chosen := kind.WhichOneof("value")) in ("optional_type", "sequence_type"):
        optional = optional or chosen == "optional_type"
        form = "sequence" if chosen == "sequence_type" else form or "optional"
        kind = kind.optional_type.elem_type if chosen == "optional_type" else kind.sequence_type.elem_type
    if chosen is None and (untyped or form):
        return ValueSpec(value.name, UNKNOWN, None, optional, form)
    if chosen != "tensor_type":
        raise fault(path, f"{field}.type", f"expected a tensor, got {chosen or 'no type'} (not supported)")
    tensor = kind.tensor_type
    if untyped and tensor.elem_type == TensorProto.UNDEFINED:
        return ValueSpec(value.name, UNKNOWN, None, optional, form)
    if tensor.elem_type == TensorProto.STRING:
        dtype, form = STRING, form or "string"
    elif is_narrow(found := numpy_dtype(path, f"{field}.elem_type", tensor.elem_type)):
        dtype, form = DType(found.name, "?", 1, found), form or "narrow"
    else:
        dtype = from_numpy_dtype(found)
    shape = tuple(_size(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return ValueSpec(value.name, dtype, shape, optional, form)


def _size(dim: Any) -> int | str | None:
    """A fixed size, a symbolic name, or None: exporters write -1, '' and '?' for unknown."""
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param if dim.dim_param not in ("", "?") else None
