"""Helpers of the ONNX tests: one-node models, the same answer from onnxruntime, and weights for weight-free
files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import petaflop_onnx

Array = np.ndarray[Any, Any]
onnxruntime.set_default_logger_severity(4)


def node_model(
    op: str,
    opset: int,
    inputs: Sequence[Array | None],
    outputs: int = 1,
    constant: Sequence[int] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node; the inputs at the positions `constant` are initializers."""
    names = ["" if array is None else f"x{k}" for k, array in enumerate(inputs)]
    results = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(op, names, results, name=op.lower(), **attributes)
    present = [(k, array) for k, array in enumerate(inputs) if array is not None]
    infos = [
        helper.make_tensor_value_info(f"x{k}", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for k, array in present
        if k not in constant
    ]
    weights = [numpy_helper.from_array(array, f"x{k}") for k, array in present if k in constant]
    unknown = [onnx.ValueInfoProto(name=name) for name in results]
    graph = helper.make_graph([node], "one", infos, unknown, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model)
    for output in inferred.graph.output:
        if (
            output.type.WhichOneof("value") is None
        ):  # inference gave up: every case here has float outputs then
            output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, None))
    return inferred


def feeds_of(inputs: Sequence[Array | None], constant: Sequence[int] = ()) -> dict[str, Array]:
    return {f"x{k}": array for k, array in enumerate(inputs) if array is not None and k not in constant}


def run_petaflop(model: onnx.ModelProto, feeds: dict[str, Array], folder: Path) -> list[Array]:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return [value.numpy() for value in petaflop_onnx.load(path)(feeds).values()]


def run_onnxruntime(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def assert_close(got: Sequence[Array], expected: Sequence[Array], tolerance: float = 1e-5) -> None:
    """Equal shapes and dtypes; integers equal; floats within `tolerance` of the largest value."""
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        if theirs.dtype.kind in "biu":
            np.testing.assert_array_equal(ours, theirs)
            continue
        finite = np.abs(theirs[np.isfinite(theirs)].astype(np.float64))
        scale = float(finite.max(initial=0.0)) or 1.0
        np.testing.assert_allclose(
            ours.astype(np.float64), theirs.astype(np.float64), tolerance, tolerance * scale
        )


# ---- weight-free files: a tensor whose doc_string is "fill:mean:deviation" ----

_DTYPES = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}


def _fill(tensor: TensorProto) -> None:
    """Uniform numbers of that mean and deviation, a function of the tensor's name and shape alone."""
    _, mean_text, deviation_text = tensor.doc_string.split(":")
    mean, deviation = float(mean_text), float(deviation_text)
    dtype, count = _DTYPES[tensor.data_type], int(np.prod(tensor.dims))
    if deviation == 0:
        values = np.full(count, mean, dtype)
    else:
        key = int.from_bytes(hashlib.sha256(tensor.name.encode()).digest()[:16], "little")
        bits = np.random.Philox(key=key).random_raw((count + 1) // 2).view(np.uint32)[:count]
        unit = bits.astype(np.float32) * np.float32(2**-32)
        start, width = np.float32(mean - deviation * 3**0.5), np.float32(deviation * 12**0.5)
        values = (unit * width + start).astype(dtype)
    tensor.raw_data = values.tobytes()
    tensor.doc_string = ""


def load_filled(path: Path) -> onnx.ModelProto:
    """A weight-free file with its weights made again."""
    model = onnx.load(path)
    constants = [
        attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and not attribute.t.name:
                attribute.t.name = node.output[0]
    for tensor in [*model.graph.initializer, *constants]:
        if tensor.doc_string.startswith("fill:"):
            _fill(tensor)
    return model


GRAPHS = {  # weight-free graphs in data/ -> the sizes that their named dimensions get
    "llama-tiny": {"seq": 4, "past": 9, "total": 13},
    "minilm-l6": {"batch": 1, "seq": 128},
    "mobilenetv2": {"batch": 1, "height": 224, "width": 224},
    "openpilot-like": {},
    "resnet50": {"batch": 1, "height": 224, "width": 224},
    "sd15-unet-small": {},
    "vit-tiny": {},
    "whisper-tiny-encoder": {},
}


def feeds_for(model: onnx.ModelProto, sizes: dict[str, int], seed: int = 0) -> dict[str, Array]:
    """Made-up inputs: normal floats, ones where a mask is asked for, positions that count on from the past,
    small numbers elsewhere."""
    rng = np.random.default_rng(seed)
    given = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for info in model.graph.input:
        if info.name in given:
            continue
        dims = info.type.tensor_type.shape.dim
        shape = tuple(sizes[dim.dim_param] if dim.dim_param else dim.dim_value for dim in dims)
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        if "mask" in info.name:
            feeds[info.name] = np.ones(shape, dtype)
        elif "position" in info.name:
            feeds[info.name] = np.broadcast_to(np.arange(shape[-1]) + sizes.get("past", 0), shape).astype(
                dtype
            )
        elif dtype.kind in "iu":
            feeds[info.name] = rng.integers(0, 2, shape).astype(dtype)
        else:
            feeds[info.name] = rng.standard_normal(shape).astype(dtype)
    return feeds
