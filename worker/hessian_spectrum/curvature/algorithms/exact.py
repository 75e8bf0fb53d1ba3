"""Every eigenvalue of an operator, from the dense matrix."""

from math import sqrt

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.vectors import norm
from hessian_spectrum.curvature.operators.base import SymmetricOperator, Triangle
from hessian_spectrum.curvature.operators.dense import mirrored
from hessian_spectrum.curvature.progress import FROM_THE_START, Continuation, Progress, ignore_progress
from hessian_spectrum.quadrature.chi_square import NORMAL_QUANTILE
from hessian_spectrum.quadrature.results import Estimate, ExactSpectrum, FloatArray, Inertia, Interval

COLUMNS = 128  # of eigenvectors whose residuals are measured at once

ZERO_ROUNDINGS = 10


def exact_spectrum(
    operator: SymmetricOperator,
    eigenvectors: bool = False,
    progress: Progress = ignore_progress,
    continuation: Continuation = FROM_THE_START,
) -> ExactSpectrum:
    """Every eigenvalue, from P products and a dense float64 eigenvalue problem on the operator's device.

    An eigenvalue is known, and counts as zero, up to (e + 10 (sqrt(P) - 1) eps) max |lambda|, where eps is the machine
    epsilon and e the relative error of the products, including that of reduced precision: rounding errors of P terms
    add up like sqrt(P), and the factor 10 covers those of the products themselves. (The usual rank threshold, P eps,
    would count a third of the positive eigenvalues of a small network in float32 as zero.)

    Peak memory is 2 P^2 numbers in float64, with eigenvectors 4 P^2.

    Args:
        operator: The matrix A.
        eigenvectors: Whether to return unit eigenvectors, in rows, and their residuals.
        progress: Called with phase "products" after each block of columns, then once with "eigenvalues".
        continuation: Provides a `Triangle` to resume from, and receives it while it is filled.

    Returns:
        The spectrum.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
    """
    triangle: Triangle = continuation.state or operator.start_triangle()
    for _ in operator.fill_triangle(triangle):
        progress("products", triangle.num_columns, operator.dim)
        continuation.offer(lambda: triangle)
    found = summarise_triangle(operator, triangle, eigenvectors)
    progress("eigenvalues", 1, 1)
    return found


def summarise_triangle(operator: SymmetricOperator, triangle: Triangle, eigenvectors: bool) -> ExactSpectrum:
    """Every eigenvalue of a completely filled matrix, whose memory is overwritten.

    Args:
        operator: The matrix A.
        triangle: Its filled half.
        eigenvectors: Whether to return unit eigenvectors, in rows, and their residuals.

    Returns:
        The spectrum.

    Raises:
        NonFiniteError: If an entry is NaN or infinite.
    """
    matrix = mirrored(triangle)
    vectors, residuals = None, None
    if eigenvectors:
        values, columns = torch.linalg.eigh(matrix)
        residuals = _residuals(matrix, values, columns)
        del matrix  # before the copy of the vectors that goes to the CPU
        vectors = _array(columns.T)
    else:
        values = torch.linalg.eigvalsh(matrix)
    eps = torch.finfo(operator.dtype).eps
    assembly = ZERO_ROUNDINGS * (sqrt(operator.dim) - 1) * eps
    threshold = (operator.product_error + assembly) * float(values.abs().max())
    return ExactSpectrum(
        eigenvalues=_array(values),
        trace=_trace(values, operator.product_error),
        inertia=_inertia(values, threshold),
        zero_threshold=threshold,
        num_products=operator.dim,
        eigenvectors=vectors,
        residuals=residuals,
    )


def _trace(values: Tensor, product_error: float) -> Estimate:
    """Trace; errors of the products, relative to A, move it by at most product_error (sum |lambda| + 2 ||A||_F)."""
    value = float(values.sum())
    error = product_error * (float(values.abs().sum()) + 2 * norm(values))
    return Estimate(value, error / NORMAL_QUANTILE, Interval(value - error, value + error))


def _inertia(values: Tensor, threshold: float) -> Inertia:
    negative = int((values < -threshold).sum())
    positive = int((values > threshold).sum())
    return Inertia(negative, len(values) - negative - positive, positive)


def _residuals(matrix: Tensor, values: Tensor, columns: Tensor) -> FloatArray:
    """Residuals ||A x - lambda x|| (P,) of the unit columns x."""
    found = torch.empty_like(values, device="cpu")
    for start in range(0, len(values), COLUMNS):
        part = slice(start, start + COLUMNS)
        defects = matrix @ columns[:, part] - columns[:, part] * values[part]
        found[part] = torch.tensor([norm(defect) for defect in defects.T], dtype=torch.float64)
    return _array(found)


def _array(tensor: Tensor) -> FloatArray:
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()
