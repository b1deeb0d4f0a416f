"""A wrong graph as a script that runs alone: it needs petaflop and the backend, not this package."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from petaflop.dtype import from_numpy_dtype
from petaflop.graph.node import Node, toposort
from petaflop_conformance.bounded import Bounded
from petaflop_conformance.spelling import as_code

__all__ = ["script"]

Array = np.ndarray[Any, Any]

_HEAD = '''"""{title}

python THIS_FILE [device]: exits with 1 where the device is wrong, 0 where it is right.
"""

import base64
import sys
import zlib

import numpy as np

from petaflop.config import overrides
from petaflop.dtype import DTYPES
from petaflop.graph import view
from petaflop.graph.node import (
    assign, bitcast, cast, compute, const, gather, iota, realize, reduce, scan, scatter,
)
from petaflop.graph.ops import Op
from petaflop.realize import from_host, realize_nodes, to_host


def array(dtype, shape, text):
    data = zlib.decompress(base64.b64decode(text))
    return np.frombuffer(data, DTYPES[dtype].numpy).reshape(shape).copy()


def build(device):
'''

_TAIL = '''

def wrong(got, value, error, free):
    """Where an answer is further from the true value than any correct device may be."""
    if value.dtype.kind != "f":
        return (got != value) & ~free
    got = got.astype(np.float64)
    same = (got == value) | (np.isnan(got) & np.isnan(value))
    bad = ~np.where(np.isfinite(value), np.abs(got - value) <= error, same)
    return (bad | ((value == 0) & (error == 0) & (np.signbit(got) != np.signbit(value)))) & ~free


def run(device):
    roots = build(device)
    realize_nodes(roots, device)
    return roots, [to_host(root) for root in roots]


device = sys.argv[1] if len(sys.argv) > 1 else {device!r}
faults = 0
with np.errstate(all="ignore"), overrides(fuse={fuse}, cache=False):
    first, arrays = run(device)
    _, again = run(device)
    for number, (got, wanted) in enumerate(zip(arrays, EXPECTED)):
        bad = wrong(got, *wanted)
        if bad.any():
            where = tuple(int(axis[0]) for axis in np.nonzero(bad))
            print(f"result {{number}}: {{int(bad.sum())}} of {{bad.size}} elements are wrong on {{device}}, "
                  f"the first at {{list(where)}}: expected {{wanted[0][where]!r}} within "
                  f"{{wanted[1][where]:.3g}}, got {{got[where]!r}}")
        if got.tobytes() != again[number].tobytes():
            print(f"result {{number}}: other bits the second time on {{device}}")
            faults += 1
        if got.tobytes() != to_host(first[number]).tobytes():
            print(f"result {{number}}: what it held on {{device}} was overwritten")
            faults += 1
        faults += int(bad.any())
if not faults:
    print(f"{{device}} is right")
raise SystemExit(int(bool(faults)))
'''


def script(
    title: str,
    device: str,
    fuse: bool,
    roots: Sequence[Node],
    inputs: Mapping[Node, Array],
    expected: Sequence[Bounded],
) -> str:
    """The text of the script: inputs, graph, and what the oracle allows, all written out."""
    used = {
        node: array
        for node in toposort(roots, through_realized=True)
        if (array := inputs.get(node)) is not None
    }
    names = {node: f"x{number}" for number, node in enumerate(used)}
    lines, results = as_code(roots, names)
    body = [f"{names[node]} = from_host({_array(array)}, device)" for node, array in used.items()]
    body += [*lines, f"return [{', '.join(results)}]"]
    wanted = ["EXPECTED = ["]
    for bounded in expected:
        wanted.append("    (")
        wanted += [
            f"        {_array(np.asarray(part))}," for part in (bounded.value, bounded.error, bounded.free)
        ]
        wanted.append("    ),")
    indented = "\n".join(f"    {line}" for line in body)
    tail = _TAIL.format(device=device, fuse=fuse)
    return _HEAD.format(title=title) + indented + "\n\n\n" + "\n".join([*wanted, "]"]) + "\n" + tail


def _array(array: Array) -> str:
    text = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes())).decode()
    return f'array("{from_numpy_dtype(array.dtype).name}", {tuple(array.shape)}, "{text}")'
