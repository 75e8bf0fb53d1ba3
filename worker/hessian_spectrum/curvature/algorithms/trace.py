"""Trace of an operator from products with random vectors, with Frobenius norm and diagonal from the same products."""

import math
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.hutchinson import (
    ComplementProbes,
    add_probes,
    diagonal_of,
    frobenius_of,
    trace_of,
)
from hessian_spectrum.curvature.algorithms.intervals import NORMAL_QUANTILE, exact_estimate
from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.algorithms.probe_sums import exact_diagonal
from hessian_spectrum.curvature.algorithms.sketch import (
    PROBE_BLOCK,
    Sketch,
    extend_basis,
    finite_products,
    multiply_basis,
)
from hessian_spectrum.curvature.algorithms.xtrace import leave_one_out
from hessian_spectrum.curvature.iteration import Count
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator, norm, sphere_probe
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.planning.work import Work, trace_work
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from hessian_spectrum.quadrature.results import DiagonalEstimate, Estimate, Interval, StochasticTrace

Estimator: TypeAlias = Literal["hutchinson", "hutch++", "xtrace"]

FIRST_ROUND = 24  # products before a tolerance is first looked at
DEFAULT_PRODUCTS = 10_000  # largest number of products if a tolerance decides

for _kind in (DiagonalEstimate, Estimate, Interval, StochasticTrace):  # types of the fields of finished states
    serializable()(_kind)


@serializable()
@dataclass
class ColumnSums:
    """Sums over the columns of A, which are read one after the other."""

    diagonal: Tensor  # (P,) float64, on the CPU; as many set as there are lengths
    lengths: list[float] = field(default_factory=list)


@serializable()
@dataclass(kw_only=True)
class TraceState:
    """A run between two blocks of products, with everything that a step needs to continue."""

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
    estimate: StochasticTrace | None = None  # once there is no further product to take


@dataclass(frozen=True)
class TraceEstimator(Method[TraceState, StochasticTrace]):
    """Trace tr A with a 95 % interval, from a number of products or to a tolerance.

    "hutchinson" keeps two vectors of length P for each of 16 probes. "hutch++" additionally keeps two for each of a
    third of the products, and is more accurate if few eigenvalues are large. "xtrace" keeps four for each of half of
    the products, and is more accurate still. From P products on the trace is read from the columns of A, and exact up
    to the error of the products, which every stated error includes. If a sketch spans the whole range that the
    precision of products resolves, the remaining products are spent on probes of its complement, which is small but not
    zero.

    Args:
        estimator: "hutchinson", "hutch++" or "xtrace".
        num_probes: Number of products of any kind. xtrace needs 4, and uses an even number.
        tolerance: Alternative to num_probes: the limit of the standard error, or half the interval's width over 1.96,
            whichever is larger, relative to |tr A| or ||A||_F, whichever is larger, as a trace may be zero. Products
            double until it is met, or the error of the products alone is larger.
        max_products: Largest number of products spent on a tolerance; None means 10,000.
        diagonal: Whether to estimate the diagonal of A, too.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
        InvalidProblemError: Unless exactly one of num_probes and tolerance is given and positive, or if products are
            too few for the estimator.

    References:
        Meyer, Musco, Musco & Woodruff, SOSA 2021, 142-155, for hutch++; Epperly, Tropp & Webber, SIAM J. Matrix Anal.
        Appl. 45 (2024) 1-23, for xtrace; Hutchinson, Commun. Stat. Simul. Comput. 19 (1990) 433-450, with probes on the
        sphere.
    """

    estimator: Estimator
    _: KW_ONLY
    num_probes: int | None = None
    tolerance: float | None = None
    max_products: int | None = None
    diagonal: bool = False

    may_end_early: ClassVar[bool] = True

    def cost(self, num_parameters: int) -> Work:
        """Return the work of the largest number of products that may be needed."""
        return trace_work(num_parameters, self.estimator, self._most_products, diagonal=self.diagonal)

    def init(self, problem: SymmetricOperator, *, generator: torch.Generator) -> TraceState:
        """Return the state before the first product."""
        most, tolerance = self._most_products, self.tolerance
        if (self.num_probes is None) == (tolerance is None):
            raise InvalidProblemError("a trace needs a number of probes or a tolerance, and not both")
        least = 4 if self.estimator == "xtrace" else 1
        if most < least or (tolerance is not None and not 0 < tolerance < math.inf):
            message = f"{most} products, tolerance {tolerance}: {self.estimator} needs at least {least} products"
            raise InvalidProblemError(message)
        sketch = Sketch.empty(problem)
        state = TraceState(
            estimator=self.estimator,
            generator=generator,
            diagonal=self.diagonal,
            tolerance=tolerance,
            total=most,
            target=most if tolerance is None else min(FIRST_ROUND, most),
            sketch=sketch,
            probes=ComplementProbes.beside(sketch, self.diagonal),
            vectors=sketch.basis,
            products=sketch.basis,
        )
        _read_off_if_cheaper(problem, state)
        return state

    @property
    def _most_products(self) -> int:
        if self.num_probes is not None:
            return self.num_probes
        return DEFAULT_PRODUCTS if self.max_products is None else self.max_products

    def is_finished(self, state: TraceState) -> bool:
        """Return whether the trace is known."""
        return state.estimate is not None

    def step(self, problem: SymmetricOperator, state: TraceState) -> TraceState:
        """Take one more block of products, in place."""
        if state.columns is not None:
            state.num_products += _read_columns(problem, state.columns)
        elif len(state.sketch.products) < len(state.sketch.basis):
            state.num_products += multiply_basis(problem, state.sketch)
        elif state.estimator == "xtrace" and not state.sketch.exhausted:
            state.num_products += _extend_exchangeably(problem, state)
        elif _sketch_is_small(state):
            state.num_products += _deflate(problem, state)
        else:
            count = min(PROBE_BLOCK, state.target - state.num_products)
            state.num_products += add_probes(
                problem, state.sketch, state.probes, generator=state.generator, count=count
            )
        while state.estimate is None and _round_is_done(problem, state):
            _decide(problem, state)
        return state

    def count(self, state: TraceState) -> Count:
        """Return the number of products done, of those that are allowed."""
        return Count(state.num_products, max(state.total, state.num_products))

    def result(self, problem: SymmetricOperator, state: TraceState) -> StochasticTrace:
        """Return the estimate.

        Raises:
            InvalidProblemError: If the state is not finished.
        """
        if state.estimate is None:
            raise InvalidProblemError(f"the trace is not known after {state.num_products} products")
        return state.estimate


