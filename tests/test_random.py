"""Random numbers: published vectors, equal bits on every device, distributions, seeds, errors.

Seeds are fixed, so that no test is left to chance; the bounds are those of a level of about 1e-5.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch_pairs import refused

from petaflop.errors import PetaflopError
from petaflop.tensor import Tensor
from petaflop.tensor.threefry import threefry
from petaflop.tensor.value import Value

WORD = 0xFFFFFFFF
# Random123's kat_vectors, `threefry2x32 20`: counter, key, result
VECTORS = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((WORD, WORD), (WORD, WORD), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]
DEVICES = ["reference", None]


def threefry_in_python(counter: tuple[int, int], key: tuple[int, int]) -> tuple[int, int]:
    """Written from the paper (Salmon et al., 2011), on Python's integers."""
    keys = (*key, 0x1BD11BDA ^ key[0] ^ key[1])
    x, y = (counter[0] + keys[0]) & WORD, (counter[1] + keys[1]) & WORD
    for group, rotations in enumerate([(13, 15, 26, 6), (17, 29, 16, 24)] * 2 + [(13, 15, 26, 6)], 1):
        for r in rotations:
            x = (x + y) & WORD
            y = ((y << r | y >> (32 - r)) & WORD) ^ x
        x, y = (x + keys[group % 3]) & WORD, (y + keys[(group + 1) % 3] + group) & WORD
    return x, y


def seeded(seed: int, draw: Any) -> Any:
    Tensor.manual_seed(seed)
    return draw().numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("counter", "key", "result"), VECTORS)
def test_published_vectors(counter: Any, key: Any, result: Any, device: str | None) -> None:
    assert threefry_in_python(counter, key) == result
    words = [Value(Tensor(np.array([w], np.uint32), device=device).node) for w in (*key, *counter)]
    found = threefry((words[0], words[1]), (words[2], words[3]))
    assert tuple(Tensor._from_node(value.node, device).item() for value in found) == result


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [0, 1, 0x1234567890ABCDEF, -1])
def test_draws_are_the_words_of_the_counter(seed: int, device: str | None) -> None:
    """The first words of n counters, then the second; the next draw goes on where this one ended."""
    key = (seed & WORD, seed >> 32 & WORD)
    Tensor.manual_seed(seed)
    for start in (0, 3, 6):
        pairs = [threefry_in_python((start + i, 0), key) for i in range(3)]
        words = np.array([p[0] for p in pairs] + [p[1] for p in pairs], np.uint32)
        drawn = Tensor.rand(2, 3, device=device).numpy()
        np.testing.assert_array_equal(drawn, ((words >> 8) * np.float32(2**-24)).reshape(2, 3))


def test_the_counter_carries_into_its_high_word() -> None:
    Tensor.manual_seed(5)
    Tensor.rand(1).realize()
    state = Tensor._state(Tensor.zeros(1).device)
    state.assign(Tensor(np.array([5, 0, WORD, 0], np.uint32)))
    words = [threefry_in_python(counter, (5, 0)) for counter in ((WORD, 0), (0, 1))]
    expected = [(w[k] >> 8) * 2.0**-24 for k in (0, 1) for w in words]
    assert Tensor.rand(4).tolist() == expected
    assert state.tolist() == [5, 0, 1, 1]


DRAWS: dict[str, Any] = {
    "rand": lambda device: Tensor.rand(7, 13, device=device),
    "rand, float64": lambda device: Tensor.rand(31, dtype="float64", device=device),
    "rand, float16": lambda device: Tensor.rand(31, dtype="float16", device=device),
    "rand, bfloat16": lambda device: Tensor.rand(31, dtype="bfloat16", device=device),
    "uniform": lambda device: Tensor.uniform(50, low=-2.0, high=3.0, device=device),
    "randint": lambda device: Tensor.randint(64, low=-5, high=1000, device=device),
    "randperm": lambda device: Tensor.randperm(17, device=device),
    "dropout": lambda device: Tensor.ones(64, device=device).dropout(0.3),
    "multinomial": lambda device: Tensor([1.0, 2.0, 5.0], device=device).multinomial(20, replacement=True),
    "kaiming_uniform": lambda device: Tensor.kaiming_uniform(4, 9, device=device),
}


