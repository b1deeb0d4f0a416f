"""The bytes that an encoder chooses: planes of the format, the same each time, no worse than the nearest."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from petaflop.errors import PetaflopError
from petaflop.plugins.scheme import Encoder, QuantScheme
from petaflop_conformance.suite_encoder.conftest import shape_for
from petaflop_conformance.values import generator

pytestmark = pytest.mark.level("choice")

Array = np.ndarray[Any, Any]
_MOST_OVER = {"": 1.0, "squares": 1.0, "hessian": 1.0, "largest": 2.0}  # over the error of the nearest codes


def values_of(scheme: QuantScheme, *key: object, least: int = 64) -> Array:
    shape = shape_for(scheme, least=least)
    return generator(scheme.name, *key).standard_t(5, shape).astype(np.float32)


def inputs_of(columns: int, *key: object) -> Array:
    """Inputs of which some are much larger than others, and that depend on each other."""
    random = generator("inputs", columns, *key)
    mixed = random.standard_normal((4 * columns, columns)) @ random.standard_normal((columns, columns))
    return mixed / np.sqrt(columns) * np.exp(random.standard_normal(columns))


def importance_of(encoder: Encoder, inputs: Array) -> Array | None:
    if encoder.importance == "squares":
        return (inputs**2).mean(0)
    if encoder.importance == "largest":
        return np.abs(inputs).max(0)
    return inputs.T @ inputs / len(inputs) if encoder.importance == "hessian" else None


def kept(encoder: Encoder, scheme: QuantScheme, values: Array, importance: Array | None = None) -> Array:
    """The values that the planes stand for, as who reads them sees them."""
    factors = encoder.factors(scheme, values, importance)
    if factors is None:
        planes = encoder.encode(scheme, values, importance)
    else:
        assert factors.dtype == np.float32 and factors.shape == values.shape[-1:]
        assert (factors > 0).all() and np.isfinite(factors).all()
        if importance is not None:
            square = factors**2 if importance.ndim == 1 else np.outer(factors, factors)
            importance = importance / (factors if encoder.importance == "largest" else square)
        planes = encoder.encode(scheme, values * factors, importance)
    scheme.check_planes(planes, values.shape)
    found = scheme.unpack(planes, values.shape)
    return found if factors is None else found / factors


def output_error(inputs: Array, values: Array, found: Array) -> float:
    """How much a product with these inputs changes."""
    return float(np.linalg.norm(inputs @ (found.astype(np.float64) - values).T))


def test_declarations(encoder: Encoder, encoder_name: str, formats: list[QuantScheme]) -> None:
    assert encoder.name == encoder_name
    assert isinstance(encoder.version, int) and encoder.version >= 1
    assert formats


def test_planes_are_those_of_the_format(encoder: Encoder, formats: list[QuantScheme]) -> None:
    """For values of float32 and float64, with importance and without."""
    for scheme in formats:
        values = values_of(scheme, "planes")
        for each in (values, values.astype(np.float64)):
            for importance in (None, importance_of(encoder, inputs_of(values.shape[-1]))):
                with warnings.catch_warnings():
                    warnings.simplefilter("error", RuntimeWarning)
                    assert np.isfinite(kept(encoder, scheme, each, importance)).all()


def test_deterministic(encoder: Encoder, formats: list[QuantScheme]) -> None:
    """The same bytes each time, however the values lie in memory, and the values are left alone."""
    for scheme in formats:
        values = values_of(scheme, "again")
        importance = importance_of(encoder, inputs_of(values.shape[-1]))
        before = values.copy()
        strided = np.repeat(values[..., None], 2, -1)[..., 0]
        first, *others = (encoder.encode(scheme, each, importance) for each in (values, values, strided))
        assert values.tobytes() == before.tobytes()
        for planes in others:
            for name, plane in first.items():
                assert planes[name].tobytes() == plane.tobytes(), f"{scheme.name}: {name}"


def test_no_worse_than_the_nearest_codes(encoder: Encoder, formats: list[QuantScheme]) -> None:
    """What a product changes by, against that of the format's own `pack`."""
    for scheme in [each for each in formats if each.can_pack]:
        values = values_of(scheme, "error")
        inputs = inputs_of(values.shape[-1]) if encoder.importance else np.eye(values.shape[-1])
        nearest = output_error(inputs, values, scheme.unpack(scheme.pack(values), values.shape))
        chosen = output_error(inputs, values, kept(encoder, scheme, values, importance_of(encoder, inputs)))
        assert chosen <= nearest * _MOST_OVER[encoder.importance] * 1.001, (
            f"{scheme.name}: {chosen / nearest:.3f} times"
        )


def test_edges(encoder: Encoder, formats: list[QuantScheme]) -> None:
    """Zeros stay zeros; constants, one outlier and tiny numbers give numbers no further away than zeros."""
    for scheme in formats:
        values = values_of(scheme, "edges")
        outlier = values.copy()
        outlier[0, 0] = 1e4
        for each in (
            values * 0,
            np.full_like(values, 0.1),
            outlier,
            values * np.float32(1e-30),
            -abs(values),
        ):
            importance = importance_of(encoder, inputs_of(values.shape[-1], "edges"))
            found = kept(encoder, scheme, each, importance)
            assert np.isfinite(found).all()
            limit = np.linalg.norm(each.astype(np.float64))
            assert np.linalg.norm(found.astype(np.float64) - each) <= 1.01 * limit + 1e-30, scheme.name


def test_inputs_that_never_were(encoder: Encoder, formats: list[QuantScheme]) -> None:
    """Importance of zeros, in part and everywhere: numbers all the same."""
    if not encoder.importance:
        pytest.skip("not applicable: it asks for nothing")
    for scheme in formats:
        values = values_of(scheme, "unused")
        inputs = inputs_of(values.shape[-1])
        inputs[:, ::3] = 0
        for each in (inputs, inputs * 0):
            assert np.isfinite(kept(encoder, scheme, values, importance_of(encoder, each))).all()


def test_refuses_what_makes_no_sense(
    encoder: Encoder, formats: list[QuantScheme], installed: list[QuantScheme]
) -> None:
    """NaN, shapes that do not fit, importance of another shape, formats that it does not support."""
    scheme = formats[0]
    values = values_of(scheme, "refused")
    wrong = values.copy()
    wrong[0, 0] = np.nan
    with pytest.raises(PetaflopError):
        encoder.encode(scheme, wrong)
    if encoder.importance:
        for bad in (np.ones(values.shape[-1] + 1), np.full(values.shape[-1], np.nan)):
            with pytest.raises(PetaflopError):
                encoder.encode(scheme, values, bad)
    for other in installed:
        if not encoder.supports(other):
            with pytest.raises(PetaflopError):
                encoder.encode(other, values_of(other, "refused"))
