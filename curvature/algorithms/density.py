"""Smoothed spectral densities from Gauss quadratures; numpy alone, so that any process may smooth anew."""

from collections.abc import Callable, Sequence
from math import log, pi, sqrt

import numpy as np

from curvature.algorithms.probe_mean import ProbeMean, probe_mean
from curvature.algorithms.rules import Rule
from curvature.errors import InvalidProblemError
from curvature.results import Band, Density, FloatArray, Quadrature

MARGIN = 0.05  # Papyan 2020, section D.2
LOG_KAPPA = 1.04  # curvlinops 3.0.1, which found it by reproducing Papyan's figure 15b
LOG_EPSILON = 1e-5  # Papyan 2020, section D.2

# A spectrum narrower than this many roundings of its largest magnitude is one point.
POINT_ROUNDINGS = 100

# A table of exponentials holds at most this many numbers.
TABLE_SIZE = 2**17

DOUBLE_EPS = float(np.finfo(np.float64).eps)


def spectral_density(
    quadratures: Sequence[Quadrature],
    dim: int,
    num_steps: int,
    num_points: int,
    kappa: float,
    margin: float = MARGIN,
    rounding: float = DOUBLE_EPS,
) -> Density:
    """Mean over probes of sum_i weights_i N(lambda; nodes_i, (d sigma)^2), and its error as `probe_mean` has it.

    Smoothing is that of curvlinops' `lanczos_approximate_spectrum`. The extreme nodes of all probes, widened by
    `margin` on both sides, are c - d and c + d; the grid covers them with num_points equidistant points;
    sigma = 2 / (num_steps - 1) / sqrt(8 log kappa), in units of d. What a Gaussian puts outside the grid is not moved
    back, so the integral is 1 up to the tails, and the grid resolves the Gaussians when num_points is at least about
    num_steps.

    Deviations: boundaries are Ritz values, there is no second Lanczos run for them; one step has the width of two; a
    spectrum of zero width, such as that of c I, gets a grid of width |c|, or 1 if c = 0, instead of NaN.

    Args:
        dim: P.
        num_steps: Lanczos steps asked for, at most P: the resolution, whether or not a probe stopped early.
        kappa: > 1, dimensionless; larger is sharper.
        margin: >= 0, in units of the width of the spectrum.
        rounding: machine epsilon of the products.
    Raises:  InvalidProblemError if kappa <= 1, fewer than two points or no quadrature.
    Source:  Papyan, JMLR 21 (2020) 1-64, algorithm 2 and section D.2; curvlinops 3.0.1.
    """
    check_options(quadratures, num_points, kappa, margin)
    lower, upper = spectral_interval(quadratures, margin, rounding)
    sigma = _sigma(num_steps, kappa)
    found = _smoothed(quadratures, dim, num_points, sigma, (lower, upper), _itself)
    return _density(np.linspace(lower, upper, num_points), found, np.float64((upper - lower) / 2))


def log_spectral_density(
    quadratures: Sequence[Quadrature],
    dim: int,
    num_steps: int,
    num_points: int,
    kappa: float = LOG_KAPPA,
    margin: float = MARGIN,
    epsilon: float = LOG_EPSILON,
    rounding: float = DOUBLE_EPS,
) -> Density:
    """Density of |lambda| + epsilon, smoothed in the logarithm, where small eigenvalues can be told apart.

    That of curvlinops' `lanczos_approximate_log_spectrum`: the grid is geometric, from the smallest to the largest
    |node| + epsilon widened by `margin` on both sides in the logarithm; Gaussians have the width that
    `spectral_density` gives them, in units of half the logarithmic width; values are per unit of eigenvalue, so that
    the integral over the grid, whose points are exponentials, is 1 up to the tails.

    Eigenvalues far below the largest are not resolved by few steps, and the logarithm shows it: believe the band.

    Args:  epsilon, > 0, in units of A; others as of `spectral_density`.
    Raises:  InvalidProblemError as `spectral_density`, and if epsilon is not positive.
    Source:  Papyan, JMLR 21 (2020) 1-64, section C.7; curvlinops 3.0.1.
    """
    check_options(quadratures, num_points, kappa, margin)
    check_epsilon(epsilon)

    def transform(nodes: FloatArray) -> FloatArray:
        logarithms: FloatArray = np.log(np.abs(nodes) + epsilon)
        return logarithms

    ends = [transform(each.nodes) for each in quadratures]
    lower, upper = min(float(each.min()) for each in ends), max(float(each.max()) for each in ends)
    lower, upper = _widened(lower, upper, margin, rounding, half_width=0.5)
    found = _smoothed(quadratures, dim, num_points, _sigma(num_steps, kappa), (lower, upper), transform)
    grid = np.exp(np.linspace(lower, upper, num_points))
    return _density(grid, found, grid * ((upper - lower) / 2))


