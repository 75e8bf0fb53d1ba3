"""Stochastic Lanczos quadrature: a spectrum from the Lanczos runs of random probes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from hessian_spectrum.curvature.algorithms.lanczos import LanczosState, Tridiagonal, advance, start, tridiagonal
from hessian_spectrum.curvature.algorithms.memory import lockstep
from hessian_spectrum.curvature.algorithms.quadrature import extreme_ritz_values, gauss_quadrature, node_error
from hessian_spectrum.curvature.algorithms.vectors import gaussian_vector, sphere_probe
from hessian_spectrum.curvature.operators.base import SymmetricOperator
from hessian_spectrum.curvature.progress import FROM_THE_START, Continuation, Progress, ignore_progress
from hessian_spectrum.quadrature.curves import Smoothing, spectral_curves
from hessian_spectrum.quadrature.density import LOG_EPSILON, LOG_KAPPA, MARGIN
from hessian_spectrum.quadrature.errors import InvalidProblemError
from hessian_spectrum.quadrature.moments import trace_and_frobenius
from hessian_spectrum.quadrature.results import LanczosSpectrum, Reorthogonalisation


@dataclass
class LanczosSweep:
    """Lanczos from group after group of probes, stopped between two products; all that a checkpoint must hold."""

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
        """Products done so far."""
        under_way = sum(self.current.num_done) if self.current is not None else 0
        return under_way + sum(len(each.diagonal) for each in self.tridiagonals)

    @property
    def num_settled(self) -> int:
        """Products done so far, and those that probes of an invariant subspace will not need."""
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

    Raises:
        InvalidProblemError: If num_steps or num_probes is below 1, or the memory does not hold one probe.
    """
    if min(num_steps, num_probes) < 1:
        raise InvalidProblemError(f"{num_steps} steps of {num_probes} probes: both must be at least 1")
    num_steps = min(num_steps, operator.dim)
    itemsize = operator.dtype.itemsize
    mode, group_size = lockstep(operator.dim, num_steps, num_probes, itemsize, reorthogonalisation, memory_bytes)
    return LanczosSweep(num_steps, num_probes, group_size, mode, generator)


def advance_sweep(operator: SymmetricOperator, sweep: LanczosSweep) -> None:
    """One more `matmat`, in place; an unfinished sweep only."""
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
    """The finished sweep of consecutive ones among the probes that a generator gives, as of `lanczos_spectrum`.

    Args:
        probes: By their numbers; those before the first are drawn, and nothing else.

    Raises:
        NonFiniteError: As `lanczos_spectrum`.
        InvalidProblemError: As `lanczos_spectrum`.
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
    """The finished sweep of all their probes, in this order."""
    tridiagonals = [each for sweep in sweeps for each in sweep.tridiagonals]
    return replace(sweeps[-1], num_probes=len(tridiagonals), tridiagonals=tridiagonals)


def summarise_sweep(operator: SymmetricOperator, sweep: LanczosSweep, smoothing: Smoothing) -> LanczosSpectrum:
    """Curves, extremes and moments from the finished probes.

    Raises:
        InvalidProblemError: If no probe is finished, or as `spectral_density`.
    """
    rounding, dim = torch.finfo(operator.dtype).eps, operator.dim
    mode, error = sweep.reorthogonalisation, operator.product_error
    quadratures = tuple(gauss_quadrature(each, node_error(each, error, mode)) for each in sweep.tridiagonals)
    curves = spectral_curves(quadratures, smoothing, dim=dim, num_steps=sweep.num_steps, rounding=rounding)
    scales = [each.scale for each in sweep.tridiagonals]
    smallest, largest = extreme_ritz_values(quadratures, scales, error, sweep.reorthogonalisation, dim)
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
    """Stochastic Lanczos quadrature: num_probes runs of min(num_steps, P) steps, fewer where a subspace is invariant.

    As many probes as `memory_bytes` holds go in lockstep, one `matmat` for a step of them all; the result depends on
    that within rounding only.

    Args:
        num_points, kappa, margin: grid and sharpness of the density, see `spectral_density`.
        generator: a CPU generator for the probes, which moves on.
        progress: told as "products" after each `matmat`; a probe that stops early counts in full.
        reorthogonalisation: "full" keeps a basis of num_steps + 1 vectors per probe, "none" two vectors, at the price
            of ghosts: converged eigenvalues come back as further nodes, which share the weight of the first, so that
            curves stay right but need more steps. None: full if it fits `memory_bytes` for one probe.
        memory_bytes: of the vectors of probes and their products, at most; None: without limit.
        log_kappa, log_epsilon: sharpness and shift (in units of A) of the log density.
        continuation: a `LanczosSweep` to go on from, and who keeps later ones.

    Raises:
        NonFiniteError: If a product holds NaN or infinity.
        InvalidProblemError: On counts below 1, kappa <= 1, or memory that does not hold one probe.

    References:
        Golub & Meurant, Matrices, Moments and Quadrature, 2010; Papyan, JMLR 21 (2020) 1-64.
    """
    smoothing = Smoothing(num_points, kappa, margin, log_kappa, log_epsilon)
    smoothing.check()  # before the products are spent
    limits = (reorthogonalisation, memory_bytes)
    sweep = lanczos_sweep(operator, num_steps, range(num_probes), generator, progress, *limits, continuation)
    return summarise_sweep(operator, sweep, smoothing)
