"""petaflop: a dozen primitive operations, a lazy scheduler that fuses them, backends that are plugins.

`nn`, `optim`, `state` and the rest are imported when they are first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

from petaflop.dtype import (
    DType,
    bfloat16,
    bool_,
    float8_e4m3,
    float8_e5m2,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    promote,
    uint8,
    uint16,
    uint32,
    uint64,
)
from petaflop.graph.symbolic import Variable
from petaflop.jit import jit  # now: a later import of the module would take the function's name
from petaflop.tensor import Tensor, enable_grad, grad, no_grad

__all__ = [
    "DType",
    "Tensor",
    "Variable",
    "bfloat16",
    "bool_",
    "enable_grad",
    "float8_e4m3",
    "float8_e5m2",
    "float16",
    "float32",
    "float64",
    "grad",
    "int8",
    "int16",
    "int32",
    "int64",
    "jit",
    "manual_seed",
    "no_grad",
    "promote",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]

manual_seed = Tensor.manual_seed
_SUBMODULES = ("nn", "optim", "profile", "state")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"petaflop.{name}")
    raise AttributeError(f"module 'petaflop' has no attribute {name!r}")
