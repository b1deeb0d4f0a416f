"""Custom gradients, functions, kernels and checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from petaflop import jit, nn, optim
from petaflop.errors import ArgumentError, ArgumentTypeError, GradientError, ShapeError
from petaflop.function import Context, Function, checkpoint, custom_gradient, custom_kernel
from petaflop.graph.ops import Op
from petaflop.graph.symbolic import constant
from petaflop.ir.kernel import Argument, Block, Store, axis, load, reduction, state, value
from petaflop.tensor import Tensor, no_grad


class Cube(Function):
    """x³ with a gradient that doubles, so that tests see whose gradient is used."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.factor = factor  # type: ignore[attr-defined]
        return x * x * x * factor

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * x * x * (6 * ctx.factor), None  # type: ignore[attr-defined]


def test_function_uses_its_own_gradient() -> None:
    x = Tensor([1.0, 2.0]).requires_grad_()
    y = Cube.apply(x, 0.5)
    np.testing.assert_allclose(y.numpy(), [0.5, 4.0])
    (y * Tensor([1.0, 10.0])).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [3.0, 120.0])


def test_custom_gradient_of_two_values() -> None:
    @custom_gradient
    def split(x: Tensor, y: Tensor) -> Any:
        return (x + y, x * y), lambda first, second: (first * 100 + second, second * 1000)

    x, y = Tensor([2.0]).requires_grad_(), Tensor([3.0]).requires_grad_()
    total, product = split(x, y)
    assert total.item() == 5 and product.item() == 6
    (total * 2 + product * 7).sum().backward()
    assert x.grad.item() == 207 and y.grad.item() == 7000


def test_custom_gradient_is_differentiable_again() -> None:
    @custom_gradient
    def square(x: Tensor) -> Any:
        return x * x, lambda grad: grad * x * 2

    x = Tensor([3.0]).requires_grad_()
    (first,) = square(x).sum().gradient(x)
    (second,) = first.sum().gradient(x)
    assert first.item() == 6 and second.item() == 2


def test_custom_gradient_without_a_target_is_the_function() -> None:
    @custom_gradient
    def same(x: Tensor) -> Any:
        raise_if_called = lambda grad: pytest.fail("no gradient is needed")  # noqa: E731
        return x * 2, raise_if_called

    assert not same(Tensor([1.0])).requires_grad
    with no_grad():
        assert not same(Tensor([1.0]).requires_grad_()).requires_grad


def test_wrong_numbers_of_gradients() -> None:
    @custom_gradient
    def wrong(x: Tensor) -> Any:
        return x, lambda grad: (grad, grad)

    x = Tensor([1.0]).requires_grad_()
    with pytest.raises(ArgumentError, match="wrong: expected 1 gradients, got 2"):
        wrong(x).sum().backward()
    with pytest.raises(ArgumentTypeError, match="expected Tensors"):
        custom_gradient(lambda x: (3, None))(x)

    @custom_gradient
    def misshapen(x: Tensor) -> Any:
        return x, lambda grad: Tensor([1.0, 2.0])

    with pytest.raises(GradientError, match=r"misshapen: expected a gradient float32\[1\]"):
        misshapen(x).sum().backward()


# ---- checkpoint ----


def test_checkpoint_gives_the_same_gradients() -> None:
    layer = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    data = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    results = []
    for wrap in (False, True):
        layer.zero_grad()
        x = Tensor(data).requires_grad_()
        y = checkpoint(layer, x * 2) if wrap else layer(x * 2)
        y.sin().sum().backward()
        results.append([y.numpy(), x.grad.numpy(), *(tensor.grad.numpy() for tensor in layer.parameters())])
    for plain, again in zip(*results, strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-6, atol=1e-6)


def test_checkpoint_computes_its_inside_again() -> None:
    """Backward's graph reads the argument, and shares no inner value with the forward graph."""
    from petaflop.graph.node import toposort

    x = Tensor([1.0, 2.0]).requires_grad_()
    hidden = x * 3
    inner: list[Any] = []

    def function(value: Tensor) -> Tensor:
        result = (value * value).sin()
        inner.append(result.node)
        return result.exp2()

    y = checkpoint(function, hidden)
    (grad,) = y.sum().gradient(x)
    forward = {node for node in toposort([y.node]) if node.op is Op.SIN}
    backward = {node for node in toposort([grad.node]) if node.op is Op.SIN}
    assert len(inner) == 1 and len(forward) == 1 and backward and not forward & backward
    expected = np.exp2(np.sin(9 * np.array([1.0, 4.0]))) * np.log(2) * np.cos(9 * np.array([1.0, 4.0])) * 18
    np.testing.assert_allclose(grad.numpy(), expected * np.array([1.0, 2.0]), rtol=1e-4)


