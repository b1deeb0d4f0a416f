"""The table of operators: (domain, name, since-version) → a few lines of Tensor code. Files in operators/
fill it.

A handler takes a Call (the node's attributes, with the defaults of ONNX filled in) and the node's inputs:
Tensors, None for an optional input that is absent, and NumPy arrays at the positions named by `host`, which
decide shapes. It returns one value, or a tuple where the node has several outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TABLE", "Call", "Operator", "nearest", "operator"]

Handler = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Operator:
    """One row: `host` positions arrive as arrays, `either` positions do where the value is a constant.

    `raw` rows take values as they flow (Tensor, Constant, list, None). `control` rows run bodies: they take
    (execution, step, inputs, values). `reads` rows have shapes that depend on data, so that no capture holds
    them. `on_host` rows are Python code throughout: what no kernel could do, such as text. `named` are
    attributes that name values of the graph.
    """

    name: str
    since: int
    handler: Handler
    host: frozenset[int] = frozenset()
    either: frozenset[int] = frozenset()
    raw: bool = False
    control: bool = False
    reads: bool = False
    on_host: bool = False
    named: tuple[str, ...] = ()


def _no_reading(_: Any) -> Any:
    raise AssertionError("only an execution lets handlers read")


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may know of its node besides its inputs; `device` is where the model runs.

    `read` gives the elements of a Tensor, where shapes depend on them: a graph that asks for it runs step by
    step.
    """

    name: str
    operator: str
    version: int
    attributes: Mapping[str, Any]
    output_count: int
    device: str | None = None
    read: Callable[[Any], Any] = _no_reading

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]

    def get(self, attribute: str, default: Any = None) -> Any:
        return self.attributes.get(attribute, default)


TABLE: dict[tuple[str, str, int], Operator] = {}


def operator(
    name: str,
    *since: int,
    host: tuple[int, ...] = (),
    either: tuple[int, ...] = (),
    domain: str = "",
    **kinds: Any,
) -> Callable[[Handler], Handler]:
    """Enter a handler for `name` at each of the since-versions at which it means the same."""

    def enter(handler: Handler) -> Handler:
        for version in since:
            row = Operator(name, version, handler, frozenset(host), frozenset(either), **kinds)
            assert (domain, name, version) not in TABLE, f"{name}-{version} is entered twice"
            TABLE[domain, name, version] = row
        return handler

    return enter


def nearest(domain: str, name: str, version: int) -> int | None:
    """The since-version nearest to `version` that the table has, for error messages."""
    known = [
        row.since
        for (row_domain, row_name, _), row in TABLE.items()
        if (row_domain, row_name) == (domain, name)
    ]
    return min(known, key=lambda since: abs(since - version), default=None)
