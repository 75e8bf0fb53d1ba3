"""The folded matrix (A - s)^2: its products, the state of a search in it, and the way back to eigenpairs of A."""

import math
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from hessian_spectrum.curvature.algorithms.ritz import RitzPairs
from hessian_spectrum.curvature.algorithms.subspace import LIMIT_SHARE, SubspaceState
from hessian_spectrum.curvature.linear_algebra import SymmetricOperator, gram, norm, orthogonalise, rotate
from hessian_spectrum.curvature.serialization import UsedPart, serializable

FOLDED_ERRORS = 2
"""Errors of a product with A in one with (A - s)^2, relative to the norms of A - s and its square."""

LEAST_REMAINDER = 1e-2
"""Smallest part of a residual outside the rows before it that adds a direction of its own."""

LARGEST_REST = 0.5
"""Largest part of a residual's product outside the space, relative to the residual, with which it belongs there."""


class FoldedOperator(SymmetricOperator):
    """The matrix ((A - s) / c)^2, with two products with A in each of its own.

    Args:
        operator: The matrix A.
        target: s, in units of A.
        unit: c, in units of A: squares of the numbers of A themselves may overflow.
    """

    def __init__(self, operator: SymmetricOperator, target: float, *, unit: float) -> None:
        self._operator, self._target, self._unit = operator, target, unit

    @property
    def dim(self) -> int:
        """Number P of rows."""
        return self._operator.dim

    @property
    def dtype(self) -> torch.dtype:
        """Precision of vectors and products."""
        return self._operator.dtype

    @property
    def device(self) -> torch.device:
        """Device of the vectors."""
        return self._operator.device

    @property
    def product_error(self) -> float:
        """Bound on the error of products relative to the norm, where |s| is not much larger than ||A - s||."""
        return FOLDED_ERRORS * self._operator.product_error

    @property
    def unreduced(self) -> SymmetricOperator:
        """This matrix with products entirely in the precision of the vectors."""
        exact = self._operator.unreduced
        return self if exact is self._operator else FoldedOperator(exact, self._target, unit=self._unit)

    def matvec(self, vector: Tensor) -> Tensor:
        """Return ((A - s) / c)^2 v (P,)."""
        return self.matmat(vector.unsqueeze(1)).squeeze(1)

    def matmat(self, matrix: Tensor) -> Tensor:
        """Return ((A - s) / c)^2 V (P, k)."""
        return self._shifted(self._shifted(matrix))

    def _shifted(self, matrix: Tensor) -> Tensor:
        # the operator may have returned its argument
        return self._operator.matmat(matrix).sub(matrix, alpha=self._target).div_(self._unit)


@serializable(basis=UsedPart(0, "num_rows"))
@dataclass(kw_only=True)
class FoldedState(SubspaceState):
    """A search for the smallest eigenvalues d^2 of the folded matrix, whose tolerances are those of distances d."""

    unit: float  # c of the folded matrix; tolerances and values below are in this unit

    @property
    def needs_locking(self) -> bool:
        """Whether one run is not sufficient: it shows one eigenvector of s + d and s - d, and no others."""
        return True

    @property
    def distance_tolerance(self) -> float:
        """Tolerance t of distances: relative to the root of the largest product so far, or absolute."""
        return max(self.tolerance * math.sqrt(self.scale), self.absolute_tolerance)

    def tolerances(self, values: Tensor) -> Tensor:
        """Tolerances of squares d^2 (k,): d^2 - (d - t)^2, and t^2 for distances within the tolerance."""
        allowed = self.distance_tolerance
        return allowed * (2 * values.clamp(min=0).sqrt() - allowed).clamp(min=allowed)

    def relevant_residuals(self, values: Tensor, residuals: Tensor) -> Tensor:
        """Return the residuals (k,) of squares d^2 (k,), or zeros if all distances are within the tolerance.

        Then ||(A - s) x|| = d is a bound on the residual with A, whatever that with the folded matrix is.
        """
        # half of the square of the tolerance is what a missed eigenvalue may be better by, unnoticed
        is_near = bool((values <= LIMIT_SHARE * self.distance_tolerance**2).all())
        return torch.zeros_like(residuals) if is_near else residuals

    def excludes(self, active: RitzPairs, point: float, side: int) -> bool:
        """Return whether the complement has no eigenvalue at or below a point; no square is negative."""
        return point < 0 or super().excludes(active, point, side)

    def ends_of_rest(self) -> list[float]:
        """Return a point below which the complement has no eigenvalue, in a list; no square is negative."""
        return [max(point, 0.0) for point in super().ends_of_rest()]


