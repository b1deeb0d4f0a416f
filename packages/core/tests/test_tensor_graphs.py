"""Graphs that tensors make and that once went wrong, computed by the reference device, against NumPy."""

from __future__ import annotations

import numpy as np

from petaflop.tensor import Tensor


def test_a_scan_runs_along_axes_that_were_one() -> None:
    """The gradient of a product of all elements scans the flat tensor, of which each axis stays an axis."""
    x = Tensor([[1.5, 2.0], [0.5, 3.0]], requires_grad=True, device="reference")
    x.prod().backward()
    np.testing.assert_allclose(x.grad.numpy(), 4.5 / np.array([[1.5, 2.0], [0.5, 3.0]]))


def test_an_index_that_is_stored_where_it_is_used() -> None:
    """The sort of one element: its index and what it picks are values of one block."""
    x = Tensor([[2.0, 1.0]], device="reference").realize()
    values, order = (x[:, :1] * x[:, :1]).sum(-1).sort(descending=True)
    assert (values + 0).tolist() == [4.0] and (order + 0).tolist() == [0]


def test_what_only_empty_results_need_is_no_kernel() -> None:
    x = Tensor(np.zeros((3, 0), np.float32), device="reference")
    assert x.softmax(-1).numpy().shape == (3, 0)


def test_constants_keep_no_memory_for_others() -> None:
    """A constant is one node wherever it is written down: what is computed of it stays apart."""
    zeros = Tensor.zeros(3, device="reference")
    assert zeros.numpy().tolist() == [0, 0, 0] and not zeros.node.is_realized
    doubled = Tensor.arange(3, device="reference") * 2
    later = doubled + 1
    doubled.realize()
    assert later.node.device is None and later.tolist() == [1, 3, 5]


def test_a_long_sort_is_as_good_as_a_short_one() -> None:
    x = np.random.default_rng(1).integers(0, 50, 1030).astype(np.float32)
    values, order = Tensor(x, device="reference").sort()
    np.testing.assert_array_equal(values.numpy(), np.sort(x))
    np.testing.assert_array_equal(order.numpy(), np.argsort(x, kind="stable"))


def test_masks_need_no_gradient() -> None:
    x = Tensor([1.0, -1.0], requires_grad=True)
    assert not (x > 0).requires_grad and not x.argmax().requires_grad and not x.int().requires_grad
