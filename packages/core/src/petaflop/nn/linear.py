"""Linear layers and embeddings."""

from __future__ import annotations

from petaflop.errors import IndexRangeError
from petaflop.nn import initial
from petaflop.nn.module import Module
from petaflop.tensor import Tensor

__all__ = ["Bilinear", "Embedding", "Flatten", "Identity", "Linear"]


class Identity(Module):
    """Its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Flatten(Module):
    """Axes from start to end as one.

    >>> Flatten()(Tensor.zeros(2, 3, 4)).shape
    (2, 12)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)


class Linear(Module):
    """x·Wᵀ + b over the last axis: (…, in_features) to (…, out_features); weight (out_features, in_features).

    >>> Linear(3, 2)(Tensor.ones(4, 3)).shape
    (4, 2)
    """

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.weight = initial.uniform((out_features, in_features), in_features)
        self.register_parameter("bias", initial.uniform((out_features,), in_features) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) to (…, out_features)."""
        product = x.matmul(self.weight.transpose(0, 1))
        return product if self.bias is None else product + self.bias.cast(product.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """yₖ = x₁ᵀ·Wₖ·x₂ + bₖ; weight (out_features, in1_features, in2_features)."""

    bias: Tensor | None

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True) -> None:
        self.weight = initial.uniform((out_features, in1_features, in2_features), in1_features)
        self.register_parameter("bias", initial.uniform((out_features,), in1_features) if bias else None)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(…, in1_features) and (…, in2_features) to (…, out_features)."""
        mixed = first.unsqueeze(-2).unsqueeze(-2).matmul(self.weight)
        total = mixed.matmul(second.unsqueeze(-2).unsqueeze(-1)).flatten(-3)
        return total if self.bias is None else total + self.bias


class Embedding(Module):
    """Rows of a table: integers of any shape to (…, embedding_dim); weight (num_embeddings, embedding_dim).

    Negative integers count from the end; those out of range give zeros, or an error if PETAFLOP_CHECK=index.

    >>> Embedding(10, 4)(Tensor([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise IndexRangeError(
                f"Embedding: expected padding_idx in 0..{num_embeddings - 1}, got {padding_idx}"
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        table = Tensor.randn(num_embeddings, embedding_dim)
        if self.padding_idx is not None:
            table = table.masked_fill((Tensor.arange(num_embeddings) == self.padding_idx).unsqueeze(1), 0.0)
        self.weight = initial.Parameter(table)

    def forward(self, index: Tensor) -> Tensor:
        """Indices to rows; the row `padding_idx` gets no gradient."""
        weight = self.weight
        if self.padding_idx is not None:
            padding = (
                Tensor.arange(self.num_embeddings, device=weight.device) == self.padding_idx
            ).unsqueeze(1)
            weight = padding.where(weight.detach(), weight)
        return weight[index]

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"
