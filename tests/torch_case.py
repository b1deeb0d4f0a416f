"""One case against torch: a function of our Tensors and of torch's must agree in values, dtypes, shapes,
gradients and, where torch refuses, in the type of the error.

Floats are compared with what torch computes in float64, rounded to the dtype of the result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from petaflop.errors import PetaflopError
from petaflop.tensor import Tensor

__all__ = ["FLOATS", "HALVES", "INTEGERS", "check", "normal", "on_devices", "refuse", "second_order", "units"]

Function = Callable[..., Any]
HALVES = ("float16", "bfloat16")
FLOATS = ("float32", "float64", *HALVES)
INTEGERS = ("int8", "int16", "int32", "int64", "uint8")
RELATIVE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}  # a half: two units
on_devices = pytest.mark.parametrize("device", ["reference", "cpu"])


def normal(*shape: int, seed: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def as_dtype(array: Any, dtype: str) -> np.ndarray[Any, Any]:
    """An array of one of our dtypes, bfloat16 among them."""
    return np.asarray(array).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def to_torch(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        if array.dtype == ml_dtypes.bfloat16:
            return torch.tensor(array.astype(np.float32)).bfloat16()
        return torch.tensor(array)
    return array


def to_ours(array: Any, device: str) -> Any:
    return Tensor(array, device=device) if isinstance(array, np.ndarray) else array


def parts(value: Any) -> list[Any]:
    """The results of a function as a flat list."""
    return [part for item in value for part in parts(item)] if isinstance(value, (tuple, list)) else [value]


def is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def seed_of(value: torch.Tensor) -> np.ndarray[Any, Any]:
    """What a gradient starts from: different for each element, exact in every float."""
    return (np.arange(value.numel()) % 7 - 2.5).reshape(value.shape).astype(np.float32)


def compare(ours: Any, theirs: Any, exact: Any, index: bool, rtol: float | None, atol: float) -> None:
    if not isinstance(theirs, torch.Tensor):
        assert type(ours) is type(theirs) and ours == theirs
        return
    wanted = str(theirs.dtype).removeprefix("torch.")
    wanted = "int32" if index and wanted == "int64" else wanted
    assert (ours.dtype.name, tuple(ours.shape)) == (wanted, tuple(theirs.shape))
    values = ours.numpy()
    if not theirs.is_floating_point():
        np.testing.assert_array_equal(values, theirs.numpy())
        return
    rounded = exact.detach().to(theirs.dtype).double().numpy()
    relative = RELATIVE[wanted] if rtol is None else rtol
    np.testing.assert_allclose(values.astype(np.float64), rounded, rtol=relative, atol=atol)


def check(
    function: Function,
    *arrays: Any,
    theirs: Function | None = None,
    device: str = "reference",
    index: bool | None = None,
    gradients: bool = True,
    native: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """`function` on our Tensors against `theirs` (by default itself) on torch's, for arrays as arguments.

    `index` says that integers which are int64 in torch are int32 here: by default where no argument is int64.
    `native` to compare with what torch
    computes in the dtype itself, for what jumps where a quotient is rounded.
    """
    other = theirs or function
    plain = [to_torch(array) for array in arrays]
    try:
        second = parts(other(*plain))
    except Exception as error:  # noqa: BLE001 - whatever torch raises, ours must be one of those
        refuse(function, *arrays, kind=type(error), device=device)
        return
    wide = [(x if native else x.double()).requires_grad_(gradients) if is_float(x) else x for x in plain]
    exact = parts(other(*wide))
    ours = [to_ours(array, device) for array in arrays]
    leaves = [(x, y) for x, y in zip(ours, wide, strict=True) if is_float(y) and gradients]
    for x, _ in leaves:
        x.requires_grad_()
    first = parts(function(*ours))
    assert len(first) == len(second)
    tracked = [(x, y) for x, y in zip(first, exact, strict=True) if is_float(y) and y.requires_grad]
    for x, y in tracked:
        seed = seed_of(y)
        if x.requires_grad:
            x.backward(Tensor(seed, device=device))
        y.backward(torch.tensor(seed).to(y.dtype), retain_graph=True)
    computed = [x for x in first if isinstance(x, Tensor)] + [x.grad for x, _ in leaves if x.grad is not None]
    if computed:
        Tensor.realize(*computed)
    if index is None:
        index = all(getattr(x, "dtype", None) is not torch.int64 for x in plain)
    near = 1e-30 if atol is None else atol
    for x, y, z in zip(first, second, exact, strict=True):
        compare(x, y, z, index, rtol, near)
    for x, y in leaves:
        if x.grad is None:  # ours may know that nothing depends on it
            assert y.grad is None or not y.grad.any()
        else:
            assert y.grad is not None
            assert x.grad.dtype is x.dtype and x.grad.shape == x.shape
            relative = 10 * (RELATIVE[x.dtype.name] if rtol is None else rtol)
            rounded = y.grad.to(to_torch(x.detach().numpy()).dtype).double().numpy()
            slack = relative * 0.01 if atol is None else atol  # 1 − tanh² cancels, in torch as well
            np.testing.assert_allclose(x.grad.numpy().astype(np.float64), rounded, rtol=relative, atol=slack)


def refuse(function: Function, *arrays: Any, kind: type[BaseException], device: str = "reference") -> None:
    """`function` raises a PetaflopError that is also a `kind`, in the form of our messages."""
    if kind is NotImplementedError:  # how torch says that a dtype is not supported
        kind = RuntimeError
    with pytest.raises(kind) as caught:
        function(*(to_ours(array, device) for array in arrays))
    assert isinstance(caught.value, PetaflopError)
    assert re.match(r"\S[^:]*: expected .+, got .+", str(caught.value)), str(caught.value)


def second_order(
    function: Function, *arrays: Any, theirs: Function | None = None, **tolerance: float
) -> None:
    """Gradients of a function of the gradients, as torch.autograd.grad(create_graph=True) gives them."""
    ours = [Tensor(array.astype(np.float64), device="reference").requires_grad_() for array in arrays]
    plain = [torch.tensor(array.astype(np.float64)).requires_grad_() for array in arrays]
    first = function(*ours)
    second = (theirs or function)(*plain)
    seed = seed_of(second)
    grads = first.gradient(*ours, gradient=Tensor(seed, device="reference"))
    wanted = torch.autograd.grad(second, plain, torch.tensor(seed).double(), create_graph=True)
    for x, y in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(x.numpy(), y.detach().numpy(), rtol=1e-9, atol=1e-11)
    total = sum(((grad * grad).sum() for grad in grads), Tensor(0.0, dtype="float64", device="reference"))
    total.backward()
    sum((grad * grad).sum() for grad in wanted).backward()  # type: ignore[union-attr]
    for x, y in zip(ours, plain, strict=True):
        np.testing.assert_allclose(
            x.grad.numpy(), y.grad.numpy(force=True), **{"rtol": 1e-8, "atol": 1e-9, **tolerance}
        )


def units(values: Any, exact: Any, dtype: str) -> Any:
    """How far values are from exact ones, in units in the last place of `dtype`; infinite where only one is
    finite."""
    kind = np.dtype(dtype)
    with np.errstate(all="ignore"):
        rounded = np.asarray(exact).astype(kind)
        same = (values == rounded) | (np.isnan(values) & np.isnan(rounded))
        spacing = np.maximum(np.spacing(np.abs(rounded)), np.finfo(kind).smallest_subnormal)
        distance = np.abs(values.astype(np.longdouble) - exact) / spacing
        distance = np.where(np.isfinite(values) == np.isfinite(rounded), distance, np.inf)
    return np.where(same, 0, distance)


def each(names: Sequence[str], cases: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [(name, case) for name in names for case in cases]
