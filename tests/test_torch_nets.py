"""Convolutions, pools, norms, attention, resizing, dropout and losses against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch_case import as_dtype, check, normal, refuse

from petaflop.tensor import Tensor

NEAR = {"atol": 1e-5}
IMAGE, LINE, VOLUME = normal(2, 4, 6, 5), normal(2, 4, 9), normal(1, 2, 4, 5, 4)
KERNEL, BIAS = normal(6, 4, 3, 2, seed=2), normal(6, seed=3)
Case = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]

NETS: dict[str, Case] = {
    "conv1d": (
        lambda x, w, b: x.conv1d(w, b, stride=2, padding=1),
        lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1),
        (LINE, normal(3, 4, 3, seed=2), normal(3)),
    ),
    "conv2d": (lambda x, w, b: x.conv2d(w, b), F.conv2d, (IMAGE, KERNEL, BIAS)),
    "conv2d-all": (
        lambda x, w, b: x.conv2d(w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        (IMAGE, normal(6, 2, 3, 2, seed=4), BIAS),
    ),
    "conv2d-same": (
        lambda x, w: x.conv2d(w, padding="same"),
        lambda x, w: F.conv2d(x, w, padding="same"),
        (IMAGE, normal(2, 4, 3, 3)),
    ),
    "conv2d-no-batch": (lambda x, w: x.conv2d(w), F.conv2d, (IMAGE[0], KERNEL)),
    "conv3d": (
        lambda x, w: x.conv3d(w, padding=1),
        lambda x, w: F.conv3d(x, w, padding=1),
        (VOLUME, normal(3, 2, 2, 3, 2)),
    ),
    "conv_transpose2d": (
        lambda x, w, b: x.conv_transpose2d(w, b),
        F.conv_transpose2d,
        (IMAGE, normal(4, 3, 3, 2), normal(3)),
    ),
    "conv_transpose2d-all": (
        lambda x, w: x.conv_transpose2d(w, None, (2, 3), 1, (1, 2), 2, (1, 2)),
        lambda x, w: F.conv_transpose2d(x, w, None, (2, 3), 1, (1, 2), 2, (1, 2)),
        (IMAGE, normal(4, 2, 3, 2)),
    ),
    "avg_pool2d": (lambda x: x.avg_pool2d(2), lambda x: F.avg_pool2d(x, 2), (IMAGE,)),
    "avg_pool2d-all": (
        lambda x: x.avg_pool2d((3, 2), (2, 1), (1, 1), ceil_mode=True, count_include_pad=False),
        lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 1), ceil_mode=True, count_include_pad=False),
        (IMAGE,),
    ),
    "avg_pool2d-ceil": (
        lambda x: x.avg_pool2d(3, 2, 1, ceil_mode=True),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        (IMAGE,),
    ),
    "max_pool2d": (lambda x: x.max_pool2d(2), lambda x: F.max_pool2d(x, 2), (IMAGE,)),
    "max_pool2d-all": (
        lambda x: x.max_pool2d((3, 2), 2, 1, (1, 2), ceil_mode=True),
        lambda x: F.max_pool2d(x, (3, 2), 2, 1, (1, 2), ceil_mode=True),
        (IMAGE,),
    ),
    "max_pool2d-indices": (
        lambda x: x.max_pool2d(3, 2, 1, return_indices=True),
        lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True),
        (IMAGE,),
    ),
    "max_unpool2d": (
        lambda x: (lambda y, k: y.max_unpool2d(k, 2))(*x.max_pool2d(2, return_indices=True)),
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        (normal(2, 3, 4, 6),),
    ),
    "layernorm": (lambda x: x.layernorm(), lambda x: F.layer_norm(x, x.shape[-1:]), (IMAGE,)),
    "layernorm-axes": (
        lambda x: x.layernorm((-2, -1), 1e-3),
        lambda x: F.layer_norm(x, x.shape[-2:], eps=1e-3),
        (IMAGE,),
    ),
    "rmsnorm": (lambda x: x.rmsnorm(eps=1e-6), lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-6), (IMAGE,)),
    "batchnorm": (
        lambda x, w, b: x.batchnorm(w, b, x.mean((0, 2, 3)), (x.var((0, 2, 3), 0) + 1e-5).rsqrt()),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        (IMAGE, normal(4), normal(4, seed=2)),
    ),
    "dropout-0": (lambda x: x.dropout(0.0), lambda x: F.dropout(x, 0.0), (IMAGE,)),
}
Q, K, V = normal(2, 3, 4, 8), normal(2, 3, 5, 8, seed=2), normal(2, 3, 5, 6, seed=3)
MASK = np.random.default_rng(5).random((4, 5)) > 0.4
MASK[1] = False  # a row that sees nothing
ATTENTION: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "plain": ({}, (Q, K, V)),
    "scale": ({"scale": 0.3}, (Q, K, V)),
    "causal": ({"is_causal": True}, (Q, normal(2, 3, 4, 8, seed=7), normal(2, 3, 4, 6, seed=8))),
    "groups": ({"enable_gqa": True}, (normal(2, 4, 4, 8), normal(2, 2, 5, 8), normal(2, 2, 5, 6))),
}
RESIZES: dict[str, tuple[dict[str, Any], Any]] = {
    "nearest": ({"size": (4, 9)}, IMAGE),
    "nearest-factor": ({"scale_factor": 1.7}, IMAGE),
    "nearest-double": ({"scale_factor": 2}, IMAGE),
    "nearest-exact": ({"size": (4, 9), "mode": "nearest-exact"}, IMAGE),
    "linear": ({"size": 13, "mode": "linear"}, LINE),
    "bilinear": ({"size": (9, 3), "mode": "bilinear"}, IMAGE),
    "bilinear-corners": ({"size": (9, 3), "mode": "bilinear", "align_corners": True}, IMAGE),
    "bilinear-factor": ({"scale_factor": (1.5, 0.7), "mode": "bilinear"}, IMAGE),
    "trilinear": ({"size": (3, 7, 5), "mode": "trilinear"}, VOLUME),
    "bicubic": ({"size": (9, 4), "mode": "bicubic"}, IMAGE),
    "area": ({"size": (4, 3), "mode": "area"}, IMAGE),
}


@pytest.mark.parametrize("name", NETS)
def test_nets(name: str) -> None:
    mine, theirs, arrays = NETS[name]
    check(mine, *arrays, theirs=theirs, **NEAR)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d", "avg_pool2d", "max_pool2d", "layernorm"])
def test_nets_in_halves(name: str) -> None:
    mine, theirs, arrays = NETS[name]
    for dtype in ("float16", "bfloat16"):
        coarse = 5e-3 if dtype == "float16" else 4e-2
        check(
            mine, *(as_dtype(array, dtype) for array in arrays), theirs=theirs, atol=coarse, gradients=False
        )


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name: str) -> None:
    options, arrays = ATTENTION[name]
    check(
        lambda q, k, v: q.scaled_dot_product_attention(k, v, **options),
        *arrays,
        theirs=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options),
        **NEAR,
    )


def test_attention_masks() -> None:
    for mask in (MASK, normal(4, 5)):
        check(
            lambda q, k, v, m: q.scaled_dot_product_attention(k, v, m),
            *(Q, K, V, mask),
            theirs=F.scaled_dot_product_attention,
            gradients=False,  # the row that sees nothing has NaN gradients in torch
            **NEAR,
        )


@pytest.mark.parametrize("name", RESIZES)
def test_interpolate(name: str) -> None:
    options, array = RESIZES[name]
    check(lambda x: x.interpolate(**options), array, theirs=lambda x: F.interpolate(x, **options), **NEAR)


# ---- losses ----

SCORES, CLASSES = normal(5, 4), np.array([0, 3, 1, 2, 3])
IGNORED = np.array([0, -100, 1, -100, 3])
DENSE, LABELS = normal(2, 4, 3), np.random.default_rng(2).integers(0, 4, (2, 3))
WEIGHT = np.array([1.0, 0.5, 2.0, 0.1], np.float32)
CHANCES = (1 / (1 + np.exp(-normal(3, 4)))).astype(np.float32)
TRUTH = np.random.default_rng(3).random((3, 4)).astype(np.float32)
LOSSES: dict[str, Case] = {
    "nll": (
        lambda x, t, **o: x.nll_loss(t, **o),
        lambda x, t, **o: F.nll_loss(x, t, **o),
        (SCORES, CLASSES),
    ),
    "nll-dense": (
        lambda x, t, **o: x.nll_loss(t, **o),
        lambda x, t, **o: F.nll_loss(x, t, **o),
        (DENSE, LABELS),
    ),
    "nll-weight": (
        lambda x, t, w, **o: x.nll_loss(t, w.detach(), **o),
        lambda x, t, w, **o: F.nll_loss(x, t, w.detach(), **o),
        (SCORES, IGNORED, WEIGHT),
    ),
    "cross_entropy": (
        lambda x, t, **o: x.cross_entropy(t, **o),
        lambda x, t, **o: F.cross_entropy(x, t, **o),
        (SCORES, IGNORED),
    ),
    "cross_entropy-smooth": (
        lambda x, t, w, **o: x.cross_entropy(t, w.detach(), label_smoothing=0.1, **o),
        lambda x, t, w, **o: F.cross_entropy(x, t, w.detach(), label_smoothing=0.1, **o),
        (DENSE, LABELS, WEIGHT),
    ),
    "cross_entropy-chances": (
        lambda x, t, **o: x.cross_entropy(t.softmax(-1), label_smoothing=0.2, **o),
        lambda x, t, **o: F.cross_entropy(x, t.softmax(-1), label_smoothing=0.2, **o),
        (SCORES, normal(5, 4, seed=9)),
    ),
    "cross_entropy-single": (
        lambda x, t, **o: x.cross_entropy(t, **o),
        lambda x, t, **o: F.cross_entropy(x, t, **o),
        (SCORES[0], CLASSES[1]),
    ),
    "sparse_categorical_crossentropy": (
        lambda x, t, **o: x.sparse_categorical_crossentropy(t, **o),
        lambda x, t, **o: F.cross_entropy(x, t, ignore_index=-1, **o),
        (SCORES, np.array([0, -1, 1, 2, 3])),
    ),
    "binary_crossentropy": (
        lambda x, t, **o: x.binary_crossentropy(t.detach(), **o),
        lambda x, t, **o: F.binary_cross_entropy(x, t.detach(), **o),
        (CHANCES, TRUTH),
    ),
    "binary_crossentropy_logits": (
        lambda x, t, w, **o: x.binary_crossentropy_logits(t.detach(), pos_weight=w.detach(), **o),
        lambda x, t, w, **o: F.binary_cross_entropy_with_logits(x, t.detach(), pos_weight=w.detach(), **o),
        (normal(3, 4) * 30, TRUTH, WEIGHT),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    mine, theirs, arrays = LOSSES[name]
    for reduction in ("mean", "sum", "none"):
        check(
            lambda *xs, r=reduction: mine(*xs, reduction=r),
            *(np.asarray(array) for array in arrays),
            theirs=lambda *xs, r=reduction: theirs(*xs, reduction=r),
            **NEAR,
        )


def test_binary_crossentropy_at_the_ends() -> None:
    ends = np.array([0.0, 1.0, 0.0, 1.0], np.float32)
    truth = np.array([0.0, 1.0, 1.0, 0.0], np.float32)
    check(
        lambda x, t: x.binary_crossentropy(t, reduction="none"),
        *(ends, truth),
        theirs=lambda x, t: F.binary_cross_entropy(x, t, reduction="none"),
        gradients=False,
    )


def test_dropout() -> None:
    """What stays is divided by its chance, gradients follow, and a seed repeats the draw."""
    Tensor.manual_seed(3)
    x = Tensor.ones(200, 200).requires_grad_()
    y = x.dropout(0.25)
    y.sum().backward()
    values = y.numpy()
    kept = values != 0
    assert abs(kept.mean() - 0.75) < 0.01
    np.testing.assert_allclose(values[kept], 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(x.grad.numpy(), values)
    Tensor.manual_seed(3)
    np.testing.assert_array_equal(x.detach().dropout(0.25).numpy(), values)
    assert (x.dropout(0.5, training=False).numpy() == 1).all() and not x.dropout(1.0).numpy().any()


# ---- what is refused ----

REFUSED: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = {
    "conv-channels": (lambda x, w: x.conv2d(w), F.conv2d, (IMAGE, normal(2, 3, 2, 2))),
    "conv-too-small": (lambda x, w: x.conv2d(w), F.conv2d, (IMAGE, normal(2, 4, 7, 7))),
    "conv-groups": (
        lambda x, w: x.conv2d(w, groups=3),
        lambda x, w: F.conv2d(x, w, groups=3),
        (IMAGE, KERNEL),
    ),
    "conv-stride": (
        lambda x, w: x.conv2d(w, stride=0),
        lambda x, w: F.conv2d(x, w, stride=0),
        (IMAGE, KERNEL),
    ),
    "pool-padding": (lambda x: x.max_pool2d(2, padding=2), lambda x: F.max_pool2d(x, 2, padding=2), (IMAGE,)),
    "loss-shapes": (lambda x, t: x.cross_entropy(t), F.cross_entropy, (SCORES, CLASSES[:4])),
    "loss-dtype": (lambda x, t: x.nll_loss(t), F.nll_loss, (SCORES, SCORES[:, 0])),
    "loss-reduction": (
        lambda x, t: x.nll_loss(t, reduction="most"),
        lambda x, t: F.nll_loss(x, t, reduction="most"),
        (SCORES, CLASSES),
    ),
    "bce-shapes": (lambda x, t: x.binary_crossentropy(t), F.binary_cross_entropy, (CHANCES, TRUTH[:2])),
    "resize-both": (
        lambda x: x.interpolate(size=4, scale_factor=2.0),
        lambda x: F.interpolate(x, size=4, scale_factor=2.0),
        (IMAGE,),
    ),
    "resize-mode": (
        lambda x: x.interpolate(size=4, mode="best"),
        lambda x: F.interpolate(x, size=4, mode="best"),
        (IMAGE,),
    ),
    "dropout-chance": (lambda x: x.dropout(1.5), lambda x: F.dropout(x, 1.5), (IMAGE,)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_those_of_torch(name: str) -> None:
    mine, theirs, arrays = REFUSED[name]
    with pytest.raises(Exception) as caught:
        theirs(*(torch.tensor(array) for array in arrays))
    kind = type(caught.value)
    refuse(mine, *arrays, kind=RuntimeError if kind is NotImplementedError else kind)
