"""Threefry-2x32 with 20 rounds (Salmon et al., 2011) on uint32: the same bits on every device.

A counter and a key in, two words out; no state. Checked against the vectors that Random123 publishes.
"""

from __future__ import annotations

from petaflop.tensor.value import Value

__all__ = ["threefry"]

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA


def _rotate(x: Value, bits: int) -> Value:
    """The halves do not overlap, so that + is |."""
    return x * (1 << bits) + x / (1 << (32 - bits))


def threefry(key: tuple[Value, Value], counter: tuple[Value, Value]) -> tuple[Value, Value]:
    """Two uint32 words for each counter."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ _parity(key[0]))
    a, b = counter[0] + keys[0], counter[1] + keys[1]
    for round_ in range(20):
        a = a + b
        b = _rotate(b, _ROTATIONS[round_ % 8]) ^ a
        if round_ % 4 == 3:
            group = round_ // 4 + 1
            a, b = a + keys[group % 3], b + keys[(group + 1) % 3] + group
    return a, b


def _parity(like: Value) -> Value:
    return like.constant(_PARITY)
