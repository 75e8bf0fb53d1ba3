"""What a computation will take, from plain numbers; imports no torch, so that a web service can ask before it queues.

Peak bytes are those of tensors, above what the process holds after its imports.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

FLOAT64_BYTES = 8

# How many vectors go through the linearised gradient at once: as many as fit, up to a number that keeps the processor
# busy.
BLOCK_BYTES = 64 * 2**20
BLOCK_COLUMNS = 128

# Copies of the activations, measured on mlps and gpt2s (tests/curvature/test_cost.py holds the numbers against the
# real peak):
TRACE_COPIES = 12  # alive at once while the gradient is traced; what products need of them later is less than a half
RETAINED_COPIES = 5  # primal values that the linearised gradient keeps
TANGENT_COPIES = 4  # tangents alive at once while one vector goes through it

OVERHEAD_BYTES = 32 * 2**20  # the trace's Python objects, and what the allocator cannot use again

EIGH_COPIES = 6  # of a dense matrix while its eigenvectors are computed
DENSITY_COPIES = 4  # of the densities of all probes while mean and error are taken


@dataclass(frozen=True)
class Size:
    """What a cost depends on."""

    num_parameters: int  # P
    num_activations: int  # numbers that one forward pass over all the data produces, loss included


@dataclass(frozen=True)
class Cost:
    """Upper bounds of what a computation takes."""

    num_parameters: int  # P
    num_products: int  # matrix-vector products
    peak_bytes: int


def mlp_size(widths: Sequence[int], bias: bool, num_samples: int) -> Size:
    """Size of a fully connected network on `num_samples` inputs.

    Each layer gives fan_out (fan_in + 1) parameters with bias, and a pre- and a post-activation per unit and sample;
    the loss adds two numbers per output.
    """
    num_parameters = sum(fan_out * (fan_in + int(bias)) for fan_in, fan_out in pairwise(widths))
    per_sample = widths[0] + 2 * sum(widths[1:]) + 2 * widths[-1]
    return Size(num_parameters, num_samples * per_sample)


def gpt2_size(
    n_layer: int,
    n_head: int,
    n_embd: int,
    n_positions: int,
    vocab_size: int,
    num_sequences: int,
    sequence_length: int,
) -> Size:
    """Size of a GPT-2 with tied embedding on `num_sequences` sequences of `sequence_length` tokens.

    P = (vocab_size + n_positions) d + n_layer (12 d^2 + 13 d) + 2 d with d = n_embd. Per token and block: two layer
    norms (3 d each), queries, keys and values (3 d), attention (2 d), the hidden layer and its gelu (8 d), two
    residual sums and the output (3 d); per pair of tokens, head and block: score, masked score and weight. The logits
    count three times.
    """
    d = n_embd
    num_parameters = (vocab_size + n_positions) * d + n_layer * (12 * d * d + 13 * d) + 2 * d
    per_token = n_layer * (22 * d + 3 * n_head * sequence_length) + 5 * d + 3 * vocab_size
    return Size(num_parameters, num_sequences * sequence_length * per_token)


def conv_size(
    image_size: int,
    channels: Sequence[int],
    kernel_size: int,
    stride: int,
    pooling: bool,
    num_outputs: int,
    bias: bool,
    num_samples: int,
) -> Size:
    """Size of a convolutional network with a linear head on `num_samples` square images of one channel.

    Each layer gives fan_out (fan_in + 1) parameters with bias, where a convolution's fan_in is channels times
    kernel_size^2; its activations are the unfolded patches (fan_in per position), pre- and post-activations, and with
    pooling their means. The loss adds two numbers per output.
    """
    num_parameters, per_sample, edge, incoming = 0, image_size**2, image_size, 1
    for outgoing in channels:
        fan_in = incoming * kernel_size**2
        edge = conv_edge(edge, stride)
        num_parameters += outgoing * (fan_in + int(bias))
        per_sample += edge**2 * (fan_in + 2 * outgoing)
        if pooling:
            edge //= 2
            per_sample += edge**2 * outgoing
        incoming = outgoing
    num_parameters += num_outputs * (incoming * edge**2 + int(bias))
    return Size(num_parameters, num_samples * (per_sample + 4 * num_outputs))


def conv_edge(edge: int, stride: int) -> int:
    """Positions along the edge of an image after a padded convolution: edge / stride, rounded up."""
    return -(-edge // stride)


def attention_size(embedding_dim: int, key_dim: int, value_dim: int, num_sequences: int, sequence_length: int) -> Size:
    """Size of one self-attention layer on `num_sequences` sequences.

    P = 2 d d_K + d d_V. Per position the input (d), query and key (2 d_K), value, output and two of the loss (4 d_V);
    per pair of positions the product, its scale, the sink's score and the weight.
    """
    num_parameters = embedding_dim * (2 * key_dim + value_dim)
    per_position = embedding_dim + 2 * key_dim + 4 * value_dim + 4 * sequence_length
    return Size(num_parameters, num_sequences * sequence_length * per_position)


def neuron_network_size(width: int, bias: bool, num_samples: int) -> Size:
    """Size of f(x) = <w, phi(v x + b)> for scalar x: two or three parameters per neuron."""
    return Size((2 + int(bias)) * width, num_samples * ((2 + int(bias)) * width + 4))


def coordinate_network_size(num_inputs: int, num_outputs: int, width: int, num_samples: int) -> Size:
    """Size of f(x) = sum_d <w_d, v_d> x_d or f_k(x) = <w_k, v_k> x: two parameters per coordinate and neuron.

    Their product is taken once, not once per sample.
    """
    num_coordinates = max(num_inputs, num_outputs)
    activations = num_coordinates * (width + 1) + num_samples * (num_inputs + 3 * num_outputs)
    return Size(2 * num_coordinates * width, activations)


def quadratic_size(num_parameters: int) -> Size:
    """Size of z^T A z / 2 for z (num_parameters,): A, z z^T, and their product."""
    return Size(num_parameters, 2 * num_parameters**2 + 2)


def exact_cost(size: Size, itemsize: int = FLOAT64_BYTES) -> Cost:
    """Cost of `exact_spectrum`: the dense matrix (P^2 float64), LAPACK's work copy of it, and the products.

    Args:  itemsize, bytes of a number in the precision of the products (4 or 8).
    """
    P = size.num_parameters
    dense = 2 * P * P * FLOAT64_BYTES
    blocks = 3 * P * min(P, BLOCK_COLUMNS) * FLOAT64_BYTES
    return Cost(P, P, dense + blocks + _operator_bytes(size, itemsize))


def lanczos_cost(
    size: Size, num_steps: int, num_probes: int, num_points: int = 0, itemsize: int = FLOAT64_BYTES
) -> Cost:
    """Cost of `lanczos_spectrum`.

    A basis of m + 1 vectors, m = min(num_steps, P) (full reorthogonalisation), and the products; after them the
    tridiagonal eigenproblem as a dense one, quadratures, and a density per probe on the grid.

    Args:  itemsize, bytes of a number in the precision of the products (4 or 8).
    """
    P = size.num_parameters
    steps = min(num_steps, P)
    basis = (steps + 1) * P * itemsize
    vectors = 4 * P * (itemsize + FLOAT64_BYTES)
    summary = FLOAT64_BYTES * (EIGH_COPIES * steps**2 + num_probes * (2 * steps + DENSITY_COPIES * num_points))
    return Cost(P, steps * num_probes, max(basis + vectors, summary) + _operator_bytes(size, itemsize))


def _operator_bytes(size: Size, itemsize: int) -> int:
    """Parameters and gradients, and the larger of the trace and of the products with one block of vectors."""
    one_column = itemsize * (4 * size.num_parameters + TANGENT_COPIES * size.num_activations)
    products = itemsize * RETAINED_COPIES * size.num_activations + max(one_column, BLOCK_BYTES)
    trace = itemsize * (4 * size.num_parameters + TRACE_COPIES * size.num_activations)
    return itemsize * 6 * size.num_parameters + max(products, trace) + OVERHEAD_BYTES
