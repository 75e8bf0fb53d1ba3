"""XTrace: every random vector serves in the sketch of all the others and as a probe of its complement."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.intervals import (
    Limits,
    combined_error,
    deviation_factor,
    root_estimate,
    small_dimension,
    sum_estimate,
    widened,
)
from hessian_spectrum.curvature.algorithms.probe_sums import PairSums, RowRegression, regression_estimate
from hessian_spectrum.curvature.algorithms.sketch import PROBE_BLOCK, Sketch
from hessian_spectrum.curvature.linear_algebra import dot, gram, norm, orthogonalise
from hessian_spectrum.quadrature.results import DiagonalEstimate, Estimate, FloatArray

# Factors by which errors exceed those by `_effective_count`: without them, worst-case intervals covered 92 to 94 %.
SHARED_SKETCH = 1.1
SHARED_ROWS = 1.2  # for diagonal entries


class ExchangeableEstimates(NamedTuple):
    """Means over the random vectors, each left out of the sketch in turn."""

    trace: Estimate
    frobenius: Estimate
    diagonal: DiagonalEstimate | None


class _Terms(NamedTuple):
    """Terms (n,) from each of n vectors, in units of the sketch's scale."""

    explained: FloatArray  # tr Q_i^T A Q_i
    missing: FloatArray  # ||A Q s_i||^2
    quadratic: FloatArray  # g_i^T A g_i
    length: FloatArray  # ||A g_i||
    spread: FloatArray  # ||A g_i - (g_i^T A g_i) g_i||^2 within the complement of Q_i
    spread_share: FloatArray  # part of `spread` along Q s_i
    length_share: FloatArray  # part of ||A g_i||^2 that comes from Q s_i


def leave_one_out(
    sketch: Sketch, vectors: Tensor, products: Tensor, *, diagonal: bool, product_error: float
) -> ExchangeableEstimates:
    """Return the trace tr A = mean of tr Q_i^T A Q_i + (P - n + 1) g_i^T A g_i; ||A||_F and diag A likewise.

    Q_i spans the products of all random vectors except the i-th, w_i, and g_i is the unit vector along w_i in the
    complement of Q_i. With Q of all products, Q_i Q_i^T = Q (I - s_i s_i^T) Q^T, where s_i is orthogonal to all columns
    of the triangle R except the i-th, that is, the normalised column i of R^-T.

    Args:
        sketch: Sketch of all n products, not exhausted, n >= 2.
        vectors: w_i, of shape (n, P), uniform on a sphere.
        products: A w_i, of shape (n, P).
        diagonal: Whether to estimate the diagonal, too.
        product_error: Error of the products, relative to ||A||_F, to the trace, and to the norms of rows.

    Returns:
        The estimates with their intervals.

    References:
        Epperly, Tropp & Webber, SIAM J. Matrix Anal. Appl. 45 (2024) 1-23, with normalised vectors (section 2.3), and
        XDiag there for the diagonal, whose terms a regression combines.
    """
    left_out = _left_out(sketch)
    overlaps = gram(sketch.basis, vectors)  # Q^T w_i in columns
    explained = sketch.trace
    pairs: PairSums | None = None
    rows = _Rows(sketch) if diagonal else None
    single_terms = []
    for start in range(0, len(vectors), PROBE_BLOCK):
        block = slice(start, start + PROBE_BLOCK)
        probes, residuals = vectors[block].clone(), products[block].clone()
        for index in range(len(probes)):
            s, overlap = left_out[:, start + index], overlaps[:, start + index]
            along = _complement(sketch, s, overlap=overlap, probe=probes[index], residual=residuals[index])
            single_terms.append(
                _term(sketch, explained, s=s, along=along, probe=probes[index], residual=residuals[index])
            )
            if rows is not None:
                rows.add(s, probes[index], residuals[index])
        pairs = pairs or PairSums(norm(residuals[0]) or sketch.scale)
        pairs.add(probes, residuals)
    assert pairs is not None
    terms = _Terms(*np.array(single_terms).T)
    alignment = (left_out.T @ left_out).square().numpy()
    frobenius = _frobenius(sketch, terms, alignment=alignment, pairs=pairs, product_error=product_error)
    trace, correlation = _trace(
        sketch, terms, alignment=alignment, frobenius=frobenius.value, product_error=product_error
    )
    return ExchangeableEstimates(trace, frobenius, rows.estimate(correlation, product_error) if rows else None)


