"""safetensors files of others, built here as they build them, against values by torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from petaflop import Tensor
from petaflop.errors import FileFormatError
from petaflop.profile import profile
from petaflop_quant import QuantTensor, load, quantize, save
from petaflop_quant.registry import FORMATS, own_format

OUTPUTS, INPUTS, GROUP = 48, 256, 64
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(3)


def words(codes: torch.Tensor, bits: int, dim: int, order: list[int] | None = None) -> torch.Tensor:
    """Integers put into words of 32 bits along an axis, one after the other."""
    count = 32 // bits
    codes = codes.movedim(dim, -1).long()
    rows = codes.reshape(*codes.shape[:-1], -1, count)
    total = torch.zeros(rows.shape[:-1], dtype=torch.int64)
    for place, source in enumerate(order or range(count)):
        total |= rows[..., source] << (bits * place)
    total = torch.where(total >= 1 << 31, total - (1 << 32), total)
    return total.to(torch.int32).movedim(-1, dim).contiguous()


def loaded(tmp_path: Path, state: dict[str, torch.Tensor], name: str = "a.weight") -> Any:
    path = tmp_path / "theirs.safetensors"
    save_file(state, path)
    found = load(path)
    assert list(found) == [name]
    return found[name]


def check(tensor: Any, expected: torch.Tensor) -> None:
    """The definition, the expression, and a product, which is one kernel."""
    assert isinstance(tensor, QuantTensor)
    assert np.array_equal(tensor.numpy(), expected.numpy())
    assert np.array_equal(tensor.tensor().numpy(), expected.numpy())
    for rows in (1, 5):
        x = torch.randn(rows, tensor.shape[1])
        product = Tensor(x.numpy()).realize() @ tensor.T
        with profile() as recorded:
            product.realize()
        assert len(recorded.launches) == 1, [launch.name for launch in recorded.launches]
        size = x.abs().double() @ expected.T.abs().double()
        error = torch.from_numpy(product.numpy()).double() - x.double() @ expected.T.double()
        assert (error.abs() <= 1e-5 * size).all()


@pytest.mark.parametrize("bits", [4, 8, 2])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq(tmp_path: Path, bits: int, act_order: bool) -> None:
    codes = torch.randint(0, 1 << bits, (INPUTS, OUTPUTS))
    zeros = torch.randint(1, 1 << bits, (INPUTS // GROUP, OUTPUTS))
    scales = (torch.rand(INPUTS // GROUP, OUTPUTS) * 0.1 + 0.01).half()
    group = torch.arange(INPUTS, dtype=torch.int32) // GROUP
    group = group[torch.randperm(INPUTS)] if act_order else group
    state = {
        "a.qweight": words(codes, bits, 0),
        "a.qzeros": words(zeros - 1, bits, 1),
        "a.scales": scales,
        "a.g_idx": group,
    }
    expected = (codes - zeros[group.long()]).float() * scales[group.long()].float()
    check(loaded(tmp_path, state), expected.T.contiguous())


def test_awq(tmp_path: Path) -> None:
    codes = torch.randint(0, 16, (INPUTS, OUTPUTS))
    zeros = torch.randint(0, 16, (INPUTS // GROUP, OUTPUTS))
    scales = (torch.rand(INPUTS // GROUP, OUTPUTS) * 0.1 + 0.01).half()
    state = {
        "a.qweight": words(codes, 4, 1, AWQ_ORDER),
        "a.qzeros": words(zeros, 4, 1, AWQ_ORDER),
        "a.scales": scales,
    }
    group = torch.arange(INPUTS) // GROUP
    expected = (codes - zeros[group]).float() * scales[group].float()
    check(loaded(tmp_path, state), expected.T.contiguous())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_compressed_tensors_packed(tmp_path: Path, bits: int, symmetric: bool, dtype: torch.dtype) -> None:
    middle = 1 << (bits - 1)
    codes = torch.randint(-middle, middle, (OUTPUTS, INPUTS))
    zeros = torch.randint(-middle, middle, (OUTPUTS, INPUTS // GROUP)) * (not symmetric)
    scale = (torch.rand(OUTPUTS, INPUTS // GROUP) + 0.1).to(dtype)
    state = {
        "a.weight_packed": words(codes + middle, bits, 1),
        "a.weight_scale": scale,
        "a.weight_shape": torch.tensor([OUTPUTS, INPUTS]),
    }
    if not symmetric:
        state["a.weight_zero_point"] = words(zeros + middle, bits, 0)
    wide = [each.repeat_interleave(GROUP, 1) for each in (zeros, scale.float())]
    check(loaded(tmp_path, state), (codes - wide[0]).float() * wide[1])


def test_compressed_tensors_nvfp4(tmp_path: Path) -> None:
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = torch.randint(0, 16, (OUTPUTS, INPUTS))
    scale = (torch.rand(OUTPUTS, INPUTS // 16) * 400 + 1).to(torch.float8_e4m3fn)
    whole = torch.tensor([37.5])
    state = {
        "a.weight_packed": (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8),
        "a.weight_scale": scale,
        "a.weight_global_scale": whole,
    }
    expected = levels[codes] * (scale.float() / whole).repeat_interleave(16, 1)
    check(loaded(tmp_path, state), expected)


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_rows_of_eight_bits(tmp_path: Path, dtype: torch.dtype, per_row: bool) -> None:
    codes = (torch.randn(OUTPUTS, INPUTS) * 40).clamp(-120, 120).to(dtype)
    scale = torch.rand(OUTPUTS if per_row else 1, 1).bfloat16()
    check(loaded(tmp_path, {"a.weight": codes, "a.weight_scale": scale}), codes.float() * scale.float())


@pytest.mark.parametrize("double", [False, True])
def test_nf4_of_bitsandbytes(tmp_path: Path, double: bool) -> None:
    codes = torch.randint(0, 16, (OUTPUTS * INPUTS,))
    blocks = OUTPUTS * INPUTS // 64
    facts = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [OUTPUTS, INPUTS]}
    state = {"a.weight": (codes[::2] << 4 | codes[1::2]).to(torch.uint8)[:, None]}
    if double:
        state["a.weight.absmax"] = torch.randint(0, 256, (blocks,), dtype=torch.uint8)
        state["a.weight.nested_absmax"] = torch.rand(-(-blocks // 256)) + 0.1
        state["a.weight.nested_quant_map"] = torch.linspace(-1, 1, 256)
        facts |= {"nested_blocksize": 256, "nested_offset": 0.75}
        nested = state["a.weight.nested_absmax"][torch.arange(blocks) // 256].double()
        level = state["a.weight.nested_quant_map"][state["a.weight.absmax"].long()].double()
        absmax = (level * nested + 0.75).float()
    else:
        absmax = state["a.weight.absmax"] = torch.rand(blocks) + 0.1
    state["a.weight.quant_map"] = torch.tensor(NF4)
    text = json.dumps(facts).encode()
    state["a.weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(text), dtype=torch.uint8)
    expected = torch.tensor(NF4)[codes] * absmax.repeat_interleave(64)
    check(loaded(tmp_path, state), expected.reshape(OUTPUTS, INPUTS))


# ---- our own ----


@pytest.mark.parametrize("name", [name for name in FORMATS if own_format(name).can_pack])
def test_our_formats_come_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / "ours.safetensors"
    values = torch.randn(4, 512).numpy()
    packed = quantize(values, name)
    factors = np.linspace(0.5, 2, 512, dtype=np.float32)
    smooth = QuantTensor(packed.scheme, packed.planes, packed.shape, factors)
    save(path, {"w": packed, "s": smooth, "plain": Tensor(values)}, {"note": "x"})
    found = load(path)
    assert list(found) == ["w", "s", "plain"] and found.metadata["note"].value == "x"
    for key, plane in packed.planes.items():
        assert found["w"].planes[key].numpy().tobytes() == plane.numpy().tobytes()
    assert np.array_equal(found["w"].numpy(), packed.numpy())
    assert np.array_equal(found["s"].numpy(), packed.numpy() / factors)
    assert np.array_equal(found["s"].tensor().numpy(), packed.numpy() / factors)
    assert np.array_equal(found["plain"].numpy(), values)
    again = tmp_path / "again.safetensors"
    save(again, found, found.metadata)
    twice = load(again)
    assert list(twice) == list(found)
    assert np.array_equal(twice["s"].numpy(), found["s"].numpy())


def refused(path: Path, words: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        load(path)
    text = str(caught.value)
    assert path.name in text and words in text and "\n" not in text


def test_files_that_lie(tmp_path: Path) -> None:
    from petaflop.state import safe_save
    from petaflop_quant.files.safetensors import KEY

    path = tmp_path / "lie.safetensors"
    planes = quantize(np.ones((2, 64), np.float32), "q8_0").planes
    state = {f"w:{key}": plane for key, plane in planes.items()}
    good = {"format": "q8_0", "version": 1, "parameters": {}, "shape": [2, 64], "factors": False}
    lies: list[tuple[Any, str]] = [
        ("{", "JSON"), ("[]", "object"), ({"w": {}}, "format"), ({"w": 3}, "planes"),
        ({"w": {**good, "format": "q9"}}, "q9"), ({"w": {**good, "version": 2}}, "version"),
        ({"w": {**good, "shape": [2, 96]}}, "plane"), ({"w": {**good, "shape": [-2, 64]}}, "sizes"),
        ({"w": {**good, "shape": [2.5, 64]}}, "sizes"), ({"w": {**good, "shape": [1 << 50, 64]}}, "sizes"),
        ({"v": good}, "none"), ({"w": {**good, "factors": True}}, "factors"),
        ({"w": {**good, "parameters": {"bits": 3}}}, "bits"),
    ]  # fmt: skip
    for note, word in lies:
        safe_save(state, path, {KEY: note if isinstance(note, str) else json.dumps(note)})
        refused(path, word)
    broken = state | {"w:d": Tensor(np.full((2, 2, 1), np.nan, np.float16))}
    safe_save(broken, path, {KEY: json.dumps({"w": good})})
    refused(path, "finite")


def test_files_of_others_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "lie.safetensors"
    good = {
        "a.qweight": torch.zeros(32, 48, dtype=torch.int32),
        "a.qzeros": torch.zeros(4, 6, dtype=torch.int32),
        "a.scales": torch.ones(4, 48).half(),
    }
    save_file(good, path)
    assert load(path)["a.weight"].shape == (48, 256)
    for name, wrong in (
        ("a.scales", torch.ones(3, 48).half()),
        ("a.scales", torch.ones(4, 40).half()),
        ("a.scales", torch.full((4, 48), float("nan")).half()),
        ("a.qzeros", torch.zeros(4, 5, dtype=torch.int32)),
        ("a.qzeros", torch.zeros(6, dtype=torch.int32)),
        ("a.qweight", torch.zeros(32, 48, dtype=torch.int64)),
        ("a.g_idx", torch.full((256,), 9, dtype=torch.int32)),
        ("a.g_idx", torch.zeros(3, dtype=torch.int32)),
    ):
        save_file(good | {name: wrong}, path)
        refused(path, "")
    del good["a.scales"]
    save_file(good, path)
    refused(path, "scales")
