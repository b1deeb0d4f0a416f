"""Sample models: described completely, checked when called, the same each time, and refused in part."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petaflop.dtype import DType
from petaflop.errors import PetaflopError
from petaflop.plugins.importer import ImportedModel, Importer, TensorSpec
from petaflop_conformance.hostile import refused, truncated
from petaflop_conformance.values import ordinary

pytestmark = pytest.mark.level("model")

Array = np.ndarray[Any, Any]
SIZE = 2  # of every axis that may vary


def shape_of(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else SIZE for size in spec.shape or ())


def inputs_of(model: ImportedModel, *key: object) -> dict[str, Array]:
    """Made-up arrays; integers are 0 and 1, since they may be positions."""
    made = {}
    for spec in model.inputs:
        if not spec.optional:
            array = ordinary(spec.dtype, shape_of(spec), spec.name, *key)
            made[spec.name] = array if spec.dtype.is_float else (array % 2).astype(spec.dtype.numpy)
    return made


def outputs_of(model: ImportedModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: value.numpy() for name, value in model(inputs).items()}


def test_specs_are_complete(importer: Importer, samples: list[Path]) -> None:
    """Every input and output has a name of its own, a dtype and a shape whose sizes are numbers or names."""
    for path in samples:
        model = importer.load(path, "reference")
        for specs in (model.inputs, model.outputs):
            names = [spec.name for spec in specs]
            assert len(set(names)) == len(names) and all(names), names
            for spec in specs:
                assert isinstance(spec, TensorSpec) and isinstance(spec.dtype, DType)
                assert spec.shape is None or all(
                    isinstance(size, (int, str, type(None))) for size in spec.shape
                )
        assert model.outputs, f"{path}: expected outputs"


def test_outputs_are_as_described(importer: Importer, samples: list[Path]) -> None:
    for path in samples:
        model = importer.load(path, "reference")
        outputs = outputs_of(model, inputs_of(model))
        assert set(outputs) == {spec.name for spec in model.outputs}
        for spec in model.outputs:
            got = outputs[spec.name]
            assert got.dtype == spec.dtype.numpy, f"{path}: {spec}: got {got.dtype}"
            if spec.shape is not None:
                assert got.ndim == len(spec.shape), f"{path}: {spec}: got {list(got.shape)}"
                for size, actual in zip(spec.shape, got.shape, strict=True):
                    assert not isinstance(size, int) or size == actual, (
                        f"{path}: {spec}: got {list(got.shape)}"
                    )


def test_deterministic(importer: Importer, samples: list[Path]) -> None:
    """The same bits at the second call, from a second load, and after other inputs."""
    for path in samples:
        model = importer.load(path, "reference")
        inputs = inputs_of(model)
        first = outputs_of(model, inputs)
        outputs_of(model, inputs_of(model, "other"))
        for again in (outputs_of(model, inputs), outputs_of(importer.load(path, "reference"), inputs)):
            assert {n: a.tobytes() for n, a in again.items()} == {n: a.tobytes() for n, a in first.items()}


def test_wrong_inputs_are_refused(importer: Importer, samples: list[Path]) -> None:
    """One missing, one too many, another dtype, another rank: typed errors that name the input."""
    for path in samples:
        model = importer.load(path, "reference")
        inputs = inputs_of(model)
        if not inputs:
            continue
        name, array = next(iter(inputs.items()))
        other = array.astype(np.int32) if array.dtype.kind == "f" else array.astype(np.float32)
        wrong = {
            "missing": {each: value for each, value in inputs.items() if each != name},
            "too many": {**inputs, "petaflop_extra": array},
            "dtype": {**inputs, name: other},
            "rank": {**inputs, name: array[None]},
        }
        if next(spec for spec in model.inputs if spec.name == name).shape is None:
            del wrong["rank"]
        for what, arrays in wrong.items():
            with pytest.raises(PetaflopError) as caught:
                outputs_of(model, arrays)
            assert name in str(caught.value) or "petaflop_extra" in str(caught.value), (what, caught.value)


def test_parts_of_a_file_are_refused(importer: Importer, samples: list[Path], tmp_path: Path) -> None:
    for path in samples:
        for what, content in truncated(path.read_bytes()):
            part = tmp_path / f"part{path.suffix}"
            refused(part, content, lambda each: importer.load(each, "reference"), f"{path.name}: {what}")


def test_damaged_files_crash_nothing(importer: Importer, samples: list[Path], tmp_path: Path) -> None:
    """A byte changed here and there: a model, or a typed error."""
    random = np.random.default_rng(0)
    for path in samples:
        data = path.read_bytes()
        for _ in range(20):
            damaged = bytearray(data)
            for position in random.integers(0, len(data), 3):
                damaged[int(position)] = int(random.integers(256))
            part = tmp_path / f"damaged{path.suffix}"
            part.write_bytes(damaged)
            with contextlib.suppress(PetaflopError):
                importer.load(part, "reference")
