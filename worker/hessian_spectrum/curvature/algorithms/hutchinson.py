"""Trace, Frobenius norm and diagonal from random probes of the complement of a sketch of the range: Hutch++."""

import math
from dataclasses import KW_ONLY, dataclass, field
from functools import partial

import numpy as np
import torch

from hessian_spectrum.curvature.algorithms.intervals import (
    Limits,
    combined_error,
    deviation_factor,
    exact_estimate,
    root_estimate,
    small_dimension,
    sum_estimate,
    widened,
)
from hessian_spectrum.curvature.algorithms.probe_sums import (
    PairSums,
    RowRegression,
    exact_diagonal,
    regression_estimate,
    single_estimate,
)
from hessian_spectrum.curvature.algorithms.sketch import PROBE_BLOCK, Sketch, finite_products
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator, dot, norm, orthogonalise, sphere_probe
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.quadrature.results import DiagonalEstimate, Estimate


@serializable()
@dataclass
class ComplementProbes:
    """Sums over probes g, uniform on the unit sphere of the complement of a sketch, of dimension P' = P - r."""

    regression: RowRegression | None  # regression of A g / unit on g; None if no diagonal is requested
    _: KW_ONLY
    quadratic: list[float] = field(default_factory=list)  # g^T A g
    lengths: list[float] = field(default_factory=list)  # ||A g||
    inner_lengths: list[float] = field(default_factory=list)  # ||A g|| within the complement
    pairs: PairSums | None = None  # once there is a product that is not zero

    @property
    def unit(self) -> float:
        """Unit of the sums, in units of A."""
        return self.pairs.unit if self.pairs is not None else 1.0

    @staticmethod
    def beside(sketch: Sketch, diagonal: bool) -> "ComplementProbes":
        """Sums without a probe, for a sketch."""
        return ComplementProbes(RowRegression.empty(sketch.basis) if diagonal else None)


def add_probes(
    operator: SymmetricOperator, sketch: Sketch, probes: ComplementProbes, *, generator: torch.Generator, count: int
) -> int:
    """Multiply at most PROBE_BLOCK further probes, in place.

    Args:
        operator: The matrix A.
        sketch: Sketch whose complement is probed.
        probes: Sums that are updated.
        generator: CPU generator, which advances.
        count: Number of probes requested.

    Returns:
        Number of probes that were multiplied.

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
    """
    rows = torch.empty(min(count, PROBE_BLOCK), operator.dim, dtype=operator.dtype, device=operator.device)
    for row in rows:
        row.copy_(sphere_probe(operator.dim, generator))
        orthogonalise(row, sketch.basis)
        row.div_(norm(row))
    products = finite_products(operator, rows)
    lengths = [norm(product) for product in products]
    probes.lengths += lengths
    # squares of the numbers themselves may overflow
    probes.pairs = probes.pairs or PairSums(next((length for length in lengths if length > 0), 1.0))
    probes.pairs.add(rows, products)
    for row, product in zip(rows, products, strict=True):
        probes.quadratic.append(dot(row, product))
        if probes.regression is not None:
            probes.regression.add(row.double(), product.double() / probes.unit)
        inner = product.clone()
        orthogonalise(inner, sketch.basis)
        probes.inner_lengths.append(norm(inner))
    return len(rows)


def trace_of(sketch: Sketch, probes: ComplementProbes, *, frobenius: float, product_error: float) -> Estimate:
    """Return the trace tr A = tr Q^T A Q + P' E[g^T A g].

    The variance of one probe, 2 / (P' + 2) `(<l^2> - <l>^2)` over the eigenvalues l of A within the complement, is
    estimated from ||A g|| and g^T A g, and is known for a single probe too.

    Args:
        sketch: Sketch with its products.
        probes: Sums over probes of the complement.
        frobenius: Estimate of ||A||_F.
        product_error: Error of the products, relative to ||A||_F and to the trace.

    Returns:
        The trace with its interval, in units of A.
    """
    explained, dim, count = sketch.trace, sketch.codimension, len(probes.quadratic)
    if not count:
        return exact_estimate(explained, product_error * max(frobenius, abs(explained)))
    scale = max(probes.inner_lengths) or 1.0
    mean = float(np.mean(probes.quadratic)) / scale
    square = float(np.mean((np.array(probes.inner_lengths) / scale) ** 2))
    share = 2 / (count * (dim + 2))
    error = dim * math.sqrt(share / (1 - share) * max(square - mean**2, 0)) * scale
    value = explained + dim * mean * scale
    reach = deviation_factor(count) * small_dimension(dim) * error
    rounding = product_error * max(frobenius, abs(value))
    interval = widened(value, Limits(value - reach, value + reach), rounding)
    return Estimate(value, combined_error(error, rounding), interval)


def frobenius_of(sketch: Sketch, probes: ComplementProbes, product_error: float) -> Estimate:
    """Frobenius norm from ||A||_F^2 = ||A Q||_F^2 + P' E[||A g||^2].

    The variance of one probe, 2 P' / (P' + 2) (tr B^2 - (tr B)^2 / P'), where B is the square of A within the
    complement, is estimated from pairs of probes; a single probe does not determine it.

    Args:
        sketch: Sketch with its products.
        probes: Sums over probes of the complement.
        product_error: Error of the products, relative to ||A||_F.

    Returns:
        The norm with its interval, in units of A.
    """
    explained, dim, count = sketch.product_norm, sketch.codimension, len(probes.lengths)
    if probes.pairs is None:
        return exact_estimate(explained, product_error * explained, floor=0.0)
    lengths = np.array(probes.lengths) / probes.unit
    root_square, freedom = probes.pairs.root_square(lengths, dim), probes.pairs.freedom(count)
    rest = sum_estimate(dim * float((lengths**2).mean()), root_square, degrees=count, freedom=freedom, dim=dim)
    unit = max(probes.unit, explained)
    square = rest.times((probes.unit / unit) ** 2).plus((explained / unit) ** 2)
    return root_estimate(square, unit, product_error)


def diagonal_of(sketch: Sketch, probes: ComplementProbes, product_error: float) -> DiagonalEstimate | None:
    """Return the diagonal diag A = diag(A Q Q^T) + diag(A N), where N is the projection on the complement.

    The second part comes from the regression of A g on g, times N_ii.

    Args:
        sketch: Sketch with its products.
        probes: Sums over probes of the complement.
        product_error: Error of the products, relative to the norms of rows.

    Returns:
        The diagonal with its intervals; None if no regression was made.
    """
    if probes.regression is None:
        return None
    regression, dim, count = probes.regression, sketch.codimension, len(probes.quadratic)
    unit = max(probes.unit, sketch.scale) or 1.0
    squares = sketch.row_squares(unit) + regression.mean_squares * (dim * (probes.unit / unit) ** 2)
    row_norms = squares.sqrt() * unit
    if not count:
        return exact_diagonal(sketch.diagonal, row_norms, product_error)
    estimate = partial(single_estimate, dim=dim) if count == 1 else regression_estimate
    return estimate(
        sketch.diagonal,
        regression,
        share=(1 - sketch.row_shares).clamp(min=0),
        row_norms=row_norms,
        unit=probes.unit,
        product_error=product_error,
    )
