"""Critical points of many small networks: minima of the gradient's norm, or of the loss itself."""

from dataclasses import dataclass
from math import log
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian_spectrum.curvature.dynamics.single_hidden_layer import Networks, Point, descend, point
from hessian_spectrum.curvature.iteration import Count, Iteration
from hessian_spectrum.curvature.serialization import serializable

Objective = Literal["gradient-norm", "loss"]

ZERO_EIGENVALUE = 1e-8
"""Magnitude, relative to the largest eigenvalue, up to which an eigenvalue counts as zero in an index."""

_START_DAMPING = 1e-2
_DAMPING_LIMITS = (1e-14, 1e8)
_SUBSTANTIAL = 0.97
"""Factor by which the objective or the norm of the gradient must fall within the patience of a search."""

_LOSS_ROUNDING = 1e-14
"""Relative difference of losses up to which rounding decides which is smaller."""


@serializable()
@dataclass
class SearchState:
    """Results of the rounds that are finished, and the starts of the others."""

    parameters: Tensor  # (B, P) end points of finished searches, starts of the others
    descent_steps: Tensor  # (B,) steps of gradient descent before each search
    energy: Tensor  # (B,)
    gradient_norm: Tensor  # (B,)
    index: Tensor  # (B,)
    num_zeros: Tensor  # (B,)
    num_iterations: Tensor  # (B,)
    num_finished: int = 0


