"""A path in, a parsed ModelProto out. The file is hostile until proven otherwise: its kind and size are
checked before it is read, and nothing is fetched, followed or written. Every fault is one FileFormatError
naming file and field.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Error
from onnx import GraphProto, ModelProto, NodeProto

from petaflop.errors import FileFormatError

__all__ = ["LARGEST_FILE", "check_header", "fault", "printable", "read_model", "regular_size"]

LARGEST_FILE = (1 << 31) - 1  # protobuf's own limit; larger models keep their weights in external files


def printable(text: object, limit: int = 80) -> str:
    """Text from a file, on one short line."""
    shown = "".join(c if c.isprintable() else "?" for c in str(text))
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def fault(path: Path, field: str, message: str) -> FileFormatError:
    """The error for one field of a file: `model.onnx: graph.node[3]: …`."""
    return FileFormatError(f"{printable(path.name)}: {printable(field, 160)}: {printable(message, 600)}")


def regular_size(path: Path) -> int:
    """The size of a regular file; anything else (a folder, a device, a pipe, nothing) is an error."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise fault(path, "file", f"expected a readable file, got {error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise fault(path, "file", "expected a regular file, got something else")
    return status.st_size


def read_model(path: Path) -> ModelProto:
    """Parse `path` and check what every model must have: a version, operator sets and one graph."""
    size = regular_size(path)
    if size == 0:
        raise fault(path, "file", "expected an ONNX model, got an empty file")
    if size > LARGEST_FILE:
        raise fault(
            path, "file", f"expected at most {LARGEST_FILE} bytes, got {size}; keep weights as external data"
        )
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, Error, RecursionError) as error:
        raise fault(path, "file", f"expected an ONNX model, got bytes that do not parse ({error})") from None
    except OSError as error:
        raise fault(path, "file", f"expected a readable file, got {error}") from None
    check_header(path, model)
    return model


def check_header(path: Path, model: ModelProto) -> None:
    """FileFormatError unless the model has what every model must have, and all its names are text."""
    if not model.HasField("graph"):
        raise fault(path, "graph", "expected a graph, got none; the file is truncated or not an ONNX model")
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise fault(path, "ir_version", f"expected 1 to {onnx.IR_VERSION}, got {model.ir_version}")
    if not model.opset_import and model.ir_version >= 3:
        raise fault(
            path, "opset_import", "expected at least one operator set, got none; the file may be truncated"
        )
    if not model.graph.node and not model.graph.output:
        raise fault(path, "graph", "expected nodes or outputs, got an empty graph")
    _check_graph(path, model.graph)
    for field, text in _texts(model):
        if not isinstance(text, str):  # protobuf gives bytes where they are not UTF-8
            raise fault(path, field, f"expected text in UTF-8, got {text[:40]!r}")


def _texts(model: ModelProto) -> Iterator[tuple[str, Any]]:
    """Every text of the file that is read later, with its field."""
    for position, entry in enumerate(model.opset_import):
        yield f"opset_import[{position}].domain", entry.domain
    yield from _graph_texts(model.graph, "graph")
    for position, function in enumerate(model.functions):
        field = f"functions[{position}]"
        for text in (function.name, function.domain, *function.input, *function.output):
            yield field, text
        for entry in function.opset_import:
            yield f"{field}.opset_import", entry.domain
        yield from _node_texts(function.node, field)


def _node_texts(nodes: Iterable[NodeProto], field: str) -> Iterator[tuple[str, Any]]:
    for position, node in enumerate(nodes):
        where = f"{field}.node[{position}]"
        for text in (node.op_type, node.domain, node.name, *node.input, *node.output):
            yield where, text
        for attribute in node.attribute:
            yield f"{where}.attribute.name", attribute.name
            yield f"{where}.attribute.ref_attr_name", attribute.ref_attr_name
            if attribute.HasField("g"):
                yield from _graph_texts(attribute.g, where)


def _graph_texts(graph: GraphProto, field: str) -> Iterator[tuple[str, Any]]:
    yield from _node_texts(graph.node, field)
    for position, tensor in enumerate(graph.initializer):
        where = f"{field}.initializer[{position}]"
        yield f"{where}.name", tensor.name
        for entry in tensor.external_data:
            yield from ((f"{where}.external_data", text) for text in (entry.key, entry.value))
    for side, values in (("input", graph.input), ("output", graph.output)):
        for position, value in enumerate(values):
            yield f"{field}.{side}[{position}].name", value.name
            for dim in value.type.tensor_type.shape.dim:
                yield f"{field}.{side}[{position}].type", dim.dim_param


def _check_graph(path: Path, graph: GraphProto) -> None:
    if graph.sparse_initializer:
        raise fault(
            path, "graph.sparse_initializer", "expected dense initializers, got sparse ones (not supported)"
        )
    if not graph.output:
        raise fault(path, "graph.output", "expected at least one output, got none; the file may be truncated")
