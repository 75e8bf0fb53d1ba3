"""The three curves of a Lanczos result; workers make them first, the service makes them again for another smoothing."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np

from hessian_spectrum.quadrature.density import (
    DOUBLE_EPS,
    LOG_EPSILON,
    LOG_KAPPA,
    MARGIN,
    check_epsilon,
    check_smoothing,
    log_spectral_density,
    spectral_density,
    spectral_interval,
)
from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.quadrature.probe_mean import Curve, MomentBounds, Moments, Rule, probe_mean
from hessian_spectrum.quadrature.results import Band, Cumulative, Density, FloatArray, Quadrature


def cumulative_spectrum(
    quadratures: Sequence[Quadrature],
    *,
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

    left, right = (probe_mean(quadratures, dim=dim, curve=_Share(grid, above)) for above in (False, True))
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


@dataclass(frozen=True)
class Smoothing:
    """Settings with which quadratures are smoothed; see `spectral_density` and `log_spectral_density`."""

    num_points: int
    kappa: float
    margin: float = MARGIN
    _: KW_ONLY
    log_kappa: float = LOG_KAPPA
    log_epsilon: float = LOG_EPSILON  # in units of A

    def check(self) -> None:
        """Check that every curve can be made with this smoothing.

        Raises:
            InvalidProblemError: One cannot.
        """
        check_smoothing(self.num_points, self.kappa, self.margin)
        check_smoothing(self.num_points, self.log_kappa, self.margin)
        check_epsilon(self.log_epsilon)


@dataclass(frozen=True, eq=False)
class SpectralCurves:
    """The three curves made from the quadratures of all probes."""

    density: Density
    log_density: Density  # of |lambda| + epsilon, on a geometric grid
    cumulative: Cumulative


def spectral_curves(
    quadratures: Sequence[Quadrature], smoothing: Smoothing, *, dim: int, num_steps: int, rounding: float
) -> SpectralCurves:
    """Density, log density and cumulative spectrum on grids of `smoothing.num_points` points.

    Args:
        quadratures: One for each probe.
        smoothing: Grids and widths.
        dim: P, the number of rows of the matrix.
        num_steps: Lanczos steps that were asked for, at most P.
        rounding: Machine epsilon of the products.

    Returns:
        The curves with their standard errors and bands.

    Raises:
        InvalidProblemError: If there is no quadrature, or the smoothing is not valid.
    """
    num_points, margin = smoothing.num_points, smoothing.margin
    return SpectralCurves(
        density=spectral_density(
            quadratures,
            dim=dim,
            num_steps=num_steps,
            num_points=num_points,
            kappa=smoothing.kappa,
            margin=margin,
            rounding=rounding,
        ),
        log_density=log_spectral_density(
            quadratures,
            dim=dim,
            num_steps=num_steps,
            num_points=num_points,
            kappa=smoothing.log_kappa,
            margin=margin,
            epsilon=smoothing.log_epsilon,
            rounding=rounding,
        ),
        cumulative=cumulative_spectrum(quadratures, dim=dim, num_points=num_points, margin=margin, rounding=rounding),
    )
