"""qr and svd against torch and NumPy: every shape, rank and batch, on every device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch_case import check, normal, refuse

from petaflop import Tensor, jit

MATRICES: dict[str, Any] = {
    "square": normal(5, 5),
    "tall": normal(7, 4),
    "wide": normal(4, 7),
    "batch": normal(2, 3, 5, 4),
    "one-column": normal(6, 1),
    "one-row": normal(1, 6),
    "single": normal(1, 1),
    "zeros": np.zeros((4, 3), np.float32),
    "rank-1": np.outer(normal(6), normal(4)).astype(np.float32),
    "rank-2": (normal(6, 2) @ normal(2, 5)).astype(np.float32),
    "identity": np.eye(4, dtype=np.float32),
    "negative": -2 * np.eye(3, dtype=np.float32),
    "diagonal": np.diag([3.0, -1.0, 0.0, 2.0]).astype(np.float32),
    "equal-columns": np.ones((5, 3), np.float32),
    "graded": (normal(6, 6) * 10.0 ** -np.arange(6)).astype(np.float32),
    "large": (normal(4, 4) * 1e30).astype(np.float32),
    "small": (normal(4, 4) * 1e-30).astype(np.float32),
    "hilbert": (1 / (1 + np.arange(6)[:, None] + np.arange(6))).astype(np.float32),
}
WIDE = ("square", "tall", "graded")  # in float64 as well
PAIRS = [(name, "reference") for name in MATRICES] + [(name, "cpu") for name in ("batch", "single", "rank-2")]


def near(ours: Any, wanted: Any, scale: float, unit: float) -> None:
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=scale * unit)


def orthonormal(columns: Any, unit: float) -> None:
    product = np.swapaxes(columns, -1, -2) @ columns
    near(product, np.broadcast_to(np.eye(columns.shape[-1]), product.shape), 1, unit)


@pytest.mark.parametrize(("name", "device"), PAIRS)
def test_qr(name: str, device: str) -> None:
    for dtype in ("float32", "float64") if name in WIDE else ("float32",):
        matrix = MATRICES[name].astype(dtype)
        q, r = Tensor(matrix, device=device).qr()
        Tensor.realize(q, r)
        unit = 40 * float(np.finfo(dtype).eps)
        scale = float(np.abs(matrix).max())
        assert q.dtype.name == r.dtype.name == dtype
        orthonormal(q.numpy(), unit)
        near(q.numpy().astype(np.float64) @ r.numpy(), matrix, scale, unit)
        np.testing.assert_array_equal(r.numpy(), np.triu(r.numpy()))
        theirs = torch.linalg.qr(torch.tensor(matrix))
        assert (tuple(q.shape), tuple(r.shape)) == tuple(tuple(part.shape) for part in theirs)
        if (
            np.linalg.matrix_rank(matrix.astype(np.float64)).min() == min(matrix.shape[-2:])
            and name != "hilbert"
        ):
            near(r.numpy(), theirs[1].numpy(), scale, 10 * unit)  # the signs as well


@pytest.mark.parametrize(("name", "device"), PAIRS)
def test_svd(name: str, device: str) -> None:
    for dtype in ("float32", "float64") if name in WIDE else ("float32",):
        matrix = MATRICES[name].astype(dtype)
        unit = 40 * float(np.finfo(dtype).eps)
        wanted = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
        scale = float(wanted.max())
        for full in (True, False) if name in ("tall", "wide") else (True,):
            u, s, vh = Tensor(matrix, device=device).svd(full_matrices=full)
            Tensor.realize(u, s, vh)
            shapes = [
                tuple(part.shape) for part in torch.linalg.svd(torch.tensor(matrix), full_matrices=full)
            ]
            assert [tuple(part.shape) for part in (u, s, vh)] == shapes
            assert {part.dtype.name for part in (u, s, vh)} == {dtype}
            left, values, right = u.numpy().astype(np.float64), s.numpy(), vh.numpy()
            near(values, wanted, scale, unit)
            assert (np.diff(values) <= 0).all() and (values >= 0).all()
            orthonormal(left, unit)
            orthonormal(np.swapaxes(right, -1, -2).astype(np.float64), unit)
            rank = values.shape[-1]
            near((left[..., :rank] * values[..., None, :]) @ right[..., :rank, :], matrix, scale, unit)


def test_a_larger_matrix() -> None:
    matrix = normal(30, 20)
    u, s, vh = Tensor(matrix).svd(full_matrices=False)
    near(s.numpy(), np.linalg.svd(matrix.astype(np.float64), compute_uv=False), 10, 1e-6)
    near((u * s @ vh).numpy(), matrix, 10, 1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3), (0, 3, 2)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape, np.float32)
    check(lambda x: x.qr(), empty, theirs=lambda x: tuple(torch.linalg.qr(x)), gradients=False)
    for full in (True, False):
        check(
            lambda x, f=full: x.svd(full_matrices=f),
            empty,
            theirs=lambda x, f=full: tuple(torch.linalg.svd(x, full_matrices=f)),
            gradients=False,
        )


@pytest.mark.parametrize("name", ["square", "batch"])
def test_gradients(name: str) -> None:
    """Of functions that do not see the signs of vectors."""
    matrix = MATRICES[name].astype(np.float64)
    check(lambda x: x.qr(), matrix, theirs=lambda x: tuple(torch.linalg.qr(x)), rtol=1e-9, atol=1e-10)
    for turned in (matrix, np.swapaxes(matrix, -1, -2).copy()) if name == "batch" else ():
        check(lambda x: x.svd()[1], turned, theirs=lambda x: torch.linalg.svd(x)[1], rtol=1e-9, atol=1e-10)
        check(
            lambda x: (lambda u, s, vh: (u.square(), vh.square(), (u * s) @ vh))(*x.svd(full_matrices=False)),
            turned,
            theirs=lambda x: (lambda u, s, vh: (u.square(), vh.square(), (u * s) @ vh))(
                *torch.linalg.svd(x, full_matrices=False)
            ),
            rtol=1e-8,
            atol=1e-9,
        )


def test_gradients_of_values_that_are_equal_exist() -> None:
    check(lambda x: x.svd()[1].sum(), np.eye(3), theirs=lambda x: torch.linalg.svd(x)[1].sum(), atol=1e-12)


def test_second_order() -> None:
    matrix = normal(4, 3).astype(np.float64)
    ours, plain = Tensor(matrix, requires_grad=True), torch.tensor(matrix, requires_grad=True)
    (first,) = ours.svd(full_matrices=False)[1].square().square().sum().gradient(ours)
    (second,) = torch.autograd.grad(
        torch.linalg.svd(plain, full_matrices=False)[1].square().square().sum(), plain, create_graph=True
    )
    np.testing.assert_allclose(first.numpy(), second.detach().numpy(), rtol=1e-9)
    first.square().sum().backward()
    second.square().sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), plain.grad.numpy(), rtol=1e-8)


def test_errors_are_those_of_torch() -> None:
    for method in ("qr", "svd"):
        for array in (normal(3), np.ones((2, 2), np.float16), np.ones((2, 2), np.int32)):
            with pytest.raises(RuntimeError):
                getattr(torch.linalg, method)(torch.tensor(array))
            refuse(lambda x, m=method: getattr(x, m)(), array, kind=RuntimeError)


def test_a_capture_holds_every_step() -> None:
    @jit
    def both(x: Tensor) -> Any:
        return *x.qr(), x.svd()[1]

    for seed in range(3):
        matrix = normal(2, 2, seed=seed)
        q, r, s = both(Tensor(matrix))
        near((q @ r).numpy(), matrix, 1, 1e-6)
        near(s.numpy(), np.linalg.svd(matrix.astype(np.float64), compute_uv=False), 1, 1e-6)
