"""RNN, GRU and LSTM: the inputs' part of every step is one matrix product, the steps are unrolled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from petaflop import Tensor
from petaflop_onnx.operators.common import shape_of
from petaflop_onnx.table import Call, operator

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": Tensor.relu,
    "sigmoid": Tensor.sigmoid,
    "softplus": Tensor.softplus,
    "softsign": Tensor.softsign,
    "tanh": Tensor.tanh,
}
Cell = Callable[..., tuple[Tensor, ...]]


class _Direction(NamedTuple):
    """What one direction knows: its functions, its recurrent weight [gates * H, H] and bias."""

    functions: list[Callable[[Tensor], Tensor]]
    weight: Tensor
    bias: Tensor | None
    peepholes: Tensor | None
    linear_before_reset: bool

    def clipped(self, limit: float | None) -> list[Callable[[Tensor], Tensor]]:
        if limit is None:
            return self.functions
        return [lambda x, function=function: function(x.clip(-limit, limit)) for function in self.functions]  # type: ignore[misc]


def _rnn_cell(d: _Direction, f: list[Callable[[Tensor], Tensor]], x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    total = x + h.matmul(d.weight.T)
    return (f[0](total if d.bias is None else total + d.bias),)


def _gru_cell(d: _Direction, f: list[Callable[[Tensor], Tensor]], x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """Gates z and r, then the new value; `linear_before_reset` resets the product, not the state."""
    size = shape_of(h)[-1]
    update, reset, new = x.split(size, -1)
    z_weight, r_weight, n_weight = d.weight.split(size, 0)
    z_bias, r_bias, n_bias = (0, 0, 0) if d.bias is None else d.bias.split(size, 0)
    z = f[0](update + h.matmul(z_weight.T) + z_bias)
    r = f[0](reset + h.matmul(r_weight.T) + r_bias)
    if d.linear_before_reset:
        candidate = f[1](new + r * (h.matmul(n_weight.T) + n_bias))
    else:
        candidate = f[1](new + (r * h).matmul(n_weight.T) + n_bias)
    return ((1 - z) * candidate + z * h,)


def _lstm_cell(
    d: _Direction, f: list[Callable[[Tensor], Tensor]], x: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, ...]:
    """Gates in ONNX's order: input, output, forget, cell."""
    total = x + h.matmul(d.weight.T)
    i, o, forget, new = (total if d.bias is None else total + d.bias).split(shape_of(h)[-1], -1)
    p_i, p_o, p_f = (0, 0, 0) if d.peepholes is None else d.peepholes.split(shape_of(h)[-1], 0)
    kept = f[0](forget + c * p_f) * c + f[0](i + c * p_i) * f[1](new)
    return f[0](o + kept * p_o) * f[2](kept), kept


def _functions(
    call: Call, count: int, direction: int, default: list[str]
) -> list[Callable[[Tensor], Tensor]]:
    names = [name.lower() for name in call.get("activations") or default * 2]
    chosen = names[direction * count : (direction + 1) * count]
    if len(chosen) != count or not set(chosen) <= set(_FUNCTIONS):
        raise ValueError(f"activations: expected {count} of {', '.join(_FUNCTIONS)} each way, got {names}")
    if call.get("activation_alpha") or call.get("activation_beta"):
        raise ValueError("activation_alpha: expected none, got some (not supported)")
    return [_FUNCTIONS[name] for name in chosen]


def _scan(cell: Cell, inputs: list[Tensor], state: list[Tensor], lengths: Tensor | None, back: bool) -> Any:
    """Every step's first state, and the last states; rows beyond their length keep their state and give 0."""
    outputs: dict[int, Tensor] = {}
    order = range(len(inputs))[::-1] if back else range(len(inputs))
    for step in order:
        new = cell(inputs[step], *state)
        outputs[step] = new[0]
        if lengths is not None:
            alive = (lengths > step).reshape(-1, 1)
            new = tuple(alive.where(after, before) for after, before in zip(new, state, strict=True))
            outputs[step] = alive.where(outputs[step], 0)
        state = list(new)
    return [outputs[step] for step in range(len(inputs))], state


def _recurrent(
    call: Call,
    cell: Cell,
    default: list[str],
    states: int,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    *rest: Tensor | None,
) -> tuple[Tensor, ...]:
    """Y [T, D, B, H] and the last states [D, B, H]; batch first where `layout` is 1."""
    bias, lengths, *initial = (*rest, *[None] * 5)[:5]
    batch_first = bool(call.get("layout"))
    x = x.transpose(0, 1) if batch_first else x
    time, batch, _ = shape_of(x)
    directions, _, hidden = shape_of(r)
    outputs, last = [], []
    for k in range(directions):
        product = x.matmul(w[k].T)
        mine = None
        if bias is not None:
            from_input, mine = bias[k].split(shape_of(bias)[1] // 2, 0)
            product = product + from_input
        peepholes = None if states == 1 or initial[2] is None else initial[2][k]
        functions = _functions(call, len(default), k, default)
        d = _Direction(functions, r[k], mine, peepholes, bool(call.get("linear_before_reset")))
        start = [_start(value, k, batch, hidden, x, batch_first) for value in initial[:states]]
        f = d.clipped(call.get("clip"))
        back = call["direction"] == "reverse" or k == 1
        steps = [product[t] for t in range(time)]
        ys, end = _scan(lambda *now, d=d, f=f: cell(d, f, *now), steps, start, lengths, back)
        outputs.append(ys[0].stack(*ys[1:]) if len(ys) > 1 else ys[0].unsqueeze(0))
        last.append(end)
    y = outputs[0].stack(*outputs[1:], dim=1) if directions > 1 else outputs[0].unsqueeze(1)
    ends = [
        torn[0].stack(*torn[1:]) if directions > 1 else torn[0].unsqueeze(0)
        for torn in zip(*last, strict=True)
    ]
    if batch_first:
        return y.permute(2, 0, 1, 3), *[end.transpose(0, 1) for end in ends]
    return y, *ends


def _start(value: Tensor | None, k: int, batch: int, hidden: int, x: Tensor, batch_first: bool) -> Tensor:
    if value is None:
        return Tensor.zeros(batch, hidden, dtype=x.dtype, device=x.device)
    return value[:, k] if batch_first else value[k]


@operator("RNN", 7, 14, 22)
def _rnn(call: Call, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
    return _recurrent(call, _rnn_cell, ["tanh"], 1, x, w, r, *rest)


@operator("GRU", 7, 14, 22)
def _gru(call: Call, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
    return _recurrent(call, _gru_cell, ["sigmoid", "tanh"], 1, x, w, r, *rest)


@operator("LSTM", 7, 14, 22)
def _lstm(call: Call, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
    return _recurrent(call, _lstm_cell, ["sigmoid", "tanh", "tanh"], 2, x, w, r, *rest)
