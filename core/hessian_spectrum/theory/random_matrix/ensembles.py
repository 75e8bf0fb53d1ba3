"""The Wigner and Wishart laws."""

import math

from hessian_spectrum.theory.errors import TheoryError
from hessian_spectrum.theory.random_matrix.law import FreeLaw

SCALES = (1e-50, 1e50)
"""Variances and energies for which no power that the formulas take leaves the range of float64."""

RATIOS = (1e-9, 1e9)
"""Ratios for which densities keep ten digits."""


def in_range(name: str, value: float, limits: tuple[float, float]) -> float:
    """The value.

    Raises:
        TheoryError: Naming `name` if it is NaN or not within the limits.
    """
    low, high = limits
    if not (math.isfinite(value) and low <= value <= high):
        raise TheoryError(f"{name} must lie between {low:g} and {high:g}", field=name)
    return value


def wigner_law(variance: float) -> FreeLaw:
    """Semicircle of the symmetric n x n matrix with off-diagonal variance `variance` / n: R(z) = v z.

    Density sqrt(4 v - l^2) / (2 pi v) on |l| <= 2 sqrt(v).

    Raises:
        TheoryError: If the variance is not within SCALES.

    References:
        Lecture, which gives the entries the variance sigma^2 without the 1/n that its density needs.
    """
    return FreeLaw(in_range("variance", variance, SCALES))


def wishart_law(variance: float, ratio: float) -> FreeLaw:
    """Law of J J^T, J n x p with entry variance v / p, ratio tau = n / p: R(z) = v / (1 - v tau z).

    Density sqrt((b - l) (l - a)) / (2 pi l v tau) between a, b = v (1 -/+ sqrt(tau))^2; for tau > 1 an atom 1 - 1/tau
    at 0.

    Raises:
        TheoryError: If the variance is not within SCALES, the ratio not within RATIOS.

    References:
        Marchenko & Pastur, Math. USSR-Sb. 1 (1967) 457-483; Lecture, which writes sigma where sigma^2 is meant.
    """
    variance, ratio = in_range("variance", variance, SCALES), in_range("ratio", ratio, RATIOS)
    return FreeLaw(0.0, (1 / ratio,), (variance * ratio,))
