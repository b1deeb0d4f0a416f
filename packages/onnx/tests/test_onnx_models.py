"""Whole models against onnxruntime: the trained magika model, and exported networks of eight architectures
with made-up weights.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx_case import GRAPHS, Array, assert_close, feeds_for, load_filled, run_onnxruntime

import petaflop_onnx
from petaflop import Tensor
from petaflop.errors import ArgumentError
from petaflop.profile import profile

_DATA = Path(__file__).parent / "data"


def _magika() -> Path:
    path = os.environ.get("MAGIKA_MODEL")
    if not path:
        pytest.fail("MAGIKA_MODEL: expected the path of magika's model.onnx; `nox -s together` sets it")
    return Path(path)


def _features(data: bytes) -> Array:
    """magika's input: the first and the last 1024 bytes without the white space around, padded with 256."""
    begin, end = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
    row = np.full(2048, 256, np.int32)
    row[: len(begin)] = list(begin)
    row[2048 - len(end) :] = list(end)
    return row


_FILES = {
    "python": Path(__file__).read_bytes(),
    "json": json.dumps({"name": "value", "list": [1, 2, 3], "nested": {"a": None}}, indent=2).encode() * 3,
    "onnx": (_DATA / "resnet50.onnx").read_bytes(),
    "elf": Path(sys.executable).resolve().read_bytes()[: 1 << 20],
    "c": b'#include <stdio.h>\n\nint main(void) {\n    printf("hello\\n");\n    return 0;\n}\n' * 8,
    "empty": b"",
}


def test_magika_equals_onnxruntime() -> None:
    path = _magika()
    labels = json.loads((path.parent / "config.min.json").read_text())["target_labels_space"]
    rows = np.stack([_features(data) for data in _FILES.values()])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"bytes": rows})
    model = petaflop_onnx.load(path)
    got = model({"bytes": rows})["target_label"].numpy()
    assert got.shape == (len(_FILES), 214)
    np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    answers = dict(zip(_FILES, (labels[k] for k in got.argmax(1))))
    assert answers["python"] == "python" and answers["c"] == "c" and answers["json"] == "json"
    one = model({"bytes": rows[:1]})["target_label"].numpy()  # another batch size is another capture
    np.testing.assert_allclose(one, expected[:1], rtol=1e-4, atol=1e-6)


SIZES = [(name, sizes) for name, sizes in GRAPHS.items()]
SIZES += [("minilm-l6", {"batch": 3, "seq": 17}), ("llama-tiny", {"seq": 7, "past": 0, "total": 7})]


@pytest.mark.parametrize(("name", "sizes"), SIZES, ids=lambda value: value if isinstance(value, str) else "")
def test_exported_networks_equal_onnxruntime(name: str, sizes: dict[str, int], tmp_path: Path) -> None:
    """Every architecture, at sizes of its own; the second call replays one plan, whatever comes in."""
    model = load_filled(_DATA / f"{name}.onnx")
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    feeds = feeds_for(model, sizes)
    ours = petaflop_onnx.load(path)
    first = {name: value.numpy() for name, value in ours(feeds).items()}
    assert_close(list(first.values()), run_onnxruntime(model, feeds), 1e-4)
    with profile() as seen:
        again = {name: value.numpy() for name, value in ours(feeds).items()}
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)
    assert seen.launches and not seen.schedules and not seen.compiles


def test_inputs_are_checked() -> None:
    with pytest.raises(ArgumentError, match="bytes"):
        petaflop_onnx.load(_magika())({"bytes": np.zeros((1, 2048), np.float32)})


def test_tensors_are_inputs_too() -> None:
    model = petaflop_onnx.load(_magika())
    rows = np.zeros((2, 2048), np.int32)
    from_array = model({"bytes": rows})["target_label"].numpy()
    np.testing.assert_array_equal(model({"bytes": Tensor(rows)})["target_label"].numpy(), from_array)
