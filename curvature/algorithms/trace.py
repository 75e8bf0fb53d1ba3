"""Trace of an operator from products with random vectors, with Frobenius norm and diagonal from the same products."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from curvature.algorithms.hutchinson import ComplementProbes, add_probes, diagonal_of, frobenius_of, trace_of
from curvature.algorithms.sketch import PROBE_BLOCK, Sketch, extend_basis, finite_products, multiply_basis
from curvature.algorithms.vectors import norm, sphere_probe
from curvature.algorithms.xtrace import leave_one_out
from curvature.errors import InvalidProblemError
from curvature.operators.base import SymmetricOperator
from curvature.progress import Progress, ignore_progress
from curvature.results import DiagonalEstimate, Estimate, StochasticTrace

Estimator: TypeAlias = Literal["hutchinson", "hutch++", "xtrace"]

FIRST_ROUND = 24  # products before a tolerance is first looked at
DEFAULT_PRODUCTS = 10_000  # at most, in search of a tolerance


@dataclass
class _Run:
    """What the rounds of one estimate share."""

    operator: SymmetricOperator
    estimator: Estimator
    generator: torch.Generator
    progress: Progress
    total: int  # products at most
    diagonal: bool
    num_products: int = 0

    def spent(self, count: int) -> None:
        self.num_products += count
        self.progress("products", self.num_products, max(self.total, self.num_products))


def trace_estimate(
    operator: SymmetricOperator,
    estimator: Estimator,
    generator: torch.Generator,
    progress: Progress = ignore_progress,
    num_probes: int | None = None,
    tolerance: float | None = None,
    max_products: int | None = None,
    diagonal: bool = False,
) -> StochasticTrace:
    """tr A with a standard error that holds, by so many products or to a tolerance.

    "hutchinson" holds two vectors of length P for each of 16 probes; "hutch++" two for each of a third of the products
    as well, and wins where few eigenvalues are large; "xtrace" four for each of half of the products, and wins more.
    From P products on the trace is read off the columns of A and exact.

    Args:
        generator: a CPU generator for the probes, which moves on.
        progress: told as "products" after each block.
        num_probes: products to spend, of whatever kind. xtrace needs 4, and spends an even number.
        tolerance: instead of num_probes; of the standard error, relative to |tr A| or ||A||_F, whichever is larger: a
            trace may be zero. Products double until it is met.
        max_products: in search of a tolerance; None: 10,000.
        diagonal: whether to estimate the diagonal of A, too.
    Raises:  NonFiniteError if a product holds NaN or infinity; InvalidProblemError unless one of num_probes and
        tolerance is given and positive, or if products are too few for the estimator.
    Source:  Meyer, Musco, Musco & Woodruff, SOSA 2021, 142-155, for hutch++; Epperly, Tropp & Webber, SIAM J. Matrix
        Anal. Appl. 45 (2024) 1-23, for xtrace; Hutchinson, Commun. Stat. Simul. Comput. 19 (1990) 433-450, with probes
        on the sphere.
    """
    if (num_probes is None) == (tolerance is None):
        raise InvalidProblemError("a trace needs a number of probes or a tolerance, and not both")
    least = 4 if estimator == "xtrace" else 1
    most = num_probes if num_probes is not None else DEFAULT_PRODUCTS if max_products is None else max_products
    if most < least or (tolerance is not None and not 0 < tolerance < math.inf):
        raise InvalidProblemError(
            f"{most} products, tolerance {tolerance}: {estimator} needs at least {least} products"
        )
    run = _Run(operator, estimator, generator, progress, most, diagonal)
    if num_probes is not None:
        if num_probes >= operator.dim:
            return _exact(run)
        return (_Exchangeable(run) if estimator == "xtrace" else _Deflated(run)).up_to(num_probes)
    assert tolerance is not None
    return _to_tolerance(run, tolerance)


def _to_tolerance(run: _Run, tolerance: float) -> StochasticTrace:
    """Rounds of doubled size, until the error is small enough, products run out, or P of them give the exact trace."""
    rounds = _Exchangeable(run) if run.estimator == "xtrace" else _Deflated(run)
    target, dim = min(FIRST_ROUND, run.total), run.operator.dim
    while True:
        if target >= dim and run.num_products + dim <= run.total:
            return _exact(run)
        found = rounds.up_to(target)
        met = found.standard_error <= tolerance * max(abs(found.value), found.frobenius.value)
        if met or target >= run.total:
            return StochasticTrace(
                found.value, found.standard_error, run.num_products, met, found.frobenius, found.diagonal
            )
        target = min(2 * target, run.total)


class _Deflated:
    """Hutch++: a third of the products for a sketch, a third for its products, the rest for probes; or probes alone."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._sketch = Sketch.empty(run.operator)
        self._probes = ComplementProbes.beside(self._sketch, run.generator, run.diagonal)

    def up_to(self, num_products: int) -> StochasticTrace:
        """Estimate from as many products in all."""
        run = self._run
        if run.estimator == "hutch++":
            self._deflate(num_products // 3)
        while run.num_products < num_products and self._probes.dim > 0:
            count = min(PROBE_BLOCK, num_products - run.num_products)
            add_probes(run.operator, self._probes, count)
            run.spent(count)
        value, error = trace_of(self._probes)
        frobenius, diagonal = frobenius_of(self._probes), diagonal_of(self._probes)
        return StochasticTrace(value, error, run.num_products, True, frobenius, diagonal)

    def _deflate(self, size: int) -> None:
        """Extend the sketch; probes of the larger complement before are of no use any more."""
        run, sketch = self._run, self._sketch
        while len(sketch.basis) < size and not sketch.exhausted:
            count = min(PROBE_BLOCK, size - len(sketch.basis))
            extend_basis(run.operator, sketch, finite_products(run.operator, _random_rows(run, count)))
            run.spent(count)
            while len(sketch.products) < len(sketch.basis):
                run.spent(multiply_basis(run.operator, sketch))
            self._probes = ComplementProbes.beside(sketch, run.generator, run.diagonal)


class _Exchangeable:
    """XTrace: half of the products for random vectors, half for the basis of their products."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._sketch = Sketch.empty(run.operator)
        self._vectors = self._products = self._sketch.basis

    def up_to(self, num_products: int) -> StochasticTrace:
        """Estimate from as many products in all, one less if the number is odd."""
        run, sketch = self._run, self._sketch
        while len(self._vectors) < num_products // 2 and not sketch.exhausted:
            vectors = _random_rows(run, min(PROBE_BLOCK, num_products // 2 - len(self._vectors)))
            products = finite_products(run.operator, vectors)
            self._vectors = torch.cat([self._vectors, vectors])
            self._products = torch.cat([self._products, products])
            extend_basis(run.operator, sketch, products)
            run.spent(len(vectors))
            while len(sketch.products) < len(sketch.basis):
                run.spent(multiply_basis(run.operator, sketch))
        if sketch.exhausted:
            return self._whole_range()
        found = leave_one_out(sketch, self._vectors, self._products, run.diagonal)
        return StochasticTrace(found.trace, found.trace_error, run.num_products, True, found.frobenius, found.diagonal)

    def _whole_range(self) -> StochasticTrace:
        """Exact: the sketch spans the range of A, so that A = A Q Q^T."""
        sketch = self._sketch
        diagonal = None
        if self._run.diagonal:
            values = sketch.diagonal.cpu()
            diagonal = DiagonalEstimate(values.numpy(), torch.zeros_like(values).numpy())
        frobenius = Estimate(sketch.product_norm, 0.0)
        return StochasticTrace(sketch.trace, 0.0, self._run.num_products, True, frobenius, diagonal)


def _exact(run: _Run) -> StochasticTrace:
    """Read off the columns of A, block by block."""
    operator, dim = run.operator, run.operator.dim
    diagonal = torch.empty(dim, dtype=torch.float64)
    lengths: list[float] = []
    for start in range(0, dim, PROBE_BLOCK):
        count = min(PROBE_BLOCK, dim - start)
        rows = torch.zeros(count, dim, dtype=operator.dtype, device=operator.device)
        rows[:, start : start + count].fill_diagonal_(1)
        products = finite_products(operator, rows)
        diagonal[start : start + count] = products[:, start : start + count].diagonal()
        lengths += [norm(product) for product in products]
        run.spent(count)
    entries = DiagonalEstimate(diagonal.numpy(), torch.zeros_like(diagonal).numpy()) if run.diagonal else None
    frobenius = Estimate(math.hypot(*lengths), 0.0)
    return StochasticTrace(float(diagonal.sum()), 0.0, run.num_products, True, frobenius, entries)


def _random_rows(run: _Run, count: int) -> Tensor:
    """Independent unit vectors (count, P), uniform on the sphere."""
    operator = run.operator
    rows = torch.empty(count, operator.dim, dtype=operator.dtype, device=operator.device)
    for row in rows:
        row.copy_(sphere_probe(operator.dim, run.generator))
    return rows
