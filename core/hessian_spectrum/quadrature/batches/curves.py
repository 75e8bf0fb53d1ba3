"""The curves of many matrices."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.quadrature.batches.rules import QuadratureBatch
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
    CURVE_ROUNDING,
    MOST_PROBES_WITH_FURTHER_RULES,
    NEGLIGIBLE_COUNT,
    Moments,
    ProbeMean,
    confidence_limit,
)
from hessian_spectrum.quadrature.results import (
    Band,
    Cumulative,
    Density,
    FloatArray,
)

TABLE_NUMBERS = 2**19
"""Numbers of the tables that are in memory at once, which a processor's cache should hold."""


@dataclass(frozen=True, eq=False)
class CurveBatch:
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
            part = CurveBatch(
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
        """Return moments of nodes with weights (n, clusters, m) and differences (n, m, G), which are overwritten."""
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
