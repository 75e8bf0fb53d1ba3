"""Eigenpairs nearest to a value, inside the spectrum or outside, by thick-restart Lanczos on the folded matrix."""

import math
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.folded import FoldedOperator, FoldedState, unfold
from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.algorithms.shells import ends_within
from hessian_spectrum.curvature.algorithms.thick_restart import ThickRestartLanczos
from hessian_spectrum.curvature.algorithms.top_pairs import best_of_others, summarise_search
from hessian_spectrum.curvature.iteration import Count
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator, gaussian_vector, norm
from hessian_spectrum.planning.work import Work, top_k_work
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError
from hessian_spectrum.quadrature.results import Interval, NearestEigenpairs


@dataclass(frozen=True)
class NearestLanczos(Method[FoldedState, NearestEigenpairs]):
    """The k eigenpairs of A nearest to a target s, with their multiplicity, from products with A alone.

    The search is that for the smallest eigenvalues (l - s)^2 of the folded matrix (A - s)^2, with two products in each
    step. Its vectors may mix eigenvectors of s + d and s - d; k to 2 k products at the end take them apart
    (Rayleigh-Ritz of A) and measure the residuals. A pair has converged when its residual is within the tolerance, and
    when no eigenvalue was missed that is nearer by more than the tolerance, except with a probability of
    `MISS_PROBABILITY`.

    Folding squares distances: in a precision with the unit roundoff u, distances to s below about 10 sqrt(u) ||A - s||
    are all the same. Inside a dense part of the spectrum the search needs many products, and may end without
    convergence.

    Args:
        k: Number of eigenpairs.
        target: The value s, in units of A.
        tolerance: Tolerance relative to ||A - s||, as far as products have shown it.
        absolute_tolerance: Tolerance in units of A; a pair within either tolerance has converged.
        max_products: Largest number of products with A, at least 4 k + 1; None means 100 for each eigenpair, at least
            1,000.
        memory_bytes: Memory limit of the basis and its products, as of `ThickRestartLanczos`.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
        InvalidProblemError: If k is not in 1 .. P, products are fewer than 4 k + 1, or the memory does not suffice.

    References:
        Wang & Zunger, J. Chem. Phys. 100 (1994) 2394-2397, for the folded matrix.
    """

    k: int
    target: float
    tolerance: float
    _: KW_ONLY
    absolute_tolerance: float = 0.0
    max_products: int | None = None
    memory_bytes: int | None = None

    may_end_early: ClassVar[bool] = True

    @property
    def _limit(self) -> int:
        return max(1_000, 100 * self.k) if self.max_products is None else self.max_products

    @cached_property
    def _search(self) -> ThickRestartLanczos:
        """The search for the smallest eigenvalues of the folded matrix."""
        return ThickRestartLanczos(
            self.k,
            "smallest",
            self.tolerance,
            max_products=(self._limit - 1 - 2 * self.k) // 2,
            memory_bytes=self.memory_bytes,
        )

    def cost(self, num_parameters: int, *, rows: int | None = None, reduced: bool = False) -> Work:
        """Return the work with so many rows of a basis; None means the preferred number."""
        return top_k_work(num_parameters, self.k, self.max_products, rows=rows, reduced=reduced, folded=True)

    def init(self, problem: SymmetricOperator, *, generator: torch.Generator) -> FoldedState:
        """Return the state after the product that gives the folded matrix its unit."""
        if not math.isfinite(self.target) or not 0 <= self.absolute_tolerance < math.inf:
            message = f"invalid search for {self.target} with an absolute tolerance of {self.absolute_tolerance}"
            raise InvalidProblemError(message)
        if self._limit < 4 * self.k + 1:
            raise InvalidProblemError(f"{self._limit} products are fewer than 4 k + 1 for k = {self.k}")
        vector = gaussian_vector(problem.dim, generator).to(dtype=problem.dtype, device=problem.device)
        vector /= norm(vector)
        unit = norm(problem.matvec(vector).clone().sub_(vector, alpha=self.target))
        if not unit < math.inf:
            raise NonFiniteError("the first matrix-vector product holds NaN or infinity")
        unit = unit or 1.0
        state = self._search.init(FoldedOperator(problem, self.target, unit=unit), generator=generator)
        return FoldedState(**vars(state) | {"absolute_tolerance": self.absolute_tolerance / unit}, unit=unit)

    def is_finished(self, state: FoldedState) -> bool:
        """Return whether the search has ended."""
        return self._search.is_finished(state)

    def step(self, problem: SymmetricOperator, state: FoldedState) -> FoldedState:
        """Multiply one block by the folded matrix, in place, and decide how to continue."""
        self._search.step(FoldedOperator(problem, self.target, unit=state.unit), state)
        return state

    def count(self, state: FoldedState) -> Count:
        """Return the number of products with A done, of max_products."""
        return Count(1 + 2 * state.num_products, self._limit)

    def result(self, problem: SymmetricOperator, state: FoldedState) -> NearestEigenpairs:
        """Return the requested pairs; the basis is overwritten."""
        if state.num_processed < self.k:
            raise InvalidProblemError(f"{state.num_processed} steps are too few for {self.k} eigenpairs")
        unit, is_exhausted = state.unit, state.num_products >= state.budget
        tolerance = state.distance_tolerance * unit
        reach = math.sqrt(state.norm(state.pairs().values))  # ||A - s||, in the unit
        folded = FoldedOperator(problem, self.target, unit=unit)
        beyond = -best_of_others(folded, state)
        found = summarise_search(folded, state)
        state.basis = state.basis[:0].clone()  # its memory goes to the vectors that follow
        exact = problem.unreduced
        pairs = unfold(exact, found.eigenvectors, self.target, goal=0.9 * tolerance)
        error = exact.product_error * (reach * unit + abs(self.target))
        # of the folded products, beyond what their own bound contains
        folding = 2 * problem.product_error * abs(self.target) / unit * reach
        squares = [max((each or 0.0) - folding, 0.0) for each in (*(each.lower for each in found.intervals), beyond)]
        report = _Report(self.target, tolerance=tolerance, error=error, is_exhausted=is_exhausted)
        nearest = torch.tensor(squares, dtype=torch.float64).sqrt() * unit
        return replace(
            report.eigenpairs(pairs.values, pairs.residuals + error, nearest=nearest),
            eigenvectors=pairs.vectors.cpu().numpy(),
            num_products=1 + 2 * state.num_products + pairs.num_products,
        )


