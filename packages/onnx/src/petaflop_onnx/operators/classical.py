"""Operators of ai.onnx.ml: tables, trees and thresholds over feature vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from petaflop import Tensor
from petaflop.dtype import int64
from petaflop_onnx.operators.common import Array, shape_of
from petaflop_onnx.table import Call, operator
from petaflop_onnx.values import Value, to_tensor

_DOMAIN = "ai.onnx.ml"


@operator("ArrayFeatureExtractor", 1, domain=_DOMAIN)
def _array_feature_extractor(_: Call, x: Tensor, places: Tensor) -> Tensor:
    """The features at these places of the last axis; a vector counts as one row."""
    rows = x.reshape(1, -1) if x.ndim == 1 else x
    return rows[(..., places.reshape(-1))]


@operator("Binarizer", 1, domain=_DOMAIN)
def _binarizer(call: Call, x: Tensor) -> Tensor:
    return (x > call["threshold"]).cast(x.dtype)


# ---- labels ----


def _side(call: Call, side: str) -> Array:
    """The keys or values, whichever attribute holds them."""
    for kind, dtype in (("floats", np.float32), ("int64s", np.int64), ("strings", object)):
        if (given := call.get(f"{side}_{kind}")) is not None:
            return np.asarray(given, dtype)
    if (given := call.get(f"{side}_tensor")) is None:
        raise ValueError(f"{side}: expected one of {side}_floats, _int64s, _strings or _tensor, got none")
    return np.asarray(given).reshape(-1)


def _default(call: Call, values: Array) -> Any:
    if (given := call.get("default_tensor")) is not None:
        return given.reshape(-1)[0]
    kind = {"f": "default_float", "O": "default_string"}.get(values.dtype.kind, "default_int64")
    return call[kind]


@operator("LabelEncoder", 2, 4, domain=_DOMAIN, raw=True)
def _label_encoder(call: Call, x: Value) -> Any:
    """Each element by a table. Text goes through a Python dict; numbers are compared with every key."""
    keys, values = _side(call, "keys"), _side(call, "values")
    if len(keys) != len(values):
        raise ValueError(f"keys: expected as many as values, got {len(keys)} and {len(values)}")
    default = _default(call, values)
    if keys.dtype.kind != "O" and values.dtype.kind != "O":
        return _lookup(to_tensor(x), keys, values, default)
    array = call.read(x)
    table = {_key(key): value for key, value in zip(keys.tolist(), values, strict=True)}
    found = np.empty(array.size, values.dtype)
    found[:] = [table.get(_key(key), default) for key in array.ravel().tolist()]
    return found.reshape(array.shape)


def _key(key: Any) -> Any:
    """NaN, which equals nothing, as a key that equals itself."""
    return "nan" if key != key else key


def _lookup(x: Tensor, keys: Array, values: Array, default: Any) -> Tensor:
    """The last key that matches wins."""
    result = Tensor(np.full(1, default, values.dtype), device=x.device).reshape(*[1] * x.ndim)
    result = result.expand(*shape_of(x))
    for key, value in zip(keys.tolist(), values.tolist(), strict=True):
        result = (x != x if key != key else x == key).where(value, result)
    return result


# ---- trees ----

_MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER")


def _children(call: Call, way: str, count: int) -> Array:
    """Where a branch leads: a node's number, or `count` and more for a leaf."""
    places = np.asarray(call[f"nodes_{way}nodeids"], np.int64)
    leaves = np.asarray(call[f"nodes_{way}leafs"], np.int64)
    return places + count * (leaves != 0)


def _depth(ways: Sequence[Array], roots: Array, count: int) -> int:
    """How many branches the longest way takes; ValueError where a way never ends."""
    level, depth = np.unique(roots), 0
    while (inner := level[level < count]).size:
        depth += 1
        if depth > count:
            raise ValueError("nodes_truenodeids: expected trees, got a cycle")
        level = np.unique(np.concatenate([way[inner] for way in ways]))
    return depth


