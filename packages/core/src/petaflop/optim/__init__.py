"""Optimizers, learning-rate schedulers and gradient clipping, with PyTorch's names and numbers."""

from petaflop.optim.algorithms import (
    LAMB,
    SGD,
    Adam,
    AdamW,
    Muon,
)
from petaflop.optim.base import (
    Optimizer,
)
from petaflop.optim.clip import (
    clip_grad_norm_,
    clip_grad_value_,
)
from petaflop.optim.schedulers import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    Scheduler,
    SequentialLR,
    StepLR,
)

__all__ = [
    "LAMB",
    "SGD",
    "Adam",
    "AdamW",
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "Muon",
    "OneCycleLR",
    "Optimizer",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "Scheduler",
    "SequentialLR",
    "StepLR",
    "clip_grad_norm_",
    "clip_grad_value_",
]
