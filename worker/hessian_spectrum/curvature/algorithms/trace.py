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
    """What is kept of the columns of A, read one after the other."""

    diagonal: Tensor  # (P,) float64, on the CPU; as many set as there are lengths
    lengths: list[float] = field(default_factory=list)


@dataclass
class TraceState:
    """A run that stopped between two blocks of products; all that `advance_trace` needs to go on."""

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
    """Tr A with a 95 % interval that holds, by so many products or to a tolerance.

    "hutchinson" holds two vectors of length P for each of 16 probes; "hutch++" two for each of a third of the products
    as well, and wins where few eigenvalues are large; "xtrace" four for each of half of the products, and wins more.
    From P products on the trace is read off the columns of A, and exact but for the error of the products, which every
    stated error includes. Where a sketch spans all of the range that the precision of products resolves, the products
    that are left go to probes of its complement: what lies there is small and not zero.

    Args:
        generator: a CPU generator for the probes, which moves on.
        progress: told as "products" after each block.
        num_probes: products to spend, of whatever kind. xtrace needs 4, and spends an even number.
        tolerance: instead of num_probes; of the standard error, or of half the interval's width over 1.96, whichever is
            larger, relative to |tr A| or ||A||_F, whichever is larger: a trace may be zero. Products double until it is
            met, or the error of the products alone is larger.
        max_products: in search of a tolerance; None: 10,000.
        diagonal: whether to estimate the diagonal of A, too.
        continuation: a `TraceState` to go on from, and who keeps later ones.

    Raises:
        NonFiniteError: If a product holds NaN or infinity.
        InvalidProblemError: Unless one of num_probes and tolerance is given and positive, or if products are too few
            for the estimator.

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
    """State before the first product; arguments as of `trace_estimate`.

    Raises:
        InvalidProblemError: As `trace_estimate`.
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
    """One more block of products, in place, unless there is no further one to take.

    Returns:
        What was found, if that was the last one.

    Raises:
        NonFiniteError: If a product holds NaN or infinity.
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
    """Hutch++ spends a third of the products on a sketch and a third on its products, the rest on probes."""
    sketch = state.sketch
    return state.estimator == "hutch++" and len(sketch.basis) < state.target // 3 and not sketch.exhausted


def _deflate(operator: SymmetricOperator, state: TraceState) -> int:
    """Extend the sketch; probes of the larger complement before are of no use any more."""
    count = min(PROBE_BLOCK, state.target // 3 - len(state.sketch.basis))
    rows = _random_rows(operator, state.generator, count)
    extend_basis(operator, state.sketch, finite_products(operator, rows))
    state.probes = ComplementProbes.beside(state.sketch, state.diagonal)
    return count


def _extend_exchangeably(operator: SymmetricOperator, state: TraceState) -> int:
    """XTrace spends half of the products on random vectors, half on the basis of their products."""
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
    """Finish, or double the products: until the error is small enough, or more of them are of no use or not allowed."""
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
    """Standard error, or what the interval says of it if that is more; infinite where neither is known."""
    lower, upper = trace.interval.lower, trace.interval.upper
    if trace.standard_error is None or lower is None or upper is None:
        return math.inf
    return max(trace.standard_error, (upper - lower) / (2 * NORMAL_QUANTILE))


def _rounding(operator: SymmetricOperator, found: StochasticTrace) -> float:
    """Standard error that the products alone leave, however many they are."""
    return operator.product_error * max(abs(found.trace.value), found.frobenius.value) / NORMAL_QUANTILE


def _read_off_if_cheaper(operator: SymmetricOperator, state: TraceState) -> None:
    """From P products on the columns give the exact trace."""
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
    """From all products so far."""
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
    """Columns are known but for the error of the products, relative to their own norms and to ||A||_F."""
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
