"""GGUF's Q8_0 as a quantization format of petaflop."""
