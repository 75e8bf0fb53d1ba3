"""Curves, moments and extremes of many matrices of one dimension together, from Lanczos runs of one length.

The numbers are those of `curves`, `error_bands` and `estimates` up to rounding. There, each operation treats one rule;
here, one operation treats those of all matrices, whose arrays have a leading axis. For small matrices this takes a
tenth of the time.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.quadrature.curves import (
    NEGLIGIBLE_ERROR,
    POINT_ROUNDINGS,
    Smoothing,
    SpectralCurves,
    log_magnitudes,
    places_around_zero,
    settled_share,
    width_of_gaussians,
)
from hessian_spectrum.quadrature.error_bands import (
    CONVERGED_SHARE,
    CURVE_ROUNDING,
    MOST_PROBES_WITH_FURTHER_RULES,
    NEGLIGIBLE_COUNT,
    NEIGHBOUR_SHIFTS,
    Moments,
    ProbeMean,
    confidence_limit,
    confidence_limits,
)
from hessian_spectrum.quadrature.estimates import (
    BISECTIONS,
    GHOST_FACTOR,
    GRID_POINTS,
    GROUP_RATIOS,
    LEAST_STEPS,
    MISS_PROBABILITY,
    RESERVE,
    TOO_FEW_STEPS,
    UNBOUNDED,
    overlap_of_probes,
)
from hessian_spectrum.quadrature.results import (
    Band,
    Cumulative,
    Density,
    Estimate,
    FloatArray,
    Interval,
    Quadrature,
    Reorthogonalisation,
    RitzValue,
)

BoolArray = NDArray[np.bool_]

TABLE_NUMBERS = 2**19
"""Numbers of the tables that are in memory at once, which a processor's cache should hold."""