@dataclass(frozen=True)
class _Report:
    """What was found, and how it is judged; everything in units of A."""

    target: float
    _: KW_ONLY
    tolerance: float
    error: float  # of the values, caused by the products
    is_exhausted: bool  # no more products were allowed

    def eigenpairs(self, values: Tensor, residuals: Tensor, *, nearest: Tensor) -> NearestEigenpairs:
        """Return the pairs with intervals, without vectors.

        Args:
            values: Eigenvalues (k,), by their distance from the target.
            residuals: Their residuals (k,), with the error of the products.
            nearest: Lower bounds (k + 1,) of the distances of the k + 1 nearest eigenvalues; infinite where there is
                none.
        """
        distances = (values - self.target).abs()
        nearest = (nearest - self.error).clamp(min=0)
        lower = nearest[:-1].minimum(distances)
        # of the first i residuals: (T - s)^2 + R^T R bounds the i smallest eigenvalues of the folded matrix from above,
        # by the minimax principle
        norms = residuals.square().cumsum(dim=0).sqrt()
        shells = _Shells(self.target, inner=lower, outer=torch.hypot(distances, norms) + self.error)
        converged = (residuals <= self.tolerance) & (distances - lower <= self.tolerance)
        whys = [
            None if is_converged else self._why(residual)
            for residual, is_converged in zip(residuals.tolist(), converged.tolist(), strict=True)
        ]
        ends = shells.intervals(values, norms, beyond=nearest[1:])
        return NearestEigenpairs(
            eigenvalues=values.numpy(),
            residuals=residuals.numpy(),
            converged=converged.numpy(),
            intervals=tuple(Interval(*pair, why) for pair, why in zip(ends, whys, strict=True)),
            eigenvectors=values.numpy()[:, None],
            num_products=0,
            absolute_tolerance=self.tolerance,
        )

    def _why(self, residual: float) -> str:
        """Return the reason that a pair has not converged, in one sentence."""
        limit = ", and max_products are used up" if self.is_exhausted else ""
        if self.error > self.tolerance:
            return f"The error of the products, {self.error:.2g}, is above the tolerance, {self.tolerance:.2g}."
        if residual > self.tolerance:
            return f"The residual, {residual:.2g}, is above the tolerance, {self.tolerance:.2g}{limit}."
        return f"A nearer eigenvalue cannot be excluded{' with max_products' if self.is_exhausted else ''}."


@dataclass(frozen=True)
class _Shells:
    """Bounds on the distances |lambda_i - s| of the k nearest eigenvalues lambda_i, which say nothing of the side."""

    target: float
    _: KW_ONLY
    inner: Tensor  # (k,)
    outer: Tensor  # (k,)

    def intervals(self, values: Tensor, norms: Tensor, *, beyond: Tensor) -> list[tuple[float, float]]:
        """Return an interval of each lambda_i, on one side of the target where the other one is excluded.

        Near m Ritz values there are m eigenvalues, each at most ||R|| away from its own. If all of these are nearer
        than the eigenvalue m + 1 can be, they are lambda_1 .. lambda_m. Then lambda_i lies near one of the m values
        and within its shell.

        Args:
            values: Ritz values (k,), by their distance from the target.
            norms: Norms ||R|| (k,) of the residuals of the first m values together.
            beyond: Lower bounds (k,) of the distance of the eigenvalue m + 1.

        Returns:
            The ends of the intervals.

        References:
            Parlett, The Symmetric Eigenvalue Problem (1998), theorem 11.5.1.
        """
        offsets = values - self.target
        is_closed = (offsets.abs() + norms < beyond).tolist()
        found: list[tuple[float, float]] = []
        for index, (inner, outer) in enumerate(zip(self.inner.tolist(), self.outer.tolist(), strict=True)):
            last = next((m for m in range(index, len(values)) if is_closed[m]), None)
            low, high = -outer, outer
            if last is not None:
                distance, change = abs(float(offsets[index])), float(norms[last])
                shell = (max(inner, distance - change), min(outer, distance + change))
                near = offsets[: last + 1]
                low, high = ends_within(shell, starts=near - change, stops=near + change)
            found.append((self.target + low, self.target + high))
        return found


def top_k_search(*, which: str, target: float | None = None, **settings: Any) -> Method[Any, Any]:
    """Return the search for the eigenpairs of a request, at the ends of the spectrum or nearest to a target."""
    if which == "nearest":
        return NearestLanczos(target=target or 0.0, **settings)
    return ThickRestartLanczos(which=which, **settings)  # type: ignore[arg-type]


METHODS = {"top-k": top_k_search}
