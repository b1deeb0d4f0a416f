"""Products against torch: matmul, dot, einsum, linear and outer, every rank, dtype and broadcast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch_case import FLOATS, as_dtype, check, normal, refuse

from petaflop.tensor import Tensor

SHAPES = [
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 2)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((2, 1, 2, 3), (4, 3, 2)),
    ((3,), (5, 3, 2)),
    ((5, 2, 3), (3,)),
    ((0, 3), (3, 2)),
    ((2, 0), (0, 3)),
    ((1, 1), (1, 1)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_matmul(shapes: Any) -> None:
    a, b = (normal(*shape, seed=seed) for seed, shape in enumerate(shapes))
    check(lambda a, b: a @ b, a, b, atol=1e-6)
    check(lambda a, b: a.matmul(b), a, b, atol=1e-6, gradients=False)


@pytest.mark.parametrize("dtype", [*FLOATS, "int32", "int64", "uint8"])
def test_matmul_dtypes(dtype: str) -> None:
    a, b = as_dtype([[1, 2, 3], [4, 5, 6]], dtype), as_dtype([[1, 0], [2, 1], [3, 7]], dtype)
    check(lambda a, b: a @ b, a, b)


EINSUMS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("bij,bjk->bik", (2, 2, 3), (2, 3, 2)),
    ("i,j->ij", (2,), (3,)),
    ("ii->i", (3, 3)),
    ("ii", (3, 3)),
    ("ij->ji", (2, 3)),
    ("ij->", (2, 3)),
    ("ij,ij->i", (2, 3), (2, 3)),
    ("...ij,...jk->...ik", (2, 2, 3), (3, 4)),
    ("b...,b...->...", (2, 3, 2), (2, 3, 2)),
    ("ij,jk,kl->il", (2, 3), (3, 2), (2, 4)),
    ("abc,cd,b->ad", (2, 3, 4), (4, 2), (3,)),
    ("ba", (2, 3)),
]


@pytest.mark.parametrize("case", EINSUMS, ids=lambda case: case[0])
def test_einsum(case: Any) -> None:
    equation, *shapes = case
    arrays = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    check(
        lambda *xs: Tensor.einsum(equation, *xs),
        *arrays,
        theirs=lambda *xs: torch.einsum(equation, *xs),
        atol=1e-6,
    )


def test_the_rest() -> None:
    check(lambda a, b: a.dot(b), normal(4), normal(4, seed=2), atol=1e-6)
    check(lambda a, b: a.outer(b), normal(3), normal(4), atol=1e-6)
    check(lambda x, w: x.linear(w), normal(2, 3, 4), normal(5, 4), theirs=F.linear, atol=1e-6)
    check(lambda x, w, b: x.linear(w, b), normal(2, 4), normal(5, 4), normal(5), theirs=F.linear, atol=1e-6)
    check(lambda a, b: a.mm(b), normal(2, 3), normal(3, 2), atol=1e-6)
    check(lambda a, b: a.bmm(b), normal(2, 2, 3), normal(2, 3, 2), atol=1e-6)


REFUSED: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "inner": (lambda a, b: a @ b, (normal(2, 3), normal(4, 2))),
    "batch": (lambda a, b: a @ b, (normal(2, 2, 3), normal(3, 3, 2))),
    "scalar": (lambda a, b: a @ b, (normal(2, 3), normal())),
}
EQUATIONS = ["ij,jk->iz", "ij->ijj", "ij,jk,kl->il", "i1,jk", "ijk,jk"]


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_those_of_torch(name: str) -> None:
    function, arrays = REFUSED[name]
    with pytest.raises(Exception) as caught:
        function(*(torch.tensor(array) for array in arrays))
    refuse(function, *arrays, kind=type(caught.value))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_errors_of_einsum_are_those_of_torch(equation: str) -> None:
    a, b = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
    with pytest.raises(Exception) as caught:
        torch.einsum(equation, torch.tensor(a), torch.tensor(b))
    refuse(lambda a, b: Tensor.einsum(equation, a, b), a, b, kind=type(caught.value))
