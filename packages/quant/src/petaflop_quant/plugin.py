"""The entry points of formats and encoders; what is behind a name is imported when it is asked for."""

from __future__ import annotations

from petaflop.plugin_api import Encoder, QuantScheme, hookimpl

__all__ = ["petaflop_encoder", "petaflop_quant_scheme"]


@hookimpl
def petaflop_quant_scheme(name: str) -> QuantScheme | None:
    """The format of that name."""
    from petaflop_quant.registry import FORMATS, own_format

    return own_format(name) if name in FORMATS else None


@hookimpl
def petaflop_encoder(name: str) -> Encoder | None:
    """The encoder of that name."""
    from petaflop_quant.registry import ENCODERS, own_encoder

    return own_encoder(name) if name in ENCODERS else None
