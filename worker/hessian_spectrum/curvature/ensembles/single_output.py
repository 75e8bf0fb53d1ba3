"""Hessians of bias-free networks with one output, compressed without loss to the few directions on which they act.

The squared error of a network with one output has a Hessian of low rank: most directions of the parameters change
neither an output to first order nor the loss to second order. In an orthonormal basis of the other directions, the
Hessian is a small dense matrix, whose eigenvalues, with zeros added, are those of the whole Hessian.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from hessian_spectrum.quadrature.exceptions import InvalidProblemError


@dataclass(frozen=True, eq=False)
class CompressedHessian:
    """A symmetric matrix (P, P) that is zero outside of a subspace of r <= P dimensions.

    Attributes:
        matrix: The matrix on the subspace, in an orthonormal basis: (r, r), float64, exactly symmetric.
        num_parameters: P.
    """

    matrix: Tensor
    num_parameters: int

    @property
    def num_zeros(self) -> int:
        """Number P - r of eigenvalues that are zero by construction."""
        return self.num_parameters - len(self.matrix)

    def eigenvalues(self) -> Tensor:
        """Return the other eigenvalues (r,), ascending, of which some may be zero, too."""
        values: Tensor = torch.linalg.eigvalsh(self.matrix)
        return values


def deep_linear_hessian(weights: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> CompressedHessian:
    """Compress the Hessian of L = 1/(2n) sum_i (w_B W_{B-1} ... W_1 x_i - y_i)^2.

    With the data's moments S = mean(x x^T) and omega = mean(delta x), the maps F_l = W_l ... W_1 and the vectors g_l =
    w_B ... W_{l+1} and h_l = F_l omega, the quadratic form of the Hessian is

        |S^{1/2} sum_l F_{l-1}^T dW_l^T g_l|^2 + 2 sum_{k<l} g_l^T dW_l (W_{l-1} ... W_{k+1}) dW_k h_{k-1},

    so that dW_l matters only through dW_l^T g_l and dW_l h_{l-1}. The basis of its directions is a p^T, where a = g_l /
    |g_l| and p is any vector, and c h^T / |h|, where h = h_{l-1} and c is orthogonal to a.

    Args:
        weights: Two or more float64 matrices W_1 (n_1, D), ..., w_B (1, n_{B-1}), first layer first.
        inputs: Inputs (n, D).
        targets: Targets (n, 1).

    Returns:
        The matrix on sum_l (n_l + n_{l-1} - 1) directions, in loss per squared parameter.

    Raises:
        InvalidProblemError: If the network has fewer than two layers, or more than one output.
    """
    _check_single_output(weights)
    size = len(inputs)
    forward = [torch.eye(inputs.shape[1], dtype=inputs.dtype)]  # F_0 ... F_{B-1}
    for weight in weights[:-1]:
        forward.append(weight @ forward[-1])
    backward = [torch.ones(1, dtype=inputs.dtype)]  # g_B ... g_1
    for weight in reversed(weights[1:]):
        backward.append(backward[-1] @ weight)
    backward.reverse()
    second_moment = inputs.T @ inputs / size
    residuals = inputs @ (weights[-1] @ forward[-1])[0] - targets[:, 0]
    first_moment = inputs.T @ residuals / size
    layers = [
        _Layer.of(gradient, image @ first_moment, image) for gradient, image in zip(backward, forward, strict=True)
    ]
    matrix = _deep_linear_matrix(layers, weights, second_moment)
    return CompressedHessian((matrix + matrix.T) / 2, sum(weight.numel() for weight in weights))


@dataclass(frozen=True, eq=False)
class _Layer:
    """The directions of one layer's weights: p (n_{l-1}) first, then the coordinates of c in `complement`."""

    length: Tensor  # |g_l|
    unit: Tensor  # a (n_l,)
    complement: Tensor  # orthonormal vectors orthogonal to a, as columns (n_l, n_l - 1)
    hidden: Tensor  # h_{l-1} (n_{l-1},)
    image: Tensor  # F_{l-1} (n_{l-1}, D)

    @classmethod
    def of(cls, gradient: Tensor, hidden: Tensor, image: Tensor) -> "_Layer":
        basis = reflection(gradient)
        return cls(gradient.norm(), basis[:, 0], basis[:, 1:], hidden, image)

    @property
    def size(self) -> int:
        return len(self.hidden) + self.complement.shape[1]

    def image_of(self, between: Tensor) -> Tensor:
        """Matrix of dW_l -> between dW_l h_{l-1}, for `between` (q, n_l): (q, size)."""
        along = torch.outer(between @ self.unit, self.hidden)
        return torch.cat([along, self.hidden.norm() * (between @ self.complement)], dim=1)


