"""Stochastic Lanczos quadrature: the spectrum of an operator from Lanczos runs with random probes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from hessian_spectrum.curvature.algorithms.lanczos import LanczosState, Tridiagonal, advance, start, tridiagonal
from hessian_spectrum.curvature.algorithms.memory import lockstep
from hessian_spectrum.curvature.algorithms.quadrature import extreme_ritz_values, gauss_quadrature, node_error
from hessian_spectrum.curvature.algorithms.vectors import gaussian_vector, sphere_probe
from hessian_spectrum.curvature.operators.base import SymmetricOperator
from hessian_spectrum.curvature.progress import FROM_THE_START, Continuation, Progress, ignore_progress
from hessian_spectrum.quadrature.cumulative import cumulative_spectrum
from hessian_spectrum.quadrature.density import (
    LOG_EPSILON,
    LOG_KAPPA,
    MARGIN,
    check_epsilon,
    check_smoothing,
    log_spectral_density,
    spectral_density,
)
from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.quadrature.moments import trace_and_frobenius
from hessian_spectrum.quadrature.results import LanczosSpectrum, Reorthogonalisation


@dataclass(frozen=True)
class Smoothing:
    """Settings of the curves that are computed from quadratures; see `spectral_density`."""

    num_points: int
    kappa: float
    margin: float = MARGIN
    log_kappa: float = LOG_KAPPA
    log_epsilon: float = LOG_EPSILON  # in units of A

    def check(self) -> None:
        """Check the settings.

        Raises:
            InvalidProblemError: If a curve cannot be computed with them.
        """
        check_smoothing(self.num_points, self.kappa, self.margin)
        check_smoothing(self.num_points, self.log_kappa, self.margin)
        check_epsilon(self.log_epsilon)


@dataclass
class LanczosSweep:
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
    def num_settled(self) -> int:
        """Number of products done so far, plus those that probes with an invariant subspace will not need."""
        under_way = self.current.step * len(self.current.num_done) if self.current is not None else 0
        return under_way + len(self.tridiagonals) * self.num_steps


def start_sweep(
    operator: SymmetricOperator,
    num_steps: int,
    num_probes: int,
    generator: torch.Generator,
    reorthogonalisation: Reorthogonalisation | None = None,
    memory_bytes: int | None = None,
) -> LanczosSweep:
    """Sweep before its first product.

    Args:
        operator: The matrix A.
        num_steps: Number of Lanczos steps per probe.
        num_probes: Number of probes.
        generator: CPU generator of the probes, which advances.
        reorthogonalisation: Whether the basis is kept; None keeps it if it fits for one probe.
        memory_bytes: Memory limit of the vectors; None for no limit.

    Returns:
        The sweep.

    Raises:
        InvalidProblemError: If num_steps or num_probes is below 1, or the memory does not suffice for one probe.
    """
    if min(num_steps, num_probes) < 1:
        raise InvalidProblemError(f"{num_steps} steps of {num_probes} probes: both must be at least 1")
    num_steps = min(num_steps, operator.dim)
    itemsize = operator.dtype.itemsize
    mode, group_size = lockstep(operator.dim, num_steps, num_probes, itemsize, reorthogonalisation, memory_bytes)
    return LanczosSweep(num_steps, num_probes, group_size, mode, generator)


def advance_sweep(operator: SymmetricOperator, sweep: LanczosSweep) -> None:
    """Compute one more `matmat`, in place, of an unfinished sweep."""
    if sweep.current is None:
        count = min(sweep.group_size, sweep.num_probes - len(sweep.tridiagonals))
        probes = (sphere_probe(operator.dim, sweep.generator) for _ in range(count))
        sweep.current = start(operator, probes, count, sweep.num_steps, sweep.reorthogonalisation)
    advance(operator, sweep.current)
    if sweep.current.finished:
        sweep.tridiagonals += [tridiagonal(sweep.current, probe) for probe in range(len(sweep.current.num_done))]
        # released before the next group starts: two bases at once would double the memory
        sweep.current = None


def lanczos_sweep(
    operator: SymmetricOperator,
    num_steps: int,
    probes: range,
    generator: torch.Generator,
    progress: Progress = ignore_progress,
    reorthogonalisation: Reorthogonalisation | None = None,
    memory_bytes: int | None = None,
    continuation: Continuation = FROM_THE_START,
) -> LanczosSweep:
    """Finished sweep of consecutive probes among those that a generator yields for `lanczos_spectrum`.

    Args:
        operator: The matrix A.
        num_steps: Number of Lanczos steps per probe.
        probes: Numbers of the probes; those before the first are drawn and discarded.
        generator: CPU generator of the probes, which advances.
        progress: Called with phase "products" after each `matmat`.
        reorthogonalisation: Whether the basis is kept; None keeps it if it fits for one probe.
        memory_bytes: Memory limit of the vectors; None for no limit.
        continuation: Provides a `LanczosSweep` to resume from, and receives later ones.

    Returns:
        The sweep.

    Raises:
        NonFiniteError: As for `lanczos_spectrum`.
        InvalidProblemError: As for `lanczos_spectrum`.
    """
    sweep: LanczosSweep | None = continuation.state
    if sweep is None:
        for _ in range(probes.start):
            gaussian_vector(operator.dim, generator)
        sweep = start_sweep(operator, num_steps, len(probes), generator, reorthogonalisation, memory_bytes)
    while not sweep.finished:
        advance_sweep(operator, sweep)
        progress("products", sweep.num_settled, sweep.num_steps * sweep.num_probes)
        continuation.offer(lambda: sweep)
    return sweep


def join_sweeps(sweeps: Sequence[LanczosSweep]) -> LanczosSweep:
    """Finished sweep of all their probes, in this order."""
    tridiagonals = [each for sweep in sweeps for each in sweep.tridiagonals]
    return replace(sweeps[-1], num_probes=len(tridiagonals), tridiagonals=tridiagonals)


def summarise_sweep(operator: SymmetricOperator, sweep: LanczosSweep, smoothing: Smoothing) -> LanczosSpectrum:
    """Curves, extremes and moments from the finished probes.

    Args:
        operator: The matrix A.
        sweep: Sweep whose finished probes are used.
        smoothing: Settings of the curves.

    Returns:
        The spectrum.

    Raises:
        InvalidProblemError: If no probe is finished, or as for `spectral_density`.
    """
    rounding, dim = torch.finfo(operator.dtype).eps, operator.dim
    num_points, margin = smoothing.num_points, smoothing.margin
    mode, error = sweep.reorthogonalisation, operator.product_error
    quadratures = tuple(gauss_quadrature(each, node_error(each, error, mode)) for each in sweep.tridiagonals)
    density = spectral_density(quadratures, dim, sweep.num_steps, num_points, smoothing.kappa, margin, rounding)
    log_density = log_spectral_density(
        quadratures, dim, sweep.num_steps, num_points, smoothing.log_kappa, margin, smoothing.log_epsilon, rounding
    )
    scales = [each.scale for each in sweep.tridiagonals]
    smallest, largest = extreme_ritz_values(quadratures, scales, error, sweep.reorthogonalisation, dim)
    trace, frobenius = trace_and_frobenius(quadratures, dim, error)
    return LanczosSpectrum(
        density=density,
        log_density=log_density,
        cumulative=cumulative_spectrum(quadratures, dim, num_points, margin, rounding),
        quadrature=quadratures,
        largest=largest,
        smallest=smallest,
        trace=trace,
        frobenius=frobenius,
        reorthogonalisation=sweep.reorthogonalisation,
        num_products=sweep.num_products,
    )


def lanczos_spectrum(
    operator: SymmetricOperator,
    num_steps: int,
    num_probes: int,
    num_points: int,
    kappa: float,
    generator: torch.Generator,
    progress: Progress = ignore_progress,
    margin: float = MARGIN,
    reorthogonalisation: Reorthogonalisation | None = None,
    memory_bytes: int | None = None,
    log_kappa: float = LOG_KAPPA,
    log_epsilon: float = LOG_EPSILON,
    continuation: Continuation = FROM_THE_START,
) -> LanczosSpectrum:
    """Stochastic Lanczos quadrature: num_probes runs of min(num_steps, P) steps, fewer if a subspace is invariant.

    As many probes as fit in `memory_bytes` advance in lockstep, with one `matmat` for a step of all of them; the result
    depends on that only up to rounding.

    Args:
        operator: The matrix A.
        num_steps: Number of Lanczos steps per probe.
        num_probes: Number of probes.
        num_points: Number of grid points, as for `spectral_density`.
        kappa: Sharpness of the density, as for `spectral_density`.
        generator: CPU generator of the probes, which advances.
        progress: Called with phase "products" after each `matmat`; a probe that stops early counts in full.
        margin: Extent of the grid, as for `spectral_density`.
        reorthogonalisation: "full" keeps a basis of num_steps + 1 vectors per probe; "none" keeps two vectors, at the
            price of ghosts: converged eigenvalues reappear as further nodes, which share the weight of the first, so
            that curves stay right but need more steps. None means "full" if that fits in `memory_bytes` for one probe.
        memory_bytes: Memory limit of the vectors of probes and their products; None for no limit.
        log_kappa: Sharpness of the log density.
        log_epsilon: Offset of the log density, in units of A.
        continuation: Provides a `LanczosSweep` to resume from, and receives later ones.

    Returns:
        The spectrum.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
        InvalidProblemError: If a count is below 1, kappa <= 1, or the memory does not suffice for one probe.

    References:
        Golub & Meurant, Matrices, Moments and Quadrature, 2010; Papyan, JMLR 21 (2020) 1-64.
    """
    smoothing = Smoothing(num_points, kappa, margin, log_kappa, log_epsilon)
    smoothing.check()  # before the products are spent
    limits = (reorthogonalisation, memory_bytes)
    sweep = lanczos_sweep(operator, num_steps, range(num_probes), generator, progress, *limits, continuation)
    return summarise_sweep(operator, sweep, smoothing)
