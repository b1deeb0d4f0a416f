"""Errors: their types are also PyTorch's, they come when the graph is built, and name the user's line."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petaflop import Tensor, errors, nn, no_grad, optim
from petaflop.config import overrides
from petaflop.errors import ArgumentTypeError, DTypeError, GradientError, NumericsError, PetaflopError
from petaflop.jit import jit
from petaflop.profile import profile

TORCH = {  # what PyTorch raises for the same mistake
    "ShapeError": RuntimeError,
    "DTypeError": RuntimeError,
    "ArgumentError": ValueError,
    "ArgumentTypeError": TypeError,
    "IndexRangeError": IndexError,
    "GradientError": RuntimeError,
    "JitError": RuntimeError,
    "DeviceError": RuntimeError,
    "DeviceMemoryError": MemoryError,
    "CompileError": RuntimeError,
    "PluginError": RuntimeError,
    "NumericsError": ArithmeticError,
    "FileFormatError": ValueError,
}


def test_every_error_is_of_both_trees() -> None:
    assert set(errors.__all__) == {*TORCH, "PetaflopError", "building", "origin", "user_line"}
    for name, kind in TORCH.items():
        error = getattr(errors, name)("text")
        assert isinstance(error, PetaflopError) and isinstance(error, kind)
        assert str(error) == "text"


MISTAKES: dict[str, tuple[type[Exception], Callable[[], Any]]] = {
    "matmul": (RuntimeError, lambda: Tensor.ones(2, 3) @ Tensor.ones(4, 5)),
    "broadcast": (RuntimeError, lambda: Tensor.ones(2) + Tensor.ones(3)),
    "reshape": (RuntimeError, lambda: Tensor.ones(6).reshape(4, 2)),
    "axis": (IndexError, lambda: Tensor.ones(2).sum(5)),
    "index": (IndexError, lambda: Tensor.ones(2)[3]),
    "operand": (TypeError, lambda: Tensor.ones(2) + "x"),
    "backward": (RuntimeError, lambda: Tensor.ones(1).backward()),
    "layer": (RuntimeError, lambda: nn.Linear(3, 2)(Tensor.ones(1, 4))),
    "norm": (RuntimeError, lambda: nn.LayerNorm(3)(Tensor.ones(1, 4))),
    "rate": (ValueError, lambda: optim.SGD([Tensor.ones(1, requires_grad=True)], lr=-1)),
    "parameters": (ValueError, lambda: optim.Adam([])),
    "state": (ValueError, lambda: nn.Linear(1, 1).load_state_dict({})),
    "jit": (RuntimeError, lambda: jit(lambda x: x.item())(Tensor([1.0]))),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_note_is_the_line_that_the_user_wrote(name: str) -> None:
    kind, mistake = MISTAKES[name]
    with pytest.raises(kind) as caught:
        mistake()
    assert isinstance(caught.value, PetaflopError) or kind is TypeError
    written = f'"{name}": ('
    assert written in "".join(traceback.format_exception(caught.value))
    if isinstance(caught.value, PetaflopError):
        (note,) = caught.value.__notes__
        assert note.startswith(f"at {__file__}:") and written in note


def test_an_overwritten_value_names_the_assignment() -> None:
    weight = Tensor([3.0], requires_grad=True)
    x = Tensor([2.0], requires_grad=True)
    loss = (weight * x).sum().realize()
    with no_grad():
        weight.assign(weight * 10).realize()  # the assignment
    with pytest.raises(GradientError, match="the assignment") as caught:
        loss.backward()
        assert x.grad is not None
        x.grad.numpy()
    assert "clone()" in str(caught.value)


def test_a_step_that_overwrites_names_the_users_line() -> None:
    weight = Tensor([3.0], requires_grad=True)
    optimizer = optim.SGD([weight], lr=0.1)
    loss = (weight * weight).sum()
    loss.backward()
    optimizer.step()  # the step
    with pytest.raises(GradientError, match="the step"):
        loss.backward()
        assert weight.grad is not None
        weight.grad.numpy()


# ---- PETAFLOP_CHECK=nan ----


@pytest.fixture
def checking() -> Any:
    with overrides(check="nan"):
        yield


@pytest.mark.usefixtures("checking")
def test_the_first_kernel_that_makes_a_nan_is_named() -> None:
    x = Tensor(np.random.default_rng(0).integers(-3, 4, (64, 64)).astype(np.float32))
    after = ((x @ x).sqrt() @ x).relu() @ x  # three products; the root of the first is NaN somewhere
    with profile() as recorded, pytest.raises(NumericsError) as caught:
        after.numpy()  # asked here
    text = str(caught.value)
    wrong = int((np.float64(x.numpy()) @ x.numpy() < 0).sum())
    assert f"got {wrong} of 4096" in text and "sqrt(" in text and "asked here" in text
    assert recorded.launches[-1].name in text and len(recorded.launches) <= 2


@pytest.mark.usefixtures("checking")
def test_kernels_that_carry_a_nan_are_passed_over() -> None:
    x = Tensor([np.nan, 4.0])
    y = ((x + 1).contiguous() * 2).contiguous()
    np.testing.assert_array_equal(y.numpy(), [np.nan, 10.0])
    y[1:] = 7.0  # in place, beside the NaN
    np.testing.assert_array_equal(y.numpy(), [np.nan, 7.0])
    clean = Tensor([-1.0, 4.0])
    bad = clean.sqrt()  # built here
    with pytest.raises(NumericsError, match=r"test_errors.py:\d+: bad = clean.sqrt\(\)  # built here;"):
        bad.realize()
    for _ in range(3):  # memory that held a NaN is not held for one that was there
        with pytest.raises(NumericsError, match="got 1 of 2"):
            (clean.sqrt() * 3).realize()


@pytest.mark.usefixtures("checking")
def test_every_line_of_a_fused_kernel_is_named() -> None:
    x = Tensor([-1.0, 4.0]).realize()
    y = x.log()
    z = (y + 1).sum()
    with pytest.raises(NumericsError) as caught:
        z.item()  # asked here
    text = str(caught.value)
    assert text.index("y = x.log()") < text.index("z = (y + 1).sum()") < text.index("asked here")


@pytest.mark.usefixtures("checking")
def test_a_replay_is_checked_too() -> None:
    function = jit(lambda x: (x.sqrt() * 2).contiguous().sum())
    assert function(Tensor([1.0, 4.0])).item() == 6
    assert function(Tensor([9.0, 4.0])).item() == 10
    with pytest.raises(NumericsError, match=r"built at .*function = jit\(lambda x: \(x.sqrt"):
        function(Tensor([-1.0, 4.0]))


def test_nothing_is_checked_unasked() -> None:
    assert np.isnan(Tensor([-1.0]).sqrt().item())


def test_no_dtype_is_not_float64() -> None:
    with pytest.raises(DTypeError, match="got None"):
        Tensor([1]).cast(None)


def test_a_seed_is_an_integer() -> None:
    with pytest.raises(ArgumentTypeError, match="manual_seed"):
        Tensor.manual_seed("1")  # type: ignore[arg-type]


def test_scalars_are_formatted_as_numbers() -> None:
    assert f"{Tensor(1.25) * 2:.3f} {Tensor(7):03d}" == "2.500 007"
    assert f"{Tensor([1.5])}".startswith("<Tensor float32[1]")
    with pytest.raises(TypeError):
        f"{Tensor([1.5]):.2f}"


# ---- PETAFLOP_CHECK=index ----


@pytest.fixture
def checking_indices() -> Any:
    with overrides(check="index"):
        yield


TABLE = np.arange(12, dtype=np.float32).reshape(3, 4)
INDEXED: dict[str, tuple[Any, list[int], list[int], str]] = {  # an index that fits, and one that does not
    "index": (lambda i: Tensor(TABLE)[i], [0, -3], [0, 3], "index: expected -3 <= index < 3, got 3 at [1]"),
    "index-negative": (
        lambda i: Tensor(TABLE)[:, i],
        [-4],
        [-5],
        "index: expected -4 <= index < 4, got -5 at [0]",
    ),
    "index-of-two": (
        lambda i: Tensor(TABLE)[i, i],
        [0, 2],
        [0, 3],
        "index: expected -3 <= index < 3, got 3 at [1]",
    ),
    "index-lazy": (
        lambda i: Tensor(TABLE)[i * 2],
        [0, 1],
        [0, 2],
        "index: expected -3 <= index < 3, got 4 at [1]",
    ),
    "select": (
        lambda i: Tensor(TABLE).index_select(0, i),
        [2, 2],
        [2, 4],
        "index: expected -3 <= index < 3, got 4 at [1]",
    ),
    "gather": (
        lambda i: Tensor(TABLE).gather(1, i.unsqueeze(0)),
        [0, 3],
        [0, 4],
        "gather: expected 0 <= index < 4, got 4 at [0, 1]",
    ),
    "gather-negative": (
        lambda i: Tensor(TABLE).gather(1, i.unsqueeze(0)),
        [0, 3],
        [-1, 3],
        "gather: expected 0 <= index < 4, got -1 at [0, 0]",
    ),
    "scatter_add": (
        lambda i: Tensor(TABLE).scatter_add(1, i.unsqueeze(0), Tensor([[1.0, 1]])),
        [0, 3],
        [0, 4],
        "scatter_add: expected 0 <= index < 4, got 4 at [0, 1]",
    ),
    "embedding": (
        lambda i: nn.Embedding(5, 2)(i),
        [4, -5],
        [4, 5],
        "index: expected -5 <= index < 5, got 5 at [1]",
    ),
    "nll_loss": (
        lambda i: Tensor(TABLE[:2]).cross_entropy(i),
        [3, -100],
        [4, -100],
        "nll_loss: expected 0 <= index < 4, got 4 at [0]",
    ),
    "nll_loss-negative": (
        lambda i: Tensor(TABLE[:2]).cross_entropy(i),
        [3, 0],
        [3, -1],
        "nll_loss: expected 0 <= index < 4, got -1 at [1]",
    ),
    "jitted": (
        lambda i: jit(lambda i: Tensor(TABLE)[i])(i),
        [0, 2],
        [0, 3],
        "index: expected -3 <= index < 3, got 3 at [1]",
    ),
}


@pytest.mark.usefixtures("checking_indices")
@pytest.mark.parametrize("name", INDEXED)
def test_an_index_out_of_range_is_named(name: str) -> None:
    function, fits, wrong, message = INDEXED[name]
    checked = function(Tensor(fits)).numpy()
    with overrides(check=""):
        np.testing.assert_array_equal(function(Tensor(fits)).shape, checked.shape)
        function(Tensor(wrong)).numpy()  # defined, and silent
    with pytest.raises(IndexError) as caught:
        function(Tensor(wrong)).numpy()
    assert str(caught.value).startswith(f"{message}; built at ")
    assert "test_errors.py" in str(caught.value)


@pytest.mark.usefixtures("checking_indices")
def test_functions_that_index_themselves_pass_the_check() -> None:
    x = Tensor(TABLE, requires_grad=True)
    (x.sort(1)[0] * x.topk(2)[0].sum() + x.cummax(1)[0] + x[Tensor(TABLE) > 5].sum()).sum().backward()
    assert x.grad is not None and np.isfinite(x.grad.numpy()).all()
    written = Tensor.zeros(4).contiguous()
    written[Tensor([1, 3])] = 2.0
    assert written.tolist() == [0, 2, 0, 2]
    with pytest.raises(IndexError, match="got 4 at "):
        written[Tensor([1, 4])] = 2.0
        written.realize()
