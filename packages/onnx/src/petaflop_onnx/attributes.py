"""A node's attributes as Python values, checked against the operator's schema, with its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto

from petaflop_onnx.reading import fault, printable
from petaflop_onnx.tensors import decode

__all__ = ["attributes_of", "graphs_of", "with_attributes"]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


_READ = {
    AttributeProto.FLOAT: lambda attribute: attribute.f,
    AttributeProto.INT: lambda attribute: attribute.i,
    AttributeProto.STRING: lambda attribute: _text(attribute.s),
    AttributeProto.FLOATS: lambda attribute: tuple(attribute.floats),
    AttributeProto.INTS: lambda attribute: tuple(attribute.ints),
    AttributeProto.STRINGS: lambda attribute: tuple(_text(value) for value in attribute.strings),
    AttributeProto.TYPE_PROTO: lambda attribute: attribute.tp,
}


def attributes_of(path: Path, field: str, node: NodeProto, schema: Any) -> dict[str, Any]:
    """The values by name; graphs are left to `graphs_of`."""
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        where = f"{field}.attribute {printable(attribute.name)!r}"
        if attribute.name not in schema.attributes:
            raise fault(path, where, f"expected one of {', '.join(sorted(schema.attributes)) or 'none'}")
        kind = schema.attributes[attribute.name].type.value
        if attribute.type != kind:
            got = AttributeProto.AttributeType.Name(attribute.type)
            raise fault(path, where, f"expected {AttributeProto.AttributeType.Name(kind)}, got {got}")
        values[attribute.name] = _value(path, where, attribute)
    for name, formal in schema.attributes.items():
        if name not in values and formal.default_value.type in _READ:
            values[name] = _READ[formal.default_value.type](formal.default_value)
        if name not in values and formal.required:
            raise fault(path, field, f"expected the attribute {name}, got none")
    return values


def _value(path: Path, where: str, attribute: AttributeProto) -> Any:
    if attribute.type == AttributeProto.TENSOR:
        return decode(attribute.t, path, f"{where}.t")
    if attribute.type == AttributeProto.GRAPH:
        return None
    if attribute.type not in _READ:
        kind = AttributeProto.AttributeType.Name(attribute.type)
        raise fault(path, where, f"expected a number, text, tensor or graph, got {kind} (not supported)")
    return _READ[attribute.type](attribute)


def graphs_of(node: NodeProto) -> dict[str, GraphProto]:
    """The graphs among a node's attributes."""
    return {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}


def with_attributes(node: NodeProto, given: Mapping[str, AttributeProto]) -> NodeProto:
    """A function's node with its references to the caller's attributes filled in; absent ones are left
    out."""
    copy = NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    for attribute in node.attribute:
        kept = AttributeProto()
        if attribute.ref_attr_name:
            if attribute.ref_attr_name not in given:
                continue
            kept.CopyFrom(given[attribute.ref_attr_name])
            kept.name = attribute.name
        else:
            kept.CopyFrom(attribute)
            if attribute.type == AttributeProto.GRAPH:
                nodes = [with_attributes(inner, given) for inner in attribute.g.node]
                del kept.g.node[:]
                kept.g.node.extend(nodes)
        copy.attribute.append(kept)
    return copy
