"""Transforms that give random data exact empirical moments."""

from math import sqrt

import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

ROUNDING = 1e-10  # remainder of a column, relative to its length, below which it counts as rounding error


def standardised(data: Dataset) -> Dataset:
    """Shift and scale every column of inputs and targets to mean 0 and mean square 1 over the n samples.

    Args:
        data: Inputs (n, D) and targets (n, K) in float64.

    Returns:
        The transformed data.

    Raises:
        InvalidProblemError: If a column is constant.
    """
    return Dataset(_standardise(data.inputs, "inputs"), _standardise(data.targets, "targets"))


def standardised_pixels(data: Dataset) -> Dataset:
    """Standardise inputs (n, D) alone; constant columns, such as the dark edge of images, become 0."""
    centred = data.inputs - data.inputs.mean(dim=0)
    norms = centred.norm(dim=0)
    constant = norms <= ROUNDING * data.inputs.norm(dim=0)
    unit = centred / torch.where(constant, torch.ones_like(norms), norms)
    return Dataset(torch.where(constant, torch.zeros_like(unit), unit * sqrt(len(data))), data.targets)


def decorrelated(data: Dataset) -> Dataset:
    """Transform inputs X (n, D) and targets Y (n, K) to mean 0, X^T X = n I, X^T Y = 0 and mean(y_k^2) = 1.

    X is orthonormalised column by column (QR), after the constant column, so the span of the first k inputs and the
    constant stays what it is; Y loses its projection on the constant and on all inputs. Targets stay correlated with
    one another.

    Args:
        data: Inputs (n, D) and targets (n, K) in float64.

    Returns:
        The transformed data.

    Raises:
        InvalidProblemError: If n < D + 2, inputs are linearly dependent, or a target is a linear function of them.

    References:
        Cracking the Hessian, appendix D.1.2, which takes n = D + 2 for its widest networks.
    """
    size, dim = data.inputs.shape
    if size < dim + 2:
        raise InvalidProblemError(f"decorrelated data of {dim} inputs need {dim + 2} samples, not {size}")
    constant = torch.ones(size, 1, dtype=data.inputs.dtype)
    basis, triangle = torch.linalg.qr(torch.cat([constant, data.inputs], dim=1))
    pivots = triangle.diagonal()
    if bool((pivots.abs()[1:] <= ROUNDING * data.inputs.norm(dim=0)).any()):
        raise InvalidProblemError("the inputs are linearly dependent: they cannot be decorrelated")
    # signs of the pivots: column k is then positively correlated with input k
    inputs = basis[:, 1:] * pivots.sign()[1:] * sqrt(size)
    targets, lengths = data.targets, data.targets.norm(dim=0)
    for _ in range(2):  # twice is enough: what rounding leaves the first time is gone
        targets = targets - basis @ (basis.T @ targets)
    rest = targets.norm(dim=0)
    if bool((rest <= ROUNDING * lengths).any()):
        raise InvalidProblemError("a target is a linear function of the inputs: they cannot be decorrelated")
    return Dataset(inputs, targets / rest * sqrt(size))


def _standardise(columns: Tensor, name: str) -> Tensor:
    centred = columns - columns.mean(dim=0)
    norms = centred.norm(dim=0)
    if bool((norms <= ROUNDING * columns.norm(dim=0)).any()):
        raise InvalidProblemError(f"a column of the {name} is constant: it cannot be standardised")
    scaled: Tensor = centred / norms * sqrt(len(columns))
    return scaled
