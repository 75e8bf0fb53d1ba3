"""Ritz values: pairs of a subspace, Gauss quadrature of a Lanczos run, and bounds on the eigenvalues that it missed.

The bounds hold with a stated probability of error. Let u be the unit eigenvector of the largest eigenvalue l of A, and
X the orthonormal block of random vectors with which a Krylov run began. After any number of steps A V = V T + Q C, so
that V^T u = (l - T)^-1 C^T Q^T u, and the part of u in X, whose probability of being small is known, is

    X^T u = F(l) Q^T u,   F(l) = sum_i s_i c_i^T / (l - t_i),

with the Ritz values t_i, the rows s_i of their vectors that belong to X, and their couplings c_i to Q. F falls with the
distance of l from the Ritz values as the polynomial of the run does: if |F(l)| is below the lower bound of |X^T u|,
there is no such l. Thick restarts keep Q, so that a run with restarts has the product of such functions. None of this
depends on the spectrum, or on convergence of the run. Rounding errors act as further random excitations, which make no
component smaller than it would have been.

References:
    van Dorsselaer, Hochstenbach & van der Vorst, SIAM J. Matrix Anal. Appl. 22 (2000) 837-852, for one vector.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hessian_spectrum.curvature.serialization import serializable
from hessian_spectrum.quadrature.errors import NonFiniteError
from hessian_spectrum.quadrature.results import Interval, Quadrature, Reorthogonalisation, RitzValue

Which: TypeAlias = Literal["largest", "smallest", "both-ends", "magnitude"]

GHOST_FACTOR = 2.5
"""Factor of residuals without orthogonality, where a Ritz vector may be shorter than 1."""

MISS_PROBABILITY = 0.025
"""Probability that the end of a spectrum lies beyond its interval."""

UNBOUNDED = "There are too few steps to bound the eigenvalues that the probes missed."

GRID_POINTS = 12  # beyond the point in question at which a bound must hold, too: of a block it need not be monotonous
BISECTIONS = 60


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


@serializable()
@dataclass(frozen=True, eq=False, kw_only=True)
class Tridiagonal:
    """T (m, m) of A Q = Q T + remainder q e_m^T; T = Q^T A Q with full reorthogonalisation."""

    diagonal: Tensor  # (m,) float64, on the CPU, in units of A
    off_diagonal: Tensor  # (m - 1,) float64, on the CPU, >= 0, in units of A
    remainder: float  # ||A Q - Q T||, all of it in the last column; 0 for an invariant subspace
    scale: float  # largest ||A q_j||, a lower bound of ||A||


def node_error(matrix: Tridiagonal, product_error: float, reorthogonalisation: Reorthogonalisation) -> float:
    """Return the largest error of a node due to products, in units of A: product_error times the known norm of A.

    Eigenvalues that are closer than this to each other, or to zero, are not resolved, even if Lanczos stopped because
    only rounding was left. Without reorthogonalisation the displacement grows like the root of the number of steps.

    Args:
        matrix: Tridiagonal matrix of a probe.
        product_error: ||A' v - A v|| / ||A|| of unit vectors v.
        reorthogonalisation: Whether the Lanczos vectors were reorthogonalised.

    Returns:
        The displacement, in units of A.

    References:
        Paige, Linear Algebra Appl. 34 (1980) 235-258.
    """
    growth = 1.0 if reorthogonalisation == "full" else math.sqrt(len(matrix.diagonal))
    return product_error * growth * max(matrix.scale, float(matrix.diagonal.abs().max()))


def gauss_quadrature(matrix: Tridiagonal, node_error: float = 0.0) -> Quadrature:
    """Return the nodes and weights of the spectral measure that Lanczos saw.

    For T = S diag(nodes) S^T and weights S[0]**2:  v^T p(H) v = sum(weights * p(nodes)) for every polynomial p of
    degree < 2m. Residuals are remainder * S[-1], signed so that S[0] >= 0.

    Args:
        matrix: Tridiagonal matrix T of a probe.
        node_error: Largest displacement of a node by errors of the products, in units of A.

    Returns:
        Nodes (m,) ascending and residuals (m,), in units of A; weights (m,), dimensionless, of sum 1.

    Raises:
        NonFiniteError: If the tridiagonal matrix contains NaN or infinity.

    References:
        Golub & Welsch, Math. Comp. 23 (1969) 221-230.
    """
    nodes, vectors = _eigenpairs(matrix)
    signs = torch.where(vectors[0] < 0, -1.0, 1.0)
    residuals = matrix.remainder * vectors[-1] * signs
    return Quadrature(nodes.numpy(), vectors[0].square().numpy(), residuals.numpy(), node_error)


def extreme_ritz_values(
    quadratures: Sequence[Quadrature],
    scales: Sequence[float],
    *,
    product_error: float,
    reorthogonalisation: Reorthogonalisation,
    dim: int,
) -> tuple[RitzValue, RitzValue]:
    """Return the smallest and largest Ritz value over all probes.

    The residual of a Ritz value is that of its node, plus the error of products as far as the norm of A is known,
    because no product is more accurate, converged or not. Without reorthogonalisation it is 2.5 times as large and the
    error grows like the root of the number of steps. A ghost is a copy, so an extreme value is never a wrong one.

    A residual concerns the nearest eigenvalue. The end of the spectrum is beyond the Ritz value, but only as far as all
    random probes together can have missed its eigenvector with a probability of 2.5 %.

    Args:
        quadratures: Quadratures of independent probes, uniform on the sphere, with residuals.
        scales: Largest ||A q|| of each probe.
        product_error: Error of the products, relative to ||A||.
        reorthogonalisation: Whether the Lanczos vectors were reorthogonalised.
        dim: Number of parameters P.

    Returns:
        Smallest and largest Ritz value.

    References:
        Paige, Linear Algebra Appl. 34 (1980) 235-258, for the factor 2.5.
    """
    floors = []
    for quadrature, scale in zip(quadratures, scales, strict=True):
        growth = 1.0 if reorthogonalisation == "full" else math.sqrt(len(quadrature.nodes))
        floors.append(product_error * max(scale, float(abs(quadrature.nodes).max())) * growth)
    factor = 1.0 if reorthogonalisation == "full" else GHOST_FACTOR
    return _extreme(quadratures, floors, factor, dim, -1), _extreme(quadratures, floors, factor, dim, 1)


def _extreme(
    quadratures: Sequence[Quadrature], floors: Sequence[float], factor: float, dim: int, side: int
) -> RitzValue:
    """Return the last Ritz value on one side; `floors` are the errors of the probes' products, in units of A."""
    index = -1 if side > 0 else 0
    best = max(range(len(quadratures)), key=lambda probe: side * float(quadratures[probe].nodes[index]))
    value = float(quadratures[best].nodes[index])
    residuals = quadratures[best].residuals
    assert residuals is not None
    near, far = value - side * floors[best], _end(quadratures, floors, value, dim, side) + side * max(floors)
    if not math.isfinite(far):
        known = Interval(near, None, UNBOUNDED) if side > 0 else Interval(None, near, UNBOUNDED)
    else:
        known = Interval(min(near, far), max(near, far))
    return RitzValue(value, factor * abs(float(residuals[index])) + floors[best], known)


