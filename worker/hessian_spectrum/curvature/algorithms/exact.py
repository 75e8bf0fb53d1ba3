"""Every eigenvalue of an operator, from the dense matrix."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.iteration import Count
from hessian_spectrum.curvature.linear_algebra import (
    PRODUCT_ROUNDINGS,
    SymmetricOperator,
    Triangle,
    eigenvalues,
    mirrored,
    norm,
)
from hessian_spectrum.curvature.serialization import serializable, transient
from hessian_spectrum.planning.work import LARGEST_LIST, Work, exact_work
from hessian_spectrum.quadrature.error_bands import NORMAL_QUANTILE
from hessian_spectrum.quadrature.results import (
    Estimate,
    ExactSpectrum,
    FloatArray,
    Inertia,
    Interval,
    RepeatedEigenvalue,
)

COLUMNS = 128  # number of eigenvectors whose residuals are measured at once

ZERO_ROUNDINGS = 10


@serializable()
@dataclass
class DenseMatrixState:
    """A dense matrix that is filled step by step."""

    triangle: Triangle  # of the matrix itself or, with fewer rows, of its Gram matrix
    is_gram: bool = False
    steps: Iterator[None] | None = transient()  # noqa: RUF009 - a field; of the operator that fills the triangle, in this process

    @property
    def dim(self) -> int:
        """Number of rows of the triangle."""
        return len(self.triangle.rows)


@dataclass(frozen=True)
class DenseEigensolver(Method[DenseMatrixState, ExactSpectrum]):
    """Computes every eigenvalue, by P products and a dense float64 eigenvalue problem on the operator's device.

    A matrix B^T B + c I with m < P rows of B has the m eigenvalues of B B^T plus c, and c with multiplicity P - m: then
    only B B^T is assembled, by m vector-Jacobian products, unless eigenvectors are requested.

    An eigenvalue is known, and counts as zero, up to (e + 10 (sqrt(P) - 1) eps) max |lambda|, where eps is the machine
    epsilon and e the relative error of the products, including that of reduced precision: rounding errors of P terms
    add up like sqrt(P), and the factor 10 covers those of the products themselves. (The usual rank threshold, P eps,
    would count a third of the positive eigenvalues of a small network in float32 as zero.)

    Peak memory is P^2 numbers in float64, with eigenvectors 4 P^2.

    Args:
        eigenvectors: Whether to return unit eigenvectors, in rows, and their residuals.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
    """

    eigenvectors: bool = False

    result_phase: ClassVar[str | None] = "eigenvalues"

    def cost(self, num_parameters: int, *, layered: bool = False) -> Work:
        """Return the work; `layered` tells whether the model is an `Mlp` whose products are not reduced."""
        return exact_work(num_parameters, self.eigenvectors, layered)

    def init(self, problem: SymmetricOperator, *, generator: torch.Generator) -> DenseMatrixState:
        """Return the matrix before its first product; the generator is not used."""
        form = None if self.eigenvectors else problem.gram_form
        if form is not None and form.order < problem.dim:
            return DenseMatrixState(form.start(), is_gram=True)
        return DenseMatrixState(problem.start_triangle())

    def is_finished(self, state: DenseMatrixState) -> bool:
        """Return whether all columns are filled."""
        return state.triangle.num_columns == state.dim

    def step(self, problem: SymmetricOperator, state: DenseMatrixState) -> DenseMatrixState:
        """Fill one block of columns."""
        # one generator for all steps of a process: some operators prepare what serves many steps
        state.steps = state.steps or _steps(problem, state)
        next(state.steps)
        if self.is_finished(state):
            next(state.steps, None)  # it releases what it holds
        return state

    def count(self, state: DenseMatrixState) -> Count:
        """Return the number of filled columns, of those of the triangle."""
        return Count(state.triangle.num_columns, state.dim)

    def result(self, problem: SymmetricOperator, state: DenseMatrixState) -> ExactSpectrum:
        """Solve the dense eigenvalue problem in the memory of the matrix."""
        if state.is_gram:
            return summarise_gram(problem, state.triangle)
        return summarise_triangle(problem, state.triangle, self.eigenvectors)


def _steps(operator: SymmetricOperator, state: DenseMatrixState) -> Iterator[None]:
    if not state.is_gram:
        return operator.fill_triangle(state.triangle)
    assert operator.gram_form is not None
    return operator.gram_form.fill(state.triangle)


def summarise_triangle(operator: SymmetricOperator, triangle: Triangle, eigenvectors: bool) -> ExactSpectrum:
    """Return every eigenvalue of a completely filled matrix, whose memory is overwritten.

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
        values = eigenvalues(matrix)
    return exact_spectrum(operator, values, eigenvectors=vectors, residuals=residuals)


