"""In and out of NumPy, DLPack and buffers: who copies, who borrows, and who keeps the memory alive."""

from __future__ import annotations

import array
import gc
import pickle
import sys
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from petaflop import nn
from petaflop.dtype import DTYPES
from petaflop.errors import PetaflopError
from petaflop.tensor import Tensor, no_grad

NAMES = [name for name in DTYPES if not name.startswith("float8") and name != "bfloat16"]
DEVICES = [None, "reference"]
every_device = pytest.mark.parametrize("device", DEVICES, ids=["default", "reference"])


def address(values: Any) -> int:
    return int(np.asarray(values).__array_interface__["data"][0])


def sample(name: str, *shape: int) -> Any:
    return (np.arange(int(np.prod(shape))) % 3).reshape(shape).astype(DTYPES[name].numpy)


@every_device
@pytest.mark.parametrize("name", list(DTYPES))
def test_numpy_round_trip(name: str, device: str | None) -> None:
    x = sample(name, 2, 3)
    t = Tensor(x, device=device)
    back = t.numpy()
    assert t.dtype is DTYPES[name] and back.dtype == x.dtype and back.tobytes() == x.tobytes()
    assert back.flags.writeable and back.flags.c_contiguous
    back[...] = 9
    x[...] = 7
    assert t.numpy().tobytes() == sample(name, 2, 3).tobytes()  # copied on the way in and on the way out


@every_device
def test_from_numpy_borrows(device: str | None) -> None:
    x = np.arange(4, dtype=np.float32)
    t = Tensor.from_numpy(x, device)
    x[1] = 50
    assert t.tolist() == [0, 50, 2, 3]
    assert address(t.data()) == address(x)
    t += 1
    t.realize()
    assert x.tolist() == [1, 51, 3, 4]  # a write in place is seen by the other side


@every_device
@pytest.mark.parametrize(
    "make",
    [
        lambda x: x[::2],
        lambda x: x.T,
        lambda x: x.astype(">f4"),
        lambda x: np.broadcast_to(x[:1], (3, 4)),
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=0, count=0),
        lambda x: np.frombuffer(bytearray(b"\0" + x.tobytes()), np.uint8)[1:].view(np.float32),
        lambda x: np.frombuffer(x.tobytes(), np.float32),
    ],
    ids=["steps", "transposed", "big endian", "broadcast", "empty", "unaligned", "read-only"],
)
def test_from_numpy_copies_what_it_cannot_borrow(make: Any, device: str | None) -> None:
    x = make(np.arange(12, dtype=np.float32).reshape(3, 4))
    t = Tensor.from_numpy(x, device)
    assert t.shape == x.shape
    np.testing.assert_array_equal(t.numpy(), x)
    t = t * 2
    np.testing.assert_array_equal(t.numpy(), x * np.float32(2))


@every_device
def test_sharing_ends_with_a_write_that_a_view_must_not_see(device: str | None) -> None:
    x = np.arange(4, dtype=np.float32)
    t = Tensor.from_numpy(x, device)
    t[:] = 3.0
    t.realize()
    assert x.tolist() == [3] * 4
    view = t[:2]
    t[:] = 4.0
    assert (t.tolist(), view.tolist(), x.tolist()) == ([4] * 4, [3] * 2, [3] * 4)
    x[:] = 7
    assert t.tolist() == [4] * 4


@every_device
def test_a_read_only_array_is_never_written(device: str | None) -> None:
    x = np.arange(4, dtype=np.float32)
    x.flags.writeable = False
    t = Tensor.from_numpy(x, device)
    assert address(t.data()) != address(x)
    t[:] = 9.0
    assert t.tolist() == [9] * 4 and x.tolist() == [0, 1, 2, 3]


def test_borrowed_memory_is_kept_alive() -> None:
    t = Tensor.from_numpy(np.full(1000, 3.0, np.float32))
    gc.collect()
    junk = [np.zeros(1000, np.float32) for _ in range(50)]
    assert (t + 1).tolist() == [4.0] * 1000 and len(junk) == 50