@pytest.mark.parametrize("name", DRAWS)
def test_bits_are_equal_on_every_device(name: str) -> None:
    first = seeded(11, lambda: DRAWS[name]("reference"))
    second = seeded(11, lambda: DRAWS[name](None))
    assert first.dtype == second.dtype and first.tobytes() == second.tobytes()
    again = DRAWS[name](None).numpy()
    assert (
        again.tobytes() != second.tobytes()
        and seeded(11, lambda: DRAWS[name](None)).tobytes() == second.tobytes()
    )
    assert seeded(12, lambda: DRAWS[name](None)).tobytes() != second.tobytes()


@pytest.mark.parametrize("device", DEVICES)
def test_normals_are_those_of_box_and_muller(device: str | None) -> None:
    count = 5000
    pairs = seeded(3, lambda: Tensor.rand(2, count, device=device)).astype(np.float64)
    drawn = seeded(3, lambda: Tensor.randn(count, device=device))
    radius = np.sqrt(-2 * np.log(1 - pairs[0]))
    wanted = radius * np.cos(2 * np.pi * pairs[1])
    # log 4 ULP (2 after the root), 2π rounded, cos within 4 ULP of 1: near its zeros the radius bounds
    assert (np.abs(drawn - wanted) <= 8 * 2.0**-24 * np.maximum(np.abs(wanted), radius)).all()


def below_critical(counts: Any, expected: Any) -> bool:
    """Chi-square against its 1 - 1e-5 quantile (Wilson and Hilferty)."""
    free = len(counts) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    limit = free * (1 - 2 / (9 * free) + 4.265 * math.sqrt(2 / (9 * free))) ** 3
    low = free * max(1 - 2 / (9 * free) - 4.265 * math.sqrt(2 / (9 * free)), 0) ** 3
    return low <= statistic <= limit


def distance(sample: Any, cumulative: Any) -> float:
    """Kolmogorov and Smirnov: √n · the greatest distance of two distributions; above 2.47 once in 1e5."""
    ordered = np.sort(sample.astype(np.float64))
    n = len(ordered)
    values = cumulative(ordered)
    gaps = np.maximum(np.arange(1, n + 1) / n - values, values - np.arange(n) / n)
    return float(math.sqrt(n) * gaps.max())


def normal_cumulative(x: Any) -> Any:
    return (1 + torch.erf(torch.tensor(x) / math.sqrt(2)).numpy()) / 2