def _member_sets(call: Call, modes: Array, dtype: Any) -> Array:
    """For each node the values that it looks for, filled up with NaN; NaN also parts them in the file."""
    given = call.get("membership_values")
    sets: list[list[float]] = [[]]
    for value in [] if given is None else given.reshape(-1).tolist():
        if value != value:
            sets.append([])
        else:
            sets[-1].append(value)
    nodes = np.flatnonzero(modes == _MODES.index("MEMBER"))
    width = max(map(len, sets), default=0)
    table = np.full((len(modes), max(width, 1)), np.nan, dtype)
    for node, members in zip(nodes.tolist(), sets, strict=False):
        table[node, : len(members)] = members
    return table


@operator("TreeEnsemble", 5, domain=_DOMAIN)
def _tree_ensemble(call: Call, x: Tensor) -> Tensor:
    """All rows walk all trees at once, one level at a time; a leaf leads to itself."""
    modes = np.asarray(call["nodes_modes"], np.int64).reshape(-1)
    splits = np.asarray(call["nodes_splits"]).reshape(-1)
    roots = np.asarray(call["tree_roots"], np.int64)
    weights = np.asarray(call["leaf_weights"]).reshape(-1)
    count, leaves = len(modes), len(weights)
    ways = [_children(call, way, count) for way in ("true", "false")]
    if any(len(way) != count or way.min() < 0 or way.max() >= count + leaves for way in ways):
        raise ValueError(f"nodes: expected {count} branches to nodes or leaves, got others")
    depth = _depth(ways, roots, count)
    itself = np.arange(count, count + leaves)
    yes, no = (Tensor(np.concatenate([way, itself]), device=x.device) for way in ways)
    feature = _table(np.asarray(call["nodes_featureids"], np.int64), leaves, x)
    split, mode = _table(splits, leaves, x), _table(modes, leaves, x)
    missing = _table(np.asarray(call.get("nodes_missing_value_tracks_true", (0,) * count)), leaves, x)
    sets = _table(_member_sets(call, modes, splits.dtype), leaves, x)
    rows = shape_of(x)[0]
    place = Tensor(roots, device=x.device).unsqueeze(0).expand(rows, len(roots))
    for _ in range(depth):
        value, limit, kind = x.gather(1, feature[place]), split[place], mode[place]
        tests = [value <= limit, value < limit, value >= limit, value > limit, value == limit, value != limit]
        tests.append((value.unsqueeze(-1) == sets[place]).any(-1))
        passed = (value != value) & (missing[place] != 0)
        for number in np.unique(modes).tolist():
            passed = passed | ((kind == number) & tests[number])
        place = passed.where(yes[place], no[place])
    leaf = place - count
    return _aggregate(call, Tensor(weights, device=x.device)[leaf], leaf, x)


def _table(values: Array, leaves: int, x: Tensor) -> Tensor:
    """A value per node, with room for the leaves behind."""
    filled = np.concatenate([values, np.zeros((leaves, *values.shape[1:]), values.dtype)])
    return Tensor(filled, device=x.device)


def _aggregate(call: Call, weight: Tensor, leaf: Tensor, x: Tensor) -> Tensor:
    """The leaves of all trees, [rows, trees], by target."""
    targets = Tensor(np.asarray(call["leaf_targetids"], np.int64), device=x.device)[leaf].unsqueeze(-1)
    mine = targets == Tensor.arange(call["n_targets"], device=x.device).cast(int64)
    value, kind = weight.unsqueeze(-1), call["aggregate_function"]
    if kind in (0, 1):
        total = mine.where(value, 0).sum(1) / (shape_of(leaf)[1] if kind == 0 else 1)
    else:
        idle = weight.dtype.max if kind == 2 else weight.dtype.min
        chosen = mine.where(value, idle)
        total = mine.any(1).where(chosen.min(1) if kind == 2 else chosen.max(1), 0)
    after = {0: lambda t: t, 1: lambda t: t.softmax(-1), 2: lambda t: t.sigmoid()}
    if call["post_transform"] not in after:
        raise ValueError("post_transform: expected NONE, SOFTMAX or LOGISTIC, got another (not supported)")
    return after[call["post_transform"]](total)
