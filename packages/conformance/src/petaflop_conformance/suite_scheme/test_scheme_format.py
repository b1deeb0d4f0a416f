"""The bytes of a format: what it declares of them, what `pack` and `unpack` make of them, and its files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petaflop.dtype import DType
from petaflop.errors import ArgumentError, PetaflopError, ShapeError
from petaflop.plugins.scheme import Packed, Plane, QuantScheme
from petaflop_conformance.examination import skip_as
from petaflop_conformance.hostile import garbage, refused, truncated
from petaflop_conformance.levels import NOT_APPLICABLE, NOT_DECLARED
from petaflop_conformance.suite_scheme.conftest import planes_of
from petaflop_conformance.values import generator

pytestmark = pytest.mark.level("format")

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

VALUES: dict[str, Callable[[np.random.Generator, Shape], Array]] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "uniform": lambda random, shape: random.uniform(-1, 1, shape),
    "heavy-tailed": lambda random, shape: random.standard_t(2, shape),
    "positive": lambda random, shape: random.uniform(3, 4, shape),
    "zeros": lambda random, shape: np.zeros(shape),
    "equal": lambda random, shape: np.full(shape, 0.1),
    "tiny": lambda random, shape: random.standard_normal(shape) * 1e-12,
    "denormal": lambda random, shape: random.standard_normal(shape) * 1e-41,
    "large": lambda random, shape: random.standard_normal(shape) * 1e4,
    "as-large-as-float16": lambda random, shape: random.choice([-65504.0, 65504.0], shape),
    "huge": lambda random, shape: random.standard_normal(shape) * 1e30,
    "one-outlier": lambda random, shape: np.where(random.random(shape) < 0.02, 100.0, 0.01),
}


def test_declarations(scheme: QuantScheme, scheme_name: str) -> None:
    assert scheme.name == scheme_name
    assert isinstance(scheme.version, int) and scheme.version >= 1
    assert 0 < scheme.bits_per_weight <= 64
    assert all(size is None or size >= 1 for size in scheme.block)
    assert all(each.extension.startswith(".") for each in scheme.files)


def test_planes_describe_themselves(scheme: QuantScheme, shapes: list[Shape]) -> None:
    """Names, dtypes and shapes for every shape, the same each time, and nbytes is their sum."""
    for shape in shapes:
        planes = scheme.planes(shape)
        assert planes and all(isinstance(plane, Plane) for plane in planes.values())
        assert all(isinstance(plane.dtype, DType) for plane in planes.values())
        assert dict(planes) == dict(scheme.planes(shape)) and list(planes) == list(scheme.planes(shape))
        made = planes_of(scheme, shape)
        scheme.check_planes(made, shape)
        assert sum(array.nbytes for array in made.values()) == scheme.nbytes(shape)


def test_bits_per_weight_are_the_bytes(scheme: QuantScheme, large: Shape) -> None:
    """Of a large tensor, scales included, within a hundredth."""
    bits = 8 * scheme.nbytes(large) / int(np.prod(large))
    assert abs(bits - scheme.bits_per_weight) <= 0.01 * scheme.bits_per_weight, (
        f"expected {scheme.bits_per_weight} bits per weight, got {bits} of {list(large)}"
    )


@pytest.mark.parametrize("kind", VALUES)
def test_round_trip_is_within_the_bound(packing: QuantScheme, shapes: list[Shape], kind: str) -> None:
    for shape in shapes:
        values = VALUES[kind](generator(kind, shape), shape).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            planes = packing.pack(values)
            packing.check_planes(planes, shape)
            got = packing.unpack(planes, shape)
        assert got.dtype == np.float32 and got.shape == shape and np.isfinite(got).all()
        bound = np.broadcast_to(packing.bound(values), shape)
        assert bound.dtype == np.float64 and np.isfinite(bound).all() and (bound >= 0).all()
        error = np.abs(got.astype(np.float64) - values.astype(np.float64))
        worst = int(np.argmax(error - bound)) if error.size else 0
        assert (error <= bound).all(), (
            f"{kind} {list(shape)}: expected {values.flat[worst]} within {bound.flat[worst]:.3g}, "
            f"got {got.flat[worst]}"
        )


def test_the_bound_says_something(packing: QuantScheme, large: Shape) -> None:
    """Less than the values themselves: zeros would not pass for an answer."""
    values = generator("bound").standard_normal(large).astype(np.float32)
    bound = np.broadcast_to(packing.bound(values), large)
    assert bound.mean() < 0.75 * np.abs(values).mean()


def test_float64_values_are_packed(packing: QuantScheme, shapes: list[Shape]) -> None:
    values = generator("wide").standard_normal(shapes[0])
    got = packing.unpack(packing.pack(values), shapes[0])
    assert (np.abs(got - values) <= packing.bound(values)).all()


def test_deterministic(packing: QuantScheme, shapes: list[Shape]) -> None:
    """The same bytes each time, however the values lie in memory, and the values are left alone."""
    for shape in shapes:
        values = generator("again", shape).standard_normal(shape).astype(np.float32)
        kept = values.copy()
        strided = np.repeat(values[..., None], 2, -1)[..., 0]
        first, *others = (packing.pack(each) for each in (values, values, strided))
        assert values.tobytes() == kept.tobytes()
        for planes in others:
            assert {n: a.tobytes() for n, a in planes.items()} == {n: a.tobytes() for n, a in first.items()}
        assert packing.unpack(first, shape).tobytes() == packing.unpack(first, shape).tobytes()


def test_refuses_what_has_no_bytes(packing: QuantScheme, shapes: list[Shape]) -> None:
    """NaN, infinity, integers, shapes that do not divide: typed errors."""
    shape = shapes[-1]
    values = np.ones(shape, np.float32)
    for number in (np.nan, np.inf, -np.inf):
        wrong = values.copy()
        wrong.flat[-1] = number
        with pytest.raises(ArgumentError):
            packing.pack(wrong)
    with pytest.raises(PetaflopError):
        packing.pack(values.astype(np.int32))
    for size in [n for n in scheme_sizes(packing) if n > 1]:
        with pytest.raises(ShapeError):
            packing.pack(np.ones((*shape[:-1], size + 1), np.float32))
        break


def scheme_sizes(scheme: QuantScheme) -> list[int]:
    return [size for size in scheme.block[-1:] if size is not None]


def test_a_loaded_format_says_so(scheme: QuantScheme, shapes: list[Shape]) -> None:
    if scheme.can_pack:
        skip_as(NOT_APPLICABLE, "it packs")
    with pytest.raises(ArgumentError):
        scheme.pack(np.ones(shapes[0], np.float32))


def test_planes_of_another_tensor_are_refused(scheme: QuantScheme, shapes: list[Shape]) -> None:
    """One missing, one too many, another shape, another dtype."""
    shape = shapes[-1]
    planes = planes_of(scheme, shape)
    name = next(iter(planes))
    short = planes[name].reshape(-1)[:-1]
    other = (
        planes[name].astype(np.float64) if planes[name].dtype != np.float64 else planes[name].astype(np.int8)
    )
    wrong = [
        {each: array for each, array in planes.items() if each != name},
        {**planes, "petaflop_extra": planes[name]},
        {**planes, name: short},
        {**planes, name: other},
    ]
    for each in wrong:
        with pytest.raises(PetaflopError):
            scheme.unpack(each, shape)


def test_any_bytes_have_values(scheme: QuantScheme, shapes: list[Shape]) -> None:
    """Planes of random bits, as a hostile file may bring them: values or a typed error, never a crash."""
    for shape in shapes:
        for fill in ("random", "zeros", "ones"):
            planes = {}
            for name, plane in scheme.planes(shape).items():
                size = plane.nbytes
                made = {
                    "random": generator(name, shape).bytes(size),
                    "zeros": bytes(size),
                    "ones": b"\xff" * size,
                }
                planes[name] = np.frombuffer(made[fill], plane.dtype.numpy).reshape(plane.shape).copy()
            try:
                with np.errstate(all="ignore"):
                    got = scheme.unpack(planes, shape)
            except PetaflopError:
                continue
            assert got.dtype == np.float32 and got.shape == shape


# ---- files ----


@pytest.fixture
def tensors(scheme: QuantScheme, shapes: list[Shape]) -> dict[str, Packed]:
    matrices = [shape for shape in shapes if len(shape) == 2] or shapes
    return {f"layer.{n}.weight": Packed(planes_of(scheme, s, n), s) for n, s in enumerate(matrices[:3])}


def files_of(scheme: QuantScheme) -> Any:
    if not scheme.files:
        skip_as(NOT_DECLARED, "files")
    return scheme.files


def written(file: Any, folder: Path, tensors: dict[str, Packed]) -> Path:
    path = folder / f"tensors{file.extension}"
    try:
        file.write(path, tensors)
    except ImportError as error:
        skip_as(NOT_DECLARED, f"{file.library} is not installed: {error}")
    assert [each.name for each in folder.iterdir()] == [path.name], (
        "expected one file, and no draft beside it"
    )
    return path


def test_file_round_trip(scheme: QuantScheme, tensors: dict[str, Packed], tmp_path: Path) -> None:
    for file in files_of(scheme):
        path = written(file, tmp_path, tensors)
        found = file.read(path)
        assert set(found) == set(tensors)
        for name, (planes, shape) in tensors.items():
            assert tuple(found[name].shape) == shape
            scheme.check_planes(found[name].planes, shape)
            for each, array in planes.items():
                assert np.asarray(found[name].planes[each]).tobytes() == array.tobytes(), f"{name}: {each}"
        first = path.read_bytes()
        file.write(path, tensors)
        assert path.read_bytes() == first, "expected the same file each time"
        path.unlink()


def test_files_keep_any_codes(scheme: QuantScheme, tensors: dict[str, Packed], tmp_path: Path) -> None:
    """Planes of random bits, among them scales that are no numbers: the same bytes, or a typed error."""
    for file in files_of(scheme):
        changed = {
            name: Packed({key: random_bits(plane, name, key) for key, plane in planes.items()}, shape)
            for name, (planes, shape) in tensors.items()
        }
        path = tmp_path / f"any{file.extension}"
        try:
            file.write(path, changed)
            found = file.read(path)
        except PetaflopError:
            continue
        for name, (planes, _) in changed.items():
            for key, array in planes.items():
                assert np.asarray(found[name].planes[key]).tobytes() == array.tobytes(), f"{name}: {key}"


def random_bits(plane: Array, *key: object) -> Array:
    size = plane.size * plane.dtype.itemsize
    return np.frombuffer(generator("bits", *key).bytes(size), plane.dtype).reshape(plane.shape).copy()


def test_the_library_reads_the_same_values(
    scheme: QuantScheme, tensors: dict[str, Packed], tmp_path: Path
) -> None:
    """The judge is the format's own library, which knows nothing of us."""
    for file in files_of(scheme):
        if not file.library:
            continue
        path = written(file, tmp_path, tensors)
        try:
            found = file.read_with_library(path)
        except ImportError as error:
            skip_as(NOT_DECLARED, f"{file.library} is not installed: {error}")
        for name, (planes, shape) in tensors.items():
            expected = scheme.unpack(planes, shape)
            got = np.asarray(found[name])
            assert got.shape == expected.shape
            assert np.array_equal(got.astype(np.float32), expected), f"{file.library} reads {name} otherwise"
        path.unlink()


def test_hostile_files_are_refused(scheme: QuantScheme, tensors: dict[str, Packed], tmp_path: Path) -> None:
    for file in files_of(scheme):
        path = written(file, tmp_path, tensors)
        data = path.read_bytes()
        for what, content in [*garbage(), *truncated(data)]:
            refused(path, content, file.read, what)
