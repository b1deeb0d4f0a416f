"""Which sizes a capture holds as numbers and which may vary between its calls.

The first call with some sizes is captured with plain numbers. A later one that differs in some dimensions is
captured with Variables for those, and so serves all calls that differ in nothing else. A size that is 1 then
is a number, as products of one row want other plans. Dimensions may depend on each other (a mask is as long
as cache and prompt together): where a graph cannot be captured with free sizes, sums that have held in every
call are tried. A graph that cannot be captured either way has a capture for each set of sizes.
"""

from __future__ import annotations

import itertools
import re
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from petaflop import Tensor, Variable
from petaflop.errors import DeviceMemoryError, PetaflopError
from petaflop.plugin_api import Dim, Expr, config, evaluate
from petaflop.recording import settled, sized
from petaflop_onnx.sizes import NeedsBound, NeedsNumber
from petaflop_onnx.values import NeedsValue, ValueSpec

__all__ = ["Dimensions"]

Call = Callable[..., tuple[Tensor, ...]]
_USUAL_BOUND = 4096  # working memory is for the largest sizes, so it may have to be lower
_MOST_FORMS = 16  # captures for varying sizes, per model
_MOST_SEEN = 256  # sets of sizes that are known to be captured as numbers
_MOST_CALLS = 8  # that a relation between sizes must have held in
# What handlers, graph and compiler raise where they need a number; errors of a replay are never caught.
_FAULT = (
    "sizes: expected one capture for all sizes, or a reason why there is none, got {kind}: {text}; "
    "the model runs with a capture for each set of sizes. Please report this"
)
_NEEDS = (PetaflopError, NeedsNumber, NeedsValue)


@dataclass(frozen=True, slots=True)
class _Form:
    """The sizes of a capture by name: a number, a Variable, or a sum of others."""

    sizes: Mapping[str, Dim]
    shapes: tuple[tuple[Dim, ...], ...]

    @property
    def variables(self) -> list[tuple[str, Expr]]:
        return [(name, dim) for name, dim in self.sizes.items() if isinstance(dim, Expr) and not dim.args]

    def values(self, sizes: Mapping[str, int]) -> dict[Expr, int] | None:
        """What the Variables are in a call with these sizes; None where it is of another form."""
        values = {variable: sizes[name] for name, variable in self.variables}
        inside = all(variable.lo <= value <= variable.hi for variable, value in values.items())
        fits = inside and all(evaluate(dim, values) == sizes[name] for name, dim in self.sizes.items())
        return values if fits else None

    def run(self, call: Call, given: Sequence[Tensor], values: Mapping[Expr, int]) -> list[Tensor]:
        arguments = [
            sized(tensor, shape, values) if any(isinstance(dim, Expr) for dim in shape) else tensor
            for tensor, shape in zip(given, self.shapes, strict=True)
        ]
        return [settled(output) for output in call(*arguments)]