COUNT = 100_000


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_statistics(dtype: str) -> None:
    sample = seeded(21, lambda: Tensor.rand(COUNT, dtype=dtype))
    assert sample.dtype == dtype and (sample >= 0).all() and (sample < 1).all()
    assert distance(sample, lambda x: x) < 2.47
    assert below_critical(np.bincount((sample * 128).astype(int), minlength=128), np.full(128, COUNT / 128))
    pairs = (sample[::2] * 16).astype(int) * 16 + (sample[1::2] * 16).astype(int)
    assert below_critical(np.bincount(pairs, minlength=256), np.full(256, COUNT / 512))
    assert abs(np.corrcoef(sample[:-1], sample[1:])[0, 1]) < 4.4 / math.sqrt(COUNT)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_statistics(dtype: str) -> None:
    sample = seeded(22, lambda: Tensor.randn(COUNT, dtype=dtype)).astype(np.float64)
    assert distance(sample, normal_cumulative) < 2.47
    assert abs(sample.mean()) < 4.4 / math.sqrt(COUNT) and abs(sample.var() - 1) < 4.4 * math.sqrt(2 / COUNT)
    scaled = seeded(22, lambda: Tensor.normal(COUNT, mean=3.0, std=0.5, dtype=dtype))
    np.testing.assert_allclose(scaled, sample * 0.5 + 3, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_draws_stay_below_one(dtype: str) -> None:
    sample = seeded(23, lambda: Tensor.rand(20_000, dtype=dtype).float())
    assert (sample >= 0).all() and (sample < 1).all()
    assert below_critical(np.bincount((sample * 16).astype(int), minlength=16), np.full(16, 20_000 / 16))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_uniform_never_reaches_its_upper_bound(dtype: str) -> None:
    sample = seeded(24, lambda: Tensor.uniform(300_000, low=1.0, high=2.0, dtype=dtype).float())
    assert (sample >= 1).all() and (sample < 2).all()
    assert distance(sample, lambda x: x - 1) < (2.47 if dtype == "float32" else 5.0)


@pytest.mark.parametrize(("low", "high"), [(0, 10), (-3, 4), (5, 6), (0, 2**20), (-(2**31), 2**31 - 1)])
def test_integer_statistics(low: int, high: int) -> None:
    sample = seeded(25, lambda: Tensor.randint(COUNT, low=low, high=high))
    assert sample.dtype == np.int32 and sample.min() >= low and sample.max() < high
    bins = min(high - low, 64)
    if bins > 1:
        places = (sample.astype(np.int64) - low) * bins // (high - low)
        assert below_critical(np.bincount(places, minlength=bins), np.full(bins, COUNT / bins))


def test_integers_as_torch_spells_them() -> None:
    for code in ("randint(3, 9, (2, 3))", "randint(9, (2, 3))", "randint(3, 9, [4])", "randint(0, 2, ())"):
        mine, other = eval(f"Tensor.{code}"), eval(f"torch.{code}")
        assert mine.shape == tuple(other.shape) and mine.dtype.name == "int32"
    assert Tensor.randint(3, low=0, high=5, dtype="uint8").dtype.name == "uint8"
    assert set(seeded(1, lambda: Tensor.randint(2, 5, (300,))).tolist()) == {2, 3, 4}


@pytest.mark.parametrize("n", [0, 1, 2, 17, 1000])
def test_a_permutation(n: int) -> None:
    order = Tensor.randperm(n)
    assert order.dtype.name == "int32" and sorted(order.tolist()) == list(range(n))
    assert Tensor.randperm(n, dtype="int64").dtype.name == "int64"


def test_permutations_are_equally_likely() -> None:
    Tensor.manual_seed(26)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(120):
        order = tuple(Tensor.randperm(3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert below_critical(np.array(list(counts.values())), np.full(6, 20.0))


@pytest.mark.parametrize("device", DEVICES)
def test_multinomial_statistics(device: str | None) -> None:
    weights = np.array([0.0, 1.0, 3.0, 0.0, 2.5, 0.5, 0.0], np.float32)
    t = Tensor(weights, device=device)
    sample = seeded(27, lambda: t.multinomial(20_000, replacement=True))
    assert sample.dtype == np.int32
    counts = np.bincount(sample, minlength=7)
    likely = weights > 0
    assert not counts[~likely].any()
    assert below_critical(counts[likely], 20_000 * weights[likely] / weights.sum())
    rows = Tensor(np.tile(weights, (5000, 1)), device=device)
    first = seeded(28, lambda: rows.multinomial(4))
    assert first.shape == (5000, 4) and {tuple(sorted(row)) for row in first.tolist()} == {(1, 2, 4, 5)}
    counts = np.bincount(first[:, 0], minlength=7)
    assert below_critical(counts[likely], 5000 * weights[likely] / weights.sum())
    assert Tensor([[0.0, 1.0], [1.0, 0.0]]).multinomial(3, replacement=True).tolist() == [[1] * 3, [0] * 3]


def test_initial_weights() -> None:
    shape, fan_in, fan_out = (64, 3, 5, 5), 75, 1600
    gain = math.sqrt(2 / (1 + 0.01**2))
    bounds = {
        "scaled_uniform": 1 / math.sqrt(64 * 75),
        "glorot_uniform": math.sqrt(6 / (64 + 75)),
        "kaiming_uniform": gain * math.sqrt(3 / fan_in),
    }
    assert fan_out == 64 * 25
    for name, bound in bounds.items():
        sample = seeded(29, lambda name=name: getattr(Tensor, name)(*shape)).ravel()
        assert np.abs(sample).max() <= bound and distance(sample, lambda x, b=bound: (x / b + 1) / 2) < 2.47
    sample = seeded(29, lambda: Tensor.kaiming_normal(*shape)).ravel()
    assert distance(sample * math.sqrt(fan_in) / gain, normal_cumulative) < 2.47
    reference = torch.empty(shape)
    torch.nn.init.kaiming_uniform_(reference, a=0.01)
    assert float(reference.abs().max()) == pytest.approx(bounds["kaiming_uniform"], rel=0.01)


def test_dropout_statistics() -> None:
    x = Tensor.ones(COUNT, requires_grad=True)
    Tensor.manual_seed(30)
    y = x.dropout(0.25)
    y.sum().backward()
    kept = y.numpy() != 0
    assert abs(kept.mean() - 0.75) < 4.4 * math.sqrt(0.25 * 0.75 / COUNT)
    np.testing.assert_allclose(y.numpy()[kept], 4 / 3, rtol=1e-6)
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())  # the same mask
    assert x.dropout(0.5, training=False) is x and not x.dropout(1.0).numpy().any()


def test_options() -> None:
    like = Tensor(np.zeros((2, 3), np.float16))
    assert Tensor.rand_like(like).dtype.name == "float16" and Tensor.randn_like(like).shape == (2, 3)
    assert Tensor.rand_like(like, dtype="float32").dtype.name == "float32"
    assert (
        Tensor.rand(2, requires_grad=True).is_leaf and Tensor.randn((2, 3), requires_grad=True).requires_grad
    )
    assert Tensor.rand(2, device="reference").device == "reference"
    for empty in (Tensor.rand(0), Tensor.randn(2, 0), Tensor.randint(0, low=1, high=4)):
        assert empty.numpy().size == 0
    assert Tensor.rand().shape == Tensor.randn(()).shape == ()


REFUSED = [
    ("lib.rand(-1)", None),
    ("lib.rand(2, dtype=kind('int32'))", None),
    ("lib.randn(2.5)", None),
    ("lib.randint(5, 5, (2,))", None),
    ("lib.randint(6, 5, (2,))", None),
    ("lib.randint(0, 5, (-2,))", None),
    ("lib.randperm(-1)", None),
    ("t.multinomial(0)", np.ones(3, np.float32)),
    ("t.multinomial(4)", np.ones(3, np.float32)),
    ("t.multinomial(1)", np.ones((2, 2, 2), np.float32)),
    ("t.multinomial(1)", np.ones(3, np.int32)),
    ("F.dropout(t, 1.5)", np.ones(3, np.float32)),
    ("F.dropout(t, -0.5)", np.ones(3, np.float32)),
    ("lib.manual_seed(2**64)", None),
]


@pytest.mark.parametrize(("code", "array"), REFUSED, ids=lambda value: str(value).replace("\n", ""))
def test_refused(code: str, array: Any) -> None:
    refused(code, *([] if array is None else [array]))


def test_the_state_is_no_constant() -> None:
    """Two draws that look alike are different values, and each value is the same however often it is read."""
    a, b = Tensor.rand(4), Tensor.rand(4)
    assert a.tolist() != b.tolist()
    assert a.tolist() == a.tolist() and (a - a).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="manual_seed: expected") as caught:
        Tensor.manual_seed(-(2**63) - 1)
    assert isinstance(caught.value, PetaflopError)
