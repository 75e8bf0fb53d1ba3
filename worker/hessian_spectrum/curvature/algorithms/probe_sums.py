"""Sums over random probes, from which diagonals and errors are estimated."""

import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.intervals import (
    NORMAL_QUANTILE,
    SINGLE_FACTOR,
    spread_factor,
    student_factor,
)
from hessian_spectrum.curvature.linear_algebra import gram
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.quadrature.results import DiagonalEstimate, FloatArray


@serializable()
@dataclass
class RowRegression:
    """y = slope x + noise for each row of a matrix, by least squares, one sample (x, y) after the other.

    For Gaussian g, (A g)_i = A_ii g_i + noise. The noise, which comes from the rest of the row, is normal and
    independent of g_i: the slope estimates A_ii with an error that follows Student's t, for every matrix.

    References:
        Bekas, Kokiopoulou & Saad, Appl. Numer. Math. 57 (2007) 1214-1229, for the slope.
    """

    slopes: Tensor  # (P,) float64
    weights: Tensor  # (P,) sum of x^2
    residuals: Tensor  # (P,) sum of (y - slope x)^2
    _: KW_ONLY
    count: int = 0

    @staticmethod
    def empty(rows: Tensor) -> "RowRegression":
        """Return a regression without samples, for vectors like the rows (n, P)."""
        zeros = rows.new_zeros(rows.shape[1], dtype=torch.float64)
        return RowRegression(zeros, zeros.clone(), zeros.clone())

    def add(self, x: Tensor, y: Tensor) -> None:
        """Update with one sample (P,) of each row; y is overwritten, as sums of squares alone would cancel."""
        total = (x.square() + self.weights).clamp_(min=torch.finfo(torch.float64).tiny)
        y.sub_(self.slopes * x)
        self.residuals += self.weights * y.square() / total
        self.slopes += y.mul_(x).div_(total)
        self.weights = total
        self.count += 1

    @property
    def mean_squares(self) -> Tensor:
        """Mean of y^2 (P,)."""
        return (self.residuals + self.slopes.square() * self.weights) / max(self.count, 1)

    @property
    def errors(self) -> Tensor:
        """Standard errors of the slopes (P,), from two samples or more."""
        return (self.residuals / (self.count - 1) / self.weights).sqrt()


def regression_estimate(
    known: Tensor,
    regression: RowRegression,
    *,
    share: Tensor,
    row_norms: Tensor,
    unit: float,
    product_error: float,
    correlation: float = 1.0,
) -> DiagonalEstimate:
    """Estimate diagonal entries from what is known and from slopes of two samples or more.

    Args:
        known: Known part of the diagonal, of shape (P,), in units of A.
        regression: Regression of the rest.
        share: Factors of shape (P,) by which slopes are multiplied.
        row_norms: Norms of the rows of A, of shape (P,); `product_error` is relative to them.
        unit: Unit of the slopes.
        product_error: Relative error of the products.
        correlation: Factor by which errors are larger because samples depend on each other.

    Returns:
        The estimate with its intervals.
    """
    freedom = regression.count - 1
    errors = regression.errors * share * (unit * correlation)
    values = known + regression.slopes * share * unit
    return _estimate(
        values,
        errors * spread_factor(freedom),
        centres=values,
        reach=errors * student_factor(freedom),
        rounding=row_norms * product_error,
    )


def single_estimate(
    known: Tensor,
    regression: RowRegression,
    *,
    share: Tensor,
    row_norms: Tensor,
    unit: float,
    product_error: float,
    dim: int,
) -> DiagonalEstimate:
    """Estimate diagonal entries from what is known and from one sample g, A g of a probe on the sphere of a subspace.

    The unknown part is (A N)_ii, at most the root of N_ii (A N A)_ii, and the sample's y is a normal number of variance
    (A N A)_ii / dim.

    Args:
        known: Known part of the diagonal, of shape (P,), in units of A.
        regression: Regression with one sample.
        share: Diagonal of the projection N on the subspace, of shape (P,).
        row_norms: Norms of the rows of A, of shape (P,); `product_error` is relative to them.
        unit: Unit of the slopes.
        product_error: Relative error of the products.
        dim: Dimension of the subspace.

    Returns:
        The estimate with its intervals.
    """
    y_squares = regression.mean_squares * dim
    change = regression.slopes * regression.weights * (dim * unit)
    reach = (y_squares * share).sqrt() * (unit * SINGLE_FACTOR)
    errors = (y_squares * share * unit**2 + change.square()).sqrt()
    return _estimate(
        known + change, errors * spread_factor(0), centres=known, reach=reach, rounding=row_norms * product_error
    )


def exact_diagonal(values: Tensor, row_norms: Tensor, product_error: float) -> DiagonalEstimate:
    """Return diagonal entries that are known up to the error of the products."""
    zeros = torch.zeros_like(values)
    return _estimate(values, zeros, centres=values, reach=zeros, rounding=row_norms * product_error)


def _estimate(values: Tensor, errors: Tensor, *, centres: Tensor, reach: Tensor, rounding: Tensor) -> DiagonalEstimate:
    lower = torch.minimum(centres - reach, values) - rounding
    upper = torch.maximum(centres + reach, values) + rounding
    parts = (values, torch.hypot(errors, rounding / NORMAL_QUANTILE), lower, upper)
    return DiagonalEstimate(*(part.cpu().numpy() for part in parts))


@serializable()
@dataclass
class PairSums:
    """Sums over pairs of probes g, h of one block, of y = (A g)^T (A h) / unit^2 - g^T h and x = g^T h.

    Probes are uniform on the unit sphere of a space of `dim` dimensions; B is the square of A within it.
    """

    unit: float  # ||A g|| of some probe: y is then not much larger than x, and small for a multiple of the identity
    _: KW_ONLY
    count: int = 0
    squares: float = 0.0  # y^2
    products: float = 0.0  # x y
    overlaps: float = 0.0  # x^2

    def add(self, probes: Tensor, products: Tensor) -> None:
        """Include all pairs of the probes (n, P), with their products with A."""
        first, second = torch.triu_indices(len(probes), len(probes), offset=1)
        overlaps = gram(probes, probes)[first, second]
        scaled = products / self.unit
        values = gram(scaled, scaled)[first, second] - overlaps
        self.count += len(overlaps)
        self.squares += float(values @ values)
        self.products += float(values @ overlaps)
        self.overlaps += float(overlaps @ overlaps)

    def root_square(self, lengths: FloatArray, dim: int) -> float | None:
        """Estimate, in units^2, of the root of tr B^2 - (tr B)^2 / dim.

        The matrix W = dim V^T B V of the probes V is compared with a multiple of V^T V: tr B^2 is the mean square of an
        off-diagonal entry, and half the mean square of a diagonal one.

        Args:
            lengths: ||A g|| of all probes, in units.
            dim: Dimension of the space of the probes.

        Returns:
            The estimate; None for a single probe.
        """
        if not self.freedom(len(lengths)):
            return None
        squares = lengths**2
        mean = float(squares.mean())
        shift = mean - 1
        beside = self.squares - 2 * shift * self.products + shift**2 * self.overlaps
        spread = max(beside, 0.0) + float(((squares - mean) ** 2).sum()) / 2
        return dim * math.sqrt(spread / self.freedom(len(lengths)))

    def freedom(self, num_probes: int) -> int:
        """Return the degrees of freedom of the estimate."""
        return self.count + num_probes - 1
