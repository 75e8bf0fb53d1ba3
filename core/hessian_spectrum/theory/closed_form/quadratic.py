"""A quadratic form, whose Hessian is its own symmetric matrix."""

import math
import sys
from functools import cache, partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessian_spectrum.theory.closed_form.spectrum import (
    Eigenvalue,
    Parameter,
    Spectrum,
    Statistic,
    finite_array,
    zero_tolerance,
)
from hessian_spectrum.theory.exceptions import TheoryError

SYMMETRY_TOLERANCE = 1e-12
"""Largest |a_ij - a_ji| that is accepted, relative to max |a_ij|."""


def _descent_rates(smallest: float, largest: float) -> dict[str, Statistic]:
    """Rates of gradient descent with a fixed step on a positive definite quadratic; otherwise every rate is None.

    Args:
        smallest: Smallest eigenvalue, in loss per squared parameter.
        largest: Largest eigenvalue, in loss per squared parameter.

    Returns:
        best_step, best_contraction and stability_limit.

    References:
        Day 27, section 5.
    """
    is_positive_definite = smallest > zero_tolerance(max(abs(smallest), abs(largest)))
    if not is_positive_definite:
        return dict.fromkeys(("best_step", "best_contraction", "stability_limit"))
    # Halves first: the sum of two large eigenvalues may overflow where the rates do not.
    mean = smallest / 2 + largest / 2
    return {
        "best_step": 1 / mean,
        "best_contraction": (largest / 2 - smallest / 2) / mean,
        "stability_limit": 2 / largest,
    }


def _resolution(symmetric: NDArray[np.float64]) -> float | None:
    """Error of LAPACK's eigenvalues relative to the largest, twice the largest observed; 0 for a diagonal matrix."""
    size = len(symmetric)
    is_diagonal = np.count_nonzero(symmetric) == np.count_nonzero(symmetric.diagonal())
    return None if is_diagonal else 4 * math.sqrt(size) * sys.float_info.epsilon


@np.errstate(over="ignore", invalid="ignore")
def quadratic_spectrum(matrix: ArrayLike) -> Spectrum:
    """Spectrum of the symmetric Hessian `matrix` of the loss w^T matrix w / 2.

    Equal eigenvalues stay separate, with multiplicity 1 each: rounding splits them, and no theorem says which belong
    together. Their role is "zero" if they are zero up to rounding, else "bulk", as none of them is special.

    Args:
        matrix: Matrix of shape (n, n), in loss per squared parameter, symmetric to SYMMETRY_TOLERANCE; its symmetric
            part is used.

    Returns:
        n eigenvalues. Statistics for gradient descent: best_step = 2 / (l_max + l_min), best_contraction = (kappa - 1)
        / (kappa + 1) of the distance per step at it, stability_limit = 2 / l_max (steps in squared parameter per loss);
        None with a note unless the matrix is positive definite.

    Raises:
        TheoryError: For a matrix that is not square, symmetric and finite, or whose results overflow.

    References:
        Day 27, sections 2 and 5. At the best step both extreme directions contract alike; the text says the steep one
        is slower.
    """
    array = finite_array("matrix", matrix, 2)
    if array.shape[0] != array.shape[1]:
        raise TheoryError(f"matrix must be square, not {array.shape[0]} x {array.shape[1]}", field="matrix")
    asymmetry = np.abs(array / 2 - array.T / 2).max()
    if asymmetry > SYMMETRY_TOLERANCE / 2 * np.abs(array).max():
        raise TheoryError(f"matrix must be symmetric to {SYMMETRY_TOLERANCE:g} of its largest entry", field="matrix")
    symmetric = array / 2 + array.T / 2
    values = np.linalg.eigvalsh(symmetric)
    smallest, largest = float(values[0]), float(values[-1])
    tolerance = zero_tolerance(max(abs(smallest), abs(largest)))

    @cache
    def vectors() -> NDArray[np.float64]:
        return np.linalg.eigh(symmetric)[1].T

    def row(index: int) -> NDArray[np.float64]:
        return vectors()[index : index + 1]

    statistics = _descent_rates(smallest, largest)
    undefined = "gradient-descent rates are null: the matrix is not positive definite"
    return Spectrum.of(
        kind="quadratic",
        parameters=(Parameter("w", (array.shape[0],)),),
        method="exact-reduction",
        source="Day 27, section 2",
        eigenvalues=tuple(
            Eigenvalue(float(value), 1, "zero" if abs(value) <= tolerance else "bulk", basis=partial(row, i))
            for i, value in enumerate(values)
        ),
        trace=float(np.trace(array)),
        statistics=statistics,
        notes=(undefined,) if statistics["best_step"] is None else (),
        resolution=_resolution(symmetric),
    )


SPECTRA = {"quadratic": quadratic_spectrum}