class Dimensions:
    """The named dimensions of a model's inputs, and what its calls so far say of them."""

    petaflop_guarded = ()  # what a capture depends on is in its arguments

    def __init__(self, specs: Sequence[ValueSpec]) -> None:
        self._shapes = [_named(spec) for spec in specs]
        self._names = tuple(dict.fromkeys(d for shape in self._shapes for d in shape if isinstance(d, str)))
        self._lock = threading.Lock()
        self._forms: list[_Form] = []
        self._as_numbers: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self._calls: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self._values: dict[str, set[int]] = {name: set() for name in self._names}
        self._bounds: dict[str, int] = {}  # that the graph sets
        self._bound = _USUAL_BOUND
        self._refused: set[tuple[object, ...]] = set()
        self._with_sums = self._apart = False

    def run(self, call: Call, given: Sequence[Tensor]) -> list[Tensor]:
        """What `call` makes of these tensors, by the capture that fits them, or a new one."""
        sizes = self._sizes(given)
        key = tuple(sizes.values())
        found: tuple[_Form, dict[Expr, int]] | None = None
        with self._lock:  # one thread makes a capture, others wait for it
            if key not in self._as_numbers:
                fitting = ((form, form.values(sizes)) for form in self._forms)
                found = next(((form, values) for form, values in fitting if values is not None), None)
                if found is None:
                    self._learn(sizes)
                    if (result := self._attempt(call, given, sizes)) is not None:
                        return result
                    self._as_numbers[key] = None
                    if len(self._as_numbers) > _MOST_SEEN:
                        self._as_numbers.popitem(last=False)
        if found is not None:
            return found[0].run(call, given, found[1])
        try:
            return list(call(*given))
        except BaseException:
            with self._lock:  # sizes that the model refuses say nothing of those to come
                self._calls.pop(key, None)
                self._as_numbers.pop(key, None)
            raise

    def _sizes(self, given: Sequence[Tensor]) -> dict[str, int]:
        sizes: dict[str, int] = dict.fromkeys(self._names, 0)
        for shape, tensor in zip(self._shapes, given, strict=True):
            for name, size in zip(shape, tensor.shape, strict=False):
                if isinstance(name, str):
                    sizes[name] = int(size)
        return sizes

    def _learn(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            if size == 0 or (size != 1 and len(self._values[name] - {0}) < 2):
                self._values[name].add(size)
        self._calls[tuple(sizes.values())] = None
        if len(self._calls) > _MOST_CALLS:
            self._calls.popitem(last=False)

    def _attempt(self, call: Call, given: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor] | None:
        """By a new capture with Variables; None where there is nothing to vary or no way to capture it."""
        if len(self._forms) >= _MOST_FORMS:
            return None
        choices = itertools.product((False, True), (False, True))
        for with_sums, apart in sorted(
            choices, key=lambda each: each != (self._with_sums, self._apart)
        ):  # what worked before comes first
            for form in self._proposed(sizes, with_sums, apart):
                values = form.values(sizes)
                assert values is not None, f"a form that does not fit its own call: {form}"
                try:
                    result = form.run(call, given, values)
                except NeedsBound as bound:
                    self._bounds.update((n, bound.maximum) for n, v in form.variables if v is bound.size)
                except DeviceMemoryError:
                    self._refused.add(_key(form))
                    self._bound //= 8
                except _NEEDS as reason:
                    if config.debug >= 1:
                        text = f"sizes: {dict(form.sizes)}: no capture for all of them: {reason}"
                        print(text, file=sys.stderr, flush=True)
                    self._refused.add(_key(form))
                except Exception as fault:  # noqa: BLE001 - the model still runs, and says what went wrong
                    warnings.warn(_FAULT.format(kind=type(fault).__name__, text=fault), RuntimeWarning, 2)
                    self._refused.add(_key(form))
                else:
                    self._with_sums, self._apart = with_sums, apart
                    self._forms.insert(0, form)
                    return result
        return None

    def _proposed(self, sizes: Mapping[str, int], with_sums: bool, apart: bool) -> Iterator[_Form]:
        """The form to try, and again whenever an attempt has found that sizes need tighter bounds."""
        bounds: object = None
        while bounds != (bounds := (self._bound, tuple(self._bounds.items()))):
            form = self._form(sizes, with_sums, apart)
            if form is None or _key(form) in self._refused:
                return
            yield form

    def _form(self, sizes: Mapping[str, int], with_sums: bool, apart: bool) -> _Form | None:
        """Variables for what has changed; None where that is nothing. `apart` keeps 0 apart from larger
        sizes."""
        dims: dict[str, Dim] = dict(sizes)
        free = [name for name in self._names if self._may_vary(name, sizes[name], apart)]
        sums = self._sums(free) if with_sums else {}
        if not free or (with_sums and not sums):
            return None
        for name in free:
            if name not in sums:
                bound = self._bounds.get(name, max(self._bound, 1 << (2 * sizes[name]).bit_length()))
                least = 0 if 0 in self._values[name] and not apart else 2
                clean = re.sub(r"\W", "_", name)
                dims[name] = Variable(f"onnx_{clean}_{self._names.index(name)}", least, bound)
        for name, (left, right) in sums.items():
            dims[name] = dims[left] + (dims[right] if isinstance(right, str) else right)
        shapes = [tuple(dims[d] if isinstance(d, str) else d for d in shape) for shape in self._shapes]
        return _Form(dims, tuple(shapes))

    def _may_vary(self, name: str, size: int, apart: bool) -> bool:
        least = 2 if apart else 0
        known = {value for value in self._values[name] if value >= least}
        return len(known) > 1 and size in (0, *range(2, self._bounds.get(name, size) + 1)) and size >= least

    def _sums(self, free: Sequence[str]) -> dict[str, tuple[str, str | int]]:
        """Sizes that were the sum of two others, or of another and 0 or 1, in every call so far."""
        calls = [dict(zip(self._names, call, strict=True)) for call in self._calls]
        sums: dict[str, tuple[str, str | int]] = {}
        for name in reversed(free):
            others = [other for other in self._names if other != name and other not in sums]
            taken = {part for pair in sums.values() for part in pair}
            pairs: list[tuple[str, str | int]] = [*itertools.combinations(others, 2)]
            pairs += [(other, number) for other in others for number in (0, 1)]
            for left, right in pairs if name not in taken else ():
                add = [0 if isinstance(right, int) else call[right] for call in calls]
                number = right if isinstance(right, int) else 0
                if all(c[name] in (1, c[left] + more + number) for c, more in zip(calls, add, strict=True)):
                    sums[name] = (left, right)
                    break
        return sums


def _named(spec: ValueSpec) -> tuple[int | str, ...]:
    """The shape with a name for each size that may vary: a size that has none is named by its place."""
    shape = enumerate(spec.shape or ())
    return tuple(f"{spec.name}.{axis}" if size is None else size for axis, size in shape)


def _key(form: _Form) -> tuple[object, ...]:
    """What an attempt depends on: what varies, within which bounds, and which sizes are 0 or 1."""
    return tuple(dim if isinstance(dim, Expr) else min(dim, 2) for dim in form.sizes.values())