def spectral_interval(quadratures: Sequence[Quadrature], margin: float, rounding: float) -> tuple[float, float]:
    """From the smallest to the largest node of all probes, widened by `margin` times the width on both sides."""
    lower = min(float(each.nodes[0]) for each in quadratures)
    upper = max(float(each.nodes[-1]) for each in quadratures)
    magnitude = max(abs(lower), abs(upper))
    return _widened(lower, upper, margin, rounding * magnitude, half_width=magnitude / 2 if magnitude > 0 else 0.5)


def check_options(quadratures: Sequence[Quadrature], num_points: int, kappa: float, margin: float) -> None:
    """Raises:  InvalidProblemError if there is nothing to smooth, or no way to."""
    if not quadratures:
        raise InvalidProblemError("a density needs at least one quadrature")
    check_smoothing(num_points, kappa, margin)


def check_smoothing(num_points: int, kappa: float, margin: float) -> None:
    """Raises:  InvalidProblemError on kappa <= 1, fewer than two points or a negative margin."""
    if not 1 < kappa < float("inf") or num_points < 2 or not 0 <= margin < float("inf"):
        raise InvalidProblemError("a density needs kappa > 1, at least two grid points and a margin >= 0")


def check_epsilon(epsilon: float) -> None:
    """Raises:  InvalidProblemError unless 0 < epsilon < infinity."""
    if not 0 < epsilon < float("inf"):
        raise InvalidProblemError(f"the logarithm needs a positive epsilon, not {epsilon}")


def _widened(lower: float, upper: float, margin: float, rounding: float, half_width: float) -> tuple[float, float]:
    """The interval with its margin; one of no width within 100 roundings is first given `half_width` on each side."""
    if upper - lower <= POINT_ROUNDINGS * rounding:
        middle = lower + (upper - lower) / 2
        lower, upper = middle - half_width, middle + half_width
    padding = margin * (upper - lower)
    return lower - padding, upper + padding


def _sigma(num_steps: int, kappa: float) -> float:
    return 2 / max(num_steps - 1, 1) / sqrt(8 * log(kappa))


def _itself(nodes: FloatArray) -> FloatArray:
    return nodes


def _smoothed(
    quadratures: Sequence[Quadrature],
    dim: int,
    num_points: int,
    sigma: float,
    interval: tuple[float, float],
    transform: Callable[[FloatArray], FloatArray],
) -> ProbeMean:
    """Mean of exp(-t^2 / 2) / (sigma sqrt(2 pi)), t in units of sigma, on the interval moved to [-1, 1]."""
    centre, radius = (interval[1] + interval[0]) / 2, (interval[1] - interval[0]) / 2
    unit_grid = np.linspace(-1, 1, num_points)
    height = 1 / (sigma * sqrt(2 * pi))
    block = max(1, TABLE_SIZE // num_points)

    def moments(rule: Rule) -> tuple[FloatArray, FloatArray]:
        nodes = (transform(rule.nodes) - centre) / radius
        mean, square = np.zeros_like(unit_grid), np.zeros_like(unit_grid)
        # block by block: the table (m, num_points) of all exponentials would need m times the memory of the answer
        for start in range(0, len(nodes), block):
            part = slice(start, start + block)
            table = (unit_grid - nodes[part, None]) / sigma
            table = np.exp(table**2 / -2)
            mean += rule.weights[part] @ table
            square += rule.weights[part] @ table**2
        return height * mean, height**2 * square

    return probe_mean(quadratures, dim, moments)


def _density(grid: FloatArray, found: ProbeMean, unit: FloatArray | np.float64) -> Density:
    """Per unit of eigenvalue what is per `unit`."""
    band = Band(found.band.lower / unit, found.band.upper / unit)
    return Density(grid, found.values / unit, found.standard_error / unit, band)
