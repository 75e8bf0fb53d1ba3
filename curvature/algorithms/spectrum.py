"""The two ways from an operator to its spectrum: exact, and stochastic Lanczos quadrature."""

from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor

from curvature.algorithms.density import spectral_density
from curvature.algorithms.lanczos import LanczosState, Tridiagonal, advance, start, tridiagonal
from curvature.algorithms.quadrature import extreme_ritz_values, gauss_quadrature
from curvature.algorithms.trace import trace_estimate
from curvature.errors import InvalidProblemError
from curvature.operators.base import SymmetricOperator
from curvature.operators.dense import assemble
from curvature.progress import Progress, ignore_progress
from curvature.results import ExactSpectrum, FloatArray, Inertia, LanczosSpectrum, Quadrature


@dataclass
class LanczosSweep:
    """Lanczos from one probe after the other, stopped between two products; all that a checkpoint must hold."""

    num_steps: int  # per probe, at most P
    num_probes: int
    generator: torch.Generator  # on the CPU; its state is that before the next probe is drawn
    tridiagonals: list[Tridiagonal] = field(default_factory=list)  # of the finished probes
    current: LanczosState | None = None  # of the probe under way

    @property
    def finished(self) -> bool:
        """Whether every probe is done."""
        return len(self.tridiagonals) == self.num_probes

    @property
    def num_products(self) -> int:
        """Products done so far."""
        under_way = self.current.num_done if self.current is not None else 0
        return under_way + sum(len(each.diagonal) for each in self.tridiagonals)


def start_sweep(
    operator: SymmetricOperator, num_steps: int, num_probes: int, generator: torch.Generator
) -> LanczosSweep:
    """Sweep before its first product.

    Raises:  InvalidProblemError if num_steps or num_probes is below 1.
    """
    if min(num_steps, num_probes) < 1:
        raise InvalidProblemError(f"{num_steps} steps of {num_probes} probes: both must be at least 1")
    return LanczosSweep(min(num_steps, operator.dim), num_probes, generator)


def advance_sweep(operator: SymmetricOperator, sweep: LanczosSweep) -> None:
    """One more product, in place; an unfinished sweep only."""
    if sweep.current is None:
        sweep.current = start(operator, sphere_probe(operator.dim, sweep.generator), sweep.num_steps)
    advance(operator, sweep.current)
    if sweep.current.finished:
        sweep.tridiagonals.append(tridiagonal(sweep.current))
        # released before the next probe starts: two bases at once would double the memory
        sweep.current = None


def sphere_probe(dim: int, generator: torch.Generator) -> Tensor:
    """Unit vector (dim,), float64, uniform on the sphere; the same for every device and precision.

    Args:  generator, a CPU generator, which moves on.
    """
    probe = torch.randn(dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(probe, dim=0)


def summarise_sweep(operator: SymmetricOperator, sweep: LanczosSweep, num_points: int, kappa: float) -> LanczosSpectrum:
    """Density, extremes and trace from the finished probes.

    Raises:  InvalidProblemError if no probe is finished, or as `spectral_density`.
    """
    rounding = torch.finfo(operator.dtype).eps
    quadratures = tuple(_quadrature(each) for each in sweep.tridiagonals)
    density = spectral_density(quadratures, sweep.num_steps, num_points, kappa, rounding=rounding)
    smallest, largest = extreme_ritz_values(sweep.tridiagonals, rounding)
    trace = trace_estimate([float(each.diagonal[0]) for each in sweep.tridiagonals], operator.dim)
    return LanczosSpectrum(density, quadratures, largest, smallest, trace, sweep.num_products)


def lanczos_spectrum(
    operator: SymmetricOperator,
    num_steps: int,
    num_probes: int,
    num_points: int,
    kappa: float,
    generator: torch.Generator,
    progress: Progress = ignore_progress,
) -> LanczosSpectrum:
    """Stochastic Lanczos quadrature: num_probes runs of min(num_steps, P) steps, fewer where a subspace is invariant.

    Args:
        num_points, kappa: grid and sharpness of the density, see `spectral_density`.
        generator: a CPU generator for the probes, which moves on.
        progress: told as "products" after each; a probe that stops early counts in full.
    Raises:  NonFiniteError if a product holds NaN or infinity; InvalidProblemError on counts below 1 or kappa <= 1.
    Source:  Golub & Meurant, Matrices, Moments and Quadrature, 2010; Papyan, JMLR 21 (2020) 1-64.
    """
    if kappa <= 1 or num_points < 2:  # before the products are spent
        raise InvalidProblemError("a density needs kappa > 1 and at least two grid points")
    sweep = start_sweep(operator, num_steps, num_probes, generator)
    total = sweep.num_steps * num_probes
    while not sweep.finished:
        advance_sweep(operator, sweep)
        under_way = sweep.current.num_done if sweep.current is not None else 0
        progress("products", len(sweep.tridiagonals) * sweep.num_steps + under_way, total)
    return summarise_sweep(operator, sweep, num_points, kappa)


def exact_spectrum(operator: SymmetricOperator, progress: Progress = ignore_progress) -> ExactSpectrum:
    """Every eigenvalue, from P products and a dense float64 eigenvalue problem on the operator's device.

    An eigenvalue counts as zero up to 10 sqrt(P) eps max |lambda|, eps the machine epsilon of the products: rounding
    errors of P terms add up like sqrt(P), and 10 is for those of the products themselves. (The usual rank threshold, P
    eps, would call a third of the positive eigenvalues of a small network in float32 zero.)

    Args:  progress, told as "products" after each block of columns, then once as "eigenvalues".
    Raises:  NonFiniteError if a product holds NaN or infinity.
    """
    eigenvalues = torch.linalg.eigvalsh(assemble(operator, progress))
    progress("eigenvalues", 1, 1)
    threshold = 10 * sqrt(operator.dim) * torch.finfo(operator.dtype).eps * float(eigenvalues.abs().max())
    negative = int((eigenvalues < -threshold).sum())
    positive = int((eigenvalues > threshold).sum())
    inertia = Inertia(negative, operator.dim - negative - positive, positive)
    return ExactSpectrum(_array(eigenvalues), inertia, threshold, operator.dim)


def _quadrature(matrix: Tridiagonal) -> Quadrature:
    nodes, weights = gauss_quadrature(matrix.diagonal, matrix.off_diagonal)
    return Quadrature(_array(nodes), _array(weights))


def _array(tensor: Tensor) -> FloatArray:
    return tensor.detach().to(device="cpu", dtype=torch.float64).numpy()
