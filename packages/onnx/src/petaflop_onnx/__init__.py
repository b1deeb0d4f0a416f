"""ONNX in and out: a model file becomes a callable from arrays to tensors, a function of tensors a file."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petaflop_onnx.exporter.front import export
    from petaflop_onnx.model import Model, load

__all__ = ["Model", "export", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load` and the others on first use: naming the plugin must not import onnx."""
    if name == "export":
        from petaflop_onnx.exporter.front import export

        return export
    if name in __all__:
        from petaflop_onnx import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
