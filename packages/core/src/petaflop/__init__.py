"""petaflop: deep learning on any chip, from a dozen operations."""

__version__ = "0.1.0"