def _sketch_is_small(state: TraceState) -> bool:
    """Return whether the sketch must grow: Hutch++ spends a third of the products on it and a third on its products."""
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


def _decide(operator: SymmetricOperator, state: TraceState) -> None:
    """Finish, or double the products until the error is small enough, or more of them are useless or not allowed."""
    estimate = _estimate(state, operator.product_error)
    if state.tolerance is None:
        state.estimate = estimate
        return
    allowed = state.tolerance * max(abs(estimate.trace.value), estimate.frobenius.value)
    met = bool(_error(estimate.trace) <= allowed)
    if met or state.columns is not None or state.target >= state.total or _rounding(operator, estimate) > allowed:
        state.estimate = replace(estimate, converged=met)
        return
    state.target = min(2 * state.target, state.total)
    _read_off_if_cheaper(operator, state)


def _error(trace: Estimate) -> float:
    """Return the standard error, or what the interval implies if that is larger; infinite if neither is known."""
    lower, upper = trace.interval.lower, trace.interval.upper
    if trace.standard_error is None or lower is None or upper is None:
        return math.inf
    return max(trace.standard_error, (upper - lower) / (2 * NORMAL_QUANTILE))


def _rounding(operator: SymmetricOperator, estimate: StochasticTrace) -> float:
    """Return the standard error that the products alone leave, whatever their number."""
    return operator.product_error * max(abs(estimate.trace.value), estimate.frobenius.value) / NORMAL_QUANTILE


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
        return _exact(state.columns, num_products=count, product_error=product_error, diagonal=state.diagonal)
    if state.estimator == "xtrace" and not sketch.exhausted:
        means = leave_one_out(
            sketch, state.vectors, state.products, diagonal=state.diagonal, product_error=product_error
        )
        return StochasticTrace(means.trace, means.frobenius, means.diagonal, count, converged=True)
    frobenius = frobenius_of(sketch, state.probes, product_error)
    trace = trace_of(sketch, state.probes, frobenius=frobenius.value, product_error=product_error)
    diagonal = diagonal_of(sketch, state.probes, product_error)
    return StochasticTrace(trace, frobenius, diagonal, count, converged=True)


def _exact(columns: ColumnSums, *, num_products: int, product_error: float, diagonal: bool) -> StochasticTrace:
    """Make the result from columns, known up to the error of products, relative to their norms and to ||A||_F."""
    norm_value = math.hypot(*columns.lengths)
    value = math.fsum(columns.diagonal.tolist())
    frobenius = exact_estimate(norm_value, product_error * norm_value, floor=0.0)
    trace = exact_estimate(value, product_error * max(norm_value, abs(value)))
    lengths = torch.tensor(columns.lengths, dtype=torch.float64)
    entries = exact_diagonal(columns.diagonal, lengths, product_error) if diagonal else None
    return StochasticTrace(trace, frobenius, entries, num_products, converged=True)


def _random_rows(operator: SymmetricOperator, generator: torch.Generator, count: int) -> Tensor:
    """Return independent unit vectors (count, P), uniform on the sphere."""
    rows = torch.empty(count, operator.dim, dtype=operator.dtype, device=operator.device)
    for row in rows:
        row.copy_(sphere_probe(operator.dim, generator))
    return rows


METHODS = {"trace": TraceEstimator}
