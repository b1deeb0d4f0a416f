"""Attention against scaled_dot_product_attention: one batch of 8 heads of 64, causal and not."""

from __future__ import annotations

from collections.abc import Iterator

from _bench import Case, main, pair
from torch.nn.functional import scaled_dot_product_attention

from petaflop import jit


def attention(length: int, causal: bool) -> Case:
    q, k, v = (pair((1, 8, length, 64), seed=seed) for seed in range(3))
    replayed = jit(lambda q, k, v: q.scaled_dot_product_attention(k, v, is_causal=causal))
    return Case(
        f"{length} positions" + (", causal" if causal else ""),
        lambda: replayed(q.ours, k.ours, v.ours),
        lambda: scaled_dot_product_attention(q.theirs, k.theirs, v.theirs, is_causal=causal),
        lambda: scaled_dot_product_attention(
            q.theirs.double(), k.theirs.double(), v.theirs.double(), is_causal=causal
        ).numpy(),
        4.0 * 8 * length * length * 64 / (2 if causal else 1),
    )


def cases() -> Iterator[Case]:
    for length in (128, 512, 2048):
        for causal in (False, True):
            yield attention(length, causal)


if __name__ == "__main__":
    main("attention", cases)
