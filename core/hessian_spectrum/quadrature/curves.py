"""The three curves of a Lanczos result, made from Gauss quadratures: density, log density and cumulative spectrum.

They require only numpy, so that a worker makes them first and the service makes them again for another smoothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from math import log, pi, sqrt

import numpy as np

from hessian_spectrum.quadrature.error_bands import (
    MOST_PROBES_WITH_FURTHER_RULES,
    Curve,
    MomentBounds,
    Moments,
    ProbeMean,
    Rule,
    Rules,
    probe_mean,
    rules_through,
)
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.quadrature.results import Band, Cumulative, Density, FloatArray, Quadrature

MARGIN = 0.05  # Papyan 2020, section D.2
LOG_KAPPA = 1.04  # curvlinops 3.0.1, determined by reproducing Papyan's figure 15b
LOG_EPSILON = 1e-5  # Papyan 2020, section D.2

# A spectrum narrower than this many roundings of its largest magnitude is one point.
POINT_ROUNDINGS = 100

# Errors of nodes below this share of the Gaussians' width are less than the rounding that `probe_mean` allows for.
NEGLIGIBLE_ERROR = 1e-9

# Places on each side of zero at which the log density asks what the steps leave open: as many, for few steps; with
# many steps the nodes themselves are dense, and an eigenvalue problem costs more.
MOST_PLACES, LEAST_PLACES = 12, 5
PLACES_TIMES_STEPS = 480

# A table of exponentials holds at most this many numbers.
TABLE_SIZE = 2**17

# By how much sums of weights may be off.
SHARE_ROUNDING = 1e-13

DOUBLE_EPS = float(np.finfo(np.float64).eps)


def spectral_density(
    quadratures: Sequence[Quadrature],
    *,
    dim: int,
    num_steps: int,
    num_points: int,
    kappa: float,
    margin: float = MARGIN,
    rounding: float = DOUBLE_EPS,
) -> Density:
    """Mean over probes of sum_i weights_i N(lambda; nodes_i, (d sigma)^2), with its error from `probe_mean`.

    The smoothing is that of curvlinops' `lanczos_approximate_spectrum`. The extreme nodes of all probes, widened by
    `margin` on both sides, are c - d and c + d. The grid covers them with num_points equidistant points, and sigma = 2
    / (num_steps - 1) / sqrt(8 log kappa) in units of d. Mass that a Gaussian puts outside the grid is not moved back,
    so the integral is 1 up to the tails. The grid resolves the Gaussians if num_points is at least about num_steps.

    Deviations: the boundaries are Ritz values, without a second Lanczos run for them; one step has the width of two; a
    spectrum of zero width, such as that of c I, gets a grid of width |c|, or 1 if c = 0, instead of NaN.

    Args:
        quadratures: Gauss quadratures, one for each probe.
        dim: Number of parameters P.
        num_steps: Requested number of Lanczos steps, at most P; it sets the width even if a probe stopped early.
        num_points: Number of grid points, >= 2.
        kappa: Sharpness, > 1, dimensionless; larger values give narrower Gaussians.
        margin: Extent of the grid beyond the extreme nodes, >= 0, in widths of the spectrum.
        rounding: Machine epsilon of the products.

    Returns:
        The density at each point of the grid, with its standard error and 95 % band.

    Raises:
        InvalidProblemError: If kappa <= 1, or there are fewer than two points or no quadrature.

    References:
        Papyan, JMLR 21 (2020) 1-64, algorithm 2 and section D.2; curvlinops 3.0.1.
    """
    _check_quadratures(quadratures)
    _check_smoothing(num_points, kappa, margin)
    lower, upper = spectral_interval(quadratures, margin, rounding)
    sigma = width_of_gaussians(num_steps, kappa)
    mean = _smoothed(
        quadratures, dim=dim, num_points=num_points, sigma=sigma, interval=(lower, upper), transform=_itself
    )
    return _density(np.linspace(lower, upper, num_points), mean, np.float64((upper - lower) / 2))


def log_spectral_density(
    quadratures: Sequence[Quadrature],
    *,
    dim: int,
    num_steps: int,
    num_points: int,
    kappa: float = LOG_KAPPA,
    margin: float = MARGIN,
    epsilon: float = LOG_EPSILON,
    rounding: float = DOUBLE_EPS,
) -> Density:
    """Density of |lambda| + epsilon, smoothed in the logarithm, which separates small eigenvalues.

    This is the density of curvlinops' `lanczos_approximate_log_spectrum`. The grid is geometric, from the smallest to
    the largest |node| + epsilon, widened by `margin` on both sides in the logarithm. Gaussians have the width of
    `spectral_density`, in units of half the logarithmic width. Values are per unit of eigenvalue, so that the integral
    over the grid, whose points are exponentials, is 1 up to the tails.

    Few steps do not resolve eigenvalues far below the largest, nor do products with larger errors. The band therefore
    covers all positions, on a geometric grid from zero on both sides, at which the moments of a probe allow weight.

    Args:
        quadratures: Gauss quadratures, one for each probe.
        dim: Number of parameters P.
        num_steps: Requested number of Lanczos steps, at most P; it sets the width even if a probe stopped early.
        num_points: Number of grid points, >= 2.
        kappa: Sharpness, > 1, dimensionless; larger values give narrower Gaussians.
        margin: Extent of the grid beyond the extreme values, >= 0, in widths of the logarithmic spectrum.
        epsilon: Offset > 0, in units of A.
        rounding: Machine epsilon of the products.

    Returns:
        The density at each point of the grid, with its standard error and 95 % band.

    Raises:
        InvalidProblemError: As for `spectral_density`, and if epsilon is not positive.

    References:
        Papyan, JMLR 21 (2020) 1-64, section C.7; curvlinops 3.0.1.
    """
    _check_quadratures(quadratures)
    _check_smoothing(num_points, kappa, margin)
    _check_epsilon(epsilon)
    transform = partial(log_magnitudes, epsilon)
    ends = [transform(each.nodes, each.nodes)[0] for each in quadratures]
    lower, upper = min(float(each.min()) for each in ends), max(float(each.max()) for each in ends)
    lower, upper = _widened(lower, upper, margin=margin, rounding=rounding, half_width=0.5)
    places = places_around_zero(epsilon, upper, num_steps)
    further = {each: rules_through(each, places, dim) for each in quadratures[:MOST_PROBES_WITH_FURTHER_RULES]}
    mean = _smoothed(
        quadratures,
        dim=dim,
        num_points=num_points,
        sigma=width_of_gaussians(num_steps, kappa),
        interval=(lower, upper),
        transform=transform,
        further_rules=further.__getitem__,
    )
    grid = np.exp(np.linspace(lower, upper, num_points))
    return _density(grid, mean, grid * ((upper - lower) / 2))


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
        _check_smoothing(self.num_points, self.kappa, self.margin)
        _check_smoothing(self.num_points, self.log_kappa, self.margin)
        _check_epsilon(self.log_epsilon)


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


def places_around_zero(epsilon: float, upper: float, num_steps: int) -> FloatArray:
    """Eigenvalues of both signs, with |lambda| + epsilon on a geometric grid from epsilon to exp(upper)."""
    count = min(max(PLACES_TIMES_STEPS // num_steps, LEAST_PLACES), MOST_PLACES)
    sizes = np.exp(np.linspace(np.log(epsilon), max(upper, np.log(epsilon)), count)) - epsilon
    sizes = np.maximum(sizes, 0)
    return np.concatenate([-sizes[:0:-1], sizes])


def spectral_interval(quadratures: Sequence[Quadrature], margin: float, rounding: float) -> tuple[float, float]:
    """Interval from the smallest to the largest node of all probes, widened by `margin` widths on both sides."""
    lower = min(float(each.nodes[0]) for each in quadratures)
    upper = max(float(each.nodes[-1]) for each in quadratures)
    magnitude = max(abs(lower), abs(upper))
    return _widened(
        lower, upper, margin=margin, rounding=rounding * magnitude, half_width=magnitude / 2 if magnitude > 0 else 0.5
    )


def _check_quadratures(quadratures: Sequence[Quadrature]) -> None:
    """Check that there is a quadrature."""
    if not quadratures:
        raise InvalidProblemError("a density needs at least one quadrature")


def _check_smoothing(num_points: int, kappa: float, margin: float) -> None:
    """Check that kappa > 1, that there are at least two points, and that the margin is finite and at least 0."""
    if not 1 < kappa < float("inf") or num_points < 2 or not 0 <= margin < float("inf"):
        raise InvalidProblemError("a density needs kappa > 1, at least two grid points and a margin >= 0")


def _check_epsilon(epsilon: float) -> None:
    """Check that 0 < epsilon < infinity."""
    if not 0 < epsilon < float("inf"):
        raise InvalidProblemError(f"the logarithm needs a positive epsilon, not {epsilon}")


def _widened(lower: float, upper: float, *, margin: float, rounding: float, half_width: float) -> tuple[float, float]:
    """The interval with its margin; an interval narrower than 100 roundings first gets `half_width` on each side."""
    if upper - lower <= POINT_ROUNDINGS * rounding:
        middle = lower + (upper - lower) / 2
        lower, upper = middle - half_width, middle + half_width
    padding = margin * (upper - lower)
    return lower - padding, upper + padding


def width_of_gaussians(num_steps: int, kappa: float) -> float:
    """Standard deviation of the Gaussians, in units of half the grid."""
    return 2 / max(num_steps - 1, 1) / sqrt(8 * log(kappa))


def log_magnitudes(epsilon: float, lowest: FloatArray, highest: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest log(|lambda| + epsilon) for lambda in the interval."""
    smallest = np.maximum(np.maximum(lowest, -highest), 0)
    return np.log(smallest + epsilon), np.log(np.maximum(-lowest, highest) + epsilon)


