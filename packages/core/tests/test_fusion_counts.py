"""How many kernels things take, as users write them; the values against NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petaflop import Tensor, nn, optim
from petaflop.graph.ops import Op
from petaflop.profile import profile

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((64, 100))
IMAGES = RNG.standard_normal((4, 8, 6, 6))

Array = np.ndarray[Any, Any]


def softmax(x: Array, axis: int = -1) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def standardized(x: Array, axes: Any = -1) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def softmax_by_hand(x: Tensor) -> Tensor:
    e = (x - x.max(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def log_softmax_by_hand(x: Tensor) -> Tensor:
    shifted = x - x.max(-1, keepdim=True)
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def layer_norm_by_hand(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred * centred).mean(-1, keepdim=True) + 1e-5).sqrt()


def layer_norm_from_moments(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) * ((x * x).mean(-1, keepdim=True) - mean * mean + 1e-5).rsqrt()


ONE_KERNEL: dict[str, tuple[Callable[[Tensor], Tensor], Array, Array]] = {
    "relu sum": (
        lambda x: (x * 2 + x.exp()).relu().sum(-1),
        ROWS,
        np.maximum(ROWS * 2 + np.exp(ROWS), 0).sum(-1),
    ),
    "softmax": (lambda x: x.softmax(-1), ROWS, softmax(ROWS)),
    "softmax by hand": (softmax_by_hand, ROWS, softmax(ROWS)),
    "softmax of columns": (lambda x: x.softmax(0), ROWS, softmax(ROWS, 0)),
    "softmax of channels": (lambda x: x.softmax(1), IMAGES, softmax(IMAGES, 1)),
    "softmax after work": (lambda x: (x * 0.5 + 1).softmax(-1), ROWS, softmax(ROWS * 0.5 + 1)),
    "log_softmax": (lambda x: x.log_softmax(-1), ROWS, np.log(softmax(ROWS))),
    "log_softmax by hand": (log_softmax_by_hand, ROWS, np.log(softmax(ROWS))),
    "layer norm": (nn.LayerNorm(100), ROWS, standardized(ROWS)),
    "layernorm": (lambda x: x.layernorm(), ROWS, standardized(ROWS)),
    "layer norm by hand": (layer_norm_by_hand, ROWS, standardized(ROWS)),
    "layer norm from moments": (layer_norm_from_moments, ROWS, standardized(ROWS)),
    "rms norm": (nn.RMSNorm(100, eps=1e-5), ROWS, ROWS / np.sqrt((ROWS**2).mean(-1, keepdims=True) + 1e-5)),
    "group norm": (
        nn.GroupNorm(4, 8),
        IMAGES,
        standardized(IMAGES.reshape(4, 4, -1)).reshape(IMAGES.shape),
    ),
    "batch norm, eval": (nn.BatchNorm2d(8).eval(), IMAGES, IMAGES / np.sqrt(1 + 1e-5)),
    "variance": (lambda x: x.var(-1), ROWS, ROWS.var(-1, ddof=1)),
    "logsumexp": (lambda x: x.logsumexp(-1), ROWS, np.log(np.exp(ROWS).sum(-1))),
    "argmax": (lambda x: x.argmax(-1), ROWS, ROWS.argmax(-1)),
}


def launches(function: Callable[[], Any]) -> int:
    with profile() as recorded:
        function()
    return len(recorded.launches)


@pytest.mark.parametrize("name", ONE_KERNEL)
def test_one_kernel(name: str) -> None:
    function, given, expected = ONE_KERNEL[name]
    if isinstance(function, nn.Module) and (kept := [*function.parameters(), *function.buffers()]):
        Tensor.realize(*kept)
    x = Tensor(given.astype(np.float32))
    result = function(x)
    assert launches(result.realize) == 1
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_multiply_add_relu_sum_of_three_tensors_is_one_kernel() -> None:
    a, b, c = (RNG.standard_normal((32, 48)) for _ in range(3))
    x, y, z = (Tensor(value.astype(np.float32)) for value in (a, b, c))
    result = (x * y + z).relu().sum(-1)
    assert launches(result.realize) == 1
    np.testing.assert_allclose(result.numpy(), np.maximum(a * b + c, 0).sum(-1), rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "limit"), [(optim.SGD, 4), (optim.Adam, 6), (optim.AdamW, 6), (optim.LAMB, 20)]
)
def test_a_step_over_a_hundred_parameters_is_few_launches(kind: Any, limit: int) -> None:
    weights = [Tensor(np.ones((8, 8 + n % 5), np.float32), requires_grad=True) for n in range(100)]
    optimizer = kind(weights, lr=0.01)
    for weight in weights:
        weight.grad = Tensor(np.ones(weight.shape, np.float32))
    assert launches(optimizer.step) <= limit


def test_adam_reads_and_writes_each_moment_once() -> None:
    weight = Tensor(np.ones((64, 64), np.float32), requires_grad=True)
    optimizer = optim.Adam([weight], lr=0.01)
    weight.grad = Tensor(np.ones((64, 64), np.float32))
    with profile() as recorded:
        optimizer.step()
    touched = [a.shape for launch in recorded.launches for a in launch.kernel.arguments]
    assert touched.count((64, 64)) == 4  # the weight, its gradient, two moments


def test_what_too_many_kernels_would_repeat_is_stored() -> None:
    x = Tensor(np.full((), 0.5, np.float32))
    scalar = x
    for _ in range(12):
        scalar = scalar.sqrt() + 1
    parts = [Tensor(np.full((3, 2 + n % 7), n, np.float32)) for n in range(100)]
    results = [part * scalar for part in parts]
    with profile() as recorded:
        Tensor.realize(*results)
    expected = np.float64(0.5)
    for _ in range(12):
        expected = np.sqrt(expected) + 1
    np.testing.assert_allclose(results[99].numpy(), np.full((3, 3), 99 * expected), rtol=1e-5)
    assert sum(str(launch.kernel).count("sqrt(") for launch in recorded.launches) == 12


def test_a_representation_computes_nothing() -> None:
    Tensor.manual_seed(0)
    model, lazy = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), Tensor.ones(3).exp() + 1
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    assert launches(lambda: [repr(lazy), str(lazy), f"{lazy}", repr(model), repr(optimizer)]) == 0
    assert "lazy" in repr(lazy)


def test_a_draw_computes_nothing_until_it_is_asked_for() -> None:
    Tensor.rand(1).realize()
    with profile() as recorded:
        later = [Tensor.rand(5) for _ in range(3)]
    assert not recorded.launches
    values = [draw.tolist() for draw in reversed(later)]
    assert len(np.unique(values)) == 15
    with profile() as recorded:
        Tensor.rand(5).realize()
    assert len(recorded.launches) == 1


def test_input_gradient_of_a_convolution_is_a_sum_of_products() -> None:
    """No condition stands around the product: it is what plans for contractions look for."""
    x = Tensor.rand(2, 8, 12, 12).realize().requires_grad_()
    w = Tensor.rand(16, 8, 3, 3).realize()
    x.conv2d(w, stride=2, padding=1).relu().sum().backward()
    assert x.grad is not None
    with profile() as seen:
        x.grad.realize()
    terms = [r.term.op for launch in seen.launches for b in launch.kernel.blocks for r in b.reductions]
    assert Op.MUL in terms
    assert Op.WHERE not in terms
