"""Quantized weights: what their bytes mean, how the bytes are chosen, and the files that hold them."""

__all__: list[str] = []
__version__ = "0.1.0"
