"""Recurrent layers: LSTM, GRU and Elman networks of one layer, in one or both directions.

ONNX stacks the weights of the directions along a first axis and orders the gates otherwise than PyTorch: input,
output, forget and cell of an LSTM, update, reset and hidden of a GRU.
"""

from dataclasses import dataclass

from hessian_spectrum.service.uploads.onnx.lengths import Dimension, Length, Shape
from hessian_spectrum.service.uploads.onnx.lowering import Lowering
from hessian_spectrum.service.uploads.onnx.node import Node, Operand, UnsupportedError
from hessian_spectrum.service.uploads.onnx.operators.registry import lowers
from hessian_spectrum.service.uploads.onnx.operators.shapes import permuted, reshaped

_GATES = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}
"""Positions in ONNX of the gates in PyTorch's order."""

_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


@dataclass(frozen=True)
class _Layer:
    """Sizes of a recurrent layer."""

    steps: Dimension
    samples: Dimension
    hidden: int
    directions: int


def _part(program: Lowering, operand: Operand, start: int, size: int, direction: int) -> Operand:
    """Entries of one gate and direction."""
    of_direction = operand.shape[1:]
    row = program.emit("select.int", operand, 0, direction, shape=of_direction, dtype=operand.dtype)
    shape = (size, *of_direction[1:])
    return program.emit("slice.Tensor", row, 0, start, start + size, shape=shape, dtype=operand.dtype)


def _reordered(
    program: Lowering, operand: Operand, node: Node, layer: _Layer, direction: int, offset: int = 0
) -> Operand:
    """Weights of a direction with their gates in PyTorch's order."""
    gates = [
        _part(program, operand, (offset + position) * layer.hidden, layer.hidden, direction)
        for position in _GATES[node.op]
    ]
    shape = (layer.hidden * len(gates), *operand.shape[2:])
    return program.emit("cat.default", gates, 0, shape=shape, dtype=operand.dtype)


def _check_settings(node: Node, directions: int) -> str:
    """Check attributes that PyTorch's layers do not have; return the name of the operator."""
    node.ignore("activation_alpha", "activation_beta")
    node.refuse("clip", None)
    activations = node.texts("activations")
    if node.op == "RNN":
        kinds = set(activations or ["Tanh"])
        if kinds not in ({"Tanh"}, {"Relu"}):
            raise UnsupportedError("its activations are not supported")
        return "rnn_tanh.input" if kinds == {"Tanh"} else "rnn_relu.input"
    if activations is not None and activations != _ACTIVATIONS[node.op] * directions:
        raise UnsupportedError("its activations are not supported")
    if node.op == "LSTM":
        node.refuse("input_forget", 0)
        if node.optional(7) is not None:
            raise UnsupportedError("its peepholes are not supported")
        return "lstm.input"
    if not node.truth("linear_before_reset"):
        raise UnsupportedError(
            "its reset gate acts before the product (linear_before_reset = 0), which is not supported"
        )
    return "gru.input"


def _layer(node: Node, inputs: Operand, weights: Operand) -> _Layer:
    direction = node.text("direction", "forward")
    if inputs.rank != 3 or weights.rank != 3 or direction not in _DIRECTIONS:
        raise UnsupportedError("its inputs or its direction do not match")
    if isinstance(inputs.shape[0], Length):
        raise UnsupportedError("its steps lie along the axis of the samples")
    gates = len(_GATES[node.op])
    directions = _DIRECTIONS[direction]
    rows = weights.shape[1]
    if isinstance(rows, Length) or rows % gates:
        raise UnsupportedError("its weights do not match")
    hidden = rows // gates
    recurrent = node.operand(2)
    if (
        weights.shape[0] != directions
        or weights.shape[2] != inputs.shape[2]
        or recurrent.shape != (directions, rows, hidden)
        or node.integer("hidden_size", hidden) != hidden
    ):
        raise UnsupportedError("its weights do not match")
    return _Layer(inputs.shape[0], inputs.shape[1], hidden, directions)


@lowers("LSTM", "GRU", "RNN")
def recurrent_layer(node: Node, program: Lowering) -> list[Operand]:
    """Outputs of all steps, and the last state."""
    inputs, is_batch_first = node.operand(0), node.truth("layout")
    inputs = permuted(program, inputs, [1, 0, 2]) if is_batch_first else inputs
    layer = _layer(node, inputs, node.operand(1))
    op = _check_settings(node, layer.directions)
    _check_lengths(node, layer)
    is_reversed = node.text("direction", "forward") == "reverse"
    inputs = program.like("flip.default", inputs, [0]) if is_reversed else inputs
    weights = _weights(node, program, layer)
    states = [_state(program, node.optional(index), layer, is_batch_first) for index in _states(node)]
    state_shape: Shape = (layer.directions, layer.samples, layer.hidden)
    output_shape: Shape = (layer.steps, layer.samples, layer.directions * layer.hidden)
    output, *last = program.emit_several(
        f"{op}",
        *(inputs, states if node.op == "LSTM" else states[0], weights, node.optional(3) is not None),
        *(1, 0.0, False, layer.directions == 2, False),
        results=[(output_shape, inputs.dtype), *[(state_shape, inputs.dtype)] * len(states)],
    )
    output = program.like("flip.default", output, [0]) if is_reversed else output
    split_up = reshaped(program, output, (layer.steps, layer.samples, layer.directions, layer.hidden))
    order = [1, 0, 2, 3] if is_batch_first else [0, 2, 1, 3]
    last = [permuted(program, each, [1, 0, 2]) for each in last] if is_batch_first else last
    return [permuted(program, split_up, order), *last]


def _states(node: Node) -> tuple[int, ...]:
    """Positions of the first states among the inputs."""
    return (5, 6) if node.op == "LSTM" else (5,)


def _check_lengths(node: Node, layer: _Layer) -> None:
    lengths = node.optional(4)
    if lengths is not None and (lengths.entries is None or set(lengths.entries.ravel().tolist()) != {layer.steps}):
        raise UnsupportedError("its sequences have lengths of their own, which is not supported")


def _weights(node: Node, program: Lowering, layer: _Layer) -> list[Operand]:
    """Weights and biases in the order in which PyTorch's operator takes them."""
    biases = node.optional(3)
    gates = len(_GATES[node.op])
    if biases is not None and biases.shape != (layer.directions, 2 * gates * layer.hidden):
        raise UnsupportedError("its biases do not match")
    found = []
    for direction in range(layer.directions):
        found += [_reordered(program, node.operand(index), node, layer, direction) for index in (1, 2)]
        if biases is not None:
            found += [_reordered(program, biases, node, layer, direction, offset) for offset in (0, gates)]
    return found


def _state(program: Lowering, operand: Operand | None, layer: _Layer, is_batch_first: bool) -> Operand:
    """First state; 0 if none is given."""
    shape: Shape = (layer.directions, layer.samples, layer.hidden)
    if operand is None:
        return program.emit("zeros.default", shape, shape=shape, dtype="float32", cast="float32")
    operand = permuted(program, operand, [1, 0, 2]) if is_batch_first else operand
    if operand.shape != shape:
        raise UnsupportedError("its first state does not match")
    return operand
