"""Reductions, running totals, sorting and extremes against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch_case import FLOATS, HALVES, INTEGERS, as_dtype, check, normal, on_devices, refuse

from petaflop.tensor import Tensor

NAN, INF = float("nan"), float("inf")
Case = tuple[Callable[..., Any], Callable[..., Any] | None]
X = normal(2, 3, 4)
TIES = np.array([[1, 3, 3, 2], [0, 0, 0, 0], [-1, -1, 5, 5]], np.float32)
SPECIAL = np.array(
    [[1, NAN, 3, 2], [INF, 1, -INF, 0], [INF, INF, 1, -2], [-INF, -INF, -INF, -INF]], np.float32
)
ZEROS = np.array([[2, 0, 3, 4], [0, 0, 2, 1], [1, 2, -3, 0.5]], np.float32)

# along which axes, as both call them
AXES: list[Any] = [None, 0, -1, 1, (0, 2), (-1, 0), (0, 1, 2)]

# what takes several axes: ours and torch's
MANY: dict[str, Case] = {
    "sum": (lambda x, dim, keepdim: x.sum(dim, keepdim), None),
    "mean": (lambda x, dim, keepdim: x.mean(dim, keepdim), None),
    "max": (
        lambda x, dim, keepdim: x.max(dim, keepdim),
        lambda x, dim, keepdim: x.amax(() if dim is None else dim, keepdim),
    ),
    "min": (
        lambda x, dim, keepdim: x.min(dim, keepdim),
        lambda x, dim, keepdim: x.amin(() if dim is None else dim, keepdim),
    ),
    "amax": (
        lambda x, dim, keepdim: x.amax(dim, keepdim),
        lambda x, dim, keepdim: x.amax(() if dim is None else dim, keepdim),
    ),
    "var": (lambda x, dim, keepdim: x.var(dim, keepdim=keepdim), None),
    "std": (lambda x, dim, keepdim: x.std(dim, correction=0, keepdim=keepdim), None),
    "std_mean": (
        lambda x, dim, keepdim: x.std_mean(dim, keepdim=keepdim),
        lambda x, dim, keepdim: torch.std_mean(x, dim, keepdim=keepdim),
    ),
    "var_mean": (
        lambda x, dim, keepdim: x.var_mean(dim, correction=0.5, keepdim=keepdim),
        lambda x, dim, keepdim: torch.var_mean(x, dim, correction=0.5, keepdim=keepdim),
    ),
    "any": (lambda x, dim, keepdim: (x > 0).any(dim, keepdim), None),
    "all": (lambda x, dim, keepdim: (x > -1).all(dim, keepdim), None),
    "norm": (lambda x, dim, keepdim: x.norm(2, dim, keepdim), None),
    "norm-3": (lambda x, dim, keepdim: x.norm(3, dim, keepdim), None),
    "norm-inf": (lambda x, dim, keepdim: x.norm(INF, dim, keepdim), None),
}
MANY["any"] = (MANY["any"][0], lambda x, dim, keepdim: torch.any(x > 0, dim, keepdim=keepdim))
MANY["all"] = (MANY["all"][0], lambda x, dim, keepdim: torch.all(x > -1, dim, keepdim=keepdim))
MANY["logsumexp"] = (
    lambda x, dim, keepdim: x.logsumexp(dim, keepdim),
    lambda x, dim, keepdim: torch.logsumexp(x, (0, 1, 2) if dim is None else dim, keepdim),
)


@pytest.mark.parametrize("name", MANY)
def test_axes(name: str) -> None:
    mine, theirs = MANY[name]
    for number, axes in enumerate(AXES):
        check(
            lambda x, d=axes, k=bool(number % 2): mine(x, d, k),
            X,
            theirs=lambda x, d=axes, k=bool(number % 2): (theirs or mine)(x, d, k),
            atol=1e-6,
        )


# what takes one axis or none
ONE: dict[str, Case] = {
    "prod": (lambda x, dim, keepdim: x.prod(dim, keepdim), None),
    "argmax": (lambda x, dim, keepdim: x.argmax(dim, keepdim), None),
    "argmin": (lambda x, dim, keepdim: x.argmin(dim, keepdim), None),
    "softmax": (lambda x, dim, keepdim: x.softmax(dim), None),
    "log_softmax": (lambda x, dim, keepdim: x.log_softmax(dim), None),
    "softmin": (lambda x, dim, keepdim: x.softmin(dim), lambda x, dim, keepdim: F.softmin(x, dim)),
    "normalize": (
        lambda x, dim, keepdim: x.normalize(dim=dim),
        lambda x, dim, keepdim: F.normalize(x, dim=dim),
    ),
    "normalize-1": (
        lambda x, dim, keepdim: x.normalize(1, dim, 0.5),
        lambda x, dim, keepdim: F.normalize(x, 1, dim, 0.5),
    ),
    "cumsum": (lambda x, dim, keepdim: x.cumsum(dim), None),
    "cumprod": (lambda x, dim, keepdim: x.cumprod(dim), None),
    "cummax": (lambda x, dim, keepdim: x.cummax(dim), lambda x, dim, keepdim: tuple(x.cummax(dim))),
    "cummin": (lambda x, dim, keepdim: x.cummin(dim), lambda x, dim, keepdim: tuple(x.cummin(dim))),
    "logcumsumexp": (lambda x, dim, keepdim: x.logcumsumexp(dim), None),
    "sort": (
        lambda x, dim, keepdim: x.sort(dim),
        lambda x, dim, keepdim: tuple(x.sort(dim=dim, stable=True)),
    ),
    "sort-down": (
        lambda x, dim, keepdim: x.sort(dim, descending=True),
        lambda x, dim, keepdim: tuple(x.sort(dim=dim, descending=True, stable=True)),
    ),
    "argsort": (
        lambda x, dim, keepdim: x.argsort(dim),
        lambda x, dim, keepdim: x.argsort(dim=dim, stable=True),
    ),
    "topk": (lambda x, dim, keepdim: x.topk(2, dim), lambda x, dim, keepdim: tuple(x.topk(2, dim))),
    "topk-least": (
        lambda x, dim, keepdim: x.topk(2, dim, largest=False),
        lambda x, dim, keepdim: tuple(x.topk(2, dim, largest=False)),
    ),
    "kthvalue": (
        lambda x, dim, keepdim: x.kthvalue(2, dim, keepdim),
        lambda x, dim, keepdim: tuple(x.kthvalue(2, dim, keepdim)),
    ),
}
WHOLE = ("prod", "argmax", "argmin")  # without an axis as well; torch's prod has no keepdim then


@pytest.mark.parametrize("name", ONE)
def test_one_axis(name: str) -> None:
    mine, theirs = ONE[name]
    for axis in (0, 1, -1):
        check(
            lambda x, d=axis: mine(x, d, d == 1),
            X,
            theirs=lambda x, d=axis: (theirs or mine)(x, d, d == 1),
            atol=1e-6,
        )
    if name in WHOLE:
        check(lambda x: getattr(x, name)(), X, atol=1e-6)


# every dtype along the last axis
SAME: dict[str, Case] = {
    "sum": (lambda x: (x.sum(-1), x.sum()), None),
    "prod": (lambda x: x.prod(-1), None),
    "mean": (lambda x: x.mean(-1), None),
    "max": (lambda x: (x.max(-1), x.max()), lambda x: (x.amax(-1), x.max())),
    "min": (lambda x: (x.min(-1), x.min()), lambda x: (x.amin(-1), x.min())),
    "any": (lambda x: (x.any(-1), x.any()), None),
    "all": (lambda x: (x.all(-1), x.all()), None),
    "argmax": (lambda x: (x.argmax(-1), x.argmax()), None),
    "argmin": (lambda x: (x.argmin(-1), x.argmin()), None),
    "var": (lambda x: (x.var(-1), x.std(-1)), None),
    "cumsum": (lambda x: x.cumsum(-1), None),
    "cumprod": (lambda x: x.cumprod(-1), None),
    "cummax": (lambda x: x.cummax(-1), lambda x: tuple(x.cummax(-1))),
    "cummin": (lambda x: x.cummin(-1), lambda x: tuple(x.cummin(-1))),
    "sort": (lambda x: x.sort(-1), lambda x: tuple(x.sort(dim=-1, stable=True))),
    "sort-down": (
        lambda x: x.sort(-1, descending=True),
        lambda x: tuple(x.sort(dim=-1, descending=True, stable=True)),
    ),
    "topk": (lambda x: x.topk(3)[0], lambda x: x.topk(3)[0]),
    "logsumexp": (lambda x: x.logsumexp(-1), None),
    "softmax": (lambda x: x.softmax(-1), None),
    "log_softmax": (lambda x: x.log_softmax(-1), None),
    "logcumsumexp": (lambda x: x.logcumsumexp(-1), None),
    "norm": (lambda x: x.norm(2, -1), None),
    "sum-dtype": (lambda x: x.sum(-1, dtype="float64"), lambda x: x.sum(-1, dtype=torch.float64)),
    "sum-int8": (lambda x: x.sum(-1, dtype="int8"), lambda x: x.sum(-1, dtype=torch.int8)),
    "mean-dtype": (lambda x: x.mean(-1, dtype="float32"), lambda x: x.mean(-1, dtype=torch.float32)),
}
PRODUCTS = ("prod", "cumprod")  # int64 in both, also of narrower integers
INDICES = ("argmax", "argmin", "cummax", "cummin", "sort", "sort-down")
# where ours takes more than torch, or gives the truth of every dtype as bool
MORE = {
    "any": ("uint8",),
    "all": ("uint8",),
    "argmax": ("bool",),
    "argmin": ("bool",),
    "topk": ("bool",),
    **dict.fromkeys(("softmax", "log_softmax", "logcumsumexp"), (*INTEGERS, "bool")),
}
UNORDERED = ("topk",)  # which of the equal ones torch takes is not said


@pytest.mark.parametrize("name", SAME)
def test_dtypes(name: str) -> None:
    mine, theirs = SAME[name]
    values = [[3, 1, 2, 3], [0, 0, 0, 0], [7, -2, 5, -7]]
    dtypes = [dtype for dtype in (*FLOATS, *INTEGERS, "bool") if dtype not in MORE.get(name, ())]
    for dtype in dtypes if name != "sum-int8" else INTEGERS:
        array = as_dtype(np.abs(values) if dtype == "uint8" else values, dtype)
        options: dict[str, Any] = {
            "atol": 1e-3 if dtype in HALVES else 1e-6,
            "gradients": name not in UNORDERED,
            "index": False if name in PRODUCTS else None,
        }
        if dtype == "int64" and name in INDICES:  # the values are int64 in both, the indices int32 in ours
            check(
                lambda x: values_of(mine(x)),
                array,
                theirs=lambda x: values_of((theirs or mine)(x)),
                **options,
            )
        else:
            check(mine, array, theirs=theirs, **options)


def values_of(value: Any) -> Any:
    """Results as floats, whatever integers they are."""
    return [part + 0.0 for part in value]


@pytest.mark.parametrize("name", [name for name in SAME if name != "sum-int8"])
def test_awkward_values(name: str) -> None:
    """Ties and zeros, with the gradients that torch gives; NaN and infinities."""
    mine, theirs = SAME[name]
    check(mine, TIES, theirs=theirs, atol=1e-6, gradients=name not in UNORDERED)
    check(mine, ZEROS, theirs=theirs, atol=1e-6, gradients=name not in UNORDERED)
    check(mine, SPECIAL, theirs=theirs, atol=1e-6, gradients=False)


@pytest.mark.parametrize("name", [name for name in SAME if name != "sum-int8"])
def test_empty_and_scalar(name: str) -> None:
    mine, theirs = SAME[name]
    for array in (np.zeros((0, 4), np.float32), np.zeros((4, 0), np.float32), np.array(2.5, np.float32)):
        check(mine, array, theirs=theirs)


@on_devices
def test_long_axes(device: str) -> None:
    """Sorting networks, blocked sums and scans that are longer than one block."""
    x = normal(3, 1500)
    check(lambda x: x.sort(-1), x, theirs=lambda x: tuple(x.sort(dim=-1, stable=True)), device=device)
    check(lambda x: (x.cumsum(-1), x.sum(-1), x.mean(-1)), x, device=device, atol=1e-4)
    check(lambda x: (x.max(-1), x.argmax(-1)), x, theirs=lambda x: (x.amax(-1), x.argmax(-1)), device=device)
    check(lambda x: x.softmax(-1), x, device=device, atol=1e-6)


@on_devices
def test_halves_are_accumulated_in_float32(device: str) -> None:
    """4,096 ones, of which a sum in float16 or bfloat16 itself would lose most."""
    for dtype in ("float16", "bfloat16"):
        x = Tensor(as_dtype(np.ones((2, 4096)), dtype), device=device)
        wanted = as_dtype(4096.0, dtype)
        assert x.sum(-1).numpy().tolist() == [wanted, wanted]
        assert x.mean().item() == 1 and x.var().item() == 0
        assert x.cumsum(-1)[0, -1].item() == wanted
        assert (x @ x.T).numpy().tolist() == [[wanted] * 2] * 2


@on_devices
def test_products_that_leave_32_bits(device: str) -> None:
    for dtype in (*INTEGERS, "bool"):
        x = np.full((2, 9), 1 if dtype == "bool" else 100).astype(dtype)
        check(lambda x: (x.prod(-1), x.prod(), x.cumprod(-1)), x, device=device, index=False)
    for dtype, wanted in (("uint16", "int64"), ("uint32", "int64"), ("uint64", "uint64")):
        x = Tensor(np.full(9, 100, dtype), device=device)
        for product in (x.prod(), x.cumprod()[-1]):
            assert product.dtype.name == wanted and product.item() == 10**18


MOMENTS = ("var", "std", "var_mean", "std_mean")
SPELLINGS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {"unbiased": False}),
    ((), {"unbiased": True}),
    ((0,), {"unbiased": False}),
    ((0, False), {}),
    ((0, True, True), {}),
    ((False,), {}),
    ((True,), {}),
    ((), {"dim": -1, "unbiased": False, "keepdim": True}),
    ((None,), {"correction": 0}),
    ((), {"unbiased": True, "correction": 1}),
]


@pytest.mark.parametrize("name", MOMENTS)
@pytest.mark.parametrize(("words", "options"), SPELLINGS, ids=str)
def test_moments_as_torch_spells_them(name: str, words: tuple[Any, ...], options: dict[str, Any]) -> None:
    def theirs(x: Any) -> Any:
        found = getattr(torch, name)(x, *words, **options)
        return found if name in ("var", "std") else tuple(found)

    check(lambda x: getattr(x, name)(*words, **options), X, theirs=theirs, atol=1e-6)


REFUSED: dict[str, tuple[Callable[..., Any], Any]] = {
    "axis-twice-of-a-scalar": (lambda x: x.sum((0, 0)), np.array(3, np.float32)),
    "axis-twice-of-a-scalar-by-sign": (lambda x: x.sum((0, -1)), np.array(3, np.float32)),
    "softmax-of-a-scalar": (lambda x: x.softmax(1), np.array(3, np.float32)),
    "softmin-of-a-scalar": (
        lambda x: F.softmin(x, 1) if isinstance(x, torch.Tensor) else x.softmin(1),
        np.array(3, np.float32),
    ),
    "log_softmax-of-a-scalar": (lambda x: x.log_softmax(-2), np.array(3, np.float32)),
    "axis": (lambda x: x.sum(3), X),
    "axis-negative": (lambda x: x.sum(-4), X),
    "axis-twice": (lambda x: x.sum((0, 0)), X),
    "axis-type": (lambda x: x.sum("x"), X),
    "mean-of-integers": (lambda x: x.mean(), np.ones(3, np.int32)),
    "var-of-integers": (lambda x: x.var(), np.ones(3, np.int32)),
    "argmax-of-nothing": (lambda x: x.argmax(), np.zeros(0, np.float32)),
    "max-of-nothing": (lambda x: x.max(), np.zeros(0, np.float32)),
    "softmax-axis": (lambda x: x.softmax(3), X),
    "cumsum-axis": (lambda x: x.cumsum(3), X),
    "sort-axis": (lambda x: x.sort(3), X),
    "topk-more": (lambda x: x.topk(5), X),
    "topk-negative": (lambda x: x.topk(-1), X),
    "kthvalue-0": (lambda x: x.kthvalue(0), X),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_those_of_torch(name: str) -> None:
    function, array = REFUSED[name]
    with pytest.raises(Exception) as caught:
        function(torch.tensor(array))
    refuse(function, array, kind=type(caught.value))


def test_allclose() -> None:
    x = Tensor([1.0, NAN])
    assert not x.allclose(x) and x.allclose(x, equal_nan=True)
    assert Tensor([1.0]).allclose(Tensor([1.000001])) and not Tensor([1.0]).allclose(1.1)
    assert type(Tensor([1]).allclose(Tensor([1]))) is bool
