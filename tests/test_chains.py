"""Products in a row as one kernel: attention against PyTorch in float64, and the same rules on other things.

A chain keeps what lies between its products in a task's own memory; nothing of the size of a score matrix is
allocated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from petaflop import Tensor, jit
from petaflop.codegen.lower import lower
from petaflop.codegen.planner import default_plan
from petaflop.config import overrides
from petaflop.profile import profile
from petaflop_cpu.target import host_target

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(5)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def launches(result: Tensor) -> int:
    with profile() as recorded:
        result.realize()
    return len(recorded.launches)


def realized(*arrays: Array) -> list[Tensor]:
    return [Tensor(array).realize() for array in arrays]


def attention_in_float64(q: Array, k: Array, v: Array, **options: Any) -> Array:
    given = (torch.from_numpy(x).double() for x in (q, k, v))
    result: Array = scaled_dot_product_attention(*given, **options).numpy()
    return result


SHAPES = {
    "one tile of rows": ((1, 8, 32, 64), 64),
    "square": ((1, 4, 128, 64), 128),
    "ragged": ((1, 3, 77, 64), 77),
    "ragged, long": ((1, 1, 300, 64), 301),
    "a batch": ((3, 2, 96, 64), 96),
    "keys longer": ((1, 2, 64, 64), 200),
    "keys shorter": ((1, 2, 200, 64), 40),
    "narrow heads": ((2, 4, 64, 20), 64),
    "wide heads": ((1, 2, 64, 128), 64),
    "heads of 80": ((1, 2, 160, 80), 160),
    "no heads": ((256, 32), 256),
}


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("name", SHAPES)
def test_attention_is_one_kernel(name: str, causal: bool) -> None:
    shape, length = SHAPES[name]
    keys = (*shape[:-2], length, shape[-1])
    q, k, v = normal(*shape), normal(*keys), normal(*keys)
    result = Tensor.scaled_dot_product_attention(*realized(q, k, v), is_causal=causal)
    assert launches(result) == 1
    expected = attention_in_float64(q, k, v, is_causal=causal)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=2e-6)


def test_attention_of_one_query_and_of_few() -> None:
    for queries in (1, 2, 7):
        q, k, v = normal(1, 8, queries, 64), normal(1, 8, 300, 64), normal(1, 8, 300, 64)
        result = Tensor(q).scaled_dot_product_attention(Tensor(k), Tensor(v))
        np.testing.assert_allclose(result.numpy(), attention_in_float64(q, k, v), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("length", [2048, 24000])
def test_attention_holds_no_score_matrix(length: int) -> None:
    """Neither as temporaries between kernels nor as working memory of the kernel."""
    q, k, v = realized(*(normal(1, 1, length, 16) for _ in range(3)))
    result = q.scaled_dot_product_attention(k, v, is_causal=True)
    with profile() as recorded:
        result.realize()
    (launch,) = recorded.launches
    target = host_target()
    needs = lower(launch.kernel, default_plan(launch.kernel, target), target).signature
    taken = sum(event.size for event in recorded.memory if event.size > 0)
    assert taken + needs.shared + needs.scratch < length * length * 4 / 8
    for rows in (slice(0, 40), slice(length - 40, length)):
        scores = q.numpy()[0, 0, rows].astype(np.float64) @ k.numpy()[0, 0].T / 4
        seen = np.arange(length)[rows, None] >= np.arange(length)
        expected = softmax(np.where(seen, scores, -np.inf)) @ v.numpy()[0, 0]
        np.testing.assert_allclose(result.numpy()[0, 0, rows], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_heads(groups: int) -> None:
    q, k, v = normal(2, 8, 64, 32), normal(2, groups, 64, 32), normal(2, groups, 64, 32)
    given = realized(q, k, v)
    result = Tensor.scaled_dot_product_attention(*given, is_causal=True, enable_gqa=True)
    assert launches(result) == 1
    expected = attention_in_float64(q, k, v, is_causal=True, enable_gqa=True)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=2e-6)


def test_queries_keys_and_values_from_one_tensor() -> None:
    """As projections give them; the heads go back to one axis."""
    both = normal(2, 96, 3 * 4 * 32)
    (x,) = realized(both)
    q, k, v = x.reshape(2, 96, 3, 4, 32).permute(2, 0, 3, 1, 4)
    result = q.scaled_dot_product_attention(k, v, is_causal=True).transpose(1, 2).reshape(2, 96, 128)
    assert launches(result) == 1
    parts = [np.ascontiguousarray(part) for part in both.reshape(2, 96, 3, 4, 32).transpose(2, 0, 3, 1, 4)]
    expected = attention_in_float64(*parts, is_causal=True).transpose(0, 2, 1, 3).reshape(2, 96, 128)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_narrow_floats(kind: str) -> None:
    q, k, v = (Tensor(normal(1, 4, 128, 64)).cast(kind).realize() for _ in range(3))
    result = q.scaled_dot_product_attention(k, v, is_causal=True)
    assert launches(result) == 1
    wide = [x.cast("float32").numpy() for x in (q, k, v)]
    tolerance = 2e-3 if kind == "float16" else 1.6e-2
    expected = attention_in_float64(*wide, is_causal=True)
    np.testing.assert_allclose(result.cast("float32").numpy(), expected, rtol=tolerance, atol=tolerance)


def test_masks_and_rows_that_see_nothing() -> None:
    q, k, v = normal(1, 2, 128, 32), normal(1, 2, 96, 32), normal(1, 2, 96, 32)
    seen = RNG.random((128, 96)) < 0.5
    seen[3] = seen[100] = False
    added = np.where(seen, 0.25, -np.inf).astype(np.float32)
    for mask in (seen, added):
        result = Tensor(q).scaled_dot_product_attention(Tensor(k), Tensor(v), Tensor(mask)).numpy()
        expected = attention_in_float64(
            q, k, v, attn_mask=torch.from_numpy(mask if mask.dtype == bool else mask.astype(np.float64))
        )
        if mask is added:  # by the formula; PyTorch on a CPU gives 0 here as well
            expected[..., [3, 100], :] = np.nan
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e38])
def test_what_is_not_finite_spreads_as_without_fusion(where: str, number: float) -> None:
    given = {"q": normal(1, 2, 128, 32), "k": normal(1, 2, 128, 32), "v": normal(1, 2, 128, 32)}
    given[where][0, 1, 70, 5] = number
    results = []
    for fuse in (True, False):
        with overrides(fuse=fuse):
            q, k, v = (Tensor(given[name]) for name in "qkv")
            results.append(q.scaled_dot_product_attention(k, v, is_causal=True).numpy())
    np.testing.assert_allclose(*results, rtol=1e-5, atol=2e-6)


def test_gradients_of_attention() -> None:
    arrays = [normal(1, 2, 128, 32) for _ in range(3)]
    ours = [Tensor(array, requires_grad=True) for array in arrays]
    theirs = [torch.from_numpy(array).double().requires_grad_() for array in arrays]
    result = Tensor.scaled_dot_product_attention(*ours, is_causal=True)
    result.realize()  # the backward pass is another schedule, which finds nothing of the forward one but this
    (result * result).sum().backward()
    expected = scaled_dot_product_attention(*theirs, is_causal=True)
    (expected * expected).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None and other.grad is not None
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_replays_and_threads_give_the_same_bits() -> None:
    arrays = [normal(1, 4, 200, 64) for _ in range(3)]
    attend = jit(lambda q, k, v: q.scaled_dot_product_attention(k, v, is_causal=True))
    results = []
    for threads in (1, 2, 3):
        with overrides(threads=threads):
            for _ in range(2):
                results.append(attend(*realized(*arrays)).numpy())
    for result in results:
        np.testing.assert_array_equal(result, results[0])


# ---- the same rules elsewhere ----


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    result: Array = e / e.sum(-1, keepdims=True)
    return result


def _two_layers(x: Any, a: Any, b: Any) -> Any:
    hidden = x @ a
    return (hidden.relu() if isinstance(hidden, Tensor) else np.maximum(hidden, 0)) @ b


def _weights_by_hand(x: Any, a: Any, b: Any) -> Any:
    scores = x @ a
    if isinstance(scores, Tensor):
        powers = (scores - scores.max(-1, keepdim=True)).exp()
        return (powers @ b) / powers.sum(-1, keepdim=True)
    return softmax(scores) @ b


def _normalized(x: Any, a: Any, b: Any) -> Any:
    hidden = x @ a
    if isinstance(hidden, Tensor):
        return hidden.layernorm() @ b
    centred = hidden - hidden.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) @ b


def _triangle(x: Any, a: Any, b: Any) -> Any:
    scores = x @ a
    return (scores.tril() if isinstance(scores, Tensor) else np.tril(scores)) @ b


def _read_again(x: Any, a: Any, b: Any) -> Any:
    scores = x @ a
    return ((scores.softmax() if isinstance(scores, Tensor) else softmax(scores)) + scores * 0.25) @ b


OTHERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "two layers": _two_layers,
    "a weighted mean by hand": _weights_by_hand,
    "two layers with a norm": _normalized,
    "a triangle of products": _triangle,
    "scores that are read again": _read_again,
}


@pytest.mark.parametrize("sizes", [(256, 48, 200, 64), (131, 30, 515, 17)], ids=str)
@pytest.mark.parametrize("name", OTHERS)
def test_other_products_in_a_row(name: str, sizes: tuple[int, int, int, int]) -> None:
    rows, inner, width, columns = sizes
    x, a, b = normal(rows, inner), normal(inner, width) / math.sqrt(inner), normal(width, columns)
    result = OTHERS[name](*realized(x, a, b))
    assert launches(result) == 1
    expected = OTHERS[name](*(array.astype(np.float64) for array in (x, a, b)))
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_what_somebody_else_reads_is_stored() -> None:
    x, a, b = realized(normal(256, 32), normal(32, 128), normal(128, 32))
    hidden = (x @ a).relu()
    result = hidden @ b
    Tensor.realize(hidden, result)
    expected = np.maximum(x.numpy().astype(np.float64) @ a.numpy(), 0)
    np.testing.assert_allclose(hidden.numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result.numpy(), expected @ b.numpy(), rtol=1e-4, atol=1e-3)


def test_wide_layers_stay_two_kernels() -> None:
    x, a, b = realized(normal(256, 512), normal(512, 128), normal(128, 512))
    assert launches((x @ a).relu() @ b) == 2


# ---- columns that conditions on indices leave out ----

Condition = Callable[[Any, Any], Any]
CONDITIONS: dict[str, tuple[Condition, bool]] = {  # and whether some columns are left out
    "i >= j": (lambda i, j: i >= j, True),
    "i + 70 >= j": (lambda i, j: i + 70 >= j, True),
    "i - 70 >= j": (lambda i, j: i - 70 >= j, True),
    "j > i": (lambda i, j: j > i, True),
    "j < 250 - i": (lambda i, j: j < 250 - i, True),
    "j < 90": (lambda i, j: j < 90, True),
    "j >= 130": (lambda i, j: j >= 130, True),
    "2 j <= i": (lambda i, j: j * 2 <= i, True),
    "j <= 2 i": (lambda i, j: j <= i * 2, True),
    "3 j >= 2 i + 5": (lambda i, j: j * 3 >= i * 2 + 5, True),
    "a band": (lambda i, j: (i >= j) & (j > i - 20), True),
    "outside a band": (lambda i, j: (i < j) | (j <= i - 100), False),
    "not i < j": (lambda i, j: ~(i < j), True),
    "two that leave nothing": (lambda i, j: (j < 10) & (j > 150), True),
    "a stripe": (lambda i, j: (i + j) % 2 == 0, False),
    "i != j": (lambda i, j: i != j, False),
    "all": (lambda i, j: i + j >= 0, False),
}


def restricts(result: Tensor) -> bool:
    """Whether the one kernel that computes `result` leaves columns out."""
    with profile() as recorded:
        result.realize()
    (launch,) = recorded.launches
    return "restrict columns" in str(default_plan(launch.kernel, host_target()))


@pytest.mark.parametrize("fill", [-math.inf, -1e9, -3.0, 0.0], ids=str)
@pytest.mark.parametrize("name", CONDITIONS)
def test_softmax_where_a_condition_holds(name: str, fill: float) -> None:
    condition, fewer = CONDITIONS[name]
    rows, width = 200, 233
    x, a, b = normal(rows, 16), normal(16, width), normal(width, 24)
    i, j = np.arange(rows)[:, None], np.arange(width)
    mask = condition(Tensor.arange(rows).reshape(rows, 1), Tensor.arange(width))
    tx, ta, tb = realized(x, a, b)
    result = mask.where(tx @ ta, fill).softmax() @ tb
    assert restricts(result) == fewer
    scores = x.astype(np.float64) @ a
    with np.errstate(invalid="ignore"):
        expected = softmax(np.where(condition(i, j), scores, fill)) @ b
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [1.0, np.inf, np.nan, 3e38])
@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_what_is_left_out_of_a_product_counts_as_it_would(fill: float, number: float) -> None:
    x, a, b = normal(160, 16), normal(16, 192) / 4, normal(192, 24)
    b[150, 3] = b[170, 3] = b[180, 5] = number
    i, j = Tensor.arange(160).reshape(160, 1), Tensor.arange(192)
    results = []
    for fuse in (True, False):
        with overrides(fuse=fuse):
            result = (i >= j).where(Tensor(x) @ Tensor(a), fill) @ Tensor(b)
            results.append(result.numpy())
    assert np.isfinite(results[1][:100]).any()
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)


def test_columns_that_somebody_needs_are_computed() -> None:
    x, a, b = realized(normal(160, 16), normal(16, 192), normal(192, 24))
    i, j = Tensor.arange(160).reshape(160, 1), Tensor.arange(192)
    scores = (i >= j).where(x @ a, -1.0)
    turned = scores.flip(-1)  # reads the columns from the other end
    result = (scores.relu() + turned) @ b
    product = x.numpy().astype(np.float64) @ a.numpy()
    seen = np.where(np.arange(160)[:, None] >= np.arange(192), product, -1.0)
    expected = (np.maximum(seen, 0) + seen[:, ::-1]) @ b.numpy()
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-3)


def test_columns_left_out_of_one_value_are_not_left_out_of_another() -> None:
    x, a, b = realized(normal(160, 16) / 4, normal(16, 192), normal(192, 24))
    i, j = Tensor.arange(160).reshape(160, 1), Tensor.arange(192)
    scores = x @ a
    masked, other = (i >= j).where(scores.exp(), 0.0), scores.sin()
    result = ((masked / masked.sum(-1, keepdim=True)) @ b) + other.flip(-1) @ b * 0.1
    product = x.numpy().astype(np.float64) @ a.numpy()
    seen = np.where(np.arange(160)[:, None] >= np.arange(192), np.exp(product), 0.0)
    weights = seen / seen.sum(-1, keepdims=True)
    expected = weights @ b.numpy() + np.sin(product)[:, ::-1] @ b.numpy() * 0.1
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-4)
