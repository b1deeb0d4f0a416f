"""petaflop as a backend of ONNX's own test suite and of whatever else asks for `onnx.backend.base.Backend`.

Device "CPU" is petaflop's default device; another name is that of a petaflop backend. Arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TypeProto, helper, shape_inference
from onnx.backend.base import Backend, BackendRep, namedtupledict

from petaflop.errors import ArgumentError
from petaflop.plugins.manager import plugin_manager
from petaflop_onnx.graph import build
from petaflop_onnx.model import Model
from petaflop_onnx.reading import check_header
from petaflop_onnx.values import type_of

__all__ = ["PetaflopBackend", "PetaflopRep"]


class PetaflopRep(BackendRep):
    """A prepared model: `run` takes its inputs in order and gives its outputs in order, by index or name."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        """Arrays (or lists, None, for sequences and optionals) in the order of the model's inputs."""
        specs = self.model.inputs
        given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if len(given) > len(specs):
            raise ArgumentError(f"run: expected at most {len(specs)} inputs, got {len(given)}")
        feeds = {spec.name: _array(value) for spec, value in zip(specs, given, strict=False)}
        outputs = self.model(feeds)
        names = [spec.name for spec in self.model.outputs]
        fields = namedtupledict("Outputs", names)
        return fields(*(_plain(outputs[name]) for name in names))


class PetaflopBackend(Backend):
    """What `onnx.backend.base.Backend` asks for.

    >>> outputs = PetaflopBackend.prepare(onnx.load("model.onnx")).run([array])
    """

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **_: Any) -> bool:
        """Every model may be prepared; what it lacks is then named in one error."""
        return cls.supports_device(device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether there is a petaflop backend of that name; nothing is opened to find out."""
        kind = device.partition(":")[0]
        return kind == "CPU" or kind.lower() in ("reference", *plugin_manager().names("backend"))

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **_: Any) -> PetaflopRep:
        """A model ready to run; FileFormatError names everything that it uses and we lack."""
        path = Path(model.graph.name or "model")
        check_header(path, model)
        return PetaflopRep(Model(build(path, model), _device(device)))

    @classmethod
    def run_model(cls, model: ModelProto, inputs: Any, device: str = "CPU", **_: Any) -> tuple[Any, ...]:
        """Prepare a model and run it once."""
        return cls.prepare(model, device).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **options: Any,
    ) -> tuple[Any, ...]:
        """Run one node on its inputs, at the newest opset or `opset_version`."""
        given = dict(zip(filter(None, node.input), map(_array, inputs), strict=True))
        model = one_node(
            node, {name: type_of(value) for name, value in given.items()}, options.get("opset_version")
        )
        return cls.prepare(model, device).run(list(given.values()))


def one_node(node: NodeProto, types: Mapping[str, TypeProto], opset: int | None = None) -> ModelProto:
    """A model of one node, with inputs of these types and the outputs that shape inference finds."""
    from onnx import defs

    version = opset or defs.onnx_opset_version()
    opsets = [helper.make_opsetid("", version)]
    if node.domain not in ("", "ai.onnx"):
        newest = max(s.since_version for s in defs.get_all_schemas() if s.domain == node.domain)
        opsets.append(helper.make_opsetid(node.domain, newest))
    inputs = [helper.make_value_info(name, kind) for name, kind in types.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], node.op_type, inputs, outputs)
    return shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets))


def _device(device: str) -> str | None:
    kind = device.partition(":")[0]
    if not PetaflopBackend.supports_device(device):
        raise ArgumentError(f"device: expected CPU or the name of a petaflop backend, got {device!r}")
    return None if kind == "CPU" else kind.lower()


def _array(value: Any) -> Any:
    """Scalars as arrays of no axes; lists of them for sequences."""
    if isinstance(value, list):
        return [_array(item) for item in value]
    return None if value is None else np.asarray(value)


def _plain(value: Any) -> Any:
    """A Tensor as an array, a sequence as a list of arrays."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.numpy() if hasattr(value, "numpy") else value
