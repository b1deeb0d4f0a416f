"""Whatever a jitted function reads outside its arguments: a later call sees it change, or JitError.

Each case computes `x * 2`, changes what the 2 came from to 5, and computes again; expected values by hand.
"""

from __future__ import annotations

import argparse
import builtins
import collections
import contextlib
import contextvars
import dataclasses
import datetime
import functools
import itertools
import logging
import operator
import os
import pathlib
import random
import secrets
import sys
import threading
import time
import types
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from petaflop import Tensor, nn, no_grad, optim
from petaflop.errors import GradientError, JitError
from petaflop.jit import jit

by_name: Any = 2  # a global that functions below read under a computed name
Pair = tuple[Callable[[Tensor], Any], Callable[[Any], Any]]  # the function, and how to set what it reads


def one() -> Tensor:
    return Tensor([1.0])


class Slots:
    __slots__ = ("k",)


@dataclasses.dataclass(slots=True)
class SlottedData:
    k: Any = None


@dataclasses.dataclass
class Data:
    k: Any = None


class Plain:
    k: Any


class Own:
    """Reads attributes in methods that nobody names."""

    def __init__(self, value: Any) -> None:
        self.hidden = value

    def __len__(self) -> int:
        return int(self.hidden)

    def __mul__(self, other: Tensor) -> Tensor:
        return other * self.hidden

    def __matmul__(self, other: Tensor) -> Tensor:
        return other * self.hidden

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "hidden":
            raise AttributeError(name)
        return self.hidden

    def __str__(self) -> str:
        return str(self.hidden)


class Class:
    k: Any = 2
    held: Any = None

    @classmethod
    def scaled(cls, x: Tensor) -> Tensor:
        return x * cls.k

    @classmethod
    def listed(cls, x: Tensor) -> Tensor:
        return x * cls.held[0]

    @functools.cached_property
    def cached(self) -> Any:
        return self.n  # type: ignore[attr-defined]


OBJECTS = [types.SimpleNamespace, Slots, SlottedData, Data, Plain, lambda: lambda: None]


def attribute(make: Callable[[], Any], value: Any) -> Pair:
    target = make()
    target.k = value
    return lambda x: x * target.k, functools.partial(setattr, target, "k")


def by_constant(make: Callable[[], Any], value: Any) -> Pair:
    target = make()
    target.k = value
    return lambda x: x * getattr(target, "k"), functools.partial(setattr, target, "k")  # noqa: B009


def by_computed(make: Callable[[], Any], value: Any) -> Pair:
    target, names = make(), ["k"]
    target.k = value
    return lambda x: x * sum(getattr(target, name) for name in names), functools.partial(setattr, target, "k")


def check(pair: Pair, first: Any = 2, then: Any = 5) -> None:
    body, change = pair
    function = jit(body)
    for _ in range(2):
        assert function(one()).item() == 2
    change(then)
    for _ in range(2):
        assert function(one()).item() == 5


@pytest.mark.parametrize("read", [attribute, by_constant, by_computed])
@pytest.mark.parametrize("make", OBJECTS)
@pytest.mark.parametrize("wrap", [int, lambda value: Tensor([float(value)])])
def test_attributes_of_any_object(read: Any, make: Any, wrap: Any) -> None:
    check(read(make, wrap(2)), then=wrap(5))


@pytest.mark.parametrize("make", OBJECTS)
def test_attributes_of_any_argument(make: Any) -> None:
    target = make()
    function = jit(lambda x, target: x * target.k)
    for value in (2, 5, 5.0):
        target.k = value
        assert function(one(), target).item() == value
    assert function(one(), make_with(make, 7)).item() == 7


def make_with(make: Any, value: Any) -> Any:
    target = make()
    target.k = value
    return target


def test_class_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Class, "k", 2)
    check((lambda x: Class.scaled(x), lambda value: monkeypatch.setattr(Class, "k", value)))
    monkeypatch.setattr(Class, "held", [2])
    check((lambda x: Class.listed(x), lambda value: Class.held.__setitem__(0, value)))


def test_a_method_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(Scale())
    check((model, lambda value: monkeypatch.setattr(Scale, "forward", lambda self, x: x * value)))
    layer = Scale()
    monkeypatch.setattr(Scale, "forward", lambda self, x: x * 2)
    check((lambda x: layer(x), lambda value: setattr(layer, "forward", lambda x: x * value)))