@dataclass(frozen=True)
class CriticalPoints:
    """End points of all starts; whether one is a critical point, the norm of its gradient tells.

    Attributes:
        energy: Loss per output, of shape (B,).
        gradient_norm: Norm of the gradient of the loss, of shape (B,).
        index: Share of negative eigenvalues, of shape (B,).
        num_zeros: Number of eigenvalues that are zero up to `ZERO_EIGENVALUE`, of shape (B,).
        num_iterations: Number of iterations of each search, of shape (B,).
        descent_steps: Number of steps of gradient descent before each search, of shape (B,).
        parameters: Parameters of shape (B, P).
    """

    energy: NDArray[np.float64]
    gradient_norm: NDArray[np.float64]
    index: NDArray[np.float64]
    num_zeros: NDArray[np.int64]
    num_iterations: NDArray[np.int64]
    descent_steps: NDArray[np.int64]
    parameters: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CriticalPointSearch(Iteration[Networks, SearchState, CriticalPoints]):
    """Searches a critical point from one random start of each network, many networks at once.

    A start is a Gaussian draw of the weights, followed by gradient descent of a number of steps that is log-uniform
    between 1 and `max_descent_steps`. From there, with gradient g and dense Hessian H,

        gradient-norm:  theta <- theta - (H^2 + mu I)^-1 H g     (Levenberg-Marquardt for |g|^2 / 2),
        loss:           theta <- theta - (|H| + mu I)^-1 g       (Newton's method with the moduli of the eigenvalues),

    where mu falls after steps that reduce the objective, and rises after others, which are not taken. Where rounding
    hides which of two losses is smaller, the norm of the gradient decides. A search ends at a gradient of norm
    `tolerance`, after `max_iterations`, or where neither the objective nor the norm of the gradient falls by 3 % in
    `patience` iterations. Most searches for small gradients end in the last way: they slow down near points where
    H g = 0 but g is not 0. These are no critical points, and only the norm of the gradient tells.

    Args:
        objective: What is minimised.
        initial_scale: Standard deviation of initial weights, times the root of the width.
        max_descent_steps: Largest number of steps of gradient descent before the search; 0 for none.
        learning_rate: Step size of that descent.
        tolerance: Norm of the gradient at which a search ends.
        max_iterations: Largest number of iterations.
        patience: Number of iterations without a substantial decrease after which a search ends.
        round_size: Number of starts that are searched at once, which is one step of the iteration.

    References:
        Pennington & Bahri, ICML 2017, minimise the norm of the gradient; the Lecture does not state how. Frye et al.,
        Numerically recovering the critical points of a deep linear autoencoder (2019), for the points with H g = 0.
    """

    phase: ClassVar[str] = "searches"

    objective: Objective = "gradient-norm"
    initial_scale: float = 1.0
    max_descent_steps: int = 1000
    learning_rate: float = 0.3
    tolerance: float = 1e-10
    max_iterations: int = 300
    patience: int = 12
    round_size: int = 32

    def init(self, problem: Networks, *, generator: torch.Generator) -> SearchState:
        """Return all starts before any descent."""
        count = problem.num_networks
        weights = torch.randn((count, problem.num_parameters), generator=generator, dtype=torch.float64)
        logarithms = torch.rand(count, generator=generator, dtype=torch.float64) * log(max(self.max_descent_steps, 1))
        steps = logarithms.exp().round().to(torch.int64) if self.max_descent_steps else torch.zeros(count).long()
        return SearchState(
            parameters=weights * (self.initial_scale / problem.width**0.5),
            descent_steps=steps,
            energy=torch.zeros(count, dtype=torch.float64),
            gradient_norm=torch.zeros(count, dtype=torch.float64),
            index=torch.zeros(count, dtype=torch.float64),
            num_zeros=torch.zeros(count, dtype=torch.int64),
            num_iterations=torch.zeros(count, dtype=torch.int64),
        )

    def is_finished(self, state: SearchState) -> bool:
        """Return whether all searches have ended."""
        return state.num_finished >= len(state.parameters)

    def step(self, problem: Networks, state: SearchState) -> SearchState:
        """Search one round of starts."""
        last = min(state.num_finished + self.round_size, len(state.parameters))
        here = torch.arange(state.num_finished, last)
        networks = problem.of(here)
        starts = descend(
            networks, state.parameters[here], learning_rate=self.learning_rate, num_steps=state.descent_steps[here]
        )
        parameters, iterations = self._search(networks, starts)
        end = point(networks, parameters)
        eigenvalues = torch.linalg.eigvalsh(end.hessian)
        zero = ZERO_EIGENVALUE * eigenvalues.abs().amax(1, keepdim=True)
        state.parameters[here] = parameters
        state.energy[here] = end.loss / problem.width
        state.gradient_norm[here] = end.gradient.norm(dim=1)
        state.index[here] = (eigenvalues < -zero).double().mean(1)
        state.num_zeros[here] = (eigenvalues.abs() <= zero).sum(1)
        state.num_iterations[here] = iterations
        state.num_finished = last
        return state

    def count(self, state: SearchState) -> Count:
        """Return the number of finished searches, of all."""
        return Count(state.num_finished, len(state.parameters))

    def result(self, problem: Networks, state: SearchState) -> CriticalPoints:
        """Return the end points."""
        return CriticalPoints(
            energy=state.energy.numpy(),
            gradient_norm=state.gradient_norm.numpy(),
            index=state.index.numpy(),
            num_zeros=state.num_zeros.numpy(),
            num_iterations=state.num_iterations.numpy(),
            descent_steps=state.descent_steps.numpy(),
            parameters=state.parameters.numpy(),
        )

    def _search(self, networks: Networks, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """End points (B, P) and numbers of iterations (B,) of one round."""
        ends, iterations = parameters.clone(), torch.zeros(len(parameters), dtype=torch.int64)
        live, here = torch.arange(len(parameters)), point(networks, parameters)
        damping = torch.full((len(live),), _START_DAMPING, dtype=torch.float64)
        best, waited = self._measures(here), torch.zeros(len(live), dtype=torch.int64)
        for _ in range(self.max_iterations):
            going = (here.gradient.norm(dim=1) > self.tolerance) & (waited < self.patience)
            if not going.all():
                live, damping, best, waited = live[going], damping[going], best[:, going], waited[going]
                here = Point(*(each[going] for each in here))
            if not len(live):
                break
            iterations[live] += 1
            step, is_solved = self._step(here, damping)
            there = point(networks.of(live), ends[live] + step)
            old, new = self._measures(here), self._measures(there)
            better = is_solved & self._is_better(new, old)
            ends[live[better]] += step[better]
            for kept, each in zip(here, there, strict=True):
                kept[better] = each[better]
            damping = torch.where(better, damping / 5, damping * 4).clamp(*_DAMPING_LIMITS)
            is_substantial = better & (new < _SUBSTANTIAL * best).any(0)
            best = torch.where(is_substantial, torch.minimum(new, best), best)
            waited = torch.where(is_substantial, 0, waited + 1)
        return ends, iterations

    def _measures(self, here: Point) -> Tensor:
        """What shall fall (1 or 2, B): the norm of the gradient, and the loss where it is the objective."""
        norm = here.gradient.norm(dim=1)
        return torch.stack([norm] if self.objective == "gradient-norm" else [norm, here.loss])

    def _is_better(self, new: Tensor, old: Tensor) -> Tensor:
        """Whether the objective falls (B,); of losses that are equal up to rounding, that with the smaller gradient."""
        falls = new < old
        is_equal = new[-1] <= old[-1] * (1 + _LOSS_ROUNDING)
        return falls[-1] | (is_equal & falls[0])

    def _step(self, here: Point, damping: Tensor) -> tuple[Tensor, Tensor]:
        """Step (B, P), and whether rounding left it defined (B,)."""
        gradient = here.gradient.unsqueeze(2)
        if self.objective == "loss":
            values, vectors = torch.linalg.eigh(here.hessian)
            components = (vectors.mT @ gradient) / (values.abs() + damping[:, None]).unsqueeze(2)
            return -(vectors @ components).squeeze(2), torch.ones(len(gradient), dtype=torch.bool)
        square = here.hessian @ here.hessian
        square.diagonal(dim1=1, dim2=2).add_(damping[:, None])
        # the square of a Hessian of low rank is indefinite up to rounding, where the damping is too small
        factor, status = torch.linalg.cholesky_ex(square)
        step = -torch.cholesky_solve(here.hessian @ gradient, factor).squeeze(2)
        is_solved = (status == 0) & step.isfinite().all(1)
        return torch.where(is_solved[:, None], step, 0.0), is_solved