def _left_out(sketch: Sketch) -> Tensor:
    """Return the vectors s_i in columns (n, n)."""
    # columns to unit length: the directions s_i stay, and the solution is as precise as R allows
    triangle = sketch.triangle / torch.linalg.vector_norm(sketch.triangle / sketch.scale, dim=0) / sketch.scale
    identity = torch.eye(len(triangle), dtype=torch.float64)
    left_out = torch.linalg.solve_triangular(triangle.T, identity, upper=False)
    directions: Tensor = left_out / torch.linalg.vector_norm(left_out, dim=0)
    return directions


def _complement(sketch: Sketch, s: Tensor, *, overlap: Tensor, probe: Tensor, residual: Tensor) -> float:
    """Turn w_i into g_i, and A w_i into A g_i, in place.

    Args:
        sketch: Sketch of all products.
        s: Direction s_i that is left out.
        overlap: Q^T w_i.
        probe: w_i, which becomes g_i.
        residual: A w_i, which becomes A g_i.

    Returns:
        s_i^T Q^T g_i.
    """
    along = float(s @ overlap)
    inside = (overlap - s * along).to(probe)
    probe.sub_(inside @ sketch.basis)
    residual.sub_(inside @ sketch.products)
    length = norm(probe)
    probe.div_(length)
    residual.div_(length)
    return along / length


def _term(
    sketch: Sketch, explained: float, *, s: Tensor, along: float, probe: Tensor, residual: Tensor
) -> tuple[float, ...]:
    """Return the terms of one vector, in the order of `_Terms`."""
    unit = sketch.scale
    missing = s.to(probe) @ sketch.products
    quadratic, length = dot(probe, residual) / unit, norm(residual) / unit
    outside = residual.clone()
    inside = orthogonalise(outside, sketch.basis).double().cpu()
    kept = float(s @ inside) / unit
    spread = max((norm(outside) / unit) ** 2 + kept**2 - quadratic**2, 0.0)
    lost = (norm(missing) / unit) ** 2
    return (
        (explained - dot(s.to(probe) @ sketch.basis, missing)) / unit,
        lost,
        quadratic,
        length,
        spread,
        _share((kept - quadratic * along) ** 2, spread),
        _share(along**2 * lost, length**2),
    )


def _share(part: float, whole: float) -> float:
    return min(part / whole, 1.0) if whole > 0 else 0.0


def _effective_count(sizes: FloatArray, shares: FloatArray, alignment: FloatArray) -> tuple[float, float]:
    """Return the numbers of independent terms equivalent to the n terms, for their variance and for their tails.

    Two terms depend on each other to the extent that they leave out the same direction, (s_i^T s_j)^2, and that their
    errors are along it. As many outliers of equal size as vectors are the extreme case: each term then errs by the
    direction that the others do not span, which is the same for all. A term much larger than the others dominates the
    sum.

    Args:
        sizes: Sizes of the errors, >= 0, of shape (n,).
        shares: Shares of their squares along the direction that is left out, of shape (n,).
        alignment: Squared overlaps of these directions, of shape (n, n).

    Returns:
        The numbers for the variance and for the tails.
    """
    correlation = alignment * np.sqrt(np.outer(shares, shares))
    np.fill_diagonal(correlation, 1.0)
    count = len(sizes) ** 2 / float(correlation.sum())
    common = float(sizes @ correlation @ sizes)
    return count, float(sizes.sum()) ** 2 / common if common > 0 else count


