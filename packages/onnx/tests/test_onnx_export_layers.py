"""Every layer of nn, exported with a batch that varies: onnxruntime and our importer against the layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_case import Array, check, operators, run
from onnx_case import assert_close, load_filled, run_onnxruntime

import petaflop_onnx
from petaflop import Tensor, manual_seed, nn

RNG = np.random.default_rng(3)
N = {0: "n"}


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def classes(*shape: int) -> Array:
    return RNG.integers(0, 4, shape)


Case = tuple[Callable[[], nn.Module], Callable[[int], tuple[Array, ...]], tuple[str, ...]]
# the layer, its arguments for a batch of n, and the operators that must be in the file
CASES: dict[str, Case] = {
    "Linear": (lambda: nn.Linear(5, 3), lambda n: (normal(n, 5),), ("Transpose", "MatMul", "Add")),
    "Linear 3-D": (lambda: nn.Linear(5, 3, bias=False), lambda n: (normal(n, 4, 5),), ("MatMul",)),
    "Bilinear": (lambda: nn.Bilinear(3, 4, 2), lambda n: (normal(n, 3), normal(n, 4)), ("MatMul",)),
    "Identity": (nn.Identity, lambda n: (normal(n, 3),), ("Identity",)),
    "Flatten": (nn.Flatten, lambda n: (normal(n, 3, 2),), ("Reshape",)),
    "Embedding": (lambda: nn.Embedding(7, 4), lambda n: (RNG.integers(0, 7, (n, 3)),), ("Gather",)),
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1), lambda n: (normal(n, 2, 9),), ("Conv",)),
    "Conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), lambda n: (normal(n, 3, 5, 6),), ("Conv",)),
    "Conv2d strided": (
        lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 3), dilation=(1, 2)),
        lambda n: (normal(n, 2, 9, 9),),
        ("Conv",),
    ),
    "Conv2d grouped": (
        lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1, bias=False),
        lambda n: (normal(n, 4, 5, 5),),
        ("Conv",),
    ),
    "Conv2d depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), lambda n: (normal(n, 4, 5, 5),), ("Conv",)),
    "Conv2d same": (
        lambda: nn.Conv2d(2, 2, (4, 3), padding="same"),
        lambda n: (normal(n, 2, 5, 5),),
        ("Conv",),
    ),
    "Conv2d 1x1": (lambda: nn.Conv2d(3, 4, 1), lambda n: (normal(n, 3, 5, 6),), ("Conv",)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), lambda n: (normal(n, 2, 3, 4, 3),), ("Conv",)),
    "ConvTranspose1d": (
        lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1),
        lambda n: (normal(n, 2, 5),),
        (),
    ),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2),
        lambda n: (normal(n, 4, 4, 3),),
        (),
    ),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), lambda n: (normal(n, 3, 6, 6),), ("MaxPool",)),
    "MaxPool2d padded": (
        lambda: nn.MaxPool2d(3, stride=2, padding=1),
        lambda n: (normal(n, 3, 7, 6),),
        ("MaxPool",),
    ),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), lambda n: (normal(n, 3, 6, 6),), ()),
    "LayerNorm": (lambda: nn.LayerNorm((3, 6)), lambda n: (normal(n, 3, 6),), ()),
    "RMSNorm": (lambda: nn.RMSNorm(6), lambda n: (normal(n, 3, 6),), ()),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), lambda n: (normal(n, 4, 2, 3),), ()),
    "InstanceNorm1d": (
        lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
        lambda n: (normal(n, 3, 5),),
        (),
    ),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3), lambda n: (normal(n, 3, 4, 4),), ()),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(3), lambda n: (normal(n, 3, 2, 3, 2),), ()),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), lambda n: (normal(n, 4),), ()),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), lambda n: (normal(n, 3, 4, 4),), ()),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(2), lambda n: (normal(n, 2, 2, 3, 2),), ()),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda n: (normal(n, 5, 8),) * 3,
        ("MatMul",),
    ),
    "LSTMCell": (lambda: nn.LSTMCell(3, 4), lambda n: (normal(n, 3),), ("MatMul", "Sigmoid", "Tanh")),
    "GRUCell": (lambda: nn.GRUCell(3, 4), lambda n: (normal(n, 3), normal(n, 4)), ("MatMul",)),
    "LSTM": (
        lambda: nn.LSTM(3, 4, num_layers=2, batch_first=True),
        lambda n: (normal(n, 4, 3),),
        ("MatMul", "Sigmoid", "Tanh"),
    ),
    "Dropout": (lambda: nn.Dropout(0.5), lambda n: (normal(n, 3),), ("Identity",)),
    "Softmax": (lambda: nn.Softmax(-1), lambda n: (normal(n, 3),), ("Exp",)),
    "LogSoftmax": (lambda: nn.LogSoftmax(1), lambda n: (normal(n, 3),), ("Exp", "Log")),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.1), lambda n: (normal(n, 3),), ()),
    "CrossEntropyLoss": (nn.CrossEntropyLoss, lambda n: (normal(n, 4), classes(n)), ()),
    "NLLLoss": (nn.NLLLoss, lambda n: (normal(n, 4), classes(n)), ()),
    "BCELoss": (nn.BCELoss, lambda n: (abs(normal(n, 3)) % 1, abs(normal(n, 3)) % 1), ()),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss, lambda n: (normal(n, 3), abs(normal(n, 3)) % 1), ()),
    "KLDivLoss": (nn.KLDivLoss, lambda n: (normal(n, 3), abs(normal(n, 3))), ()),
    "Sequential": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(16, 3), nn.LogSoftmax(-1),
        ),
        lambda n: (normal(n, 1, 4, 4),),
        ("Conv", "Relu", "MaxPool", "MatMul"),
    ),
}  # fmt: skip
CASES |= {
    name: (getattr(nn, name), lambda n: (normal(n, 9) * 3,), operator)
    for name, operator in {
        "ReLU": ("Relu",), "ReLU6": (), "Sigmoid": ("Sigmoid",), "Tanh": ("Tanh",), "SiLU": ("Sigmoid",),
        "ELU": (), "CELU": (), "SELU": (), "Mish": ("Mish",), "Softplus": ("Softplus",), "Softsign": (),
        "Hardswish": (), "Hardsigmoid": (), "Hardtanh": (), "LogSigmoid": (), "GELU": ("Gelu",),
    }.items()
}  # fmt: skip
CASES |= {
    name: (getattr(nn, name), lambda n: (normal(n, 3), normal(n, 3)), ())
    for name in ("MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss")
}


def test_every_layer_has_a_case() -> None:
    layers = {name for name in nn.__all__ if inspect.isclass(getattr(nn, name))}
    covered = {name.split()[0] for name in CASES}
    assert layers - covered == {"Module", "ModuleList"}  # what others are made of


@pytest.mark.parametrize("name", CASES)
def test_layer(name: str) -> None:
    make, arguments, wanted = CASES[name]
    manual_seed(5)
    layer = make().eval()
    first, second = arguments(2), arguments(3)
    model = check(layer, *first, dynamic=[N] * len(first), others=[second], tolerance=2e-5)
    assert set(wanted) <= set(operators(model)), operators(model)
    assert all(info.type.tensor_type.shape.dim[0].dim_param == "n" for info in model.graph.input)


def test_parameters_keep_their_names_and_the_layer_its_mode() -> None:
    layer = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    x = Tensor(normal(5, 3))
    loss = layer(x).square().mean()
    model = petaflop_onnx.export(layer, inputs={"x": "float32[n?,3]"}, outputs=["y"])
    state = {name for name in layer.state_dict() if "num_batches" not in name}
    assert state <= {each.name for each in model.graph.initializer}
    assert [each.name for each in model.graph.output] == ["y"]
    assert all(each.training for each in layer.modules())
    assert all(each.requires_grad for each in layer.parameters())
    loss.backward()  # the graph that was built before the export still knows its leaves
    assert all(each.grad is not None for each in layer.parameters())


def test_a_shared_weight_is_written_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids))

    model = check(Tied(), RNG.integers(0, 7, (2, 3)), dynamic=[N])
    assert [each.name for each in model.graph.initializer if list(each.dims) == [7, 4]] == ["embed.weight"]


def test_two_sizes_vary() -> None:
    layer = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)).eval()
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()

    def block(x: Tensor) -> Tensor:
        y = layer(x)
        return attention(y, y, y, is_causal=True, need_weights=False)[0]

    model = check(
        block, normal(2, 5, 8), dynamic=[{0: "n", 1: "t"}], others=[[normal(3, 7, 8)]], tolerance=2e-5
    )
    assert "Range" in operators(model)  # the mask is made for the length at hand


def test_the_opset_is_the_one_asked_for() -> None:
    layer, x = nn.GELU(), normal(2, 4)
    older, newer = (check(layer, x, opset=opset) for opset in (18, 23))
    assert "Gelu" not in operators(older) and operators(newer) == ["Gelu"]
    assert [each.version for each in (older.opset_import[0], newer.opset_import[0])] == [18, 23]


def test_weights_beside_the_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from petaflop_onnx.exporter import front

    monkeypatch.setattr(front, "_LARGEST_FILE", 1024)
    layer, x = nn.Linear(64, 32), normal(2, 64)
    path = tmp_path / "large.onnx"
    petaflop_onnx.export(layer, path, inputs={"x": x})
    assert (tmp_path / "large.onnx.data").stat().st_size >= 64 * 32 * 4 > path.stat().st_size
    onnx.checker.check_model(str(path), full_check=True)
    got = petaflop_onnx.load(path)({"x": x})["output"].numpy()
    np.testing.assert_allclose(got, layer(Tensor(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_an_imported_network_is_written_again(tmp_path: Path) -> None:
    """Every convolution is one again, and the first file's answer is the second's in onnxruntime."""
    first = load_filled(Path(__file__).parent / "data" / "mobilenetv2.onnx")
    path = tmp_path / "first.onnx"
    path.write_bytes(first.SerializeToString())
    network = petaflop_onnx.load(path)
    (name,), x = (each.name for each in network.inputs), normal(1, 3, 224, 224)
    second = petaflop_onnx.export(lambda y: network({name: y}), inputs={name: x})
    assert [operators(model).count("Conv") for model in (first, second)] == [52, 52]
    assert [each.name for each in second.graph.output] == [each.name for each in first.graph.output]
    assert_close(run(second, {name: x}), run_onnxruntime(first, {name: x}))