def _end(quadratures: Sequence[Quadrature], floors: Sequence[float], value: float, dim: int, side: int) -> float:
    """Return a point beyond which there is no eigenvalue, with a probability of 97.5 %."""
    parts, unit = [], 0.0
    for rule, floor in zip(quadratures, floors, strict=True):
        assert rule.residuals is not None
        factors = np.sqrt(rule.weights) * rule.residuals
        # an invariant subspace is closed except for what was taken for rounding
        parts.append((rule.nodes, factors, 0.0 if factors.any() else floor))
        unit = max(unit, float(np.ptp(rule.nodes)), float(abs(rule.nodes).max()), float(abs(factors).sum()))

    def presence(point: float) -> float:
        """Return a bound on the part of an eigenvector with this eigenvalue in all probes together."""
        shares = ((factors / (point - nodes)).sum() + dropped / (point - value) for nodes, factors, dropped in parts)
        return math.hypot(*map(float, shares))

    overlap = overlap_of_probes(dim, len(quadratures), MISS_PROBABILITY)
    return end_of_spectrum(presence, overlap, end=value, unit=unit, side=side)


def _eigenpairs(matrix: Tridiagonal) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues (m,) ascending and eigenvectors (m, m), in columns, of T."""
    diagonal, off = matrix.diagonal, matrix.off_diagonal
    dense = torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)
    if not bool(dense.isfinite().all()):
        raise NonFiniteError("the tridiagonal matrix holds NaN or infinity")
    values, vectors = torch.linalg.eigh(dense)
    return values, vectors


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


def overlap_of_probes(dim: int, count: int, chance: float) -> float:
    """Return a lower bound on |X^T u| with this error probability, if the columns of X are independent unit vectors."""
    dim = max(dim, 3)  # the density is not bounded below 3 dimensions, as in `overlap_of_block`
    of_one = math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2)
    return math.exp((math.log(chance) + math.lgamma(count / 2 + 1)) / count - of_one)


class Stages:
    """The functions F of a run from random vectors, one for each part between restarts, the current one last.

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


def excludes(bound: Callable[[float], float], overlap: float, *, point: float, end: float, side: int) -> bool:
    """Return whether there is no eigenvalue at `point` or beyond it.

    Args:
        bound: Returns a bound on |X^T u| for an eigenvalue at a point beyond all Ritz values.
        overlap: Lower bound on |X^T u|.
        point: Point to check.
        end: The last Ritz value on this side.
        side: 1 for the upper end of the spectrum, -1 for the lower one.

    Returns:
        Whether eigenvalues are excluded.
    """
    if not side * (point - end) > 0:
        return False
    return all(bound(each) <= overlap for each in _beyond(point, end))


def end_of_spectrum(bound: Callable[[float], float], overlap: float, *, end: float, unit: float, side: int) -> float:
    """Return a point beyond which there is no eigenvalue.

    Args:
        bound: Returns a bound on |X^T u| for an eigenvalue at a point beyond all Ritz values.
        overlap: Lower bound on |X^T u|.
        end: The last Ritz value on this side.
        unit: Scale of Ritz values and couplings; 0 if all of them are 0.
        side: 1 for the upper end of the spectrum, -1 for the lower one.

    Returns:
        The point; infinite if nothing is known.
    """
    if unit == 0:
        return end
    far = unit
    while not excludes(bound, overlap, point=end + side * far, end=end, side=side):
        far *= 4
        if not far < 1e60 * unit or not math.isfinite(end + far):
            return side * math.inf
    near = 0.0
    for _ in range(BISECTIONS):
        # geometric means: the distance may be as small as a rounding error of the width
        middle = math.sqrt(near) * math.sqrt(far) if near > 0 else far / 1024
        if middle < 1e-18 * unit or not near < middle < far:
            break
        near, far = (
            (near, middle) if excludes(bound, overlap, point=end + side * middle, end=end, side=side) else (middle, far)
        )
    return end + side * far


def _beyond(point: float, end: float) -> Iterator[float]:
    distance = point - end
    for step in range(GRID_POINTS):
        yield end + distance * 2.0 ** (step / 2)


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
