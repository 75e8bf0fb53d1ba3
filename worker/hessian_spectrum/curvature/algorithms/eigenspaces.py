"""Overlap of the spaces of leading eigenvectors of two matrices, with bounds from residuals and gaps."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LeadingPairs:
    """Computed leading eigenpairs of a symmetric matrix.

    Attributes:
        eigenvalues: Eigenvalues (k,), in descending order.
        residuals: Norm of A v - lambda v of each pair (k,).
        vectors: Orthonormal eigenvectors in rows (k, P).
    """

    eigenvalues: NDArray[np.float64]
    residuals: NDArray[np.float64]
    vectors: NDArray[np.floating]


@dataclass(frozen=True)
class SpaceOverlap:
    """Overlap of the spaces of so many leading eigenvectors; `error` is None if the gap below them is not known."""

    size: int
    value: float
    error: float | None


def overlaps(first: LeadingPairs, second: LeadingPairs) -> list[SpaceOverlap]:
    """Overlap of the spaces U_j, V_j of the j leading eigenvectors of two matrices, for each j up to k.

    The overlap is tr(P Q) / j = ||U_j^T V_j||_F^2 / j, with the projectors P and Q: the mean squared cosine of the
    principal angles between the spaces. By the sin theta theorem a computed space is off by an angle whose sine is at
    most s = ||R||_F / gap, where R holds the residuals of its pairs and gap is the distance of its eigenvalues from
    all others. As |tr((P - P') Q)| <= j ||P - P'||_2, the overlap is off by at most s_1 + s_2.

    Args:
        first: Eigenpairs of one matrix.
        second: As many of the other.

    Returns:
        The overlaps, for j = 1 ... k; without an error where eigenvalue j + 1 was not computed.

    References:
        Davis and Kahan, The rotation of eigenvectors by a perturbation III, SIAM J. Numer. Anal. 7 (1970).
    """
    # in double precision: of float32 vectors the products are exact, the sums over P are not
    cosines = first.vectors.astype(np.float64) @ second.vectors.astype(np.float64).T
    found = []
    for size in range(1, len(first.eigenvalues) + 1):
        angles = [_angle(each, size) for each in (first, second)]
        error = None if None in angles else min(1.0, sum(angle for angle in angles if angle is not None))
        found.append(SpaceOverlap(size, float(np.sum(cosines[:size, :size] ** 2) / size), error))
    return found


def _angle(pairs: LeadingPairs, size: int) -> float | None:
    """Return a bound on the sine of the angle between a computed space and the exact one."""
    values, residuals = pairs.eigenvalues, pairs.residuals
    if size == len(values):
        return 0.0 if size == pairs.vectors.shape[1] else None
    gap = values[size - 1] - values[size] - residuals[size]
    norm = float(np.linalg.norm(residuals[:size]))
    return 1.0 if gap <= 0 else min(1.0, norm / float(gap))
