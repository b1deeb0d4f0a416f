"""The cases of the installed onnx: names, what each holds, and a call that runs one and raises if it
fails.
"""

from __future__ import annotations

import functools
import re
import unittest
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs
from onnx.backend.test import BackendTest
from onnx.backend.test.loader import load_model_tests

from petaflop_onnx.backend import PetaflopBackend

__all__ = ["GROUPS", "Case", "cases", "load_suite", "run_case"]

GROUPS: Mapping[str, str] = {
    "node": "OnnxBackendNodeModelTest",
    "real": "OnnxBackendRealModelTest",
    "simple": "OnnxBackendSimpleModelTest",
    "pytorch-converted": "OnnxBackendPyTorchConvertedModelTest",
    "pytorch-operator": "OnnxBackendPyTorchOperatorModelTest",
}
_SMALL = {
    kind
    for name, kind in TensorProto.DataType.items()
    if name.startswith(("INT4", "UINT4", "FLOAT4", "INT2", "UINT2"))
}


@dataclass(frozen=True, slots=True)
class Case:
    """One case: `operator` is what it is about, `operators` are all that it uses as (domain, name, since),
    and `small` says that it has types below 8 bits."""

    name: str
    group: str
    operator: str
    operators: frozenset[tuple[str, str, int]] = field(default_factory=frozenset)
    small: bool = False


@functools.cache
def cases() -> dict[str, Case]:
    """Every case by name, in the suite's order."""
    return {case.name: case for group in GROUPS for case in _of_group(group)}


def _of_group(group: str) -> Iterator[Case]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # the suite divides by zero on purpose while it makes its data
        tests = load_model_tests(kind=group)
    about = {test.name: _first(test.model) for test in tests if test.model is not None}
    for test in tests:
        model = test.model if test.model is not None else _read(test)
        opsets = {entry.domain: entry.version for entry in model.opset_import}
        used = frozenset(_version(node, opsets) for node in _nodes(model.graph))
        base = re.sub(r"_expanded(_ver\d+)?$", "", test.name)
        named = about.get(base, _first(model)) if test.model is not None else _first(model)
        operator = named if group == "node" or len(used) == 1 else "several"
        yield Case(test.name, group, operator, used, _has_small(model))


def _read(test: Any) -> onnx.ModelProto:
    folder = Path(onnx.__file__).parent.parent
    path = folder / test.url if test.model_dir is None else Path(test.model_dir) / "model.onnx"
    return onnx.load(path, load_external_data=False)


def _first(model: onnx.ModelProto) -> str:
    names = [node.op_type for node in model.graph.node if node.op_type not in ("Constant", "Identity")]
    return names[0] if names else model.graph.node[0].op_type if model.graph.node else "none"


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _version(node: onnx.NodeProto, opsets: Mapping[str, int]) -> tuple[str, str, int]:
    try:
        since = defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain).since_version
    except defs.SchemaError:
        since = 0
    return node.domain, node.op_type, since


def _has_small(model: onnx.ModelProto) -> bool:
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    kinds = {value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {attribute.t.data_type for node in model.graph.node for attribute in node.attribute}
    return bool(kinds & _SMALL)


def load_suite() -> None:
    """Load what every case needs, and open no device: its threads would not survive a fork."""
    import petaflop_onnx.model  # noqa: F401

    _classes()


@functools.cache
def _classes() -> dict[str, type[unittest.TestCase]]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return BackendTest(PetaflopBackend, __name__).test_cases


def run_case(name: str) -> None:
    """Run one case as the suite itself would; it raises what went wrong."""
    method = f"{name}_cpu"
    test = _classes()[GROUPS[cases()[name].group]](method)
    getattr(test, method)()
