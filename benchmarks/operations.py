"""How many operations the matrix products of a Hessian product take."""

from hessian_spectrum.curvature.models.gpt2 import Gpt2

HESSIAN_PER_FORWARD = 6


def forward_operations(model: Gpt2, num_sequences: int, length: int) -> int:
    """Multiplications and additions of the matrix products of one forward pass of a model with attention.

    Per token 2 (12 L d^2 + K d) for the weights of L blocks of width d and the output layer of K tokens, and 4 L T d
    for scores and mixed values of T tokens, of which those to come are computed as well.
    """
    layers, width = model.n_layer, model.n_embd
    per_token = 2 * (12 * layers * width**2 + model.vocab_size * width) + 4 * layers * length * width
    return num_sequences * length * per_token


def hessian_product_operations(model: Gpt2, num_sequences: int, length: int) -> int:
    """Those of H v at a recorded point: 6 forward passes, two gradients.

    Each z = x y of the forward pass has the tangent x' y + x y', and each of its two cotangents, of x and of y, has two
    terms as well: six products for one. The primal pass is not repeated; where a recording does not fit memory and is
    repeated, that is not counted.
    """
    return HESSIAN_PER_FORWARD * forward_operations(model, num_sequences, length)
