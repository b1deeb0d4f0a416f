"""Encoders that know the inputs: GPTQ against its definition in torch, and what each of them is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from petaflop import Tensor
from petaflop.errors import ArgumentError, FileFormatError
from petaflop_quant import Linear, QuantTensor, quantize, save
from petaflop_quant.encoders.grids import grid_of
from petaflop_quant.registry import own_format

RANDOM = np.random.default_rng(31)
COLUMNS = 256


def weights(rows: int = 24) -> Any:
    return RANDOM.standard_t(5, (rows, COLUMNS)).astype(np.float32)


def inputs(count: int = 1024, mixed: bool = True) -> Any:
    """Inputs that depend on each other, some of them large."""
    plain = RANDOM.standard_normal((count, COLUMNS))
    if mixed:
        plain = plain @ RANDOM.standard_normal((COLUMNS, COLUMNS)) / 16
    return plain * np.exp(RANDOM.standard_normal(COLUMNS))


def change(x: Any, exact: Any, kept: Any) -> float:
    """How much of a product with x is lost."""
    return float(np.linalg.norm(x @ (kept.astype(np.float64) - exact).T) / np.linalg.norm(x @ exact.T))


def gptq_by_definition(rows: Any, hessian: Any, step: Any, last: int) -> torch.Tensor:
    """Column after column by the rows of the inverse's Cholesky factor, with fixed steps for each row."""
    left, steps = torch.from_numpy(rows.copy()).double(), torch.from_numpy(step)
    damped = torch.from_numpy(hessian) + 0.01 * np.diag(hessian).mean() * torch.eye(
        COLUMNS, dtype=torch.float64
    )
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    codes = torch.empty_like(left)
    for column in range(COLUMNS):
        codes[:, column] = torch.round(left[:, column] / steps).clamp(-last, last)
        error = (left[:, column] - codes[:, column] * steps) / upper[column, column]
        left -= torch.outer(error, upper[column]) * (torch.arange(COLUMNS) >= column)
    return codes


def test_gptq_is_gptq() -> None:
    rows, x = weights(), inputs()
    hessian = x.T @ x / len(x)
    scheme: Any = own_format("int8_row")
    grid: Any = grid_of(scheme, COLUMNS)
    squares = np.broadcast_to(np.diag(hessian), rows.shape)
    step = grid.fit(rows.astype(np.float64), squares)["scale"][:, 0].astype(np.float64)
    expected = gptq_by_definition(rows, hessian, step, 127)
    found = quantize(rows, "int8_row", "gptq", hessian).planes["codes"].numpy()
    plain = quantize(rows, "int8_row", "search", np.diag(hessian)).planes["codes"].numpy()
    same = (found == expected.numpy()).all(-1)
    assert same.sum() >= 20  # a row that is better without stays without
    assert (found[~same] == plain[~same]).all()


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q4_k", "q6_k", "iq4_nl", "int8_row", "q3_k"])
def test_gptq_loses_less_than_search(name: str) -> None:
    rows, x = weights(), inputs()
    hessian = x.T @ x / len(x)
    searched = change(x, rows, quantize(rows, name, "search", np.diag(hessian)).numpy())
    assert change(x, rows, quantize(rows, name, "gptq", hessian).numpy()) < 0.9 * searched


@pytest.mark.parametrize("name", ["q4_0", "q4_k", "int8_row"])
def test_awq_loses_less_than_search_without_importance(name: str) -> None:
    rows, x = weights(), inputs(mixed=False)
    kept = quantize(rows, name, "awq", (x**2).mean(0))
    assert kept.factors is not None
    assert change(x, rows, kept.numpy()) < 0.9 * change(x, rows, quantize(rows, name, "search").numpy())
    np.testing.assert_array_equal(kept.tensor().numpy(), kept.numpy())


def test_awq_needs_no_factors_for_equal_inputs() -> None:
    assert quantize(weights(), "q4_0", "awq", np.ones(COLUMNS)).factors is None
    assert quantize(weights(), "q4_0", "awq").factors is None


@pytest.mark.parametrize("name", ["q4_1", "q5_1", "q4_k", "q5_k", "q2_k"])
def test_hqq_makes_errors_few(name: str) -> None:
    rows = weights(64)
    rows[:, ::37] *= 8

    def size(encoder: str) -> float:
        return float((abs(quantize(rows, name, encoder).numpy().astype(np.float64) - rows) ** 0.7).sum())

    assert size("hqq") < size("rtn") if own_format(name).can_pack else size("hqq") < 1.3 * size("search")


@pytest.mark.parametrize("name", ["int8_row", "q8_0"])
def test_smoothquant_is_for_activations_of_eight_bits(name: str) -> None:
    rows, x = weights(), inputs(64, mixed=False)
    x[:, [3, 77]] *= 60  # outliers, which take the steps of all others
    exact = x @ rows.astype(np.float64).T

    def lost(encoder: str, importance: Any) -> float:
        layer = Linear(quantize(rows, name, encoder, importance), activations="int8")
        found = layer(Tensor(x.astype(np.float32))).numpy()
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    assert lost("smoothquant", abs(x).max(0)) < 0.5 * lost("rtn", None)


def test_importance_that_cannot_be() -> None:
    rows = weights(2)
    for encoder, wrong in (
        ("gptq", np.ones(COLUMNS)),
        ("gptq", np.full((COLUMNS, COLUMNS), np.nan)),
        ("awq", np.ones(3)),
        ("smoothquant", np.ones((COLUMNS, COLUMNS))),
    ):
        with pytest.raises(ArgumentError, match="importance"):
            quantize(rows, "q4_0", encoder, wrong)
    with pytest.raises(ArgumentError, match="q4_0"):
        quantize(rows, "q4_0", "hqq")


