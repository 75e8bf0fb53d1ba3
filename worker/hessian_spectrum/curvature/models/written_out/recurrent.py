"""Recurrent layers, step by step: fused kernels have no forward mode."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State, Tensor, Tensor | None], State]
"""Returns the next state (h, ...), from x W^T + b of a step, the state, and the weight and bias of the recurrence."""


def _lstm_cell(projected: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    hidden, cell = state
    i, f, g, o = (projected + F.linear(hidden, weight, bias)).chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru_cell(projected: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    (hidden,) = state
    (r, z, n), (r_hidden, z_hidden, n_hidden) = projected.chunk(3, -1), F.linear(hidden, weight, bias).chunk(3, -1)
    candidate = (n + (r + r_hidden).sigmoid() * n_hidden).tanh()
    return (candidate + (z + z_hidden).sigmoid() * (hidden - candidate),)


def _simple_cell(nonlinearity: Callable[[Tensor], Tensor]) -> Cell:
    return lambda projected, state, weight, bias: (nonlinearity(projected + F.linear(state[0], weight, bias)),)


def _direction(
    cell: Cell, x: Tensor, state: State, weights: Sequence[Tensor], *, has_biases: bool, is_reversed: bool
) -> tuple[Tensor, State]:
    """One direction of one layer, for x (steps, n, inputs): the outputs of all steps and the last state."""
    w_ih, w_hh, *others = weights
    b_ih, b_hh = others[:2] if has_biases else (None, None)
    projection = others[-1] if len(others) in (1, 3) else None
    steps = F.linear(x, w_ih, b_ih).unbind(0)
    outputs = []
    for step in reversed(steps) if is_reversed else steps:
        hidden, *rest = cell(step, state, w_hh, b_hh)
        state = (hidden if projection is None else F.linear(hidden, projection), *rest)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if is_reversed else outputs), state


def _layers(
    cell: Cell,
    x: Tensor,
    states: State,
    weights: Sequence[Tensor],
    *,
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """All layers: the outputs of all steps, and the last states of all layers and directions, stacked."""
    x = x.transpose(0, 1) if batch_first and x.ndim == 3 else x
    num_directions = 2 if bidirectional else 1
    per_direction = len(weights) // (num_layers * num_directions)
    last: list[State] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(num_directions):
            index = layer * num_directions + direction
            own = weights[index * per_direction : (index + 1) * per_direction]
            start = tuple(state[index] for state in states)
            output, end = _direction(cell, x, start, own, has_biases=has_biases, is_reversed=direction == 1)
            outputs.append(output)
            last.append(end)
        x = torch.cat(outputs, -1)
    ends = (torch.stack(each) for each in zip(*last, strict=True))
    return (x.transpose(0, 1) if batch_first and x.ndim == 3 else x, *ends)


def _layered(cell: Cell) -> Callable[..., tuple[Tensor, ...]]:
    """The operator for layers of this cell; dropout between layers occurs only in training mode, which is refused."""

    def run(
        x: Tensor,
        states: Tensor | Sequence[Tensor],
        weights: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        return _layers(
            cell,
            x,
            (states,) if isinstance(states, Tensor) else tuple(states),
            weights,
            has_biases=has_biases,
            num_layers=num_layers,
            bidirectional=bidirectional,
            batch_first=batch_first,
        )

    return run


def _single(cell: Cell) -> Callable[..., Any]:
    """The operator for one step of this cell."""

    def run(
        x: Tensor,
        state: Tensor | Sequence[Tensor],
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor | State:
        if isinstance(state, Tensor):
            return cell(F.linear(x, w_ih, b_ih), (state,), w_hh, b_hh)[0]
        return cell(F.linear(x, w_ih, b_ih), tuple(state), w_hh, b_hh)

    return run


OPERATORS: dict[str, Callable[..., Any]] = {
    "lstm": _layered(_lstm_cell),
    "gru": _layered(_gru_cell),
    "rnn_tanh": _layered(_simple_cell(torch.tanh)),
    "rnn_relu": _layered(_simple_cell(torch.relu)),
    "lstm_cell": _single(_lstm_cell),
    "gru_cell": _single(_gru_cell),
}
