"""safetensors files: saved is loaded, others read them, hostile files are one typed error, writes are
atomic."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from petaflop import nn, profile
from petaflop.cli.files import check_writable, write_atomically, write_npz
from petaflop.dtype import DTYPES
from petaflop.errors import ArgumentError, ArgumentTypeError, FileFormatError, ShapeError
from petaflop.state import (
    get_parameters,
    get_state_dict,
    load_metadata,
    load_state_dict,
    safe_load,
    safe_save,
)
from petaflop.tensor import Tensor


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back(name: str, tmp_path: Path) -> None:
    array = np.arange(6).reshape(2, 3).astype(DTYPES[name].numpy)
    path = tmp_path / "all.safetensors"
    safe_save({"a.b": Tensor(array), "c": array[:1]}, path)
    loaded = safe_load(path)
    assert loaded["a.b"].dtype is DTYPES[name] and loaded["c"].shape == (1, 3)
    np.testing.assert_array_equal(loaded["a.b"].numpy(), array)
    np.testing.assert_array_equal(loaded["c"].numpy(), array[:1])


def test_the_library_reads_and_writes_the_same(tmp_path: Path) -> None:
    arrays = {"x": np.ones((2, 2), np.float32), "empty": np.zeros((0, 3), np.int64), "scalar": np.float64(3)}
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    safe_save({name: Tensor(np.asarray(array)) for name, array in arrays.items()}, ours, {"made": "here"})
    save_file({name: np.asarray(array) for name, array in arrays.items()}, theirs)
    for source in (load_file(ours), {name: x.numpy() for name, x in safe_load(theirs).items()}):
        assert source.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(source[name], array)
            assert source[name].shape == np.shape(array)
    assert load_metadata(ours) == {"made": "here"} and load_metadata(theirs) == {}


def test_writes_to_loaded_tensors_stay_private(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safe_save({"x": Tensor([1.0, 2.0])}, path)
    before = path.read_bytes()
    loaded = safe_load(path)["x"]
    loaded.assign(loaded * 2).realize()
    np.testing.assert_array_equal(loaded.numpy(), [2, 4])
    assert path.read_bytes() == before
    safe_save({"x": loaded}, path)
    np.testing.assert_array_equal(safe_load(path)["x"].numpy(), [2, 4])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    safe_save({"x": Tensor([1.0])}, path)
    before = path.read_bytes()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("petaflop.state.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        safe_save({"x": Tensor([2.0])}, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "short": b"abc",
    "random": bytes(range(200)),
    "huge header": (1 << 50).to_bytes(8, "little") + b"{}",
    "not json": (8).to_bytes(8, "little") + b"notjson!",
    "truncated data": header({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"1234"),
    "overlap": header(
        {
            "x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            "y": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]},
        },
        b"123456",
    ),
    "wrong size": header(
        {"x": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}, b"1234"
    ),
    "negative": header({"x": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
    "unknown dtype": header({"x": {"dtype": "WHAT", "shape": [4], "data_offsets": [0, 4]}}, b"1234"),
    "complex": header({"x": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, b"12345678"),
    "terminal codes": header(
        {"x\n\33[31m": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)
    ),
    "too many axes": header({"x": {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}}, b"1234"),
    "huge beside nothing": header(
        {"x": {"dtype": "F32", "shape": [0, 1 << 62, 4], "data_offsets": [0, 0]}}, b""
    ),
    "deep": b"\x10\x27\0\0\0\0\0\0" + b"[" * 10_000,
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00c",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(FileFormatError) as caught:
        safe_load(path)
    message = str(caught.value)
    assert "bad.safetensors: " in message and message.isprintable()


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        safe_load(tmp_path / "absent")
    with pytest.raises(FileFormatError, match="got a folder"):
        safe_load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="got a device, pipe or socket"):
        safe_load(tmp_path / "pipe")
    with pytest.raises(ArgumentTypeError, match="'x': int"):
        safe_save({"x": 3}, tmp_path / "x")


SPECIAL = ["pipe", "folder", "device"]


def special(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something that is no regular file; the device is one by its mode alone."""
    path = folder / f"{kind}.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"device")
        real = os.stat

        def as_device(name: Any, *arguments: Any, **options: Any) -> Any:
            found = real(name, *arguments, **options)
            if isinstance(name, int) or os.fspath(name) != os.fspath(path):
                return found
            return os.stat_result((stat.S_IFCHR | 0o666, *found[1:]))

        monkeypatch.setattr(os, "stat", as_device)
    return path


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("through", [False, True])
def test_only_regular_files_are_replaced(
    kind: str, through: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = special(kind, tmp_path, monkeypatch)
    before = target.lstat()
    link = tmp_path / "link"
    link.symlink_to(target)
    path = link if through else target
    with profile.profile() as profiled:
        Tensor([1.0]).realize()
    for write in (
        lambda: safe_save({"a": Tensor([1.0])}, path),
        lambda: write_npz(path, {"a": np.ones(2)}),
        lambda: write_atomically(path, b"text"),
        lambda: profiled.save_trace(path),
    ):
        with pytest.raises(ArgumentError, match=r"expected a regular file to write, got the (device|folder)"):
            write()
    with pytest.raises(ArgumentError, match=r"^--output: expected a regular file"):
        check_writable(path, "--output")
    after = target.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([target.name, "link"])


def test_a_link_is_kept_and_its_file_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "weights", tmp_path / "link"
    link.symlink_to(Path("folder") / "weights")
    for value in (1.0, 2.0):  # it dangles at first
        safe_save({"a": Tensor([value])}, link)
        assert link.is_symlink() and not target.is_symlink()
        assert safe_load(target)["a"].tolist() == [value]
    target.chmod(0o600)
    write_npz(link, {"a": np.ones(2)})
    assert link.is_symlink() and target.stat().st_mode & 0o777 == 0o600
    np.testing.assert_array_equal(np.load(target)["a"], np.ones(2))
    check_writable(link, "--output")
    assert [p.name for p in target.parent.iterdir()] == ["weights"]


def test_any_name_will_do(tmp_path: Path) -> None:
    arrays = {"__start__": np.arange(3, dtype=np.int8), "": np.ones(2, np.float32), "a.b/c d": np.zeros(1)}
    safe_save(arrays, tmp_path / "x", {"__start__": "text"})
    loaded = safe_load(tmp_path / "x")
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }
    assert load_metadata(tmp_path / "x") == {"__start__": "text"}


