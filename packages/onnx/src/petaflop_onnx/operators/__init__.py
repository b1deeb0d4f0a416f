"""The handlers, by kind; importing this package fills the table."""

from petaflop_onnx.operators import (
    activation,
    control,
    convolution,
    elementwise,
    indexing,
    linear,
    movement,
    normalize,
    pooling,
    quantize,
    recurrent,
    reduce,
    resize,
)

__all__ = [
    "activation",
    "control",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "movement",
    "normalize",
    "pooling",
    "quantize",
    "recurrent",
    "reduce",
    "resize",
]
