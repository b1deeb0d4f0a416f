"""Quantized weights: what their bytes mean, how the bytes are chosen, and the files that hold them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petaflop_quant.choosing import quantize, quantize_all
    from petaflop_quant.loading import load, save
    from petaflop_quant.tensor import Linear, QuantTensor

__all__ = ["Linear", "QuantTensor", "load", "quantize", "quantize_all", "save"]
__version__ = "0.1.0"

_MODULES = {
    "Linear": "tensor",
    "QuantTensor": "tensor",
    "load": "loading",
    "quantize": "choosing",
    "quantize_all": "choosing",
    "save": "loading",
}


def __getattr__(name: str) -> Any:
    """The names above on first use: listing plugins imports nothing of them."""
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"petaflop_quant.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
