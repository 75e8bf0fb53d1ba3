"""Deflation: eigenvalues that two Lanczos runs have found are counted once, rather than as probes happen to see them.

A random probe sees an eigenvalue with a weight that varies by more than its size, which is most of the error of a trace
and of a density whose outliers are few and large. An eigenvalue whose eigenvector is known needs no estimate: it counts
as one of P, and the part of each probe in the direction of the eigenvector is removed. What is left of the probe is a
uniform probe of the other P - l directions.

The eigenvectors of the second run deflate the first probe, and those of the first run all others. A probe and the
vectors that deflate it are therefore independent, so that the mean stays unbiased whether or not the vectors have
converged. A repeated eigenvalue has a single eigenvector in each run, and what another probe sees of it in other
directions remains.

References:
    Gambhir, Stathopoulos & Orginos, SIAM J. Sci. Comput. 39 (2017) A532-A558, for traces.
    Bhattacharjee, Jayaram, C. Musco, C. Musco & Ray, arXiv:2410.21690 (2024), for stochastic Lanczos quadrature.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.quadrature.curves import (
    TABLE_SIZE,
    Smoothing,
    SpectralCurves,
    log_magnitudes,
    spectral_curves,
    width_of_gaussians,
)
from hessian_spectrum.quadrature.error_bands import CURVE_ROUNDING
from hessian_spectrum.quadrature.estimates import trace_and_frobenius
from hessian_spectrum.quadrature.results import (
    Band,
    Cumulative,
    Deflation,
    Density,
    Estimate,
    FloatArray,
    Interval,
    Quadrature,
)

_Curve = TypeVar("_Curve", Density, Cumulative)

CONVERGED = 3e-3
"""Largest residual of an eigenpair that is deflated, relative to the norm of the matrix. With larger ones, what is left
of a probe no longer belongs to the other directions."""

LEAST_GAP = 1e-4
"""Distance between the last known node and the next one, relative to the norm of the matrix. Of closer ones, rounding
decides how much of a probe belongs to which."""

NEGLIGIBLE_COUNT = 0.01
"""Number of eigenvalues that rounding may leave of one that is removed: less is none."""


def known_eigenvalues(first: Quadrature, second: Quadrature, dim: int) -> tuple[int, int]:
    """Return how many eigenvalues both runs have found, from the lower and from the upper end.

    Args:
        first: Quadrature of a run.
        second: That of another run of the same matrix.
        dim: Number of parameters P.

    Returns:
        Numbers of nodes, the same ones of both runs; at most half of P together.
    """
    scale = max(float(np.abs(each.nodes).max()) for each in (first, second))
    close = max(CONVERGED * scale, first.node_error, second.node_error)
    length = min(len(first.nodes), len(second.nodes), dim // 2)
    counts = []
    for step in (1, -1):
        ones, others = ((each.nodes[::step][:length], _residuals(each)[::step][:length]) for each in (first, second))
        is_known = (np.maximum(ones[1], others[1]) <= CONVERGED * scale) & (np.abs(ones[0] - others[0]) <= close)
        most = int(np.append(is_known, False).argmin())
        gaps = np.minimum(*(np.abs(np.diff(each[0], append=np.inf)) for each in (ones, others)))
        counts.append(int(np.flatnonzero(gaps[:most] > LEAST_GAP * scale).max(initial=-1)) + 1)
    return min(counts[0], length - counts[1]), counts[1]


def _residuals(quadrature: Quadrature) -> FloatArray:
    if quadrature.residuals is None:
        return np.full_like(quadrature.nodes, np.inf)
    return np.abs(quadrature.residuals)


def deflation_of(first: Quadrature, second: Quadrature, counts: tuple[int, int], weights: FloatArray) -> Deflation:
    """Return the known eigenvalues, each from the run in which it has converged further.

    The error of a Ritz value with the residual r is at most r, and r^2 / (g - r) where the nearest other eigenvalue is
    not nearer than g, for which the distance of the nearest other node is taken.

    Args:
        first: Quadrature of the first run.
        second: That of the second run.
        counts: Number of eigenvalues from the lower and from the upper end.
        weights: Squared products (n, l) of n probes with the l unit eigenvectors.

    References:
        Kato, J. Phys. Soc. Japan 4 (1949) 334-339; Temple, Proc. R. Soc. A 119 (1928) 276-293.
    """
    chosen = [known_nodes(len(each.nodes), counts) for each in (first, second)]
    values = np.stack([each.nodes[nodes] for each, nodes in zip((first, second), chosen, strict=True)])
    errors = np.stack([_errors(each)[nodes] for each, nodes in zip((first, second), chosen, strict=True)])
    best = errors.argmin(axis=0)[None]
    values, errors = (np.take_along_axis(each, best, axis=0)[0] for each in (values, errors))
    return Deflation(values, errors, weights)


def known_nodes(num_nodes: int, counts: tuple[int, int]) -> NDArray[np.intp]:
    """Return the indices (l,) of so many nodes at the lower and at the upper end."""
    lower, upper = counts
    return np.append(np.arange(lower), np.arange(num_nodes - upper, num_nodes))


def _errors(quadrature: Quadrature) -> FloatArray:
    gaps = np.diff(quadrature.nodes, prepend=-np.inf, append=np.inf)
    residuals = _residuals(quadrature)
    distances = np.maximum(np.minimum(gaps[:-1], gaps[1:]) - residuals, residuals)
    squares = np.divide(residuals**2, distances, out=np.zeros_like(residuals), where=residuals > 0)
    errors: FloatArray = squares + quadrature.node_error
    return errors


def deflated(quadratures: Sequence[Quadrature], deflation: Deflation, dim: int) -> list[Quadrature]:
    """Return the quadratures of the probes without their parts in the known directions.

    Args:
        quadratures: Gauss quadratures of n probes.
        deflation: What is known of the matrix and of these probes.
        dim: Number of parameters P.

    Returns:
        Quadratures of uniform unit probes of the other P - l directions, with the nodes of the whole probes.
    """
    return [
        _without(each, deflation.eigenvalues, weights, dim)
        for each, weights in zip(quadratures, deflation.weights, strict=True)
    ]


def _without(quadrature: Quadrature, eigenvalues: FloatArray, weights: FloatArray, dim: int) -> Quadrature:
    nodes, rest = quadrature.nodes, quadrature.weights.copy()
    nearest = np.abs(nodes - eigenvalues[:, None]).argmin(axis=1)
    np.subtract.at(rest, nearest, weights)
    # nodes that are nearly equal share the weights of their eigenvalues in each run in another way
    for index in np.flatnonzero(rest < 0):
        for other in np.abs(nodes - nodes[index]).argsort(kind="stable"):
            if rest[index] >= 0:
                break
            if rest[other] > 0:
                taken = min(rest[other], -rest[index])
                rest[other], rest[index] = rest[other] - taken, rest[index] + taken
    removed = nearest[rest[nearest] < NEGLIGIBLE_COUNT / dim]
    rest[removed] = 0.0
    residuals = quadrature.residuals
    if residuals is not None:
        # what is left of the probe has no part in these directions, nor do further steps from it
        residuals = residuals.copy()
        residuals[removed] = 0.0
    return replace(quadrature, weights=rest / rest.sum(), residuals=residuals)


def deflated_curves(
    quadratures: Sequence[Quadrature],
    deflation: Deflation | None,
    smoothing: Smoothing,
    *,
    dim: int,
    num_steps: int,
    rounding: float,
) -> SpectralCurves:
    """Return `spectral_curves`, with l eigenvalues counted as known: f = ((P - l) f_rest + sum_i f(lambda_i)) / P.

    Args:
        quadratures: One for each whole probe.
        deflation: The known eigenvalues; None: there are none.
        smoothing: Grids and widths.
        dim: P, the number of rows of the matrix.
        num_steps: Lanczos steps that were asked for, at most P.
        rounding: Machine epsilon of the products.

    Raises:
        InvalidProblemError: If there is no quadrature, or the smoothing is not valid.
    """
    if deflation is None:
        return spectral_curves(quadratures, smoothing, dim=dim, num_steps=num_steps, rounding=rounding)
    rest = spectral_curves(
        deflated(quadratures, deflation, dim),
        smoothing,
        dim=dim - len(deflation.eigenvalues),
        num_steps=num_steps,
        rounding=rounding,
    )
    return completed_curves(rest, deflation, smoothing, dim=dim, num_steps=num_steps)


def completed_curves(
    rest: SpectralCurves, deflation: Deflation, smoothing: Smoothing, *, dim: int, num_steps: int
) -> SpectralCurves:
    """Return the curves of all P eigenvalues from those of the P - l that are not known; arguments as above."""
    share, reserve = 1 - len(deflation.eigenvalues) / dim, _reserve(deflation)
    places = np.stack([deflation.eigenvalues, *deflation.ends])
    logs = np.stack([log_magnitudes(smoothing.log_epsilon, places[0], places[0])[0], *_log_ends(deflation, smoothing)])
    grid, log_grid = rest.density.grid, rest.log_density.grid
    width, log_width = (width_of_gaussians(num_steps, kappa) for kappa in (smoothing.kappa, smoothing.log_kappa))
    bumps, log_bumps = _gaussians(grid, places, width), _gaussians(np.log(log_grid), logs, log_width) / log_grid
    steps = np.stack([np.searchsorted(np.sort(each), rest.cumulative.grid, side="right") for each in places[[0, 2, 1]]])
    return SpectralCurves(
        density=_completed(rest.density, share, bumps / dim, reserve),
        log_density=_completed(rest.log_density, share, log_bumps / dim, reserve),
        cumulative=_at_most_one(_completed(rest.cumulative, share, steps / dim, reserve)),
    )


def _log_ends(deflation: Deflation, smoothing: Smoothing) -> tuple[FloatArray, FloatArray]:
    lower, upper = deflation.ends
    return log_magnitudes(smoothing.log_epsilon, lower, upper)


def _gaussians(grid: FloatArray, places: FloatArray, width: float) -> FloatArray:
    """Return the sum of Gaussians at places (l,), its least and its largest values (3, n) between the ends of each."""
    sigma = width * (grid[-1] - grid[0]) / 2
    height = 1 / (sigma * math.sqrt(2 * math.pi))
    middle, low, high = places[..., None]
    radius = (high - low) / 2
    parts = []
    for part in np.array_split(grid, 1 + len(grid) * len(middle) // TABLE_SIZE):
        distance = np.abs(part - (low + high) / 2)
        distances = (np.abs(part - middle), distance + radius, np.maximum(distance - radius, 0))
        parts.append([height * np.exp(-((each / sigma) ** 2) / 2).sum(axis=0) for each in distances])
    return np.concatenate(parts, axis=1)


def _completed(rest: _Curve, share: float, known: FloatArray, reserve: float) -> _Curve:
    """Return the curve of all eigenvalues, from that of a share of them and the part (3, n) of the others."""
    values, least, largest = known
    away, beyond = (np.abs(end - rest.values) * reserve for end in (rest.band.lower, rest.band.upper))
    lower = share * np.maximum(rest.values - away, 0) + least
    upper = share * (rest.values + beyond) + largest
    return replace(
        rest,
        values=share * rest.values + values,
        standard_error=share * rest.standard_error,
        band=Band(lower * (1 - CURVE_ROUNDING), upper * (1 + CURVE_ROUNDING)),
    )


def _at_most_one(cumulative: Cumulative) -> Cumulative:
    values, lower, upper = (
        np.minimum(each, 1.0) for each in (cumulative.values, cumulative.band.lower, cumulative.band.upper)
    )
    return replace(cumulative, values=values, band=Band(lower, upper))


def _reserve(deflation: Deflation) -> float:
    """Return by how much limits of the rest are wider than those of n independent probes.

    What the first two probes keep of a repeated eigenvalue depends on the angle between them. The correlation is at
    most 1/4, that of the weights of an eigenvalue of multiplicity 2.
    """
    return math.sqrt(1 + 1 / (2 * len(deflation.weights)))


def deflated_moments(
    quadratures: Sequence[Quadrature], deflation: Deflation | None, dim: int, product_error: float = 0.0
) -> tuple[Estimate, Estimate]:
    """Return `trace_and_frobenius`, to which l known eigenvalues contribute as they are.

    Args:
        quadratures: One for each whole probe.
        deflation: The known eigenvalues; None: there are none.
        dim: Number of parameters P.
        product_error: Relative error of the products, dimensionless.

    Raises:
        InvalidProblemError: If there is no quadrature.
    """
    if deflation is None:
        return trace_and_frobenius(quadratures, dim, product_error)
    rest = deflated(quadratures, deflation, dim)
    return completed_moments(
        trace_and_frobenius(rest, dim - len(deflation.eigenvalues), product_error), deflation, product_error
    )


def completed_moments(
    rest: tuple[Estimate, Estimate], deflation: Deflation, product_error: float
) -> tuple[Estimate, Estimate]:
    """Return trace and Frobenius norm of all eigenvalues from those of the rest; arguments as above."""
    trace, frobenius = rest
    known, errors = deflation.eigenvalues, deflation.errors
    norm = float(np.linalg.norm(known))
    off = float(errors.sum()) + product_error * (float(np.abs(known).sum()) + 2 * norm)
    whole = math.hypot(frobenius.value, norm)
    root_off = float(np.linalg.norm(errors)) + product_error * norm
    inner, outer = (_widened(each, _reserve(deflation)) for each in (trace, frobenius))
    return (
        Estimate(trace.value + float(known.sum()), trace.standard_error, _moved(inner, float(known.sum()), off)),
        Estimate(
            whole,
            None
            if frobenius.standard_error is None
            else frobenius.standard_error * (frobenius.value / whole if whole > 0 else 1.0),
            _joined(outer, norm, root_off),
        ),
    )


def _widened(estimate: Estimate, factor: float) -> Interval:
    value, interval = estimate.value, estimate.interval
    if interval.lower is None or interval.upper is None:
        return interval
    return Interval(value - factor * (value - interval.lower), value + factor * (interval.upper - value))


def _moved(interval: Interval, distance: float, error: float) -> Interval:
    if interval.lower is None or interval.upper is None:
        return interval
    return Interval(interval.lower + distance - error, interval.upper + distance + error)


def _joined(interval: Interval, norm: float, error: float) -> Interval:
    if interval.lower is None or interval.upper is None:
        return interval
    return Interval(
        max(math.hypot(max(interval.lower, 0.0), norm) - error, 0.0), math.hypot(interval.upper, norm) + error
    )
