"""Convolutions and pooling against PyTorch (oneDNN): the distinct layers of ResNet-50, depthwise, grouped and
strided ones, batches of 1 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator

from _bench import Bar, Case, compare, main, pair
from torch.nn import functional as F

BARS = {"convolution": Bar(0.75, 1.0)}
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
    image, weight = pair((batch, inner, size, size)), pair((outer, inner // groups, taps, taps), seed=1)
    pad = taps // 2
    side = (size + 2 * pad - taps) // stride + 1
    return compare(
        f"{batch}x{inner}x{size}² to {outer}, {taps}x{taps} / {stride}, {groups} groups",
        "convolution",
        [image, weight],
        lambda x, w: x.conv2d(w, stride=stride, padding=pad, groups=groups),
        lambda x, w: F.conv2d(x, w, stride=stride, padding=pad, groups=groups),
        operations=2.0 * batch * outer * side * side * (inner // groups) * taps * taps,
    )


def pools(batch: int) -> Iterator[Case]:
    """ResNet's largest pooling, and averages over windows and over the whole image."""
    x, last = pair((batch, 64, 112, 112)), pair((batch, 2048, 7, 7))
    yield compare(
        f"max pool {batch}x64x112², 3x3 / 2",
        "convolution",
        [x],
        lambda x: x.max_pool2d(3, 2, padding=1),
        lambda x: F.max_pool2d(x, 3, 2, 1),
        reads=4.0 * x.theirs.numel(),
        writes=1.0 * x.theirs.numel(),
    )
    for image, taps in ((x, 2), (last, 7)):
        yield compare(
            f"average pool {batch}x{image.theirs.shape[1]}x{image.theirs.shape[2]}², {taps}x{taps} / {taps}",
            "convolution",
            [image],
            lambda x, taps=taps: x.avg_pool2d(taps),
            lambda x, taps=taps: F.avg_pool2d(x, taps),
            reads=4.0 * image.theirs.numel(),
            writes=4.0 * image.theirs.numel() / taps**2,
        )


def cases() -> Iterator[Case]:
    for batch in (1, 8):
        for sizes in LAYERS:
            yield layer(batch, *sizes)
        yield from pools(batch)


if __name__ == "__main__":
    main("convolution", cases, BARS)
