"""Bounds on what a run from random vectors has missed: the end of a spectrum, with a stated probability of error.

Let u be the unit eigenvector of the largest eigenvalue l of A, and X the orthonormal block of random vectors with which
a Krylov run began. After any number of steps A V = V T + Q C, so that V^T u = (l - T)^-1 C^T Q^T u, and the part of u
in X, whose probability of being small is known, is

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
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

GRID_POINTS = 12  # beyond the point in question at which a bound must hold, too: of a block it need not be monotonous
BISECTIONS = 60


def overlap_of_block(dim: int, count: int, chance: float) -> float:
    """Lower bound on |X^T u|, for a fixed unit vector u and an orthonormal random X (dim, count).

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
    """Lower bound on |X^T u| with this probability of error, if the columns of X are independent unit vectors."""
    dim = max(dim, 3)  # as above
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
        """Bound on |X^T u| / |Q^T u| for an eigenvalue at `point`."""
        total: Tensor | None = None
        for values, starts, couplings in zip(self._values, self._starts, self._couplings, strict=True):
            factor = starts.T @ (couplings / (point - values).unsqueeze(1))
            total = factor if total is None else total @ factor
        assert total is not None
        return float(torch.linalg.matrix_norm(total, 2)) if bool(total.isfinite().all()) else math.inf


def stage(values: Tensor, starts: Tensor, couplings: Tensor, rows: int, block: int) -> Tensor:
    """One part of `Stages` (rows, 1 + 2 block), for values (n,), starts (n, p) and couplings (n, q)."""
    part = torch.zeros(rows, 1 + 2 * block, dtype=torch.float64)
    part[:, 0] = math.inf
    part[: len(values), 0] = values
    part[: len(values), 1 : 1 + starts.shape[1]] = starts
    part[: len(values), 1 + block : 1 + block + couplings.shape[1]] = couplings
    return part


def excludes(bound: Callable[[float], float], overlap: float, point: float, end: float, side: int) -> bool:
    """Whether there is no eigenvalue at `point` or beyond it.

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


def end_of_spectrum(bound: Callable[[float], float], overlap: float, end: float, unit: float, side: int) -> float:
    """A point beyond which there is no eigenvalue.

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
    while not excludes(bound, overlap, end + side * far, end, side):
        far *= 4
        if not far < 1e60 * unit or not math.isfinite(end + far):
            return side * math.inf
    near = 0.0
    for _ in range(BISECTIONS):
        # by orders of magnitude first: the distance may be a rounding of the width
        middle = math.sqrt(near) * math.sqrt(far) if near > 0 else far / 1024
        if middle < 1e-18 * unit or not near < middle < far:
            break
        near, far = (near, middle) if excludes(bound, overlap, end + side * middle, end, side) else (middle, far)
    return end + side * far


def _beyond(point: float, end: float) -> Iterator[float]:
    distance = point - end
    for step in range(GRID_POINTS):
        yield end + distance * 2.0 ** (step / 2)


def bounds_from_above(values: Tensor, norms: Tensor, rest: float, count: int) -> Tensor:
    """Upper bounds on the `count` largest eigenvalues of A, descending (count,).

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
    """The largest `rest` for which the bound on each value exceeds it by at most its slack (n,)."""
    return values + slack - norms * (norms / slack)


def spread(residuals: Tensor) -> Tensor:
    """Norms (n,) whose squares, on a diagonal, are at least R^T R for all R with columns as long as `residuals`.

    By the Cauchy-Schwarz inequality |R x|^2 <= (sum_i r_i |x_i|)^2 <= sum_i r_i * sum_i r_i x_i^2.

    Args:
        residuals: Lengths r_i of the columns of R, of shape (n,).

    Returns:
        The norms.
    """
    return residuals.sqrt() * residuals.sum().sqrt()
