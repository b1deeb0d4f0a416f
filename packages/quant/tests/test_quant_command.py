"""`petaflop quant`: what it writes and prints, and one line for what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from petaflop.cli import main
from petaflop.state import safe_save
from petaflop_quant import QuantTensor, load
from petaflop_quant.importance import Collector, read_importance
from petaflop_quant.mixing import mixed

RANDOM = np.random.default_rng(12)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    state = {
        "blk.0.attn_v.weight": RANDOM.standard_normal((64, 512)) * 0.1,
        "blk.0.ffn.weight": RANDOM.standard_t(4, (128, 512)),
        "blk.0.norm.weight": np.ones(512),
        "head.weight": RANDOM.standard_normal((3, 33)),
    }
    safe_save({name: each.astype(np.float32) for name, each in state.items()}, path)
    return path


def formats(path: Path) -> dict[str, str]:
    return {n: e.scheme.name for n, e in load(path).items() if isinstance(e, QuantTensor)}


def test_encode_and_inspect(model: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.gguf"
    rules = ["--rule", "*.attn_v.*=q6_k", "--format", "q4_k"]
    assert main(["quant", "encode", str(model), str(out), *rules]) == 0
    assert formats(out) == {"blk.0.attn_v.weight": "q6_k", "blk.0.ffn.weight": "q4_k"}
    assert load(out).metadata["petaflop.quant.encoder"].value == "search"
    names = {each.name: each.tensor_type.name for each in gguf.GGUFReader(out).tensors}
    assert names["blk.0.attn_v.weight"] == "Q6_K" and names["head.weight"] == "F32"
    capsys.readouterr()
    assert main(["quant", "inspect", str(out)]) == 0
    text = capsys.readouterr().out
    assert "q6_k" in text and "64 × 512" in text and "6.562" in text and "4 tensors" in text
    again = tmp_path / "again.gguf"
    assert main(["quant", "encode", str(out), str(again), "--format", "q8_0", "--encoder", "rtn"]) == 0
    assert set(formats(again).values()) == {"q8_0"}


def test_encode_for_a_number_of_bits(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert main(["quant", "encode", str(model), str(out), "--bits", "5"]) == 0
    packed = [each for each in load(out).values() if isinstance(each, QuantTensor)]
    bits = 8 * sum(each.nbytes for each in packed) / sum(np.prod(each.shape) for each in packed)
    assert 4 < bits <= 5


def test_more_bits_go_where_they_matter() -> None:
    plain = RANDOM.standard_normal((8, 512)).astype(np.float32)
    tensors = {"large": plain * 10, "small": plain * 0.01}
    table = mixed(tensors, 5.0)
    assert table["large"] in ("q5_k", "q6_k", "q8_0") and table["small"] in ("q2_k", "q3_k", "iq4_xs", "q4_k")
    weighed = mixed({"a": plain, "b": plain}, 5.0, {"a": np.full(512, 1e-6), "b": np.full(512, 1.0)})
    order = ["q2_k", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0"]
    assert order.index(weighed["b"]) > order.index(weighed["a"])


def test_importance_files(tmp_path: Path) -> None:
    inputs = RANDOM.standard_normal((50, 8))
    collector = Collector(hessian=True)
    for part in np.split(inputs, 5):
        collector.add("w", part)
    np.testing.assert_allclose(collector.of("squares")["w"], (inputs**2).mean(0))
    np.testing.assert_allclose(collector.of("hessian")["w"], inputs.T @ inputs / 50)
    np.testing.assert_array_equal(collector.of("largest")["w"], abs(inputs).max(0))
    np.savez(tmp_path / "i.npz", **collector.of("squares"))
    np.testing.assert_allclose(read_importance(tmp_path / "i.npz")["w"], (inputs**2).mean(0))
    writer = gguf.GGUFWriter(tmp_path / "imatrix.gguf", "imatrix")
    writer.add_tensor("w.in_sum2", (inputs**2).sum(0, keepdims=True).astype(np.float32))
    writer.add_tensor("w.counts", np.array([[50]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_importance(tmp_path / "imatrix.gguf")
    np.testing.assert_allclose(found["w"], (inputs**2).mean(0), rtol=1e-6)


def test_encode_with_importance(model: Path, tmp_path: Path) -> None:
    weights = np.exp(RANDOM.standard_normal(512) * 2)
    np.savez(tmp_path / "i.npz", **{"blk.0.ffn.weight": weights})
    plain, weighed = tmp_path / "plain.gguf", tmp_path / "weighed.gguf"
    assert main(["quant", "encode", str(model), str(plain), "--format", "q4_k"]) == 0
    given = ["--importance", str(tmp_path / "i.npz")]
    assert main(["quant", "encode", str(model), str(weighed), "--format", "q4_k", *given]) == 0
    exact = load(model)["blk.0.ffn.weight"].numpy().astype(float)
    errors = [
        (weights * (load(path)["blk.0.ffn.weight"].numpy() - exact) ** 2).sum() for path in (weighed, plain)
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["encode", "MODEL", "OUT.gguf"], "--bits"),
        (["encode", "MODEL", "OUT.gguf", "--format", "q4_k", "--bits", "4"], "--bits"),
        (["encode", "MODEL", "OUT.gguf", "--bits", "1"], "at least"),
        (["encode", "MODEL", "OUT.gguf", "--rule", "q4_k"], "PATTERN=FORMAT"),
        (["encode", "MODEL", "OUT.gguf", "--format", "q9_k"], "q9_k"),
        (["encode", "MODEL", "OUT.gguf", "--format", "q4_k", "--encoder", "none"], "none"),
        (["encode", "NONE", "OUT.gguf", "--format", "q4_k"], "NONE"),
        (["encode", "MODEL", "OUT.txt", "--format", "q4_k"], "extension"),
        (["inspect", "NONE"], "NONE"),
        (["inspect", "MODEL", "--device"], ""),
    ],
)
def test_one_line_for_what_cannot_be(
    model: Path, tmp_path: Path, capsys: Any, words: list[str], said: str
) -> None:
    given = [str(model) if word == "MODEL" else word for word in words]
    given = [str(tmp_path / word) if word.startswith("OUT") else word for word in given]
    if said:
        assert main(["quant", *given]) != 0
        text = capsys.readouterr().err.strip()
        assert said in text and text.count("\n") == 0 and text.startswith("petaflop: ")
    else:
        with pytest.raises(SystemExit):
            main(["quant", *given])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.safetensors"]
