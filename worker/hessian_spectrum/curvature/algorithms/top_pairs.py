"""Eigenpairs from the subspace of a finished search, each with an interval of the requested eigenvalue."""

from dataclasses import dataclass
from math import inf, isfinite

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.ritz import RitzPairs, bounds_from_above, order, spread
from hessian_spectrum.curvature.algorithms.shells import ends_within
from hessian_spectrum.curvature.algorithms.subspace import SubspaceState
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator, gram, norm, rotate, subtract
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.quadrature.results import Interval, TopEigenpairs

FLOOR_ERRORS = 3
"""Largest residual, in errors of the products, of a pair that is as accurate as possible."""


@dataclass(frozen=True)
class _Pairs:
    """The requested pairs in order of preference, with vectors in the first rows of the basis; in units of A."""

    values: Tensor  # (k,)
    residuals: Tensor  # (k,) with the error of the products
    error: float  # error of the values caused by the products
    are_locked: bool  # they span what the first locked rows did


def summarise_search(operator: SymmetricOperator, state: SubspaceState) -> TopEigenpairs:
    """Return the requested pairs in their present state; the basis is overwritten, so that the search cannot continue.

    The pairs are multiplied once more, by unreduced products, because the recurrence does not include what locking cut
    off, the deviation of reduced products, and the accumulated errors of restarts.

    Args:
        operator: The matrix A.
        state: State of the search, whose basis is overwritten.

    Returns:
        The eigenpairs with their intervals.

    Raises:
        InvalidProblemError: If fewer than k products were done.
    """
    if state.num_processed < state.num_requested:
        raise InvalidProblemError(f"{state.num_processed} products are too few for {state.num_requested} eigenpairs")
    every = state.pairs()
    coarse = operator.product_error * state.norm(every.values)
    rest = _ends_of_others(state, every, coarse) if state.complete else _ends_of_rest(state, coarse)
    is_exhausted = state.num_products >= state.budget
    pairs = _final_pairs(operator, state, every)
    tolerances = state.tolerances(pairs.values)
    scores = state.scores(pairs.values)
    sides = _sides(state, pairs, rest=rest, error=coarse)
    gaps = _best_scores(state, sides).maximum(scores) - scores + pairs.error
    converged = (pairs.residuals <= tolerances) & (gaps <= tolerances)
    display = torch.arange(len(scores))
    if state.which == "both-ends":
        display = pairs.values.argsort(descending=True)
    whys = _Reasons(coarse, is_exhausted)
    return TopEigenpairs(
        eigenvalues=pairs.values[display].numpy(),
        residuals=pairs.residuals[display].numpy(),
        converged=converged[display].numpy(),
        intervals=tuple(
            _interval(
                _ends(state, index, pairs=pairs, gap=float(gaps[index]), sides=sides),
                None if converged[index] else whys.of(pairs, index, float(tolerances[index])),
            )
            for index in display.tolist()
        ),
        eigenvectors=state.basis[: state.num_requested][display.to(state.basis.device)].cpu().numpy(),
        num_products=state.num_products,
    )


def best_of_others(operator: SymmetricOperator, state: SubspaceState) -> float:
    """Return a bound on the score of the eigenvalue that follows the k requested ones, at one end of the spectrum.

    Args:
        operator: The matrix A.
        state: State of a finished search, before its summary.

    Returns:
        The bound, minus infinity if there is no such eigenvalue, infinity if nothing is known.
    """
    every, count = state.pairs(), state.num_requested
    error = operator.product_error * state.norm(every.values)
    if state.complete:
        others = every.values[order(every.values, state.which)[count:]]
        return float(state.scores(others)[0]) + error if len(others) else -inf
    norms = spread(state.defects[: state.num_locked])
    (rest,), scores = _ends_of_rest(state, error), state.scores(state.locked_values())
    return float(bounds_from_above(scores, norms, rest=rest, count=count + 1)[-1]) + error


def _ends_of_rest(state: SubspaceState, error: float) -> list[float]:
    """Return, by end, its side times a point beyond which the complement of the locked rows has no eigenvalue."""
    return [end.side * point + error for end, point in zip(state.ends, state.ends_of_rest(), strict=True)]


