"""Attention with several heads; weights as in PyTorch's MultiheadAttention."""

from __future__ import annotations

import math

from petaflop.errors import ArgumentError, ShapeError
from petaflop.nn import initial
from petaflop.nn.activation import Dropout
from petaflop.nn.linear import Linear
from petaflop.nn.module import Module
from petaflop.tensor import Tensor

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """Queries (L, N, E), keys and values (S, N, E) to (L, N, E); with `batch_first` N comes first.

    Returns the output and the weights (N, L, S) averaged over heads, or None without `need_weights`.

    >>> x = Tensor.rand(2, 5, 8)
    >>> MultiheadAttention(8, 2, batch_first=True)(x, x, x)[0].shape
    (2, 5, 8)
    """

    in_proj_bias: Tensor | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = False,
    ) -> None:
        if embed_dim % num_heads:
            raise ArgumentError(
                f"MultiheadAttention: expected embed_dim divisible by {num_heads}, got {embed_dim}"
            )
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.in_proj_weight = initial.xavier((3 * embed_dim, embed_dim))
        self.register_parameter("in_proj_bias", initial.zeros((3 * embed_dim,)) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias)
        if bias:
            self.out_proj.bias = initial.zeros((embed_dim,))
        self.dropout = Dropout(dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Masks: bool forbids where true, float is added; `attn_mask` (L, S), `key_padding_mask` (N, S)."""
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.ndim != 3 or x.shape[2] != self.embed_dim:
                raise ShapeError(
                    f"MultiheadAttention: expected {name} (…, …, {self.embed_dim}), got {list(x.shape)}"
                )
        sources = [x if self.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        q, k, v = (self._project(x, part) for part, x in enumerate(sources))
        scores = q.matmul(k.transpose(-2, -1)) * (1 / math.sqrt(self.embed_dim // self.num_heads))
        if is_causal:
            rows, columns = (Tensor.arange(size, device=query.device) for size in scores.shape[-2:])
            scores = scores.masked_fill(columns > rows.unsqueeze(1), -math.inf)
        if attn_mask is not None:
            mask = (
                attn_mask
                if attn_mask.ndim < 3
                else attn_mask.reshape(-1, self.num_heads, *attn_mask.shape[1:])
            )
            scores = _masked(scores, mask)
        if key_padding_mask is not None:
            scores = _masked(scores, key_padding_mask.reshape(key_padding_mask.shape[0], 1, 1, -1))
        weights = scores.softmax(-1)
        mixed = self.dropout(weights).matmul(v).transpose(1, 2).flatten(2)
        output = self.out_proj(mixed)
        output = output if self.batch_first else output.transpose(0, 1)
        return output, weights.mean(1) if need_weights else None

    def _project(self, x: Tensor, part: int) -> Tensor:
        """Queries (0), keys (1) or values (2) as (N, heads, length, E/heads)."""
        rows = slice(part * self.embed_dim, (part + 1) * self.embed_dim)
        projected = x.matmul(self.in_proj_weight[rows].transpose(0, 1))
        if self.in_proj_bias is not None:
            projected = projected + self.in_proj_bias[rows]
        batch, length = projected.shape[:2]
        heads = projected.reshape(batch, length, self.num_heads, self.embed_dim // self.num_heads)
        return heads.transpose(1, 2)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores + mask if mask.dtype.is_float else scores.masked_fill(mask, -math.inf)
