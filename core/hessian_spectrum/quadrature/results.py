"""Results of the engine: frozen, on the CPU, in float64, and in loss per squared parameter unless stated otherwise."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]

Reorthogonalisation: TypeAlias = Literal["none", "full"]


@dataclass(frozen=True)
class Inertia:
    """Number of negative eigenvalues, of those that are zero up to rounding, and of positive ones; they sum to P."""

    negative: int
    zero: int
    positive: int


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval; an end that cannot be determined is None, for the reason in `why`."""

    lower: float | None
    upper: float | None
    why: str | None = None


UNKNOWN = Interval(None, None, "no interval was computed")


@dataclass(frozen=True)
class Estimate:
    """A stochastic estimate; the standard error is None if nothing is known about it."""

    value: float
    standard_error: float | None
    interval: Interval = UNKNOWN


@dataclass(frozen=True)
class RitzValue:
    """An approximate eigenvalue; some exact eigenvalue lies within `residual` of `value`."""

    value: float
    residual: float  # ||A y - value y|| for the unit Ritz vector y, errors of the products included
    interval: Interval = UNKNOWN  # of the requested eigenvalue


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Spectral measure of one probe v: v^T p(A) v = sum(weights * p(nodes)), which is all that smoothing needs.

    Without reorthogonalisation several nodes may represent one eigenvalue (ghosts); their weights sum to its own.
    """

    nodes: FloatArray  # (m,) ascending: Ritz values
    weights: FloatArray  # (m,) dimensionless, >= 0, sum 1
    # (m,) last component of each residual A y - node y, y^T v > 0; its size is the residual's norm. None: not known
    residuals: FloatArray | None = None
    node_error: float = 0.0  # in units of A: errors of the products move an eigenvalue by at most about this


@dataclass(frozen=True, eq=False)
class Deflation:
    """Eigenvalues that are counted as known, and how much of each there is in each of n probes."""

    eigenvalues: FloatArray  # (l,) in units of A, each counted once
    errors: FloatArray  # (l,) in units of A, of the eigenvalues
    weights: FloatArray  # (n, l): squared products of the unit probes with the unit eigenvectors

    @property
    def ends(self) -> tuple[FloatArray, FloatArray]:
        """Least and largest values (l,) within the errors."""
        return self.eigenvalues - self.errors, self.eigenvalues + self.errors


@dataclass(frozen=True, eq=False)
class Band:
    """Pointwise 95 % confidence band of the exact curve."""

    lower: FloatArray  # (num_points,)
    upper: FloatArray  # (num_points,)


@dataclass(frozen=True, eq=False)
class Density:
    """Smoothed spectral density p(lambda) = 1/P sum_i delta(lambda - lambda_i), or that of |lambda|."""

    grid: FloatArray  # (num_points,) ascending
    values: FloatArray  # (num_points,) per unit of eigenvalue, >= 0, integral about 1
    standard_error: FloatArray  # (num_points,) of the probes' mean, without the error of the quadrature
    band: Band  # with the errors of the quadrature and of the products


@dataclass(frozen=True, eq=False)
class Cumulative:
    """Share of eigenvalues up to each point of the grid, a step function without smoothing."""

    grid: FloatArray  # (num_points,) ascending
    values: FloatArray  # (num_points,) ascending, 0 .. 1
    standard_error: FloatArray  # (num_points,) of the probes' mean, without the error of the quadrature
    band: Band  # with the errors of the quadrature and of the products


@dataclass(frozen=True)
class RepeatedEigenvalue:
    """An eigenvalue that is known without computation."""

    value: float
    multiplicity: int


@dataclass(frozen=True, eq=False)
class ExactSpectrum:
    """Every eigenvalue of the dense matrix."""

    eigenvalues: FloatArray  # (P,) ascending; of a large matrix without the copies of `repeated`
    trace: Estimate
    inertia: Inertia
    zero_threshold: float  # |lambda| at most this counts as zero; each eigenvalue is known to within this
    num_products: int
    eigenvectors: FloatArray | None  # (P, P) unit vectors in rows, in the order of the eigenvalues
    residuals: FloatArray | None  # (P,) measured ||A x - eigenvalue x||, A the assembled matrix; with eigenvectors
    repeated: RepeatedEigenvalue | None = None  # not in `eigenvalues`


@dataclass(frozen=True, eq=False)
class LanczosSpectrum:
    """Results of stochastic Lanczos quadrature."""

    density: Density
    log_density: Density  # of |lambda| + epsilon, on a geometric grid
    cumulative: Cumulative
    quadrature: tuple[Quadrature, ...]  # one per probe
    largest: RitzValue
    smallest: RitzValue
    trace: Estimate
    frobenius: Estimate  # ||A||_F, not squared
    reorthogonalisation: Reorthogonalisation
    num_products: int
    deflation: Deflation | None = None


@dataclass(frozen=True, eq=False)
class TopEigenpairs:
    """Some eigenvalues from the ends of a spectrum, repeated according to their multiplicity."""

    # (k,) in order of preference: "smallest" ascending, "magnitude" by descending magnitude, otherwise descending
    eigenvalues: FloatArray
    residuals: FloatArray  # (k,) bound of ||A x - eigenvalue x||, the error of the products included
    # (k,) the residual is within the tolerance, and the value, too, of the requested eigenvalue
    converged: npt.NDArray[np.bool_]
    # (k,) of the requested eigenvalues, with the reason if one has not converged; of "magnitude" with both signs unless
    # one is excluded
    intervals: tuple[Interval, ...]
    eigenvectors: npt.NDArray[np.floating]  # (k, P) unit vectors in rows, in the precision of the products
    num_products: int


@dataclass(frozen=True, eq=False)
class NearestEigenpairs(TopEigenpairs):
    """The eigenvalues nearest to a value, by distance; their intervals have both sides of it unless one is excluded."""

    absolute_tolerance: float  # tolerance of residuals and distances that was applied, in units of A


@dataclass(frozen=True, eq=False)
class DiagonalEstimate:
    """Every diagonal entry of a matrix, with a 95 % interval for each."""

    values: FloatArray  # (P,)
    standard_error: FloatArray  # (P,)
    lower: FloatArray  # (P,)
    upper: FloatArray  # (P,)


@dataclass(frozen=True, eq=False)
class StochasticTrace:
    """Trace of a matrix from products with random vectors."""

    trace: Estimate
    frobenius: Estimate  # ||A||_F, not squared
    diagonal: DiagonalEstimate | None
    num_products: int
    converged: bool  # whether the tolerance, if any, is met