def _ends_of_others(state: SubspaceState, every: RitzPairs, error: float) -> list[float] | None:
    """Return such points for the complement of the requested vectors, by end, if all others are known.

    The vectors of reduced products span no invariant subspace of the exact matrix: their error is added.

    Args:
        state: State of the search.
        every: Ritz pairs of the whole space.
        error: Error of the products, in units of A.

    Returns:
        One point for each end; None if there are no others.
    """
    others = every.values[order(every.values, state.which)[state.num_requested :]]
    if len(others) == 0:
        return None
    return [float((end.side * others).max()) + (error if state.is_reduced else 0.0) for end in state.ends]


def _final_pairs(operator: SymmetricOperator, state: SubspaceState, every: RitzPairs) -> _Pairs:
    """Rayleigh-Ritz on all rows, or the locked pairs if nothing better was found; measured once more if necessary."""
    requested = order(every.values, state.which)[: state.num_requested]
    values, residuals, vectors = every.values[requested], every.residuals[requested], every.vectors[:, requested]
    is_open = state.num_locked < state.num_requested or state.complete
    are_locked = not is_open and not state.is_improved(values, state.slack(values, operator.product_error))
    if are_locked:
        values, vectors = state.locked_values()[: len(values)], torch.eye(*vectors.shape, dtype=torch.float64)
        residuals = state.defects[: len(values)]
    rotate(state.basis[: state.num_processed], vectors)
    for row in state.basis[: len(values)]:
        row.div_(norm(row))
    if state.complete:
        residuals = torch.zeros_like(residuals)
    size = state.norm(every.values)
    error = operator.product_error * size
    is_measured = state.is_reduced or not state.complete
    if is_measured and state.num_products + state.num_requested <= state.max_products:
        exact = operator.unreduced
        values, residuals = _refined(exact, state, values=values, size=size)
        error = exact.product_error * size
    return _Pairs(values, residuals + error, error, are_locked)


def _refined(
    operator: SymmetricOperator, state: SubspaceState, *, values: Tensor, size: float
) -> tuple[Tensor, Tensor]:
    """Rayleigh-Ritz on the requested vectors alone, with measured ||A x - value x|| (k,), by k products.

    If memory has no room for the products the vectors stay unchanged.

    Args:
        operator: The matrix A.
        state: State of the search, whose basis is overwritten.
        values: Values of the pairs (k,).
        size: Norm of A.

    Returns:
        Values and residuals (k,), in units of A.
    """
    count = len(values)
    vectors, rests = state.basis[:count], state.basis[count : 2 * count]
    has_room = len(rests) == count
    residuals = torch.empty(count, dtype=torch.float64)
    for start in range(0, count, state.block_size):
        block = vectors[start : start + state.block_size]
        products = operator.matmat(block.T).T
        state.num_products += len(block)
        if has_room:
            rests[start : start + len(block)] = products
            continue
        for row, product in enumerate(products):
            residuals[start + row] = norm(product - float(values[start + row]) * block[row])
    return _rotated(state, vectors=vectors, products=rests, unit=size or 1.0) if has_room else (values, residuals)


