"""Norms, alignments and products of the weight matrices of many networks at once."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from hessian_spectrum.quadrature.exceptions import InvalidProblemError

NORMS = ("spectral", "frobenius", "nuclear")


def matrix_norms(matrices: Tensor) -> dict[str, Tensor]:
    """Compute three norms of every matrix W of a stack.

    With the singular values sigma_1 >= sigma_2 >= ... the norms are sigma_1 (spectral), sqrt(sum sigma_i^2)
    (Frobenius) and sum sigma_i (nuclear). All three are the Euclidean norm if W has one row or one column.

    Args:
        matrices: Matrices of shape (..., n, m), finite.

    Returns:
        The norms (...,), by the names in `NORMS`, in the unit of the entries.

    References:
        Cracking the Hessian, appendix D.1.3.

    Example:
        >>> {name: float(value) for name, value in matrix_norms(torch.diag(torch.tensor([3.0, 4.0]))).items()}
        {'spectral': 4.0, 'frobenius': 5.0, 'nuclear': 7.0}
    """
    singular = torch.linalg.svdvals(matrices)
    frobenius = torch.linalg.matrix_norm(matrices, ord="fro")
    return {"spectral": singular[..., 0], "frobenius": frobenius, "nuclear": singular.sum(dim=-1)}


def absolute_alignments(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Compute three alignments of two matrices W and V of one shape, for every pair of two stacks.

    They are sigma_1(W^T V) (spectral), |tr(W^T V)| (Frobenius) and sum sigma_i(W^T V) (nuclear). All three are |<w, v>|
    if the matrices have one column. Only the second is the absolute value of an inner product: the others are not
    bilinear.

    Args:
        first: Matrices W of shape (..., n, m).
        second: Matrices V of shape (..., n, m).

    Returns:
        The alignments (...,), by the names in `NORMS`, in the squared unit of the entries.

    Raises:
        InvalidProblemError: If the shapes differ.

    References:
        Cracking the Hessian, appendix D.1.3, and figure 15 for the absolute value.
    """
    if first.shape != second.shape:
        raise InvalidProblemError(f"matrices of shapes {tuple(first.shape)} and {tuple(second.shape)} are not aligned")
    singular = torch.linalg.svdvals(first.mT @ second)
    inner = (first * second).sum(dim=(-2, -1)).abs()
    return {"spectral": singular[..., 0], "frobenius": inner, "nuclear": singular.sum(dim=-1)}


def products_without_one(weights: Sequence[Tensor]) -> list[Tensor]:
    """Multiply all weight matrices of a network but one, for every choice of the one.

    Entry b is W_B ... W_{b+1} W_{b-1} ... W_1, which has the shape of the whole product unless b is the first or the
    last layer. In a network of two layers the products are W_2 and W_1.

    Args:
        weights: Two or more stacks W_1, ..., W_B of shapes (..., n_b, n_{b-1}), first layer first; all inner widths
            are equal.

    Returns:
        The B products, in the order of the layer that is left out.

    Raises:
        InvalidProblemError: If there are fewer than two layers, or widths differ.

    References:
        Cracking the Hessian, appendix D.1.4.
    """
    if len(weights) < 2 or len({weight.shape[-2] for weight in weights[:-1]}) != 1:
        raise InvalidProblemError("products without one factor need two or more layers of equal inner widths")
    return [
        reduce(lambda product, factor: factor @ product, [*weights[:left_out], *weights[left_out + 1 :]])
        for left_out in range(len(weights))
    ]
