"""The formats and encoders of this package by name; each is made once, when it is first asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from petaflop.plugin_api import Encoder, QuantScheme

__all__ = ["ENCODERS", "FORMATS", "GGUF_FORMATS", "own_encoder", "own_format"]

_FORMATS = {
    "plain": ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    "two_level": ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    "table": ("IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"),
    "rows": ("INT8_ROW", "FP8_E4M3"),
    "groups": ("GPTQ", "AWQ", "PACKED_INT"),
    "floats": ("NF4", "NVFP4_PACKED"),
}
FORMATS = {each.lower(): (module, each) for module, names in _FORMATS.items() for each in names}
GGUF_FORMATS = {
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    10: "q2_k",
    11: "q3_k",
    12: "q4_k",
    13: "q5_k",
    14: "q6_k",
    20: "iq4_nl",
    23: "iq4_xs",
    39: "mxfp4",
    40: "nvfp4",
}
ENCODERS = {
    "rtn": ("nearest", "RoundToNearest"),
    "search": ("search", "Search"),
    "gptq": ("gptq", "GPTQ"),
    "awq": ("factors", "AWQ"),
    "smoothquant": ("factors", "SmoothQuant"),
    "hqq": ("hqq", "HQQ"),
}


@cache
def own_format(name: str) -> QuantScheme:
    """A format of this package."""
    module, kind = FORMATS[name]
    made: QuantScheme = getattr(import_module(f"petaflop_quant.formats.{module}"), kind)()
    return made


@cache
def own_encoder(name: str) -> Encoder:
    """An encoder of this package."""
    module, kind = ENCODERS[name]
    made: Encoder = getattr(import_module(f"petaflop_quant.encoders.{module}"), kind)()
    return made
