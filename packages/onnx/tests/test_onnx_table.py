"""The table of operators against ONNX's own definitions. No device."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import defs

import petaflop_onnx.operators  # noqa: F401 - fills the table
from petaflop_onnx.host import FOLD
from petaflop_onnx.schemas import MICROSOFT, schema_of
from petaflop_onnx.table import TABLE, nearest


def _versions() -> set[tuple[str, str, int]]:
    known = {
        (schema.domain, schema.name, schema.since_version) for schema in defs.get_all_schemas_with_history()
    }
    return known | {key for key in TABLE if key[0] == MICROSOFT and schema_of(*key) is not None}


def test_every_registered_version_exists() -> None:
    assert set(TABLE) <= _versions()


def test_host_positions_exist() -> None:
    for (domain, name, since), row in TABLE.items():
        schema = schema_of(domain, name, since)
        assert all(0 <= position < schema.max_input for position in row.host | row.either), (name, since)


def test_required_attributes_are_known_to_the_schema() -> None:
    assert {name for _, name, _ in TABLE} >= set(FOLD)


def test_the_operators_of_the_named_models_have_all_current_versions() -> None:
    """A model that an exporter writes with the newest operator set finds the common operators."""
    common = "Add Mul Sub Div MatMul Gemm Conv Relu Reshape Transpose Softmax Concat Slice Gather Cast Expand"
    for name in common.split():
        newest = defs.get_schema(name, 25, "").since_version
        assert ("", name, newest) in TABLE, (name, newest)


def test_nearest_names_the_closest_version() -> None:
    assert nearest("", "Softmax", 12) == 11 or nearest("", "Softmax", 12) == 13
    assert nearest("", "NoSuchOperator", 1) is None
    assert onnx.defs.onnx_opset_version() >= 18


def test_the_readme_lists_what_runs_on_the_host() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    section = text.partition("## What runs on the host")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")][1:]
    listed = {name.strip() for row in rows for name in row.split(",")}
    assert listed == {row.name for row in TABLE.values() if row.on_host}
