"""A page read by a trained detector and a trained recogniser: what it says, and onnxruntime's numbers."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from example_case import Checked, load_example, model_data
from PIL import Image


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return load_example("read_page")


@pytest.fixture(scope="module")
def reader(program: ModuleType) -> Any:
    folder = model_data("RAPIDOCR_MODELS")
    networks = [Checked(folder / name) for name in (program.DETECTOR, program.RECOGNISER)]
    return program.Reader(*networks, program.alphabet(folder / program.RECOGNISER))


@pytest.mark.parametrize("degrees", [1.7, -3.0])
def test_a_page_is_read_and_every_number_is_that_of_onnxruntime(
    program: ModuleType, reader: Any, degrees: float
) -> None:
    image, truth = program.draw_page(degrees)
    assert len(truth) >= 20 and len({size for size, _ in program.LINES}) >= 6
    before = reader.detector.calls, reader.recogniser.calls
    found = reader.read(image)
    assert (reader.detector.calls, reader.recogniser.calls) == (before[0] + 1, before[1] + 1)
    assert len(found) == len(truth)
    wrong = sum(program.distance(text, line) for (_, text), line in zip(found, truth, strict=True))
    assert wrong <= 0.01 * sum(map(len, truth)), found
    tilt = np.rad2deg(np.median([box.angle for box, _ in found]))
    assert abs(tilt + degrees) < 0.5


def test_the_command(program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved, folder = tmp_path / "page.png", str(model_data("RAPIDOCR_MODELS"))
    assert program.main([folder, "--save", str(saved)]) == 0
    printed = capsys.readouterr().out
    (right, letters) = map(int, re.findall(r"(\d+) of (\d+) letters right", printed)[0])
    assert right >= 0.99 * letters and letters == sum(len(text) for _, text in program.LINES)
    assert "23 lines found, 23 written" in printed
    page, (plain, _) = np.asarray(Image.open(saved)), program.draw_page()
    red = (page[..., 0].astype(int) - page[..., 1]) > 100
    assert page.shape == np.asarray(plain).shape and red.sum() > 5000
    drawn = tmp_path / "given.png"
    plain.crop((0, 0, plain.width, 320)).save(drawn)
    assert program.main([folder, str(drawn)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == program.LINES[0][1]
    assert program.main([str(tmp_path)]) == 65
    assert "expected the file" in capsys.readouterr().err


def test_regions_are_those_of_scipy(program: ModuleType) -> None:
    random = np.random.default_rng(4)
    for density in (0.2, 0.5, 0.8):
        mask = random.random((40, 60)) < density
        labels, count = scipy.ndimage.label(mask, np.ones((3, 3)))
        found = {frozenset(map(tuple, points)) for points in program.regions(mask)}
        wanted = {frozenset(zip(*np.nonzero((labels == k + 1).T), strict=True)) for k in range(count)}
        assert found == wanted
    assert program.regions(np.zeros((5, 5), bool)) == []


@pytest.mark.parametrize("degrees", [-10.0, 0.0, 3.5])
def test_a_turned_rectangle_is_found_and_cut_out(program: ModuleType, degrees: float) -> None:
    angle = np.deg2rad(degrees)
    y, x = np.mgrid[:300, :400]
    along = (x - 200) * np.cos(angle) + (y - 150) * np.sin(angle)
    across = -(x - 200) * np.sin(angle) + (y - 150) * np.cos(angle)
    text = ((np.abs(along) < 120) & (np.abs(across) < 15)).astype(np.float32)
    (points,) = program.regions(text > 0.3)
    box = program.rectangle(text, points, (1.0, 1.0), growth=0.0)
    assert abs(np.rad2deg(box.angle) - degrees) <= 0.5 and box.score == 1
    np.testing.assert_allclose([*box.center, box.width, box.height], [200, 150, 240, 30], atol=2.5)
    line = program.cut(Image.fromarray((text * 255).astype(np.uint8)).convert("RGB"), box)
    assert line.height == program.HEIGHT and np.asarray(line).mean() > 0.94 * 255


def test_letters_are_decoded_and_counted(program: ModuleType) -> None:
    letters = [*"abc", " "]
    best = np.array([0, 1, 1, 0, 1, 2, 2, 4, 0, 3, 3, 0])
    assert program.decoded(best, letters) == "aab c"
    for a, b, apart in (("kitten", "sitting", 3), ("", "abc", 3), ("same", "same", 0), ("ab", "ba", 2)):
        assert program.distance(a, b) == program.distance(b, a) == apart


def test_the_third_network_of_the_wheel() -> None:
    """Which way up a line is: a file with an input size of -1, which means any."""
    network = Checked(model_data("RAPIDOCR_MODELS") / "ch_ppocr_mobile_v2.0_cls_infer.onnx")
    random = np.random.default_rng(0)
    for batch in (1, 3):
        network({"x": random.uniform(-1, 1, (batch, 3, 48, 192)).astype(np.float32)})
