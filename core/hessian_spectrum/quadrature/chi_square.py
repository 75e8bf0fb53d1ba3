"""Confidence limits for the number of degrees of freedom of a chi-square variable; requires only numpy."""

from functools import cache
from math import lgamma

import numpy as np

from hessian_spectrum.quadrature.results import FloatArray

QUANTILE = 0.975
NORMAL_QUANTILE = 1.959963984540054

# Limits are interpolated between these degrees of freedom. Above 100 Wilson's and Hilferty's cube is good to 10^-5.
FEW_DEGREES = np.geomspace(0.01, 100, 240)
MANY_DEGREES = np.geomspace(103, 1e12, 300)

SMALLEST_LOG = -800.0  # of x: the lower quantile of 0.01 degrees
LARGEST_LOG = 700.0  # of nu / x: nearly infinite


def degree_limits(value: FloatArray) -> tuple[FloatArray, FloatArray]:
    """95 % confidence limits of nu / x for x drawn from the chi-square distribution with nu degrees of freedom.

    nu_lower solves P(chi^2 >= x) = 2.5 %, nu_upper solves P(chi^2 <= x) = 2.5 %. Both are interpolated with a relative
    error of 10^-3.

    Args:
        value: x >= 0, of any shape; may be infinite.

    Returns:
        nu_lower / x and nu_upper / x, of the same shape; both tend to 1 for large x.

    References:
        Garwood, Biometrika 28 (1936) 437-442, for limits of this kind.
    """
    with np.errstate(divide="ignore"):
        logarithm = np.log(value)
    lower, upper = (np.exp(np.minimum(np.interp(logarithm, *table), LARGEST_LOG)) for table in _tables())
    return lower, upper


@cache
def _tables() -> list[tuple[FloatArray, FloatArray]]:
    """Tables of log x and log(nu / x), ascending in x, for the 97.5 % and 2.5 % quantiles x of each nu."""
    nu = np.append(FEW_DEGREES, MANY_DEGREES)
    tables = []
    for probability, sign in ((QUANTILE, 1.0), (1 - QUANTILE, -1.0)):
        spread = 2 / (9 * MANY_DEGREES)
        many = np.log(MANY_DEGREES) + 3 * np.log(1 - spread + sign * NORMAL_QUANTILE * np.sqrt(spread))
        quantiles = np.append(_log_quantiles(FEW_DEGREES, probability), many)
        tables.append((quantiles, np.log(nu) - quantiles))
    return tables


def _log_quantiles(degrees: FloatArray, probability: float) -> FloatArray:
    """Values of log x with P(chi^2_nu <= x) = probability, by bisection."""
    lower, upper = np.full(len(degrees), SMALLEST_LOG), np.full(len(degrees), np.log(200.0))
    for _ in range(50):
        centre = (lower + upper) / 2
        below = _distribution(centre, degrees) < probability
        lower, upper = np.where(below, centre, lower), np.where(below, upper, centre)
    middle: FloatArray = (lower + upper) / 2
    return middle


def _distribution(log_value: FloatArray, degrees: FloatArray) -> FloatArray:
    """P(chi^2_nu <= x) = (x/2)^a e^(-x/2) / Gamma(a + 1) (1 + (x/2) / (a + 1) + ...) with a = nu / 2."""
    a, x = degrees / 2, np.exp(log_value) / 2
    term = np.ones_like(x)
    total = term.copy()
    k = 0
    while float((term / total).max()) > 1e-13:
        k += 1
        term = term * x / (a + k)
        total += term
    log_gamma = np.array([lgamma(each + 1) for each in a])
    result: FloatArray = total * np.exp(a * (log_value - np.log(2)) - x - log_gamma)
    return result
