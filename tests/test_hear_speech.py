"""Speech found in a stream by a trained recurrent network: where it is, and onnxruntime's numbers."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from example_case import Checked, load_example, model_data

STREAM = "silero_vad_op18_ifless.onnx"
OTHERS = (  # with If inside If and LSTM, of other opsets, at half precision
    "silero_vad.onnx",
    "silero_vad_16k_op15.onnx",
    "silero_vad_half.onnx",
    "silero_vad_openvino_16k.onnx",
)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return load_example("hear_speech")


@pytest.fixture(scope="module")
def heard(program: ModuleType) -> Any:
    sound, truth = program.scene()
    network = Checked(model_data("SILERO_MODELS") / STREAM)
    return network, np.array(list(program.listen(network, sound))), truth


def test_every_chunk_is_that_of_onnxruntime(program: ModuleType, heard: Any) -> None:
    """The state goes round on the device through all of the sound, and no error grows in it."""
    network, scores, _ = heard
    assert network.calls == len(scores) > 400
    assert network.worst < 1e-4


def test_speech_is_told_from_everything_else(program: ModuleType, heard: Any) -> None:
    _, scores, truth = heard
    seconds = np.arange(len(scores)) * program.CHUNK / program.RATE
    for start, stop in truth:
        inside = scores[(seconds > start + 0.2) & (seconds < stop - 0.1)]
        assert np.median(inside) > 0.95 and inside.mean() > 0.85
    near = np.any([(seconds > start - 0.1) & (seconds < stop + 0.5) for start, stop in truth], axis=0)
    assert np.median(scores[~near]) < 0.05 and scores[~near].mean() < 0.1
    parts = program.spoken_parts(scores)
    assert len(parts) == len(truth)
    for (a, b), (c, d) in zip(truth, parts, strict=True):
        assert abs(a - c) < 0.2 and -0.2 < d - b < 0.6


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_networks_of_the_wheel(program: ModuleType, heard: Any, name: str) -> None:
    """Two seconds, into the first words: onnxruntime's numbers, and the same opinion on who speaks."""
    _, scores, _ = heard
    sound, _ = program.scene()
    network = Checked(model_data("SILERO_MODELS") / name)
    got = list(program.listen(network, sound[: 2 * program.RATE]))
    agree = (np.array(got) > 0.5) == (
        scores[: len(got)] > 0.5
    )  # they are not the same weights to the last bit
    assert agree.mean() > 0.95 and max(got) > 0.95


@pytest.mark.parametrize("seed", [1, 2])
def test_other_voices(program: ModuleType, seed: int) -> None:
    network = Checked(model_data("SILERO_MODELS") / STREAM)
    sound, truth = program.scene(seed)
    assert len(program.spoken_parts(list(program.listen(network, sound)))) == len(truth)


def test_a_whole_sequence_at_once(program: ModuleType, heard: Any) -> None:
    """The wheel's network for sequences gives in one call, by ONNX's LSTM, what the stream gives in many."""
    _, scores, _ = heard
    sound, _ = program.scene()
    padded = np.concatenate([np.zeros(program.CONTEXT, np.float32), sound])
    step, width = program.CHUNK, program.CHUNK + program.CONTEXT
    chunks = np.stack([padded[k : k + width] for k in range(0, len(padded) - width + 1, step)])[:64]
    network = Checked(model_data("SILERO_MODELS") / "silero_vad_16k_sequence.onnx")
    zeros = np.zeros((1, 1, 128), np.float32)
    got = network({"input": chunks, "h": zeros, "c": zeros})["speech_probs"].numpy()
    np.testing.assert_allclose(got, scores[: len(chunks)], atol=2e-3)


def test_the_command(program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, saved = str(model_data("SILERO_MODELS") / STREAM), tmp_path / "sound.wav"
    assert program.main([model, "--save", str(saved)]) == 0
    table = re.findall(r"(\d+\.\d+) - +(\d+\.\d+) s", capsys.readouterr().out)
    assert len(table) == 6  # three times spoken, three times heard
    assert program.main([model, str(saved)]) == 0  # the file holds the same sound
    printed = re.findall(r"^(\d+\.\d+) - (\d+\.\d+) s$", capsys.readouterr().out, re.MULTILINE)
    assert np.allclose(np.array(printed, float), np.array(table[1::2], float), atol=0.07)
    assert program.main([str(tmp_path / "none.onnx")]) == 65
    assert "expected the file" in capsys.readouterr().err


def test_gaps_are_joined_and_clicks_are_none(program: ModuleType) -> None:
    chunk = program.CHUNK / program.RATE
    scores = [0.0] * 100
    scores[10:30] = [0.9] * 20
    scores[20:24] = [0.2] * 4  # a stop within a word
    scores[60] = 0.99
    assert program.spoken_parts(scores) == [(10 * chunk, 30 * chunk)]
