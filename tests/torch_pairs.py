"""One line of code run on our Tensor and on torch's: values, shapes, dtypes, gradients and errors compared.

A case is a text such as `"t.cat(u, dim=1)"`. In it `t`, `u` and `v` are the inputs, `lib` is Tensor or
torch, `F` is Tensor or torch.nn.functional, `long` casts an index to int64 (torch takes no other dtype),
`kind` is a dtype by name.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from petaflop.errors import PetaflopError
from petaflop.tensor import Tensor

__all__ = ["agree", "bools", "floats", "integers", "refused"]

MESSAGE = re.compile(r"[\w.+*/%&|^<>=@~-]+: expected .+, got .+")


def floats(*shape: int, dtype: str = "float32") -> Any:
    """Distinct values of both signs, exact in every float dtype."""
    count = int(np.prod(shape))
    return ((np.arange(count) * 7 % max(count, 1)) * 0.5 - count // 4).reshape(shape).astype(dtype)


def integers(*shape: int, dtype: str = "int32") -> Any:
    return (
        (np.arange(int(np.prod(shape))) * 5 % 11 - (0 if dtype[0] == "u" else 4)).reshape(shape).astype(dtype)
    )


def bools(*shape: int) -> Any:
    return (np.arange(int(np.prod(shape))) % 3 == 1).reshape(shape)


def _run(code: str, library: Any, functional: Any, inputs: list[Any], names: dict[str, Any]) -> Any:
    return eval(code, {"lib": library, "F": functional, "np": np, **names, **dict(zip("tuv", inputs))})


def ours(code: str, inputs: list[Any]) -> Any:
    return _run(code, Tensor, Tensor, inputs, {"long": lambda x: x, "kind": str})


def theirs(code: str, inputs: list[Any]) -> Any:
    names = {"long": lambda x: x.long(), "kind": lambda name: getattr(torch, name)}
    return _run(code, torch, torch.nn.functional, inputs, names)


def _parts(value: Any) -> list[Any]:
    return [part for item in value for part in _parts(item)] if isinstance(value, (tuple, list)) else [value]


def _host(value: torch.Tensor) -> Any:
    value = value.detach()
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()


def _same(mine: Tensor, other: torch.Tensor, what: str, dtype: str | None, rtol: float, atol: float) -> None:
    assert mine.shape == tuple(other.shape), what
    assert mine.dtype.name == (dtype or str(other.dtype).removeprefix("torch.")), what
    wide = mine.float() if mine.dtype.name == "bfloat16" else mine
    np.testing.assert_allclose(wide.numpy(), _host(other), rtol=rtol, atol=atol, err_msg=what)


def agree(
    code: str,
    *arrays: Any,
    torch_code: str | None = None,
    dtype: str | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """Run `code` on both and compare; `dtype` is ours where it is documented to differ from torch's."""
    first, second = [Tensor(array) for array in arrays], [torch.tensor(array) for array in arrays]
    for x, y in zip(first, second, strict=True):
        if x.dtype.is_float:
            x.requires_grad_()
            y.requires_grad_()
    mine, other = _parts(ours(code, first)), _parts(theirs(torch_code or code, second))
    assert len(mine) == len(other)
    for x, y in zip(mine, other, strict=True):
        if not isinstance(y, torch.Tensor):
            assert type(x) is type(y) and x == y, code
            continue
        _same(x, y, code, dtype, rtol, atol)
        assert x.requires_grad == y.requires_grad, code
    pairs = [
        (x, y) for x, y in zip(mine, other, strict=True) if isinstance(y, torch.Tensor) and y.requires_grad
    ]
    if not pairs:
        return
    weights = [np.cos(np.arange(x.numel())).reshape(x.shape).astype("float32") for x, _ in pairs]
    sum((x * Tensor(w).to(x.dtype)).sum() for (x, _), w in zip(pairs, weights, strict=True)).backward()
    sum((y * torch.tensor(w).to(y.dtype)).sum() for (_, y), w in zip(pairs, weights, strict=True)).backward()
    for x, y in zip(first, second, strict=True):
        if y.requires_grad:
            assert (x.grad is None) == (y.grad is None), code
            if y.grad is not None:
                _same(x.grad, y.grad, f"gradient of {code}", None, max(rtol, 1e-6), max(atol, 1e-6))


def refused(code: str, *arrays: Any, torch_code: str | None = None) -> None:
    """Both raise: ours a PetaflopError of the type that torch raises; its message says what was expected."""
    with pytest.raises(Exception) as wanted:
        theirs(torch_code or code, [torch.tensor(array) for array in arrays])
    kind = RuntimeError if wanted.type is NotImplementedError else wanted.type
    assert kind in (IndexError, RuntimeError, TypeError, ValueError), f"{code}: torch raised {wanted.value!r}"
    with pytest.raises(PetaflopError) as caught:
        ours(code, [Tensor(array) for array in arrays])
    assert isinstance(caught.value, kind), f"{code}: {caught.value!r} where torch raises {wanted.value!r}"
    assert MESSAGE.fullmatch(str(caught.value)), str(caught.value)
