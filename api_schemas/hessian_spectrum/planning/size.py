"""Sizes of models and of what their forward passes produce, from plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

from hessian_spectrum.planning.activations import ACTIVATIONS

Family = Literal["mlp", "conv", "attention", "gpt2", "neurons", "quadratic", "program", "generic"]

ProgramSort = Literal[
    "inputs", "linear", "convolutions", "products", "sums", "piecewise", "smooth", "batch-norms", "norms", "softmax",
    "copies", "recurrent", "outputs", "logits", "streamed",
]  # fmt: skip
"""Sorts of the numbers of a program, by the operator that produces them; the last are inputs that are read from a file
whenever a batch is recorded."""

PROGRAM_SORTS: tuple[ProgramSort, ...] = get_args(ProgramSort)

SORTS: dict[Family, tuple[str, ...]] = {
    "mlp": ("inputs", "linear", "piecewise", "tanh", "gelu", "silu", "sigmoid", "outputs", "logits"),
    "conv": ("patches", "piecewise", "smooth", "pooled"),
    "attention": ("embeddings", "keys", "values", "pairs"),
    "gpt2": ("stream", "pairs", "logits"),
    "neurons": ("linear", "piecewise"),
    "quadratic": ("matrix",),
    "program": PROGRAM_SORTS,
    "generic": ("numbers",),
}
"""Sorts of the numbers that a forward pass produces: numbers of one sort are kept, and copied, alike."""

LOGIT_COPIES = 3  # of each logit that are counted

_PIECEWISE = ("linear", "piecewise")


@dataclass(frozen=True)
class Size:
    """Size of a model and its data, on which every cost depends.

    Attributes:
        family: Family of models whose memory was measured together.
        num_parameters: Parameters P of the matrix.
        num_samples: Samples, or sequences.
        activations: Numbers of each sort in `SORTS` that one forward pass over all samples produces.
        num_other_parameters: Parameters of the model outside of the block, if the matrix is that of a block.
        has_output_layer: Whether logits, the last sort, come from a layer of their own and are computed in pieces.
    """

    family: Family
    num_parameters: int
    num_samples: int
    activations: tuple[int, ...]
    num_other_parameters: int = 0
    has_output_layer: bool = False

    @property
    def num_activations(self) -> int:
        """Number of activations of all sorts together."""
        return sum(self.activations)

    def with_logits(self) -> "Size":
        """Return the size with a loss that keeps as much of the outputs as cross-entropy does of logits."""
        if self.family not in ("mlp", "program"):
            return self
        numbers = dict(zip(SORTS[self.family], self.activations, strict=True))
        numbers |= {"outputs": 0, "logits": numbers["outputs"] + numbers["logits"]}
        return replace(self, activations=tuple(numbers.values()))

    def with_streamed_inputs(self) -> "Size":
        """Return the size with inputs that stay on disk: each recording keeps its own."""
        if self.family != "program":
            return self
        numbers = dict(zip(PROGRAM_SORTS, self.activations, strict=True))
        numbers["streamed"] = numbers["inputs"]
        return replace(self, activations=tuple(numbers.values()))

    def at_once(self, num_logits: int) -> "Size":
        """Return the size of what exists at once if the output layer computes at most `num_logits` logits together."""
        if not self.has_output_layer:
            return self
        *others, logits = self.activations
        return replace(self, activations=(*others, min(logits, LOGIT_COPIES * num_logits)))

    def part(self, num_samples: int) -> "Size":
        """Return the size of the same model on `num_samples` of the samples."""
        numbers = tuple(-(-each * num_samples // self.num_samples) for each in self.activations)
        return replace(self, num_samples=num_samples, activations=numbers)


def generic_size(num_parameters: int, num_samples: int, numbers_per_sample: int) -> Size:
    """Size of a model whose memory was not measured: an upper estimate.

    Args:
        num_parameters: Parameters of the model.
        num_samples: Samples that are evaluated.
        numbers_per_sample: Numbers that the operations of a forward pass produce for each, inputs included.

    Returns:
        The size.
    """
    return Size("generic", num_parameters, num_samples, (num_samples * numbers_per_sample,))


def program_size(num_parameters: int, num_samples: int, numbers_per_sample: Mapping[ProgramSort, int]) -> Size:
    """Size of a network that is given as a program.

    Args:
        num_parameters: Parameters that are differentiated.
        num_samples: Samples that are evaluated.
        numbers_per_sample: Numbers of each sort that a forward pass produces for each sample.

    Returns:
        The size.
    """
    numbers = tuple(num_samples * numbers_per_sample.get(sort, 0) for sort in PROGRAM_SORTS)
    return Size("program", num_parameters, num_samples, numbers)


def mlp_size(widths: Sequence[int], bias: bool, num_samples: int, *, activation: str = "tanh") -> Size:
    """Size of a fully connected network on `num_samples` inputs.

    Each layer gives fan_out (fan_in + 1) parameters with bias, and each of its hidden units a number per sample.

    Args:
        widths: Widths of the input, the hidden layers and the output.
        bias: Whether the layers have biases.
        num_samples: Samples that are evaluated.
        activation: Name of the activation function.

    Returns:
        The size.
    """
    num_parameters = sum(fan_out * (fan_in + int(bias)) for fan_in, fan_out in pairwise(widths))
    counts = dict.fromkeys(SORTS["mlp"], 0)
    counts["inputs"], counts["outputs"] = widths[0], widths[-1]
    counts[ACTIVATIONS[activation].costs_like] += sum(widths[1:-1])
    return Size("mlp", num_parameters, num_samples, tuple(num_samples * each for each in counts.values()))


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
    blocks of 8 d^2 + 7 d. Per token and block: two layer norms (3 d each), queries, keys and values (3 d), attention
    (2 d), the hidden layer and its gelu (8 d), two residual sums and the output (3 d); without attention a layer norm,
    the hidden layer and two sums. Per pair of tokens, head and block: score, masked score and weight. The logits count
    three times.

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
    stream, pairs = (22 * d, 3 * n_head * sequence_length) if attention else (13 * d, 0)
    per_token = (num_blocks * stream + 5 * d, num_blocks * pairs, LOGIT_COPIES * vocab_size)
    num_tokens = num_sequences * sequence_length
    numbers = tuple(num_tokens * each for each in per_token)
    return Size("gpt2", num_parameters, num_sequences, numbers, has_output_layer=True)


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

    Per token and block, d = n_embd: two norms (4 d each, a cast to another precision included), queries, keys and
    values (3 d), their rotation (8 d), keys and values once for each head (2 d), attention (2 d), gate, hidden layer,
    activation and product (4 n_inner), two residual sums and the output (3 d). Per pair of tokens, head and block:
    score, scaled and masked score, weight. The logits count three times.

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
    per_token = (
        n_layer * (26 * n_embd + 4 * n_inner) + 6 * n_embd,
        n_layer * 4 * n_head * sequence_length,
        LOGIT_COPIES * vocab_size,
    )
    num_tokens = num_sequences * sequence_length
    return Size("gpt2", num_parameters, num_sequences, tuple(num_tokens * each for each in per_token))


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
    kernel_size^2; its activations are the unfolded patches (fan_in per position), the channels, and with pooling their
    means.

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
    patches, units, pooled = image_size**2, 0, 0
    for outgoing in channels:
        fan_in = incoming * kernel_size**2
        edge = conv_edge(edge, stride)
        num_parameters += outgoing * (fan_in + int(bias))
        patches += edge**2 * fan_in
        units += edge**2 * outgoing
        if pooling:
            edge //= 2
            pooled += edge**2 * outgoing
        incoming = outgoing
    num_parameters += num_outputs * (incoming * edge**2 + int(bias))
    by_kind = (units, 0) if ACTIVATIONS[activation].costs_like in _PIECEWISE else (0, units)
    numbers = (patches, *by_kind, pooled + 2 * num_outputs)
    return Size("conv", num_parameters, num_samples, tuple(num_samples * each for each in numbers))


def conv_edge(edge: int, stride: int) -> int:
    """Positions along the edge of an image after a padded convolution: edge / stride, rounded up."""
    return -(-edge // stride)


def attention_size(
    *, embedding_dim: int, key_dim: int, value_dim: int, num_sequences: int, sequence_length: int
) -> Size:
    """Size of one self-attention layer on `num_sequences` sequences.

    P = 2 d d_K + d d_V. Per position the input (d), query and key (2 d_K), value, output and two of the loss (4 d_V);
    per pair of positions the product, its scale, the sink's score and the weight.

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
    per_position = (embedding_dim, 2 * key_dim, 4 * value_dim, 4 * sequence_length)
    num_positions = num_sequences * sequence_length
    return Size("attention", num_parameters, num_sequences, tuple(num_positions * each for each in per_position))


def neuron_network_size(width: int, bias: bool, num_samples: int, *, activation: str = "linear") -> Size:
    """Size of f(x) = <w, phi(v x + b)> for scalar x: two or three parameters per neuron, a number per sample."""
    numbers = (num_samples * width, 0) if activation == "linear" else (0, num_samples * width)
    return Size("neurons", (2 + int(bias)) * width, num_samples, numbers)


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
    """Size of z^T A z / 2 for z (num_parameters,): A, z z^T, and their product."""
    return Size("quadratic", num_parameters, num_samples, (num_samples * (2 * num_parameters**2 + 2),))
