"""Stochastic Lanczos quadrature: the spectrum of an operator from Lanczos runs with random probes."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import accumulate
from typing import Any, Self

import torch

from hessian_spectrum.curvature.algorithms.lanczos import LanczosState, Tridiagonal, advance, start, tridiagonal
from hessian_spectrum.curvature.algorithms.method import Method
from hessian_spectrum.curvature.algorithms.quadrature import extreme_ritz_values, gauss_quadrature, node_error
from hessian_spectrum.curvature.algorithms.vectors import gaussian_vector, sphere_probe
from hessian_spectrum.curvature.iteration import Count
from hessian_spectrum.curvature.operators.base import SymmetricOperator
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.planning.work import Work, lanczos_work, probe_bytes
from hessian_spectrum.quadrature.curves import Smoothing, spectral_curves
from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.quadrature.moments import trace_and_frobenius
from hessian_spectrum.quadrature.results import LanczosSpectrum, Reorthogonalisation


@serializable()
@dataclass
class SLQState:
    """Lanczos runs of one group of probes after the other, between two products; everything a checkpoint must store."""

    num_steps: int  # per probe, at most P
    num_probes: int
    group_size: int  # probes in lockstep
    reorthogonalisation: Reorthogonalisation
    generator: torch.Generator  # on the CPU; its state is that before the next group is drawn
    tridiagonals: list[Tridiagonal] = field(default_factory=list)  # of the finished groups
    current: LanczosState | None = None  # of the group under way

    @property
    def finished(self) -> bool:
        """Whether every probe is done."""
        return len(self.tridiagonals) == self.num_probes

    @property
    def num_products(self) -> int:
        """Number of products done so far."""
        under_way = sum(self.current.num_done) if self.current is not None else 0
        return under_way + sum(len(each.diagonal) for each in self.tridiagonals)

    @property
    def num_products_accounted(self) -> int:
        """Number of products done so far, plus those that probes with an invariant subspace will not need."""
        under_way = self.current.step * len(self.current.num_done) if self.current is not None else 0
        return under_way + len(self.tridiagonals) * self.num_steps


@dataclass(frozen=True)
class StochasticLanczosQuadrature(Method[SLQState, LanczosSpectrum]):
    """A spectral density from num_probes Lanczos runs of min(num_steps, P) steps with random probes.

    A run is shorter if its subspace is invariant. As many probes as fit in `memory_bytes` advance in lockstep, with one
    `matmat` for a step of all of them; the result depends on that only up to rounding.

    Args:
        num_steps: Number of Lanczos steps per probe.
        num_probes: Number of random start vectors.
        smoothing: Settings of the curves.
        reorthogonalisation: "full" keeps a basis of num_steps + 1 vectors per probe; "none" keeps two vectors, at the
            price of ghosts: converged eigenvalues reappear as further nodes, which share the weight of the first, so
            that curves stay right but need more steps. None means "full" if that fits in `memory_bytes` for one probe.
        memory_bytes: Memory limit of the vectors of probes and their products; None for no limit.
        num_probes_before: Number of probes that the generator yields first, which are drawn but belong to other shards.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
        InvalidProblemError: If a count is below 1, kappa <= 1, or the memory does not suffice for one probe.

    References:
        Golub & Meurant, Matrices, Moments and Quadrature, 2010; Papyan, JMLR 21 (2020) 1-64.
    """

    num_steps: int
    num_probes: int
    smoothing: Smoothing
    _: KW_ONLY
    reorthogonalisation: Reorthogonalisation | None = None
    memory_bytes: int | None = None
    num_probes_before: int = 0

    def cost(self, num_parameters: int, *, group: int | None = None) -> Work:
        """Return the work with `group` probes in lockstep; None means all."""
        mode = self.reorthogonalisation or "full"
        points = self.smoothing.num_points
        return lanczos_work(num_parameters, self.num_steps, self.num_probes, points, mode, group)

    def init(self, problem: SymmetricOperator, *, generator: torch.Generator) -> SLQState:
        """Return the state before the first product."""
        self.smoothing.check()  # before the products are spent
        if min(self.num_steps, self.num_probes) < 1:
            raise InvalidProblemError(f"{self.num_steps} steps of {self.num_probes} probes: both must be at least 1")
        for _ in range(self.num_probes_before):
            gaussian_vector(problem.dim, generator)
        num_steps = min(self.num_steps, problem.dim)
        mode, group_size = lockstep(
            problem.dim,
            num_steps,
            self.num_probes,
            itemsize=problem.dtype.itemsize,
            reorthogonalisation=self.reorthogonalisation,
            memory_bytes=self.memory_bytes,
        )
        return SLQState(num_steps, self.num_probes, group_size, mode, generator)

    def is_finished(self, state: SLQState) -> bool:
        """Return whether every probe is done."""
        return state.finished

    def step(self, problem: SymmetricOperator, state: SLQState) -> SLQState:
        """Take one Lanczos step of a group of probes, by one `matmat`."""
        if state.current is None:
            count = min(state.group_size, state.num_probes - len(state.tridiagonals))
            probes = (sphere_probe(problem.dim, state.generator) for _ in range(count))
            state.current = start(problem, probes, count, state.num_steps, state.reorthogonalisation)
        advance(problem, state.current)
        if state.current.finished:
            state.tridiagonals += [tridiagonal(state.current, probe) for probe in range(len(state.current.num_done))]
            # released before the next group starts: two bases at once would double the memory
            state.current = None
        return state

    def count(self, state: SLQState) -> Count:
        """Return the number of products accounted for; a probe that stops early counts in full."""
        return Count(state.num_products_accounted, state.num_steps * state.num_probes)

    def result(self, problem: SymmetricOperator, state: SLQState) -> LanczosSpectrum:
        """Return curves, extremes and moments from the finished probes."""
        return summarise_probes(problem, state, self.smoothing)

    def split(self, num_shards: int) -> Sequence[Self]:
        """Return methods for consecutive probes; the first shards have one more if the number is not divisible."""
        size, rest = divmod(self.num_probes, num_shards)
        if not 1 <= num_shards <= self.num_probes:
            raise InvalidProblemError(f"{self.num_probes} probes cannot be split into {num_shards} shards")
        counts = [size + (index < rest) for index in range(num_shards)]
        firsts = accumulate(counts, initial=self.num_probes_before)
        return [replace(self, num_probes=n, num_probes_before=first) for n, first in zip(counts, firsts, strict=False)]

    def join(self, states: Sequence[SLQState]) -> SLQState:
        """Return the finished state of all their probes, in this order."""
        tridiagonals = [each for state in states for each in state.tridiagonals]
        return replace(states[-1], num_probes=len(tridiagonals), tridiagonals=tridiagonals)


def summarise_probes(operator: SymmetricOperator, state: SLQState, smoothing: Smoothing) -> LanczosSpectrum:
    """Curves, extremes and moments from the finished probes.

    Args:
        operator: The matrix A.
        state: State whose finished probes are used.
        smoothing: Settings of the curves.

    Returns:
        The spectrum.

    Raises:
        InvalidProblemError: If no probe is finished, or as for `spectral_density`.
    """
    rounding, dim = torch.finfo(operator.dtype).eps, operator.dim
    mode, error = state.reorthogonalisation, operator.product_error
    quadratures = tuple(gauss_quadrature(each, node_error(each, error, mode)) for each in state.tridiagonals)
    curves = spectral_curves(quadratures, smoothing, dim=dim, num_steps=state.num_steps, rounding=rounding)
    scales = [each.scale for each in state.tridiagonals]
    smallest, largest = extreme_ritz_values(quadratures, scales, error, state.reorthogonalisation, dim)
    trace, frobenius = trace_and_frobenius(quadratures, dim, error)
    return LanczosSpectrum(
        density=curves.density,
        log_density=curves.log_density,
        cumulative=curves.cumulative,
        quadrature=quadratures,
        largest=largest,
        smallest=smallest,
        trace=trace,
        frobenius=frobenius,
        reorthogonalisation=state.reorthogonalisation,
        num_products=state.num_products,
    )


def lockstep(
    dim: int,
    num_steps: int,
    num_probes: int,
    *,
    itemsize: int,
    reorthogonalisation: Reorthogonalisation | None,
    memory_bytes: int | None,
) -> tuple[Reorthogonalisation, int]:
    """How Lanczos stays within `memory_bytes`.

    Args:
        dim: Number of parameters P.
        num_steps: Number of Lanczos steps.
        num_probes: Number of probes.
        itemsize: Bytes per number in the precision of the products.
        reorthogonalisation: Whether the basis is kept; None keeps it if it fits for one probe.
        memory_bytes: Memory limit; None for no limit.

    Returns:
        Reorthogonalisation, and number of probes in lockstep.

    Raises:
        InvalidProblemError: If a single probe does not fit.
    """
    if memory_bytes is None:
        return reorthogonalisation or "full", num_probes
    if reorthogonalisation is None:
        fits = probe_bytes(dim, num_steps, itemsize, "full") <= memory_bytes
        reorthogonalisation = "full" if fits else "none"
    needed = probe_bytes(dim, num_steps, itemsize, reorthogonalisation)
    if needed > memory_bytes:
        raise InvalidProblemError(
            f"a Lanczos probe with reorthogonalisation {reorthogonalisation!r} takes {needed} bytes, "
            f"and {memory_bytes} are allowed"
        )
    return reorthogonalisation, min(num_probes, memory_bytes // needed)


def _with_smoothing(*, num_points: int, kappa: float, margin: float, **settings: Any) -> StochasticLanczosQuadrature:
    return StochasticLanczosQuadrature(smoothing=Smoothing(num_points, kappa, margin), **settings)


METHODS = {"lanczos": _with_smoothing}