def _itself(lowest: FloatArray, highest: FloatArray) -> tuple[FloatArray, FloatArray]:
    return lowest, highest


def _smoothed(
    quadratures: Sequence[Quadrature],
    *,
    dim: int,
    num_points: int,
    sigma: float,
    interval: tuple[float, float],
    transform: "Coordinates",
    further_rules: Rules | None = None,
) -> ProbeMean:
    """Mean of exp(-t^2 / 2) / (sigma sqrt(2 pi)), t in units of sigma, on the interval mapped to [-1, 1].

    Args:
        quadratures: Gauss quadratures, one for each probe.
        dim: Number of parameters P.
        num_points: Number of grid points.
        sigma: Standard deviation of the Gaussians, in units of half the interval.
        interval: Ends of the grid, in the coordinate of the smoothing.
        transform: Maps an interval of eigenvalues to one of the coordinate in which to smooth.
        further_rules: Further rules that a probe is compatible with.

    Returns:
        The mean over probes at each point, with its error.
    """
    centre, radius = (interval[1] + interval[0]) / 2, (interval[1] - interval[0]) / 2
    unit_grid = np.linspace(-1, 1, num_points)

    def coordinates(lowest: FloatArray, highest: FloatArray) -> tuple[FloatArray, FloatArray]:
        low, high = transform(lowest, highest)
        return (low - centre) / radius, (high - centre) / radius

    all_nodes = np.concatenate([each.nodes for each in quadratures])
    boundaries = _cluster_boundaries(coordinates(all_nodes, all_nodes)[0], sigma)
    # part by part, because tables with an entry for each cluster or node and point would be much larger than the result
    length = max(1, TABLE_SIZE // max(len(boundaries) + 1, *(len(each.nodes) for each in quadratures)))
    parts = []
    for start in range(0, num_points, length):
        gaussians = _Gaussians(unit_grid[start : start + length], sigma, boundaries, coordinates)
        parts.append(probe_mean(quadratures, dim=dim, curve=gaussians, further_rules=further_rules))
    values, errors, bands = zip(*parts, strict=True)
    lower, upper = (np.concatenate(ends) for ends in zip(*((each.lower, each.upper) for each in bands), strict=True))
    return ProbeMean(np.concatenate(values), np.concatenate(errors), Band(lower, upper))


Coordinates = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
"""Maps ends of intervals of eigenvalues to those in the coordinate in which to smooth."""


@dataclass(frozen=True, eq=False)
class _Gaussians(Curve):
    """Gaussians exp(-t^2 / 2) / (sigma sqrt(2 pi)), t in units of sigma, centred at the points of a grid."""

    grid: FloatArray  # (num_points,)
    sigma: float
    boundaries: FloatArray  # between clusters of nodes
    coordinates: Coordinates

    def moments(self, rule: Rule, node_error: float) -> MomentBounds:
        """Moments of each cluster of nodes."""
        low, high = self.coordinates(rule.nodes - node_error, rule.nodes + node_error)
        centres = (low + high) / 2
        weights = np.zeros((len(self.boundaries) + 1, len(centres)))
        weights[np.searchsorted(self.boundaries, centres), np.arange(len(centres))] = rule.weights
        distances = np.abs(self.grid - centres[:, None])
        radii = (high - low)[:, None] / 2
        if float(radii.max()) <= NEGLIGIBLE_ERROR * self.sigma:
            middle = self._moments(weights, distances)
            return MomentBounds(middle, middle)
        nearest = np.maximum(distances - radii, 0)
        farthest = np.add(distances, radii, out=distances)
        return MomentBounds(self._moments(weights, farthest), self._moments(weights, nearest))

    def values(self, rule: Rule) -> Moments:
        """Moments of all nodes together, without their errors."""
        mean, square = self._moments(
            rule.weights[None], self.grid - self.coordinates(rule.nodes, rule.nodes)[0][:, None]
        )
        return Moments(mean[0], square[0])

    def _moments(self, weights: FloatArray, distances: FloatArray) -> Moments:
        """Moments of nodes at distances (m, num_points), which are overwritten, with weights (num_clusters, m)."""
        height = 1 / (self.sigma * sqrt(2 * pi))
        table = np.divide(distances, self.sigma * sqrt(2), out=distances)
        np.exp(np.negative(np.square(table, out=table), out=table), out=table)
        mean = height * (weights @ table)
        return Moments(mean, height**2 * (weights @ np.square(table, out=table)))


def _cluster_boundaries(places: FloatArray, sigma: float) -> FloatArray:
    """Midpoints, ascending, of the gaps between places that are wider than sigma."""
    places = np.sort(places)
    wide = np.flatnonzero(np.diff(places) > sigma)
    boundaries: FloatArray = (places[wide] + places[wide + 1]) / 2
    return boundaries


def _density(grid: FloatArray, mean: ProbeMean, unit: FloatArray | np.float64) -> Density:
    """Density per unit of eigenvalue, from values per `unit`."""
    band = Band(mean.band.lower / unit, mean.band.upper / unit)
    return Density(grid, mean.values / unit, mean.standard_error / unit, band)


def settled_share(sums: FloatArray) -> FloatArray:
    """Return sums of weights within 0 .. 1, where those that differ from 0 or 1 by rounding are 0 or 1.

    A share of 1e-16 that is left by rounding would be taken for an eigenvalue that a probe hardly sees.

    Args:
        sums: Sums of weights, of any shape.
    """
    share: FloatArray = np.where(sums > 1 - SHARE_ROUNDING, 1.0, np.where(sums < SHARE_ROUNDING, 0.0, sums))
    return share


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
        share = settled_share(sums[np.searchsorted(rule.nodes, self.grid + shift, side="right")])
        return 1 - share if self.above else share
