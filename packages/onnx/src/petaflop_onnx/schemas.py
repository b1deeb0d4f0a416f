"""Definitions of operators: ONNX's own, and those that it has not because others made them up."""

from __future__ import annotations

from typing import Any

from onnx import defs
from onnx.defs import OpSchema

__all__ = ["MICROSOFT", "schema_of"]

MICROSOFT = "com.microsoft"
_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
_Option = OpSchema.FormalParameterOption


def _input(name: str, variable: str, optional: bool = False) -> Any:
    option = _Option.Optional if optional else _Option.Single
    return OpSchema.FormalParameter(name, variable, param_option=option)


def _attribute(name: str, default: int | None = None) -> Any:
    if default is None:
        return OpSchema.Attribute(name, OpSchema.AttrType.INT, "", required=True)
    return OpSchema.Attribute(name, _made(name, default))


def _made(name: str, value: int) -> Any:
    from onnx import helper

    return helper.make_attribute(name, value)


_OTHERS = {
    (schema.domain, schema.name): schema
    for schema in (
        OpSchema(
            "MatMulNBits",
            MICROSOFT,
            1,
            "A · Bᵀ, where B is [N, blocks, bytes] of codes, low bits first, of blocks of a row.",
            inputs=[
                _input("A", "T1"),
                _input("B", "T2"),
                _input("scales", "T1"),
                _input("zero_points", "T3", optional=True),
                _input("g_idx", "T4", optional=True),
                _input("bias", "T1", optional=True),
            ],
            outputs=[OpSchema.FormalParameter("Y", "T1")],
            type_constraints=[
                ("T1", _FLOATS, ""),
                ("T2", ["tensor(uint8)"], ""),
                ("T3", ["tensor(uint8)", *_FLOATS], ""),
                ("T4", ["tensor(int32)"], ""),
            ],
            attributes=[
                _attribute("K"),
                _attribute("N"),
                _attribute("bits", 4),
                _attribute("block_size"),
                _attribute("accuracy_level", 0),
                _attribute("weight_prepacked", 0),
            ],
        ),
    )
}


def schema_of(domain: str, name: str, version: int) -> Any:
    """The definition that an operator set of this version has; None where there is none."""
    if (other := _OTHERS.get((domain, name))) is not None:
        return other if version >= other.since_version else None
    if not defs.has(name, domain):
        return None
    try:
        return defs.get_schema(name, min(version, (1 << 31) - 1), domain)
    except defs.SchemaError:
        return None
