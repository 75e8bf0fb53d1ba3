"""Sizes of models and of what their forward passes produce, from plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

from hessian_spectrum.planning.activations import ACTIVATIONS

Sort = Literal[
    "inputs", "linear", "convolutions", "patches", "products", "sums", "piecewise", "smooth", "batch-norms", "norms",
    "softmax", "copies", "recurrent", "outputs", "logits", "streamed",
]  # fmt: skip
"""Sorts of the numbers that a forward pass produces, by the operation that produces them: numbers of one sort are kept,
and copied, alike. Numbers that depend on no parameter are not counted, except inputs. Of the results of a model the
loss decides: they are outputs, or logits if the loss keeps as much of them as cross-entropy does. The last sort are
inputs that are read from a file whenever a batch is recorded."""

SORTS: tuple[Sort, ...] = get_args(Sort)

DEAREST: Sort = "recurrent"
"""Sort whose numbers take most memory, as which numbers of unknown origin are counted."""


@dataclass(frozen=True)
class Size:
    """Size of a model and its data, on which every cost depends.

    Attributes:
        num_parameters: Parameters P of the matrix.
        num_samples: Samples, or sequences.
        activations: Numbers of each sort in `SORTS` that one forward pass over all samples produces.
        num_other_parameters: Parameters of the model outside of the block, if the matrix is that of a block.
        has_output_layer: Whether logits come from a layer of their own and are computed in pieces.
        mixes_samples: Whether all samples must be evaluated together.
    """

    num_parameters: int
    num_samples: int
    activations: tuple[int, ...]
    num_other_parameters: int = 0
    has_output_layer: bool = False
    mixes_samples: bool = False

    @property
    def num_activations(self) -> int:
        """Number of activations of all sorts together."""
        return sum(self.activations)

    def number(self, *sorts: Sort) -> int:
        """Return the number of activations of these sorts together."""
        return sum(self._numbers[sort] for sort in sorts)

    def with_logits(self) -> "Size":
        """Return the size with a loss that keeps as much of the outputs as cross-entropy does of logits."""
        return self._with({"outputs": 0, "logits": self.number("outputs", "logits")})

    def with_streamed_inputs(self) -> "Size":
        """Return the size with inputs that stay on disk: each recording keeps its own."""
        return self._with({"streamed": self.number("inputs")})

    def at_once(self, num_logits: int) -> "Size":
        """Return the size of what exists at once if the output layer computes at most `num_logits` logits together."""
        if not self.has_output_layer:
            return self
        return self._with({"logits": min(self.number("logits"), num_logits)})

    def part(self, num_samples: int) -> "Size":
        """Return the size of the same model on `num_samples` of the samples."""
        numbers = tuple(-(-each * num_samples // self.num_samples) for each in self.activations)
        return replace(self, num_samples=num_samples, activations=numbers)

    @property
    def _numbers(self) -> dict[Sort, int]:
        return dict(zip(SORTS, self.activations, strict=True))

    def _with(self, numbers: dict[Sort, int]) -> "Size":
        return replace(self, activations=tuple((self._numbers | numbers).values()))


def counted_size(
    num_parameters: int,
    num_samples: int,
    numbers_per_sample: Mapping[Sort, int],
    *,
    numbers_per_pair: Mapping[Sort, int] | None = None,
    has_output_layer: bool = False,
    mixes_samples: bool = False,
) -> Size:
    """Size of a model whose numbers were counted by sort.

    Args:
        num_parameters: Parameters that are differentiated.
        num_samples: Samples that are evaluated.
        numbers_per_sample: Numbers of each sort that a forward pass produces for each sample.
        numbers_per_pair: Numbers of each sort for each pair of samples.
        has_output_layer: Whether logits come from a layer of their own and are computed in pieces.
        mixes_samples: Whether all samples must be evaluated together.

    Returns:
        The size.
    """
    pairs = numbers_per_pair or {}
    numbers = tuple(
        num_samples * (numbers_per_sample.get(sort, 0) + num_samples * pairs.get(sort, 0)) for sort in SORTS
    )
    return Size(num_parameters, num_samples, numbers, has_output_layer=has_output_layer, mixes_samples=mixes_samples)


def generic_size(num_parameters: int, num_samples: int, numbers_per_sample: int) -> Size:
    """Size of a model whose numbers are known only together: an upper estimate.

    Args:
        num_parameters: Parameters of the model.
        num_samples: Samples that are evaluated.
        numbers_per_sample: Numbers that the operations of a forward pass produce for each, inputs included.

    Returns:
        The size.
    """
    return counted_size(num_parameters, num_samples, {DEAREST: numbers_per_sample})


def mlp_size(widths: Sequence[int], bias: bool, num_samples: int, *, activation: str = "tanh") -> Size:
    """Size of a fully connected network on `num_samples` inputs.

    Each layer gives fan_out (fan_in + 1) parameters with bias. Per sample, each hidden unit gives a number of the layer
    and those of the activation.

    Args:
        widths: Widths of the input, the hidden layers and the output.
        bias: Whether the layers have biases.
        num_samples: Samples that are evaluated.
        activation: Name of the activation function.

    Returns:
        The size.
    """
    num_parameters = sum(fan_out * (fan_in + int(bias)) for fan_in, fan_out in pairwise(widths))
    units = sum(widths[1:-1])
    numbers: dict[Sort, int] = {"inputs": widths[0], "linear": units, "outputs": widths[-1]}
    return counted_size(num_parameters, num_samples, _added(numbers, _activated(activation, units)))


def _activated(activation: str, units: int) -> dict[Sort, int]:
    """Return the numbers of each sort that an activation of `units` numbers produces."""
    operations = ACTIVATIONS[activation].operations
    return {sort: units * operations.count(sort) for sort in operations}


def _added(*counts: Mapping[Sort, int]) -> dict[Sort, int]:
    """Return the sums of numbers by sort."""
    return {sort: sum(each.get(sort, 0) for each in counts) for sort in SORTS}


def _times(factor: int, numbers: Mapping[Sort, int]) -> dict[Sort, int]:
    return {sort: factor * number for sort, number in numbers.items()}


def gpt2_size(
    *,
    n_layer: int,
    n_head: int,
    n_embd: int,
    n_positions: int,
    vocab_size: int,
    num_sequences: int,
    sequence_length: int,
    bias: bool = True,
    attention: bool = True,
) -> Size:
    """Size of a GPT-2 with tied embedding on `num_sequences` sequences of `sequence_length` tokens.

    P = (vocab_size + n_positions) d + n_layer (12 d^2 + 13 d) + 2 d with d = n_embd; without attention 3/2 n_layer
    blocks of 8 d^2 + 7 d. Per token and block: two layer norms, queries, keys and values (3 d), the output of attention
    and its copy, its layer (d), the hidden layer and its gelu (4 d each), the output (d), all of their biases, and two
    residual sums; without attention a layer norm, the hidden layer and a sum. Per pair of tokens, head and block:
    score, scaled score, masked score and weight.

    Args:
        n_layer: Transformer blocks.
        n_head: Attention heads per block.
        n_embd: Width of the residual stream.
        n_positions: Longest sequence, in tokens.
        vocab_size: Tokens in the vocabulary.
        num_sequences: Sequences that are evaluated.
        sequence_length: Tokens of each sequence.
        bias: Whether linear layers and layer norms have biases.
        attention: Whether there are attention layers.

    Returns:
        The size.
    """
    d, num_blocks = n_embd, n_layer if attention else n_layer + n_layer // 2
    weights = 12 * d * d + 2 * d if attention else 8 * d * d + d
    biases = 11 * d if attention else 6 * d
    num_parameters = (vocab_size + n_positions + 1) * d + num_blocks * weights + (num_blocks * biases + d) * int(bias)
    mlp: dict[Sort, int] = {"norms": d, "linear": 5 * d, "smooth": 4 * d, "sums": 6 * d}
    # queries, keys and values live as short as copies: counted as linear, they made the GGN 20 % too large
    block = _added(mlp, _attended(d, d, n_head * sequence_length, copied=3 * d)) if attention else mlp
    ends: dict[Sort, int] = {"copies": d, "sums": d, "norms": d, "logits": vocab_size}
    per_token = _added(_times(num_blocks, block), ends)
    return counted_size(num_parameters, num_sequences, _times(sequence_length, per_token), has_output_layer=True)


def _attended(width: int, projected: int, pairs: int, *, copied: int = 0) -> dict[Sort, int]:
    """Return the numbers of an attention layer with its norm and its residual sum.

    Args:
        width: Width of the residual stream.
        projected: Numbers of queries, keys, values and outputs.
        pairs: Numbers of keys times heads.
        copied: Numbers of projections that count as copies.

    Returns:
        The numbers for each token, by sort.
    """
    return {
        "norms": width,
        "linear": projected,
        "sums": projected + copied + width,
        "products": 2 * pairs + width,
        "piecewise": pairs,
        "softmax": pairs,
        "copies": width + copied,
    }


def causal_lm_size(
    *,
    num_parameters: int,
    n_layer: int,
    n_head: int,
    n_embd: int,
    n_inner: int,
    vocab_size: int,
    num_sequences: int,
    sequence_length: int,
) -> Size:
    """Size of a decoder of transformers, as a gpt2 whose blocks produce more: an upper estimate.

    Per token and block, d = n_embd: two norms and their casts to another precision, queries, keys and values (3 d) and
    the rotation of queries and keys (4 d), keys and values once for each head (2 d), attention and its layer (2 d);
    gate, hidden layer, activation and product (4 n_inner), the output (d), and two residual sums. Per pair of tokens,
    head and block: score, scaled score, masked score, weight.

    Args:
        num_parameters: Parameters of the model.
        n_layer: Transformer blocks.
        n_head: Attention heads per block.
        n_embd: Width of the residual stream.
        n_inner: Width of the hidden layers of the MLPs.
        vocab_size: Tokens in the vocabulary.
        num_sequences: Sequences that are evaluated.
        sequence_length: Tokens of each sequence.

    Returns:
        The size.
    """
    d = n_embd
    mlp: dict[Sort, int] = {
        **{"norms": d, "copies": d, "linear": 2 * n_inner + d},
        **{"smooth": n_inner, "products": n_inner, "sums": d},
    }
    extra: dict[Sort, int] = {"products": 4 * d, "copies": 3 * d}
    block = _added(mlp, _attended(d, 4 * d, n_head * sequence_length), extra)
    ends: dict[Sort, int] = {"copies": d, "sums": d, "norms": d, "logits": vocab_size}
    per_token = _added(_times(n_layer, block), ends)
    return counted_size(num_parameters, num_sequences, _times(sequence_length, per_token))


def conv_size(
    *,
    image_size: int,
    channels: Sequence[int],
    kernel_size: int,
    stride: int,
    pooling: bool,
    num_outputs: int,
    bias: bool,
    num_samples: int,
    activation: str = "relu",
) -> Size:
    """Size of a convolutional network with a linear head on `num_samples` square images of one channel.

    Each layer gives fan_out (fan_in + 1) parameters with bias, where a convolution's fan_in is channels times
    kernel_size^2. Per position there are the unfolded patches (fan_in), the channels without and with their biases and
    after the activation, and with pooling their means.

    Args:
        image_size: Edge length of the images, in pixels.
        channels: Output channels of each convolution.
        kernel_size: Edge length of the kernels, in pixels.
        stride: Stride of every convolution, in pixels.
        pooling: Whether a mean over 2 x 2 pixels follows every convolution.
        num_outputs: Outputs of the linear head.
        bias: Whether convolutions and head have biases.
        num_samples: Images that are evaluated.
        activation: Name of the activation function.

    Returns:
        The size.
    """
    num_parameters, edge, incoming = 0, image_size, 1
    patches, units, means = 0, 0, 0
    for outgoing in channels:
        fan_in = incoming * kernel_size**2
        edge = conv_edge(edge, stride)
        num_parameters += outgoing * (fan_in + int(bias))
        patches += edge**2 * fan_in
        units += edge**2 * outgoing
        if pooling:
            edge //= 2
            means += edge**2 * outgoing
        incoming = outgoing
    num_parameters += num_outputs * (incoming * edge**2 + int(bias))
    numbers: dict[Sort, int] = {
        **{"inputs": image_size**2, "patches": patches, "linear": units},
        **{"sums": int(bias) * units + means, "outputs": num_outputs},
    }
    return counted_size(num_parameters, num_samples, _added(numbers, _activated(activation, units)))


def conv_edge(edge: int, stride: int) -> int:
    """Positions along the edge of an image after a padded convolution: edge / stride, rounded up."""
    return -(-edge // stride)


def attention_size(
    *, embedding_dim: int, key_dim: int, value_dim: int, num_sequences: int, sequence_length: int
) -> Size:
    """Size of one self-attention layer on `num_sequences` sequences.

    P = 2 d d_K + d d_V. Per position the input (d), query and key (2 d_K), value and output (d_V each); per pair of
    positions the score, the scaled score, the sink's score and the weight.

    Args:
        embedding_dim: Numbers at each position of the input, d.
        key_dim: Columns of the query and key weights, d_K.
        value_dim: Numbers at each position of the output, d_V.
        num_sequences: Sequences that are evaluated.
        sequence_length: Positions of each sequence.

    Returns:
        The size.
    """
    num_parameters = embedding_dim * (2 * key_dim + value_dim)
    per_position: dict[Sort, int] = {
        **{"inputs": embedding_dim, "linear": 2 * key_dim + value_dim, "outputs": value_dim},
        **{"products": 2 * sequence_length, "sums": sequence_length, "softmax": sequence_length},
    }
    return counted_size(num_parameters, num_sequences, _times(sequence_length, per_position))


def neuron_network_size(width: int, bias: bool, num_samples: int, *, activation: str = "linear") -> Size:
    """Size of f(x) = <w, phi(v x + b)> for scalar x: two or three parameters per neuron.

    Per sample and neuron there are v x and what the bias adds; what the activation produces counts beside it.

    Args:
        width: Neurons.
        bias: Whether there is a bias.
        num_samples: Numbers x that are evaluated.
        activation: Name of the activation function.

    Returns:
        The size.
    """
    numbers: dict[Sort, int] = {"inputs": 1, "linear": width, "piecewise": width, "outputs": 1}
    return counted_size((2 + int(bias)) * width, num_samples, _added(numbers, _activated(activation, width)))


def coordinate_network_size(num_inputs: int, num_outputs: int, *, width: int, num_samples: int) -> Size:
    """Size of f(x) = sum_d <w_d, v_d> x_d or f_k(x) = <w_k, v_k> x: two parameters per coordinate and neuron.

    Their product is taken once, not once per sample, so that inputs and outputs are what samples produce.

    Args:
        num_inputs: Inputs D, or 1.
        num_outputs: Outputs K, or 1.
        width: Neurons of each coordinate.
        num_samples: Samples that are evaluated.

    Returns:
        The size.
    """
    plain = mlp_size((num_inputs, num_outputs), False, num_samples)
    return replace(plain, num_parameters=2 * max(num_inputs, num_outputs) * width)


def quadratic_size(num_parameters: int, num_samples: int = 1) -> Size:
    """Size of z^T A z / 2 for z (num_parameters,): A, z z^T, and its share of each value."""
    entries = num_parameters**2
    numbers: dict[Sort, int] = {"inputs": entries, "linear": entries, "piecewise": entries, "outputs": 1}
    return counted_size(num_parameters, num_samples, numbers)