@every_device
@pytest.mark.parametrize("name", NAMES)
def test_dlpack_out(name: str, device: str | None) -> None:
    x = sample(name, 2, 3)
    t = Tensor(x, device=device)
    assert t.__dlpack_device__() == (1, 0)
    there = torch.from_dlpack(t)
    assert tuple(there.shape) == (2, 3) and there.dtype == getattr(torch, name)
    np.testing.assert_array_equal(there.numpy(), x)
    here = np.from_dlpack(t)
    np.testing.assert_array_equal(here, x)
    assert address(here) == there.data_ptr() == address(t.data())  # no copy
    assert not here.flags.writeable
    old = np.from_dlpack(_Old(t))  # a consumer that knows no read-only memory gets a copy
    np.testing.assert_array_equal(old, x)
    assert address(old) != address(here)


class _Old:
    """A producer that drops the arguments of newer versions of the protocol."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()


@every_device
@pytest.mark.parametrize("name", NAMES)
def test_dlpack_in(name: str, device: str | None) -> None:
    source = torch.tensor(sample(name, 2, 3))
    t = Tensor.from_dlpack(source, device)
    assert t.dtype is DTYPES[name] and t.shape == (2, 3)
    assert address(t.data()) == source.data_ptr()
    source.zero_()
    assert not t.numpy().any()
    assert Tensor.from_dlpack(source.transpose(0, 1), device).shape == (3, 2)
    again = Tensor.from_dlpack(Tensor(sample(name, 4)), device)
    np.testing.assert_array_equal(again.numpy(), sample(name, 4))


@every_device
def test_views_of_a_lazy_result_compute_it(device: str | None) -> None:
    t = Tensor([1.0, 2.0], device=device)
    assert np.from_dlpack(t * 3).tolist() == [3, 6] and torch.from_dlpack(t + 1).tolist() == [2, 3]
    assert np.asarray(t * t).tolist() == [1, 4] and (t - 1).data().tolist() == [0, 1]
    assert np.from_dlpack(Tensor.ones(2, device=device)).tolist() == [1, 1]
    assert np.from_dlpack(Tensor.arange(3, device=device)).tolist() == [0, 1, 2]
    assert np.from_dlpack(Tensor(5.0, device=device)).shape == ()
    assert np.from_dlpack(Tensor.zeros(0, 2, device=device)).shape == (0, 2)
    assert np.from_dlpack(Tensor([[1, 2], [3, 4]], device=device).T).tolist() == [[1, 3], [2, 4]]


@every_device
def test_a_view_keeps_the_memory_alive(device: str | None) -> None:
    views = []
    for make in (np.from_dlpack, torch.from_dlpack, lambda t: t.data(), lambda t: np.asarray(t, copy=False)):
        for value in range(8):
            views.append((make(Tensor.full((4096,), float(value), device=device) + 0), value))
    gc.collect()
    fresh = [(Tensor.full((4096,), -1.0, device=device) * 2).realize() for _ in range(40)]
    for view, value in views:
        assert np.asarray(view).tolist() == [value] * 4096
    assert len(fresh) == 40


@every_device
def test_the_array_protocol(device: str | None) -> None:
    t = Tensor([[1.5, -2.0], [0.0, 3.0]], device=device)
    assert np.array(t).dtype == np.float32 and np.asarray(t, dtype=np.int64).tolist() == [[1, -2], [0, 3]]
    shared, copied = np.asarray(t, copy=False), np.array(t, copy=True)
    assert address(shared) == address(t.data()) != address(copied)
    assert not shared.flags.writeable and copied.flags.writeable
    with pytest.raises(ValueError, match="copy"):
        np.asarray(t, dtype=np.float64, copy=False)
    assert np.sum(np.asarray(t)) == 2.5 and np.concatenate([t, t]).shape == (4, 2)
    assert torch.tensor(np.asarray(t)).tolist() == t.tolist()


@every_device
def test_buffers(device: str | None) -> None:
    t = Tensor([[1, 2], [3, 4]], device=device)
    view = memoryview(t.data())
    assert view.shape == (2, 2) and view.format == "i" and view.readonly and view.tolist() == [[1, 2], [3, 4]]
    assert bytes(view) == np.array([[1, 2], [3, 4]], np.int32).tobytes()
    if sys.version_info >= (3, 12):
        assert memoryview(t).tolist() == [[1, 2], [3, 4]]
    data = bytearray(np.arange(3, dtype=np.float32).tobytes())
    x = Tensor.frombuffer(data, device=device)
    data[:4] = np.float32(9).tobytes()
    assert x.tolist() == [9, 1, 2]  # borrowed, as it can be written to
    assert Tensor.frombuffer(bytes(data), "uint8", device).shape == (12,)
    assert Tensor.frombuffer(array.array("h", [1, -2]), "int16", device).tolist() == [1, -2]
    assert Tensor(array.array("d", [0.5]), device=device).dtype.name == "float64"
    assert Tensor(memoryview(np.arange(4, dtype=np.int16).reshape(2, 2)), device=device).tolist() == [
        [0, 1],
        [2, 3],
    ]
    for wrong in (
        lambda: Tensor.frombuffer(b"abc"),
        lambda: Tensor.frombuffer(5),
        lambda: Tensor.from_numpy([1]),
    ):
        with pytest.raises((ValueError, TypeError), match=r"^from\w+: expected .+, got .+") as caught:
            wrong()
        assert isinstance(caught.value, PetaflopError)


def test_what_needs_gradient_is_not_handed_out_by_reference() -> None:
    x, other = Tensor([1.0], requires_grad=True), torch.ones(1, requires_grad=True)
    for leaf in (x, x * 2):
        with pytest.raises(RuntimeError, match="dlpack: expected") as caught:
            np.from_dlpack(leaf)
        assert isinstance(caught.value, PetaflopError)
    with pytest.raises((RuntimeError, BufferError)):
        np.from_dlpack(other)
    for leaf in (other, other.detach().bfloat16().requires_grad_()):
        with pytest.raises(RuntimeError, match=r"^from_dlpack: expected .+ use tensor.detach\(\)") as caught:
            Tensor.from_dlpack(leaf)
        assert isinstance(caught.value, PetaflopError)
    assert np.from_dlpack(x.detach()).tolist() == [1]
    with no_grad():
        assert np.from_dlpack(x * 2).tolist() == [2]


def test_narrow_floats() -> None:
    x = np.array([1.5, -0.25, 3e38], ml_dtypes.bfloat16)
    t = Tensor(x)
    assert t.dtype.name == "bfloat16" and t.numpy().dtype == ml_dtypes.bfloat16
    assert np.asarray(t, copy=False).tobytes() == x.tobytes() and Tensor.from_numpy(x).tolist() == x.tolist()
    with pytest.raises((BufferError, TypeError, RuntimeError)):
        np.from_dlpack(t)  # NumPy has no dtype for it
    with pytest.raises(TypeError, match=r"^data: expected .+ bitcast it to uint16 first"):
        t.data()
    assert t.bitcast("uint16").data().tolist() == x.view(np.uint16).tolist()


NARROW = {
    "bfloat16": torch.bfloat16,
    "float8_e4m3": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


@every_device
@pytest.mark.parametrize("name", NARROW)
def test_narrow_floats_to_torch_and_back(name: str, device: str | None) -> None:
    source = torch.arange(6.0).reshape(2, 3).to(NARROW[name])
    t = Tensor.from_dlpack(source, device)
    assert t.dtype is DTYPES[name] and t.tolist() == [[0, 1, 2], [3, 4, 5]]
    there = torch.from_dlpack(t)
    assert there.dtype is source.dtype and there.data_ptr() == source.data_ptr()  # no copy, either way
    assert torch.equal(there.float(), source.float())
    old = torch.from_dlpack(_Old(t))
    assert old.dtype is source.dtype and old.data_ptr() != source.data_ptr()
    copied = Tensor(source, device=device)
    assert Tensor.from_dlpack(source.T, device).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert Tensor(source.T, device=device).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert Tensor.from_dlpack(source[0, 0], device).shape == ()
    assert Tensor.from_dlpack(source[:0], device).shape == (0, 3)
    source.fill_(2)
    assert t.tolist() == [[2] * 3] * 2 and copied.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert copied.dtype is DTYPES[name] and Tensor(source, "float32", device).tolist() == [[2] * 3] * 2
    again = torch.from_dlpack(Tensor.from_dlpack(t, device))
    assert again.dtype is source.dtype and torch.equal(again.float(), source.float())


@every_device
def test_narrow_floats_outlive_their_makers(device: str | None) -> None:
    views, tensors = [], []
    for value in range(8):
        views.append(torch.from_dlpack(Tensor.full((4096,), float(value), "bfloat16", device) + 0))
        tensors.append(Tensor.from_dlpack(torch.full((4096,), float(value), dtype=torch.bfloat16), device))
    gc.collect()
    fresh = [torch.full((4096,), -1.0, dtype=torch.bfloat16) for _ in range(20)]
    fresh += [torch.from_dlpack(Tensor.full((4096,), -1.0, "bfloat16", device) * 2) for _ in range(20)]
    for value in range(8):
        assert views[value].tolist() == tensors[value].tolist() == [value] * 4096
    released = weakref.ref(owner := np.zeros(4096, ml_dtypes.bfloat16))
    t = Tensor.from_numpy(owner, device)
    there = torch.from_dlpack(t)
    del owner, t
    gc.collect()
    assert released() is not None and len(fresh) == 40  # torch's view holds the tensor, and that the array
    del there
    gc.collect()
    assert released() is None


def test_dlpack_refuses_what_it_cannot_take() -> None:
    for odd in (torch.ones(2).to(torch.float8_e4m3fnuz), torch.ones(2, dtype=torch.complex64)):
        for make in (Tensor.from_dlpack, Tensor):
            with pytest.raises(TypeError, match=r"expected .+, got .+") as caught:
                make(odd)
            assert isinstance(caught.value, PetaflopError)

    class Elsewhere:
        def __dlpack__(self, **options: Any) -> Any:
            raise AssertionError("never asked")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 1)

    with pytest.raises(ValueError, match=r"^from_dlpack: expected host memory, got device \(2, 1\); copy it"):
        Tensor.from_dlpack(Elsewhere())


@every_device
@pytest.mark.parametrize("name", list(DTYPES))
def test_pickles_hold_values(name: str, device: str | None) -> None:
    x = sample(name, 2, 3)
    made = {"plain": Tensor(x, device=device), "view": Tensor(x, device=device).T, "empty": Tensor(x[:0])}
    made |= {"lazy": Tensor(x, device=device) + 0, "scalar": Tensor(x, device=device)[0, 0]}
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        found = pickle.loads(pickle.dumps(made, protocol))
        for key, t in made.items():
            same = found[key]
            assert (same.dtype, same.shape, same.device) == (t.dtype, t.shape, t.device)
            assert same.numpy().tobytes() == t.numpy().tobytes()


def test_a_pickled_tensor_has_no_history() -> None:
    leaf = Tensor([2.0], requires_grad=True)
    result = (leaf * 3).sum()
    result.backward()
    for t in (leaf, result):
        same = pickle.loads(pickle.dumps(t))
        assert same.requires_grad and same.is_leaf and same.grad is None
        assert same.tolist() == t.tolist()
    assert not pickle.loads(pickle.dumps(leaf.detach())).requires_grad
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm2d(3))
    again = pickle.loads(pickle.dumps(model))
    for (name, mine), (other, theirs) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other and mine.tolist() == theirs.tolist() and mine is not theirs
    assert [p.requires_grad for p in again.parameters()] == [True] * 4


def test_of_torch_and_lists() -> None:
    assert Tensor(torch.arange(3)).dtype.name == "int64" and Tensor(torch.ones(2, 2).T).tolist() == [
        [1, 1],
        [1, 1],
    ]
    for wrong in ({"a": 1}, object(), None, 1j, {1, 2}):
        with pytest.raises(TypeError, match=r"^Tensor: expected .+, got .+") as caught:
            Tensor(wrong)
        assert isinstance(caught.value, PetaflopError)
    for nothing in (5, "text", None):
        with pytest.raises(TypeError, match=r"^from_dlpack: expected .+, got .+"):
            Tensor.from_dlpack(nothing)
