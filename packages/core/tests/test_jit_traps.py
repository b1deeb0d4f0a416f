"""The traps that jits are known for, one test each: a replay gives what the function gives, or JitError.

Expected values are written out by hand or computed in NumPy.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petaflop import Tensor, Variable, nn, no_grad, optim
from petaflop.amp import autocast
from petaflop.dtype import bfloat16, float32
from petaflop.errors import JitError
from petaflop.jit import Jit, jit

scale = 1  # a global that functions below read


def captures(function: Jit[..., Any]) -> int:
    return sum(map(len, function.captures.values()))


def one(value: float = 1.0) -> Tensor:
    return Tensor([value])


# ---- Python values that are not arguments ----


def test_a_global_is_not_frozen() -> None:
    global scale
    function = jit(lambda x: x * scale)
    results = []
    for scale in (1, 2, 3, 2):  # noqa: B007 - the function reads it
        results.append(function(one(10.0)).item())
    scale = 1
    assert results == [10, 20, 30, 20]
    assert captures(function) == 3  # back at 2, the capture for 2 is found again


def test_a_closed_over_value_is_not_frozen() -> None:
    factor: float = 1.0
    function = jit(lambda x: x * factor)
    results = []
    for factor in (1.0, 2.0, float("nan"), float("nan"), -0.0):  # noqa: B007
        results.append(function(one()).item())
    np.testing.assert_array_equal(results, [1, 2, np.nan, np.nan, -0.0])
    assert np.signbit(results[-1])
    assert captures(function) == 4


def test_an_attribute_is_not_frozen() -> None:
    class Model:
        bias = 0

        def __init__(self) -> None:
            self.factor, self.parts = 1, [1, {"weight": 1}]

        def inner(self, x: Tensor) -> Tensor:
            return x * self.factor + self.bias

        @jit
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * self.parts[0] * self.parts[1]["weight"]

    model = Model()
    assert model.forward(one()).item() == 1
    model.factor = 2
    assert model.forward(one()).item() == 2
    model.parts[0] = 3
    assert model.forward(one()).item() == 6
    model.parts[1]["weight"] = 10  # type: ignore[index]
    assert model.forward(one()).item() == 60
    model.bias = 1
    assert model.forward(one()).item() == 90


def test_a_helper_that_is_replaced() -> None:
    table: dict[str, Callable[[Tensor], Tensor]] = {"act": lambda x: x + 1}
    function = jit(lambda x: table["act"](x))
    assert function(one()).item() == 2
    table["act"] = lambda x: x * 100
    assert function(one()).item() == 100


def test_an_attribute_that_becomes_another_tensor() -> None:
    class Model:
        def __init__(self) -> None:
            self.weight = one(2.0).realize()

    model = Model()
    function = jit(lambda x: x * model.weight)
    assert function(one()).item() == 2
    model.weight = one(7.0)
    assert function(one()).item() == 7


def test_an_object_that_holds_its_own_jitted_method() -> None:
    class Model:
        def __init__(self) -> None:
            self.scale = 2
            self.fast = jit(self.scaled)

        def scaled(self, x: Tensor) -> Tensor:
            return x * self.scale

        def __call__(self, x: Tensor) -> Tensor:
            return self.fast(x)

    model = Model()
    assert [model(one(value)).item() for value in (1, 2, 3)] == [2, 4, 6]
    assert captures(model.fast) == 1
    model.scale = 5
    assert model(one()).item() == 5


def test_training_mode_is_part_of_the_capture() -> None:
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5))
    function = jit(model)
    x = Tensor.ones(1, 4)
    model.eval()
    plain = function(x).numpy()
    model.train()
    dropped = function(x).numpy()
    model.eval()
    np.testing.assert_array_equal(function(x).numpy(), plain)
    assert 8 < (dropped == 0).sum() < 56 and not (plain == 0).any()
    assert captures(function) == 2


def test_a_value_that_the_function_changes_is_refused() -> None:
    class Counter:
        def __init__(self) -> None:
            self.calls = 0

    counter = Counter()

    @jit
    def function(x: Tensor) -> Tensor:
        counter.calls += 1
        return x * counter.calls

    with pytest.raises(JitError, match=r"changes calls \(it was 0, it is 1\)"):
        function(one())


def test_a_number_that_always_changes_is_reported() -> None:
    step = 0
    function = jit(lambda x: x + step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(8):
            assert function(one()).item() == 1 + step
    step = 100
    with pytest.warns(RuntimeWarning, match=r"again and again, because of step \(it was 7, it is 100\)"):
        assert function(one()).item() == 101


def test_unread_values_capture_nothing_anew() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.weight, self.epoch, self.log = one(3.0).realize(), 0, [0.0]

        @jit
        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    trainer = Trainer()
    for trainer.epoch in range(4):
        trainer.log.append(trainer.forward(one()).item())
    assert trainer.log == [0, 3, 3, 3, 3]
    assert captures(Trainer.__dict__["forward"]) == 1


def test_the_body_runs_once_for_each_capture(capsys: pytest.CaptureFixture[str]) -> None:
    function = jit(lambda x: (print("traced"), x * 2)[1])
    assert [function(one(n)).item() for n in range(4)] == [0, 2, 4, 6]
    assert capsys.readouterr().out == "traced\n"


# ---- arguments ----


def test_a_static_argument_decides_a_branch() -> None:
    function = jit(lambda x, square: x * x if square else x * 2)
    assert [function(one(3.0), flag).item() for flag in (True, False, True)] == [9, 6, 9]


def test_equal_numbers_of_other_kinds_are_other_arguments() -> None:
    function = jit(lambda x, factor: x * factor)
    results = [function(Tensor([1]), value) for value in (1, True, 1.0, 0.0, -0.0)]
    assert [str(r.dtype) for r in results] == ["int32"] * 2 + ["float32"] * 3
    assert np.signbit(results[4].numpy()) and not np.signbit(results[3].numpy())
    assert captures(function) == 5


def test_positional_and_keyword_arguments_may_mix() -> None:
    a, b, default = one(6.0), one(2.0), one(4.0)
    function = jit(lambda first, second=default, power=1: first**power / second)
    assert function(a, b).item() == 3
    assert function(second=b, first=a).item() == 3
    assert function(a, second=b, power=2).item() == 18
    assert function(a).item() == 1.5


def test_tensors_in_containers_are_arguments() -> None:
    function = jit(lambda x, rest: x + rest[0] * rest[1]["by"])
    for n in range(3):
        assert function(one(), [one(n), {"by": one(2.0)}]).item() == 1 + 2 * n
    assert captures(function) == 1


def test_lists_of_another_length_capture_anew() -> None:
    function = jit(lambda parts: sum(parts[1:], parts[0]))
    assert function([one()] * 2).item() == 2
    assert function([one(), one(2.0), one(3.0)]).item() == 6


def test_views_at_other_offsets_are_one_capture() -> None:
    base = np.arange(20, dtype=np.float32).reshape(2, 10)
    tensor = Tensor(base).realize()
    function = jit(lambda x: x + 1)
    for start in range(1, 5):
        np.testing.assert_array_equal(
            function(tensor[:, start : start + 2]).numpy(), base[:, start : start + 2] + 1
        )
    assert captures(function) == 1


def test_constants_are_arguments_like_any_other() -> None:
    function = jit(lambda x, y: x * y)
    assert function(Tensor([1.0, 2.0]), Tensor(2.0)).tolist() == [2, 4]
    assert function(Tensor([1.0, 2.0]), Tensor(3.0)).tolist() == [3, 6]
    assert function(Tensor.ones(2), Tensor.full((2,), 4.0)).tolist() == [4, 4]


def test_one_tensor_as_two_arguments_of_which_one_is_assigned() -> None:
    @jit
    def function(target: Tensor, other: Tensor) -> Tensor:
        target.assign(target + other)
        return other * 1

    x, y = one(), one(2.0)
    assert (function(x, y).item(), x.item()) == (2, 3)
    z = one(3.0)
    assert (function(z, z).item(), z.item()) == (6, 6)


def test_an_argument_keeps_its_gradient() -> None:
    function = jit(lambda x: (x * x).sum().backward())
    first, second = (Tensor([value], requires_grad=True) for value in (3.0, 5.0))
    for turn in range(1, 4):
        function(first)
        function(second)
        assert first.grad is not None and second.grad is not None
        assert (first.grad.item(), second.grad.item()) == (6 * turn, 10 * turn)
    first.grad = None
    function(first)
    assert first.grad.item() == 6


# ---- results ----


def test_results_that_are_not_tensors() -> None:
    function = jit(lambda x, n: (x * 2, n * 10, None, "text"))
    for n in (1, 2, 1):
        assert [function(one(), n)[k] for k in (1, 2, 3)] == [n * 10, None, "text"]


def test_constant_results_have_memory_of_their_own() -> None:
    function = jit(lambda x: Tensor.ones(2))
    first, second = function(one()), function(one())
    first.assign(first + 1).realize()
    assert (first.tolist(), second.tolist()) == ([2, 2], [1, 1])


def test_a_function_that_does_nothing() -> None:
    function = jit(lambda x: None)
    assert [function(one()) for _ in range(3)] == [None] * 3


def test_a_result_becomes_the_next_argument() -> None:
    @jit
    def step(x: Tensor) -> Tensor:
        return ((x + 1).contiguous() * 2).contiguous()

    for start, expected in ((20.0, 350.0), (100.0, 1630.0)):  # a new session after one that fed itself
        x = one(start)
        for _ in range(4):
            x = step(x)
        assert x.item() == expected


def test_a_buffer_that_shifts_into_itself() -> None:
    half = 1 << 12
    shift = jit(lambda buffer, new: (buffer[half:].cat(new), buffer[:1]))
    buffer = Tensor.zeros(2 * half, dtype="int32").contiguous().realize()
    for n in range(6):
        buffer, head = shift(buffer, Tensor(np.full(half, n + 1, np.int32)))
        np.testing.assert_array_equal(buffer.numpy()[:half], np.full(half, n))
        assert head.item() == max(n - 1, 0)


def test_a_result_kept_outside_has_no_history() -> None:
    weight = Tensor([2.0], requires_grad=True)
    function = jit(lambda x: x * weight)
    assert [function(one(3.0)).requires_grad for _ in range(2)] == [False, False]


# ---- shapes and values that depend on data ----


@pytest.mark.parametrize(
    "function",
    [
        lambda x: Tensor.zeros(int(x.sum().item())),
        lambda x: x.masked_select(x > 1),
        lambda x: x.nonzero(),
        lambda x: Tensor(x.tolist()),
        lambda x: x[: int(x[0])],
        lambda x: Tensor(np.asarray(x)),
    ],
)
def test_shapes_from_data_are_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(JitError, match="reads a value"):
        jit(function)(Tensor([1, 2]))


def test_a_variable_reaches_views_and_writes() -> None:
    count, position = Variable("count", 1, 10), Variable("position", 0, 3)
    rows = Tensor.ones(3, 10).realize()
    padded = jit(lambda x, n: (x[:, :n] + 1).pad((0, 10 - n, 0, 0)))
    cache = Tensor.zeros(4, 4).contiguous().realize()

    @jit
    def write(at: Variable) -> Tensor:
        cache[at : at + 1, :] = Tensor.ones(1, 4)
        return cache.sum()

    for n in range(1, 5):
        assert (padded(rows, count.bind(n)).numpy() != 0).sum() == 3 * n
    for n in range(4):
        cache.assign(Tensor.zeros(4, 4)).realize()
        assert write(position.bind(n)).item() == 4
        assert cache.numpy()[n].tolist() == [1, 1, 1, 1]
    assert (captures(padded), captures(write)) == (1, 1)


# ---- state ----


def test_a_jitted_function_inside_another() -> None:
    total = Tensor([0.0]).realize()

    @jit
    def inner(x: Tensor) -> Tensor:
        total.assign(total + x)
        return x + 1

    outer = jit(lambda x: inner(x) * 3)
    assert [outer(one(float(n))).item() for n in range(4)] == [3, 6, 9, 12]
    assert inner(one(5.0)).item() == 6
    assert total.item() == 11


def test_a_lazy_closed_over_tensor() -> None:
    lazy = one(2.0) * 3
    function = jit(lambda x: x + lazy)
    assert [function(one()).item() for _ in range(2)] == [7, 7]
    for n in range(3):
        lazy.assign(Tensor([float(n)]))
        assert function(one()).item() == 1 + n


def test_a_closed_over_tensor_of_another_kind() -> None:
    state = one(2.0).realize()
    function = jit(lambda x: x * state)
    assert function(one(3.0)).item() == 6
    state.to_("float64")
    assert function(one(3.0)).dtype.name == "float64" and function(one(3.0)).item() == 6


def test_a_gradient_that_comes_and_goes() -> None:
    weight = Tensor([1.0], requires_grad=True)
    optimizer = optim.SGD([weight], lr=0.5)
    step = jit(optimizer.step)
    step()  # no gradient yet: nothing to do
    (weight * 3).sum().backward()
    step()
    optimizer.zero_grad()
    step()
    (weight * 1).sum().backward()
    step()
    assert weight.item() == 1 - 1.5 - 0.5


def test_a_learning_rate_may_change() -> None:
    weight = Tensor([0.0], requires_grad=True)
    optimizer = optim.SGD([weight], lr=1.0)

    @jit
    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        (weight * x).sum().backward()
        optimizer.step()

    seen = []
    for rate in (1.0, 1.0, 0.5, 0.25):
        optimizer.param_groups[0]["lr"] = rate
        step(one())
        seen.append(weight.item())
    assert seen == [-1, -2, -2.5, -2.75]
    assert captures(step) == 2  # without a gradient at first, then with one


def test_modes_are_part_of_the_key() -> None:
    function = jit(lambda x: x @ x)
    x = Tensor.rand(2, 2)
    with autocast(bfloat16):
        assert function(x).dtype is bfloat16
    assert function(x).dtype is float32
    with no_grad():
        function(x)
    assert captures(function) == 3


def test_a_new_seed_starts_anew() -> None:
    draw = jit(lambda: Tensor.rand(4))
    results = []
    for seed in (1, 1, 2):
        Tensor.manual_seed(seed)
        results.append([draw().tolist(), draw().tolist()])
    assert results[0] == results[1] != results[2]
    assert results[0][0] != results[0][1]


def test_an_exception_inside_leaves_no_trace() -> None:
    state = Tensor([1.0]).realize()
    bad = True

    @jit
    def function(x: Tensor) -> Tensor:
        state.assign(state + x)
        if bad:
            raise KeyError("x")
        return state * 10

    with pytest.raises(KeyError):
        function(one())
    assert state.item() == 1
    bad = False
    assert (function(one()).item(), state.item()) == (20, 2)


def test_tensors_made_inside_may_be_changed_in_place() -> None:
    rows = Tensor.zeros(3, 2).realize()

    @jit
    def function(x: Tensor) -> Tensor:
        doubled = x * 2
        doubled += 1
        rows[1] += doubled
        weight = Tensor([3.0, 4.0], requires_grad=True)
        (weight * doubled).sum().backward()
        return weight.grad * 10

    for number in (1, 2):
        assert function(Tensor([1.0, 2.0])).tolist() == [30, 50]
        assert rows.tolist() == [[0, 0], [3 * number, 5 * number], [0, 0]]


# ---- threads ----


def test_other_threads_go_on_during_a_capture() -> None:
    """What another thread builds, assigns and differentiates while a function is captured stays its own."""
    inside, outside = threading.Event(), threading.Event()
    state, weight, kept = one().realize(), Tensor([1.0], requires_grad=True), []

    @jit
    def function(x: Tensor) -> Tensor:
        inside.set()
        assert outside.wait(20)
        return x * 2

    def other() -> None:
        assert inside.wait(20)
        kept.append(one(5.0) + 1)
        state.assign(state + 41)
        (weight * 7).sum().backward()
        outside.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert function(one()).item() == 2
    thread.join()
    assert weight.grad is not None
    assert (kept[0].item(), state.item(), weight.grad.item()) == (6, 42, 7)


def test_threads_share_a_jitted_function() -> None:
    total = Tensor(np.zeros(1, np.float32)).realize()

    @jit
    def function(x: Tensor) -> Tensor:
        total.assign(total + x.sum())
        return x * 2

    right: list[bool] = []

    def work(number: int) -> None:
        for turn in range(10):
            x = np.full(4 + turn % 2, number, np.float32)
            right.append(np.array_equal(function(Tensor(x)).numpy(), x * 2))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 60
    assert total.item() == sum(n * (4 + t % 2) for n in range(6) for t in range(10))
