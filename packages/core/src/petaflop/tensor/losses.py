"""Losses of class scores and probabilities, by PyTorch's definitions."""

from __future__ import annotations

from typing import Any, Self

from petaflop.dtype import int32
from petaflop.errors import ArgumentError, DTypeError
from petaflop.graph import node as graph
from petaflop.tensor.nets import Nets

__all__ = ["Losses"]


class Losses(Nets):
    """cross_entropy and its kin; `reduction` is "mean", "sum" or "none"."""

    __slots__ = ()

    def _reduced(self, name: str, reduction: str, total: Any = None) -> Self:
        """This loss folded; a mean divides by `total` where that is given."""
        if reduction == "none":
            return self
        if reduction == "sum":
            return self.sum()
        if reduction != "mean":
            raise ArgumentError(f"{name}: expected reduction mean, sum or none, got {reduction!r}")
        return self.mean() if total is None else self.sum() / total

    def _picked_class(self, name: str, target: Any, axis: int) -> tuple[Any, Any]:
        """(the target with a class axis of size 1, where each class is the target's)."""
        expected = self.shape[:axis] + self.shape[axis + 1 :]
        if target.shape != expected:
            raise ArgumentError(
                f"{name}: expected a target of {list(expected)} for {self._text()}, got {target._text()}",
            )
        wide = target.detach().cast(int32).unsqueeze(axis)
        classes = self._wrap(graph.iota(self.shape, axis))
        return wide, wide.eq(classes)

    def nll_loss(
        self, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> Self:
        """−self[target] of log-probabilities (N, C, …) with int targets (N, …); the mean is weighted, as in
        PyTorch.

        A target outside the classes gives a loss of 0 (but counts in the mean, unlike `ignore_index`);
        PETAFLOP_CHECK=index makes it an error.
        """
        labels = self._lift(target)
        if not labels.dtype.is_integer:
            raise DTypeError(f"nll_loss: expected integer targets, got {labels.dtype}")
        axis = 0 if self.ndim == 1 else 1
        self._expect_indices("nll_loss", labels, axis, besides=ignore_index)
        wide, chosen = self._picked_class("nll_loss", labels, axis)
        losses = -(chosen.where(self, 0.0).sum(axis))
        counted = wide.ne(ignore_index).squeeze(axis)
        if weight is None:
            factor = counted.cast(self.dtype)
        else:
            shape = tuple(-1 if k == axis else 1 for k in range(self.ndim))
            weights = self._lift(weight).reshape(shape).expand(self.shape)
            factor = counted.where(chosen.where(weights, 0.0).sum(axis), 0.0)
        return (counted.where(losses, 0.0) * factor)._reduced("nll_loss", reduction, factor.sum())

    def cross_entropy(
        self,
        target: Any,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Self:
        """nll_loss(log_softmax(self)) of scores (N, C, …) or (C,) with class indices, or with probabilities
        per class. A class out of range is as in nll_loss.

        >>> round(Tensor([[0.0, 0.0]]).cross_entropy(Tensor([1])).item(), 4)
        0.6931
        """
        if not 0 <= label_smoothing <= 1:
            raise ArgumentError(f"cross_entropy: expected 0 <= label_smoothing <= 1, got {label_smoothing}")
        labels = self._lift(target)
        axis = 0 if self.ndim == 1 else 1
        logs = self.log_softmax(axis)
        if labels.dtype.is_float:
            return logs._soft_entropy(labels, weight, reduction, label_smoothing, axis)
        hard = logs.nll_loss(labels, weight, ignore_index, "none")
        wide, chosen = logs._picked_class("cross_entropy", labels, axis)
        counted = wide.ne(ignore_index).squeeze(axis)
        shape = tuple(-1 if k == axis else 1 for k in range(self.ndim))
        if weight is None:
            factor, smooth = counted.cast(logs.dtype), logs
        else:
            weights = self._lift(weight).reshape(shape).expand(self.shape)
            factor, smooth = counted.where(chosen.where(weights, 0.0).sum(axis), 0.0), logs * weights
        losses = hard
        if label_smoothing:
            uniform = counted.where(-(smooth.sum(axis)), 0.0) / float(self._known_size(axis))
            losses = hard * (1 - label_smoothing) + uniform * label_smoothing
        return losses._reduced("cross_entropy", reduction, factor.sum())

    def _soft_entropy(self, target: Any, weight: Any, reduction: str, smoothing: float, axis: int) -> Self:
        """Log-probabilities against probabilities; the mean is over the batch."""
        if target.shape != self.shape:
            raise ArgumentError(f"cross_entropy: expected probabilities {self._text()}, got {target._text()}")
        classes = float(self._known_size(axis))
        wanted = target * (1 - smoothing) + smoothing / classes if smoothing else target
        terms = self * wanted
        if weight is not None:
            shape = tuple(-1 if k == axis else 1 for k in range(self.ndim))
            terms = terms * self._lift(weight).reshape(shape)
        return (-(terms.sum(axis)))._reduced("cross_entropy", reduction)

    def sparse_categorical_crossentropy(
        self, target: Any, ignore_index: int = -1, label_smoothing: float = 0.0, reduction: str = "mean"
    ) -> Self:
        """cross_entropy with the classes on the last axis, as in tinygrad."""
        scores = self.movedim(-1, 1) if self.ndim > 2 else self
        return scores.cross_entropy(
            target, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
        )

    def binary_crossentropy(self, target: Any, weight: Any = None, reduction: str = "mean") -> Self:
        """−(t · log p + (1 − t) · log(1 − p)) of probabilities; logarithms are at least −100, as in
        PyTorch."""
        labels = self._same("binary_crossentropy", target)
        yes, no = self.log().clamp(min=-100), (-self).log1p().clamp(min=-100)
        losses = -(labels * yes + (1 - labels) * no)
        return (losses if weight is None else losses * weight)._reduced("binary_crossentropy", reduction)

    def binary_crossentropy_logits(
        self, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
    ) -> Self:
        """binary_crossentropy(sigmoid(self)) without overflow."""
        labels = self._same("binary_crossentropy_logits", target)
        yes, no = self.logsigmoid(), (-self).logsigmoid()
        positive = labels * yes if pos_weight is None else labels * yes * pos_weight
        losses = -(positive + (1 - labels) * no)
        return (losses if weight is None else losses * weight)._reduced(
            "binary_crossentropy_logits", reduction
        )

    def _same(self, name: str, target: Any) -> Any:
        labels = self._lift(target)
        if labels.shape != self.shape:
            raise ArgumentError(f"{name}: expected a target of {list(self.shape)}, got {labels._text()}")
        return labels if labels.dtype.is_float else labels.cast(self.dtype)
