"""GGUF files: written and read, by us and by the `gguf` library; and files that nobody should trust."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

import petaflop_quant
from petaflop import Tensor
from petaflop.plugin_api import FileFormatError
from petaflop_quant import QuantTensor, load, quantize, save
from petaflop_quant.files.gguf_header import TYPES
from petaflop_quant.registry import GGUF_FORMATS, own_format

RANDOM = np.random.default_rng(4)
PACKED = [name for name in GGUF_FORMATS.values() if own_format(name).can_pack]


def tensors() -> dict[str, Any]:
    made: dict[str, Any] = {
        f"layer.{name}.weight": quantize(RANDOM.standard_normal((5, 512)).astype(np.float32), name)
        for name in PACKED
    }
    made["norm"] = Tensor(RANDOM.standard_normal(7).astype(np.float32))
    made["half"] = RANDOM.standard_normal((2, 3)).astype(np.float16)
    made["brain"] = Tensor(RANDOM.standard_normal((2, 4)).astype(np.float32)).bfloat16()
    made["ids"] = np.arange(6, dtype=np.int32)
    return made


def test_types_are_those_of_gguf() -> None:
    for number, kind in TYPES.items():
        found = GGMLQuantizationType(number)
        assert (found.name, gguf.GGML_QUANT_SIZES[found]) == (kind.name, (kind.block, kind.nbytes))


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path, given_ = tmp_path / "all.gguf", tensors()
    save(path, given_, {"general.architecture": "llama", "general.name": "füll"})
    reader = gguf.GGUFReader(path)
    assert [each.name for each in reader.tensors] == list(given_)
    for each in reader.tensors:
        expected = given_[each.name]
        values = expected.numpy() if not isinstance(expected, np.ndarray) else expected
        found = quants.dequantize(each.data, each.tensor_type) if each.tensor_type != 26 else each.data
        assert np.array_equal(found, values.astype(found.dtype)), each.name
    assert reader.get_field("general.name").contents() == "füll"


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "ß", ""])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_float32("scale", 0.5)
    writer.add_bool("flag", True)
    values = {name: RANDOM.standard_normal((3, 64)).astype(np.float32) for name in ("q4_1", "q8_0", "mxfp4")}
    for name, array in values.items():
        kind = GGMLQuantizationType[name.upper()]
        writer.add_tensor(name, quants.quantize(array, kind), raw_dtype=kind)
    writer.add_tensor("plain", values["q4_1"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = load(path)
    for name, array in values.items():
        kind = GGMLQuantizationType[name.upper()]
        expected = quants.dequantize(quants.quantize(array, kind), kind)
        assert isinstance(found[name], QuantTensor) and found[name].scheme.name == name
        assert np.array_equal(found[name].numpy(), expected)
        assert np.array_equal(found[name].tensor().numpy(), expected)
    assert np.array_equal(found["plain"].numpy(), values["q4_1"])
    data = {key: value.value for key, value in found.metadata.items()}
    assert data["tokenizer.ggml.tokens"] == ["a", "ß", ""] and list(data["numbers"]) == [1, 2, 3]
    assert data["scale"] == 0.5 and data["flag"] is True


def test_a_file_goes_through_us_unchanged(tmp_path: Path) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    save(first, tensors(), {"general.architecture": "llama", "general.name": "a"})
    loaded = load(first)
    save(second, loaded, loaded.metadata)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["first.gguf", "second.gguf"]


def test_what_gguf_has_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    with pytest.raises(FileFormatError, match="int8_row"):
        save(path, {"a": quantize(np.ones((2, 4), np.float32), "int8_row")})
    with pytest.raises(FileFormatError, match="uint16"):
        save(path, {"a": np.ones(3, np.uint16)})
    with pytest.raises(FileFormatError, match="extension"):
        save(tmp_path / "no.txt", {})
    assert not list(tmp_path.iterdir())


# ---- files that lie ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    made = {
        "a": quantize(RANDOM.standard_normal((2, 256)).astype(np.float32), "q4_k"),
        "b": quantize(RANDOM.standard_normal((2, 32)).astype(np.float32), "q8_0"),
        "c": np.ones(4, np.float32),
    }
    save(path, made, {"general.architecture": "llama", "general.name": "x"})
    return path.read_bytes()


def refused(path: Path, data: bytes) -> str:
    """The one line that says why these bytes are no GGUF file; soon, and without taking memory."""
    path.write_bytes(data)
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError) as caught:
            load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 2
    assert peak < 4 << 20
    text = str(caught.value)
    assert path.name in text and "\n" not in text
    return text


def test_cut_off_anywhere(whole: bytes, tmp_path: Path) -> None:
    for length in range(0, len(whole), 7):
        refused(tmp_path / "part.gguf", whole[:length])
    refused(tmp_path / "part.gguf", whole[:-1])


def place_of(whole: bytes, name: bytes) -> int:
    """Where the facts about a tensor begin: its number of axes."""
    return whole.index(struct.pack("<Q", len(name)) + name + struct.pack("<I", 2 if name != b"c" else 1)) + 9


def edited(whole: bytes, place: int, code: str, value: Any) -> bytes:
    data = bytearray(whole)
    struct.pack_into(f"<{code}", data, place, value)
    return bytes(data)


def lies(whole: bytes) -> Iterator[tuple[str, str, bytes]]:
    """(what is said, a word of the answer, the bytes)."""
    yield "another magic", "magic", b"GGML" + whole[4:]
    yield "version 1", "version", edited(whole, 4, "I", 1)
    yield "big endian", "big-endian", edited(whole, 4, "I", 3 << 24)
    for number in (1 << 62, 10**6, 5):
        yield f"{number} tensors", "", edited(whole, 8, "Q", number)
        yield f"{number} values", "", edited(whole, 16, "Q", number)
    yield "a key of 2^60 bytes", "key", edited(whole, 24, "Q", 1 << 60)
    a, b = place_of(whole, b"a"), place_of(whole, b"b")
    yield "9 axes", "axes", edited(whole, a, "I", 9)
    yield "rows of 2^63", "sizes", edited(whole, a + 4, "Q", 1 << 63)
    yield "rows of 255", "multiple of 256", edited(whole, a + 4, "Q", 255)
    yield "rows of 2^40 · 256", "sizes", edited(whole, a + 4, "Q", 1 << 48)
    yield "more rows than there are", "file of", edited(whole, a + 12, "Q", 1 << 20)
    yield "an unknown type", "type", edited(whole, a + 20, "I", 99)
    yield "a type that was removed", "type", edited(whole, a + 20, "I", 31)
    yield "an odd offset", "aligned", edited(whole, b + 24, "Q", 3)
    yield "an offset far away", "file of", edited(whole, b + 24, "Q", 1 << 50)
    yield "bytes of another", "of its own", edited(whole, b + 24, "Q", 32)
    yield "the same name twice", "twice", whole.replace(b"\x01\0\0\0\0\0\0\0b", b"\x01\0\0\0\0\0\0\0a")


def test_lies_are_found(whole: bytes, tmp_path: Path) -> None:
    for what, word, data in lies(whole):
        assert word in refused(tmp_path / "lie.gguf", data), what


def test_scales_that_are_no_numbers(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "nan.gguf"
    for name, change in (("q8_0", np.nan), ("q4_k", np.inf), ("q6_k", np.nan), ("mxfp4", None)):
        scheme: Any = own_format(name)
        packed = quantize(RANDOM.standard_normal((2, 256)).astype(np.float32), name)
        planes = {key: plane.numpy().copy() for key, plane in packed.planes.items()}
        if change is None:
            planes["e"][1, 3] = 255
        else:
            planes["d"][1, 0] = change
        save(path, {"w": QuantTensor(scheme, planes, (2, 256))})
        with pytest.raises(FileFormatError, match="finite scales"):
            load(path)


def test_lists_that_are_too_long(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)
    for item in (0, 8, 9, 12, 77):
        for count in (1 << 61, 1 << 40, 1000):
            refused(tmp_path / "list.gguf", head + struct.pack("<IQ", item, count) + bytes(64))
    nested = struct.pack("<IQ", 9, 1) * 40
    assert "type" in refused(tmp_path / "deep.gguf", head + nested + bytes(64))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_changed_bytes_are_an_answer(whole: bytes, tmp_path_factory: Any, data: st.DataObject) -> None:
    """A few bytes of the header changed: tensors, or one typed error."""
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(changed))
    try:
        load(path)
    except FileFormatError as error:
        assert "\n" not in str(error)


def test_no_file_at_all(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(FileFormatError):
            load(path)


def test_memory_is_that_of_the_packed_bytes(tmp_path: Path) -> None:
    """After loading, what the process holds has grown by the planes and at most 5 % more."""
    import subprocess
    import sys

    path = tmp_path / "large.gguf"
    values = RANDOM.standard_normal((1024, 4096)).astype(np.float32)
    save(path, {f"w{n}": quantize(values, "q8_0") for n in range(8)} | {"f": values})
    program = f"""
import petaflop_quant
from petaflop_quant import load, quantize
import numpy as np, gc
load({str(tmp_path / "small.gguf")!r})
def held():
    gc.collect()
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["VmRSS"].split()[0]) * 1024
before = held()
kept = load({str(path)!r})
packed = sum(t.nbytes if hasattr(t, "planes") else t.nbytes() for t in kept.values())
print((held() - before) / packed)
"""
    save(tmp_path / "small.gguf", {"w": quantize(values[:4], "q8_0")})
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) <= 1.05


def test_public_names_are_sorted_and_there() -> None:
    assert petaflop_quant.__all__ == sorted(petaflop_quant.__all__)
    assert all(getattr(petaflop_quant, name) for name in petaflop_quant.__all__)
