"""What petaflop finds through the entry point."""

from __future__ import annotations

from petaflop.plugin_api import QuantScheme, hookimpl


@hookimpl
def petaflop_quant_scheme(name: str) -> QuantScheme | None:
    """The format, when it is used for the first time."""
    if name != "example_q8":
        return None
    from petaflop_example_q8.scheme import ExampleQ8

    return ExampleQ8()
