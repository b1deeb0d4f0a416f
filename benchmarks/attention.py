"""Attention against scaled_dot_product_attention: one batch of 8 heads of 64, causal and not."""

from __future__ import annotations

from collections.abc import Iterator

from _bench import Bar, Case, compare, main, pair
from torch.nn.functional import scaled_dot_product_attention

BARS = {"attention": Bar(0.9, 1.1)}


def attention(length: int, causal: bool) -> Case:
    inputs = [pair((1, 8, length, 64), seed=seed) for seed in range(3)]
    return compare(
        f"{length} positions" + (", causal" if causal else ""),
        "attention",
        inputs,
        lambda q, k, v: q.scaled_dot_product_attention(k, v, is_causal=causal),
        lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=causal),
        operations=4.0 * 8 * length * length * 64 / (2 if causal else 1),
    )


def cases() -> Iterator[Case]:
    for length in (128, 512, 2048):
        for causal in (False, True):
            yield attention(length, causal)


if __name__ == "__main__":
    main("attention", cases, BARS)
