"""Ritz pairs of a subspace, and what they tell of eigenvalues that the random vectors of a run with restarts missed."""

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Which: TypeAlias = Literal["largest", "smallest", "both-ends", "magnitude"]


class RitzPairs(NamedTuple):
    """Eigenpairs of the projected matrix; float64, on the CPU."""

    values: Tensor  # (n,) ascending, in units of A
    vectors: Tensor  # (n, n) in columns, in terms of the basis
    residuals: Tensor  # (n,) in units of A, without the rounding of products
    defects: Tensor  # (n,) the part of the residuals that comes from locked rows
    couplings: Tensor  # (n, pending) of the residuals to pending rows, in units of A


def ritz_pairs(projection: Tensor, *, num_processed: int, num_rows: int, defects: Tensor, scale: float) -> RitzPairs:
    """Rayleigh-Ritz on the first n = num_processed rows of a basis.

    The residual of a Ritz vector s is the norm of two parts: ||C s||, with C the couplings to pending rows, and the
    root of the sum of (s_j defect_j)^2, because the remainders of the products of different locked rows have different
    directions.

    Args:
        projection: Projected matrix of shape (rows, rows), of which the upper triangle and the pending rows below it
            are read.
        num_processed: Number n of rows whose products are known.
        num_rows: Number of rows of the basis.
        defects: Norms of the remainders of the products, of shape (rows,), in units of A.
        scale: Largest norm of a product.

    Returns:
        The Ritz pairs.
    """
    unit = scale if scale > 0 else 1.0  # squares of the numbers themselves may overflow
    n = num_processed
    # an entry of the upper triangle was measured when its later row was multiplied: against all rows before
    upper = projection[:n, :n].triu() / unit
    values, vectors = torch.linalg.eigh(upper, UPLO="U")
    coupling = projection[n:num_rows, :n] / unit @ vectors
    inherited = ((defects[:n] / unit).square() @ vectors.square()).sqrt()
    residuals = torch.hypot(torch.linalg.vector_norm(coupling, dim=0), inherited)
    return RitzPairs(values * unit, vectors, residuals * unit, inherited * unit, coupling.T * unit)


def order(values: Tensor, which: Which) -> Tensor:
    """Return indices (n,) of ascending values (n,), in order of preference; "both-ends" alternates between the ends."""
    ascending = torch.arange(len(values))
    if which == "smallest":
        return ascending
    if which == "largest":
        return ascending.flip(0)
    if which == "magnitude":
        return values.abs().argsort(descending=True, stable=True)
    return torch.stack([ascending.flip(0), ascending], dim=1).flatten()[: len(values)]


def overlap_of_block(dim: int, count: int, chance: float) -> float:
    """Return a lower bound on |X^T u|, for a fixed unit vector u and an orthonormal random X (dim, count).

    |X^T u|^2 is beta distributed, and below y with a probability of at most y^(count/2) Gamma(dim/2) / (Gamma(count/2 +
    1) Gamma((dim - count)/2)).

    Args:
        dim: Dimension of the space.
        count: Number of columns of X.
        chance: Largest probability of being below the bound.

    Returns:
        The bound.
    """
    if count >= dim:
        return 1.0
    if dim - count < 2:  # the density is not bounded; with one dimension more the chance is larger
        return overlap_of_block(dim + 1, count, chance)
    volume = math.lgamma(count / 2 + 1) + math.lgamma((dim - count) / 2) - math.lgamma(dim / 2)
    return math.exp((math.log(chance) + volume) / count)


class Stages:
    """The functions F of a run from random vectors, one for each part between restarts, the current one last.

    The module `quadrature.estimates` defines them.

    Args:
        parts: Array of shape (num_stages, rows, 1 + 2 block): Ritz values (infinite where there are fewer), followed by
            columns with s and c of each, zero where the block is smaller.
    """

    def __init__(self, parts: Tensor) -> None:
        self._values = parts[..., 0]
        block = (parts.shape[2] - 1) // 2
        self._starts, self._couplings = parts[..., 1 : 1 + block], parts[..., 1 + block :]

    def __call__(self, point: float) -> float:
        """Return a bound on |X^T u| / |Q^T u| for an eigenvalue at `point`."""
        total: Tensor | None = None
        for values, starts, couplings in zip(self._values, self._starts, self._couplings, strict=True):
            factor = starts.T @ (couplings / (point - values).unsqueeze(1))
            total = factor if total is None else total @ factor
        assert total is not None
        return float(torch.linalg.matrix_norm(total, 2)) if bool(total.isfinite().all()) else math.inf


def stage(values: Tensor, starts: Tensor, couplings: Tensor, *, rows: int, block: int) -> Tensor:
    """Return a part of `Stages` (rows, 1 + 2 block), for values (n,), starts (n, p) and couplings (n, q)."""
    part = torch.zeros(rows, 1 + 2 * block, dtype=torch.float64)
    part[:, 0] = math.inf
    part[: len(values), 0] = values
    part[: len(values), 1 : 1 + starts.shape[1]] = starts
    part[: len(values), 1 + block : 1 + block + couplings.shape[1]] = couplings
    return part


def bounds_from_above(values: Tensor, norms: Tensor, *, rest: float, count: int) -> Tensor:
    """Return upper bounds on the `count` largest eigenvalues of A, descending (count,).

    In a basis of n orthonormal vectors Y and of their orthogonal complement A is [[diag(values), R^T], [R, B]], where B
    is at most `rest`. R^T R is at most the square of diag(norms) (see `spread`), so that the bounds are the larger
    eigenvalues of the 2 x 2 problems [[value, norm], [norm, rest]].

    Args:
        values: Diagonal of the first block, of shape (n,).
        norms: Norms of `spread`, of shape (n,).
        rest: Upper bound of B.
        count: Number of bounds.

    Returns:
        The bounds.

    References:
        Haynsworth, Linear Algebra Appl. 1 (1968) 73-81, for the inertia of the Schur complement of B.
    """
    if not math.isfinite(rest):
        return torch.full((count,), math.inf, dtype=torch.float64)
    half = (values - rest) / 2
    correction = torch.where(norms > 0, norms * (norms / (torch.hypot(half, norms) + half.abs())), 0.0)
    bounds = (values.clamp(min=rest) + correction).sort(descending=True).values[:count]
    return torch.cat([bounds, torch.full((count - len(bounds),), rest, dtype=torch.float64)])


def largest_rest(values: Tensor, norms: Tensor, slack: Tensor) -> Tensor:
    """Return the largest `rest` for which the bound on each value exceeds it by at most its slack (n,)."""
    return values + slack - norms * (norms / slack)


def spread(residuals: Tensor) -> Tensor:
    """Return norms (n,) whose squares, on a diagonal, are at least R^T R for all R with columns as long as `residuals`.

    By the Cauchy-Schwarz inequality |R x|^2 <= (sum_i r_i |x_i|)^2 <= sum_i r_i * sum_i r_i x_i^2.

    Args:
        residuals: Lengths r_i of the columns of R, of shape (n,).

    Returns:
        The norms.
    """
    return residuals.sqrt() * residuals.sum().sqrt()