def _deep_linear_matrix(layers: Sequence[_Layer], weights: Sequence[Tensor], second_moment: Tensor) -> Tensor:
    """Twice the upper part of the functional Hessian, plus the Gauss-Newton matrix."""
    starts = [sum(layer.size for layer in layers[:index]) for index in range(len(layers) + 1)]
    matrix = torch.zeros(starts[-1], starts[-1], dtype=second_moment.dtype)
    for upper, layer in enumerate(layers):
        rows = slice(starts[upper], starts[upper] + len(layer.hidden))
        for lower, other in enumerate(layers):
            columns = slice(starts[lower], starts[lower] + len(other.hidden))
            product = layer.image @ second_moment @ other.image.T
            matrix[rows, columns] += layer.length * other.length * product
        between = torch.eye(len(layer.hidden), dtype=second_moment.dtype)
        for lower in range(upper - 1, -1, -1):
            columns = slice(starts[lower], starts[lower + 1])
            matrix[rows, columns] += 2 * layer.length * layers[lower].image_of(between)
            between = between @ weights[lower]
    return matrix


def two_layer_relu_hessian(weights: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> CompressedHessian:
    """Compress the Hessian of L = 1/(2n) sum_i (w^T relu(V x_i) - y_i)^2.

    With the activity A_ij = 1 for v_j^T x_i > 0 and the vectors omega_j = mean_i(delta_i A_ij x_i), the functional
    Hessian couples w_j with v_j along omega_j, by the number |omega_j|. The Gauss-Newton matrix has at most n
    dimensions besides.

    Args:
        weights: The float64 matrices V (m, D) and w (1, m).
        inputs: Inputs (n, D).
        targets: Targets (n, 1).

    Returns:
        The matrix on 2 m + min(n, m (D - 1)) directions, in loss per squared parameter.

    Raises:
        InvalidProblemError: If the network does not have two layers and one output.
    """
    _check_single_output(weights)
    if len(weights) != 2:
        raise InvalidProblemError(f"a network of {len(weights)} layers, not of two")
    size, (first, second) = len(inputs), weights
    hidden = inputs @ first.T
    active = (hidden > 0).to(inputs.dtype)
    residuals = hidden.relu() @ second[0] - targets[:, 0]
    moments = (active * residuals[:, None]).T @ inputs / size
    coordinates = inputs @ reflection(moments)  # of every input, in the basis of every neuron: (m, n, D)
    slopes = (active * second[0]).T[:, :, None] * coordinates
    rest = slopes[:, :, 1:].transpose(1, 2).reshape(-1, size)
    triangle = torch.linalg.qr(rest, mode="r").R.T if rest.numel() else rest.T  # rows of the Jacobian, rotated
    jacobian = torch.cat([hidden.relu(), slopes[:, :, 0].T, triangle], dim=1)
    matrix = jacobian.T @ jacobian / size
    neurons = torch.arange(len(first))
    matrix[neurons, len(first) + neurons] += moments.norm(dim=1)
    matrix[len(first) + neurons, neurons] += moments.norm(dim=1)
    return CompressedHessian((matrix + matrix.T) / 2, first.numel() + second.numel())


def reflection(vectors: Tensor) -> Tensor:
    """Compute an orthogonal matrix whose first column is parallel to a vector, for every vector of a stack.

    Args:
        vectors: Vectors (..., d); for the zero vector the matrix is a reflection of the first coordinate.

    Returns:
        Matrices (..., d, d), whose first column is v / |v| and whose others are orthogonal to it.
    """
    dim = vectors.shape[-1]
    first = torch.zeros(dim, dtype=vectors.dtype)
    first[0] = 1
    norms = vectors.norm(dim=-1, keepdim=True)
    unit = torch.where(norms > 0, vectors / norms, first)
    # the sign that does not cancel; the reflection maps the first coordinate to the opposite of this sign
    sign = torch.where(unit[..., :1] < 0, -1.0, 1.0).to(vectors.dtype)
    normal = unit + sign * first
    normal = normal / normal.norm(dim=-1, keepdim=True)
    matrix: Tensor = torch.eye(dim, dtype=vectors.dtype) - 2 * normal[..., :, None] * normal[..., None, :]
    matrix[..., 0] = unit
    return matrix


def _check_single_output(weights: Sequence[Tensor]) -> None:
    if len(weights) < 2 or len(weights[-1]) != 1:
        raise InvalidProblemError("the network must have two layers or more, and one output")
    for before, after in pairwise(weights):
        if after.shape[1] != len(before):
            raise InvalidProblemError(f"a layer of {after.shape[1]} inputs follows one of {len(before)} outputs")