def test_hessians_that_are_none() -> None:
    """Not symmetric, of too few samples, with negative parts: numbers all the same."""
    rows = weights(4)
    few = inputs(3)
    for hessian in (few.T @ few, RANDOM.standard_normal((COLUMNS, COLUMNS)), -np.eye(COLUMNS)):
        kept = quantize(rows, "q4_k", "gptq", hessian).numpy()
        assert np.isfinite(kept).all() and np.linalg.norm(kept - rows) < np.linalg.norm(rows)


# ---- layers ----


@pytest.mark.parametrize("name", ["q8_0", "q4_k", "int8_row", "fp8_e4m3", "iq4_nl"])
def test_linear(name: str) -> None:
    packed, x = quantize(weights(), name), inputs(7).astype(np.float32)
    bias = RANDOM.standard_normal(24).astype(np.float32)
    layer = Linear(packed, Tensor(bias))
    given = Tensor(x, requires_grad=True)
    result = layer(given)
    wide = packed.numpy().astype(np.float64)
    size = abs(x.astype(np.float64)) @ abs(wide).T + abs(bias)
    assert (abs(result.numpy() - (x.astype(np.float64) @ wide.T + bias)) <= 1e-5 * size).all()
    result.sum().backward()
    assert given.grad is not None
    np.testing.assert_allclose(given.grad.numpy(), np.tile(wide.sum(0), (7, 1)), rtol=1e-4, atol=1e-3)
    state = layer.state_dict()
    assert set(state) == {f"weight_{key}" for key in packed.planes} | {"bias"}
    other = Linear(quantize(weights(), name), Tensor(bias * 0))
    other.load_state_dict(state)
    np.testing.assert_array_equal(other(Tensor(x)).numpy(), result.numpy())


@pytest.mark.parametrize("name", ["int8_row", "q8_0", "q4_k"])
def test_activations_of_eight_bits(name: str) -> None:
    """Equal to the product of rounded inputs, in float64; int8 by int8 is summed exactly."""
    packed, x = quantize(weights(), name), inputs(7).astype(np.float32)
    found = Linear(packed, activations="int8")(Tensor(x)).numpy()
    scale = (abs(x).max(-1, keepdims=True) * np.float32(1 / 127)).astype(np.float32)
    rounded = np.rint(x / scale).clip(-127, 127) * scale.astype(np.float64)
    expected = rounded @ packed.numpy().astype(np.float64).T
    size = abs(rounded) @ abs(packed.numpy().astype(np.float64)).T
    assert (abs(found - expected) <= 1e-5 * size).all()
    exact = x.astype(np.float64) @ packed.numpy().astype(np.float64).T
    assert 1e-4 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.03


def test_layers_that_cannot_be() -> None:
    packed = quantize(weights(2), "q8_0")
    with pytest.raises(ArgumentError, match="int8"):
        Linear(packed, activations="int4")
    with pytest.raises(TypeError, match="QuantTensor"):
        Linear(Tensor.ones(2, 2))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="2 axes"):
        Linear(quantize(np.ones((2, 2, 32), np.float32), "q8_0"))
    with pytest.raises(RuntimeError, match="factors"):
        QuantTensor(packed.scheme, packed.planes, packed.shape, np.ones(3, np.float32))


def test_rows_of_an_embedding_and_other_uses(tmp_path: Any) -> None:
    packed = quantize(weights(), "q4_k")
    whole = packed.numpy()
    np.testing.assert_array_equal(packed[Tensor([3, 0, 3])].numpy(), whole[[3, 0, 3]])
    np.testing.assert_array_equal(packed[2].numpy(), whole[2])
    np.testing.assert_array_equal(packed.to("reference").tensor().numpy(), whole)
    assert packed.nbytes == 24 * 144 and repr(packed) == "<QuantTensor q4_k[24, 256], 3456 bytes>"
    smooth = quantize(weights(), "q4_0", "awq", np.exp(RANDOM.standard_normal(COLUMNS) * 2))
    assert smooth.factors is not None
    with pytest.raises(FileFormatError, match="factors"):
        save(tmp_path / "no.gguf", {"w": smooth})


def test_hqq_is_hqq() -> None:
    """Offsets against the solver written down in torch: shrink the errors, then the mean of what is left."""
    rows = weights(16)
    groups = torch.from_numpy(rows.reshape(-1, 32)).double()
    low, high = groups.min(-1, keepdim=True)[0], groups.max(-1, keepdim=True)[0]
    step = (high - low) / 15
    zero, price = -low / step, 10.0
    best, least = zero, torch.full_like(zero, torch.inf)
    for _ in range(20):
        codes = torch.round(groups / step + zero).clamp(0, 15)
        error = groups - (codes - zero) * step
        size = (error.abs() ** 0.7).sum(-1, keepdim=True)
        best, least = torch.where(size < least, zero, best), torch.minimum(size, least)
        shrunk = torch.sign(error) * torch.relu(error.abs() - error.abs() ** -0.3 / price)
        zero = torch.mean(codes - (groups - shrunk) / step, -1, keepdim=True)
        price *= 1.01
    packed = quantize(rows, "q4_1", "hqq")
    found = packed.planes["m"].numpy().reshape(-1, 1)
    assert np.array_equal(found, (-best * step).numpy().astype(np.float16))
    assert (abs(found - low.numpy()) > 1e-3).mean() > 0.3  # else the offsets would be those of `rtn`
