"""Trace, Frobenius norm and diagonal from random probes, after what a sketch of the range explains: Hutch++."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from curvature.algorithms.sketch import PROBE_BLOCK, Sketch, finite_products
from curvature.algorithms.vectors import dot, norm, orthogonalise, sphere_probe
from curvature.operators.base import SymmetricOperator
from curvature.results import DiagonalEstimate, Estimate, FloatArray

# 97.5 % quantile of Student's t over that of the normal distribution, by degrees of freedom; none counts as one.
STUDENT = (6.483, 6.483, 2.195, 1.624, 1.417, 1.312, 1.248, 1.206, 1.177, 1.154, 1.137)
STUDENT_SLOPE = 1.3  # of what is above 1, over one by degrees of freedom, beyond


@dataclass
class ComplementProbes:
    """Sums over probes g, uniform on the unit sphere of the complement of a sketch, of dimension P' = P - r."""

    product_sum: Tensor | None  # (P,) float64, sum of g o A g / unit; None: no diagonal is wanted
    square_sum: Tensor | None  # (P,) float64, sum of (A g)^2 / unit^2
    quadratic: list[float] = field(default_factory=list)  # g^T A g
    lengths: list[float] = field(default_factory=list)  # ||A g||
    inner_lengths: list[float] = field(default_factory=list)  # ||A g|| within the complement
    unit: float = 0.0  # of the two sums, in units of A: squares of the numbers themselves may overflow

    @staticmethod
    def beside(sketch: Sketch, diagonal: bool) -> "ComplementProbes":
        """No probe yet."""
        if not diagonal:
            return ComplementProbes(None, None)
        zeros = sketch.basis.new_zeros(sketch.basis.shape[1], dtype=torch.float64)
        return ComplementProbes(zeros, zeros.clone())


def add_probes(
    operator: SymmetricOperator, sketch: Sketch, probes: ComplementProbes, generator: torch.Generator, count: int
) -> int:
    """Multiply at most PROBE_BLOCK further probes, in place; a generator on the CPU, which moves on.

    Returns:  how many.
    Raises:  NonFiniteError if a product holds NaN or infinity.
    """
    rows = torch.empty(min(count, PROBE_BLOCK), operator.dim, dtype=operator.dtype, device=operator.device)
    for row in rows:
        row.copy_(sphere_probe(operator.dim, generator))
        orthogonalise(row, sketch.basis)
        row.div_(norm(row))
    for row, product in zip(rows, finite_products(operator, rows), strict=True):
        length = norm(product)
        probes.quadratic.append(dot(row, product))
        probes.lengths.append(length)
        if probes.product_sum is not None and probes.square_sum is not None:
            probes.unit = probes.unit or length or 1.0
            probes.product_sum += row.double() * (product.double() / probes.unit)
            probes.square_sum += (product.double() / probes.unit).square()
        inner = product.clone()
        orthogonalise(inner, sketch.basis)
        probes.inner_lengths.append(norm(inner))
    return len(rows)


def trace_of(sketch: Sketch, probes: ComplementProbes) -> tuple[float, float]:
    """tr A = tr Q^T A Q + P' E[g^T A g], and its standard error.

    The variance of one probe, 2 / (P' + 2) (<l^2> - <l>^2) over the eigenvalues l of A within the complement, is
    estimated from ||A g|| and g^T A g, and known for a single probe too.
    """
    explained = sketch.trace
    if not probes.quadratic:
        return explained, 0.0
    dim = sketch.codimension
    scale = max(probes.inner_lengths) or 1.0
    mean = float(np.mean(probes.quadratic)) / scale
    square = float(np.mean((np.array(probes.inner_lengths) / scale) ** 2))
    share = 2 / (len(probes.quadratic) * (dim + 2))
    error = dim * math.sqrt(share / (1 - share) * max(square - mean**2, 0)) * scale
    return explained + dim * mean * scale, error


def frobenius_of(sketch: Sketch, probes: ComplementProbes) -> Estimate:
    """||A||_F^2 = ||A Q||_F^2 + P' E[||A g||^2]; the error of the root, from the spread of the probes."""
    explained = sketch.product_norm
    if not probes.lengths:
        return Estimate(explained, 0.0)
    scale = max(*probes.lengths, explained) or 1.0
    squares = sketch.codimension * (np.array(probes.lengths) / scale) ** 2
    return root_estimate((explained / scale) ** 2 + squares, scale)


def spread_factor(count: int) -> float:
    """By how much to widen a standard error that the spread of `count` numbers gives.

    Then 1.96 of them hold 95 %, as Student's t with count - 1 degrees of freedom says.
    """
    degrees = count - 1
    return STUDENT[degrees] if degrees < len(STUDENT) else 1 + STUDENT_SLOPE / degrees


def root_estimate(squares: FloatArray, scale: float, factor: float = 1.0) -> Estimate:
    """Root of the mean of squares (n,), times scale, with its standard error, `factor` times as wide; None for one."""
    root = math.sqrt(float(squares.mean()))
    if len(squares) == 1:
        return Estimate(root * scale, None)
    spread = float(squares.std(ddof=1)) / math.sqrt(len(squares)) * spread_factor(len(squares)) * factor
    return Estimate(root * scale, spread / (2 * root) * scale if root > 0 else 0.0)


def diagonal_of(sketch: Sketch, probes: ComplementProbes) -> DiagonalEstimate | None:
    """diag A = diag(A Q Q^T) + P' E[g o A g].

    The variance of P' g_i (A g)_i is N_ii (A N A)_ii + (A N)_ii^2, N the projection on the complement, but for terms of
    relative size 1 / P'; the factors are estimated from the same products.
    """
    if probes.product_sum is None or probes.square_sum is None:
        return None
    explained = sketch.diagonal
    count, dim = len(probes.quadratic), sketch.codimension
    if count == 0:
        return DiagonalEstimate(explained.cpu().numpy(), torch.zeros_like(explained).cpu().numpy())
    rest = probes.product_sum * (dim / count)
    outside = (1 - sketch.row_shares).clamp(min=0)
    variance = (outside * probes.square_sum * (dim / count) + rest.square()) / count
    values = explained + rest * probes.unit
    errors = variance.sqrt() * (probes.unit * spread_factor(count))
    return DiagonalEstimate(values.cpu().numpy(), errors.cpu().numpy())
