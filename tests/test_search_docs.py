"""Sentences encoded by a published network in our own layers: its card's numbers, the right paragraphs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from example_case import load_example, model_data

import petaflop_onnx
from petaflop.state import safe_load

# The model card's example: the likeness that its authors print for two pairs of these.
CARD = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A monkey is playing drums.",
    "Someone in a gorilla costume is playing a set of drums.",
)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return load_example("search_docs")


@pytest.fixture(scope="module")
def model(program: ModuleType) -> Any:
    return program.Model.load(model_data("MINILM_MODEL"))


def test_the_numbers_of_the_model_card(model: Any) -> None:
    vectors = model.embed(CARD)
    likeness = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(likeness), 1, atol=1e-6)
    assert round(float(likeness[0, 1]), 4) == 0.7553
    assert round(float(likeness[4, 5]), 4) == 0.6433
    assert abs(likeness[0, [2, 4, 5]]).max() < 0.15


def test_padding_and_company_change_nothing(model: Any) -> None:
    together = model.embed(CARD, length=64, batch=4)
    alone = np.concatenate([model.embed([text], length=32, batch=1) for text in CARD])
    np.testing.assert_allclose(alone, together, atol=2e-6)


def test_every_published_weight_is_in_use(program: ModuleType, model: Any) -> None:
    state = safe_load(model_data("MINILM_MODEL") / "model.safetensors")
    assert set(state) - set(model.network.state_dict()) == {
        "embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"
    }  # fmt: skip
    config = json.loads((model_data("MINILM_MODEL") / "config.json").read_text())
    assert len(model.network.encoder.layer) == config["num_hidden_layers"]


def test_exported_it_is_the_same_in_onnxruntime(model: Any, tmp_path: Path) -> None:
    """With a batch and a length that vary, under the published names, and loaded again by ourselves."""
    path = tmp_path / "minilm.onnx"
    inputs = {"ids": "int32[n?,t?]", "mask": "int32[n?,t?]"}
    written = petaflop_onnx.export(model.network, path, inputs=inputs, outputs=["embedding"])
    names = {each.name for each in written.graph.initializer}
    assert "encoder.layer.5.attention.self.query.weight" in names
    # in each layer 4 projections, 2 of attention and 2 wide ones; and the mean over the words
    operators = [node.op_type for node in written.graph.node]
    assert operators.count("MatMul") == 6 * 8 + 1 and operators.count("Gelu") == 6
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    imported = petaflop_onnx.load(path)
    expected = model.embed(CARD, length=32, batch=len(CARD))
    for length in (32, 40):
        ids, mask = model.tokens(CARD, length)
        (theirs,) = session.run(None, {"ids": ids, "mask": mask})
        np.testing.assert_allclose(theirs, expected, atol=2e-6)
    ours = imported({"ids": ids, "mask": mask})["embedding"].numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-6)


QUESTIONS = {
    "Can two threads use the same tensor?": "docs/architecture.md: Threads",
    "How does the scheduler decide which nodes get memory?": "docs/architecture.md: Schedule",
    "How are plugins found?": "docs/plugins.md: Plugins",
    "On which operating systems has this been tested?": "README.md: Platforms",
}


def test_questions_find_the_paragraphs_that_answer_them(program: ModuleType, model: Any) -> None:
    found = list(program.passages(program.ROOT))
    assert len(found) > 80
    vectors = model.embed([each.text for each in found])
    answers = {question: program.search(model, found, vectors, question, 3) for question in QUESTIONS}
    hits = [place in {passage.place for _, passage in answers[q]} for q, place in QUESTIONS.items()]
    assert all(hits), {q: [passage.place for _, passage in a] for q, a in answers.items()}
    for ranked in answers.values():
        assert [score for score, _ in ranked] == sorted((score for score, _ in ranked), reverse=True)


def test_the_command(program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([str(model_data("MINILM_MODEL")), "Can two threads use the same tensor?"]) == 0
    printed = capsys.readouterr().out
    assert "docs/architecture.md: Threads" in printed and "\33" not in printed
    assert program.main([str(tmp_path)]) == 65
    assert "config.json" in capsys.readouterr().err
