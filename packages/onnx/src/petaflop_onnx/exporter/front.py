"""`export`: a function of tensors or an nn model in, a checked ONNX model out.

The function runs once on placeholders (`petaflop.recording`), the nodes that it leaves are written one by one
(`lowering.py`), and what results is checked by onnx before anybody gets it.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto, helper

from petaflop import Tensor, Variable, nn
from petaflop.cli.files import write_atomically
from petaflop.device.registry import default_device
from petaflop.dtype import DType, from_numpy_dtype, to_dtype
from petaflop.errors import ArgumentError, ArgumentTypeError, DTypeError
from petaflop.plugin_api import Dim, Expr, Node
from petaflop.recording import host_values, memory_of, placeholder, record
from petaflop.replacing import replaceable
from petaflop_onnx.exporter.contraction import contraction_pattern
from petaflop_onnx.exporter.lowering import Lowering
from petaflop_onnx.exporter.methods import method_pattern
from petaflop_onnx.exporter.primitives import PRIMITIVES
from petaflop_onnx.exporter.writer import ELEMENT_TYPES, Writer, tensor_proto
from petaflop_onnx.tensors import DTYPES

__all__ = ["NEWEST_OPSET", "OLDEST_OPSET", "described", "export", "parse_input"]

OLDEST_OPSET = 18  # BitwiseAnd, the reductions of ScatterElements, axes as inputs
NEWEST_OPSET = min(26, onnx.defs.onnx_opset_version())
_OPSET = 20
_LARGEST_FILE = 1 << 30  # beyond that, weights go into a file of their own
_MOST = (1 << 31) - 1
_INPUT = re.compile(r"(?P<dtype>\w+)\[(?P<shape>[^\[\]]*)\]")


def parse_input(text: str) -> tuple[DType, tuple[Dim, ...]]:
    """A dtype and a shape from `float32[n?,3,8,8]`; a name with a question mark is a size that varies (and
    is at least 1).

    >>> parse_input("float32[n?,3]")
    (petaflop.float32, (n, 3))
    """
    found = _INPUT.fullmatch(text.strip())
    if found is None:
        raise ArgumentError(f"export: expected an input such as float32[n?,3,8,8], got {text!r}")
    try:
        dtype = to_dtype(found["dtype"])
    except DTypeError as error:
        raise ArgumentError(f"export: {error}, in {text!r}") from None
    words = [word.strip() for word in found["shape"].split(",")] if found["shape"].strip() else []
    return dtype, tuple(_size(word, text) for word in words)


def _size(word: str, text: str) -> Dim:
    if word.isdecimal() and len(word) < 10:
        return int(word)
    if word.endswith("?") and word[:-1].isidentifier():
        return Variable(word[:-1], 1, _MOST)
    raise ArgumentError(
        f"export: expected sizes such as 3, or n? for one that varies, got {word!r} in {text!r}"
    )


def export(
    function: Callable[..., Any],
    path: str | Path | None = None,
    *,
    inputs: Mapping[str, Any],
    outputs: Sequence[str] = (),
    opset: int = _OPSET,
) -> ModelProto:
    """A function of Tensors (or an nn model) as an ONNX model; written to `path` unless that is None.

    `inputs` has, by name, what the function takes: `"float32[n?,3,8,8]"`, where `n?` is a size that varies,
    or an example (a Tensor or an array), whose shape is then fixed. Where the function has parameters of
    these names they are passed by name, else in this order. Results are named by `outputs`, by the keys of a
    dict, or output, output_1, … in order, however they are nested. Modules are in evaluation mode meanwhile,
    and their tensors keep the names of their state dict. A model that is too large for one file keeps its
    weights beside it, in `path` + ".data".

    >>> from petaflop import nn
    >>> model = export(nn.Linear(8, 2), inputs={"x": "float32[n?,8]"})
    >>> [node.op_type for node in model.graph.node]
    ['Transpose', 'MatMul', 'Add']

    ArgumentError for inputs that are not understood; JitError for a function that reads a value, draws
    random numbers or assigns to tensors of others; DTypeError for what ONNX cannot say (custom kernels,
    bitcasts before opset 26), all of it in one error.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ArgumentError(f"export: expected an opset from {OLDEST_OPSET} to {NEWEST_OPSET}, got {opset}")
    device = default_device()
    tensors = {name: placeholder(*_described(name, value), device) for name, value in inputs.items()}
    module = _module_of(function)
    state: dict[str, Tensor] = {} if module is None else module.state_dict()
    with _evaluating(module):
        result, nodes = _record(function, tensors, list(state.values()))
    named = _named(result, outputs)
    graph = _Graph(opset, tensors, {memory_of(tensor): name for name, tensor in reversed(state.items())})
    model = graph.model(nodes, named)
    return _written(model, None if path is None else Path(path))


def _described(name: str, value: Any) -> tuple[DType, tuple[Dim, ...]]:
    if isinstance(value, str):
        return parse_input(value)
    if isinstance(value, Tensor):
        return value.dtype, value.shape
    if isinstance(value, (np.ndarray, np.generic)):
        return from_numpy_dtype(value.dtype), value.shape
    raise ArgumentTypeError(
        f"export: input {name}: expected text such as float32[n?,3], a Tensor or an array, "
        f"got {type(value).__name__}"
    )


@contextlib.contextmanager
def _evaluating(module: nn.Module | None) -> Iterator[None]:
    """A module without dropout and with its statistics fixed."""
    modes = [] if module is None else [(each, each.training) for each in module.modules()]
    try:
        if module is not None:
            module.eval()
        yield
    finally:
        for each, mode in modes:
            each.training = mode