def _rotated(state: SubspaceState, *, vectors: Tensor, products: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """Return Ritz values and residuals of the span of rows (k, P), which become Ritz vectors, given their products."""
    projection = gram(vectors, products)
    subtract(products, projection.T, vectors)
    projection = projection / unit
    values, rotation = torch.linalg.eigh((projection + projection.T) / 2)
    ranking = order(values, state.which)
    rotation = rotation[:, ranking]
    squares = gram(products / unit, products / unit)
    residuals = (rotation * (squares @ rotation)).sum(dim=0).clamp(min=0).sqrt()
    rotate(vectors, rotation)
    return values[ranking] * unit, residuals * unit


@dataclass(frozen=True)
class _Side:
    """Bounds on the first n eigenvalues at an end, as numbers that are larger farther out; up to the pairs' error."""

    lower: Tensor  # (n,) descending
    upper: Tensor  # (n,) descending


def _sides(state: SubspaceState, pairs: _Pairs, *, rest: list[float] | None, error: float) -> list[_Side]:
    """Bound the eigenvalues at each end, by the locked pairs and the ends of the rest.

    If the subspace is the whole space, the bounds follow from the pairs themselves and the ends of the others. They are
    for the matrix whose products were used; the error of these products is added once for the exact matrix.

    Args:
        state: State of the search.
        pairs: The requested pairs.
        rest: Ends of the rest; None if the requested pairs are all.
        error: Error of the products, in units of A.

    Returns:
        The bounds for each end, as many as eigenvalues are requested there.
    """
    count = state.num_requested
    values, residuals = state.locked_values(), state.defects[: state.num_locked]
    if pairs.are_locked or state.complete:
        kept = slice(count, count if state.complete else None)
        measured = pairs.residuals - pairs.error
        values, residuals = torch.cat([pairs.values, values[kept]]), torch.cat([measured, residuals[kept]])
        error = 0.0  # the caller adds the error of the measured products
    norms, sides = spread(residuals), []
    for index, end in enumerate(state.ends):
        lower = (end.side * pairs.values).sort(descending=True).values[: end.num_requested]
        upper = lower
        if rest is not None:
            bounds = bounds_from_above(end.side * values, norms, rest=rest[index], count=end.num_requested)
            upper = lower.maximum(bounds + error)
        sides.append(_Side(lower, upper))
    return sides


def _best_scores(state: SubspaceState, sides: list[_Side]) -> Tensor:
    """Bound the scores of the requested eigenvalues (k,) from above."""
    if state.which == "magnitude":
        return torch.cat([side.upper for side in sides]).sort(descending=True).values[: state.num_requested]
    bounds = torch.empty(state.num_requested, dtype=torch.float64)
    for members, side in zip(state.groups(), sides, strict=True):
        bounds[members] = side.upper
    return bounds


def _ends(state: SubspaceState, index: int, *, pairs: _Pairs, gap: float, sides: list[_Side]) -> tuple[float, float]:
    """Return the ends of an interval of an eigenvalue: no worse than the value (minimax), and at most `gap` better.

    The magnitude says nothing of the sign. But number i by magnitude is one of the first i of its sign, and these have
    bounds of their own: a sign is excluded if none of them can have that magnitude.

    Args:
        state: State of the search.
        index: Rank of the pair.
        pairs: The requested pairs.
        gap: What the eigenvalue may be better by, in units of A.
        sides: Bounds at each end.

    Returns:
        The lower and the upper end, infinite where nothing is known.
    """
    value, error = float(pairs.values[index]), pairs.error
    if state.which != "magnitude":
        near, far = value - state.side_of(index) * error, value + state.side_of(index) * gap
        return min(near, far), max(near, far)
    smallest = [(side.lower[: index + 1] - error).clamp(min=0) for side in sides]
    largest = [side.upper[: index + 1] + error for side in sides]
    return ends_within(
        (max(abs(value) - error, 0.0), abs(value) + gap),
        starts=torch.cat([smallest[0], -largest[1]]),
        stops=torch.cat([largest[0], -smallest[1]]),
    )


def _interval(ends: tuple[float, float], why: str | None) -> Interval:
    """Return an interval, without the ends that are infinite."""
    lower, upper = (end if isfinite(end) else None for end in ends)
    return Interval(lower, upper, why)


@dataclass(frozen=True)
class _Reasons:
    """Reasons that a pair has not converged."""

    error: float  # error of products, in units of A
    is_exhausted: bool  # no more products were allowed

    def of(self, pairs: _Pairs, index: int, tolerance: float) -> str:
        """Return the reason in one sentence."""
        value, residual = float(pairs.values[index]), float(pairs.residuals[index])
        if self.error > tolerance and residual <= FLOOR_ERRORS * self.error:
            message = f"The error of the products, {self.error:.2g}, is above the tolerance, {tolerance:.2g}"
        elif residual > tolerance:
            message = f"The residual, {residual:.2g}, is above the tolerance, {tolerance:.2g}"
            message += ", and max_products are used up" if self.is_exhausted else ""
        else:
            return "A better eigenvalue cannot be excluded" + (" with max_products." if self.is_exhausted else ".")
        if abs(value) <= max(self.error, residual):
            message += "; the value may be zero, which an absolute_tolerance would accept"
        return message + "."
