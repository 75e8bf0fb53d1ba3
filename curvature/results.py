"""What the engine answers with: frozen, on the CPU, in float64, in loss per squared parameter unless stated."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Inertia:
    """How many eigenvalues are negative, zero within rounding, and positive; the three sum to P."""

    negative: int
    zero: int
    positive: int


@dataclass(frozen=True)
class Estimate:
    """A stochastic estimate; the standard error is None when one sample alone was drawn."""

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class RitzValue:
    """An approximate eigenvalue; some true eigenvalue lies within `residual` of `value`."""

    value: float
    residual: float  # ||A y - value y|| for the unit Ritz vector y, rounding of the products included


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Spectral measure of one probe v: v^T p(A) v = sum(weights * p(nodes))."""

    nodes: FloatArray  # (m,) ascending
    weights: FloatArray  # (m,) dimensionless, >= 0, sum 1


@dataclass(frozen=True, eq=False)
class Density:
    """Smoothed spectral density p(lambda) = 1/P sum_i delta(lambda - lambda_i)."""

    grid: FloatArray  # (num_points,) ascending, equidistant
    values: FloatArray  # (num_points,) per unit of eigenvalue, >= 0, integral about 1
    standard_error: FloatArray | None  # (num_points,) across probes, None for a single probe


@dataclass(frozen=True, eq=False)
class ExactSpectrum:
    """Every eigenvalue of the dense matrix."""

    eigenvalues: FloatArray  # (P,) ascending
    inertia: Inertia
    zero_threshold: float  # |lambda| at most this counts as zero
    num_products: int


@dataclass(frozen=True, eq=False)
class LanczosSpectrum:
    """What stochastic Lanczos quadrature knows about a spectrum."""

    density: Density
    quadrature: tuple[Quadrature, ...]  # one per probe
    largest: RitzValue
    smallest: RitzValue
    trace: Estimate
    num_products: int