@dataclass(frozen=True, eq=False)
class QuadratureBatch:
    """Gauss quadratures of k probes of each of B matrices, all of m nodes.

    Attributes:
        nodes: Ritz values (B, k, m), ascending.
        weights: Weights (B, k, m).
        residuals: Signed residuals (B, k, m), either all zero or zero for no probe.
        node_errors: Errors of the nodes (B, k).
        scales: Largest norm of a product of each probe (B, k).
    """

    nodes: FloatArray
    weights: FloatArray
    residuals: FloatArray
    node_errors: FloatArray
    scales: FloatArray

    @property
    def has_remainder(self) -> bool:
        """Whether the subspaces are not invariant."""
        return bool(self.residuals.any())

    @cached_property
    def rules(self) -> "RuleBatch":
        """The `compatible_rules` of each probe."""
        gauss = RuleBatch(self.nodes[:, :, None], self.weights[:, :, None])
        if not self.has_remainder:
            return gauss
        largest = np.abs(self.residuals).max(axis=-1, keepdims=True)
        scaled = self.residuals / largest
        squares = (scaled**2).sum(axis=-1)
        beta = largest[..., 0] * np.sqrt(squares)
        alpha = (self.nodes * scaled**2).sum(axis=-1) / squares
        coefficients = alpha[..., None] + np.array(NEIGHBOUR_SHIFTS) * beta[..., None]
        shape = coefficients.shape
        owners = np.repeat(np.arange(shape[0] * shape[1]), shape[2])
        nodes, weights = self.bordered(owners, coefficients.reshape(-1))
        # the Gauss rule gets one more node, without weight
        return RuleBatch(
            np.concatenate([gauss.padded.nodes, nodes.reshape(*shape, -1)], axis=2),
            np.concatenate([gauss.padded.weights, weights.reshape(*shape, -1)], axis=2),
        )

    def bordered(self, owners: NDArray[np.intp], coefficients: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return rules (n, m + 1) of T with one more row and column, for each last coefficient (n,).

        Args:
            owners: Index of the probe among all B k, of each rule.
            coefficients: Last coefficients.
        """
        nodes, weights, residuals = (each.reshape(-1, each.shape[-1]) for each in self._arrays)
        largest = np.abs(residuals).max(axis=1, keepdims=True)
        moving = np.where(np.abs(residuals) > CONVERGED_SHARE * largest, residuals, 0.0)
        count = nodes.shape[1]
        matrices = np.zeros((len(owners), count + 1, count + 1))
        matrices[:, np.arange(count), np.arange(count)] = nodes[owners]
        matrices[:, count, :count] = matrices[:, :count, count] = moving[owners]
        matrices[:, count, count] = coefficients
        values, vectors = np.linalg.eigh(matrices)
        starts = np.sqrt(weights)[owners]
        return values, (starts[:, None, :] @ vectors[:, :count])[:, 0] ** 2

    @property
    def _arrays(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        return self.nodes, self.weights, self.residuals

    def part(self, members: slice) -> "QuadratureBatch":
        """Return the quadratures of some matrices."""
        return QuadratureBatch(*(each[members] for each in (*self._arrays, self.node_errors, self.scales)))

    def quadratures(self, member: int) -> tuple[Quadrature, ...]:
        """Return the quadratures of one matrix."""
        rows = zip(*(each[member] for each in self._arrays), self.node_errors[member].tolist(), strict=True)
        return tuple(Quadrature(*row) for row in rows)


@dataclass(frozen=True, eq=False)
class RuleBatch:
    """Rules of each probe: nodes and weights (B, k, r, m)."""

    nodes: FloatArray
    weights: FloatArray

    @property
    def padded(self) -> "RuleBatch":
        """The same rules with one more node each, a copy of the last one without weight."""
        return RuleBatch(
            np.concatenate([self.nodes, self.nodes[..., -1:]], axis=-1),
            np.concatenate([self.weights, np.zeros_like(self.weights[..., -1:])], axis=-1),
        )


@dataclass(frozen=True, eq=False)
class Summary:
    """What a Lanczos result says of one matrix."""

    curves: SpectralCurves
    smallest: RitzValue
    largest: RitzValue
    trace: Estimate
    frobenius: Estimate


def summaries(
    batch: QuadratureBatch,
    smoothing: Smoothing,
    *,
    dim: int,
    num_steps: int,
    rounding: float,
    product_errors: FloatArray,
    reorthogonalisation: Reorthogonalisation,
) -> list[Summary]:
    """Return curves, extremes and moments of each matrix.

    Args:
        batch: Gauss quadratures of all probes.
        smoothing: Grids and widths of the curves.
        dim: Number P of rows of each matrix.
        num_steps: Requested number of Lanczos steps, at most P.
        rounding: Machine epsilon of the products.
        product_errors: Relative errors of the products of each matrix (B,).
        reorthogonalisation: Whether the Lanczos vectors were reorthogonalised.

    Raises:
        InvalidProblemError: If the smoothing is not valid.
    """
    smoothing.check()
    task = _Batch(batch, smoothing, dim=dim, num_steps=num_steps, rounding=rounding)
    moments = _traces_and_frobenius(batch, dim, product_errors)
    ends = _extremes(batch, product_errors, dim=dim, reorthogonalisation=reorthogonalisation)
    return [
        Summary(curves, smallest, largest, trace, frobenius)
        for curves, (trace, frobenius), (smallest, largest) in zip(task.curves(), moments, ends, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Batch:
    """The curves of a batch."""

    batch: QuadratureBatch
    smoothing: Smoothing
    _: KW_ONLY
    dim: int
    num_steps: int
    rounding: float

    def curves(self) -> list[SpectralCurves]:
        """Return the three curves of each matrix, some matrices at a time."""
        size, count, nodes = self.batch.nodes.shape
        per_member = count * (nodes + 1) * self.smoothing.num_points * 8
        width = max(1, TABLE_NUMBERS // per_member)
        found: list[SpectralCurves] = []
        for first in range(0, size, width):
            part = _Batch(
                self.batch.part(slice(first, first + width)),
                self.smoothing,
                dim=self.dim,
                num_steps=self.num_steps,
                rounding=self.rounding,
            )
            found += part._curves_of_part()
        return found

    def _curves_of_part(self) -> list[SpectralCurves]:
        densities, logs, cumulatives = self._densities(), self._log_densities(), self._cumulatives()
        return [SpectralCurves(*each) for each in zip(densities, logs, cumulatives, strict=True)]

    def _densities(self) -> list[Density]:
        lower, upper = self._interval
        mean = self._smoothed(lower, upper, kappa=self.smoothing.kappa, transform=None)
        grids = np.linspace(lower, upper, self.smoothing.num_points, axis=1)
        return _density(grids, mean, ((upper - lower) / 2)[:, None])

    def _log_densities(self) -> list[Density]:
        epsilon, margin = self.smoothing.log_epsilon, self.smoothing.margin

        def transform(lowest: FloatArray, highest: FloatArray) -> tuple[FloatArray, FloatArray]:
            return log_magnitudes(epsilon, lowest, highest)

        ends = transform(self.batch.nodes, self.batch.nodes)[0]
        lower, upper = ends.min(axis=(1, 2)), ends.max(axis=(1, 2))
        half = np.full_like(lower, 0.5)
        lower, upper = _widened(lower, upper, margin=margin, rounding=np.full_like(lower, self.rounding), half=half)
        further = self._further(upper) if self.batch.has_remainder else None
        mean = self._smoothed(lower, upper, kappa=self.smoothing.log_kappa, transform=transform, further=further)
        grids = np.exp(np.linspace(lower, upper, self.smoothing.num_points, axis=1))
        return _density(grids, mean, grids * ((upper - lower) / 2)[:, None])

    def _cumulatives(self) -> list[Cumulative]:
        lower, upper = self._interval
        grids = np.linspace(lower, upper, self.smoothing.num_points, axis=1)
        left, right = (self._share(grids, above=above) for above in (False, True))
        few_left = left.values <= right.values
        low = np.clip(np.where(few_left, left.band.lower, 1 - right.band.upper), 0, 1)
        high = np.clip(np.where(few_left, left.band.upper, 1 - right.band.lower), 0, 1)
        columns = zip(grids, left.values, left.standard_error, map(Band, low, high), strict=True)
        return [Cumulative(*each) for each in columns]

    @cached_property
    def _interval(self) -> tuple[FloatArray, FloatArray]:
        nodes = self.batch.nodes
        lower, upper = nodes[..., 0].min(axis=1), nodes[..., -1].max(axis=1)
        magnitude = np.maximum(np.abs(lower), np.abs(upper))
        half = np.where(magnitude > 0, magnitude / 2, 0.5)
        return _widened(lower, upper, margin=self.smoothing.margin, rounding=self.rounding * magnitude, half=half)

    def _further(self, upper: FloatArray) -> "_FurtherRules":
        """Return the `rules_through` the places of the log density, of the first probes."""
        batch, dim = self.batch, self.dim
        count = min(batch.nodes.shape[1], MOST_PROBES_WITH_FURTHER_RULES)
        places = np.stack([places_around_zero(self.smoothing.log_epsilon, each, self.num_steps) for each in upper])
        nodes, weights, residuals = (each[:, :count] for each in (batch.nodes, batch.weights, batch.residuals))
        places = places[:, None, :]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            components = residuals[:, :, None] / (places[..., None] - nodes[:, :, None])
            coefficients = places - (components * residuals[:, :, None]).sum(axis=-1)
            overlaps = (components * np.sqrt(weights)[:, :, None]).sum(axis=-1)
            found = overlaps**2 / (1 + (components**2).sum(axis=-1))
            useful = np.isfinite(coefficients) & (found * dim > NEGLIGIBLE_COUNT)
        members, probes, _ = np.nonzero(useful)
        owners = members * batch.nodes.shape[1] + probes
        return _FurtherRules(owners, count, *batch.bordered(owners, coefficients[useful]))

    def _smoothed(
        self,
        lower: FloatArray,
        upper: FloatArray,
        *,
        kappa: float,
        transform: "Transform | None",
        further: "_FurtherRules | None" = None,
    ) -> ProbeMean:
        centre, radius = (upper + lower) / 2, (upper - lower) / 2
        sigma = width_of_gaussians(self.num_steps, kappa)
        gaussians = _Gaussians(
            np.linspace(-1, 1, self.smoothing.num_points), sigma, centre, radius, transform, self.batch
        )
        size, count = self.batch.nodes.shape[:2]
        rules = self.batch.rules
        owners = np.repeat(np.arange(size * count), rules.nodes.shape[2])
        length = rules.nodes.shape[-1]
        bounds = gaussians.bounds(owners, rules.nodes.reshape(-1, length), rules.weights.reshape(-1, length))
        least, largest = (_averaged(each, size, count) for each in bounds)
        if further is not None:
            first = min(count, MOST_PROBES_WITH_FURTHER_RULES)
            before = [_first(each, size, count, first) for each in bounds]
            after = further.applied(gaussians, bounds)
            after = [_first(each, size, count, first) for each in after]
            least, largest = (
                _moved(whole, _averaged(old, size, first), _averaged(new, size, first))
                for whole, old, new in zip((least, largest), before, after, strict=True)
            )
        own = _averaged(gaussians.values(), size, count)
        return _probe_mean(Moments(own.mean[:, 0], own.square[:, 0]), least, largest, num_probes=count, dim=self.dim)

    def _share(self, grids: FloatArray, *, above: bool) -> ProbeMean:
        """Return the share of eigenvalues up to each point of the grids (B, G), or above it."""
        size, count = self.batch.nodes.shape[:2]
        gauss = _shares(self.batch.nodes, self.batch.weights, grids[:, None], above=above)
        rules, errors = self.batch.rules, self.batch.node_errors[:, :, None, None]
        points = grids[:, None, None]
        shifted = [_shares(rules.nodes, rules.weights, points + shift, above=above) for shift in (errors, -errors)]
        ends = shifted if above else shifted[::-1]
        low, high = ends[0].min(axis=2), ends[1].max(axis=2)
        own, least, largest = (
            _averaged(Moments(*2 * (each.reshape(size * count, 1, -1),)), size, count) for each in (gauss, low, high)
        )
        return _probe_mean(Moments(own.mean[:, 0], own.square[:, 0]), least, largest, num_probes=count, dim=self.dim)


Transform = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True, eq=False)
class _Gaussians:
    """Gaussians centred at the points of a grid, in the coordinate of each matrix."""

    grid: FloatArray  # (G,)
    sigma: float
    centre: FloatArray  # (B,)
    radius: FloatArray  # (B,)
    transform: Transform | None
    batch: QuadratureBatch

    @cached_property
    def boundaries(self) -> FloatArray:
        """Places between clusters of nodes (B, at most k m - 1), infinite where there are fewer."""
        size = len(self.centre)
        members = np.arange(size)
        places = np.sort(self.coordinates(members, self.batch.nodes.reshape(size, -1), 0.0)[0], axis=1)
        middles = np.where(np.diff(places, axis=1) > self.sigma, (places[:, :-1] + places[:, 1:]) / 2, np.inf)
        middles = np.sort(middles, axis=1)
        return middles[:, : int(np.isfinite(middles).sum(axis=1).max(initial=0))]

    def coordinates(
        self, members: NDArray[np.intp], nodes: FloatArray, errors: FloatArray | float
    ) -> tuple[FloatArray, FloatArray]:
        """Return the ends of nodes (n, m) with their errors, in the coordinate of each of the n matrices."""
        low, high = nodes - errors, nodes + errors
        if self.transform is not None:
            low, high = self.transform(low, high)
        centre, radius = self.centre[members][:, None], self.radius[members][:, None]
        return (low - centre) / radius, (high - centre) / radius

    def values(self) -> Moments:
        """Return the moments (B k, 1, G) of the Gauss rules, whose nodes are taken as exact."""
        size, count, length = self.batch.nodes.shape
        members = np.repeat(np.arange(size), count)
        places = self.coordinates(members, self.batch.nodes.reshape(-1, length), 0.0)[0]
        weights = self.batch.weights.reshape(-1, 1, length)
        return self._moments(weights, self._differences(places))

    def _differences(self, places: FloatArray) -> FloatArray:
        """Return the grid minus places (n, m), in units of sqrt(2) sigma, as an array (n, m, G)."""
        unit = self.sigma * math.sqrt(2)
        return self.grid / unit - (places / unit)[:, :, None]

    def bounds(self, owners: NDArray[np.intp], nodes: FloatArray, weights: FloatArray) -> tuple[Moments, Moments]:
        """Return least and largest moments (number of owners, clusters, G) over the rules (n, m) of each owner.

        Args:
            owners: Index among all B k probes of each rule, ascending.
            nodes: Nodes of the rules.
            weights: Their weights.
        """
        count = self.batch.nodes.shape[1]
        members = owners // count
        errors = self.batch.node_errors.reshape(-1)[owners][:, None]
        low, high = self.coordinates(members, nodes, errors)
        centres, radii = (low + high) / 2, (high - low) / 2
        radii = np.where(radii.max(axis=1, keepdims=True) <= NEGLIGIBLE_ERROR * self.sigma, 0.0, radii)
        clusters = (self.boundaries[members][:, None, :] < centres[:, :, None]).sum(axis=2)
        own = np.zeros((len(nodes), self.boundaries.shape[1] + 1, nodes.shape[1]))
        rows, columns = np.indices(clusters.shape)
        own[rows, clusters, columns] = weights
        differences = self._differences(centres)
        if not radii.any():
            middle = self._moments(own, differences)
            return _extreme(np.minimum, middle, owners), _extreme(np.maximum, middle, owners)
        distances, radii = np.abs(differences), radii[:, :, None] / (self.sigma * math.sqrt(2))
        nearest = self._moments(own, np.maximum(distances - radii, 0))
        farthest = self._moments(own, distances + radii)
        return _extreme(np.minimum, farthest, owners), _extreme(np.maximum, nearest, owners)

    def _moments(self, weights: FloatArray, table: FloatArray) -> Moments:
        """Return moments of nodes with weights (n, clusters, m) and these differences (n, m, G), which are overwritten."""
        height = 1 / (self.sigma * math.sqrt(2 * math.pi))
        np.exp(np.negative(np.square(table, out=table), out=table), out=table)
        mean = height * (weights @ table)
        return Moments(mean, height**2 * (weights @ np.square(table, out=table)))


@dataclass(frozen=True, eq=False)
class _FurtherRules:
    """Rules of the first `count` probes of each matrix."""

    owners: NDArray[np.intp]
    count: int
    nodes: FloatArray
    weights: FloatArray

    def applied(self, gaussians: _Gaussians, bounds: tuple[Moments, Moments]) -> list[Moments]:
        """Return least and largest moments of all probes over these rules and the known bounds."""
        if not len(self.owners):
            return list(bounds)
        found = gaussians.bounds(self.owners, self.nodes, self.weights)
        probes = np.unique(self.owners)
        results = []
        for choose, known, new in zip((np.minimum, np.maximum), bounds, found, strict=True):
            mean, square = known.mean.copy(), known.square.copy()
            mean[probes], square[probes] = choose(mean[probes], new.mean), choose(square[probes], new.square)
            results.append(Moments(mean, square))
        return results


def _extreme(choose: np.ufunc, moments: Moments, owners: NDArray[np.intp]) -> Moments:
    """Return the least or largest moments over the neighbouring rules of each owner."""
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    lengths = np.diff(starts, append=len(owners))
    if (lengths == lengths[0]).all():
        parts = (each.reshape(len(starts), lengths[0], *each.shape[1:]) for each in moments)
        return Moments(*(choose.reduce(each, axis=1) for each in parts))
    # not reduceat, which takes four times as long
    ends = list(zip(starts.tolist(), (starts + lengths).tolist(), strict=True))
    return Moments(*(np.stack([choose.reduce(each[slice(*end)], axis=0) for end in ends]) for each in moments))


def _first(moments: Moments, size: int, count: int, first: int) -> Moments:
    """Return the moments of the first probes of each matrix."""
    if first == count:
        return moments
    parts = (each.reshape(size, count, *each.shape[1:])[:, :first] for each in moments)
    return Moments(*(each.reshape(size * first, *each.shape[2:]) for each in parts))


def _averaged(moments: Moments, size: int, count: int) -> Moments:
    """Return the mean over the probes (B k, ...) of each matrix; a mean square is at least the square of the mean."""
    mean, square = (each.reshape(size, count, *each.shape[1:]).mean(axis=1) for each in moments)
    return Moments(mean, np.maximum(square, mean**2))


def _moved(whole: Moments, old: Moments, new: Moments) -> Moments:
    mean = np.maximum(whole.mean + (new.mean - old.mean), 0)
    return Moments(mean, np.maximum(whole.square + (new.square - old.square), mean**2))


def _probe_mean(own: Moments, least: Moments, largest: Moments, *, num_probes: int, dim: int) -> ProbeMean:
    """Return means (B, G) over probes with errors and bands, as `probe_mean`, from moments (B, clusters, G)."""
    share = 2 / (num_probes * (dim + 2))
    error = np.sqrt(share / (1 - share) * np.maximum(own.square - own.mean**2, 0))
    limit = partial(confidence_limit, num_probes=num_probes, dim=dim)
    away = least.mean - limit(least.mean, least.square, side=-1)
    beyond = limit(largest.mean, largest.square, side=1) - largest.mean
    lower = np.maximum(least.mean.sum(axis=1) - np.hypot.reduce(away, axis=1), 0)
    upper = largest.mean.sum(axis=1) + np.hypot.reduce(beyond, axis=1)
    return ProbeMean(own.mean, error, Band(lower * (1 - CURVE_ROUNDING), upper * (1 + CURVE_ROUNDING)))


def _shares(nodes: FloatArray, weights: FloatArray, points: FloatArray, *, above: bool) -> FloatArray:
    """Return the weights (..., G) of nodes (..., m) up to points (..., G), or above them, within 0 .. 1."""
    is_counted = nodes[..., None] <= points[..., None, :]
    share = settled_share((weights[..., None, :] @ is_counted)[..., 0, :])
    return 1 - share if above else share


def _density(grids: FloatArray, mean: ProbeMean, units: FloatArray) -> list[Density]:
    """Return the densities per unit of eigenvalue of each matrix."""
    bands = map(Band, mean.band.lower / units, mean.band.upper / units)
    columns = zip(grids, mean.values / units, mean.standard_error / units, bands, strict=True)
    return [Density(*each) for each in columns]


def _widened(
    lower: FloatArray, upper: FloatArray, *, margin: float, rounding: FloatArray, half: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the intervals with their margins; narrow ones first get `half` on each side."""
    is_point = upper - lower <= POINT_ROUNDINGS * rounding
    middle = lower + (upper - lower) / 2
    lower, upper = np.where(is_point, middle - half, lower), np.where(is_point, middle + half, upper)
    padding = margin * (upper - lower)
    return lower - padding, upper + padding


def _traces_and_frobenius(
    batch: QuadratureBatch, dim: int, product_errors: FloatArray
) -> list[tuple[Estimate, Estimate]]:
    """Return `trace_and_frobenius` of each matrix."""
    size, count, length = batch.nodes.shape
    lone = np.abs(batch.residuals[..., 0]) if length == 1 else np.zeros((size, count))
    scale = np.maximum(np.abs(batch.nodes).max(axis=2), lone).max(axis=1)
    unit = np.where(scale > 0, scale, 1.0)
    nodes, weights = batch.nodes / unit[:, None, None], batch.weights
    first = (weights * nodes).sum(axis=2)
    second = (weights * nodes**2).sum(axis=2) + (lone / unit[:, None]) ** 2
    fourth = np.maximum((weights * nodes**4).sum(axis=2), second**2)
    first, second, fourth = (each.mean(axis=1) for each in (first, second, fourth))
    share = 2 / (count * (dim + 2))
    share = share / (1 - share)
    trace, frobenius = dim * first, np.sqrt(dim * second)
    errors = dim * np.sqrt(share * np.maximum(second - first**2, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        root_errors = dim * np.sqrt(share * np.maximum(fourth - second**2, 0)) / (2 * frobenius)
    nuclear = dim * (weights * np.abs(nodes)).sum(axis=2).mean(axis=1)
    rounding = product_errors * (nuclear + 2 * frobenius)
    has_remainder = np.abs(batch.residuals).max(axis=2) > batch.node_errors
    is_short = has_remainder.any(axis=1) & (length < LEAST_STEPS)
    down, up = (dim * each + rounding for each in _widest_limits(batch, unit, power=1, dim=dim))
    lower, upper = (dim * each for each in _widest_limits(batch, unit, power=2, dim=dim))
    roots = np.sqrt(np.maximum(dim * second - lower, 0)), np.sqrt(np.maximum(dim * second + upper, 0))
    error = product_errors * frobenius
    limits = [trace - down, trace + up, np.maximum(roots[0] - error, 0), roots[1] + error]
    columns = [trace, errors, frobenius, root_errors, *limits]
    rows = zip(*((each * unit).tolist() for each in columns), (scale == 0).tolist(), is_short.tolist(), strict=True)
    return [_moments_of_one(row) for row in rows]


def _moments_of_one(row: tuple[float, ...]) -> tuple[Estimate, Estimate]:
    trace, error, frobenius, root_error, low, high, root_low, root_high, is_zero, is_short = row
    if is_zero:
        zero = Estimate(0.0, 0.0, Interval(0.0, 0.0))
        return zero, zero
    if is_short:
        unknown = Interval(None, None, TOO_FEW_STEPS)
        return Estimate(trace, error, unknown), Estimate(frobenius, root_error, unknown)
    return (
        Estimate(trace, error, Interval(low, high)),
        Estimate(frobenius, root_error, Interval(root_low, root_high)),
    )


def _widest_limits(batch: QuadratureBatch, unit: FloatArray, *, power: int, dim: int) -> tuple[FloatArray, FloatArray]:
    """Return the widest limits (B,) below and above over the compatible rules, as the function of `estimates`."""
    size, count = batch.nodes.shape[:2]
    rules = batch.rules
    num_rules = rules.nodes.shape[2]
    values = (rules.nodes / unit[:, None, None, None]) ** power
    # (B, rules, nodes of all probes), and each rule of each matrix in a row
    values, weights = (each.transpose(0, 2, 1, 3).reshape(size * num_rules, -1) for each in (values, rules.weights))
    down, up = _mean_limits(values, weights, num_probes=count, dim=dim)
    return down.reshape(size, num_rules).max(axis=1), up.reshape(size, num_rules).max(axis=1)


def _mean_limits(
    values: FloatArray, weights: FloatArray, *, num_probes: int, dim: int
) -> tuple[FloatArray, FloatArray]:
    """Return `mean_limits` (n,) of each row of values and weights (n, m)."""
    rest = values - (weights * values).sum(axis=1, keepdims=True) / num_probes
    down, up = np.zeros((2, len(values)))
    for sign in (1, -1):
        order = np.argsort(-sign * rest, axis=1, kind="stable")
        sizes = np.take_along_axis(sign * rest, order, axis=1)
        own = np.take_along_axis(weights, order, axis=1)
        groups = _groups(sizes)
        for group in range(int(groups.max(initial=-1)) + 1):
            chosen = np.where(groups == group, own, 0.0)
            mean = (chosen * np.abs(sizes)).sum(axis=1) / num_probes
            square = (chosen * sizes**2).sum(axis=1) / num_probes
            limits = confidence_limits(mean, square, num_probes=num_probes, dim=dim, on_sphere=False)
            has_group = (groups == group).any(axis=1)
            away = np.where(has_group, mean - limits.lower, 0.0)
            beyond = np.where(has_group, limits.upper - mean, 0.0)
            down = np.hypot(down, away if sign > 0 else beyond)
            up = np.hypot(up, beyond if sign > 0 else away)
    return RESERVE * down, RESERVE * up


def _groups(values: FloatArray) -> NDArray[np.intp]:
    """Return the number of the group of each value (n, m), which fall along each row; -1 for values of at most 0."""
    size, length = values.shape
    positions = np.arange(length)
    is_positive = values > 0
    counts = is_positive.sum(axis=1)
    groups = np.full((size, length), -1)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        ratios = np.where(is_positive[:, 1:], values[:, :-1] / values[:, 1:], -np.inf)
    starts, number = np.zeros(size, dtype=np.intp), 0
    rows = np.arange(size)
    while bool((starts < counts).any()):
        going = starts < counts
        tops = values[rows, np.minimum(starts, length - 1)]
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            below = np.where(is_positive, tops[:, None] / values, np.inf)
        is_later = positions >= starts[:, None]
        # positions after the last value within each factor of the first
        first, last = (starts + (is_later & is_positive & (below <= ratio)).sum(axis=1) for ratio in GROUP_RATIOS)
        in_gap = (positions[:-1] >= (first - 1)[:, None]) & (positions[:-1] < last[:, None])
        gaps = np.where(in_gap & is_positive[:, 1:], ratios, -np.inf)
        widest = gaps.argmax(axis=1) + 1 if length > 1 else first
        ends = np.where(first < counts, widest, counts)
        groups[going[:, None] & is_later & (positions < ends[:, None]) & is_positive] = number
        starts, number = np.where(going, ends, starts), number + 1
    return groups


def _extremes(
    batch: QuadratureBatch, product_errors: FloatArray, *, dim: int, reorthogonalisation: Reorthogonalisation
) -> list[tuple[RitzValue, RitzValue]]:
    """Return `extreme_ritz_values` of each matrix."""
    length = batch.nodes.shape[2]
    growth = 1.0 if reorthogonalisation == "full" else math.sqrt(length)
    floors = product_errors[:, None] * np.maximum(batch.scales, np.abs(batch.nodes).max(axis=2)) * growth
    factor = 1.0 if reorthogonalisation == "full" else GHOST_FACTOR
    sides = [_ends(batch, floors, factor=factor, dim=dim, side=side) for side in (-1, 1)]
    return list(zip(*sides, strict=True))


def _ends(batch: QuadratureBatch, floors: FloatArray, *, factor: float, dim: int, side: int) -> list[RitzValue]:
    """Return the last Ritz value of each matrix on one side; `floors` (B, k) are the errors of products."""
    index = -1 if side > 0 else 0
    rows = np.arange(len(floors))
    best = (side * batch.nodes[:, :, index]).argmax(axis=1)
    values = batch.nodes[rows, best, index]
    residuals = factor * np.abs(batch.residuals[rows, best, index]) + floors[rows, best]
    near = values - side * floors[rows, best]
    far = _end_of_spectra(batch, floors, values, dim=dim, side=side) + side * floors.max(axis=1)
    found = []
    for value, residual, inner, outer in zip(*map(np.ndarray.tolist, (values, residuals, near, far)), strict=True):
        if not math.isfinite(outer):
            known = Interval(inner, None, UNBOUNDED) if side > 0 else Interval(None, inner, UNBOUNDED)
        else:
            known = Interval(min(inner, outer), max(inner, outer))
        found.append(RitzValue(value, residual, known))
    return found


def _end_of_spectra(batch: QuadratureBatch, floors: FloatArray, ends: FloatArray, *, dim: int, side: int) -> FloatArray:
    """Return the points (B,) beyond which there is no eigenvalue, by the bisection of `end_of_spectrum`."""
    nodes = batch.nodes
    factors = np.sqrt(batch.weights) * batch.residuals
    dropped = np.where(factors.any(axis=2), 0.0, floors)
    sizes = (np.ptp(nodes, axis=2), np.abs(nodes).max(axis=2), np.abs(factors).sum(axis=2))
    unit = np.maximum.reduce(sizes).max(axis=1)
    overlap = overlap_of_probes(dim, nodes.shape[1], MISS_PROBABILITY)
    steps = 2.0 ** (np.arange(GRID_POINTS) / 2)

    def excludes(distances: FloatArray) -> BoolArray:
        """Return for each matrix whether there is no eigenvalue so far beyond its end, or farther."""
        away = side * distances[:, None] * steps
        points = ends[:, None] + away
        is_beyond = side * ((ends + side * distances) - ends) > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = (factors[:, :, None] / (points[:, None, :, None] - nodes[:, :, None])).sum(axis=3)
            shares += dropped[:, :, None] / (points - ends[:, None])[:, None]
        bound = np.sqrt((shares**2).sum(axis=1))
        result: BoolArray = is_beyond & (bound <= overlap).all(axis=1)
        return result

    far, searching = unit.copy(), unit > 0
    while bool((searching := searching & ~excludes(far)).any()):
        far = np.where(searching, 4 * far, far)
        is_lost = searching & ~((far < 1e60 * unit) & np.isfinite(ends + far))
        far, searching = np.where(is_lost, np.inf, far), searching & ~is_lost
    near, going = np.zeros_like(far), np.isfinite(far) & (unit > 0)
    for _ in range(BISECTIONS):
        middle = np.where(near > 0, np.sqrt(near) * np.sqrt(far), far / 1024)
        going &= ~((middle < 1e-18 * unit) | ~((near < middle) & (middle < far)))
        if not going.any():
            break
        is_free = excludes(np.where(going, middle, unit))
        near = np.where(going & ~is_free, middle, near)
        far = np.where(going & is_free, middle, far)
    return np.where(unit == 0, ends, ends + side * far)
