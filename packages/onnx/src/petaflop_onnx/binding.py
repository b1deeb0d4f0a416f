"""Nodes in, Steps out: each node finds its row of the table, or else the function that defines it, whose body
is bound in its place. What neither has is collected, for one error that lists all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto

from petaflop_onnx import operators
from petaflop_onnx.attributes import attributes_of, graphs_of, with_attributes
from petaflop_onnx.body import Body, Step, constants_of, missing_inputs, sort_steps
from petaflop_onnx.formals import Formal, aligned, formals_of
from petaflop_onnx.operators.control import inline
from petaflop_onnx.reading import fault, printable
from petaflop_onnx.schemas import schema_of
from petaflop_onnx.table import TABLE, Call, Operator, nearest

__all__ = ["Binder"]

_ = operators.__all__  # importing the package fills the table
_DOMAINS = {"ai.onnx": ""}
_DEEPEST = 24
_MOST_INLINED = 30_000
Opsets = Mapping[str, int]


class Binder:
    """Binds the nodes of one model; `opsets` are those of its main graph."""

    def __init__(self, path: Path, model: ModelProto) -> None:
        self.path = path
        self.opsets = _opsets(path, model)
        self.unsupported: dict[str, None] = {}
        self._functions = {(_domain(f.domain), f.name, f.overload): f for f in model.functions}
        self._depth = 0
        self._count = 0

    def refuse_unsupported(self) -> None:
        """One error for everything that the table lacks and no function defines."""
        if self.unsupported:
            listed = ", ".join(self.unsupported)
            raise fault(self.path, "graph.node", f"expected supported operators, got {listed}")

    def steps(self, nodes: Iterable[NodeProto], opsets: Opsets, field: str) -> list[Step]:
        """The nodes that can be bound, in the file's order; the others are noted in `unsupported`."""
        steps = []
        for position, node in enumerate(nodes):
            self._count += self._depth > 0
            if self._count > _MOST_INLINED:
                message = f"expected at most {_MOST_INLINED} nodes in branches and functions, got more"
                raise fault(self.path, field, message)
            where = f"{field}.node[{position}] {printable(node.name or node.op_type)!r}"
            step = self._step(where, node, opsets)
            if step is not None:
                steps.append(step)
        return steps

    def _step(self, field: str, node: NodeProto, opsets: Opsets) -> Step | None:
        domain = _domain(node.domain)
        if local := self._functions.get((domain, node.op_type, node.overload)):
            return self._local(field, node, local)
        schema = _schema(opsets, domain, node.op_type)
        row = None if schema is None else TABLE.get((domain, node.op_type, schema.since_version))
        if schema is None or (row is None and not _has_function(schema)):
            self.unsupported[_missing(opsets, domain, node.op_type, schema)] = None
            return None
        formals = self._check_arity(field, node, schema)
        attributes = attributes_of(self.path, field, node, schema)
        call = Call(
            node.name or node.op_type, node.op_type, schema.since_version, attributes, len(node.output)
        )
        inputs, outputs = tuple(node.input), tuple(node.output)
        if row is None:
            row = Operator(node.op_type, schema.since_version, inline, control=True)
            return self._function(field, node, schema, opsets, Step(call, row, formals, inputs, outputs))
        bodies = {
            name: self.body(graph, opsets, f"{field}.{name}") for name, graph in graphs_of(node).items()
        }
        return Step(call, row, formals, inputs, outputs, bodies)

    def _check_arity(self, field: str, node: NodeProto, schema: Any) -> tuple[Formal, ...]:
        least, most, count = schema.min_input, schema.max_input, len(node.input)
        if not least <= count <= most:
            message = f"expected {least} to {most} for {node.op_type}, got {count}"
            raise fault(self.path, f"{field}.input", message)
        formals = formals_of(schema.domain, schema.name, schema.since_version)
        for formal, name in aligned(formals, node.input):
            if not name and not formal.optional:
                message = f"expected {node.op_type}'s input {formal.name}, got none"
                raise fault(self.path, f"{field}.input", message)
        least, most, count = schema.min_output, schema.max_output, len(node.output)
        if not least <= count <= most or not any(node.output):
            raise fault(self.path, f"{field}.output", f"expected {least} to {most}, got {count}")
        return formals

    # ---- graphs inside ----

    def body(self, graph: GraphProto, opsets: Opsets, field: str) -> Body:
        """A branch or the body of a loop, which may use every name of the graphs around it."""
        constants = constants_of(self.path, graph, field)
        names = tuple(value.name for value in graph.input if value.name not in constants)
        results = tuple(value.name for value in graph.output)
        return self._body(graph.node, names, results, constants, opsets, field)

    def _body(
        self,
        nodes: Iterable[NodeProto],
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        constants: Mapping[str, Any],
        opsets: Opsets,
        field: str,
    ) -> Body:
        if self._depth >= _DEEPEST:
            raise fault(self.path, field, f"expected at most {_DEEPEST} graphs inside one another, got more")
        self._depth += 1
        steps = self.steps(nodes, opsets, field)
        self._depth -= 1
        given = {*inputs, *constants}
        ordered = sort_steps(self.path, field, steps, given)
        made = given | {name for step in steps for name in step.outputs}
        captured = {*missing_inputs(steps, given), *(name for name in outputs if name not in made)} - {""}
        return Body(inputs, outputs, constants, ordered, frozenset(captured))

    # ---- functions ----

    def _local(self, field: str, node: NodeProto, function: FunctionProto) -> Step:
        """A function that the model itself defines."""
        given = {attribute.name: attribute for attribute in node.attribute}
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        body = self._function_body(field, function, {**defaults, **given}, {})
        call = Call(node.name or node.op_type, node.op_type, 0, {}, len(node.output))
        row = Operator(node.op_type, 0, inline, control=True)
        return Step(call, row, (), tuple(node.input), tuple(node.output), {"": body})

    def _function(self, field: str, node: NodeProto, schema: Any, opsets: Opsets, step: Step) -> Step:
        """An operator that ONNX defines by others; the definition may depend on the inputs' types."""
        given = {attribute.name: attribute for attribute in node.attribute}
        for name, formal in schema.attributes.items():
            if name not in given and formal.default_value.type:
                given[name] = formal.default_value
        version = opsets[schema.domain]
        if schema.has_function:
            text = schema.get_function_with_opset_version(_at_most(schema.function_opset_versions, version))
            function = FunctionProto.FromString(text)
            return _replaced(step, {"": self._function_body(field, function, given, opsets)}, None)
        known: dict[tuple[bytes, ...], Body] = {}
        best = _at_most(schema.context_dependent_function_opset_versions, version)

        def expand(types: Sequence[TypeProto]) -> Body:
            key = tuple(kind.SerializeToString() for kind in types)
            if key not in known:
                text = schema.get_context_dependent_function_with_opset_version(
                    best, node.SerializeToString(), list(key)
                )
                known[key] = self._function_body(field, FunctionProto.FromString(text), given, opsets)
                self.refuse_unsupported()
            return known[key]

        return _replaced(step, {}, expand)

    def _function_body(
        self, field: str, function: FunctionProto, given: Mapping[str, Any], outer: Opsets
    ) -> Body:
        own = {_domain(entry.domain): entry.version for entry in function.opset_import}
        nodes = [with_attributes(node, given) for node in function.node]
        made = {*function.input, *(each for node in nodes for each in node.output)}
        inputs = tuple(function.input)
        outputs = tuple(each if each in made else "" for each in function.output)  # made only when asked for
        name = f"{field}.{printable(function.name or 'function')}"
        body = self._body(nodes, inputs, outputs, {}, {**outer, **own}, name)
        for captured in sorted(body.captured):
            raise fault(self.path, name, f"expected values that exist, got {captured!r}")
        return body


