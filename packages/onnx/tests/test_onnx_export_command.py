"""`petaflop export` as its user types it: what it writes, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from export_case import run

from petaflop.cli import main
from petaflop.state import safe_save

PROGRAM = """
from petaflop import Tensor, nn

class Net(nn.Module):
    def __init__(self, width=4):
        self.a = nn.Linear(8, width)

    def forward(self, x):
        return self.a(x).softmax(-1)

class Asks(nn.Module):
    def __init__(self, width):
        pass

def both(a, b):
    return a + b, a @ b.T

net, number = Net(), 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the program, in which the command runs."""
    (tmp_path / "exported_net.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_class_with_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = np.arange(32, dtype=np.float32).reshape(4, 8) / 50
    safe_save({"a.weight": weight, "a.bias": np.ones(4, np.float32)}, "w.safetensors")
    words = [
        "exported_net.py:Net",
        "--input",
        "x=float32[n?,8]",
        "--weights",
        "w.safetensors",
        "-o",
        "net.onnx",
    ]
    assert main(["export", *words, "--name", "share"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("net.onnx: (x: float32[n, 8]) → (share: float32[n, 4]); opset 20, ")
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    e = np.exp(x.astype(np.float64) @ weight.T + 1)
    (got,) = run(onnx.load("net.onnx"), {"x": x})
    np.testing.assert_allclose(got, e / e.sum(1, keepdims=True), rtol=1e-5)
    np.save("x.npy", x)
    assert main(["run", "net.onnx", "--input", "x=x.npy", "--output", "y.npz"]) == 0
    with np.load("y.npz") as ours:
        np.testing.assert_allclose(ours["share"], got, rtol=1e-5)


def test_a_function_of_a_module(folder: Path) -> None:
    words = ["--input", "a=float64[2,3]", "--input", "b=float64[2,3]", "--opset", "21", "-o", "both.onnx"]
    assert main(["export", "exported_net:both", *words]) == 0
    model = onnx.load("both.onnx")
    assert model.opset_import[0].version == 21 and model.producer_name == "petaflop"
    assert main(["export", "exported_net:net.a.forward", "--input", "x=float32[8]", "-o", "a.onnx"]) == 0
    assert {"a.weight", "weight"} & {each.name for each in onnx.load("a.onnx").graph.initializer}


WRONG = {
    "exported_net": "expected MODULE:NAME",
    "nowhere:Net": "expected a module that exists, got 'nowhere'",
    "nowhere.py:Net": "expected a file that exists, got 'nowhere.py'",
    "exported_net:Other": "expected a name in exported_net, got 'Other'",
    "exported_net:number": "expected a function or a model as number, got int",
    "exported_net:Asks": "expected a class that is made without arguments, got Asks",
}


@pytest.mark.parametrize("target", WRONG)
def test_a_target_that_is_not_there(target: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", target, "--input", "x=float32[2]", "-o", "o.onnx"]) == 65
    error = capsys.readouterr().err
    assert WRONG[target] in error and error.count("\n") == 1
    assert not Path("o.onnx").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "once for each input"),
        (["--input", "float32[2]"], "got 'float32[2]'"),
        (["--input", "x=float32[2]", "--input", "x=float32[3]"], "once for each input"),
        (["--input", "x=float32[2,9]"], "expected an inner size of 9"),
        (["--input", "x=float32[2,8]", "--opset", "7"], "an opset from 18"),
        (["--input", "x=float32[2,8]", "-o", "o.txt"], "a file that ends in .onnx"),
        (["--input", "x=float32[2,8]", "-o", "none/o.onnx"], "a file in a folder that exists"),
        (["--input", "x=float32[2,8]", "--weights", "none"], "none"),
    ],
)
def test_words_that_make_no_sense(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "exported_net:net", "-o", "o.onnx", *words]) == 65
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(folder.glob("*.onnx"))
