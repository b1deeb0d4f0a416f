"""`petaflop quant encode | inspect | conform`: files of quantized tensors on the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from petaflop.plugin_api import ArgumentError, hookimpl

__all__ = ["configure", "run", "summary"]

summary = "encode a model's weights, look into a file of them, examine a format or an encoder"


@hookimpl
def petaflop_command(name: str) -> ModuleType | None:
    """This module is the command."""
    return sys.modules[__name__] if name == "quant" else None


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    encode = actions.add_parser("encode", help="write the tensors of a file in other formats")
    encode.add_argument("source", type=Path, metavar="FILE", help="a .safetensors or .gguf file")
    encode.add_argument("target", type=Path, metavar="FILE.gguf", help="where the tensors go")
    encode.add_argument("--format", metavar="NAME", help="the format of tensors that no rule speaks of")
    encode.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="PATTERN=FORMAT",
        help="the format of tensors whose names fit, such as '*.attn_v.*=q6_k'; the first that fits counts",
    )
    encode.add_argument("--bits", type=float, metavar="N", help="choose formats for N bits per weight in all")
    encode.add_argument("--encoder", default="search", metavar="NAME", help="default: search")
    encode.add_argument(
        "--importance", type=Path, metavar="FILE", help="what the encoder asks for, of each tensor's inputs"
    )
    inspect = actions.add_parser("inspect", help="list a file's tensors and what it says besides")
    inspect.add_argument("source", type=Path, metavar="FILE", help="a .gguf file, or .safetensors")
    conform = actions.add_parser("conform", help="hold a format or an encoder to the conformance suite")
    conform.add_argument("name", help="the format, or the encoder")
    conform.add_argument("--profile", default="quick", help="how many random examples: quick, full, soak")


def run(options: argparse.Namespace) -> int:
    """The exit code."""
    return int(_ACTIONS[options.action](options))


def _encode(options: argparse.Namespace) -> int:
    from petaflop.cli.files import check_writable, existing_file
    from petaflop_quant.choosing import quantize_all
    from petaflop_quant.importance import read_importance
    from petaflop_quant.loading import load, save
    from petaflop_quant.mixing import mixed

    rules = dict(_rule(text) for text in options.rule)
    if options.format:
        rules["*"] = options.format
    if bool(rules) == (options.bits is not None):
        raise ArgumentError("encode: expected either --format and --rule or --bits")
    existing_file(options.source)
    check_writable(options.target, "output")
    importance = read_importance(existing_file(options.importance)) if options.importance else None
    loaded = load(options.source)
    values = {name: _values(each) for name, each in loaded.items()}
    table: Any = rules or mixed(values, options.bits, importance)
    packed = quantize_all(values, table, options.encoder, importance)
    metadata = {**loaded.metadata, "petaflop.quant.encoder": options.encoder}
    save(options.target, packed, metadata)
    _print_tensors(packed)
    return 0


def _values(each: Any) -> Any:
    """Plain values; bfloat16 widened, as encoders take float32."""
    return each.numpy()


def _rule(text: str) -> tuple[str, str]:
    pattern, found, name = text.rpartition("=")
    if not found or not pattern or not name:
        raise ArgumentError(f"--rule: expected PATTERN=FORMAT, got {text!r}")
    return pattern, name


def _inspect(options: argparse.Namespace) -> int:
    from petaflop.cli.files import existing_file
    from petaflop_quant.loading import load

    loaded = load(existing_file(options.source))
    for key, value in loaded.metadata.items():
        text = " ".join(str(value.value).split())
        print(f"{key}: {text if len(text) <= 90 else text[:90] + '…'}")
    _print_tensors(loaded)
    return 0


def _print_tensors(tensors: Any) -> None:
    import math

    from petaflop.cli.tables import print_table

    rows, weights, total = [], 0, 0
    for name, each in tensors.items():
        scheme = getattr(each, "scheme", None)
        size = each.nbytes() if callable(each.nbytes) else each.nbytes
        count = math.prod(each.shape)
        weights, total = weights + count, total + size
        bits = f"{8 * size / count:.3f}" if count else "-"
        shape = " × ".join(map(str, each.shape))
        rows.append([name, scheme.name if scheme else str(each.dtype), shape, str(size), bits])
    print_table(["tensor", "format", "shape", "bytes", "bits per weight"], rows)
    print(f"{len(rows)} tensors, {total} bytes, {8 * total / max(weights, 1):.3f} bits per weight")


def _conform(options: argparse.Namespace) -> int:
    from petaflop.plugins.manager import plugin_manager

    manager = plugin_manager()
    kind = "encoder" if options.name in manager.names("encoder") else "scheme"
    command = manager.get("command", "conformance")
    parser = argparse.ArgumentParser()
    command.configure(parser)
    given = [options.name, "--kind", kind, "--profile", options.profile]
    return int(command.run(parser.parse_args(given)))


_ACTIONS = {"encode": _encode, "inspect": _inspect, "conform": _conform}
