"""petaflop: a dozen primitive operations, a lazy scheduler that fuses them, backends that are plugins."""

__version__ = "0.1.0"
