"""Module: parameters, buffers and other modules under names, in the order in which they were given.

The names in a state dict are those that PyTorch gives for the same layers, so weights can be exchanged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

from petaflop.dtype import DTYPES
from petaflop.errors import ArgumentError, ShapeError
from petaflop.tensor import Tensor, no_grad

DTYPE_NAMES = frozenset((*DTYPES, "half", "float", "double", "int", "long", "short"))
__all__ = ["Module", "ModuleList", "Parameter", "Sequential"]


def Parameter(data: Tensor, requires_grad: bool = True) -> Tensor:
    """A tensor of its own that modules list among their parameters, and gradients go to.

    >>> Parameter(Tensor.ones(3)).requires_grad
    True
    """
    return data.detach().requires_grad_(requires_grad)


class Module:
    """A part of a model: assign parameters and other modules to attributes, define `forward`.

    Tensors that require gradients become parameters. Lists, tuples and dicts of modules count as well, under
    `name.0`, `name.key`.

    >>> class Double(Module):
    ...     def forward(self, x):
    ...         return x * 2
    >>> Double()(Tensor([1, 2])).tolist()
    [2, 4]
    """

    training: bool = True

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.is_leaf and value.requires_grad and name not in self._buffers:
            self._parameters[name] = None
        elif name in self._parameters and value is not None and not isinstance(value, Tensor):
            raise ArgumentError(
                f"{name}: expected a Tensor or None for a parameter, got {type(value).__name__}"
            )
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._parameters.pop(name, None)
        self._buffers.pop(name, None)
        object.__delattr__(self, name)

    @property
    def _parameters(self) -> dict[str, None]:
        return self.__dict__.setdefault("_parameter_names", {})

    @property
    def _buffers(self) -> dict[str, bool]:
        return self.__dict__.setdefault("_buffer_names", {})

    def register_buffer(self, name: str, value: Tensor | None, persistent: bool = True) -> None:
        """A tensor that is part of the state (unless not persistent) and not trained."""
        self._buffers[name] = persistent
        setattr(self, name, value)

    def register_parameter(self, name: str, value: Tensor | None) -> None:
        """A parameter under a name; None keeps the name for an absent one."""
        self._parameters[name] = None
        setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes."""
        raise NotImplementedError(f"{type(self).__name__}: expected a method forward, got none")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # ---- walking ----

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules that are attributes of this one, with those in its lists and dicts."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, (list, tuple)):
                yield from ((f"{name}.{k}", item) for k, item in enumerate(value) if isinstance(item, Module))
            elif isinstance(value, dict):
                yield from ((f"{name}.{k}", item) for k, item in value.items() if isinstance(item, Module))

    def children(self) -> Iterator[Module]:
        """`named_children` without the names."""
        return (child for _, child in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, each once."""
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            name, module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield name, module
            below = [(f"{name}.{child}" if name else child, part) for child, part in module.named_children()]
            stack.extend(reversed(below))

    def modules(self) -> Iterator[Module]:
        """`named_modules` without the names."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every parameter once, under the first of its names."""
        return _once(self._named("_parameters", prefix))

    def parameters(self) -> Iterator[Tensor]:
        """`named_parameters` without the names."""
        return (tensor for _, tensor in self.named_parameters())

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every buffer once."""
        return _once(self._named("_buffers", prefix))

    def buffers(self) -> Iterator[Tensor]:
        """`named_buffers` without the names."""
        return (tensor for _, tensor in self.named_buffers())

    def _named(self, kind: str, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for path, module in self.named_modules(prefix):
            for name in getattr(module, kind):
                if (value := getattr(module, name, None)) is not None:
                    yield (f"{path}.{name}" if path else name), value

    # ---- modes ----

    def train(self, mode: bool = True) -> Self:
        """Training mode for this module and all below it (dropout, batch statistics)."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Evaluation mode."""
        return self.train(False)

    def apply(self, function: Callable[[Module], None]) -> Self:
        """Call a function with every module below, and this one last."""
        for module in reversed(list(self.modules())):
            function(module)
        return self

    def requires_grad_(self, flag: bool = True) -> Self:
        """Freeze (False) or train all parameters."""
        for tensor in self.parameters():
            tensor.requires_grad_(flag)
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for tensor in self.parameters():
            tensor.grad = None

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Parameters and buffers to a device or a float dtype, in place; integers keep their dtype."""
        device = _device(args, kwargs)
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.dtype.is_float:
                tensor.to_(*args, **kwargs)
            else:
                tensor.to_(device=device)
        return self

    # ---- state ----

    def state_dict(self, prefix: str = "") -> OrderedDict[str, Tensor]:
        """Parameters and persistent buffers by name, in PyTorch's order: themselves, not copies."""
        state: OrderedDict[str, Tensor] = OrderedDict()
        for path, module in self.named_modules(prefix):
            kept = [name for name, persistent in module._buffers.items() if persistent]
            for name in (*module._parameters, *kept):
                if (value := getattr(module, name, None)) is not None:
                    state[f"{path}.{name}" if path else name] = value
        return state

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
        """Copy values (Tensors or arrays) into the parameters and buffers of the same names.

        Returns the missing and the unexpected names; with `strict` any such is an error, before anything is
        written. Values are cast to the dtype and moved to the device that the module has.
        """
        own = self.state_dict()
        check_state(type(self).__name__, own, state, strict)
        for name, tensor in own.items():
            if name in state:
                copy_into(tensor, state[name])
        if own:
            Tensor.realize(*own.values())
        return [name for name in own if name not in state], [name for name in state if name not in own]

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        inner = "".join(f"\n  {line}" for line in lines)
        return f"{type(self).__name__}({self.extra_repr()}{inner}{chr(10) if lines else ''})"

    def extra_repr(self) -> str:
        """What stands between the parentheses of the repr."""
        return ""


def check_state(model: str, own: Mapping[str, Any], state: Mapping[str, Any], strict: bool) -> None:
    """An error that names the keys or shapes by which `state` does not fit."""
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    if strict and (missing or unexpected):
        raise ArgumentError(
            f"load_state_dict: expected the keys of {model}, got none for {_listed(missing)} "
            f"and unexpected {_listed(unexpected)}; strict=False ignores both"
        )
    for name, tensor in own.items():
        if name in state and tuple(state[name].shape) != tuple(tensor.shape):
            raise ShapeError(
                f"load_state_dict: {name}: expected shape {list(tensor.shape)}, got {list(state[name].shape)}"
            )


@no_grad()
def copy_into(tensor: Tensor, value: Any) -> None:
    """Assign a tensor's or an array's values, whatever its dtype and device."""
    source = value.detach() if isinstance(value, Tensor) else Tensor(value, device=tensor.device)
    tensor.assign(source.to(tensor.device, tensor.dtype))


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"[{shown}]"


def _once(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    seen: set[int] = set()
    for name, tensor in named:
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The device among the arguments of `to`."""
    for arg in args:
        if isinstance(arg, Tensor):
            return arg.device
        if isinstance(arg, str) and arg not in DTYPE_NAMES:
            return arg
    return kwargs.get("device")


class Sequential(Module):
    """Modules (or plain functions) one after the other, named 0, 1, 2, …

    >>> Sequential(lambda x: x + 1, lambda x: x * 2)(Tensor([1])).tolist()
    [4]
    """

    def __init__(self, *layers: Callable[..., Any]) -> None:
        for position, layer in enumerate(layers):
            setattr(self, str(position), layer)
        self._length = len(layers)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> Any:
        return getattr(self, str(range(self._length)[position]))

    def __iter__(self) -> Iterator[Any]:
        return (self[position] for position in range(self._length))

    def forward(self, x: Any) -> Any:
        """x through every layer."""
        for layer in self:
            x = layer(x)
        return x


class ModuleList(Sequential):
    """Modules under the names 0, 1, 2, …, without a forward of its own.

    >>> len(ModuleList([Module(), Module()]))
    2
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__(*modules)

    def append(self, module: Module) -> Self:
        """One more module at the end."""
        setattr(self, str(self._length), module)
        self._length += 1
        return self

    def forward(self, *args: Any) -> Any:
        """A list is not called."""
        raise NotImplementedError("ModuleList: expected its modules to be called, got a call of the list")