class Scale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def filled(make: Callable[[], Any], change: Callable[[Any, Any], Any]) -> Callable[[], Pair]:
    def pair() -> Pair:
        held = make()
        return lambda x: x * max(held), functools.partial(change, held)

    return pair


def mapped(make: Callable[[], Any]) -> Callable[[], Pair]:
    def pair() -> Pair:
        held = make()
        return lambda x: x * held["k"], functools.partial(held.__setitem__, "k")

    return pair


class ListOfOwn(list[Any]):
    pass


class DictOfOwn(collections.UserDict[str, Any]):
    pass


CONTAINERS = {
    "set": filled(lambda: {2}, lambda held, value: held.add(value)),
    "deque": filled(lambda: collections.deque([2]), lambda held, value: held.append(value)),
    "bytearray": filled(lambda: bytearray([2]), lambda held, value: held.__setitem__(0, value)),
    "list subclass": filled(lambda: ListOfOwn([2]), lambda held, value: held.__setitem__(0, value)),
    "UserList": filled(lambda: collections.UserList([2]), lambda held, value: held.append(value)),
    "UserDict": mapped(lambda: collections.UserDict(k=2)),
    "UserDict of tensors": mapped(lambda: collections.UserDict(k=Tensor([2.0]))),
    "UserDict subclass": mapped(lambda: DictOfOwn(k=2)),
    "ChainMap": mapped(lambda: collections.ChainMap({"k": 2})),
    "OrderedDict": mapped(lambda: collections.OrderedDict(k=2)),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(name: str) -> None:
    check(CONTAINERS[name]())


@pytest.mark.parametrize(
    "body",
    [
        lambda own: lambda x: x * len(own),
        lambda own: lambda x: own * x,
        lambda own: lambda x: own @ x,
        lambda own: lambda x: x * own.anything,
        lambda own: lambda x: x * int(f"{own}"),
        lambda own: lambda x: x * int(str(own)),
    ],
)
def test_methods_that_nobody_names(body: Any) -> None:
    own = Own(2)
    check((body(own), functools.partial(setattr, own, "hidden")))


def test_names_that_stand_elsewhere_in_the_code() -> None:
    def matched(x: Tensor) -> Tensor:
        match target:
            case Plain(k=value):
                return x * value
        return x

    target, getter = Plain(), operator.attrgetter("k")
    data = Data(2)
    change = functools.partial(setattr, target, "k")
    for body in (
        matched,
        lambda x: x * getter(target),
        lambda x: x * vars(target)["k"],
        lambda x: x * target.__dict__["k"],
    ):
        target.k = 2
        check((body, change))
    check((lambda x: x * dataclasses.asdict(data)["k"], functools.partial(setattr, data, "k")))


def test_code_that_is_reloaded() -> None:
    """What an autoreload does to functions, classes and objects that live on."""

    def helper(x: Tensor, factor: int = 2) -> Tensor:
        return x * factor

    class Base:
        def scaled(self, x: Tensor) -> Tensor:
            return x * 2

    class Old(Base):
        pass

    class New:
        def scaled(self, x: Tensor) -> Tensor:
            return x * 5

    check((lambda x: helper(x), lambda value: setattr(helper, "__defaults__", (value,))))
    helper.__defaults__ = (2,)
    check(
        (lambda x: helper(x), lambda value: setattr(helper, "__code__", (lambda x, factor: x * 5).__code__))
    )
    model = Old()
    check((lambda x: model.scaled(x), lambda value: setattr(Old, "scaled", New.scaled)))
    other: Any = Base()
    check((lambda x: other.scaled(x), lambda value: setattr(other, "__class__", New)))


def test_globals_under_computed_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(value: Any) -> None:
        monkeypatch.setitem(globals(), "by_name", value)

    check((lambda x: x * globals()["by_name"], change))
    change(2)
    check((lambda x: x * eval("by_name"), change))


@pytest.mark.parametrize("library", [False, True])
def test_what_a_module_holds(library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("settings_of_a_test")
    source = "k = [2]\ndef scaled(x): return x * k[0]\ndef imported(x):\n  import settings_of_a_test as s\n"
    exec(source + "  return x * s.k[0]", vars(module))
    if library:
        vars(module)["__file__"] = "/lib/python3/site-packages/settings.py"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for body in (lambda x: x * module.k[0], lambda x: module.scaled(x), lambda x: module.imported(x)):
        if not library or body.__code__.co_names == ("k",):
            module.k[0] = 2
            check((body, lambda value: module.k.__setitem__(0, value)))


def test_what_the_standard_library_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default=2)
    check((lambda x: x * variable.get(), variable.set))
    target = Plain()
    target.k = 2
    reference = weakref.ref(target)
    check((lambda x: x * reference().k, functools.partial(setattr, target, "k")))  # type: ignore[union-attr]
    monkeypatch.setenv("FACTOR_OF_A_TEST", "2")
    for read in (os.getenv, lambda name: os.environ[name], os.environ.get):
        monkeypatch.setenv("FACTOR_OF_A_TEST", "2")
        check(
            (
                lambda x, read=read: x * int(read("FACTOR_OF_A_TEST")),
                lambda value: monkeypatch.setenv("FACTOR_OF_A_TEST", str(value)),
            )
        )


def test_a_cached_property_may_be_filled_inside() -> None:
    target = Class()
    target.n = 2  # type: ignore[attr-defined]
    check((lambda x: x * target.cached, lambda value: vars(target).__setitem__("cached", value)))


def test_an_attribute_that_is_made_at_first_use() -> None:
    class Lazy:
        def __call__(self, x: Tensor) -> Tensor:
            if not hasattr(self, "size"):
                self.size = x.shape[0]
                return x * 0
            return x * self.size

    lazy = Lazy()
    function = jit(lambda x: lazy(x))
    assert [function(Tensor([3.0, 4.0])).tolist() for _ in range(3)] == [[0, 0], [6, 8], [6, 8]]


# ---- arguments ----


def test_arguments_that_call_themselves_equal() -> None:
    class Same:
        def __init__(self, k: int) -> None:
            self.k = k

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

    function = jit(lambda x, same: x * same.k)
    assert [function(one(), Same(k)).item() for k in (2, 5)] == [2, 5]


def test_equal_frozen_dataclasses_share_a_capture() -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        k: tuple[float, ...]
        names: frozenset[str] = frozenset(("a",))

    function = jit(lambda x, config: x.cast("int32") * config.k[0])
    results = [function(one(), Config((k,))) for k in (2, 2, 2.0, 5)]
    assert [r.item() for r in results] == [2, 2, 2, 5]
    assert [r.dtype.name for r in results] == ["int32", "int32", "float32", "int32"]
    assert sum(map(len, function.captures.values())) == 3


@pytest.mark.parametrize("make", [lambda: [2], lambda: {2}, lambda: collections.deque([2])])
def test_containers_as_arguments(make: Any) -> None:
    held = make()
    function = jit(lambda x, held: x * max(held))
    assert function(one(), held).item() == 2
    (held.add if isinstance(held, set) else held.append)(5)
    assert function(one(), held).item() == 5


# ---- what gives something else each time ----

numbers: Iterator[int] = iter(())
generator = np.random.default_rng(0)


def yielding() -> Iterator[int]:
    yield from range(2, 9)


@pytest.mark.parametrize(
    "make",
    [lambda: iter([2, 3]), lambda: itertools.count(2), lambda: iter(zip([2, 3], [4, 5], strict=True))]
    + [
        yielding,
        lambda: (n for n in [2, 3]),
        lambda: iter({2: 1, 3: 1}),
        lambda: enumerate("ab"),
        lambda: itertools.cycle([2, 3]),
    ],
)
def test_an_iterator_that_is_advanced(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "numbers", make())
    with pytest.raises(JitError, match=r"draws from a .*draw outside and pass the value"):
        jit(lambda x: (next(numbers), x * 2)[1])(one())


@pytest.mark.parametrize(
    ("draw", "source"),
    [
        (lambda: random.random(), "a Random"),
        (lambda: random.choice([2, 3]), "a Random"),
        (lambda: np.random.rand(), "a RandomState"),
        (lambda: generator.random(), "a Generator"),
        (lambda: time.perf_counter(), "time.perf_counter"),
        (lambda: time.time_ns(), "time.time_ns"),
        (lambda: datetime.datetime.now().year, "datetime.datetime.now"),
        (lambda: os.urandom(1)[0], "os.urandom"),
        (lambda: uuid.uuid4().int % 7, "uuid.uuid4"),
        (lambda: secrets.randbelow(9), "secrets.randbelow"),
        (lambda clock=time.monotonic: clock(), "time.monotonic"),
    ],
)
def test_calls_that_never_repeat(draw: Any, source: str) -> None:
    with pytest.raises(JitError, match=rf"{source}.* outside and pass the value"):
        jit(lambda x: x * draw())(one())


def test_a_generator_is_no_argument_and_no_result() -> None:
    with pytest.raises(JitError, match=r"a generator, which ends; make it a list"):
        jit(lambda x: (x * n for n in (1, 2)))(one())
    with pytest.raises(JitError, match=r"a list_iterator, which ends"):
        jit(lambda x, items: x * next(items))(one(), iter([2]))


def test_backward_on_a_result_says_where_to_call_it() -> None:
    weight = Tensor([2.0], requires_grad=True)
    result = jit(lambda x: x * weight)(one())
    for part in (result, (result * 3).sum()):
        with pytest.raises(GradientError, match="call backward inside the jitted function"):
            part.backward()
    with pytest.raises(GradientError, match=r"without requires_grad\n"):
        one().backward()


# ---- ordinary code is not refused, and not captured again ----


def test_code_that_is_not_run_refuses_nothing() -> None:
    verbose, steps = False, itertools.count()
    model = nn.Linear(2, 2)

    def function(x: Tensor) -> Tensor:
        if verbose:
            print(time.time(), random.random(), next(steps))
        first = next(model.parameters())
        logging.getLogger("petaflop.test").debug("not a change")
        return first.sum() * 0 + sum(x * n for n in range(3)) / (1 + len([*zip("a", "b", strict=True)]))

    jitted = jit(function)
    for _ in range(3):
        next(steps), random.random(), np.random.rand()
        assert jitted(one()).item() == 1.5
    assert sum(map(len, jitted.captures.values())) == 1


def test_ordinary_habits_are_captured_once() -> None:
    cache = {4: 2.0}
    options = argparse.Namespace(scale=2.0, verbose=False, folder=pathlib.Path("data"))
    steps, history = itertools.count(), collections.deque([0.0], maxlen=3)

    def remembered(number: int) -> float:
        if number not in cache:
            cache[number] = number**0.5
        return cache[number]

    @functools.lru_cache
    def slow(number: int) -> float:
        return number**0.5

    class Model(nn.Module):
        def __init__(self) -> None:
            self.layers = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
            self.made, self.lock = time.time(), threading.Lock()

        def forward(self, x: Tensor) -> Tensor:
            assert x.ndim == 1, f"{x.shape} for {self} in {options}"
            with contextlib.suppress(ValueError), no_grad():
                for layer in self.layers:
                    x = layer(x)
            return x * options.scale * remembered(4) * slow(4)

    model = Model()
    function = jit(model)
    for _ in range(3):
        next(steps)
        history.append(function(one()).item())
        options.folder = options.folder / "deeper"
    assert history[0] == history[-1] and sum(map(len, function.captures.values())) == 1


def test_a_training_loop_with_everything_around_it() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
            self.optimizer = optim.AdamW(self.model.parameters(), lr=0.1)
            self.epoch, self.losses, self.started = 0, [], time.time()  # type: ignore[var-annotated]
            self.logger = logging.getLogger("petaflop.test")
            self.rng, self.data = np.random.default_rng(0), np.ones((4, 3), np.float32)
            self.loss = functools.partial(nn.MSELoss(), target=Tensor(np.zeros((4, 1), np.float32)))
            self.options = types.SimpleNamespace(clip=1.0, names=["0", "2"])
            self.step = jit(self.train)

        def train(self, x: Tensor) -> Tensor:
            self.optimizer.zero_grad()
            loss = self.loss(self.model(x)) + sum(
                getattr(self.model, name).weight.sum() * 0 for name in self.options.names
            )
            loss.backward()
            self.optimizer.step()
            return loss

        def run(self) -> None:
            for self.epoch in range(5):
                x = self.data + 0.01 * self.rng.random()
                self.losses.append(self.step(Tensor(x.astype(np.float32))).item())
                self.logger.debug("%s %s", self.epoch, time.time() - self.started)

    trainer = Trainer()
    trainer.run()
    assert trainer.losses[-1] < trainer.losses[0]
    assert builtins.sum(map(len, trainer.step.captures.values())) <= 2  # without gradients, then with
