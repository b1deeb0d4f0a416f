"""`jit`: capture one call of a function as a single schedule, and replay it at the cost of one native call.

The function runs once on placeholders while nothing is computed; what it returned, assigned and put into
`.grad` becomes the results of one graph. Which calls share a capture is decided here: equal arguments but for
the values of tensors, equal modes, and everything else that the function reads as it was (guards.py).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from petaflop import realize as runtime
from petaflop.capture import Capture, replay
from petaflop.config import config
from petaflop.guards import Guards
from petaflop.reach import guards_of
from petaflop.structure import flatten_call, unflatten
from petaflop.tensor import Tensor
from petaflop.tensor.mode import grad_enabled
from petaflop.tensor.precision import autocast_dtype
from petaflop.trace import capture_call

__all__ = ["Jit", "jit"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
_MAX_CAPTURES = 64
_MANY_CHANGES = 8


class Jit(Generic[Parameters, Result]):
    """A function whose first call with each kind of arguments is captured, and later ones replayed; see
    `jit`."""

    petaflop_guarded = ("function",)  # what guards look at: the captures change with every new one

    def __init__(self, function: Callable[Parameters, Result]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.captures: dict[Any, list[tuple[Capture, Guards]]] = {}

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if runtime.is_deferred() or config.check == "index":  # inside another capture it is part of that
            return self.function(*args, **kwargs)
        tensors: list[Tensor] = []
        objects: list[Any] = []
        structure = flatten_call(args, kwargs, tensors, objects)
        kinds = [
            (n.shape, n.dtype, t._device or t.device, t._leaf or n.needs_gradient, t._grad is None)
            for t, n in [(t, t._node) for t in tensors]
        ]
        key = (structure, *kinds, grad_enabled(), autocast_dtype(), config.fuse)
        with runtime.lock:
            lazy = [t for t in tensors if t._node.buffer is None]
            if lazy:
                Tensor.realize(*lazy)
            for capture, guards in self.captures.get(key, ()):
                if capture.fits(tensors) and guards.hold:
                    break
            else:
                capture = self._capture(key, structure, tensors, objects)
            results = replay(capture, tensors)
        one = capture.structure == 0  # the place of the only result, where it is all there is
        return results[0] if one else unflatten(capture.structure, results)  # type: ignore[return-value]

    def _capture(self, key: Any, structure: Any, tensors: list[Tensor], objects: list[Any]) -> Capture:
        guards = guards_of(self.function, *objects)
        found = self.captures.setdefault(key, [])
        if len(found) == _MANY_CHANGES:
            reasons = [text for _, guards in found[-1:] for text in guards.changed()]
            warnings.warn(
                f"jit: {getattr(self.function, '__name__', 'a function')} is captured again and again"
                + (f", because of {reasons[0]}; pass a changing number as a Tensor" if reasons else ""),
                RuntimeWarning,
                stacklevel=3,
            )
        capture = capture_call(self.function, structure, tensors, guards)
        guards.advancing.clear()  # of use only to the capture itself
        found.append((capture, guards))
        if sum(map(len, self.captures.values())) > _MAX_CAPTURES:
            oldest = next(iter(self.captures))
            del self.captures[oldest][0]
            if not self.captures[oldest]:
                del self.captures[oldest]
        return capture


def jit(function: Callable[Parameters, Result]) -> Jit[Parameters, Result]:
    """Capture the first call of `function` and replay it afterwards, without Python work on the graph.

    Arguments may be tensors and any objects, nested in lists, tuples and dicts; results tensors and hashable
    values. Another shape, dtype, device or value captures anew; a bound `Variable` may change freely. So does
    another value of whatever else the function reads, which is found from its code at the capture and
    compared at each call: closed-over and global names, attributes of objects, classes, modules and functions
    (also under computed names), items of lists, dicts, sets and other containers, the environment, through
    the functions and methods that it calls. Not seen, and so read once: what NumPy arrays hold, what a C
    extension keeps to itself, files.

    Tensors that the function closes over are read anew each time, assignments to them (and `.grad`) persist,
    random numbers go on. Results never share memory with earlier ones, and have no history: call `backward`
    inside. A jitted function called inside another is part of it. Python code runs only while it is captured,
    so a function raises JitError if it changes Python values, reads a tensor's (`item`, `numpy`,
    `if tensor:`), keeps a tensor elsewhere, advances an iterator from outside, draws from `random` or
    `numpy.random`, or asks for the time, a uuid or `os.urandom`. (Under a profiler, clocks are not seen.)

    Calls from several threads take turns; other threads may go on building and computing tensors meanwhile.

    >>> double = jit(lambda x: x * 2)
    >>> double(Tensor([1.0, 2.0])).tolist()
    [2.0, 4.0]
    """
    return Jit(function)
