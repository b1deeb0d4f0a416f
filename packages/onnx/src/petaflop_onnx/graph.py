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
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, defs

from petaflop.dtype import from_numpy_dtype
from petaflop.plugin_api import TensorSpec
from petaflop_onnx import operators
from petaflop_onnx.formals import Formal, aligned, formals_of
from petaflop_onnx.reading import fault, printable
from petaflop_onnx.table import TABLE, Call, Operator, nearest
from petaflop_onnx.tensors import decode, numpy_dtype

__all__ = ["Graph", "Step", "build"]

_ = operators.__all__  # importing the package fills the table
_DOMAINS = {"ai.onnx": ""}
_MOST_NODES = 1_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """One node, bound to its row of the table; an input named '' is absent."""

    call: Call
    row: Operator
    formals: tuple[Formal, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A model ready to run: `steps` are in an order in which every input exists."""

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constants: Mapping[str, np.ndarray[Any, Any]]
    steps: tuple[Step, ...]


def build(path: Path, model: ModelProto) -> Graph:
    """Check `model` and bind its nodes; `path` names it in errors and holds its external data."""
    graph = model.graph
    if len(graph.node) > _MOST_NODES:
        raise fault(path, "graph.node", f"expected at most {_MOST_NODES} nodes, got {len(graph.node)}")
    constants = _constants(path, graph)
    inputs = tuple(_value_info(path, f"graph.input[{i}]", value) for i, value in enumerate(graph.input))
    inputs = tuple(
        value for value in inputs if value.name not in constants
    )  # old files list constants as inputs
    outputs = tuple(_value_info(path, f"graph.output[{i}]", value) for i, value in enumerate(graph.output))
    steps = _bind(path, model)
    ordered = _sort(path, steps, {value.name for value in inputs} | set(constants))
    defined = (
        {value.name for value in inputs} | set(constants) | {name for step in steps for name in step.outputs}
    )
    for position, value in enumerate(outputs):
        if value.name not in defined:
            raise fault(
                path, f"graph.output[{position}]", f"expected a value that a node makes, got {value.name!r}"
            )
    _check_unique(path, inputs, "graph.input")
    return Graph(path, inputs, outputs, constants, ordered)


def _check_unique(path: Path, values: Iterable[TensorSpec], field: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value.name in seen:
            raise fault(path, field, f"expected different names, got {value.name!r} twice")
        seen.add(value.name)


def _constants(path: Path, graph: GraphProto) -> dict[str, np.ndarray[Any, Any]]:
    constants: dict[str, np.ndarray[Any, Any]] = {}
    for position, tensor in enumerate(graph.initializer):
        field = f"graph.initializer[{position}] {printable(tensor.name)!r}"
        if not tensor.name or tensor.name in constants:
            raise fault(path, field, "expected a name of its own, got none or one that is taken")
        constants[tensor.name] = decode(tensor, path, field)
    return constants


def _value_info(path: Path, field: str, value: ValueInfoProto) -> TensorSpec:
    if not value.name:
        raise fault(path, field, "expected a name, got none")
    field = f"{field} {printable(value.name)!r}"
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise fault(path, f"{field}.type", f"expected a tensor, got {kind or 'no type'} (not supported)")
    tensor = value.type.tensor_type
    dtype = numpy_dtype(path, f"{field}.elem_type", tensor.elem_type)
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, from_numpy_dtype(dtype), None)
    return TensorSpec(value.name, from_numpy_dtype(dtype), tuple(_size(dim) for dim in tensor.shape.dim))


def _size(dim: Any) -> int | str | None:
    """A fixed size, a symbolic name, or None: exporters write -1, '' and '?' for unknown."""
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param if dim.dim_param not in ("", "?") else None


# ---- operators ----


def _opsets(path: Path, model: ModelProto) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for position, entry in enumerate(model.opset_import):
        domain = _DOMAINS.get(entry.domain, entry.domain)
        if domain in opsets and opsets[domain] != entry.version:
            raise fault(path, f"opset_import[{position}]", f"expected one version of {domain!r}, got two")
        opsets[domain] = entry.version
    if model.ir_version < 3:
        opsets.setdefault("", 1)
    newest = onnx.defs.onnx_opset_version()
    if "" in opsets and not 1 <= opsets[""] <= newest:
        raise fault(path, "opset_import", f"expected version 1 to {newest} of ai.onnx, got {opsets['']}")
    return opsets


def _bind(path: Path, model: ModelProto) -> list[Step]:
    opsets = _opsets(path, model)
    steps: list[Step] = []
    unsupported: dict[str, None] = {}
    for position, node in enumerate(model.graph.node):
        domain = _DOMAINS.get(node.domain, node.domain)
        schema = _schema(opsets, domain, node.op_type)
        row = None if schema is None else TABLE.get((domain, node.op_type, schema.since_version))
        if schema is None or row is None:
            unsupported[_missing(opsets, domain, node.op_type, schema)] = None
        else:
            steps.append(_step(path, position, node, schema, row))
    if unsupported:
        raise fault(path, "graph.node", f"expected supported operators, got {', '.join(unsupported)}")
    return steps


def _schema(opsets: Mapping[str, int], domain: str, name: str) -> Any:
    if domain not in opsets or not defs.has(name, domain):
        return None
    try:
        schema = defs.get_schema(name, min(opsets[domain], (1 << 31) - 1), domain)
    except defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def _missing(opsets: Mapping[str, int], domain: str, name: str, schema: Any) -> str:
    """How one unsupported operator reads in the list."""
    full = printable(f"{domain}::{name}" if domain else name)
    if domain not in opsets:
        return f"{full} (domain {printable(domain or 'ai.onnx')!r} is not in opset_import)"
    since = schema.since_version if schema is not None else opsets[domain]
    close = nearest(domain, name, since)
    hint = f" (supported: version {close})" if close is not None else ""
    return f"{full}-{since}{hint}"


def _step(path: Path, position: int, node: NodeProto, schema: Any, row: Operator) -> Step:
    field = f"graph.node[{position}] {printable(node.name or node.op_type)!r}"
    inputs, outputs = tuple(node.input), tuple(node.output)
    if not schema.min_input <= len(inputs) <= schema.max_input:
        most = schema.max_input
        raise fault(
            path, f"{field}.input", f"expected {schema.min_input} to {most} for {row.name}, got {len(inputs)}"
        )
    formals = formals_of(schema.domain, row.name, row.since)
    for formal, name in aligned(formals, inputs):
        if not name and not formal.optional:
            raise fault(path, f"{field}.input", f"expected {row.name}'s input {formal.name}, got none")
    if not schema.min_output <= len(outputs) <= schema.max_output or not any(outputs):
        most = schema.max_output
        raise fault(path, f"{field}.output", f"expected {schema.min_output} to {most}, got {len(outputs)}")
    attributes = _attributes(path, field, node, schema)
    call = Call(node.name or node.op_type, row.name, row.since, attributes, len(outputs))
    return Step(call, row, formals, inputs, outputs)


# ---- attributes ----


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


_READ = {
    AttributeProto.FLOAT: lambda attribute: attribute.f,
    AttributeProto.INT: lambda attribute: attribute.i,
    AttributeProto.STRING: lambda attribute: _text(attribute.s),
    AttributeProto.FLOATS: lambda attribute: tuple(attribute.floats),
    AttributeProto.INTS: lambda attribute: tuple(attribute.ints),
    AttributeProto.STRINGS: lambda attribute: tuple(_text(value) for value in attribute.strings),
}


def _attributes(path: Path, field: str, node: NodeProto, schema: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        where = f"{field}.attribute {printable(attribute.name)!r}"
        if attribute.name not in schema.attributes:
            raise fault(path, where, f"expected one of {', '.join(sorted(schema.attributes)) or 'none'}")
        kind = schema.attributes[attribute.name].type.value
        if attribute.type != kind:
            got = AttributeProto.AttributeType.Name(attribute.type)
            raise fault(path, where, f"expected {AttributeProto.AttributeType.Name(kind)}, got {got}")
        values[attribute.name] = _attribute(path, where, attribute)
    for name, formal in schema.attributes.items():
        if name not in values and formal.default_value.type in _READ:
            values[name] = _READ[formal.default_value.type](formal.default_value)
        if name not in values and formal.required:
            raise fault(path, field, f"expected the attribute {name}, got none")
    return values


def _attribute(path: Path, where: str, attribute: AttributeProto) -> Any:
    if attribute.type == AttributeProto.TENSOR:
        return decode(attribute.t, path, f"{where}.t")
    if attribute.type not in _READ:
        kind = AttributeProto.AttributeType.Name(attribute.type)
        raise fault(path, where, f"expected a number, text or a tensor, got {kind} (not supported)")
    return _READ[attribute.type](attribute)


# ---- order ----


def _sort(path: Path, steps: list[Step], given: set[str]) -> tuple[Step, ...]:
    """Steps in an order in which every input exists; the file's own order where that is one."""
    maker: dict[str, int] = {}
    for position, step in enumerate(steps):
        for name in filter(None, step.outputs):
            if name in maker or name in given:
                raise fault(path, f"graph.node[{position}].output", f"expected new names, got {name!r} again")
            maker[name] = position
    waiting: list[int] = []
    users: dict[int, list[int]] = {}
    for position, step in enumerate(steps):
        makers = set()
        for name in filter(None, step.inputs):
            if name not in given and name not in maker:
                field = f"graph.node[{position}] {printable(step.call.name)!r}.input"
                raise fault(path, field, f"expected a value that exists, got {name!r}")
            if name in maker:
                makers.add(maker[name])
        waiting.append(len(makers))
        for other in makers:
            users.setdefault(other, []).append(position)
    return _kahn(path, steps, waiting, users)


def _kahn(path: Path, steps: list[Step], waiting: list[int], users: dict[int, list[int]]) -> tuple[Step, ...]:
    if all(other < position for other, after in users.items() for position in after):
        return tuple(steps)
    ready = [position for position, count in enumerate(waiting) if count == 0][::-1]
    order: list[Step] = []
    while ready:
        position = ready.pop()
        order.append(steps[position])
        for user in users.get(position, ()):
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    if len(order) < len(steps):
        stuck = next(position for position, count in enumerate(waiting) if count)
        field = f"graph.node[{stuck}] {printable(steps[stuck].call.name)!r}.input"
        raise fault(path, field, "expected an order of nodes, got a cycle")
    return tuple(order)