def exact_spectrum(
    operator: SymmetricOperator,
    values: Tensor,
    *,
    eigenvectors: FloatArray | None = None,
    residuals: FloatArray | None = None,
) -> ExactSpectrum:
    """Return the spectrum with every eigenvalue, from P products.

    Args:
        operator: The matrix A.
        values: Its eigenvalues (P,), ascending, in float64.
        eigenvectors: Unit vectors in rows, if they were computed.
        residuals: Their residuals.
    """
    eps = torch.finfo(operator.dtype).eps
    assembly = ZERO_ROUNDINGS * (sqrt(operator.dim) - 1) * eps
    threshold = (operator.product_error + assembly) * float(values.abs().max())
    return ExactSpectrum(
        eigenvalues=_array(values),
        trace=_trace(values, operator.product_error),
        inertia=_inertia(values, threshold),
        zero_threshold=threshold,
        num_products=operator.dim,
        eigenvectors=eigenvectors,
        residuals=residuals,
    )


def summarise_gram(operator: SymmetricOperator, triangle: Triangle) -> ExactSpectrum:
    """Return every eigenvalue of A = B^T B + c I from a completely filled B B^T, whose memory is overwritten.

    Those of B B^T have errors relative to ||B^T B||, like those of A itself: small ones are not less accurate.

    Args:
        operator: The matrix A.
        triangle: The filled half of B B^T (m, m), m < P.

    Returns:
        The spectrum; of a large matrix, the P - m eigenvalues c are not listed one by one.

    Raises:
        NonFiniteError: If an entry is NaN or infinite.
    """
    form = operator.gram_form
    assert form is not None
    matrix = mirrored(triangle)
    removed = form.centre(matrix)
    own = eigenvalues(matrix)
    size = float(own.abs().max()) + removed
    eps = torch.finfo(operator.dtype).eps
    assembly = ZERO_ROUNDINGS * (sqrt(len(own)) - 1) * eps
    threshold = (operator.term_error + assembly) * size + PRODUCT_ROUNDINGS * eps * abs(form.offset)
    repeated = RepeatedEigenvalue(form.offset, operator.dim - len(own))
    is_listed = operator.dim <= LARGEST_LIST
    copies = own.new_full((repeated.multiplicity if is_listed else 0,), form.offset)
    values = torch.cat([own + form.offset, copies]).sort().values
    rest = 0 if is_listed else repeated.multiplicity
    error = operator.term_error * (float(own.abs().sum()) + 2 * norm(own) + 2 * removed)
    trace = float(own.sum()) + operator.dim * form.offset
    counts = _inertia(values, threshold)
    unlisted = _inertia(own.new_full((1,), form.offset), threshold)
    return ExactSpectrum(
        eigenvalues=_array(values),
        trace=Estimate(trace, error / NORMAL_QUANTILE, Interval(trace - error, trace + error)),
        inertia=Inertia(
            counts.negative + rest * unlisted.negative,
            counts.zero + rest * unlisted.zero,
            counts.positive + rest * unlisted.positive,
        ),
        zero_threshold=threshold,
        num_products=len(own),
        eigenvectors=None,
        residuals=None,
        repeated=None if is_listed else repeated,
    )


def _trace(values: Tensor, product_error: float) -> Estimate:
    """Compute the trace; product errors, relative to A, move it by at most product_error (sum |lambda| + 2 ||A||_F)."""
    value = float(values.sum())
    error = product_error * (float(values.abs().sum()) + 2 * norm(values))
    return Estimate(value, error / NORMAL_QUANTILE, Interval(value - error, value + error))


def _inertia(values: Tensor, threshold: float) -> Inertia:
    negative = int((values < -threshold).sum())
    positive = int((values > threshold).sum())
    return Inertia(negative, len(values) - negative - positive, positive)


def _residuals(matrix: Tensor, values: Tensor, columns: Tensor) -> FloatArray:
    """Return the residuals ||A x - lambda x|| (P,) of the unit columns x."""
    lengths = torch.empty_like(values, device="cpu")
    for start in range(0, len(values), COLUMNS):
        part = slice(start, start + COLUMNS)
        defects = matrix @ columns[:, part] - columns[:, part] * values[part]
        lengths[part] = torch.tensor([norm(defect) for defect in defects.T], dtype=torch.float64)
    return _array(lengths)


def _array(tensor: Tensor) -> FloatArray:
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()


METHODS = {"exact": DenseEigensolver}
