"""Normalisation layers."""

from hessian_spectrum.service.uploads.onnx.lengths import Length, Shape
from hessian_spectrum.service.uploads.onnx.lowering import Lowering
from hessian_spectrum.service.uploads.onnx.node import Node, Operand, UnsupportedError
from hessian_spectrum.service.uploads.onnx.operators.registry import lowers
from hessian_spectrum.service.uploads.onnx.operators.shapes import reshaped

_PER_CHANNEL = 21
"""Version of the operators from which on a group norm has one weight for each channel."""


def _channels(operand: Operand) -> int:
    channels = operand.shape[1] if operand.rank > 1 else None
    if channels is None or isinstance(channels, Length):
        raise UnsupportedError("its input has no channels")
    return channels


def _check_weights(weights: list[Operand], shape: Shape) -> None:
    if any(each.shape != shape for each in weights):
        raise UnsupportedError("its weights do not match its input")


@lowers("BatchNormalization")
def batch_norm(node: Node, program: Lowering) -> list[Operand]:
    """(x - mean) / sqrt(variance + epsilon) with stored statistics, times weights, plus biases."""
    node.ignore("momentum")
    if node.truth("training_mode"):
        raise UnsupportedError("it is in training mode: call eval() on the module before it is exported")
    operand = node.operand(0)
    statistics = [node.operand(index) for index in range(1, 5)]
    _check_weights(statistics, (_channels(operand),))
    epsilon = node.real("epsilon", 1e-5)
    return [program.like("batch_norm.default", operand, *statistics, False, 0.1, epsilon, False)]


@lowers("InstanceNormalization")
def instance_norm(node: Node, program: Lowering) -> list[Operand]:
    """Each channel of each sample with mean 0 and variance 1, times weights, plus biases."""
    operand, weights = node.operand(0), [node.operand(1), node.operand(2)]
    _check_weights(weights, (_channels(operand),))
    epsilon = node.real("epsilon", 1e-5)
    if operand.rank < 3 or all(length == 1 for length in operand.shape[2:]):
        raise UnsupportedError("its channels have a single entry, and so no variance")
    return [program.like("instance_norm.default", operand, *weights, None, None, True, 0.1, epsilon, False)]


@lowers("GroupNormalization")
def group_norm(node: Node, program: Lowering) -> list[Operand]:
    """Each group of channels of each sample with mean 0 and variance 1, times weights, plus biases."""
    node.ignore("stash_type")
    operand, weights = node.operand(0), [node.operand(1), node.operand(2)]
    channels, groups = _channels(operand), node.integer("num_groups", 0)
    if groups < 1 or channels % groups:
        raise UnsupportedError("its channels do not match its groups")
    if node.version < _PER_CHANNEL:
        _check_weights(weights, (groups,))
        each = channels // groups
        weights = [
            program.emit("repeat_interleave.self_int", weight, each, 0, shape=(channels,), dtype=weight.dtype)
            for weight in weights
        ]
    _check_weights(weights, (channels,))
    epsilon = node.real("epsilon", 1e-5)
    return [program.like("group_norm.default", operand, groups, *weights, epsilon, False)]


@lowers("LayerNormalization", "RMSNormalization")
def layer_norm(node: Node, program: Lowering) -> list[Operand]:
    """The axes from `axis` on with mean 0 and variance 1, or with mean square 1, times weights, plus biases."""
    node.refuse("stash_type", 1)
    operand = node.operand(0)
    axis = node.axis(operand.rank, default=-1)
    lengths = operand.shape[axis:]
    if any(isinstance(length, Length) for length in lengths):
        raise UnsupportedError("it normalises over the samples")
    epsilon = node.real("epsilon", 1e-5)
    weight = _fitted(program, node.operand(1), lengths)
    if node.op == "RMSNormalization":
        return [program.like("rms_norm.default", operand, lengths, weight, epsilon)]
    given = node.optional(2)
    bias = None if given is None else _fitted(program, given, lengths)
    return [program.like("layer_norm.default", operand, lengths, weight, bias, epsilon, False)]


def _fitted(program: Lowering, weight: Operand, lengths: Shape) -> Operand:
    """Return weights in the shape of the normalised axes."""
    if weight.shape == lengths:
        return weight
    surplus = weight.rank - len(lengths)
    if surplus > 0 and all(length == 1 for length in weight.shape[:surplus]):
        return reshaped(program, weight, lengths)
    raise UnsupportedError("its weights do not match the axes that it normalises")
