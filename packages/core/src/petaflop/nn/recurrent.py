"""Recurrent cells and an LSTM over a sequence; weights as in PyTorch."""

from __future__ import annotations

from petaflop.errors import ShapeError
from petaflop.nn import initial
from petaflop.nn.module import Module
from petaflop.tensor import Tensor

__all__ = ["LSTM", "GRUCell", "LSTMCell"]

Pair = tuple[Tensor, Tensor]


class _Cell(Module):
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    gates: int

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = self.gates * hidden_size
        self.weight_ih = initial.uniform((rows, input_size), hidden_size)
        self.weight_hh = initial.uniform((rows, hidden_size), hidden_size)
        self.register_parameter("bias_ih", initial.uniform((rows,), hidden_size) if bias else None)
        self.register_parameter("bias_hh", initial.uniform((rows,), hidden_size) if bias else None)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.input_size:
            raise ShapeError(f"{type(self).__name__}: expected (N, {self.input_size}), got {list(x.shape)}")

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


def _project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = x.matmul(weight.transpose(0, 1))
    return product if bias is None else product + bias


def _lstm_step(projected: Tensor, cell: Tensor) -> Pair:
    """(hidden, cell) from the sum of the projections, whose parts are input, forget, candidate, output."""
    enter, forget, candidate, output = projected.chunk(4, -1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    return output.sigmoid() * cell.tanh(), cell


class LSTMCell(_Cell):
    """One step: (N, input_size) and (hidden, cell), each (N, hidden_size), to the next (hidden, cell).

    >>> hidden, cell = LSTMCell(3, 4)(Tensor.zeros(2, 3))
    >>> hidden.shape
    (2, 4)
    """

    gates = 4

    def forward(self, x: Tensor, state: Pair | None = None) -> Pair:
        """Without a state, zeros."""
        self._check(x)
        if state is None:
            zeros = Tensor.zeros(x.shape[0], self.hidden_size, dtype=x.dtype, device=x.device)
            state = (zeros, zeros)
        hidden, cell = state
        projected = _project(x, self.weight_ih, self.bias_ih) + _project(hidden, self.weight_hh, self.bias_hh)
        return _lstm_step(projected, cell)


class GRUCell(_Cell):
    """One step: (N, input_size) and the hidden (N, hidden_size) to the next hidden."""

    gates = 3

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Without a hidden state, zeros."""
        self._check(x)
        if hidden is None:
            hidden = Tensor.zeros(x.shape[0], self.hidden_size, dtype=x.dtype, device=x.device)
        reset, update, candidate = _project(x, self.weight_ih, self.bias_ih).chunk(3, -1)
        reset_h, update_h, candidate_h = _project(hidden, self.weight_hh, self.bias_hh).chunk(3, -1)
        fresh = (candidate + (reset + reset_h).sigmoid() * candidate_h).tanh()
        kept = (update + update_h).sigmoid()
        return (1 - kept) * fresh + kept * hidden


class LSTM(Module):
    """Layers of LSTM over (T, N, input_size), or (N, T, input_size) with `batch_first`.

    Returns the outputs of the last layer and (hidden, cell), each (num_layers, N, hidden_size).

    >>> output, (hidden, cell) = LSTM(3, 4)(Tensor.zeros(5, 2, 3))
    >>> output.shape, hidden.shape
    ((5, 2, 4), (1, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
    ) -> None:
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.batch_first = num_layers, batch_first
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size
            for name, columns in (("ih", width), ("hh", hidden_size)):
                weight = initial.uniform((4 * hidden_size, columns), hidden_size)
                self.register_parameter(f"weight_{name}_l{layer}", weight)
            for name in ("ih", "hh"):
                value = initial.uniform((4 * hidden_size,), hidden_size) if bias else None
                self.register_parameter(f"bias_{name}_l{layer}", value)

    def forward(self, x: Tensor, state: Pair | None = None) -> tuple[Tensor, Pair]:
        """Without a state, zeros."""
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ShapeError(f"LSTM: expected three axes, the last of {self.input_size}, got {list(x.shape)}")
        x = x.transpose(0, 1) if self.batch_first else x
        if state is None:
            zeros = Tensor.zeros(
                self.num_layers, x.shape[1], self.hidden_size, dtype=x.dtype, device=x.device
            )
            state = (zeros, zeros)
        hiddens, cells = [], []
        for layer in range(self.num_layers):
            x, hidden, cell = self._layer(x, layer, state[0][layer], state[1][layer])
            hiddens.append(hidden)
            cells.append(cell)
        output = x.transpose(0, 1) if self.batch_first else x
        return output, (Tensor.stack(*hiddens), Tensor.stack(*cells))

    def _layer(self, x: Tensor, layer: int, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        part = {
            name: getattr(self, f"{name}_l{layer}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        projected = _project(x, part["weight_ih"], part["bias_ih"])
        outputs = []
        for step in range(int(x.shape[0])):
            recurrent = _project(hidden, part["weight_hh"], part["bias_hh"])
            hidden, cell = _lstm_step(projected[step] + recurrent, cell)
            outputs.append(hidden)
        return Tensor.stack(*outputs), hidden, cell
