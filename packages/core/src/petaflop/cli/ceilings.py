"""What the default device can do at best, by our own kernels: float32 arithmetic, and reading memory."""

from __future__ import annotations

from collections.abc import Callable

from petaflop import Tensor
from petaflop.device.registry import get_backend
from petaflop.profile import Profile
from petaflop.report import Ceilings

__all__ = ["measure_ceilings"]

_REPEATS = 12  # the best counts: other programs may run meanwhile
_SMALL, _LARGE = 1, 8  # scale of the work: an interpreter gets less


def measure_ceilings() -> Ceilings:
    """The best of a few runs each; of arithmetic, the better of a matrix product and a chain in registers."""
    scale = _SMALL if get_backend().target is None else _LARGE
    side, count = 96 * scale, (scale * 4 << 20)
    a, b = Tensor.rand(side, side).realize(), Tensor.rand(side, side).realize()
    short, long = Tensor.rand(scale << 13).realize(), Tensor.ones(count).contiguous().realize()
    peak = max(_best(lambda: a @ b)[0], _best(lambda: _chain(short))[0])
    return Ceilings(peak, _best(lambda: long.sum())[1])


def _chain(x: Tensor) -> Tensor:
    """Multiply-adds on one value: sixteen a load."""
    result = x
    for _ in range(16):
        result = result * x + 0.5
    return result


def _best(make: Callable[[], Tensor]) -> tuple[float, float]:
    """The highest (operations, bytes) per second over a few runs."""
    make().realize()
    with Profile() as profile:
        for _ in range(_REPEATS):
            make().realize()
    rates = [(each.operations / each.seconds, each.bytes / each.seconds) for each in profile.launches]
    return max(rate for rate, _ in rates), max(rate for _, rate in rates)
