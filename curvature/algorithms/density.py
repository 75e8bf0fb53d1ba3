"""Smoothed spectral density from Gauss quadratures."""

from collections.abc import Sequence
from math import log, pi, sqrt

import numpy as np

from curvature.errors import InvalidProblemError
from curvature.results import Density, FloatArray, Quadrature

MARGIN = 0.05  # Papyan 2020, section D.2

# A spectrum narrower than this many roundings of its largest magnitude is one point.
POINT_ROUNDINGS = 100


def spectral_density(
    quadratures: Sequence[Quadrature],
    num_steps: int,
    num_points: int,
    kappa: float,
    margin: float = MARGIN,
    rounding: float = float(np.finfo(np.float64).eps),
) -> Density:
    """Mean over probes of sum_i weights_i N(lambda; nodes_i, (d sigma)^2).

    Smoothing is that of curvlinops' `lanczos_approximate_spectrum`. The extreme nodes of all probes, widened by
    `margin` on both sides, are c - d and c + d; the grid covers them with num_points equidistant points;
    sigma = 2 / (num_steps - 1) / sqrt(8 log kappa), in units of d. What a Gaussian puts outside the grid is not moved
    back, so the integral is 1 up to the tails, and the grid resolves the Gaussians when num_points is at least about
    num_steps.

    Deviations: boundaries are Ritz values, there is no second Lanczos run for them; one step has the width of two; a
    spectrum of zero width, such as that of c I, gets a grid of width |c|, or 1 if c = 0, instead of NaN.

    Args:
        num_steps: Lanczos steps asked for, at most P: the resolution, whether or not a probe stopped early.
        kappa: > 1, dimensionless; larger is sharper.
        rounding: machine epsilon of the products.
    Raises:  InvalidProblemError if kappa <= 1, fewer than two points or no quadrature.
    Source:  Papyan, JMLR 21 (2020) 1-64, algorithm 2 and section D.2; curvlinops 3.0.1.
    """
    if not 1 < kappa < float("inf") or num_points < 2 or not quadratures:
        raise InvalidProblemError("a density needs kappa > 1, at least two grid points and at least one quadrature")
    lower, upper = _boundaries(quadratures, rounding)
    padding = margin * (upper - lower)
    lower, upper = lower - padding, upper + padding
    centre, radius = (upper + lower) / 2, (upper - lower) / 2
    sigma = 2 / max(num_steps - 1, 1) / sqrt(8 * log(kappa))
    unit_grid = np.linspace(-1, 1, num_points)
    values = np.stack([_smooth(each, unit_grid, centre, radius, sigma) for each in quadratures])
    error = values.std(axis=0, ddof=1) / sqrt(len(values)) if len(values) > 1 else None
    return Density(np.linspace(lower, upper, num_points), values.mean(axis=0), error)


def _boundaries(quadratures: Sequence[Quadrature], rounding: float) -> tuple[float, float]:
    lower = min(float(each.nodes[0]) for each in quadratures)
    upper = max(float(each.nodes[-1]) for each in quadratures)
    magnitude = max(abs(lower), abs(upper))
    if upper - lower > POINT_ROUNDINGS * rounding * magnitude:
        return lower, upper
    half_width = magnitude / 2 if magnitude > 0 else 0.5
    return (lower + upper) / 2 - half_width, (lower + upper) / 2 + half_width


def _smooth(quadrature: Quadrature, unit_grid: FloatArray, centre: float, radius: float, sigma: float) -> FloatArray:
    """Density (num_points,) of one probe, per unit of eigenvalue."""
    # node by node: the table (m, num_points) of all exponentials would need m times the memory of the answer
    density = np.zeros_like(unit_grid)
    for node, weight in zip(quadrature.nodes, quadrature.weights, strict=True):
        distance = (unit_grid - (node - centre) / radius) / sigma
        density += weight * np.exp(-(distance**2) / 2)
    return density / (radius * sigma * sqrt(2 * pi))
