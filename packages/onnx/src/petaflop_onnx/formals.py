"""What ONNX's own definitions say of an operator's inputs: which may be absent, and which types each takes.

A handler may then rely on it: sizes are integers, and what shares a type variable is of one type.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from onnx import defs

from petaflop_onnx.schemas import schema_of
from petaflop_onnx.values import TYPE_NAMES

__all__ = ["Formal", "aligned", "check_types", "formals_of"]

_Option = defs.OpSchema.FormalParameterOption


class Formal(NamedTuple):
    """One formal input; `variable` is its type variable where it must agree with others, else ""."""

    name: str
    variable: str
    types: frozenset[str]
    optional: bool
    variadic: bool


@functools.cache
def formals_of(domain: str, name: str, since: int) -> tuple[Formal, ...]:
    """The formal inputs of an operator, as of one version."""
    schema = schema_of(domain, name, since)
    return tuple(
        Formal(
            formal.name,
            formal.type_str if formal.is_homogeneous and "(" not in formal.type_str else "",
            frozenset(formal.types),
            formal.option == _Option.Optional,
            formal.option == _Option.Variadic,
        )
        for formal in schema.inputs
    )


def aligned(formals: Sequence[Formal], inputs: Iterable[Any]) -> Iterator[tuple[Formal, Any]]:
    """Each input with its formal one; the last is repeated where it is variadic."""
    for position, given in enumerate(inputs):
        if position < len(formals):
            yield formals[position], given
        elif formals and formals[-1].variadic:
            yield formals[-1], given


def check_types(formals: Sequence[Formal], types: Sequence[str]) -> None:
    """ValueError unless the operator takes these types, in ONNX's spelling; "" is absent or not known."""
    bound: dict[str, tuple[str, str]] = {}
    for formal, text in aligned(formals, types):
        if not text:
            continue
        if text not in formal.types and f"optional({text})" not in formal.types:
            expected = ", ".join(sorted(name for kind, name in TYPE_NAMES.items() if kind in formal.types))
            got = TYPE_NAMES.get(text, text)
            raise ValueError(f"{formal.name}: expected a tensor of {expected or 'another kind'}, got {got}")
        if formal.variable:
            first, before = bound.setdefault(formal.variable, (formal.name, text))
            if before != text:
                expected, got = TYPE_NAMES.get(before, before), TYPE_NAMES.get(text, text)
                raise ValueError(f"{formal.name}: expected {expected} as in {first}, got {got}")
