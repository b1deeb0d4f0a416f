"""The demo as its user runs it: right answers, a trained network, a table of kernels, on any terminal."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import tempfile
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
from rich.console import Console

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo.py"


@pytest.fixture(scope="module")
def model() -> Path:
    path = os.environ.get("MAGIKA_MODEL")
    if not path:
        pytest.fail("MAGIKA_MODEL: expected the path of magika's model.onnx; `nox -s together` sets it")
    return Path(path)


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_answers_and_scores_are_those_of_onnxruntime(
    demo: ModuleType, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the files that the demo names, through the command that it runs."""
    demo.console = Console(width=110)
    rows = demo.name_files(model, tmp_path)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"bytes": np.load(rows)})
    with np.load(tmp_path / "answers.npz") as answers:
        got = answers["target_label"]
    assert got.shape == expected.shape and len(got) >= 8
    np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    kinds = re.findall(r"│ ([\w.-]+) +│ +\d+ +│ (\w+) ", capsys.readouterr().out)
    named = {Path(file).suffix: kind for file, kind in kinds}
    wanted = {".py": "python", ".png": "png", ".wav": "wav", ".csv": "csv", ".json": "json", ".zip": "zip"}
    assert wanted.items() <= named.items()


def test_the_whole_of_it(
    demo: ModuleType,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the time that it takes: whether that is a minute says nothing on a machine with other work to do."""
    monkeypatch.setattr(demo, "console", Console(width=110))
    monkeypatch.setattr(demo, "train", functools.partial(demo.train, limit=900.0))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert demo.main([str(model)]) == 0
    printed = capsys.readouterr().out
    assert "\33" not in printed  # no terminal
    (right, loaded) = re.findall(r"(\d+\.\d+) %.* right", printed)
    assert float(right) >= 98 and right == loaded
    for part in (
        "loss 0.",
        "digits.safetensors",
        "kernels of one training step",
        "ceiling",
        "GFLOP/s",
        "GB/s",
    ):
        assert part in printed
    shares = re.findall(r"^\w+ +cpu .* (\d+)% +(?:compute|memory)$", printed, re.MULTILINE)
    assert len(shares) > 10
    assert not list(tmp_path.iterdir())  # all that it made is gone


def test_a_missing_model_is_named(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code in (([], 2), ([str(tmp_path / "none.onnx")], 65)):
        assert demo.main(words) == code
        error = capsys.readouterr().err
        assert "nox -s demo" in error and error.count("\n") == 1


def test_the_digits_are_never_in_both_sets(demo: ModuleType) -> None:
    """What the accuracy is measured on was not trained on."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_x, train_y, test_x, test_y = demo.load_images()
    assert len(train_x) == len(train_y) and len(test_x) == len(test_y) >= 300
    assert len(train_x) + len(test_x) == 1797
    seen = {image.tobytes() for image in train_x}
    assert sum(image.tobytes() in seen for image in test_x) == 0
