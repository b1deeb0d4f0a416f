"""The plugin API is a promise: its names and signatures are a golden file, a change of which is a decision.

After such a decision: `cd packages/core/tests && python test_plugin_api.py > golden/plugin_api.txt`
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from petaflop import plugin_api

GOLDEN = Path(__file__).parent / "golden" / "plugin_api.txt"


def described(name: str, thing: object) -> Iterator[str]:
    """One name of the API: a function's signature, a class's fields and methods, a module's names."""
    if inspect.isclass(thing):
        yield from described_class(name, thing)
    elif inspect.isfunction(thing):
        yield f"def {name}{inspect.signature(thing)}"
    elif isinstance(thing, ModuleType):
        for each in sorted(thing.__all__):
            yield from described(f"{name}.{each}", getattr(thing, each))
    elif isinstance(thing, types.UnionType) or typing.get_origin(thing) is not None:
        yield f"type {name}"  # how it prints differs between versions of Python
    elif name.endswith("_VERSION"):
        yield f"{name} = {thing}"
    else:
        yield f"{name}: {type(thing).__name__}"


def described_class(name: str, thing: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in thing.__bases__ if base is not object)
    yield f"class {name}({bases})"
    if issubclass(thing, enum.Enum):
        yield f"    {' '.join(thing.__members__)}"
    if dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            optional = (
                field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            )
            yield f"    {field.name}: {field.type}{' = ...' if optional else ''}"
    elif not hasattr(thing, "_fields"):
        for attribute, kind in sorted(inspect.get_annotations(thing).items()):
            if not attribute.startswith("_"):
                is_set = attribute in vars(thing) and not inspect.isdatadescriptor(vars(thing)[attribute])
                yield f"    {attribute}: {kind}{' = ...' if is_set else ''}"
    for field_name in getattr(thing, "_fields", ()):
        kind = thing.__annotations__[field_name]
        kind = getattr(kind, "__forward_arg__", kind)
        has_default = field_name in vars(thing)["_field_defaults"]
        yield f"    {field_name}: {kind}{' = ...' if has_default else ''}"
    for method, function in sorted(vars(thing).items()):
        if inspect.isfunction(function) and (not method.startswith("_") or method == "__call__"):
            yield f"    def {method}{inspect.signature(function)}"
        elif isinstance(function, property) and not method.startswith("_"):
            yield f"    property {method}"


def api() -> str:
    lines = [line for name in plugin_api.__all__ for line in described(name, getattr(plugin_api, name))]
    return "\n".join(lines) + "\n"


def test_signatures_are_as_promised() -> None:
    expected = GOLDEN.read_text().splitlines()
    found = api().splitlines()
    assert [line for line in found if line not in expected] == []
    assert [line for line in expected if line not in found] == []
    assert found == expected


def test_names_are_sorted_and_complete() -> None:
    tree = ast.parse(Path(plugin_api.__file__).read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(plugin_api.__all__) == imported
    assert len(plugin_api.__all__) == len(imported)


if __name__ == "__main__":
    print(api(), end="")
