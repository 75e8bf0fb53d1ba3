"""Cumulative spectrum from Gauss quadratures; requires only numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hessian_spectrum.quadrature.density import DOUBLE_EPS, MARGIN, spectral_interval
from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.quadrature.probe_mean import Curve, MomentBounds, Moments, probe_mean
from hessian_spectrum.quadrature.radau_rules import Rule
from hessian_spectrum.quadrature.results import Band, Cumulative, FloatArray, Quadrature


def cumulative_spectrum(
    quadratures: Sequence[Quadrature],
    dim: int,
    num_points: int,
    margin: float = MARGIN,
    rounding: float = DOUBLE_EPS,
) -> Cumulative:
    """Share of eigenvalues <= lambda: mean over probes of the sum of the weights of nodes <= lambda.

    This is a step function, which depends on no smoothing width. An eigenvalue of high multiplicity appears as several
    nodes that differ by rounding errors: at a grid point that coincides with them, any share of the step may be
    counted.

    Args:
        quadratures: Gauss quadratures, one for each probe.
        dim: Number of parameters P.
        num_points: Number of grid points, >= 2; the grid is that of `spectral_density`.
        margin: Extent of the grid beyond the extreme nodes, >= 0, in widths of the spectrum.
        rounding: Machine epsilon of the products.

    Returns:
        The share at each point of the grid, with its standard error and 95 % band.

    Raises:
        InvalidProblemError: If there are fewer than two points, no quadrature, or the margin is negative.

    References:
        Chen, Trogdon & Ubaru, ICML 2021 (stochastic Lanczos quadrature of the cumulative spectrum).
    """
    if num_points < 2 or not 0 <= margin < float("inf") or not quadratures:
        raise InvalidProblemError("a cumulative spectrum needs two points, a margin >= 0 and a quadrature")
    grid = np.linspace(*spectral_interval(quadratures, margin, rounding), num_points)

    left, right = (probe_mean(quadratures, dim, _Share(grid, above)) for above in (False, True))
    # chi-square where few eigenvalues are on one side: the share of that side is
    few_left = left.values <= right.values
    lower = np.where(few_left, left.band.lower, 1 - right.band.upper)
    upper = np.where(few_left, left.band.upper, 1 - right.band.lower)
    band = Band(np.clip(lower, 0, 1), np.clip(upper, 0, 1))
    return Cumulative(grid, left.values, left.standard_error, band)


@dataclass(frozen=True, eq=False)
class _Share(Curve):
    """Indicator of eigenvalues <= each point of a grid, or above it; an indicator is its own square."""

    grid: FloatArray  # (num_points,)
    above: bool

    def values(self, rule: Rule) -> Moments:
        """Share according to the nodes as they are."""
        share = self._share(rule, 0.0)
        return Moments(share, share)

    def moments(self, rule: Rule, node_error: float) -> MomentBounds:
        """Share with the grid shifted in both directions by the error of the nodes."""
        shares = (self._share(rule, shift) for shift in (node_error, -node_error))
        ends = [Moments(share[None], share[None]) for share in shares]
        return MomentBounds(*(ends if self.above else ends[::-1]))

    def _share(self, rule: Rule, shift: float) -> FloatArray:
        """Weights of the nodes on the counted side of each point + shift, (num_points,), within 0 .. 1."""
        sums = np.append(0.0, np.cumsum(rule.weights))
        share: FloatArray = np.minimum(sums[np.searchsorted(rule.nodes, self.grid + shift, side="right")], 1.0)
        return 1 - share if self.above else share
