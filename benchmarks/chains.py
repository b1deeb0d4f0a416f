"""Fused chains of elementwise operations and reductions, and an optimizer's step, against PyTorch's eager
kernels and Inductor's, the better of both; at 256 KB, 8 MB and 256 MB.

Both sides make their result anew, from memory that they have kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from _bench import Bar, Case, Pair, arrays, compare, compiled, main, pair
from torch.nn import functional as F

from petaflop import Tensor, jit, optim

BARS = {"chain": Bar(0.9, 1.2, stream=0.85)}
SIZES = {"256 KB": 64, "8 MB": 2048, "256 MB": 65536}  # rows of 1024 float32
WIDTHS = (128, 1024, 32000)  # of softmax
HEAD = 64  # of what is rotated
TENSORS = 100  # that an optimizer steps over
FLOAT = 4


def normed(x: Any, w: Any, cos: Any, sin: Any) -> Any:
    """RMS norm, then the rotation of both halves of each head; (rows, width) and (rows, half a head)."""
    y = x * ((x * x).mean(-1, keepdim=True) + 1e-6).rsqrt() * w
    heads = y.reshape(x.shape[0], x.shape[1] // HEAD, HEAD)
    left, right = heads[:, :, : HEAD // 2], heads[:, :, HEAD // 2 :]
    return left * cos - right * sin, left * sin + right * cos


def rotated_ours(x: Any, w: Any, cos: Any, sin: Any) -> Any:
    left, right = normed(x, w, cos, sin)
    return left.cat(right, dim=-1)


def rotated_theirs(x: Any, w: Any, cos: Any, sin: Any) -> Any:
    return torch.cat(normed(x, w, cos, sin), -1)


def chain(
    name: str,
    size: str,
    inputs: Sequence[Pair],
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    writes: float | None = None,
) -> Case:
    """Every input is read once; as much as the first is written, or else `writes` elements."""
    reads = sum(each.theirs.numel() for each in inputs)
    written = inputs[0].theirs.numel() if writes is None else writes
    work = {"reads": FLOAT * reads, "writes": FLOAT * written, "streams": size == "256 MB"}
    return compare(f"{name} {size}", "chain", inputs, ours, theirs, compile=True, **work)


def reduction(name: str, size: str, x: Pair, reduce: Callable[[Any], Any], results: int) -> Case:
    """A chain that is spelled alike on both sides."""
    return chain(name, size, [x], reduce, reduce, results)


def optimizer_step(size: str, elements: int) -> Case:
    """AdamW over tensors that have `elements` in all; eagerly PyTorch's own fused kernel."""
    each = max(elements // TENSORS, 1)
    starts = [pair((each,), seed=2 * number) for number in range(TENSORS)]
    grads = [pair((each,), seed=2 * number + 1) for number in range(TENSORS)]
    ours = [Tensor(value.theirs.numpy()).requires_grad_() for value in starts]
    for weight, grad in zip(ours, grads, strict=True):
        weight.grad = grad.ours
    mine = optim.AdamW(ours, lr=1e-3)

    @jit
    def replayed() -> None:
        mine.step()

    def run() -> list[Tensor]:
        replayed()
        return ours

    def weights(cast: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        made = [cast(value.theirs).clone() for value in starts]
        for weight, grad in zip(made, grads, strict=True):
            weight.grad = cast(grad.theirs)
        return made

    def stepped(step: Callable[[], Any], changed: list[torch.Tensor]) -> list[torch.Tensor]:
        step()
        return changed

    eager, other = weights(torch.Tensor.float), weights(torch.Tensor.float)
    torch._dynamo.reset()
    steps = {
        "eager": partial(stepped, torch.optim.AdamW(eager, lr=1e-3, fused=True).step, eager),
        "compile": partial(stepped, compiled(torch.optim.AdamW(other, lr=1e-3).step, whole=False), other),
    }
    true = weights(torch.Tensor.double)
    total = each * TENSORS
    return Case(
        f"AdamW, {TENSORS} tensors {size}",
        "chain",
        run,
        steps,
        lambda: arrays(stepped(torch.optim.AdamW(true, lr=1e-3).step, true)),
        reads=4.0 * total * FLOAT,
        writes=3.0 * total * FLOAT,
        streams=size == "256 MB",
    )


def cases() -> Iterator[Case]:
    for size, rows in SIZES.items():
        shape, n = (rows, 1024), rows * 1024
        x, y, z = (pair(shape, seed=seed) for seed in range(3))
        w, b = pair((1024,), seed=3), pair((1024,), seed=4)
        cos, sin = (pair((rows, 1, HEAD // 2), seed=seed) for seed in (5, 6))
        yield chain(
            "a*b+c", size, [x, y, z], lambda a, b, c: a * b + c, lambda a, b, c: torch.addcmul(c, a, b)
        )
        yield chain("bias + gelu", size, [x, b], lambda x, b: (x + b).gelu(), lambda x, b: F.gelu(x + b))
        yield chain(
            "residual + layer norm",
            size,
            [x, y, w, b],
            lambda x, y, w, b: (x + y).layernorm() * w + b,
            lambda x, y, w, b: F.layer_norm(x + y, (1024,), w, b),
        )
        yield chain("rms norm + rope", size, [x, w, cos, sin], rotated_ours, rotated_theirs)
        for width in WIDTHS:
            wide = pair((max(n // width, 1), width), seed=7)
            yield reduction(f"softmax over {width}", size, wide, lambda x: x.softmax(-1), wide.theirs.numel())
        yield reduction("logsumexp", size, x, lambda x: x.logsumexp(-1), rows)
        for axis in (0, 1):
            results = shape[1 - axis]
            yield reduction(f"mean, axis {axis}", size, x, lambda x, a=axis: x.mean(a), results)
            yield reduction(f"var, axis {axis}", size, x, lambda x, a=axis: x.var(a), results)
        del x, y, z, wide
        yield optimizer_step(size, n)


if __name__ == "__main__":
    main("chains", cases, BARS)