def test_module_state_through_a_file(tmp_path: Path) -> None:
    first, second = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    first(Tensor.rand(5, 3)).sum().backward()
    safe_save(first.state_dict(), tmp_path / "x")
    assert load_state_dict(second, safe_load(tmp_path / "x")) == ([], [])
    for mine, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())
    assert second[1].num_batches_tracked.item() == 1
    assert all(tensor.requires_grad for tensor in second.parameters())


def test_strict_errors_name_the_keys_and_change_nothing() -> None:
    model = nn.Linear(2, 3)
    before = model.weight.numpy()
    with pytest.raises(ArgumentError, match=r"none for \[bias\] and unexpected \[extra\]"):
        load_state_dict(model, {"weight": np.zeros((3, 2)), "extra": np.zeros(1)})
    with pytest.raises(ShapeError, match=r"weight: expected shape \[3, 2\], got \[2, 2\]"):
        model.load_state_dict({"weight": np.zeros((2, 2))}, strict=False)
    np.testing.assert_array_equal(model.weight.numpy(), before)
    assert model.load_state_dict({"weight": np.zeros((3, 2))}, strict=False) == (["bias"], [])
    np.testing.assert_array_equal(model.weight.numpy(), np.zeros((3, 2)))


def test_values_are_cast_to_the_model() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.load_state_dict({"weight": np.array([[1.5, 2.5]], ml_dtypes.bfloat16)})
    np.testing.assert_array_equal(model.weight.numpy(), np.array([[1.5, 2.5]], np.float32))


def test_state_of_plain_objects() -> None:
    class Model:
        def __init__(self) -> None:
            self.layers = [nn.Linear(2, 2), {"scale": Tensor.ones(1)}]
            self.number = 3
            self.itself = self

    names = ["layers.0.weight", "layers.0.bias", "layers.1.scale"]
    assert list(get_state_dict(Model())) == names
    assert len(get_parameters(Model())) == 2
