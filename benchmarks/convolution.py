"""Convolutions and pooling against PyTorch (oneDNN): the distinct layers of ResNet-50, depthwise, grouped and
strided ones, batches of 1 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator

from _bench import Case, main, pair
from torch.nn import functional as F

from petaflop import jit

# channels in, size, channels out, kernel, stride, groups
LAYERS = [
    (3, 224, 64, 7, 2, 1),
    (64, 56, 64, 1, 1, 1),
    (64, 56, 64, 3, 1, 1),
    (64, 56, 256, 1, 1, 1),
    (256, 56, 64, 1, 1, 1),
    (256, 56, 128, 1, 1, 1),
    (128, 56, 128, 3, 2, 1),
    (128, 28, 128, 3, 1, 1),
    (128, 28, 512, 1, 1, 1),
    (256, 56, 512, 1, 2, 1),
    (512, 28, 256, 1, 1, 1),
    (256, 28, 256, 3, 2, 1),
    (256, 14, 256, 3, 1, 1),
    (256, 14, 1024, 1, 1, 1),
    (512, 28, 1024, 1, 2, 1),
    (1024, 14, 512, 1, 1, 1),
    (512, 14, 512, 3, 2, 1),
    (512, 7, 512, 3, 1, 1),
    (512, 7, 2048, 1, 1, 1),
    (1024, 14, 2048, 1, 2, 1),
    (96, 56, 96, 3, 1, 96),
    (576, 14, 576, 3, 1, 576),
    (64, 56, 64, 3, 1, 4),
]


def layer(batch: int, inner: int, size: int, outer: int, taps: int, stride: int, groups: int) -> Case:
    x, w = pair((batch, inner, size, size)), pair((outer, inner // groups, taps, taps), seed=1)
    pad = taps // 2
    replayed = jit(lambda x, w: x.conv2d(w, stride=stride, padding=pad, groups=groups))
    side = (size + 2 * pad - taps) // stride + 1
    return Case(
        f"{batch}x{inner}x{size}² to {outer}, {taps}x{taps} / {stride}, {groups} groups",
        lambda: replayed(x.ours, w.ours),
        lambda: F.conv2d(x.theirs, w.theirs, stride=stride, padding=pad, groups=groups),
        lambda: F.conv2d(
            x.theirs.double(), w.theirs.double(), stride=stride, padding=pad, groups=groups
        ).numpy(),
        2.0 * batch * outer * side * side * (inner // groups) * taps * taps,
    )


def cases() -> Iterator[Case]:
    for batch in (1, 8):
        for sizes in LAYERS:
            yield layer(batch, *sizes)
    x = pair((8, 64, 112, 112))
    largest, mean = jit(lambda x: x.max_pool2d(3, 2, padding=1)), jit(lambda x: x.avg_pool2d(2))
    yield Case(
        "max pool 8x64x112², 3x3 / 2",
        lambda: largest(x.ours),
        lambda: F.max_pool2d(x.theirs, 3, 2, 1),
        lambda: F.max_pool2d(x.theirs.double(), 3, 2, 1).numpy(),
    )
    yield Case(
        "average pool 8x64x112², 2x2 / 2",
        lambda: mean(x.ours),
        lambda: F.avg_pool2d(x.theirs, 2),
        lambda: F.avg_pool2d(x.theirs.double(), 2).numpy(),
    )


if __name__ == "__main__":
    main("convolution", cases)