@dataclass(frozen=True)
class UnfoldedPairs:
    """Ritz pairs of A by their distance from a target; in units of A."""

    values: Tensor  # (k,) float64, on the CPU
    residuals: Tensor  # (k,) ||A x - value x||, float64, on the CPU
    vectors: Tensor  # (k, P) orthonormal rows
    num_products: int


def unfold(operator: SymmetricOperator, rows: npt.NDArray[Any], target: float, *, goal: float) -> UnfoldedPairs:
    """Return Ritz pairs of A from the eigenvectors of the folded matrix.

    If (A - s)^2 x = d^2 x, the space of x and (A - s) x is invariant. A residual that is too large is therefore a
    direction in which the vector can be taken apart into those of s + d and s - d.

    Args:
        operator: The matrix A.
        rows: Orthonormal rows (k, P).
        target: s, in units of A.
        goal: Residual above which a vector is taken apart, in units of A.

    Returns:
        As many pairs as there are rows: those with the smallest ||(A - s) x||.
    """
    count = len(rows)
    buffer = torch.empty(2 * count, operator.dim, dtype=operator.dtype, device=operator.device)
    products = torch.empty_like(buffer)
    buffer[:count] = torch.from_numpy(rows)
    _multiply(operator, buffer[:count], products[:count])
    values, residuals = _rayleigh_ritz(buffer[:count], products[:count])
    origins = _append_residuals(buffer, products, values, worst=residuals > goal)
    stop = count + len(origins)
    _multiply(operator, buffer[count:stop], products[count:stop])
    kept = count
    for row, index in enumerate(origins, count):
        rest = products[row].clone()
        orthogonalise(rest, buffer[:stop])
        # elsewhere the vector has not converged, and Ritz vectors of A in the larger space may be worse
        if norm(rest) <= LARGEST_REST * residuals[index]:
            buffer[kept], products[kept] = buffer[row].clone(), products[row].clone()
            kept += 1
    if kept > count:
        values, residuals = _rayleigh_ritz(buffer[:kept], products[:kept])
    distances = (values - target).abs()
    chosen = torch.hypot(distances, residuals).argsort(stable=True)[:count]
    chosen = chosen[distances[chosen].argsort(stable=True)]
    return UnfoldedPairs(values[chosen], residuals[chosen], buffer[chosen.to(buffer.device)], stop)


def _append_residuals(buffer: Tensor, products: Tensor, values: Tensor, *, worst: Tensor) -> list[int]:
    """Append to k orthonormal rows the directions of the worst residuals, orthonormalised.

    Args:
        buffer: The rows, with room for as many.
        products: Their products with A.
        values: Their Ritz values (k,).
        worst: Which residuals (k,) to append.

    Returns:
        The row of each residual.
    """
    count = len(values)
    origins: list[int] = []
    for index in worst.nonzero().flatten().tolist():
        rest = products[index] - float(values[index]) * buffer[index]
        rest /= norm(rest)
        known = buffer[: count + len(origins)]
        orthogonalise(rest, known)
        remainder = norm(rest)
        if remainder > LEAST_REMAINDER:
            rest /= remainder
            orthogonalise(rest, known)
            buffer[count + len(origins)] = rest / norm(rest)
            origins.append(index)
    return origins


def _multiply(operator: SymmetricOperator, rows: Tensor, products: Tensor) -> None:
    """Write the products (r, P) of rows (r, P)."""
    if len(rows):
        products.copy_(operator.matmat(rows.T).T)


def _rayleigh_ritz(rows: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Turn orthonormal rows (r, P) and their products into Ritz vectors, in place; return values and residuals (r,)."""
    unit = max(norm(product) for product in products) or 1.0
    projection = gram(rows, products / unit)
    values, rotation = torch.linalg.eigh((projection + projection.T) / 2)
    rotate(rows, rotation)
    rotate(products, rotation)
    values = values * unit
    rests = (norm(product - float(value) * row) for value, row, product in zip(values, rows, products, strict=True))
    return values, torch.tensor(list(rests), dtype=torch.float64)