def _trace(
    sketch: Sketch, terms: _Terms, *, alignment: FloatArray, frobenius: float, product_error: float
) -> tuple[Estimate, float]:
    """Return the trace tr A, and the factor by which the error of the mean exceeds that of independent terms."""
    num_terms = len(terms.spread)
    dim = sketch.codimension + 1
    share = 2 / (dim + 2)
    variances = dim**2 * share / (1 - share) * terms.spread
    count, tail_count = _effective_count(np.sqrt(variances), terms.spread_share, alignment)
    error = math.sqrt(float(variances.mean()) / count) * sketch.scale
    value = float((terms.explained + dim * terms.quadratic).mean()) * sketch.scale
    degrees = max(tail_count / SHARED_SKETCH**2, 1.0)
    reach = deviation_factor(degrees) * small_dimension(dim) * SHARED_SKETCH * error
    rounding = product_error * max(frobenius, abs(value))
    interval = widened(value, Limits(value - reach, value + reach), rounding)
    return Estimate(value, combined_error(error, rounding), interval), math.sqrt(num_terms / count)


def _frobenius(
    sketch: Sketch, terms: _Terms, *, alignment: FloatArray, pairs: PairSums, product_error: float
) -> Estimate:
    """Return the norm ||A||_F, at least ||A Q||_F."""
    dim = sketch.codimension + 1
    count = max(min(_effective_count(terms.length, terms.length_share, alignment)) / SHARED_SKETCH**2, 1.0)
    unit = pairs.unit / sketch.scale
    root_square = pairs.root_square(terms.length / unit, dim)
    if root_square is not None:
        root_square *= unit**2
    rest = sum_estimate(
        dim * float((terms.length**2).mean()),
        root_square,
        degrees=count,
        freedom=(count - 1) * (count + 2) / 2,
        dim=dim,
    )
    whole = (sketch.product_norm / sketch.scale) ** 2
    square = rest.plus(whole - float(terms.missing.mean()))
    limits = Limits(max(square.limits.lower, whole), max(square.limits.upper, whole))
    value = max(square.value, 0.0)
    return root_estimate(square._replace(value=value, limits=limits), sketch.scale, product_error)


class _Rows:
    """Regression of A g_i on g_i, each with the explained diagonal A Q_i Q_i^T subtracted."""

    def __init__(self, sketch: Sketch) -> None:
        self._sketch = sketch
        self._regression = RowRegression.empty(sketch.basis)
        self._outside = (1 - sketch.row_shares).clamp(min=0)
        self._squares = torch.zeros_like(self._outside)  # sum of (A g)^2

    def add(self, s: Tensor, probe: Tensor, residual: Tensor) -> None:
        """Include one term.

        With N the projection on its complement, A_jj = (A Q Q^T)_jj - e_j + slope_j N_jj, where the slope is that of A
        g on g.

        Args:
            s: Direction that is left out.
            probe: g_i.
            residual: A g_i.
        """
        direction = (s.to(probe) @ self._sketch.basis).double()
        explained = direction * (s.to(probe) @ self._sketch.products).double() / self._sketch.scale  # e_j
        y = residual.double() / self._sketch.scale
        self._squares += y.square()
        x = probe.double() / direction.square_().add_(self._outside).clamp_(min=torch.finfo(torch.float64).tiny)
        self._regression.add(x, y - explained * x)

    def estimate(self, correlation: float, product_error: float) -> DiagonalEstimate:
        """Estimate of all entries."""
        sketch, dim = self._sketch, self._sketch.codimension + 1
        squares = sketch.row_squares(sketch.scale) + self._squares * (dim / self._regression.count)
        row_norms = squares.sqrt() * sketch.scale
        ones = torch.ones_like(row_norms)
        factor = correlation * SHARED_ROWS
        return regression_estimate(
            sketch.diagonal,
            self._regression,
            share=ones,
            row_norms=row_norms,
            unit=sketch.scale,
            product_error=product_error,
            correlation=factor,
        )
