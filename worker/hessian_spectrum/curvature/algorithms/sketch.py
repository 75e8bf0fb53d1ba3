"""An orthonormal basis of (part of) the range of an operator, with its products."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.lanczos import BREAKDOWN_ROUNDINGS
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator, dot, gram, norm, orthogonalise
from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.quadrature.exceptions import NonFiniteError

PROBE_BLOCK = 16  # vectors multiplied at once


@serializable()
@dataclass(kw_only=True)
class Sketch:
    """Rows Q (r, P), orthonormal, in the span of A applied to random vectors, and A Q."""

    basis: Tensor  # (r, P), in the operator's precision
    products: Tensor  # (r, P)
    triangle: Tensor  # (r, n) float64, on the CPU: product j of the n random vectors is sum_i triangle[i, j] Q_i
    scale: float  # largest ||A v|| seen
    exhausted: bool  # a product lay in the span of those before, within rounding; what lies below that is not known

    @staticmethod
    def empty(operator: SymmetricOperator) -> "Sketch":
        """Return a sketch of rank r = 0."""
        rows = torch.empty(0, operator.dim, dtype=operator.dtype, device=operator.device)
        return Sketch(
            basis=rows, products=rows, triangle=torch.zeros(0, 0, dtype=torch.float64), scale=0.0, exhausted=False
        )

    @property
    def codimension(self) -> int:
        """Dimension P - r of the complement of the basis."""
        return self.basis.shape[1] - len(self.basis)

    @property
    def trace(self) -> float:
        """Trace tr Q^T A Q, in units of A."""
        return sum(dot(row, product) for row, product in zip(self.basis, self.products, strict=True))

    @property
    def product_norm(self) -> float:
        """Norm ||A Q||_F, in units of A."""
        return math.hypot(*(norm(product) for product in self.products), 0.0)

    @property
    def diagonal(self) -> Tensor:
        """diag(A Q Q^T) (P,), float64, in units of A."""
        total = torch.zeros(self.basis.shape[1], dtype=torch.float64, device=self.basis.device)
        for row, product in zip(self.basis, self.products, strict=True):
            total += row.double() * product.double()
        return total

    @property
    def row_shares(self) -> Tensor:
        """diag(Q Q^T) (P,), float64, within 0 .. 1."""
        total = torch.zeros(self.basis.shape[1], dtype=torch.float64, device=self.basis.device)
        for row in self.basis:
            total += row.double().square()
        return total

    def row_squares(self, unit: float) -> Tensor:
        """diag(A Q Q^T A) (P,), float64, in units^2."""
        total = torch.zeros(self.basis.shape[1], dtype=torch.float64, device=self.basis.device)
        for product in self.products:
            total += (product.double() / unit).square()
        return total

    @property
    def projected(self) -> Tensor:
        """Q^T A Q (r, r), float64, on the CPU."""
        return gram(self.basis, self.products)


def finite_products(operator: SymmetricOperator, rows: Tensor) -> Tensor:
    """Return A applied to each row (n, P), after checking that it is finite.

    Args:
        operator: The matrix A.
        rows: Vectors of shape (n, P).

    Returns:
        Products of shape (n, P).

    Raises:
        NonFiniteError: If a product contains NaN or infinity.
    """
    products = operator.matmat(rows.T).T
    if not bool(products.isfinite().all()):
        raise NonFiniteError("a matrix-vector product of a random vector holds NaN or infinity")
    return products


def extend_basis(operator: SymmetricOperator, sketch: Sketch, range_rows: Tensor) -> int:
    """Add the directions of products (n, P) of random vectors to the basis, in place, without their own products.

    Args:
        operator: The matrix A.
        sketch: Sketch that is extended.
        range_rows: Products of shape (n, P).

    Returns:
        Number of new directions; smaller than n only if the range is exhausted.
    """
    known = len(sketch.basis)
    basis = torch.cat([sketch.basis, torch.empty_like(range_rows)])
    triangle = torch.zeros(len(basis), sketch.triangle.shape[1] + len(range_rows), dtype=torch.float64)
    triangle[:known, : sketch.triangle.shape[1]] = sketch.triangle
    filled = known
    for column, product in enumerate(range_rows, sketch.triangle.shape[1]):
        rest = product.clone()
        sketch.scale = max(sketch.scale, norm(product))
        triangle[:filled, column] = orthogonalise(rest, basis[:filled]).double().cpu()
        remainder = norm(rest)
        if remainder <= BREAKDOWN_ROUNDINGS * torch.finfo(operator.dtype).eps * sketch.scale or filled == operator.dim:
            sketch.exhausted = True
            continue
        basis[filled] = rest / remainder
        triangle[filled, column] = remainder
        filled += 1
    sketch.basis, sketch.triangle = basis[:filled], triangle[:filled]
    return filled - known


def multiply_basis(operator: SymmetricOperator, sketch: Sketch) -> int:
    """Compute products of at most PROBE_BLOCK basis rows that have none yet, in place.

    Args:
        operator: The matrix A.
        sketch: Sketch whose products are completed.

    Returns:
        Number of products.
    """
    known = len(sketch.products)
    rows = sketch.basis[known : known + PROBE_BLOCK]
    sketch.products = torch.cat([sketch.products, finite_products(operator, rows)])
    return len(rows)
