"""Traces, Frobenius norms and extreme eigenvalues of many matrices."""

import math

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.quadrature.batches.rules import QuadratureBatch
from hessian_spectrum.quadrature.error_bands import (
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
    extreme_probes,
    overlap_of_probes,
)
from hessian_spectrum.quadrature.results import (
    Estimate,
    FloatArray,
    Interval,
    Reorthogonalisation,
    RitzValue,
)

BoolArray = NDArray[np.bool_]


def traces_and_frobenius(
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
    root_errors = dim * np.sqrt(share * np.maximum(fourth - second**2, 0))
    root_errors = np.divide(root_errors, 2 * frobenius, out=np.zeros_like(frobenius), where=frobenius > 0)
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


def extremes(
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
    scales = np.abs(batch.nodes).max(axis=(1, 2))
    best = extreme_probes(batch.nodes[:, :, index], batch.residuals[:, :, index], scales=scales, side=side)
    values = side * (side * batch.nodes[:, :, index]).max(axis=1)
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
