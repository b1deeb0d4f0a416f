"""Whole ONNX models, replayed, against onnxruntime on equal threads, from NumPy arrays to NumPy arrays;
batches of 1 and 8 where the graph has a batch. How long they take to start, and their memory: startup.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from _bench import Bar, Case, main
from _models import batches, feeds, graph_names, model, session, truth

import petaflop_onnx

BARS = {"model": Bar(0.85, 1.0)}
ERROR = 1e-5  # of the largest true value; both sides are held to it


def whole(name: str, batch: int, folder: Path) -> Case:
    path = folder / f"{name}.onnx"
    path.write_bytes(model(name).SerializeToString())
    given = feeds(name, batch)
    theirs, ours = session(path, torch.get_num_threads()), petaflop_onnx.load(path)
    return Case(
        f"{name}, batch {batch}",
        "model",
        lambda: [value.numpy() for value in ours(given).values()],
        {"onnxruntime": lambda: theirs.run(None, given)},
        lambda: truth(name, batch),
        error=ERROR,
    )


def rows() -> Iterator[tuple[str, int]]:
    """The graphs with their batches."""
    for name in graph_names():
        for batch in batches(name):
            yield name, batch


def cases() -> Iterator[Case]:
    with tempfile.TemporaryDirectory(prefix="petaflop-") as folder:
        for name, batch in rows():
            yield whole(name, batch, Path(folder))


if __name__ == "__main__":
    main("models", cases, BARS)
