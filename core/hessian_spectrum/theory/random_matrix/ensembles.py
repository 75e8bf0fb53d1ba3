"""The Wigner and Wishart laws."""

import math

from hessian_spectrum.theory.exceptions import TheoryError
from hessian_spectrum.theory.random_matrix.law import FreeLaw

SCALES = (1e-50, 1e50)
"""Range of variances and energies for which no power in the formulas leaves the range of float64."""

RATIOS = (1e-9, 1e9)
"""Range of ratios for which densities are accurate to ten digits."""


def in_range(name: str, value: float, limits: tuple[float, float]) -> float:
    """Return the value if it lies within the limits.

    Args:
        name: Name of the argument, for the error.
        value: Number to check.
        limits: Smallest and largest accepted value.

    Returns:
        The value.

    Raises:
        TheoryError: If the value is NaN or outside the limits; its `field` is `name`.
    """
    low, high = limits
    if not (math.isfinite(value) and low <= value <= high):
        raise TheoryError(f"{name} must lie between {low:g} and {high:g}", field=name)
    return value


def wigner_law(variance: float) -> FreeLaw:
    """Semicircle law of a symmetric n x n matrix with off-diagonal variance v / n: R(z) = v z.

    Its density is sqrt(4 v - l^2) / (2 pi v) on |l| <= 2 sqrt(v).

    Args:
        variance: v, within SCALES.

    Returns:
        The law.

    Raises:
        TheoryError: If the variance is not within SCALES.

    References:
        Lecture, which gives the entries the variance sigma^2 without the factor 1/n that its density needs.
    """
    return FreeLaw.of(in_range("variance", variance, SCALES))


def wishart_law(variance: float, ratio: float) -> FreeLaw:
    """Law of J J^T, where J is n x p with entry variance v / p and ratio tau = n / p: R(z) = v / (1 - v tau z).

    Its density is sqrt((b - l) (l - a)) / (2 pi l v tau) between a, b = v (1 -/+ sqrt(tau))^2; for tau > 1 it has an
    atom of mass 1 - 1/tau at 0.

    Args:
        variance: v, within SCALES.
        ratio: tau, within RATIOS.

    Returns:
        The law.

    Raises:
        TheoryError: If the variance is not within SCALES, or the ratio is not within RATIOS.

    References:
        Marchenko & Pastur, Math. USSR-Sb. 1 (1967) 457-483; Lecture, which writes sigma where sigma^2 is meant.
    """
    variance, ratio = in_range("variance", variance, SCALES), in_range("ratio", ratio, RATIOS)
    return FreeLaw.of(0.0, (1 / ratio,), (variance * ratio,))