def _module_of(function: Any) -> nn.Module | None:
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _record(
    function: Callable[..., Any], tensors: Mapping[str, Tensor], constants: Sequence[Tensor]
) -> tuple[Any, list[Node]]:
    called = function.forward if isinstance(function, nn.Module) else function
    by_name = set(tensors) <= _parameters(called)
    args, kwargs = ((), dict(tensors)) if by_name else (tuple(tensors.values()), {})
    try:
        return record("export", function, *args, constants=constants, **kwargs)
    except ArgumentError as error:
        if not str(error).startswith("Variable "):
            raise
        name = str(error).split()[1].rstrip(":")
        raise ArgumentError(
            f"export: expected a function of any size {name}, got one that needs its value; "
            f"write a number for {name}? in the inputs"
        ) from error


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # something built in
        return set()
    return {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}


def _named(result: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """The results by name; what is None is no result."""
    if isinstance(result, Mapping):
        found = {str(key): value for key, value in result.items()}
    elif (fields := getattr(result, "_fields", None)) is not None:
        found = dict(zip(fields, result, strict=True))
    else:
        listed = [each for each in _flat(result) if each is not None]
        found = {f"output_{place}" if place else "output": each for place, each in enumerate(listed)}
    if names:
        if len(names) != len(found) or len(set(names)) != len(names):
            raise ArgumentError(f"export: expected {len(found)} names of outputs, got {list(names)}")
        found = dict(zip(names, found.values(), strict=True))
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise ArgumentTypeError(f"export: output {name}: expected a Tensor, got {type(value).__name__}")
    if not found:
        raise ArgumentError("export: expected a function that returns Tensors, got nothing")
    return found


def _flat(result: Any) -> list[Any]:
    return (
        [each for part in result for each in _flat(part)] if isinstance(result, (tuple, list)) else [result]
    )


@dataclass
class _Graph:
    """The ONNX graph of one recording."""

    opset: int
    inputs: Mapping[str, Tensor]
    state: Mapping[Node, str]

    def model(self, nodes: Sequence[Node], outputs: Mapping[str, Tensor]) -> ModelProto:
        """The model, not yet checked."""
        writer = Writer(self.opset)
        low = Lowering(writer, PRIMITIVES, (method_pattern, contraction_pattern))
        for name in (*self.inputs, *outputs):
            if writer.claim(name) != name:
                raise ArgumentError(f"export: expected each input and output name once, got {name!r} twice")
        for name, tensor in self.inputs.items():
            low.give(tensor.node, name)
            for axis, size in enumerate(tensor.shape):
                if isinstance(size, Expr):
                    writer.sizes.setdefault(size, (name, axis))
        for node in nodes:
            if node.buffer is not None:
                name = self.state.get(node, "weight")
                low.give(node, writer.later(name, lambda node=node: host_values(node)))  # type: ignore[misc]
            low.write(node)
        for name, tensor in outputs.items():
            writer.nodes.append(helper.make_node("Identity", [low.full(tensor.node)], [name], name=name))
        used, leaves = writer.used(list(outputs))
        if refused := [writer.refused[name] for name in leaves if name in writer.refused]:
            got = ", ".join(dict.fromkeys(refused))
            raise DTypeError(f"export: expected what ONNX has operators for, got {got}")
        constants = [tensor_proto(name, writer.constants[name]()) for name in leaves]
        return self._proto(_without_identities(used), constants, outputs)

    def _proto(self, nodes: Any, constants: Any, outputs: Mapping[str, Tensor]) -> ModelProto:
        before, after = ([_info(*item) for item in side.items()] for side in (self.inputs, outputs))
        graph = helper.make_graph(nodes, "petaflop", before, after, constants)
        version = helper.OP_SET_ID_VERSION_MAP.get(("ai.onnx", self.opset), 10)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=version,
            producer_name="petaflop",
        )  # fmt: skip


def _info(name: str, tensor: Tensor) -> ValueInfoProto:
    shape = [size if isinstance(size, int) else str(size) for size in tensor.shape]
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[tensor.dtype.numpy], shape)


def described(info: ValueInfoProto) -> str:
    """An input or an output as the command line writes it: `x: float32[n, 3]`."""
    kind = info.type.tensor_type
    sizes = ", ".join(dim.dim_param or str(dim.dim_value) for dim in kind.shape.dim)
    return f"{info.name}: {from_numpy_dtype(DTYPES[kind.elem_type])}[{sizes}]"


def _without_identities(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Without the Identity that names an output, where the node before can have the name itself."""
    makers = {node.output[0]: node for node in nodes}
    ends = [node for node in nodes if node.op_type == "Identity"]
    renamed: dict[str, str] = {}
    for end in ends:
        maker = makers.get(end.input[0])
        if maker is not None and maker.op_type != "Identity" and end.input[0] not in renamed:
            renamed[end.input[0]] = end.output[0]
    kept = [node for node in nodes if not (node in ends and renamed.get(node.input[0]) == node.output[0])]
    for node in kept:
        for side in (node.input, node.output):
            side[:] = [renamed.get(name, name) for name in side]
    return kept


def _written(model: ModelProto, path: Path | None) -> ModelProto:
    """The model, checked in memory or as the file that it has become."""
    if model.ByteSize() < _LARGEST_FILE:
        onnx.checker.check_model(model, full_check=True)
        if path is not None:
            write_atomically(path, model.SerializeToString())
    elif path is None:
        raise ArgumentError("export: expected a path for a model of more than 1 GiB, got none")
    else:
        path = replaceable(path)
        beside = f"{path.name}.data"
        onnx.save_model(model, path, save_as_external_data=True, location=beside)
        onnx.checker.check_model(str(path), full_check=True)
    return model