def test_checkpoint_needs_less_memory() -> None:
    from petaflop.device.buffer import memory_in_use, peak_memory

    def peak(wrap: bool) -> int:
        x = Tensor(np.full((512, 16), 0.3, np.float32))
        weights = [Tensor(np.full((16, 16), 0.1, np.float32)).requires_grad_() for _ in range(6)]
        optimizer = optim.SGD(weights, lr=0.1)

        def layer(value: Tensor, weight: Tensor) -> Tensor:
            return (((value @ weight).sin() @ weight).cos() @ weight).sin() @ weight

        for weight in weights:
            x = checkpoint(layer, x, weight) if wrap else layer(x, weight)
        x.sum().backward()
        peak_memory(reset=True)
        before = memory_in_use()
        optimizer.step()
        return peak_memory() - before

    assert peak(wrap=True) < 0.6 * peak(wrap=False)


def test_checkpoint_repeats_random_numbers() -> None:
    x = Tensor.ones(64).requires_grad_()
    y = checkpoint(nn.Dropout(0.5), x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


def test_checkpoint_of_several_values_and_without_targets() -> None:
    x = Tensor([2.0]).requires_grad_()
    first, second = checkpoint(lambda a: (a * a, a + 1), x)
    (first * 3 + second).sum().backward()
    assert x.grad.item() == 13
    assert not checkpoint(lambda a: a * 2, Tensor([1.0])).requires_grad


def test_checkpoint_is_differentiable_again() -> None:
    x = Tensor([2.0]).requires_grad_()
    weight = Tensor([3.0]).requires_grad_()
    y = checkpoint(lambda a: a**3 * weight, x).sum()
    (first,) = y.gradient(x)
    second, mixed = first.sum().gradient(x, weight)
    assert (first.item(), second.item(), mixed.item()) == (36, 36, 12)


def test_checkpoint_in_a_checkpoint() -> None:
    x = Tensor([2.0]).requires_grad_()
    y = checkpoint(lambda a: checkpoint(lambda b: (b * b).sin(), a * 3) * a, x)
    y.sum().backward()
    np.testing.assert_allclose(y.numpy(), [2 * np.sin(36.0)], rtol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), [np.sin(36.0) + 2 * np.cos(36.0) * 36], rtol=1e-5)


def test_checkpoint_in_a_jitted_step() -> None:
    weight = Tensor([2.0]).requires_grad_()

    @jit
    def step(x: Tensor) -> Tensor:
        weight.grad = None
        checkpoint(lambda a: (a * weight).sin(), x).sum().backward()
        return weight.grad * 1

    for given in (1.0, 2.0):
        np.testing.assert_allclose(step(Tensor([given])).numpy(), [given * np.cos(2 * given)], rtol=1e-5)


def test_a_value_that_does_not_depend_on_its_inputs() -> None:
    @custom_gradient
    def straight(x: Tensor) -> Any:
        return Tensor([7.0]), lambda grad: grad * 5

    x = Tensor([1.0]).requires_grad_()
    hidden = x * 2
    y = straight(hidden)
    assert y.item() == 7
    y.sum().backward()
    assert x.grad.item() == 10


# ---- kernels ----


def doubled(output: Argument, inputs: tuple[Argument, ...]) -> tuple[Block, ...]:
    """out[i] = 2·x[i]."""
    i = axis("i", output.shape[0])
    x = load(inputs[0].name, (i,), inputs[0].dtype)
    return (Block((i,), (Store(output.name, (i,), value(Op.MUL, x, constant(2.0, x.dtype))),)),)


def row_sums(output: Argument, inputs: tuple[Argument, ...]) -> tuple[Block, ...]:
    """out[i] = Σⱼ x[i, j]·y[j]."""
    i, j = axis("i", output.shape[0]), axis("j", inputs[0].shape[1])
    x, y = (load(a.name, at, a.dtype) for a, at in zip(inputs, ((i, j), (j,)), strict=True))
    fold = reduction("total", Op.ADD, value(Op.MUL, x, y), (j,))
    return (Block((i,), (Store(output.name, (i,), state("total", output.dtype)),), (fold,)),)


def test_kernel() -> None:
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 10, 100], np.float32)
    result = custom_kernel(row_sums, [Tensor(x) + 1, Tensor(y)], (2,))
    np.testing.assert_allclose((result * 2).numpy(), (x + 1) @ y * 2)


def test_kernel_with_a_gradient() -> None:
    x = Tensor([1.0, 2.0]).requires_grad_()
    with pytest.raises(GradientError, match="doubled: expected a kernel with a gradient"):
        custom_kernel(doubled, [x], (2,)).sum().backward()
    y = custom_kernel(doubled, [x * 3], (2,), backward=lambda grad, source: grad * 2)
    y.sum().backward()
    np.testing.assert_allclose(y.numpy(), [6, 12])
    np.testing.assert_allclose(x.grad.numpy(), [6, 6])


def test_kernel_that_stores_elsewhere() -> None:
    def wrong(output: Argument, inputs: tuple[Argument, ...]) -> tuple[Block, ...]:
        i = axis("i", output.shape[0])
        return (Block((i,), (Store("elsewhere", (i,), constant(0.0, output.dtype)),)),)

    with pytest.raises(ShapeError, match="got \\['elsewhere'\\]"):
        custom_kernel(wrong, [Tensor([1.0])], (1,)).realize()
    with pytest.raises(ArgumentError, match="at least one source"):
        custom_kernel(doubled, [], (1,))
