"""What ONNX's own definitions say of an operator's inputs: which may be absent, and which types each takes.

A handler may then rely on it: sizes are integers, and what shares a type variable is of one dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from onnx import TensorProto, defs

from petaflop_onnx.tensors import DTYPES

__all__ = ["Formal", "aligned", "check_dtypes", "formals_of"]

_Option = defs.OpSchema.FormalParameterOption
_SPELLED: Mapping[int, str] = {
    TensorProto.FLOAT: "float",
    TensorProto.DOUBLE: "double",
    TensorProto.FLOAT8E4M3FN: "float8e4m3fn",
    TensorProto.FLOAT8E5M2: "float8e5m2",
}
# NumPy's name of a dtype -> ONNX's spelling of the type
_TYPES: Mapping[str, str] = {
    dtype.name: f"tensor({_SPELLED.get(number, TensorProto.DataType.Name(number).lower())})"
    for number, dtype in DTYPES.items()
}


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
    schema = defs.get_schema(name, since, domain)
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


def check_dtypes(formals: Sequence[Formal], dtypes: Sequence[str | None]) -> None:
    """ValueError unless the operator takes the dtypes, given by NumPy's names; None is an absent input."""
    bound: dict[str, tuple[str, str]] = {}
    for formal, dtype in aligned(formals, dtypes):
        if dtype is None:
            continue
        if _TYPES[dtype] not in formal.types:
            expected = ", ".join(sorted(name for name, text in _TYPES.items() if text in formal.types))
            raise ValueError(f"{formal.name}: expected a tensor of {expected or 'another kind'}, got {dtype}")
        if formal.variable:
            first, before = bound.setdefault(formal.variable, (formal.name, dtype))
            if before != dtype:
                raise ValueError(f"{formal.name}: expected {before} as in {first}, got {dtype}")
