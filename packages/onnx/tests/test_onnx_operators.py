"""Every handler on one node, against onnxruntime. One line per case: operator, opset, inputs, attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_case import Array, assert_close, feeds_of, node_model, run_onnxruntime, run_petaflop

from petaflop_onnx.suite.cases import cases
from petaflop_onnx.suite.report import read_baseline
from petaflop_onnx.table import TABLE, Operator

_random = np.random.default_rng(7)


def f(*shape: int, dtype: Any = np.float32) -> Array:
    return _random.standard_normal(shape).astype(dtype)


def u(*shape: int, low: float = 0.1, high: float = 0.9) -> Array:
    return _random.uniform(low, high, shape).astype(np.float32)


def i(*shape: int, low: int = -9, high: int = 9, dtype: Any = np.int32) -> Array:
    return _random.integers(low, high, shape).astype(dtype)


def b(*shape: int) -> Array:
    return _random.integers(0, 2, shape).astype(np.bool_)


def n(*values: int) -> Array:
    return np.asarray(values, np.int64)


def s(value: float, dtype: Any = np.float32) -> Array:
    return np.asarray(value, dtype)


@dataclass
class Case:
    op: str
    opset: int
    inputs: list[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    constant: tuple[int, ...] = ()
    outputs: int = 1
    tolerance: float = 2e-5

    def __str__(self) -> str:
        notes = "-".join(f"{name}={value}" for name, value in self.attributes.items())
        return f"{self.op}-{self.opset}-{notes}".replace(" ", "")


def case(
    op: str,
    opset: int,
    *inputs: Array | None,
    constant: tuple[int, ...] = (),
    outputs: int = 1,
    **attributes: Any,
) -> Case:
    return Case(op, opset, list(inputs), attributes, constant, outputs)


_regions = np.asarray([[0, 0, 0, 7, 7], [1, 2, 1, 5, 6], [0, 3, 3, 3, 3]], np.float32)
_UNARY = "Abs Atan Asinh Ceil Cos Cosh Erf Exp Floor IsNaN Neg Reciprocal Round Sign Sin Sinh Tan Tanh"
_CASES: list[Case] = [
    *(case(op, 13, f(3, 5)) for op in _UNARY.split()),
    *(case(op, 13, u(3, 5)) for op in ["Acos", "Asin", "Atanh", "Log", "Sqrt"]),
    case("MaxRoiPool", 13, f(2, 3, 8, 8), _regions, pooled_shape=[2, 3]),
    case("MaxRoiPool", 13, f(2, 3, 8, 8), _regions, pooled_shape=[3, 1], spatial_scale=0.5),
    case("Acosh", 13, u(3, 5, low=1.1, high=5)),
    case("Round", 13, np.asarray([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)),
    case("IsNaN", 13, np.asarray([np.nan, 1, np.inf], np.float32)),
    *(
        case(
            "IsInf",
            13,
            np.asarray([np.nan, 1, np.inf, -np.inf], np.float32),
            detect_positive=p,
            detect_negative=m,
        )
        for p in (0, 1)
        for m in (0, 1)
    ),
    case("Not", 13, b(5)),
    case("BitwiseNot", 18, i(5)),
    case("Identity", 13, f(2, 3)),
    case("Dropout", 10, f(2, 3)),
    case("Dropout", 13, f(2, 3), s(0.5), constant=(1,)),
    *(case(op, 14, f(2, 3, 4), f(3, 1)) for op in ["Add", "Sub", "Mul", "Div"]),
    *(case(op, 7, f(2, 3), f(3)) for op in ["Add", "Sub", "Mul", "Div"]),
    case("Div", 14, np.asarray([-7, 7, -7, 7, 6], np.int32), np.asarray([2, -2, -2, 2, 3], np.int32)),
    *(case(op, 13, b(4, 3), b(3)) for op in ["And", "Or", "Xor"]),
    *(case(op, 13, i(4, 3, low=0, high=3), i(3, low=0, high=3)) for op in ["Equal", "Greater", "Less"]),
    *(case(op, 16, f(4, 3), f(3)) for op in ["GreaterOrEqual", "LessOrEqual"]),
    *(case(op, 18, i(4, 3), i(3)) for op in ["BitwiseAnd", "BitwiseOr", "BitwiseXor"]),
    case(
        "BitShift",
        11,
        i(4, low=0, high=50, dtype=np.uint32),
        i(4, low=0, high=5, dtype=np.uint32),
        direction="LEFT",
    ),
    case(
        "BitShift",
        11,
        i(4, low=0, high=50, dtype=np.uint32),
        i(4, low=0, high=5, dtype=np.uint32),
        direction="RIGHT",
    ),
    case("Mod", 13, i(9), np.asarray([4, -4, 3, -3, 2, 5, -5, 7, -7], np.int32)),
    case("Mod", 13, f(9), f(9), fmod=1),
    case("Pow", 15, u(3, 4), f(4)),
    case("Pow", 15, i(5, low=0, high=6), s(3, np.int32)),
    *(case("Pow", 15, u(3, 4), s(value), constant=(1,)) for value in (2, 3, 0.5, -1.5)),
    *(case(op, 13, f(2, 3), f(3), f(1, 3)) for op in ["Max", "Min", "Sum", "Mean"]),
    case("Max", 13, np.asarray([1, np.nan], np.float32), np.asarray([np.nan, 2], np.float32)),
    case("Where", 16, b(2, 3), f(2, 3), f(3)),
    case("Clip", 13, f(9), s(-0.5), s(0.5)),
    case("Clip", 13, f(9), None, s(0.5), constant=(2,)),
    case("Clip", 6, f(9), min=-0.5, max=0.25),
    *(case("Cast", 13, f(9) * 5, to=to) for to in (6, 7, 10, 11, 9, 3)),
    case("Cast", 13, i(9), to=1),
    case("CastLike", 19, f(9) * 5, i(1)),
    # activations
    *(case(op, 14, f(3, 5) * 3) for op in ["Relu", "Sigmoid", "Softplus", "Softsign", "HardSwish"]),
    case("Mish", 18, f(3, 5)),
    *(case("Gelu", 20, f(3, 5), approximate=a) for a in ("none", "tanh")),
    *(case(op, 16, f(3, 5), alpha=0.3) for op in ["LeakyRelu", "Elu", "ThresholdedRelu", "Celu"]),
    case("Selu", 6, f(3, 5), alpha=1.5, gamma=1.1),
    case("HardSigmoid", 6, f(3, 5) * 3, alpha=0.3, beta=0.4),
    case("Shrink", 9, f(3, 5), bias=0.1, lambd=0.3),
    case("PRelu", 16, f(2, 3, 4), f(3, 1)),
    *(
        case(op, 13, f(2, 3, 4), axis=axis)
        for op in ["Softmax", "LogSoftmax", "Hardmax"]
        for axis in (0, 1, -1)
    ),
    *(
        case(op, 11, f(2, 3, 4), axis=axis)
        for op in ["Softmax", "LogSoftmax", "Hardmax"]
        for axis in (0, 1, 2)
    ),
    # reductions
    *(
        case(f"Reduce{kind}", 18, u(2, 3, 4), n(*axes), constant=(1,), keepdims=keep)
        for kind in ["Sum", "Mean", "Prod", "Max", "Min", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"]
        for axes, keep in (((1,), 1), ((0, -1), 0))
    ),
    *(
        case(f"Reduce{kind}", 11, u(2, 3, 4), axes=[1])
        for kind in ["Sum", "Mean", "Prod", "Max", "Min", "L2", "LogSumExp"]
    ),
    case("ReduceSum", 13, f(2, 3), noop_with_empty_axes=1),
    case("ReduceSum", 13, f(2, 3)),
    case("ReduceSum", 13, i(2, 3), n(1)),
    *(case(op, 13, f(3, 5), axis=1, keepdims=keep) for op in ("ArgMax", "ArgMin") for keep in (0, 1)),
    *(case(op, 13, i(3, 9, low=0, high=3), axis=1, select_last_index=1) for op in ("ArgMax", "ArgMin")),
    *(
        case("CumSum", 14, f(3, 5), s(1, np.int64), exclusive=exclusive, reverse=reverse)
        for exclusive in (0, 1)
        for reverse in (0, 1)
    ),
    case("TopK", 11, f(3, 9), n(4), outputs=2, axis=1),
    case("TopK", 11, f(9, 3), n(4), outputs=2, axis=0, largest=0),
    # movement
    case("Reshape", 14, f(2, 3, 4), n(0, -1)),
    case("Reshape", 14, f(2, 3, 4), n(4, 6), constant=(1,)),
    *(case("Flatten", 13, f(2, 3, 4), axis=axis) for axis in (0, 1, 3, -1)),
    case("Transpose", 13, f(2, 3, 4)),
    case("Transpose", 13, f(2, 3, 4), perm=[1, 0, 2]),
    case("Squeeze", 13, f(2, 1, 3, 1), n(1, -1)),
    case("Squeeze", 11, f(2, 1, 3, 1)),
    case("Unsqueeze", 13, f(2, 3), n(0, -1)),
    case("Unsqueeze", 11, f(2, 3), axes=[0, 3]),
    case("Expand", 13, f(3, 1), n(2, 1, 4)),
    case("Tile", 13, f(2, 3), n(2, 3)),
    case("Concat", 13, f(2, 3), f(2, 1), f(2, 2), axis=1),
    case("Concat", 13, f(2, 3), axis=0),
    case("Split", 18, f(2, 7), outputs=3, axis=1, num_outputs=3),
    case("Split", 13, f(2, 6), n(1, 2, 3), constant=(1,), outputs=3, axis=1),
    case("Split", 11, f(6, 2), outputs=2, split=[4, 2]),
    case("Slice", 13, f(5, 6), n(1, -1), n(4, -100), n(0, 1), n(2, -2)),
    case("Slice", 13, f(5, 6), n(-3), n(1000), n(1)),
    case("Slice", 13, f(5, 6), n(4), n(1)),
    *(case("Pad", 13, f(4, 5), n(1, 2, 0, 3), mode=mode) for mode in ("constant", "reflect", "edge")),
    case("Pad", 13, f(4, 5), n(1, -1, 0, 3), s(7.5)),
    case("Pad", 18, f(4, 5), n(1, 2), s(-1), n(1), constant=(2,)),
    case("Pad", 19, f(4, 5), n(1, 2, 3, 4), mode="wrap"),
    *(case("DepthToSpace", 13, f(1, 8, 2, 3), blocksize=2, mode=mode) for mode in ("DCR", "CRD")),
    case("SpaceToDepth", 13, f(1, 2, 4, 6), blocksize=2),
    case("Constant", 13, value_floats=[1.0, 2.5]),
    case("Constant", 13, value_ints=[3, 4]),
    case("ConstantOfShape", 9, n(2, 3)),
    case("Range", 11, s(1), s(5), s(0.5)),
    case("Range", 11, s(10, np.int64), s(1, np.int64), s(-3, np.int64)),
    case("EyeLike", 9, f(3, 5), k=1),
    case("Trilu", 14, f(2, 4, 5), s(1, np.int64), constant=(1,), upper=1),
    case("Trilu", 14, f(4, 5), upper=0),
    case("Shape", 13, f(2, 3, 4)),
    case("Shape", 15, f(2, 3, 4), start=1, end=-1),
    case("Size", 13, f(2, 3, 4)),
    # indexing
    case("Gather", 13, f(5, 4), i(2, 3, low=-4, high=4, dtype=np.int64), axis=1),
    case("Gather", 13, f(5, 4), n(0, -1, 3), constant=(1,)),
    case("Gather", 13, f(5, 4), s(-2, np.int64), constant=(1,), axis=1),
    case("GatherElements", 13, f(3, 4), i(2, 4, low=-3, high=3, dtype=np.int64), axis=0),
    case("GatherND", 13, f(3, 4, 5), np.asarray([[0, 1], [2, -1]], np.int64)),
    case("GatherND", 13, f(2, 3, 4), np.asarray([[1], [0]], np.int64), batch_dims=1),
    case("ScatterElements", 16, f(3, 4), n(1, 0, 2, 1).reshape(1, 4), f(1, 4)),
    case("ScatterElements", 16, f(3, 4), n(1, 1, 2, 2).reshape(2, 2), f(2, 2), reduction="add", axis=0),
    case("ScatterElements", 18, f(3, 4), n(1, 1, 2, -1).reshape(2, 2), f(2, 2), reduction="max", axis=1),
    case("ScatterND", 16, f(4, 3), n(1, 3).reshape(2, 1), f(2, 3)),
    case("ScatterND", 16, f(4, 3), n(1, 0, 1, 0).reshape(2, 2), f(2), reduction="add"),
    case("OneHot", 11, n(0, 2, -1), n(4), np.asarray([-1, 5], np.float32), axis=0),
    case("Compress", 11, f(4, 3), np.asarray([True, False, True]), axis=0),
    case("Compress", 11, f(4, 3), np.asarray([True, False, True, True])),
    case("ReverseSequence", 10, f(4, 3), n(4, 2, 1), time_axis=0, batch_axis=1),
    case("CenterCropPad", 18, f(5, 4), n(3, 7)),
    # products
    case("MatMul", 13, f(2, 3, 4), f(4, 5)),
    case("MatMul", 13, f(4), f(2, 4, 3)),
    case("Gemm", 13, f(3, 4), f(4, 5), f(5)),
    case("Gemm", 13, f(4, 3), f(5, 4), f(3, 1), transA=1, transB=1, alpha=0.5, beta=2.0),
    case("Gemm", 13, f(3, 4), f(4, 5)),
    case("Einsum", 12, f(2, 3, 4), f(2, 4, 5), equation="bij, bjk -> bik"),
    case(
        "MatMulInteger",
        10,
        i(3, 4, low=0, dtype=np.uint8),
        i(4, 5, dtype=np.int8),
        s(3, np.uint8),
        s(-2, np.int8),
    ),
    # convolutions and pools
    case("Conv", 11, f(2, 4, 7, 8), f(6, 4, 3, 2), f(6), strides=[2, 1], pads=[1, 0, 1, 1]),
    case("Conv", 11, f(1, 4, 7, 7), f(4, 1, 3, 3), group=4, dilations=[2, 2], pads=[2, 2, 2, 2]),
    case("Conv", 11, f(1, 2, 9), f(3, 2, 3), auto_pad="SAME_LOWER", strides=[2]),
    case("Conv", 11, f(1, 2, 4, 5, 6), f(3, 2, 2, 2, 2), auto_pad="VALID"),
    case(
        "ConvInteger",
        10,
        i(1, 1, 4, 4, low=0, dtype=np.uint8),
        i(1, 1, 2, 2, low=0, dtype=np.uint8),
        s(2, np.uint8),
    ),
    case("ConvTranspose", 11, f(1, 3, 4, 5), f(3, 2, 3, 3), f(2), strides=[2, 2], pads=[1, 0, 1, 1]),
    case("ConvTranspose", 11, f(1, 4, 5), f(4, 1, 3), group=2, output_padding=[1], strides=[2]),
    case("ConvTranspose", 11, f(1, 3, 4, 4), f(3, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", 12, f(1, 2, 7, 8), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    case("MaxPool", 12, f(1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", 12, f(1, 2, 9), kernel_shape=[3], dilations=[2]),
    case("AveragePool", 11, f(1, 2, 7, 8), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    case("AveragePool", 11, f(1, 2, 7, 8), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case(
        "AveragePool", 19, f(1, 2, 7, 7), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 1, 1, 1]
    ),
    case("LpPool", 18, f(1, 2, 7, 8), kernel_shape=[3, 3], p=2),
    *(case(f"Global{kind}Pool", 13, f(2, 3, 4, 5)) for kind in ("Max", "Average", "Lp")),
    *(case("LpNormalization", 13, f(2, 3, 4), p=p, axis=1) for p in (1, 2)),
    # normalizations
    case("BatchNormalization", 15, f(2, 3, 4), f(3), f(3), f(3), u(3), epsilon=1e-3),
    case("InstanceNormalization", 13, f(2, 3, 4, 5), f(3), f(3)),
    case("LayerNormalization", 17, f(2, 3, 4), f(4), f(4)),
    case("LayerNormalization", 17, f(2, 3, 4), f(3, 4), axis=1),
    case("RMSNormalization", 23, f(2, 3, 4), f(4)),
    case("GroupNormalization", 21, f(2, 6, 4), f(6), f(6), num_groups=3),
    case("MeanVarianceNormalization", 13, f(2, 3, 4, 5)),
    case("LRN", 13, f(2, 5, 3, 4), size=3, alpha=0.1, beta=0.6, bias=1.5),
    # quantization
    case("QuantizeLinear", 13, f(3, 4) * 50, s(0.5), s(100, np.uint8)),
    case("QuantizeLinear", 13, f(3, 4) * 50, u(4), i(4, dtype=np.int8), axis=1),
    case("DequantizeLinear", 13, i(3, 4, low=0, dtype=np.uint8), s(0.5), s(4, np.uint8)),
    case("DequantizeLinear", 13, i(3, 4, dtype=np.int8), u(3), i(3, dtype=np.int8), axis=0),
    case("DynamicQuantizeLinear", 11, f(3, 4), outputs=3),
    # recurrent: X [T, B, I], W [D, gates * H, I], R [D, gates * H, H], B [D, 2 * gates * H]
    case("RNN", 14, f(4, 2, 3), f(1, 5, 3), f(1, 5, 5), f(1, 10), outputs=2, hidden_size=5),
    *(
        case(
            "GRU",
            14,
            f(4, 2, 3),
            f(1, 15, 3),
            f(1, 15, 5),
            f(1, 30),
            None,
            f(1, 2, 5),
            outputs=2,
            hidden_size=5,
            linear_before_reset=linear,
        )
        for linear in (0, 1)
    ),
    case("GRU", 14, f(4, 2, 3), f(1, 15, 3), f(1, 15, 5), outputs=2, hidden_size=5, direction="reverse"),
    case(
        "LSTM",
        14,
        f(4, 2, 3),
        f(2, 20, 3),
        f(2, 20, 5),
        f(2, 40),
        np.asarray([4, 2], np.int32),
        f(2, 2, 5),
        f(2, 2, 5),
        f(2, 15),
        outputs=3,
        hidden_size=5,
        direction="bidirectional",
    ),
    case("LSTM", 14, f(4, 2, 3), f(1, 20, 3), f(1, 20, 5), outputs=3, hidden_size=5, clip=0.7),
    # resize
    *(
        case(
            "Resize", 13, f(1, 2, 4, 5), None, np.asarray([1, 1, 1.5, 2], np.float32), constant=(2,), **modes
        )
        for modes in (
            {"mode": "nearest"},
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
            {"mode": "linear"},
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            {"mode": "cubic"},
            {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel", "exclude_outside": 1},
        )
    ),
    case("Resize", 13, f(1, 2, 4, 5), None, None, n(1, 2, 7, 3), constant=(3,), mode="linear"),
    case("Resize", 10, f(1, 2, 4, 5), np.asarray([1, 1, 2, 2], np.float32), constant=(1,), mode="nearest"),
    case("Upsample", 9, f(1, 2, 4, 5), np.asarray([1, 1, 2, 3], np.float32), constant=(1,), mode="nearest"),
    case("Upsample", 7, f(1, 2, 4, 5), mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]),
]


@pytest.mark.parametrize("one", _CASES, ids=str)
def test_operator(one: Case, tmp_path: Path) -> None:
    model = node_model(one.op, one.opset, one.inputs, one.outputs, one.constant, **one.attributes)
    feeds = feeds_of(one.inputs, one.constant)
    assert_close(run_petaflop(model, feeds, tmp_path), run_onnxruntime(model, feeds), one.tolerance)


# ---- what onnxruntime does not run: the versions before 7, and the newest ----


def _legacy(op: str, opset: int, *inputs: Array, **attributes: Any) -> Case:
    return Case(op, opset, list(inputs), attributes)


_x, _y, _matrix, _mask = f(2, 3, 4), f(3), f(3, 3), b(3, 3)
_OLD: list[tuple[Case, Array]] = [
    (_legacy("Add", 6, _x, _y, broadcast=1, axis=1), _x + _y[:, None]),
    (_legacy("Where", 16, _mask, ~_mask, _mask.T), np.where(_mask, ~_mask, _mask.T)),
    (_legacy("Equal", 1, n(1, 2), n(1, 3)), np.asarray([True, False])),
    (_legacy("Pow", 1, np.abs(_x), _y, broadcast=1, axis=1), np.abs(_x) ** _y[:, None]),
    (_legacy("Gemm", 6, _matrix, _matrix, _y, broadcast=1), _matrix @ _matrix + _y),
    (_legacy("Dropout", 6, _x, is_test=1), _x),
    (_legacy("PRelu", 6, _x, _y), np.where(_x < 0, _x * _y[:, None], _x)),
    (_legacy("Reshape", 1, _x, shape=[0, -1]), _x.reshape(2, 12)),
    (_legacy("Tile", 1, _x, np.asarray(2, np.float32), np.asarray(1, np.float32)), np.tile(_x, (1, 2, 1))),
    (_legacy("Cast", 1, _x, to="INT32"), _x.astype(np.int32)),
    (
        _legacy("Pad", 1, _x, paddings=[0, 0, 1, 0, 0, 0], value=3.0),
        np.pad(_x, ((0, 0), (0, 0), (1, 0)), constant_values=3),
    ),
    (_legacy("Slice", 1, _x, starts=[1], ends=[3], axes=[1]), _x[:, 1:3]),
    (_legacy("CumProd", 26, _x, s(1, np.int64)), _x.cumprod(1)),
    (_legacy("Swish", 24, _x, alpha=1.5), _x / (1 + np.exp(-1.5 * _x))),
]


@pytest.mark.parametrize(
    ("one", "expected"), _OLD, ids=lambda value: str(value) if isinstance(value, Case) else ""
)
def test_old_and_new_versions(one: Case, expected: Array, tmp_path: Path) -> None:
    model = node_model(one.op, one.opset, one.inputs, **one.attributes)
    assert_close(run_petaflop(model, feeds_of(one.inputs), tmp_path), [expected])


def test_top_k_by_attribute(tmp_path: Path) -> None:
    x = f(3, 9)
    values, places = run_petaflop(node_model("TopK", 1, [x], 2, k=3), {"x0": x}, tmp_path)
    np.testing.assert_array_equal(values, np.sort(x)[:, ::-1][:, :3])
    np.testing.assert_array_equal(np.take_along_axis(x, places, 1), values)


def test_every_handler_has_a_case() -> None:
    """Here or in a case of the official suite that passes. Handlers that one factory makes count as one."""
    tested = {_row(one).handler.__code__ for one in [*_CASES, *(one for one, _ in _OLD)]}
    _, passing = read_baseline(Path(__file__).parent / "data" / "suite_passes.txt")
    used = {row for name in passing for row in cases()[name].operators}
    tested |= {TABLE[row].handler.__code__ for row in used if row in TABLE}
    missing = {f"{row.name}-{row.since}" for row in TABLE.values() if row.handler.__code__ not in tested}
    elsewhere = {"TopK-1", *(f"Random{kind}-{since}" for kind in _RANDOM for since in (1, 22))}
    elsewhere |= {"Bernoulli-15", "Bernoulli-22", "Multinomial-7", "Multinomial-22", "MatMulNBits-1"}
    assert missing == elsewhere  # which have tests of their own


_RANDOM = ("Normal", "NormalLike", "Uniform", "UniformLike")


def _row(one: Case) -> Operator:
    rows = [row for (_, name, since), row in TABLE.items() if name == one.op and since <= one.opset]
    return max(rows, key=lambda row: row.since)
