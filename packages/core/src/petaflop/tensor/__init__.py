"""Tensor: what users write. Checks arguments, builds graphs, computes nothing until asked."""

from petaflop.tensor.core import Tensor
from petaflop.tensor.mode import enable_grad, grad_enabled, no_grad
from petaflop.tensor.transform import grad

__all__ = ["Tensor", "enable_grad", "grad", "grad_enabled", "no_grad"]
