"""The backend as `onnx.backend` asks for it: devices, nodes by themselves, scalars and outputs by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.backend.base import Backend, BackendRep
from onnx_case import assert_close, feeds_of, node_model, run_onnxruntime

from petaflop.errors import ArgumentError, FileFormatError
from petaflop_onnx.backend import PetaflopBackend


def _x(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def test_devices() -> None:
    assert issubclass(PetaflopBackend, Backend)
    assert PetaflopBackend.supports_device("CPU") and PetaflopBackend.supports_device("reference")
    assert not PetaflopBackend.supports_device("CUDA") and not PetaflopBackend.supports_device("cuda:1")
    with pytest.raises(ArgumentError, match=r"device: expected CPU .* got 'CUDA'"):
        PetaflopBackend.prepare(node_model("Relu", 13, [_x(2)]), "CUDA")


@pytest.mark.parametrize("device", ["CPU", "reference", "CPU:0"])
def test_a_model(device: str) -> None:
    inputs = [_x(3, 4), _x(4)]
    model = node_model("Sub", 14, inputs)
    expected = run_onnxruntime(model, feeds_of(inputs))
    rep = PetaflopBackend.prepare(model, device)
    assert isinstance(rep, BackendRep) and PetaflopBackend.is_compatible(model)
    assert_close(list(rep.run(inputs)), expected)
    assert_close(list(PetaflopBackend.run_model(model, inputs, device)), expected)
    assert_close([rep.run(inputs).y0], expected)  # type: ignore[attr-defined]
    assert type(rep.run(inputs)[0]) is np.ndarray


def test_one_input_needs_no_list_and_too_many_are_refused() -> None:
    rep = PetaflopBackend.prepare(node_model("Neg", 13, [_x(2)]))
    np.testing.assert_array_equal(rep.run(_x(2))[0], -_x(2))
    with pytest.raises(ArgumentError, match="expected at most 1 inputs, got 2"):
        rep.run([_x(2), _x(2)])


def test_scalars_of_numpy_are_tensors_without_axes() -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    (got,) = PetaflopBackend.run_node(node, [np.float32(1.5), np.float32(2)])
    assert got.shape == () and got.dtype == np.float32 and got == 3.5


def test_nodes_by_themselves() -> None:
    node = helper.make_node("TopK", ["x", "k"], ["values", "places"])
    got = PetaflopBackend.run_node(node, [_x(3, 7), np.asarray([2])])
    np.testing.assert_array_equal(got[0], np.sort(_x(3, 7))[:, ::-1][:, :2])
    np.testing.assert_array_equal(np.take_along_axis(_x(3, 7), got[1], 1), got[0])
    softmax = helper.make_node("Softmax", ["x"], ["y"])
    rows, whole = (
        PetaflopBackend.run_node(softmax, [_x(2, 3, 4)], opset_version=opset)[0] for opset in (13, 11)
    )
    np.testing.assert_allclose(rows.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        whole.sum((1, 2)), 1, rtol=1e-5
    )  # before opset 13 all from the axis on is a row


def test_what_it_lacks_is_named() -> None:
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", scale=[2.0])
    with pytest.raises(FileFormatError, match=r"expected supported operators, got ai\.onnx\.ml::Scaler-1"):
        PetaflopBackend.run_node(node, [_x(1, 2)])


def test_weights_that_are_inputs_too_are_not_asked_for() -> None:
    """As files before IR version 4 have them."""
    model = node_model("Add", 13, [_x(2), _x(2)], constant=(1,))
    model.graph.input.append(helper.make_tensor_value_info("x1", onnx.TensorProto.FLOAT, [2]))
    (got,) = PetaflopBackend.run_model(model, [_x(2)])
    np.testing.assert_array_equal(got, _x(2) * 2)
