"""Errors: their types are also PyTorch's, they come when the graph is built, and name the user's line."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petaflop import Tensor, errors, nn, no_grad, optim
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
    assert set(errors.__all__) == {*TORCH, "PetaflopError", "user_line"}
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
    from petaflop.config import overrides

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
    assert "held NaN already" not in text
    assert recorded.launches[-1].name in text and len(recorded.launches) <= 2


@pytest.mark.usefixtures("checking")
def test_a_nan_that_was_given_is_told_apart() -> None:
    with pytest.raises(NumericsError, match=r"in0 held NaN already"):
        (Tensor([np.nan, 1.0]) + 1).realize()
    assert Tensor([np.nan, 1.0]).isnan().tolist() == [True, False]  # no float comes out


@pytest.mark.usefixtures("checking")
def test_a_replay_is_checked_too() -> None:
    function = jit(lambda x: (x.sqrt() * 2).contiguous().sum())
    assert function(Tensor([1.0, 4.0])).item() == 6
    assert function(Tensor([9.0, 4.0])).item() == 10
    with pytest.raises(NumericsError, match=r"sqrt\("):
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
