"""Captures: each trap that a jit can set, against the same function run eagerly or against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from petaflop import Tensor, Variable, no_grad
from petaflop.errors import JitError
from petaflop.jit import jit
from petaflop.realize import realize_nodes


def captures(function) -> int:  # type: ignore[no-untyped-def]
    return sum(map(len, function.captures.values()))


def test_replay_computes_the_same_as_eager() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return ((x * 2 + y).relu() @ y.T).softmax(-1)

    jitted = jit(function)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = (Tensor(rng.standard_normal((5, 7), dtype=np.float32)) for _ in range(2))
        np.testing.assert_array_equal(jitted(x, y).numpy(), function(x, y).numpy())
    assert captures(jitted) == 1


def test_a_plain_argument_is_part_of_the_key() -> None:
    scaled = jit(lambda x, factor: x * factor)
    assert scaled(Tensor([1.0]), 2).item() == 2
    assert scaled(Tensor([1.0]), 3).item() == 3
    assert scaled(Tensor([1.0]), 2.0).item() == 2
    assert captures(scaled) == 3


def test_another_shape_or_dtype_captures_anew() -> None:
    doubled = jit(lambda x: x + x)
    assert doubled(Tensor([1.0, 2.0])).tolist() == [2.0, 4.0]
    assert doubled(Tensor([1.0])).tolist() == [2.0]
    assert doubled(Tensor([1, 2])).tolist() == [2, 4]
    assert captures(doubled) == 3


def test_results_do_not_alias_earlier_results() -> None:
    shifted = jit(lambda x: x + 1)
    results = [shifted(Tensor([float(n)])) for n in range(4)]
    assert [r.item() for r in results] == [1, 2, 3, 4]


def test_returning_an_input_or_a_state_gives_memory_of_its_own() -> None:
    state = Tensor([0.0]).realize()

    @jit
    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        state.assign(state + x)
        return x, state

    given = Tensor([1.0])
    kept = [step(given) for _ in range(3)]
    given.assign(given * 10).realize()
    assert [[t.item() for t in pair] for pair in kept] == [[1, 1], [1, 2], [1, 3]]
    assert state.item() == 3


def test_an_input_that_is_also_closed_over() -> None:
    state = Tensor([1.0, 2.0]).realize()

    @jit
    def step(x: Tensor) -> Tensor:
        state.assign(state * 2)
        return x + state

    assert step(state).tolist() == [4.0, 8.0]  # x is the state, so it sees the assignment
    assert step(Tensor([1.0, 1.0])).tolist() == [5.0, 9.0]
    assert step(state).tolist() == [16.0, 32.0]
    assert step(Tensor([0.0, 0.0])).tolist() == [16.0, 32.0]
    assert captures(step) == 2


def test_the_same_tensor_given_twice() -> None:
    product = jit(lambda a, b: a * b)
    x = Tensor([3.0])
    assert product(x, x).item() == 9
    assert product(x, Tensor([2.0])).item() == 6


def test_a_closed_over_tensor_is_read_at_its_current_contents() -> None:
    offset = Tensor([1.0]).realize()
    shifted = jit(lambda x: x + offset)
    assert shifted(Tensor([1.0])).item() == 2
    offset.assign(Tensor([5.0]))
    assert shifted(Tensor([1.0])).item() == 6
    offset.assign(offset + 1).realize()
    assert shifted(Tensor([1.0])).item() == 7


def test_assignments_and_slices_persist() -> None:
    cache = Tensor.zeros(4, 2).contiguous().realize()

    @jit
    def write(row: Tensor) -> Tensor:
        cache[1:2] = row
        return cache.sum()

    assert write(Tensor([[1.0, 2.0]])).item() == 3
    assert write(Tensor([[5.0, 6.0]])).item() == 11
    np.testing.assert_array_equal(cache.numpy(), [[0, 0], [5, 6], [0, 0], [0, 0]])


def test_an_old_value_that_somebody_holds_is_not_overwritten() -> None:
    state = Tensor([1.0]).realize()

    @jit
    def step(x: Tensor) -> Tensor:
        state.assign(state + x)
        return state * 1

    step(Tensor([1.0]))
    held = state.detach()
    lazy = state * 100
    step(Tensor([1.0]))
    assert (held.item(), state.item(), lazy.item()) == (2, 3, 200)


def test_an_input_may_be_assigned_inside() -> None:
    @jit
    def increase(x: Tensor) -> None:
        x.assign(x + 1)

    x = Tensor([1.0])
    for _ in range(3):
        increase(x)
    assert x.item() == 4


def test_lazy_and_viewed_inputs_are_computed_first() -> None:
    total = jit(lambda x: x.sum())
    base = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert total(base.T).item() == 15
    assert total((base + 1)[:, ::2].T).item() == 14


def test_random_numbers_go_on() -> None:
    draw = jit(lambda: Tensor.rand(8))
    Tensor.manual_seed(3)
    jitted = np.concatenate([draw().numpy() for _ in range(3)])
    Tensor.manual_seed(3)
    eager = np.concatenate([Tensor.rand(8).numpy() for _ in range(3)])
    np.testing.assert_array_equal(jitted, eager)
    assert len(np.unique(jitted)) == jitted.size


@pytest.mark.parametrize(
    "read",
    [lambda x: x.sum().item(), lambda x: x.numpy(), lambda x: x if x.sum() > 0 else -x, lambda x: x.tolist()],
)
def test_reading_a_value_inside_raises_and_leaves_no_trace(read) -> None:  # type: ignore[no-untyped-def]
    state = Tensor([1.0]).realize()

    @jit
    def function(x: Tensor) -> Tensor:
        state.assign(state + 1)
        return read(x)

    with pytest.raises(JitError, match="reads a value"):
        function(Tensor([1.0]))
    assert state.item() == 1


def test_a_tensor_kept_outside_is_refused() -> None:
    kept = []
    with pytest.raises(JitError, match="kept outside"):
        jit(lambda x: kept.append(x * 2))(Tensor([1.0]))


def test_an_argument_that_cannot_be_a_key_is_refused() -> None:
    with pytest.raises(JitError, match="hashable"):
        jit(lambda x: x)(np.zeros(3))


def test_nested_arguments_and_results() -> None:
    mixed = jit(lambda pair, scale: {"sum": pair[0] + pair[1], "rest": [pair[1] * scale["by"], 7]})
    result = mixed((Tensor([1.0]), Tensor([2.0])), {"by": Tensor([3.0])})
    assert (result["sum"].item(), result["rest"][0].item(), result["rest"][1]) == (3, 6, 7)


def test_methods_are_bound() -> None:
    class Model:
        def __init__(self) -> None:
            self.weight = Tensor([2.0]).realize()

        @jit
        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    first, second = Model(), Model()
    second.weight.assign(Tensor([5.0]))
    assert first.forward(Tensor([1.0])).item() == 2
    assert second.forward(Tensor([1.0])).item() == 5


def test_training_persists_and_equals_eager() -> None:
    def run(wrap) -> list[float]:  # type: ignore[no-untyped-def]
        weight = Tensor([1.0, -2.0, 0.5], requires_grad=True)

        def step(x: Tensor, y: Tensor) -> Tensor:
            weight.grad = None
            loss = ((x @ weight - y) ** 2).mean()
            loss.backward()
            with no_grad():
                weight.assign(weight - 0.1 * weight.grad)
            return loss

        step = wrap(step)
        rng = np.random.default_rng(0)
        losses = []
        for _ in range(5):
            x, y = rng.standard_normal((8, 3), dtype=np.float32), rng.standard_normal(8, dtype=np.float32)
            losses.append(step(Tensor(x), Tensor(y)).item())
        return [*losses, *weight.tolist(), *weight.grad.tolist()]

    np.testing.assert_allclose(run(jit), run(lambda f: f), rtol=1e-5)


def test_a_variable_changes_without_a_new_capture() -> None:
    length = Variable("positions", 1, 8)
    values = Tensor(np.arange(8, dtype=np.float32))
    head = jit(lambda x, n: x[:n].sum())
    for size in (3, 8, 1):
        assert head(values, length.bind(size)).item() == sum(range(size))
    assert captures(head) == 1


def test_a_gradient_that_was_absent_is_not_one_that_is_there() -> None:
    weight = Tensor([1.0], requires_grad=True)

    @jit
    def accumulate(x: Tensor) -> None:
        (weight * x).sum().backward()

    for expected in (2.0, 4.0, 6.0):
        accumulate(Tensor([2.0]))
        assert weight.grad is not None and weight.grad.item() == expected


def test_a_hundred_kernels_replay_as_one_call() -> None:
    @jit
    def chain(x: Tensor) -> Tensor:
        for _ in range(30):
            x = (x @ x).contiguous() * 0.1
        return x

    x = Tensor(np.eye(8, dtype=np.float32) * 5)
    expected = np.eye(8) * 5
    for _ in range(30):
        expected = expected @ expected * 0.1
    for _ in range(2):
        np.testing.assert_allclose(chain(x).numpy(), expected, rtol=1e-4)
    realize_nodes([], None)
