"""Trace of an operator from products with random vectors, with Frobenius norm and diagonal from the same products."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.diagonal import exact_diagonal
from hessian_spectrum.curvature.algorithms.hutchinson import (
    ComplementProbes,
    add_probes,
    diagonal_of,
    frobenius_of,
    trace_of,
)
from hessian_spectrum.curvature.algorithms.intervals import NORMAL_QUANTILE, exact_estimate
from hessian_spectrum.curvature.algorithms.sketch import (
    PROBE_BLOCK,
    Sketch,
    extend_basis,
    finite_products,
    multiply_basis,
)
from hessian_spectrum.curvature.algorithms.vectors import norm, sphere_probe
from hessian_spectrum.curvature.algorithms.xtrace import leave_one_out
from hessian_spectrum.curvature.operators.base import SymmetricOperator
from hessian_spectrum.curvature.progress import FROM_THE_START, Continuation, Progress, ignore_progress
from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.quadrature.results import Estimate, StochasticTrace

Estimator: TypeAlias = Literal["hutchinson", "hutch++", "xtrace"]

FIRST_ROUND = 24  # products before a tolerance is first looked at
DEFAULT_PRODUCTS = 10_000  # at most, in search of a tolerance


@dataclass
class ColumnSums:
    """Sums over the columns of A, which are read one after the other."""

    diagonal: Tensor  # (P,) float64, on the CPU; as many set as there are lengths
    lengths: list[float] = field(default_factory=list)


@dataclass
class TraceState:
    """A run between two blocks of products, with everything that `advance_trace` needs to continue."""

    estimator: Estimator
    generator: torch.Generator  # on the CPU, of the probes
    diagonal: bool
    tolerance: float | None
    total: int  # products at most
    target: int  # products of the rounds up to this one
    sketch: Sketch
    probes: ComplementProbes
    vectors: Tensor  # (n, P) random ones, of xtrace alone
    products: Tensor  # (n, P), theirs
    columns: ColumnSums | None = None  # once the trace is read off
    num_products: int = 0


def trace_estimate(
    operator: SymmetricOperator,
    estimator: Estimator,
    generator: torch.Generator,
    progress: Progress = ignore_progress,
    num_probes: int | None = None,
    tolerance: float | None = None,
    max_products: int | None = None,
    diagonal: bool = False,
    continuation: Continuation = FROM_THE_START,
) -> StochasticTrace:
    """Trace tr A with a 95 % interval, from a number of products or to a tolerance.

    "hutchinson" keeps two vectors of length P for each of 16 probes. "hutch++" additionally keeps two for each of a
    third of the products, and is more accurate if few eigenvalues are large. "xtrace" keeps four for each of half of
    the products, and is more accurate still. From P products on the trace is read from the columns of A, and exact up
    to the error of the products, which every stated error includes. If a sketch spans the whole range that the
    precision of products resolves, the remaining products are spent on probes of its complement, which is small but not
    zero.

    Args:
        operator: The matrix A.
        estimator: "hutchinson", "hutch++" or "xtrace".
        generator: CPU generator of the probes, which advances.
        progress: Called with phase "products" after each block.
        num_probes: Number of products of any kind. xtrace needs 4, and uses an even number.
        tolerance: Alternative to num_probes: the limit of the standard error, or half the interval's width over 1.96,
            whichever is larger, relative to |tr A| or ||A||_F, whichever is larger, as a trace may be zero. Products
            double until it is met, or the error of the products alone is larger.
        max_products: Largest number of products spent on a tolerance; None means 10,000.
        diagonal: Whether to estimate the diagonal of A, too.
        continuation: Provides a `TraceState` to resume from, and receives later ones.

    Returns:
        The trace with Frobenius norm and, if requested, diagonal.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
        InvalidProblemError: Unless exactly one of num_probes and tolerance is given and positive, or if products are
            too few for the estimator.

    References:
        Meyer, Musco, Musco & Woodruff, SOSA 2021, 142-155, for hutch++; Epperly, Tropp & Webber, SIAM J. Matrix Anal.
        Appl. 45 (2024) 1-23, for xtrace; Hutchinson, Commun. Stat. Simul. Comput. 19 (1990) 433-450, with probes on the
        sphere.
    """
    state: TraceState = continuation.state or start_trace(
        operator, estimator, generator, num_probes, tolerance, max_products, diagonal
    )
    found: StochasticTrace | None = None
    while found is None:
        found = advance_trace(operator, state)
        progress("products", state.num_products, max(state.total, state.num_products))
        continuation.offer(lambda: state)
    return found


def start_trace(
    operator: SymmetricOperator,
    estimator: Estimator,
    generator: torch.Generator,
    num_probes: int | None = None,
    tolerance: float | None = None,
    max_products: int | None = None,
    diagonal: bool = False,
) -> TraceState:
    """State before the first product.

    Args:
        operator: The matrix A.
        estimator: Estimator, as for `trace_estimate`.
        generator: CPU generator of the probes, which advances.
        num_probes: Number of products, as for `trace_estimate`.
        tolerance: Tolerance, as for `trace_estimate`.
        max_products: Largest number of products, as for `trace_estimate`.
        diagonal: Whether to estimate the diagonal of A, too.

    Returns:
        The state.

    Raises:
        InvalidProblemError: As for `trace_estimate`.
    """
    if (num_probes is None) == (tolerance is None):
        raise InvalidProblemError("a trace needs a number of probes or a tolerance, and not both")
    least = 4 if estimator == "xtrace" else 1
    most = num_probes if num_probes is not None else DEFAULT_PRODUCTS if max_products is None else max_products
    if most < least or (tolerance is not None and not 0 < tolerance < math.inf):
        raise InvalidProblemError(
            f"{most} products, tolerance {tolerance}: {estimator} needs at least {least} products"
        )
    target = most if tolerance is None else min(FIRST_ROUND, most)
    sketch = Sketch.empty(operator)
    probes = ComplementProbes.beside(sketch, diagonal)
    empty = sketch.basis
    state = TraceState(estimator, generator, diagonal, tolerance, most, target, sketch, probes, empty, empty)
    _read_off_if_cheaper(operator, state)
    return state


def advance_trace(operator: SymmetricOperator, state: TraceState) -> StochasticTrace | None:
    """Compute one more block of products, in place, unless none remains.

    Args:
        operator: The matrix A.
        state: State of the run, which is changed.

    Returns:
        The result, if that was the last block.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
    """
    if not _round_is_done(operator, state):
        _multiply(operator, state)
    while _round_is_done(operator, state):
        if (found := _decide(operator, state)) is not None:
            return found
    return None


def _multiply(operator: SymmetricOperator, state: TraceState) -> None:
    if state.columns is not None:
        state.num_products += _read_columns(operator, state.columns)
    elif len(state.sketch.products) < len(state.sketch.basis):
        state.num_products += multiply_basis(operator, state.sketch)
    elif state.estimator == "xtrace" and not state.sketch.exhausted:
        state.num_products += _extend_exchangeably(operator, state)
    elif _sketch_is_small(state):
        state.num_products += _deflate(operator, state)
    else:
        count = min(PROBE_BLOCK, state.target - state.num_products)
        state.num_products += add_probes(operator, state.sketch, state.probes, state.generator, count)


def _sketch_is_small(state: TraceState) -> bool:
    """Whether the sketch must grow: Hutch++ spends a third of the products on it and a third on its products."""
    sketch = state.sketch
    return state.estimator == "hutch++" and len(sketch.basis) < state.target // 3 and not sketch.exhausted


def _deflate(operator: SymmetricOperator, state: TraceState) -> int:
    """Extend the sketch, which makes earlier probes of the larger complement useless."""
    count = min(PROBE_BLOCK, state.target // 3 - len(state.sketch.basis))
    rows = _random_rows(operator, state.generator, count)
    extend_basis(operator, state.sketch, finite_products(operator, rows))
    state.probes = ComplementProbes.beside(state.sketch, state.diagonal)
    return count


def _extend_exchangeably(operator: SymmetricOperator, state: TraceState) -> int:
    """Spend half of the products on random vectors, and half on the basis of their products, as XTrace does."""
    count = min(PROBE_BLOCK, state.target // 2 - len(state.vectors))
    vectors = _random_rows(operator, state.generator, count)
    products = finite_products(operator, vectors)
    state.vectors = torch.cat([state.vectors, vectors])
    state.products = torch.cat([state.products, products])
    extend_basis(operator, state.sketch, products)
    return count


def _round_is_done(operator: SymmetricOperator, state: TraceState) -> bool:
    sketch = state.sketch
    if state.columns is not None:
        return len(state.columns.lengths) == operator.dim
    if len(sketch.products) < len(sketch.basis):
        return False
    if state.estimator == "xtrace" and not sketch.exhausted:
        return len(state.vectors) >= state.target // 2
    return not _sketch_is_small(state) and (state.num_products >= state.target or len(sketch.basis) == operator.dim)


def _decide(operator: SymmetricOperator, state: TraceState) -> StochasticTrace | None:
    """Finish, or double the products until the error is small enough, or more of them are useless or not allowed."""
    found = _estimate(state, operator.product_error)
    if state.tolerance is None:
        return found
    allowed = state.tolerance * max(abs(found.trace.value), found.frobenius.value)
    met = _error(found.trace) <= allowed
    if met or state.columns is not None or state.target >= state.total or _rounding(operator, found) > allowed:
        return replace(found, converged=met)
    state.target = min(2 * state.target, state.total)
    _read_off_if_cheaper(operator, state)
    return None


def _error(trace: Estimate) -> float:
    """Standard error, or what the interval implies if that is larger; infinite if neither is known."""
    lower, upper = trace.interval.lower, trace.interval.upper
    if trace.standard_error is None or lower is None or upper is None:
        return math.inf
    return max(trace.standard_error, (upper - lower) / (2 * NORMAL_QUANTILE))


def _rounding(operator: SymmetricOperator, found: StochasticTrace) -> float:
    """Standard error that the products alone leave, whatever their number."""
    return operator.product_error * max(abs(found.trace.value), found.frobenius.value) / NORMAL_QUANTILE


def _read_off_if_cheaper(operator: SymmetricOperator, state: TraceState) -> None:
    """Switch to reading columns from P products on, which yields the exact trace."""
    allowed = state.tolerance is None or state.num_products + operator.dim <= state.total
    if state.target >= operator.dim and allowed:
        state.columns = ColumnSums(torch.zeros(operator.dim, dtype=torch.float64))


def _read_columns(operator: SymmetricOperator, columns: ColumnSums) -> int:
    dim, start = operator.dim, len(columns.lengths)
    count = min(PROBE_BLOCK, dim - start)
    rows = torch.zeros(count, dim, dtype=operator.dtype, device=operator.device)
    rows[:, start : start + count].fill_diagonal_(1)
    products = finite_products(operator, rows)
    columns.diagonal[start : start + count] = products[:, start : start + count].diagonal()
    columns.lengths += [norm(product) for product in products]
    return count


def _estimate(state: TraceState, product_error: float) -> StochasticTrace:
    """Estimate from all products so far."""
    sketch, count = state.sketch, state.num_products
    if state.columns is not None:
        return _exact(state.columns, count, product_error, state.diagonal)
    if state.estimator == "xtrace" and not sketch.exhausted:
        found = leave_one_out(sketch, state.vectors, state.products, state.diagonal, product_error)
        return StochasticTrace(found.trace, found.frobenius, found.diagonal, count, converged=True)
    frobenius = frobenius_of(sketch, state.probes, product_error)
    trace = trace_of(sketch, state.probes, frobenius.value, product_error)
    diagonal = diagonal_of(sketch, state.probes, product_error)
    return StochasticTrace(trace, frobenius, diagonal, count, converged=True)


def _exact(columns: ColumnSums, num_products: int, product_error: float, diagonal: bool) -> StochasticTrace:
    """Result from columns, which are known up to the error of the products, relative to their norms and to ||A||_F."""
    norm_value = math.hypot(*columns.lengths)
    value = math.fsum(columns.diagonal.tolist())
    frobenius = exact_estimate(norm_value, product_error * norm_value, floor=0.0)
    trace = exact_estimate(value, product_error * max(norm_value, abs(value)))
    lengths = torch.tensor(columns.lengths, dtype=torch.float64)
    entries = exact_diagonal(columns.diagonal, lengths, product_error) if diagonal else None
    return StochasticTrace(trace, frobenius, entries, num_products, converged=True)


def _random_rows(operator: SymmetricOperator, generator: torch.Generator, count: int) -> Tensor:
    """Independent unit vectors (count, P), uniform on the sphere."""
    rows = torch.empty(count, operator.dim, dtype=operator.dtype, device=operator.device)
    for row in rows:
        row.copy_(sphere_probe(operator.dim, generator))
    return rows
