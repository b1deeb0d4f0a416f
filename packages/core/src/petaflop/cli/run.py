"""`petaflop run MODEL --input name=file.npy … --output out.npz`: a model file in, arrays out."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from petaflop.cli.files import check_names, check_writable, write_npz
from petaflop.cli.models import add_device_argument, load_model, made_up_inputs, open_device, read_inputs
from petaflop.cli.tables import print_table
from petaflop.errors import ArgumentError
from petaflop.plugins.importer import ExplainedModel

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, help="a model file, such as model.onnx")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="an input by name; a model with one input needs no name",
    )
    parser.add_argument("--output", type=Path, metavar="FILE.npz", help="where the outputs go, by name")
    parser.add_argument(
        "--importer", default="", metavar="NAME", help="importer to use, whatever the extension"
    )
    parser.add_argument(
        "--bench", action="store_true", help="time the model, and its kernels against the machine"
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="say what became of each node; without --input on made-up inputs",
    )
    add_device_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Run the model once; nothing is written unless all went well."""
    if options.output is not None:
        _check_output(options.output)
    device = open_device(options.device)
    model = load_model(options.model, options.importer, device)
    if options.output is not None:
        check_names(options.output, (spec.name for spec in model.outputs))
    if options.explain and not isinstance(model, ExplainedModel):
        raise ArgumentError(f"--explain: expected a model whose importer explains it, got {options.model}")
    if options.explain and not options.input:
        inputs = made_up_inputs(model.inputs, {})
    else:
        inputs = read_inputs(model.inputs, options.input, options.model)
    outputs = model(inputs)
    arrays = {spec.name: outputs[spec.name].numpy() for spec in model.outputs}
    if options.output is not None:
        write_npz(options.output, arrays)
    _print(arrays)
    if options.explain and isinstance(model, ExplainedModel):
        _explain(model)
    if options.bench:
        from petaflop.cli.bench import bench_model

        bench_model(model, inputs, device)
    return 0


def _explain(model: ExplainedModel) -> None:
    """The counts, then a line for each node."""
    rows = model.explain()
    counts = Counter(fate for _, _, fate in rows)
    print("\n" + ", ".join(f"{count} {fate}" for fate, count in counts.most_common()) + "\n")
    print_table(("node", "operator", "what became of it"), rows)


def _check_output(path: Path) -> None:
    if path.suffix != ".npz":
        raise ArgumentError(f"--output: expected a file that ends in .npz, got {str(path)!r}")
    check_writable(path, "--output")


def _print(arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    for name, array in arrays.items():
        shape = ", ".join(map(str, array.shape))
        preview = np.array2string(array.reshape(-1)[:6], precision=5, separator=", ", suppress_small=True)
        more = " …" if array.size > 6 else ""
        shown = (
            name if name.isprintable() else repr(name)
        )  # the file chose it: nothing for the terminal to obey
        print(f"{shown}: {array.dtype}[{shape}] {preview}{more}")
