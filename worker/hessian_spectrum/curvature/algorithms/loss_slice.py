"""The loss along one or two eigenvectors, on a grid."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import ClassVar

import numpy.typing as npt
import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.algorithms.ritz import Which
from hessian_spectrum.curvature.algorithms.subspace import SubspaceState
from hessian_spectrum.curvature.algorithms.thick_restart import ThickRestartLanczos
from hessian_spectrum.curvature.iteration import Count
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.planning.work import Work
from hessian_spectrum.quadrature.exceptions import NonFiniteError
from hessian_spectrum.quadrature.results import Interval


@dataclass(frozen=True)
class SlicePair:
    """The eigenvalue of a direction."""

    value: float
    residual: float
    converged: bool
    interval: Interval


@serializable()
@dataclass
class SliceState:
    """The search for directions and, once it has ended, the losses so far."""

    search: SubspaceState | None
    num_products: int = 0
    directions: Tensor | None = None  # (d, P) unit vectors in rows
    pairs: list[list[float | str | bool | None]] = field(default_factory=list)  # value, residual, converged, interval
    slopes: list[float] = field(default_factory=list)
    center: float = 0.0  # the loss at the parameters
    losses: list[float] = field(default_factory=list)  # at the first points of the grid


@dataclass(frozen=True, eq=False)
class LossSliceValues:
    """The loss on a grid along eigenvectors v_i: L(theta + sum_i a_i v_i)."""

    eigenpairs: tuple[SlicePair, ...]
    slopes: list[float]
    offsets: list[float]
    losses: list[float]
    quadratic_model: list[float]
    eigenvectors: npt.NDArray  # type: ignore[type-arg]  # (d, P)
    num_products: int


@dataclass(frozen=True)
class LossSlice(Method[SliceState, LossSliceValues]):
    """Evaluates the loss at theta + sum_i a_i v_i for eigenvectors v_i and all a_i of a grid from -radius to radius.

    Beside it stands the quadratic model L + sum_i (g^T v_i a_i + lambda_i a_i^2 / 2) with the gradient g.

    Args:
        num_directions: Number of eigenvectors, 1 or 2.
        which: Part of the spectrum from which they come, as for `ThickRestartLanczos`.
        radius: Largest |a_i|.
        num_points: Number of points along each direction.
        tolerance: Tolerance of the eigenvectors' residuals.
        max_products: Largest number of products of the search for them.

    Raises:
        NonFiniteError: If a product or a loss on the grid is NaN or infinite.
    """

    num_directions: int
    which: Which
    radius: float
    num_points: int
    tolerance: float
    max_products: int

    may_end_early: ClassVar[bool] = True

    @cached_property
    def _search(self) -> ThickRestartLanczos:
        return ThickRestartLanczos(self.num_directions, self.which, self.tolerance, max_products=self.max_products)

    @property
    def _offsets(self) -> list[float]:
        return torch.linspace(-self.radius, self.radius, self.num_points, dtype=torch.float64).tolist()

    @property
    def _grid(self) -> list[list[float]]:
        offsets = torch.tensor(self._offsets, dtype=torch.float64)
        return torch.cartesian_prod(*[offsets] * self.num_directions).reshape(-1, self.num_directions).tolist()

    def cost(self, num_parameters: int) -> Work:
        """Return the work of the search for the directions, and of the losses, which count as products."""
        search = self._search.cost(num_parameters)
        num_products = search.num_products + self.num_points**self.num_directions
        return replace(search, num_products=num_products, vectors=search.vectors + 4)

    def init(self, problem: SymmetricOperator, *, generator: torch.Generator) -> SliceState:
        """Return the state before the first product."""
        return SliceState(self._search.init(problem, generator=generator))

    def is_finished(self, state: SliceState) -> bool:
        """Return whether the loss is known at every point."""
        return state.search is None and len(state.losses) == self.num_points**self.num_directions

    def step(self, problem: SymmetricOperator, state: SliceState) -> SliceState:
        """Take a step of the search, or evaluate the loss at one point."""
        if state.search is not None:
            if not self._search.is_finished(state.search):
                state.search = self._search.step(problem, state.search)
                state.num_products = state.search.num_products
                return state
            return self._with_directions(problem, state.search)
        assert state.directions is not None
        offsets = self._grid[len(state.losses)]
        weights = torch.tensor(offsets, dtype=torch.float64).to(state.directions)
        loss = problem.loss_at(weights @ state.directions)
        if not isfinite(loss):
            raise NonFiniteError(f"the loss is {loss} at the offsets {offsets}: choose a smaller radius")
        state.losses.append(loss)
        return state

    def _with_directions(self, problem: SymmetricOperator, search: SubspaceState) -> SliceState:
        found = self._search.result(problem, search)
        rows = zip(found.eigenvalues, found.residuals, found.converged, found.intervals, strict=True)
        directions = torch.from_numpy(found.eigenvectors).to(dtype=problem.dtype, device=problem.device)
        center, slopes = problem.loss_and_slopes(directions)
        return SliceState(
            None,
            num_products=found.num_products,
            directions=directions,
            pairs=[[float(v), float(r), bool(c), i.lower, i.upper, i.why] for v, r, c, i in rows],
            slopes=slopes,
            center=center,
        )

    def count(self, state: SliceState) -> Count:
        """Return the number of products and losses computed, of the largest number."""
        total = self.max_products + self.num_points**self.num_directions
        return Count(min(state.num_products, self.max_products) + len(state.losses), total)

    def result(self, problem: SymmetricOperator, state: SliceState) -> LossSliceValues:
        """Return the losses with their quadratic model."""
        assert state.directions is not None
        pairs = tuple(
            SlicePair(value, residual, converged, Interval(lower, upper, why))  # type: ignore[arg-type]
            for value, residual, converged, lower, upper, why in state.pairs
        )
        model = [
            state.center + sum(s * a + p.value * a * a / 2 for s, a, p in zip(state.slopes, point, pairs, strict=True))
            for point in self._grid
        ]
        return LossSliceValues(
            eigenpairs=pairs,
            slopes=state.slopes,
            offsets=self._offsets,
            losses=state.losses,
            quadratic_model=model,
            eigenvectors=state.directions.cpu().numpy(),
            num_products=state.num_products,
        )


METHODS = {"slice": LossSlice}
