"""Whole training steps (forward, backward, AdamW) of an MLP, a small convolutional net and a transformer of
four layers, against PyTorch's eager kernels and torch.compile, the better of both.

Each model is written once, over a table of what the libraries spell differently; all start from the same
weights. The losses of the first steps are compared with those of float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from _bench import Bar, Case, compiled, main
from torch.nn import functional as F

from petaflop import Tensor, jit, optim

BARS = {"training": Bar(0.85, 1.1)}
RATE, STEPS = 1e-3, 3
Values = dict[str, np.ndarray[Any, Any]]
Weights = Mapping[str, Any]


@dataclass(frozen=True)
class Library:
    """How one library spells what the models need beyond operators and methods of tensors."""

    relu: Callable[[Any], Any]
    gelu: Callable[[Any], Any]
    layer_norm: Callable[[Any, Any, Any], Any]
    attention: Callable[[Any, Any, Any], Any]
    convolution: Callable[[Any, Any, Any], Any]
    pool: Callable[[Any], Any]
    embed: Callable[[Any, Any], Any]
    cross_entropy: Callable[[Any, Any], Any]


OURS = Library(
    lambda x: x.relu(),
    lambda x: x.gelu(),
    lambda x, w, b: x.layernorm() * w + b,
    lambda q, k, v: q.scaled_dot_product_attention(k, v, is_causal=True),
    lambda x, w, b: x.conv2d(w, b, padding=1),
    lambda x: x.max_pool2d(2),
    lambda table, index: table[index],
    lambda x, target: x.cross_entropy(target),
)
THEIRS = Library(
    F.relu,
    F.gelu,
    lambda x, w, b: F.layer_norm(x, (x.shape[-1],), w, b),
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    lambda x, w, b: F.conv2d(x, w, b, padding=1),
    lambda x: F.max_pool2d(x, 2),
    lambda table, index: F.embedding(index, table),
    F.cross_entropy,
)


@dataclass(frozen=True)
class Model:
    """Weights by name, a batch, and the loss over both."""

    name: str
    weights: Values
    x: np.ndarray[Any, Any]
    target: np.ndarray[Any, Any]
    loss: Callable[[Library, Weights, Any, Any], Any]


def _layers(rng: np.random.Generator, shapes: Mapping[str, tuple[int, ...]]) -> Values:
    """Weights scaled by what comes in; vectors are zeros, or ones for norms."""
    made = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            made[name] = np.full(shape, float("norm.w" in name), np.float32)
        else:
            scale = float(np.prod(shape[1:])) ** -0.5
            made[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
    return made


def mlp() -> Model:
    """128 rows of 784 through 512 and 512 to 10."""
    rng, widths = np.random.default_rng(0), (784, 512, 512, 10)
    shapes = {}
    for number, (inner, outer) in enumerate(pairwise(widths)):
        shapes |= {f"{number}.w": (outer, inner), f"{number}.b": (outer,)}

    def loss(to: Library, w: Weights, x: Any, target: Any) -> Any:
        for number in range(2):
            x = to.relu(x @ w[f"{number}.w"].T + w[f"{number}.b"])
        return to.cross_entropy(x @ w["2.w"].T + w["2.b"], target)

    x = rng.standard_normal((128, 784), dtype=np.float32)
    return Model("MLP", _layers(rng, shapes), x, rng.integers(0, 10, 128), loss)


def convolutional() -> Model:
    """32 images of 3x32x32 through 32, 64 and 128 channels, halved each time, to 10."""
    rng, widths = np.random.default_rng(1), (3, 32, 64, 128)
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (inner, outer) in enumerate(pairwise(widths)):
        shapes |= {f"{number}.w": (outer, inner, 3, 3), f"{number}.b": (outer,)}
    shapes |= {"last.w": (10, 128 * 16), "last.b": (10,)}

    def loss(to: Library, w: Weights, x: Any, target: Any) -> Any:
        for number in range(3):
            x = to.pool(to.relu(to.convolution(x, w[f"{number}.w"], w[f"{number}.b"])))
        return to.cross_entropy(x.reshape(x.shape[0], -1) @ w["last.w"].T + w["last.b"], target)

    x = rng.standard_normal((32, 3, 32, 32), dtype=np.float32)
    return Model("ConvNet", _layers(rng, shapes), x, rng.integers(0, 10, 32), loss)


WIDTH, HEADS, WORDS, BATCH, LENGTH = 256, 4, 1000, 8, 64


def _block(to: Library, w: Weights, at: str, x: Any) -> Any:
    """Attention, then two layers with a GELU, both on normed inputs and added; x: (batch, length, width)."""
    y = to.layer_norm(x, w[f"{at}.0.norm.w"], w[f"{at}.0.norm.b"])
    heads = [
        (y @ w[f"{at}.{name}.w"].T).reshape(BATCH, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)
        for name in "qkv"
    ]
    mixed = to.attention(*heads).transpose(1, 2).reshape(BATCH, LENGTH, WIDTH)
    x = x + mixed @ w[f"{at}.out.w"].T
    y = to.layer_norm(x, w[f"{at}.1.norm.w"], w[f"{at}.1.norm.b"])
    inner = to.gelu(y @ w[f"{at}.up.w"].T + w[f"{at}.up.b"])
    return x + inner @ w[f"{at}.down.w"].T + w[f"{at}.down.b"]


def transformer() -> Model:
    """8 texts of 64 words; four layers of width 256 with 4 heads; the next of 1000 words."""
    rng = np.random.default_rng(2)
    shapes: dict[str, tuple[int, ...]] = {"words": (WORDS, WIDTH), "head.w": (WORDS, WIDTH)}
    for number in range(4):
        at = f"{number}"
        shapes |= {f"{at}.{half}.norm.{part}": (WIDTH,) for half in "01" for part in "wb"}
        shapes |= {f"{at}.{name}.w": (WIDTH, WIDTH) for name in ("q", "k", "v", "out")}
        shapes |= {f"{at}.up.w": (4 * WIDTH, WIDTH), f"{at}.up.b": (4 * WIDTH,)}
        shapes |= {f"{at}.down.w": (WIDTH, 4 * WIDTH), f"{at}.down.b": (WIDTH,)}

    def loss(to: Library, w: Weights, x: Any, target: Any) -> Any:
        y = to.embed(w["words"], x)
        for number in range(4):
            y = _block(to, w, f"{number}", y)
        scores = y.reshape(BATCH * LENGTH, WIDTH) @ w["head.w"].T
        return to.cross_entropy(scores, target.reshape(BATCH * LENGTH))

    texts = rng.integers(0, WORDS, (BATCH, LENGTH + 1))
    return Model(
        "transformer, 4 layers", _layers(rng, shapes), texts[:, :-1].copy(), texts[:, 1:].copy(), loss
    )


def our_step(model: Model) -> Callable[[], Any]:
    weights = {name: Tensor(value).requires_grad_() for name, value in model.weights.items()}
    x, target = Tensor(model.x).realize(), Tensor(model.target).realize()
    optimizer = optim.AdamW(weights.values(), lr=RATE)

    @jit
    def step(x: Tensor, target: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(OURS, weights, x, target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return lambda: step(x, target)


def their_step(model: Model, dtype: torch.dtype, compile: bool) -> Callable[[], torch.Tensor]:
    """Compiled: the loss with its gradients, and the optimizer's step. Eager: with PyTorch's fused AdamW."""
    weights = {
        name: torch.from_numpy(value).to(dtype, copy=True).requires_grad_()
        for name, value in model.weights.items()
    }
    x, target = torch.from_numpy(model.x), torch.from_numpy(model.target)
    x = x.to(dtype) if x.is_floating_point() else x
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, fused=not compile and dtype == torch.float32)

    def loss_of(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return model.loss(THEIRS, weights, x, target)

    forward = compiled(loss_of) if compile else loss_of
    update = compiled(optimizer.step, whole=False) if compile else optimizer.step

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = forward(x, target)
        loss.backward()
        update()
        return loss.detach()

    return step


def training(model: Model) -> Case:
    torch._dynamo.reset()

    def truth() -> list[torch.Tensor]:
        step = their_step(model, torch.float64, compile=False)
        return [step() for _ in range(STEPS)]

    peers = {name: their_step(model, torch.float32, name == "compile") for name in ("eager", "compile")}
    return Case(model.name, "training", our_step(model), peers, truth, error=1e-4, steps=STEPS)


def cases() -> Iterator[Case]:
    for make in (mlp, convolutional, transformer):
        yield training(make())


if __name__ == "__main__":
    main("training", cases, BARS, gradients=True)
