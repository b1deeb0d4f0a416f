"""Text and encoded images: Python code on the host, as no kernel has a type for them."""

from __future__ import annotations

import functools
import importlib
import io
import itertools
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from petaflop.errors import PluginError
from petaflop_onnx.operators.common import Array
from petaflop_onnx.table import Call, operator
from petaflop_onnx.values import Constant

_MOST_PIXELS = 1 << 26
_MOST_GRAMS = 1 << 26


def is_text(value: Any) -> bool:
    """Whether a value as it flows is a tensor of text."""
    return isinstance(value, Constant) and value.array.dtype.kind == "O"


def _texts(shape: Sequence[int], texts: Sequence[str]) -> Array:
    """An array of Python strings: NumPy's own would cut them to one length."""
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(tuple(shape))


def _each(function: Callable[[str], str], x: Array) -> Array:
    return _texts(x.shape, [function(text) for text in x.ravel()])


@operator("StringConcat", 20, host=(0, 1), raw=True, on_host=True)
def _string_concat(_: Call, a: Array, b: Array) -> Array:
    a, b = np.broadcast_arrays(a, b)
    return _texts(a.shape, [first + second for first, second in zip(a.ravel(), b.ravel(), strict=True)])


@operator("StringSplit", 20, host=(0,), raw=True, on_host=True)
def _string_split(call: Call, x: Array) -> tuple[Array, Array]:
    """The parts along a new last axis, filled up with empty texts, and how many there are."""
    delimiter = call.get("delimiter") or None
    parts = [text.split(delimiter, call.get("maxsplit", -1)) for text in x.ravel()]
    width = max(map(len, parts), default=0)
    filled = [part for found in parts for part in [*found, *[""] * (width - len(found))]]
    counts = np.asarray([len(found) for found in parts], np.int64).reshape(x.shape)
    return _texts((*x.shape, width), filled), counts


@operator("RegexFullMatch", 20, host=(0,), raw=True, on_host=True)
def _regex_full_match(call: Call, x: Array) -> Array:
    try:
        pattern = re.compile(call["pattern"])
    except re.error as error:
        raise ValueError(f"pattern: expected a regular expression, got one with {error}") from None
    return np.asarray([pattern.fullmatch(text) is not None for text in x.ravel()], np.bool_).reshape(x.shape)


_CASES: dict[str, Callable[[str], str]] = {"LOWER": str.lower, "UPPER": str.upper, "NONE": str}


@operator("StringNormalizer", 10, host=(0,), raw=True, on_host=True)
def _string_normalizer(call: Call, x: Array) -> Array:
    """[C] or [1, C] without stop words, in one case; one empty text where nothing is left."""
    if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
        raise ValueError(f"X: expected [C] or [1, C], got {list(x.shape)}")
    if call["case_change_action"] not in _CASES:
        raise ValueError(
            f"case_change_action: expected LOWER, UPPER or NONE, got {call['case_change_action']!r}"
        )
    fold: Callable[[str], str] = str if call["is_case_sensitive"] else str.lower
    stop = {fold(word) for word in call.get("stopwords", ())}
    kept = [text for text in x.ravel() if fold(text) not in stop]
    changed = [_CASES[call["case_change_action"]](text) for text in kept] or [""]
    return _texts((*x.shape[:-1], len(changed)), changed)


# ---- counts of n-grams ----


@operator("TfIdfVectorizer", 9, host=(0,), raw=True, on_host=True)
def _tf_idf(call: Call, x: Array) -> Array:
    """How often each n-gram of the pool occurs in each row, scaled by its weight."""
    rows = x.reshape(1, -1) if x.ndim < 2 else x
    pool = _pool(call, "pool_strings" if call.get("pool_strings") else "pool_int64s")
    size = max(call["ngram_indexes"], default=-1) + 1
    if size * rows.shape[0] > _MOST_GRAMS or min(call["ngram_indexes"], default=0) < 0:
        raise ValueError(f"ngram_indexes: expected 0 to 2^26 in all, got up to {size - 1}")
    counts = np.zeros((rows.shape[0], size), np.float32)
    for row, tokens in enumerate(rows.tolist()):
        for length in range(call["min_gram_length"], call["max_gram_length"] + 1):
            most = call["max_skip_count"] if length > 1 else 0  # one token has nothing to skip
            for step in range(1, most + 2):
                for start in range(len(tokens) - (length - 1) * step):
                    place = pool.get(tuple(tokens[start : start + (length - 1) * step + 1 : step]))
                    if place is not None:
                        counts[row, call["ngram_indexes"][place]] += 1
    weights = np.ones(size, np.float32)
    for place, weight in zip(call["ngram_indexes"], call.get("weights") or (), strict=False):
        weights[place] = weight
    scaled = {"TF": counts, "IDF": (counts > 0) * weights, "TFIDF": counts * weights}
    if call["mode"] not in scaled:
        raise ValueError(f"mode: expected TF, IDF or TFIDF, got {call['mode']!r}")
    return scaled[call["mode"]].astype(np.float32).reshape(*x.shape[:-1], size)


def _pool(call: Call, name: str) -> dict[tuple[Any, ...], int]:
    """Each n-gram with its number; 1-grams come first, then 2-grams, from places of their own."""
    tokens, starts = call[name], (*call["ngram_counts"], len(call[name]))
    pool: dict[tuple[Any, ...], int] = {}
    for length, (start, stop) in enumerate(itertools.pairwise(starts), 1):
        for place in range(start, stop, length):
            pool[tuple(tokens[place : place + length])] = len(pool)
    return pool


# ---- images ----


@functools.cache
def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError:
        raise PluginError("ImageDecoder: expected Pillow; pip install petaflop-onnx[images]") from None


@operator("ImageDecoder", 20, host=(0,), raw=True, on_host=True)
def _image_decoder(call: Call, stream: Array) -> Array:
    """An encoded image as uint8 [height, width, channels], by Pillow."""
    modes = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}
    if call["pixel_format"] not in modes:
        raise ValueError(f"pixel_format: expected {', '.join(modes)}, got {call['pixel_format']!r}")
    pillow = _pillow()
    try:
        image = pillow.open(io.BytesIO(stream.tobytes()))
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"expected at most 2^26 pixels, got {image.width} x {image.height}")
        array = np.asarray(image.convert(modes[call["pixel_format"]]))
    except (OSError, SyntaxError, ValueError, struct.error, pillow.DecompressionBombError) as error:
        raise ValueError(f"encoded_stream: {error}") from None
    array = array[:, :, None] if array.ndim == 2 else array
    return np.ascontiguousarray(array[:, :, ::-1] if call["pixel_format"] == "BGR" else array)
