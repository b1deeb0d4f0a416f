"""petaflop's ONNX importer: a model file becomes a callable from arrays to tensors."""

__version__ = "0.1.0"