def _replaced(
    step: Step, bodies: Mapping[str, Body], expand: Callable[[Sequence[TypeProto]], Body] | None
) -> Step:
    return Step(step.call, step.row, step.formals, step.inputs, step.outputs, bodies, expand)


def _domain(domain: str) -> str:
    return _DOMAINS.get(domain, domain)


def _opsets(path: Path, model: ModelProto) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for position, entry in enumerate(model.opset_import):
        domain = _domain(entry.domain)
        if domain in opsets and opsets[domain] != entry.version:
            raise fault(path, f"opset_import[{position}]", f"expected one version of {domain!r}, got two")
        opsets[domain] = entry.version
    if model.ir_version < 3:
        opsets.setdefault("", 1)
    newest = onnx.defs.onnx_opset_version()
    if "" in opsets and not 1 <= opsets[""] <= newest:
        raise fault(path, "opset_import", f"expected version 1 to {newest} of ai.onnx, got {opsets['']}")
    return opsets


def _at_most(versions: Iterable[int], version: int) -> int:
    """The newest definition that an operator set of this version may use."""
    older = [each for each in versions if each <= version]
    return max(older) if older else min(versions)


def _has_function(schema: Any) -> bool:
    return bool(schema.has_function or schema.has_context_dependent_function)


def _schema(opsets: Opsets, domain: str, name: str) -> Any:
    if domain not in opsets:
        return None
    schema = schema_of(domain, name, opsets[domain])
    return None if schema is None or schema.deprecated else schema


def _missing(opsets: Opsets, domain: str, name: str, schema: Any) -> str:
    """How one unsupported operator reads in the list."""
    full = printable(f"{domain}::{name}" if domain else name)
    if domain not in opsets:
        return f"{full} (domain {printable(domain or 'ai.onnx')!r} is not in opset_import)"
    since = schema.since_version if schema is not None else opsets[domain]
    close = nearest(domain, name, since)
    hint = f" (supported: version {close})" if close is not None else ""
    return f"{full}-{since}{hint}"
