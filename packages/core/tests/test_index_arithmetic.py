"""Division and remainder of index expressions against Python's, and the forms that loads need. No device."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from petaflop.graph.symbolic import Variable, add, constant, divide, evaluate, linear_terms, modulo, multiply

FACTORS = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 32, 48, 64, -1, -4, -16])
SIZES = st.sampled_from([2, 3, 4, 6, 8, 16, 24, 32, 64, 128])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_quotients_and_remainders(data: st.DataObject) -> None:
    """Of sums of axes, nested once: the same values, within the bounds that the expressions claim."""
    axes = [
        Variable(f"axis{n}", 0, data.draw(st.integers(0, 15))) for n in range(data.draw(st.integers(1, 4)))
    ]
    total = constant(data.draw(st.integers(-40, 40)))
    for axis in axes:
        total = add(total, multiply(axis, constant(data.draw(FACTORS))))
    inside = data.draw(st.sampled_from([None, divide, modulo]))
    total = total if inside is None else inside(total, constant(data.draw(SIZES)))
    size = data.draw(SIZES)
    quotient, remainder = divide(total, constant(size)), modulo(total, constant(size))
    together = add(multiply(quotient, constant(size)), remainder)
    for _ in range(8):
        values = {axis: data.draw(st.integers(int(axis.lo), int(axis.hi))) for axis in axes}
        exact = evaluate(total, values)
        assert evaluate(quotient, values) == exact // size
        assert evaluate(remainder, values) == exact % size
        assert evaluate(together, values) == exact
        assert quotient.lo <= exact // size <= quotient.hi
        assert remainder.lo <= exact % size <= remainder.hi


def test_what_never_carries_is_left_out() -> None:
    """Blocks in blocks: of k = 16·i + j only i decides which 32 k lies in, and the rest folds back."""
    i, j = Variable("i", 0, 255), Variable("j", 0, 15)
    k = add(multiply(i, constant(16)), j)
    assert divide(k, constant(32)) is divide(i, constant(2))
    assert modulo(k, constant(32)) is add(multiply(modulo(i, constant(2)), constant(16)), j)
    back = add(multiply(divide(k, constant(32)), constant(32)), modulo(k, constant(32)))
    assert linear_terms(back) == linear_terms(k) == ({i: 16, j: 1}, 0)
