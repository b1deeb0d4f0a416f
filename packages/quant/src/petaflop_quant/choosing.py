"""Values to packed tensors: which format each gets, and which encoder chooses its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import numpy as np

from petaflop import Tensor
from petaflop.errors import ArgumentError, ShapeError
from petaflop.plugin_api import Encoder, QuantScheme
from petaflop.plugins.manager import plugin_manager
from petaflop_quant.tensor import QuantTensor

__all__ = ["FLOAT", "encoder_named", "format_for", "format_named", "quantize", "quantize_all"]

Array: TypeAlias = np.ndarray[Any, Any]
FLOAT = "float"  # in rules: the tensor stays as it is


def format_named(name: str) -> QuantScheme:
    """The format of a plugin, ours or another's; PluginError if none offers it."""
    found: QuantScheme = plugin_manager().get("quant", name)
    return found


def encoder_named(name: str) -> Encoder:
    """The encoder of a plugin, ours or another's; PluginError if none offers it."""
    found: Encoder = plugin_manager().get("encoder", name)
    return found


def format_for(name: str, shape: tuple[int, ...]) -> QuantScheme | None:
    """The format of that name, or the first of its fallbacks that such a shape fits; None: stay floats."""
    tried = []
    while name and name not in tried:
        tried.append(name)
        scheme = format_named(name)
        try:
            scheme.check_shape(shape)
            return scheme
        except ShapeError:
            name = scheme.fallback
    return None


def quantize(values: Any, format: str, encoder: str = "rtn", importance: Array | None = None) -> QuantTensor:
    """A tensor packed in a format: `values` are an array or a Tensor of floats.

    `importance` is what the encoder asks for of the inputs that the last axis meets (`Encoder.importance`).
    ShapeError for a shape that the format does not take, ArgumentError for NaN and infinity.

    >>> quantize(np.ones((4, 64), np.float32), "q8_0")
    <QuantTensor q8_0[4, 64], 272 bytes>
    """
    array = values.numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    scheme, chosen = format_named(format), encoder_named(encoder)
    if not chosen.supports(scheme):
        raise ArgumentError(f"quantize: expected a format that {encoder} can choose bytes of, got {format}")
    factors = chosen.factors(scheme, array, importance)
    if factors is not None:
        array = array * factors
        importance = divided(importance, factors, chosen.importance)
    planes = chosen.encode(scheme, array, importance)
    return QuantTensor(scheme, dict(planes), array.shape, factors)


def divided(importance: Array | None, factors: Array, kind: str) -> Array | None:
    """What is known of inputs, once they are divided by factors."""
    if importance is None:
        return None
    if kind == "hessian":
        return importance / np.outer(factors, factors)
    return importance / (factors if kind == "largest" else factors**2)


def quantize_all(
    tensors: Mapping[str, Any],
    rules: Mapping[str, str] | str,
    encoder: str = "rtn",
    importance: Mapping[str, Array] | None = None,
) -> dict[str, Any]:
    """Tensors by name, each packed as the first rule says whose pattern fits its name.

    `rules` are patterns with formats, `{"*.attn_v.*": "q6_k", "*": "q4_k"}`, or one format for all; "float"
    leaves a tensor alone, and so do fewer than two axes, a name that no pattern fits and a shape that neither
    the format nor its fallbacks take.

    >>> packed = quantize_all({"a.weight": np.ones((2, 64), np.float32)}, {"*.weight": "q8_0"})
    >>> packed["a.weight"].scheme.name
    'q8_0'
    """
    table = {"*": rules} if isinstance(rules, str) else rules
    result: dict[str, Any] = {}
    for name, values in tensors.items():
        wanted = next((each for pattern, each in table.items() if fnmatchcase(name, pattern)), FLOAT)
        shape = tuple(values.shape)
        scheme = None if wanted == FLOAT or len(shape) < 2 else format_for(wanted, shape)
        if scheme is None:
            result[name] = values
            continue
        known = (importance or {}).get(name)
        result[name] = quantize(values, scheme.name, encoder, known)
    return result
