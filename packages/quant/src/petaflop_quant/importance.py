"""What is known of the inputs that each tensor meets: collected from samples, or read from a file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from petaflop.errors import ArgumentError, FileFormatError
from petaflop_quant.files import gguf
from petaflop_quant.files.gguf_header import TYPES

__all__ = ["Collector", "read_importance"]

Array: TypeAlias = np.ndarray[Any, Any]


class Collector:
    """Adds up what encoders ask for over samples of inputs.

    >>> collector = Collector(hessian=True)
    >>> collector.add("layer.weight", np.ones((5, 3)))
    >>> collector.of("squares")["layer.weight"].tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, hessian: bool = False) -> None:
        self._hessian = hessian
        self._counts: dict[str, int] = {}
        self._sums: dict[str, Array] = {}
        self._largest: dict[str, Array] = {}

    def add(self, name: str, inputs: Any) -> None:
        """Inputs [..., K] of the tensor of that name."""
        rows = np.asarray(inputs, np.float64).reshape(-1, np.shape(inputs)[-1])
        if not np.isfinite(rows).all():
            raise ArgumentError(f"importance of {name}: expected finite inputs, got NaN or infinity")
        new = rows.T @ rows if self._hessian else (rows**2).sum(0)
        largest = np.abs(rows).max(0, initial=0)
        if name in self._sums:
            new, largest = new + self._sums[name], np.maximum(largest, self._largest[name])
        self._sums[name], self._largest[name] = new, largest
        self._counts[name] = self._counts.get(name, 0) + len(rows)

    def of(self, kind: str) -> dict[str, Array]:
        """By tensor name: "squares", "largest" or "hessian", as `Encoder.importance` names them."""
        if kind == "largest":
            return dict(self._largest)
        means = {name: total / max(self._counts[name], 1) for name, total in self._sums.items()}
        if kind == "squares":
            return {name: np.diag(mean).copy() if mean.ndim == 2 else mean for name, mean in means.items()}
        if kind == "hessian" and self._hessian:
            return means
        raise ArgumentError(f"importance: expected what was collected, got {kind!r}")


def read_importance(path: Path) -> Mapping[str, Array]:
    """By tensor name, of a .npz file of arrays, or of an importance matrix in a .gguf file."""
    if path.suffix.lower() == ".gguf":
        return dict(_matrix(path))
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{path}: expected an importance file (.npz or .gguf), got: {error}") from error


def _matrix(path: Path) -> Iterable[tuple[str, Array]]:
    """Sums of squares `NAME.in_sum2` over `NAME.counts`; of several experts the mean."""
    with gguf.opened(path) as file:
        plain = {e.name: e for e in file.header.entries if TYPES[e.type].name == "F32"}
        for name, entry in plain.items():
            tensor, _, kind = name.rpartition(".")
            if kind != "in_sum2":
                continue
            if f"{tensor}.counts" not in plain:
                raise FileFormatError(f"{path}: expected {tensor}.counts beside {name}, got none")
            sums = file.values(entry).astype(np.float64)
            counts = file.values(plain[f"{tensor}.counts"]).astype(np.float64).reshape(-1, 1)
            rows = sums.reshape(len(counts), -1) / np.maximum(counts, 1)
            yield tensor, rows.mean(0)
