"""What a plugin hands over is looked at once, in Python: the parts that its kind must have, its declarations.

Whether a declaration is true is the business of the conformance suite; here it must be complete, made of
names that exist, and come with the methods that it speaks of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

from petaflop.device.backend import Backend, Capabilities
from petaflop.dtype import DTYPES
from petaflop.errors import PluginError
from petaflop.ir.target import Target
from petaflop.plugins.command import Command
from petaflop.plugins.importer import Importer
from petaflop.plugins.scheme import Encoder, QuantScheme

__all__ = ["REQUIRED_DTYPES", "check"]

REQUIRED_DTYPES = ("float32", "int32", "bool")  # what core itself computes with
_IMPORTANCE = ("", "squares", "largest", "hessian")
_WAYS = ("native", "emulated")
_MEMORY = ("allocate", "copy_in", "copy_out")
_RENDER = ("render", "compile", "load")
_NEEDED_BY = {"replay": "capture", "unified_memory": "host_view"}  # a capability is a method, too


def check(kind: str, name: str, thing: object) -> None:
    """Raise PluginError, saying what is missing or wrong, unless `thing` is what the kind's hook promises."""
    wrong = _CHECKS[kind](name, thing)
    if wrong:
        raise PluginError(wrong)


def _backend(name: str, backend: object) -> str:
    if wrong := _is_named(backend, Backend, name, "a Backend"):
        return wrong
    assert isinstance(backend, Backend)
    return (
        _has_version(backend.version, str, name)
        or _capabilities(name, backend.capabilities)
        or _depth(name, backend)
    )


def _capabilities(name: str, declared: object) -> str:
    if not isinstance(declared, Capabilities):
        return f"{name}: expected capabilities, got {type(declared).__name__}"
    if unknown := sorted(map(str, set(declared.dtypes) - set(DTYPES))):
        return f"{name}: capabilities: unknown dtypes {', '.join(unknown)}; there are {', '.join(DTYPES)}"
    if missing := [dtype for dtype in REQUIRED_DTYPES if dtype not in declared.dtypes]:
        expected = ", ".join(REQUIRED_DTYPES)
        return f"{name}: capabilities: expected at least the dtypes {expected}; {', '.join(missing)} missing"
    for dtype, way in declared.dtypes.items():
        if way not in _WAYS:
            return f"{name}: capabilities: {dtype}: expected {' or '.join(_WAYS)}, got {way!r}"
    for field in fields(declared):
        value = getattr(declared, field.name)
        if field.name != "dtypes" and not isinstance(value, bool):
            return f"{name}: capabilities: {field.name}: expected True or False, got {value!r}"
    return ""


def _depth(name: str, backend: Backend) -> str:
    target = backend.target
    if target is not None and not isinstance(target, Target):
        return f"{name}: expected a Target or None, got {type(target).__name__}"
    if missing := _not_written(backend, Backend, _MEMORY):
        return f"{name}: expected the memory methods {', '.join(_MEMORY)}, {missing} missing"
    if target is None and _not_written(backend, Backend, ["interpret"]):
        return f"{name}: expected `interpret`, or a `target` with {', '.join(_RENDER)}; it has neither"
    if target is not None and (missing := _not_written(backend, Backend, _RENDER)):
        return f"{name}: expected {', '.join(_RENDER)}, since it has a target; {missing} missing"
    for capability, method in _NEEDED_BY.items():
        if getattr(backend.capabilities, capability) and _not_written(backend, Backend, [method]):
            return f"{name}: declares {capability}, but has no `{method}`"
    return ""


def _quant(name: str, scheme: object) -> str:
    if wrong := _is_named(scheme, QuantScheme, name, "a QuantScheme"):
        return wrong
    assert isinstance(scheme, QuantScheme)
    if missing := _not_written(scheme, QuantScheme, ["planes", "unpack", "dequantize"]):
        return f"{name}: expected planes, unpack and dequantize, {missing} missing"
    if scheme.can_pack and _not_written(scheme, QuantScheme, ["bound"]):
        return f"{name}: expected `bound`, since it has `pack`"
    if not isinstance(scheme.bits_per_weight, (int, float)) or not scheme.bits_per_weight > 0:
        return f"{name}: expected bits_per_weight above 0, got {scheme.bits_per_weight!r}"
    for size in scheme.block:
        if size is not None and not (isinstance(size, int) and size > 0):
            return f"{name}: block: expected sizes above 0 or None, got {scheme.block!r}"
    return _has_version(scheme.version, int, name)


def _encoder(name: str, encoder: object) -> str:
    if wrong := _is_named(encoder, Encoder, name, "an Encoder"):
        return wrong
    assert isinstance(encoder, Encoder)
    if _not_written(encoder, Encoder, ["encode"]):
        return f"{name}: expected `encode`"
    if encoder.importance not in _IMPORTANCE:
        known = ", ".join(map(repr, _IMPORTANCE))
        return f"{name}: importance: expected one of {known}, got {encoder.importance!r}"
    return _has_version(encoder.version, int, name)


def _command(name: str, command: object) -> str:
    if not isinstance(command, Command) or not isinstance(command.summary, str):
        return f"{name}: expected a summary, configure and run, got {type(command).__name__}"
    return ""


def _importer(name: str, importer: object) -> str:
    if not isinstance(importer, Importer):
        return f"{name}: expected an Importer with name, extensions and load, got {type(importer).__name__}"
    if not all(isinstance(each, str) and each.startswith(".") for each in importer.extensions):
        return f"{name}: extensions: expected such as '.onnx', got {importer.extensions!r}"
    return ""


_CHECKS: dict[str, Callable[[str, object], str]] = {
    "backend": _backend,
    "quant": _quant,
    "encoder": _encoder,
    "importer": _importer,
    "command": _command,
}


def _is_named(thing: object, kind: type, name: str, noun: str) -> str:
    if not isinstance(thing, kind):
        return f"{name}: expected {noun}, got {type(thing).__name__}"
    found = thing.name  # type: ignore[attr-defined]
    return "" if found == name else f"{name}: expected {noun} of that name, got one named {found!r}"


def _has_version(version: object, kind: type, name: str) -> str:
    fits = isinstance(version, kind) and not isinstance(version, bool) and version
    return (
        ""
        if fits
        else f"{name}: version: expected {kind.__name__}, got {version!r}: it is in every cache key"
    )


def _not_written(thing: object, base: type, methods: Sequence[str]) -> str:
    """Those of the methods that `thing` has from its base class only."""
    return ", ".join(
        method
        for method in methods
        if getattr(getattr(thing, method), "__func__", None) is getattr(base, method)
    )
